"""What the experiments add to their results, on small exact cases."""

import found_rule
import null_verdicts
import pandas as pd
import pytest
import random_directions
import repair
import segmentation
import side_effects
import tables
import torch
from _lib.results import Results

from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import Comparison, predict
from edittools.probing.effects import Probe
from edittools.selection.search import EditSearch
from edittools.selection.splits import Splits


def compared(before, after):
    return Comparison(*(torch.tensor([character == "x" for character in text]) for text in (before, after)))


def values(results):
    table = results.frame()
    return table.set_index(["split", "metric"]).value


def test_found_rule_adds_errors_and_outcomes():
    results = Results("found_rule", "MiniWorld")
    found_rule.add_target(results, compared("xxx.", "..xx"), "mini_vgg", "closed_form")
    found_rule.add_comparison(results, compared("x...", "xx.."), "mini_vgg", "closed_form", "clean_test")
    found = values(results)
    assert [found["target_test", name] for name in ("errors before", "errors after", "corrected", "broken")] == [
        3,
        2,
        2,
        1,
    ]
    assert found["target_test", "errors corrected"] == pytest.approx(1 / 3)
    assert found["clean_test", "accuracy change"] == -25
    assert [one["outcomes"] for one in results.outcomes] == ["++x-", "x-.."]
    assert set(results.frame().method) == {"closed form"}


def test_found_rule_adds_changes_of_probability():
    changes = {"changed": 0.3, "untouched": -0.01, "control": 0.02, "low": 0.2, "high": 0.4, "p": 0.01, "images": 9}
    results = Results("found_rule", "MiniWorld")
    row = pd.Series(changes | {"effect before": 0.4, "effect after": 0.1})
    found_rule.add_probability(results, row, "mini_vgg", "editing")
    table = results.frame().query("metric == 'probability change'").set_index("split")
    assert table.value.to_dict() == {"changed": 0.3, "untouched": -0.01, "control": 0.02}
    assert table.loc["changed", ["low", "high", "n"]].tolist() == [0.2, 0.4, 9]


def test_repair_adds_a_row_of_its_table():
    row = {"failing": 24, "corrected": 20, "broken": 0, "share": 20 / 24, "low": 0.6, "high": 0.95, "p": 1e-6}
    row |= {"accuracy change": 0.0, "accuracy low": -1.8, "accuracy high": 1.8, "retained": 75, "retained broken": 1}
    results = Results("repair", "MiniWorld")
    repair.add_method(results, row | {"candidates": 144}, "mini_vgg", "projection")
    found = values(results)
    assert found["held out", "corrected"] == 20 and found["retain", "broken"] == 1
    assert found["", "candidates"] == 144
    assert set(results.frame().method) == {"concept projection"}


def test_agreement_of_masks():
    truth = torch.zeros(3, 10, 10, dtype=torch.bool)
    truth[0, :4] = True
    truth[1, :2] = True
    found = torch.zeros_like(truth)
    found[0, :2] = True  # half of it
    found[2, 5:] = True  # nothing is there
    figures = segmentation.agreement(list(found), list(truth))
    assert figures["IoU, mean"] == 0.25 and figures["IoU, median"] == 0.25
    assert [figures[f"photos {name}"] for name in ("that show it", "in which it is found")] == [2, 2]
    assert (figures["found correctly"], figures["precision"], figures["recall"]) == (1, 0.5, 0.5)


def test_add_segmenter_leaves_out_concepts_that_it_does_not_know():
    truth = torch.ones(4, 4, dtype=torch.long)
    concept = segmentation.MSRC[0]
    results = Results("segmentation", "photos")
    segmentation.add_segmenter(results, "all", [{concept: torch.ones(1, 4, 4)}, {}], [truth, truth])
    table = results.frame().set_index("metric")
    assert set(table.condition) == {concept}
    assert table.value["precision"] == 1 and table.value["recall"] == 0.5 and table.value["IoU, mean"] == 0.5


def test_add_draw_evaluates_the_selected_random_direction(tiny, photos32, exemplar: Exemplar):
    labels = predict(tiny, photos32).argmax(1)
    labels[::2] = (labels[::2] + 1) % 5
    data = LabelledImages(photos32, labels, tiny.classes)
    bounds = [0, 12, 20, 28, 36, 40]
    names = ("target", "clean", "target_test", "clean_test", "retain_test")
    parts = {name: data.subset(range(*bounds[i : i + 2])) for i, name in enumerate(names)}
    search = EditSearch(tiny, {"one": exemplar}, Splits(1 - photos32, **parts), ["conv2"])
    results = Results("random_directions", "MiniWorld")
    random_directions.add_draw(results, search, 3, random_directions.SETTINGS[:2])
    table = results.frame()
    assert set(table.condition) == {"seed 3"}
    assert table[table.metric == "candidates"].value.item() == 6
    errors = table.query("metric == 'errors before' and split == 'target_test'").value.item()
    assert errors == int(search.activations["target_test"].before.sum())
    assert {one["split"]: len(one["outcomes"]) for one in results.outcomes} == {
        "target_test": 8,
        "clean_test": 8,
        "retain_test": 4,
    }


def test_noise_exemplar_changes_the_prediction_inside_its_mask_only():
    classifier = null_verdicts.plain_network(steps=30)
    exemplar = null_verdicts.noise_exemplar(classifier, seed=100)
    original, changed = predict(classifier, torch.stack([exemplar.image, exemplar.changed])).argmax(1).tolist()
    assert original == exemplar.label != changed
    is_changed = (exemplar.image != exemplar.changed).any(dim=0)
    assert is_changed.any() and not (is_changed & (exemplar.mask == 0)).any()


def test_add_kind_counts_the_words_of_cases_that_can_be_made():
    results = Results("null_verdicts", "squares")
    words = iter(["use", "unclear", "unclear"])

    def make(classifier, seed):
        return {"seed": seed} if seed % 20 else None

    null_verdicts.add_kind(results, "kind", None, make, lambda classifier, case: next(words), 3, seed=0)
    table = results.frame().set_index("metric")
    assert table.value[["use", "unclear", "do not use"]].tolist() == [1, 2, 0] and set(table.n) == {3}
    text = tables.null_verdicts(table.reset_index())
    assert "kind" in text and " 2 " in text


def test_side_effects_counts_rules_kept_and_new(monkeypatch):
    rules = {"before": {"road", "grass"}, "edit": {"grass", "sky"}}
    effects = {"before": [2.0, 1.0, 0.0], "edit": [0.5, 1.5, 1.0]}

    class OfOne:
        def __init__(self, name):
            self.name = name

        def rules(self, pooled):
            return pd.DataFrame({"concept": sorted(rules[self.name])})

        def effects(self, keys, unit, least_images):
            return pd.DataFrame({"concept": ["road", "grass", "sky"], "effect": effects[self.name]})

    probe = Probe(pd.DataFrame({"classifier": ["before", "edit"]}), "in place", 1, None)
    monkeypatch.setattr(Probe, "where", lambda self, column, name: OfOne(name))
    row = side_effects.side_effects(probe, "road", pooled=True).loc["edit"]
    assert [row[f"rules {name}"] for name in ("before", "kept")] == [2, 1] and row["new rules"] == 1
    assert (row["effect before"], row["effect after"]) == (2.0, 0.5)
    assert row["effect change"] == 0.75 and row["largest rise"] == 1.0
    results = Results("side_effects", "MiniWorld")
    side_effects.add_row(results, row, "mini_vgg", "edit")
    assert values(results)["other concepts", "effect change"] == 0.75
