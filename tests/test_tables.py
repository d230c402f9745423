"""Tables of the pages and reruns of single methods: corrections, candidates, photos used, intervals, merging."""

import json
from types import SimpleNamespace

import columns
import networks
import pandas as pd
import pytest
import synthetic
import tables
import torch
from methods import Plan, candidates_of, remake
from synthetic import interval_by_group

from edittools.baselines import rewrite_at_random
from edittools.images import LabelledImages
from edittools.metrics import predict
from edittools.scenarios.finetuning import FinetuningRounds, first_feasible, select_finetuning
from edittools.scenarios.scenario import Scenario
from edittools.scenarios.synthetic import CaseSettings
from edittools.selection.search import EditSearch, grid
from edittools.selection.splits import Splits


def test_holm_of_the_textbook_example():
    assert columns.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_with_ties_and_large_values():
    assert columns.holm([0.5, 0.5, 0.9]) == [1.0, 1.0, 1.0]
    assert columns.holm([]) == []


def test_by_method_corrects_p_values_without_the_edit():
    methods = {
        "editing": {"p_against_edit": 1.0, "trials": 3},
        "projection": {"p_against_edit": 0.02, "trials": 4},
        "null_space": {"p_against_edit": 0.03, "trials": 5},
    }
    text = columns.by_method({"p": "{p_holm:.2g}", "candidates": "{trials}"}, methods)
    assert text.splitlines()[2:] == [
        "| **edit, one exemplar** |  | 3 |",
        "| concept projection | 0.04 | 4 |",
        "| null-space rewriting | 0.04 | 5 |",
    ]


@pytest.mark.parametrize("name", ["SNOW", "WATERMARK", "TYPOGRAPHIC", "CURE", "REPAIR", "PRICE", "ROBUSTNESS"])
def test_every_table_of_methods_has_a_column_of_candidates(name):
    assert "candidates" in getattr(columns, name)


def test_table_shows_no_interval_below_ten_cases():
    rows = [{"share": 0.5, "low": 0.4, "high": 0.6, "cases": cases} for cases in (9, 10)]
    interval = "{share:%} [{low:n}, {high:n}]"
    text = columns.table({"share": interval, "other": interval}, rows, "cases", ["share"])
    assert text.splitlines()[2:] == ["| 50 % | 50 % [40, 60] |", "| 50 % [40, 60] | 50 % [40, 60] |"]


def test_no_page_shows_an_interval_of_fewer_than_ten_cases():
    for name in ("synthetic_miniworld_networks", "synthetic_photos_networks"):
        assert "[" not in tables.synthetic(tables.read_results(name))


def test_where_names_the_first_of_many_layers():
    assert [tables.where(layers) for layers in ("a", "a, b", "a, b, c")] == ["a", "a, b", "a and all later ones"]


def effect(concept, images, controlled, value):
    row = {"classifier": "efficientnet_lite0", "concept": concept, "images": images, "controlled": controlled}
    return row | {"effect": value, "low": value - 0.1, "high": value + 0.1, "q": 0.5}


def test_probing_table_counts_the_photos_used_and_leaves_out_fewer_than_ten():
    rows = [effect("grass", 72, 35, 0.1), effect("book", 10, 1, 1.0), effect("chair", 10, 9, 0.3)]
    text = tables.probing({"false_discovery_rate": 0.05, "effects": {"styles": rows}})
    assert text.splitlines()[-1] == "| grass | 35 | +10 % [+0, +20] |"
    assert "book" not in text and "chair" not in text


def test_headline_shows_fixed_baselines_and_the_best_finetuning(monkeypatch):
    shares = {"editing": 0.5, "closed_form": 0.4, "finetune_local": 0.1, "finetune_global_several": 0.3}
    shares |= {"interpolated_local": 0.2, "random_direction": 0.25, "projection": 0.45}
    common = {"errors_before": 80, "keep_images": 9, "keep_errors_before": 1, "keep_errors_after": 2}
    common |= {"accuracy_change_points_held_out": -0.1}
    methods = {
        name: common | {"errors_corrected": share, "errors_corrected_interval": [share, share]}
        for name, share in shares.items()
    }
    found = methods.pop("editing") | methods
    monkeypatch.setattr(tables, "read_results", lambda name: found if name == "snow_miniworld" else {})
    [row] = tables.headline().splitlines()[2:]
    assert row == (
        "| vehicles on snow, MiniWorld | 80 | 50 % [50, 50] | 40 % [40, 40] | 30 % [30, 30] | 25 % [25, 25] "
        "| −0.10; 1 → 2 |"
    )


def test_locality_figure_has_every_method_of_the_results():
    shown = {row["method"] for row in tables.curve()}
    assert len(shown) == len({row["method"] for row in tables.read_results("snow_miniworld")["curve"]})


def test_interval_by_group_resamples_groups_not_values():
    values = [0.0] * 30 + [1.0] * 30
    low, high = interval_by_group(values, ["a"] * 30 + ["b"] * 30)
    assert (low, high) == (0.0, 1.0)
    low, high = interval_by_group(values, range(60))
    assert 0.3 < low < 0.5 < high < 0.7


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


# --- selecting and remaking ---


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
    return EditSearch(scenario.classifier, scenario.exemplars, scenario.splits, scenario.layers)


def test_select_finetuning_continues_the_best_feasible_candidate_as_well(search, monkeypatch):
    """Let only the lowest learning rate satisfy the constraints; it is not the best by loss."""
    rounds = FinetuningRounds(rates=(1e-5, 1.0), momenta=(0.0,), steps=(2,), localities=(5.0,), top=1)

    def has_low_rate(edit):
        return max(float(change.delta().abs().max()) for change in edit.changes.values()) < 1e-3

    monkeypatch.setattr(search, "is_feasible", has_low_rate)
    table = select_finetuning(search, "local", rounds).results
    first, second = table[:4], table[4:]
    best = first.sort_values("loss", kind="stable").iloc[0]
    assert best.rate == 1.0
    assert (first.locality == 0).all()
    assert list(second.rate) == [1.0, 1e-5]
    assert (second.locality == 5.0).all()


def test_first_feasible_returns_one_candidate_per_layer(search, monkeypatch):
    table = pd.DataFrame({"layer": ["a", "a", "b", "b", "c"], "edit": [1, 2, 3, 4, 5]}, index=[7, 3, 9, 1, 4])
    monkeypatch.setattr(search, "is_feasible", lambda edit: edit != 1)
    assert list(first_feasible(search, table, 2).index) == [3, 9]
    assert list(first_feasible(search, table, 9).index) == [3, 9, 4]


@pytest.mark.parametrize("boundary", ["boundary of the grid", "edge of the grid"])
def test_remake_an_edit_from_its_settings_in_words(scenario, search, boundary):
    plan = Plan(settings=grid(rank=(1,), objective=("least_squares",), reference_weight=(0.0, 30.0)))
    row = search.score(search.candidates("rewrite", plan.settings, plan.strengths)).iloc[5]
    chosen = f"{row.layer}, one, least_squares, rank 1, reference_weight {row.reference_weight:g}, α {row.strength:g}"
    again = remake(scenario, search, plan, "editing", f"{chosen} ({boundary}: strength)")
    assert again.edit.digest == row.edit.digest
    assert remake(scenario, search, plan, "editing", "nothing") is None
    with pytest.raises(ValueError, match="rank 9"):
        remake(scenario, search, plan, "editing", chosen.replace("rank 1", "rank 9"))


def test_remake_an_edit_of_two_layers(scenario, search):
    plan = Plan(settings=grid(rank=(1,), objective=("least_squares",)))
    table = search.score(search.candidates("rewrite", plan.settings, plan.strengths))
    first, second = table[table.layer == "conv1"].iloc[0], table[table.layer == "conv2"].iloc[1]
    words = [f"{row.layer}, one, least_squares, rank 1, α {row.strength:g}" for row in (first, second)]
    edge = " (edge of the grid: strength)"
    both = remake(scenario, search, plan, "two_layers", f"{words[0]}{edge} + {words[1]}")
    assert both.edit.digest == (first.edit + second.edit).digest
    alone = remake(scenario, search, plan, "two_layers", f"{words[0]}{edge}, alone")
    assert alone.edit.digest == first.edit.digest


def test_remake_a_finetuning_from_its_settings_in_words(scenario, search):
    plan = Plan(rates=(1e-2,), momenta=(0.0,), steps=(2, 3), localities=(5.0,), top=1)
    table = select_finetuning(search, "local", plan).results
    row = table[(table.locality == 5.0) & (table.steps == 2)].iloc[0]
    chosen = f"{row.layer}, one, local, rate 0.01, momentum 0, locality 5, steps 2, α 1"
    again = remake(scenario, search, plan, "finetune_local", chosen)
    name = f"{row.layer}.weight"
    torch.testing.assert_close(again.edit.changes[name].delta(), row.edit.changes[name].delta())
    assert len(candidates_of(scenario, search, plan, "finetune_local")) == 2 * 2 * 2 * 4


def test_random_directions_differ_by_seed(tiny, photos32, exemplar):
    first, same, other = (
        rewrite_at_random(tiny, "conv1", exemplar, photos32, objective="least_squares", seed=seed) for seed in (0, 0, 1)
    )
    right = [edit.changes["conv1.weight"].right for edit in (first, same, other)]
    assert torch.equal(right[0], right[1]) and not torch.allclose(right[0].abs(), right[2].abs(), atol=1e-3)


# --- merging ---


def row(job, method, before, after):
    effort = {"chosen": method, "trials": 2, "choice_seconds": 1.0, "network_seconds": 1.0}
    return {"job": job, "method": method, "test": [before, after], **effort}


def figures(rows):
    found = networks.comparisons(rows, "test")
    return {"corrected": sum(one.corrected for one in found), "broken": sum(one.broken for one in found)}


def stored():
    rows = [row(job, method, [1, 1, 0], [0, 1, 0]) for job in "ab" for method in ("editing", "finetune_local")]
    pooled, by_network = networks.together(rows, figures)
    return networks.edit_first(pooled) | {"networks": by_network}


def test_rerun_methods_are_merged_network_by_network_and_pooled_when_all_are_run():
    before = stored()
    edits = [row(job, "editing", [1, 1, 0], [0, 1, 0]) for job in "ab"]
    tuned = [row(job, "finetune_local", [1, 1, 0], [0, 0, 1]) for job in "ab"]
    part = networks.merged(before, [edits[0], tuned[0]], figures, ["finetune_local"])
    assert part["networks"]["a"]["finetune_local"]["corrected"] == 2
    assert part["networks"]["b"] == before["networks"]["b"]
    assert part["finetune_local"] == before["finetune_local"] and part["corrected"] == before["corrected"]
    whole = networks.merged(part, [*edits, *tuned], figures, ["finetune_local"])
    assert whole["finetune_local"]["corrected"] == 4 and whole["finetune_local"]["broken"] == 2


def test_a_merge_is_refused_when_the_edit_is_not_reproduced():
    rows = [row("a", "editing", [1, 1, 0], [0, 0, 0]), row("a", "finetune_local", [1, 1, 0], [0, 0, 0])]
    with pytest.raises(ValueError, match="corrected=2"):
        networks.merged(stored(), rows, figures, ["finetune_local"])


def test_rerun_writes_after_each_network_and_names_what_was_run(monkeypatch, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(stored()))
    monkeypatch.setattr(networks, "load_classifier", lambda name: name)
    monkeypatch.setattr(networks, "identity", lambda name: name)
    monkeypatch.setattr(networks, "call", lambda: "python benchmarks/x.py --methods finetune_local")
    seen = []

    def work(name, methods, stored, again):
        seen.append((name, methods, again, json.loads(path.read_text()).get("rerun", {}).get("networks")))
        known = row(name, "editing", [1, 1, 0], [0, 1, 0]), row(name, "finetune_local", [1, 1, 0], [0, 0, 0])
        return [{key: value for key, value in one.items() if key != "job"} for one in known]

    given = SimpleNamespace(networks="ab", methods=["finetune_local"], again=["b"], output=path, store=None)
    networks.rerun(work, figures, given, "about")
    assert seen == [("a", ["finetune_local"], False, None), ("b", ["finetune_local"], True, ["a"])]
    result = json.loads(path.read_text())
    assert result["rerun"]["networks"] == ["a"] and result["rerun"]["methods"] == ["finetune_local"]
    assert result["finetune_local"]["corrected"] == 4
