"""Many exemplars: a class on every ground, edits of several layers in turn, and the benchmark over all methods."""

from pathlib import Path

import pytest
import torch
from conftest import make_exemplar
from grounds import balanced_scenario, ground_exemplars

from edittools.choosing import Protocol, Scenario, grid
from edittools.choosing.in_turn import choose_in_turn, left_of
from edittools.classifiers import fingerprint
from edittools.edits import applied_edits
from edittools.images import LabelledImages
from edittools.metrics import Comparison, errors, predict
from edittools.world.contexts import GROUNDS
from edittools.zoo.load import load_classifier


@pytest.fixture
def sets(tiny, photos32):
    """Validation images labelled as the changed network of an exemplar may read them, and budget images as now."""
    labels = predict(tiny, photos32).argmax(1)
    wrong = (labels + torch.arange(40) % 2) % 5
    return {
        "validation": LabelledImages(photos32[:20], wrong[:20], tiny.classes),
        "budget": LabelledImages(photos32[20:], labels[20:], tiny.classes),
        "reference": LabelledImages(1 - photos32, labels, tiny.classes),
    }


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


@pytest.mark.parametrize("budget", [100.0, 5.0])
def test_layers_in_turn_add_up_to_one_edit_within_the_budget(tiny, sets, budget):
    before, layers = fingerprint(tiny.model), ("conv2", "conv1", "conv2")
    settings = grid(rank=(1, 2), objective=("least_squares",))
    shown = {"two": [make_exemplar(), make_exemplar(8)]}
    story = Scenario(tiny, {}, **sets, layers=layers)
    chosen = choose_in_turn(story, layers, shown, settings, strengths=(1.0, 3.0), budget=budget)
    assert fingerprint(tiny.model) == before and not applied_edits(tiny)
    assert chosen.trials == len(layers) * 2 * 2
    whole = {
        name: Comparison(errors(predict(tiny, data), data.labels), _after(tiny, chosen.edit, data))
        for name, data in sets.items()
    }
    assert whole["budget"].accuracy_change == chosen.accuracy_change >= -budget
    found = whole["validation"]
    assert (found.corrected, found.broken) == (chosen.validation["corrected"], chosen.validation["broken"])
    assert found.corrected > found.broken or not chosen.found


@pytest.mark.parametrize("budget", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("images", [200, 400, 600, 1000, 1200, 1300])
def test_all_images_of_a_budget_may_be_lost_in_two_steps_and_no_more(images, budget):
    most, nothing = int(budget * images / 100 + 1e-9), torch.zeros(images, dtype=torch.bool)
    for lost in range(most + 1):
        now = torch.arange(images) < lost
        costs = [-Comparison(now, torch.arange(images) < lost + more).accuracy_change for more in range(most + 2)]
        allowed = [cost <= left_of(budget, nothing, now) for cost in costs]
        assert sum(allowed) == most - lost + 1


def _after(classifier, edit, data):
    with edit.applied(classifier):
        return errors(predict(classifier, data), data.labels)


def test_a_choice_in_turn_that_finds_nothing_changes_nothing(tiny, sets):
    right = predict(tiny, sets["validation"]).argmax(1)
    sets["validation"] = LabelledImages(sets["validation"].images, right, tiny.classes)
    story = Scenario(tiny, {"one": make_exemplar()}, **sets, layers=("conv2", "conv1"))
    chosen = choose_in_turn(story, story.layers, story.exemplars, [{"objective": "least_squares"}])
    assert not chosen.found and chosen.accuracy_change == 0
    assert all(not change.delta().any() for change in chosen.edit.changes.values())


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
        (count, name) for count in (1, 2) for name in ("editing", "last_layer", "in_turn")
    ]
    assert all(0 <= row["balanced_accuracy"] <= 100 and row.keys() == rows[0].keys() for row in rows)
    start = {"balanced_accuracy_before": 50.0, "natural_accuracy_before": 98.0, "budget_points": 0.5}
    assert tables.many_exemplars({"rows": rows, **start}).count("\n") == 6
