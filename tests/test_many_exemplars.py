"""Many exemplars: a class on every ground, and the benchmark over all methods."""

from pathlib import Path

import pytest
import torch
from grounds import balanced_scenario, ground_exemplars

from edittools.choosing import Protocol
from edittools.world.contexts import GROUNDS
from edittools.zoo.load import load_classifier


def test_the_first_exemplars_are_those_of_a_longer_list_and_differ_at_the_mask_alone():
    classifier = load_classifier("mini_vgg")
    shown = ground_exemplars(classifier, 5)
    assert all(torch.equal(a.changed, b.changed) for a, b in zip(ground_exemplars(classifier, 3), shown, strict=False))
    for exemplar in shown:
        moved = (exemplar.image - exemplar.changed).abs().mean(dim=0)
        assert moved[exemplar.mask > 0].mean() > 5 * moved[exemplar.mask == 0].mean()  # edges are smoothed
    with pytest.raises(ValueError, match="count 131: expected"):
        ground_exemplars(classifier, 131)


def test_all_exemplars_are_every_class_on_every_ground_but_its_own(monkeypatch):
    import grounds

    monkeypatch.setattr(grounds, "_exemplar", lambda classifier, label, own, other, seed: (label, own, other))
    shown = ground_exemplars(None, 130)
    assert len(set(shown)) == 130 and {other for *_, other in shown} == set(GROUNDS)
    assert all(own != other for _, own, other in shown) and ("car", "road", "snow") in shown


def test_the_benchmark_gives_every_method_as_many_trials_and_the_same_figures(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    import many_exemplars
    import tables

    story = balanced_scenario((1, 2), validation=26, everyday=40, test=26)
    assert [len(shown) for shown in story.several.values()] == [1, 2]
    protocol = Protocol(story, story.shortlist)
    trials = {
        name: len(found)
        for name, found in many_exemplars.tries(protocol, {"1 exemplars": story.several["1 exemplars"]}).items()
    }
    assert set(trials.values()) == {24}
    one = {"rank": 1, "objective": "least_squares"}
    monkeypatch.setattr(many_exemplars, "SETTINGS", [one])
    few = lambda protocol, shown: {  # noqa: E731
        "editing": protocol.rewriting([one], (1.0,), shown),
        "last_layer": protocol.rival("last_layer", (1.0,), shown),
    }
    monkeypatch.setattr(many_exemplars, "tries", few)
    rows = [row for count in (1, 2) for row in many_exemplars.measure(protocol, count)]
    assert [(row["exemplars"], row["method"]) for row in rows] == [
        (count, name) for count in (1, 2) for name in ("editing", "last_layer")
    ]
    assert all(0 <= row["balanced_accuracy"] <= 100 and row.keys() == rows[0].keys() for row in rows)
    start = {"balanced_accuracy_before": 50.0, "natural_accuracy_before": 98.0, "budget_points": 0.5}
    assert tables.many_exemplars({"rows": rows, **start}).count("\n") == 5
