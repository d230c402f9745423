"""Results and their tables: the schema, formats, pivots, corrections of p-values, and what each page shows."""

import itertools
import re

import pandas as pd
import pytest
import synthetic
import tables
import torch
import watermark
from _lib import networks, outcomes, pivots, snow
from _lib.methods import ONE_EACH, QUICK, search_of, select_all, small
from _lib.results import (
    COLUMNS,
    FOLDER,
    METHODS,
    Results,
    name_of,
    parts_of,
    read_all,
    read_outcomes,
    read_parts,
    read_results,
    read_run,
    write_results,
)
from synthetic import interval_by_group

from edittools.classifiers import fingerprint
from edittools.course.scenarios.finetuning import FinetuningRounds, best_of_each_layer, select_finetuning
from edittools.course.scenarios.scenario import Scenario
from edittools.course.scenarios.synthetic import CaseSettings
from edittools.edits import Change, Edit
from edittools.images import LabelledImages
from edittools.methods import rewrite_at_random
from edittools.metrics import predict
from edittools.selection import Candidate, Outcomes, Search, Splits, grid
from edittools.selection.outcomes import Outcome
from edittools.site import prepare

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


def table_of(results):
    return results.frame().assign(run="a_run")


def test_results_are_the_same_after_writing_and_reading(tmp_path):
    results = results_of({"edit": 0.1 + 0.2, "full rank": -1 / 3})
    results.add("restored", float("nan"), method="edit", interval=[float("nan")] * 2)
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


def test_encode_outcomes_of_some_images():
    assert outcomes.encode([1, 0, 1], [0, 0, 1], [4, 0, 2], size=6) == "._x_+_"


def test_name_of_a_new_method():
    assert name_of("full_rank") == "full rank" and name_of("a_new_method") == "a new method"


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
    known = {*METHODS.values(), *synthetic.METHODS.values(), "", "no edit"}
    known |= {f"random direction {draw}" for draw in range(2, 6)}
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
    assert not len(pivots.cells(table, "restored"))
    columns = {name: pivots.cells(table, name) for name in ("errors corrected", "candidates", "restored")}
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


def test_holm_of_the_textbook_example():
    assert pivots.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_with_ties_and_large_values():
    assert pivots.holm([0.5, 0.5, 0.9]) == [1.0, 1.0, 1.0]
    assert pivots.holm([]) == []


def test_with_holm_corrects_p_values_without_the_edit():
    results = Results("snow", "MiniWorld")
    for method, p in {"edit": 1.0, "concept projection": 0.02, "full rank": 0.03}.items():
        results.add("p against the edit", p, method=method, split="target_test")
    corrected = pivots.values(pivots.with_holm(table_of(results)), "p against the edit", "target_test")
    assert corrected.to_dict() == pytest.approx({"concept projection": 0.04, "full rank": 0.04})


# --- the pages ---


def test_page_tables_match_results():
    pages = tables.pages()
    named = {name for text in pages.values() for name in re.findall("<!-- table: (.*) -->", text)}
    assert named == {*tables.TABLES, *tables.SUMMARIES, "shortcuts"}
    for path, text in pages.items():
        assert path.read_text() == text, path.name


def test_every_stored_run_is_in_a_table():
    shown = {part for name in tables.TABLES for part in parts_of(name)}
    assert shown == {path.stem for path in FOLDER.glob("*.csv")}


@pytest.mark.parametrize("method", ["edit", "fine-tuning"])
def test_headline_of_learned_shortcuts_follows_from_the_outcomes_of_photos(method):
    of_photos = read_outcomes("learned_shortcut")
    is_selected = (of_photos.method == method) & of_photos.split.str.endswith("within the limits")
    nets = []
    changes = []
    for row in of_photos[is_selected].itertuples():
        kind, mark, *_ = row.split.split(", ")
        gained = row.outcomes.count("+") - row.outcomes.count("-")
        if kind == "other classes":
            errors = row.outcomes.count("+") + row.outcomes.count("x")
            nets.append({"pair": (row.network, mark), "value": gained / errors})
        if kind == "clean":
            changes.append({"pair": (row.network, mark), "value": 100 * gained / len(row.outcomes)})
    table = read_results("learned_shortcut")
    is_method = (table.network == "all") & (table.method == method) & (table.condition == "within the limits")
    stored = table[is_method].set_index("metric").value
    for metric, rows in {"errors corrected": nets, "accuracy change": changes}.items():
        of_pairs = pd.DataFrame(rows).groupby("pair").value.mean()
        assert stored[metric] == pytest.approx(of_pairs.mean(), abs=1e-8)


def test_parts_of_an_experiment_are_read_as_one_table(tmp_path):
    for name, share in {"snow": 0.1, "snow_mini": 0.2, "snow_mini_draws": 0.3, "snowman": 0.9}.items():
        write_results(tmp_path / f"{name}.csv", results_of({"edit": share}), "python a.py", "2026-11-28")
    table = read_parts("snow", tmp_path)
    shares = table[table.metric == "errors corrected"].set_index("part").value
    assert shares.to_dict() == {"": 0.1, "mini": 0.2, "mini_draws": 0.3}
    with pytest.raises(FileNotFoundError, match="watermark"):
        read_parts("watermark", tmp_path)


def test_shares_show_several_draws_of_the_control_as_mean_and_range():
    draws = {"random direction": 0.5, "random direction 2": 0.3, "random direction 3": 0.7}
    table = table_of(results_of({"edit": 0.8, **draws, "random direction, several exemplars": 0.4}))
    text = tables.shares(table, "errors corrected", "target_test")
    assert text.to_dict() == {
        "edit": "80% [70, 90]",
        "random direction": "50% (30 to 70 in 3 draws)",
        "random direction, several exemplars": "40% [30, 50]",
    }


def test_summary_shows_the_best_finetuning_and_a_dash_for_what_was_not_measured(monkeypatch):
    shares = {"edit": 0.5, "full rank": 0.4, "local fine-tuning": 0.1, "global fine-tuning": 0.3}
    shares |= {"random direction": 0.25}
    results = results_of(shares)
    monkeypatch.setattr(tables, "read_results", lambda name: results.frame())
    monkeypatch.setattr(tables, "DRAWS_OF", {})
    header, _, *rows = tables.summary("summary_snow").splitlines()
    titles = [cell.strip() for cell in header.split("|")[1:-1]]
    assert len(rows) == 3
    first = dict(zip(titles, (cell.strip() for cell in rows[0].split("|")[1:-1]), strict=True))
    assert first[tables.TUNED] == "30% [20,\u00a040]"
    assert first["full rank"] == "40% [30,\u00a050]"
    assert first["edit of two layers"] == "–"
    assert first["accuracy with the edit, points"] == "−0.10"


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
        editing={"editing": grid(rank=(1, 3), reference_weight=(0.0, 10.0, 30.0))},
        strengths=(0.5, 1.0, 1.5),
        finetuning=FinetuningRounds(
            rates=(3e-4, 3e-3, 3e-2), momenta=(0.0,), steps=(20,), localities=(1.0, 10.0), top=2
        ),
    )
    assert synthetic.candidates(3, settings)["editing"] == 54
    assert synthetic.candidates(3, settings)["local fine-tuning"] == 9 + 4 + 3 * 13


# --- selecting ---


@pytest.fixture
def scenario(tiny, photos32, exemplar):
    """A scenario on half of whose images the classifier is wrong."""
    labels = predict(tiny, photos32).argmax(1)
    labels[::2] = (labels[::2] + 1) % 5
    data = LabelledImages(photos32, labels, tiny.classes)
    splits = Splits(1 - photos32, data.subset(range(20)), data.subset(range(20, 30)))
    return Scenario(tiny, {"one": exemplar}, splits, layers=("conv1", "conv2"))


@pytest.fixture
def search(scenario):
    return Search(scenario.classifier, scenario.exemplars, scenario.splits, scenario.layers)


def test_select_finetuning_continues_the_best_feasible_candidate_as_well(search, monkeypatch):
    """Let only the lowest learning rate satisfy the constraints; it is not the best by loss."""
    rounds = FinetuningRounds(rates=(1e-5, 1.0), momenta=(0.0,), steps=(2,), localities=(5.0,), top=1)

    def has_low_rate(edit, strength=1.0):
        return max(float(change.delta().abs().max()) for change in edit.changes.values()) < 1e-3

    monkeypatch.setattr(search, "is_feasible", has_low_rate)
    table = select_finetuning(search, "local", rounds).results
    first, second = table[:4], table[4:]
    best = first.sort_values("loss", kind="stable").iloc[0]
    assert best.rate == 1.0
    assert (first.locality == 0).all()
    assert list(second.rate) == [1.0, 1e-5]
    assert (second.locality == 5.0).all()


def test_best_of_each_layer_returns_one_candidate_per_layer(search):
    """Of the edits of each layer, the best by loss costs clean images."""
    free = Edit({"head.bias": Change(torch.zeros(5))}, fingerprint(search.classifier.model))
    costly = Edit({"head.bias": Change(1e4 * torch.eye(5)[0])}, fingerprint(search.classifier.model))
    outcomes = []
    for loss, (layer, edit) in enumerate([("a", costly), ("b", free), ("a", free), ("c", costly), ("c", free)]):
        candidate = Candidate({"layer": layer}, edit)
        outcomes.append(Outcome(candidate, torch.full((20,), float(loss)), torch.zeros(20, dtype=torch.bool)))
    all_outcomes = Outcomes.collected(outcomes, torch.ones(20, dtype=torch.bool))
    assert best_of_each_layer(all_outcomes, 2, search) == [1, 2]
    assert best_of_each_layer(all_outcomes, 9, search) == [1, 2, 4]
    assert best_of_each_layer(all_outcomes, 2) == [0, 1] and best_of_each_layer(all_outcomes, 9) == [0, 1, 3]


def test_random_directions_differ_by_seed(tiny, photos32, exemplar):
    site = prepare(tiny, "conv1", exemplar, photos32)
    [first], [same], [other] = (rewrite_at_random(site, objective="least_squares", seed=seed) for seed in (0, 0, 1))
    right = [edit.changes["conv1.weight"].right for edit in (first, same, other)]
    assert torch.equal(right[0], right[1]) and not torch.allclose(right[0].abs(), right[2].abs(), atol=1e-3)


# --- networks ---


def row(job, method, before, after):
    effort = {"settings": method, "candidates": 2, "seconds": 1.0, "network_seconds": 1.0}
    sets = {split: [before, after] for split in ("target_test", "clean", "clean_test", "retain_test")}
    return {"job": job, "method": method, **sets, **effort}


def test_add_networks_of_a_watermark_stores_which_photos():
    sets = {mark: [[1], [0], [2]] for mark in watermark.UNSEEN}
    found = row("a", "editing", [0, 0, 0], [0, 0, 0]) | sets | {"layer": "conv1"}
    found |= {"clean_test": [[0, 0, 0], [0, 0, 0], [0, 1, 2]], "target_test": [[1, 1, 0], [0, 1, 0], [0, 1, 2]]}
    results = Results("watermark", "photos")
    networks.add_networks(results, [found], watermark.add_figures)
    of_splits = {one["split"]: one["outcomes"] for one in results.outcomes}
    assert of_splits["black"] == "__+" and of_splits["target_test"] == "+x."


def line_of(rows, add_figures):
    results = Results("snow", "photos")
    networks.add_networks(results, rows, add_figures)
    return results.keyed_line()


def test_json_keys_of_snow_and_watermark():
    """Others read these; `tests/slow/test_quick_runs.py` checks those of all scripts."""
    found = row("a", "editing", [1, 0], [0, 0]) | {"elsewhere": [[0, 0], [0, 1]]}
    keys = """errors_before errors_after corrected broken errors_corrected errors_corrected_interval p success
    accuracy_change_points_budget accuracy_change_points_held_out accuracy_change_points_held_out_interval
    keep_errors_before keep_errors_after keep_images changed_elsewhere p_against_edit chosen trials choice_seconds"""
    assert set(keys.split()) <= set(line_of([found], snow.add_figures))
    found |= {"clean_test": [[0, 0], [0, 0], [0, 1]], "target_test": [[1, 0], [0, 0], [0, 1]]}
    found |= {mark: [[1], [0], [0]] for mark in watermark.UNSEEN}
    keys = """layers images errors_before corrected broken broken_by_the_mark share_restored share_restored_interval
    broken_by_unseen_marks share_restored_unseen_marks share_restored_unseen_marks_interval marks success
    accuracy_change_points_held_out accuracy_change_points_held_out_interval p_against_edit
    chosen trials choice_seconds"""
    assert set(keys.split()) <= set(line_of([found | {"layer": "conv1"}], watermark.add_figures))


# --- the command line ---


def test_small_scenario_can_be_searched(scenario):
    splits = scenario.splits
    parts = {"clean_test": splits.clean.subset([4, 5]), "extra": {"more": splits.clean.subset([6, 7, 8, 9])}}
    whole = Scenario(
        scenario.classifier,
        scenario.exemplars,
        Splits(splits.reference, splits.target, splits.clean.subset(range(4)), **parts),
        layers=scenario.layers,
        default={"layer": "conv2", "exemplar": "one", "rank": 1},
    )
    fewer = small(whole, images=5)
    assert fewer.layers == ("conv2",)
    sizes = {name: len(data) for name, data in fewer.splits.labeled.items()}
    assert sizes == {"target": 5, "clean": 1, "clean_test": 1, "more": 1}
    selections = select_all(fewer, search_of(fewer), QUICK, ONE_EACH)
    assert {"editing", "random_direction", "finetune_local", "full_rank"} <= set(selections)
