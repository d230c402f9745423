"""Results and their tables: the schema, formats, pivots, corrections of p-values, and what each page shows."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
import synthetic
import tables
import torch
from _lib import pivots
from _lib.effects import add_means
from _lib.numbers import BY_USERS, NUMBERS, of_pairs
from _lib.pairs import mean_of, nets_by_pair, outcomes_of
from _lib.results import (
    BLURRED,
    BY_HOSTS,
    COLUMNS,
    FOLDER,
    LABEL_FREE,
    METHOD_NAMES,
    SEVERAL,
    Results,
    decode,
    encode,
    parts_of,
    read_outcomes,
    read_parts,
    read_results,
    read_run,
    write_results,
)
from scipy import stats
from synthetic import interval_by_group

from edittools.rewriting import EDIT, RANDOM, rewrite_at_random
from edittools.site import prepare
from edittools_course.scenarios.synthetic import FINETUNING as FINETUNING_SETTINGS
from edittools_course.scenarios.synthetic import LEAST_SQUARES, CaseSettings

# --- the schema ---


def results_of(shares, metric="errors corrected", network="mini_vgg", split="target_test"):
    """Results with one share per method, and what a table of all experiments needs."""
    results = Results("snow", "MiniWorld")
    for method, share in shares.items():
        where = {"network": network, "method": method}
        results.add(metric, share, split=split, interval=[share - 0.1, share + 0.1], n=80, **where)
        results.add("errors before", 80, split="target_test", **where)
        results.add("accuracy change", -0.1, split="clean_test", **where)
    return results


def read_all():
    """Read the long tables of all runs as one; the column `run` has their names."""
    names = sorted(path.stem for path in FOLDER.glob("*.csv"))
    return pd.concat([read_results(name).assign(run=name) for name in names], ignore_index=True)


def table_of(results):
    return results.frame().assign(run="a_run")


def test_results_are_the_same_after_writing_and_reading(tmp_path):
    results = results_of({"edit": 0.1 + 0.2, "full rank": -1 / 3})
    results.add("share", float("nan"), method="edit", interval=[float("nan")] * 2)
    results.add("unknown", None)
    results.add_selected("features.10, α 1", "mini_vgg", "edit")
    results.add_outcomes([1, 1, 0, 0], [1, 0, 1, 0], method="edit", split="target_test")
    results.notes["constraints"] = "at most 0.25 points"
    results.seconds = 1.5
    write_results(tmp_path / "a.csv", results, "python a.py", "2026-11-28")
    pd.testing.assert_frame_equal(read_results("a", tmp_path), results.frame(), rtol=1e-9)
    assert "unknown" not in set(results.frame().metric)
    run = read_run("a", tmp_path)
    assert run["selected"] == [{"network": "mini_vgg", "method": "edit", "settings": "features.10, α 1"}]
    assert (run["command"], run["date"], run["seconds"]) == ("python a.py", "2026-11-28", 1.5)
    assert run["constraints"] == "at most 0.25 points"
    assert read_outcomes("a", tmp_path).outcomes.tolist() == ["x+-."]


def test_encode_tells_what_became_of_each_image():
    assert encode([1, 0, 1, 0], [0, 0, 1, 1]) == "+.x-"
    before, after = decode("+.x-")
    assert (before.tolist(), after.tolist()) == ([1, 0, 1, 0], [0, 0, 1, 1])


def test_stored_results_have_the_schema():
    table = read_all()
    assert list(table.columns) == [*COLUMNS, "run"]
    keys = ["run", *COLUMNS[:7]]
    assert not table.duplicated(keys).any()
    assert (table.low.isna() | ((table.low <= table.value + 1e-9) & (table.value <= table.high + 1e-9))).all()
    assert {path.stem for path in (FOLDER / "runs").glob("*.json")} == set(table.run)
    for run in set(table.run):
        assert {"command", "date", "selected"} <= set(read_run(run))


def test_one_method_has_one_name():
    """No name of a method is another's key or differs from it by punctuation alone."""
    known = {*METHOD_NAMES, *synthetic.METHODS.values(), ""}
    table = read_all()
    without_methods = table.experiment.isin(["probing", "calibration"])
    assert set(table[~without_methods].method) <= known


# --- formats and pivots ---


@pytest.mark.parametrize(
    ("look", "value", "text"),
    [
        (pivots.SHARE, 0.834, "83%"),
        (pivots.SHARE, -0.125, "−12%"),
        (pivots.SHARE, -0.004, "0%"),
        (pivots.PRECISE_SHARE, 0.0461, "4.6%"),
        (pivots.SIGNED_SHARE, 0.149, "+15%"),
        (pivots.CHANGE, -1.5, "−1.50"),
        (pivots.CHANGE, 0.0, "+0.00"),
        (pivots.CHANGE, -0.004, "+0.00"),
        (pivots.FINE_CHANGE, -0.0094, "−0.009"),
        (pivots.P_VALUE, 1e-9, "1e-09"),
        (pivots.RATIO, 58430.7, "58,431"),
    ],
)
def test_formats(look, value, text):
    assert look.value(value) == text


def test_cells_show_no_interval_below_ten_cases():
    results = Results("snow", "MiniWorld")
    for n in (9, 10, None):
        results.add("errors corrected", 0.5, method=str(n), split="target_test", interval=[0.4, 0.6], n=n)
    texts = pivots.cells(table_of(results), "errors corrected", "target_test")
    assert texts.to_dict() == {"9": "50%", "10": "50% [40, 60]", "None": "50% [40, 60]"}


def test_cells_of_undefined_and_missing_values():
    results = Results("snow", "MiniWorld")
    results.add("errors corrected", float("nan"), method="edit", split="target_test")
    results.add("candidates", 3, method="full rank")
    table = table_of(results)
    assert pivots.cells(table, "errors corrected", "target_test").to_dict() == {"edit": "–"}
    assert not len(pivots.cells(table, "unknown"))
    columns = {name: pivots.cells(table, name) for name in ("errors corrected", "candidates", "unknown")}
    text = pivots.markdown(columns, ["edit", "full rank"], rows="method")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert lines[0] == ["method", "errors corrected", "candidates"]
    assert lines[2:] == [["edit", "–", ""], ["full rank", "", "3"]]


def test_cells_of_two_splits_are_refused():
    results = Results("snow", "MiniWorld")
    for split in ("clean", "clean_test"):
        results.add("accuracy change", 0.0, method="edit", split=split)
    with pytest.raises(ValueError, match="clean_test"):
        pivots.cells(table_of(results), "accuracy change")


# --- the pages ---


def test_page_tables_match_results():
    pages = tables.pages()
    named = {name for text in pages.values() for name in re.findall("<!-- table: (.*) -->", text)}
    assert named == {*tables.TABLES, *tables.QUESTIONS}
    numbers = {name for text in pages.values() for name in re.findall(r"<!-- number: (\w+) -->", text)}
    assert numbers == set(NUMBERS)
    for path, text in pages.items():
        assert path.read_text() == text, path.name


def test_numbers_in_the_text_follow_from_the_outcomes_of_images():
    """The mean over pairs that README names, from the images of each pair."""
    stored = of_pairs("gate", BY_HOSTS, "target_test", "errors corrected", BY_USERS)
    nets = nets_by_pair(outcomes_of("gate", BY_HOSTS))
    assert sorted(nets) == pytest.approx(sorted(stored))
    assert f"{np.mean(nets):.0%}" == NUMBERS["gate_edit"]()


@pytest.mark.parametrize("run", ["gate", "learned_shortcut"])
def test_photos_of_the_marks_class_are_where_the_counts_of_classes_say(run):
    """The errors without the mark there are those of the photos of the mark's class, of which the gate has more."""
    rows = read_outcomes(run)
    rows = rows[rows.method == BY_HOSTS]
    of_split = dict(zip(rows.network + ", " + rows.split, rows.outcomes, strict=True))
    for name, outcomes in of_split.items():
        network, split, case = name.split(", ", 2)
        if split != "clean_test":
            continue
        mark = case.split(", ")[0]
        [others] = {tuple(one.photos) for one in outcomes_of(run, BY_HOSTS, network) if one.mark == mark}
        is_own = ~np.isin(np.arange(len(outcomes)), others)
        own = of_split[f"{network}, own class unmarked, {case}"]
        assert "".join(np.array(list(outcomes))[is_own]) == (own[::2] if run == "gate" else own)


def test_interval_over_photos_is_that_of_resampled_photos():
    means = [mean_of(outcomes_of("gate", method)) for method in (BY_HOSTS, LABEL_FREE)]
    difference = means[1].minus(means[0])
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(400):
        counts = np.bincount(generator.integers(500, size=500), minlength=500)
        nets = []
        for method in (BY_HOSTS, LABEL_FREE):
            of_pairs = []
            for one in outcomes_of("gate", method):
                weights = counts[one.photos]
                of_pairs.append((weights @ one.before - weights @ one.after) / (weights @ one.before))
            nets.append(np.mean(of_pairs))
        draws.append(nets[1] - nets[0])
    assert difference.value == pytest.approx(means[1].value - means[0].value)
    assert difference.interval == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.006)


def test_every_stored_run_is_in_a_table():
    shown = {part for name in tables.TABLES for part in parts_of(name)}
    assert shown == {path.stem for path in FOLDER.glob("*.csv")}


@pytest.mark.parametrize("run", ["handwriting", "snow_mini", "typographic_mini", "watermark"])
@pytest.mark.parametrize("method", [BY_HOSTS, LABEL_FREE])
def test_means_follow_from_the_outcomes_of_images(run, method):
    of_images = read_outcomes(run)
    of_images = of_images[of_images.method == method]
    nets = {}
    changes = {}
    for row in of_images.itertuples():
        split, *condition = row.split.split(", ")
        case = (row.network, condition[0])
        gained = row.outcomes.count("+") - row.outcomes.count("-")
        if split == "target_test":
            nets[case] = gained / (row.outcomes.count("+") + row.outcomes.count("x"))
        if split == "clean_test":
            changes[case] = 100 * gained / len(row.outcomes)
    table = read_results(run)
    is_mean = (table.network == "all") & (table.method == method) & (table.condition == "")
    stored = table[is_mean].set_index(["split", "metric"]).value
    assert stored["target_test", "errors corrected"] == pytest.approx(np.mean(list(nets.values())), abs=1e-8)
    assert stored["clean_test", "accuracy change"] == pytest.approx(np.mean(list(changes.values())), abs=1e-8)


def test_parts_of_an_experiment_are_read_as_one_table(tmp_path):
    for name, share in {"snow": 0.1, "snow_mini": 0.2, "snow_mini_draws": 0.3, "snowman": 0.9}.items():
        write_results(tmp_path / f"{name}.csv", results_of({"edit": share}), "python a.py", "2026-11-28")
    table = read_parts("snow", tmp_path)
    shares = table[table.metric == "errors corrected"].set_index("part").value
    assert shares.to_dict() == {"": 0.1, "mini": 0.2, "mini_draws": 0.3}
    with pytest.raises(FileNotFoundError, match="watermark"):
        read_parts("watermark", tmp_path)


# --- contests ---

WRONG = {"before": [1, 1, 1, 1, 0], "half": [1, 1, 0, 0, 0], "all": [0, 0, 0, 0, 0], "worse": [1, 1, 1, 1, 1]}


def contest_row(method, after, network="net", case="a", run=""):
    """What was selected for a method, and what it does to the same five images with and without the concept."""
    sets = {"target_test": [WRONG["before"], WRONG[after]], "clean_test": [[0] * 5, [0, 0, 0, 0, 1]]}
    sets["retain_test"] = [[0, 1], [1, 1]]
    row = {"network": network, "case": case, "run": run, "method": method, "sets": sets}
    return {**row, "settings": "some", "candidates": 2, "seconds": 1.5}


def contest_table(rows):
    results = Results("snow", "photos")
    add_means(results, pd.DataFrame(rows).assign(condition=""), BY_HOSTS)
    return results.frame().assign(run="a_run")


def test_means_are_over_cases_whose_runs_are_averaged_first():
    after = {("net", "a"): ["half", "all"], ("net", "b"): ["all", "all"], ("other", "a"): ["worse"]}
    after |= {("other", "b"): ["all", "all"], ("other", "c"): ["half", "half"]}
    rows = []
    for (network, case), of_runs in after.items():
        rows += [contest_row(EDIT, one, network, case, f"seed {seed}") for seed, one in enumerate(of_runs)]
    table = contest_table([*rows, contest_row(RANDOM, "half", run="draw 0")])
    of_edit = table[(table.method == EDIT) & (table.split == "target_test")]
    corrected = of_edit[of_edit.network == "all"].set_index("metric").loc["errors corrected"]
    expected = stats.ttest_1samp([0.75, 1.0, -0.25, 1.0, 0.5], 0).confidence_interval()
    assert corrected.value == pytest.approx(0.6)
    assert (corrected.low, corrected.high) == pytest.approx((expected.low, expected.high))
    assert of_edit[of_edit.network != "all"].low.isna().all()  # of so few cases
    of_network = of_edit[of_edit.network == "net"].set_index(["condition", "metric"]).value
    assert of_network["", "errors corrected"] == pytest.approx(0.875)
    assert of_network["a", "errors corrected"] == pytest.approx(0.75)


def test_costs_on_other_sets_are_counted():
    table = contest_table([contest_row(EDIT, "half"), contest_row(RANDOM, "half", run="draw 0")])
    found = table[(table.network == "all") & (table.method == EDIT)].set_index(["split", "metric"]).value
    assert found["clean_test", "accuracy change"] == pytest.approx(-20)
    assert found["retain_test", "correct"] == 0 and found["retain_test", "errors corrected"] == -1


def test_differences_are_those_within_cases_that_both_methods_have():
    rows = [contest_row(BY_HOSTS, one, case=case) for case, one in {"a": "half", "b": "all"}.items()]
    rows += [contest_row(EDIT, one, case=case) for case, one in {"b": "half", "c": "worse"}.items()]
    table = contest_table([*rows, contest_row(SEVERAL, "all", case="a and b")])
    is_difference = (table.condition == f"minus {BY_HOSTS}") & (table.split == "target_test")
    assert table[is_difference].set_index("method").value.to_dict() == {EDIT: -0.5}


def test_comparison_has_one_row_per_method_and_one_per_pair():
    rows = [contest_row(BY_HOSTS, "half"), contest_row(EDIT, "all"), contest_row(RANDOM, "half", run="draw 0")]
    rows.append(contest_row(BLURRED, "worse"))
    assert "By pair" not in tables.compared_parts(contest_table(rows))  # there is one only
    table = contest_table([*rows, contest_row(BY_HOSTS, "half", case="b"), contest_row(EDIT, "all", case="b")])
    text = tables.compared_parts(table)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    header = lines[0]
    of_methods = {line[0]: dict(zip(header, line, strict=True)) for line in lines if len(line) == len(header)}
    assert of_methods["edit"]["errors corrected"] == "100%"
    assert of_methods["edit"][f"errors corrected, minus {BY_HOSTS}, points"] == "+50"
    assert of_methods[BLURRED]["errors corrected"] == "−25%"
    assert of_methods["no edit"]["retained images correct"] == "50.0%"
    assert lines[-2][:4] == ["net", "a", "50%, −20.00", "100%, −20.00"]
    assert lines[-1][:4] == ["net", "b", "50%, −20.00", "100%, −20.00"]


def test_effects_are_counted_by_photos_used_and_left_out_below_ten():
    results = Results("probing", "photos")
    for concept, n, effect in (("grass", 35, 0.1), ("book", 1, 1.0), ("chair", 9, 0.3)):
        where = {"network": "efficientnet_lite0", "method": "materials", "condition": concept}
        results.add("effect", effect, interval=[effect - 0.1, effect + 0.1], n=n, **where)
        results.add("q", 0.5 if concept == "grass" else 0.01, **where)
    text = tables.by_concept(table_of(results))
    assert text.splitlines()[-1].split("|")[1:-1] == [" grass     ", " 35       ", " +10% [+0, +20] "]
    assert "book" not in text and "chair" not in text


# --- cases and candidates ---


def test_interval_by_group_resamples_groups_not_values():
    values = [0.0] * 30 + [1.0] * 30
    low, high = interval_by_group(values, ["a"] * 30 + ["b"] * 30)
    assert (low, high) == (0.0, 1.0)
    low, high = interval_by_group(values, range(60))
    assert 0.3 < low < 0.5 < high < 0.7


def test_at_most_draws_cases_of_which_a_larger_number_has_those_of_a_smaller_one():
    cases = list(range(20))
    assert synthetic.at_most(cases, None) == synthetic.at_most(cases, 20) == synthetic.at_most(cases, 99) == cases
    drawn = [set(synthetic.at_most(cases, count)) for count in range(21)]
    assert [len(some) for some in drawn] == list(range(21))
    assert all(smaller < larger for smaller, larger in itertools.pairwise(drawn))


def test_candidates_of_a_synthetic_case_are_those_of_its_grids():
    settings = CaseSettings(
        editing={"editing": LEAST_SQUARES},
        strengths=(0.5, 1.0, 1.5),
        finetuning=FINETUNING_SETTINGS,
    )
    assert synthetic.candidates(3, settings)["editing"] == 54
    assert synthetic.candidates(3, settings)["local fine-tuning"] == 3 * 3 * 4


def test_random_directions_differ_by_seed(tiny, photos32, exemplar):
    site = prepare(tiny, "conv1", exemplar, photos32)
    [first], [same], [other] = (rewrite_at_random(site, seed=seed) for seed in (0, 0, 1))
    right = [edit.changes["conv1.weight"].right for edit in (first, same, other)]
    assert torch.equal(right[0], right[1]) and not torch.allclose(right[0].abs(), right[2].abs(), atol=1e-3)
