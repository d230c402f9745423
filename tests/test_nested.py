"""Nested cross-validation: every image is reported once, by an edit that was chosen on the other folds alone."""

from pathlib import Path

import pytest
import torch
from conftest import make_exemplar

from edittools.baselines import RIVALS
from edittools.choosing.nested import NestedChoice, choose_nested, outer_folds, sweep_once
from edittools.choosing.scenario import Scenario
from edittools.choosing.states import cache_states
from edittools.choosing.trials import sweep
from edittools.classifiers import fingerprint
from edittools.edits import Change, Edit
from edittools.images import LabelledImages
from edittools.metrics import Comparison
from edittools.probing.jobs import run

FOLDS = torch.tensor([0, 0, 1, 1])
RIGHT, WRONG = (2.0, 0.0), (0.0, 2.0)  # logits of an image of class 0


class _Images:
    """Stands for four images of class 0, all misread; the logits that an edit gives them are its own."""

    labels, before = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.bool)

    def logits(self, edit):
        return torch.tensor(edit.rows)


class _Edit:
    """Stands for an edit: the logits that it gives."""

    def __init__(self, *rows):
        self.rows = rows

    def __rmul__(self, factor):
        return "nothing"


class _Budget:
    """Stands for 400 budget images, of which some edits break many; counts how often each was asked for."""

    before = torch.zeros(400, dtype=torch.bool)

    def __init__(self, *costly):
        self.costly, self.asked = costly, []

    def within(self, edit, budget):
        self.asked.append(edit)
        return Comparison(self.before, torch.arange(400) < 10 * (edit in self.costly))

    def sparing(self, edit, most):
        raise AssertionError("asked for as kept images")


class _Kept(_Budget):
    """Stands for kept images, of which one that breaks is too many."""

    before, labels = torch.zeros(9, dtype=torch.bool), torch.zeros(9, dtype=torch.long)

    def sparing(self, edit, most):
        self.asked.append(edit)
        return None if most == 0 and edit in self.costly else Comparison(self.before, self.before)


def tried(*edits, before=_Images.before):
    images = _Images()
    images.before = before
    return sweep_once([({"trial": i}, edit) for i, edit in enumerate(edits)], images, FOLDS)


def test_folds_are_dealt_class_by_class_and_a_seed_deals_them_again():
    labels = torch.tensor([0] * 12 + [1] * 5 + [2] * 3)[torch.randperm(20, generator=torch.Generator().manual_seed(4))]
    folds = outer_folds(labels, 5, seed=1)
    assert folds.bincount().tolist() == [4] * 5
    for label, least, most in ((0, 2, 3), (1, 1, 1), (2, 0, 1)):
        counts = folds[labels == label].bincount(minlength=5)
        assert least <= counts.min() and counts.max() <= most
    assert torch.equal(folds, outer_folds(labels, 5, seed=1))
    assert not torch.equal(folds, outer_folds(labels, 5, seed=2))
    for count in (1, 21):
        with pytest.raises(ValueError, match="folds"):
            outer_folds(labels, count)


def test_what_a_fold_shows_is_reported_by_the_edit_that_the_other_folds_chose():
    """By hand: without fold 0 only the second edit helps, without fold 1 the first; each fails where it is read."""
    first, second = _Edit(RIGHT, RIGHT, WRONG, WRONG), _Edit(WRONG, WRONG, RIGHT, (1.0, 0.0))
    found = choose_nested(tried(first, second), _Budget())
    assert [choice.settings["trial"] for choice in found.choices] == [1, 0] and found.different == 2
    assert [choice.validation["corrected"] for choice in found.choices] == [2, 2]
    assert found.reported.after.tolist() == [True] * 4 and found.reported.corrected == 0 and found.trials == 2
    loss = float(torch.log1p(torch.exp(torch.tensor([-2.0, -1.0]))).mean())
    assert found.choices[0].validation["loss"] == pytest.approx(loss)


def test_misleading_images_of_the_fold_itself_change_nothing_in_the_choice_made_without_it():
    good, luck = _Edit(RIGHT, RIGHT, (1.0, 0.0), (1.0, 0.0)), _Edit(WRONG, WRONG, RIGHT, RIGHT)
    misled = _Edit((-9.0, 9.0), (-9.0, 9.0), (1.0, 0.0), (1.0, 0.0))  # as good, but where fold 0 is read
    for one, after in ((good, False), (misled, True)):
        [without_0, _] = choose_nested(tried(one, _Edit(RIGHT, RIGHT, WRONG, WRONG)), _Budget()).choices
        assert without_0.edit is one
        reported = choose_nested(tried(one, _Edit(RIGHT, RIGHT, WRONG, WRONG)), _Budget()).reported
        assert reported.after[FOLDS == 0].tolist() == [after] * 2
    assert choose_nested(tried(good, luck), _Budget()).choices[0].edit is luck  # and the lowest loss there is taken


def test_every_image_is_reported_once_and_a_fold_without_a_choice_as_it_was_before():
    found = choose_nested(tried(_Edit(WRONG, RIGHT, WRONG, WRONG)), _Budget())
    assert [choice.found for choice in found.choices] == [False, True] and found.different == 2
    assert len(found.reported.before) == len(found.reported.after) == 4 and found.reported.corrected == 0
    both = choose_nested(tried(_Edit(WRONG, RIGHT, RIGHT, WRONG)), _Budget())
    assert both.reported.after.tolist() == [True, False, False, True] and both.different == 1


def test_an_edit_beyond_a_bound_is_chosen_for_no_fold_and_each_is_run_once():
    costly, dear = _Edit(RIGHT, RIGHT, RIGHT, RIGHT), _Edit((1.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0))
    budget = _Budget(costly)
    found = choose_nested(tried(dear, costly), budget)
    assert {choice.edit for choice in found.choices} == {dear} and found.reported.corrected == 4
    assert budget.asked == [costly, dear]
    budget, kept = _Budget(), _Kept(costly)
    found = choose_nested(tried(dear, costly), budget, kept)
    assert {choice.edit for choice in found.choices} == {dear}
    assert kept.asked == [costly, dear] and budget.asked == [dear]


def test_only_edits_that_may_be_chosen_are_kept():
    breaks, helps = _Edit(WRONG, WRONG, WRONG, RIGHT), _Edit(RIGHT, RIGHT, WRONG, RIGHT)
    table = tried(breaks, helps, before=torch.tensor([True, False, False, False])).table
    assert table.edit.tolist() == ["nothing", helps]
    with pytest.raises(ValueError, match="no trials: expected at least one"):
        tried()


def test_the_table_without_a_fold_is_that_of_a_sweep_over_the_other_images(tiny):
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(12, 3, 32, 32, generator=generator)
    data = LabelledImages(images, torch.arange(12) % 5, tiny.classes)
    cuts, states = cache_states(tiny, ["conv1"], all=data)
    weight, mark = cuts["conv1"].weight, fingerprint(tiny.model)
    noise = [torch.randn(weight.shape, generator=generator) for _ in range(6)]
    trials = [({"trial": i}, Edit({"conv1.weight": Change(one)}, mark)) for i, one in enumerate(noise)]
    folds = outer_folds(data.labels, 3)
    once = sweep_once(trials, states["all"], folds)
    for fold in range(3):
        expected, found = sweep(trials, states["all"].subset(folds != fold)), once.without(fold)
        for name in ("corrected", "broken", "net"):
            assert found[name].tolist() == expected[name].tolist()
        assert found.loss.tolist() == pytest.approx(expected.loss.tolist(), rel=1e-5)
    assert isinstance(choose_nested(once, states["all"], budget=100.0), NestedChoice)


@pytest.fixture
def small_story(tiny):
    """Random images in place of the photos of snow: 20 of five classes, mostly misread."""
    noise = torch.Generator().manual_seed(5)

    def some(count):
        return LabelledImages(torch.rand(count, 3, 32, 32, generator=noise), torch.arange(count) % 5, tiny.classes)

    names = {"validation": 20, "budget": 24, "clean": 24, "keep": 6, "keep_report": 6}
    sets = {name: some(count) for name, count in names.items()} | {"reference": some(30).images}
    shown = {"minivan": make_exemplar(), "truck": make_exemplar(seed=7, label=2)}
    default = {"layer": "conv1", "exemplar": "minivan", "rank": 1, "masked": True}
    return Scenario(tiny, shown, **sets, layers=("conv1", "conv2"), shortlist=("conv1", "conv2"), default=default)


def test_the_benchmark_reports_every_photo_once_and_costs_as_means_over_the_chosen_edits(monkeypatch, small_story):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import snow_photos
    import tables

    monkeypatch.setattr(snow_photos, "snow_to_cross_validate", lambda name: small_story)
    monkeypatch.setattr(snow_photos, "FAST", snow_photos.FAST[:2])
    monkeypatch.setattr(snow_photos, "STEPS", (2, 5))
    monkeypatch.setattr(snow_photos, "RIVALS", rivals := {name: RIVALS[name] for name in ("projection", "last_layer")})
    rows = snow_photos.network("nested", "one")
    methods = [row["method"] for row in rows]
    assert methods[:3] == ["untuned", "editing", "random_direction"] and methods[-2:] == list(rivals)
    for row in rows:
        assert [len(row[part]) for part in ("test", "budget", "clean", "keep_report")] == [2, 6, 6, 6]
        assert len(row["test"][0]) == len(row["test"][1]) == 20 and 1 <= row["choices"] <= 5
    table = run(lambda name: rows, {"one": "one", "two": "two"})
    lines, networks = snow_photos.together(table)
    editing, row = lines["editing"], rows[methods.index("editing")]
    before, *after = row["clean"]
    costs = [100 * (sum(before) - sum(one)) / 24 for one in after]
    assert editing["accuracy_change_points_held_out"] == pytest.approx(sum(costs) / 5)
    assert editing["keep_errors_after"] == pytest.approx(2 * sum(map(sum, row["keep_report"][1:])) / 5)
    assert editing["choices"] == 2 * row["choices"] and editing["errors_before"] == 2 * sum(row["test"][0])
    said = tables.snow(editing | lines | {"networks": networks, "folds": 5})
    assert f", {row['choices']} of 5 |" in said


def test_a_photo_that_has_another_duty_is_refused(monkeypatch, small_story):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import snow_photos

    monkeypatch.setattr(snow_photos, "snow_scenario", lambda *given, **more: small_story)
    photos = {"ours": small_story.validation, "shown": small_story.clean.subset(range(4))}
    monkeypatch.setattr(snow_photos.photos, "snow_photos", lambda classifier: photos["ours"])
    story = snow_photos.snow_to_cross_validate("one")
    assert story.test is None and len(story.validation) == 20 and story.default["layer"] == story.layers[0]
    monkeypatch.setattr(snow_photos.photos, "snow_photos", lambda classifier: photos["shown"])
    with pytest.raises(ValueError, match="4 of the 4 snow photos are among clean: expected none"):
        snow_photos.snow_to_cross_validate("one")
    exemplar = small_story.exemplars["truck"].changed[None]
    monkeypatch.setattr(
        snow_photos.photos,
        "snow_photos",
        lambda classifier: LabelledImages(exemplar, torch.zeros(1, dtype=torch.long), classifier.classes),
    )
    with pytest.raises(ValueError, match="1 of the 1 snow photos are among exemplars: expected none"):
        snow_photos.snow_to_cross_validate("one")
