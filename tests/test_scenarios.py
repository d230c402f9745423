from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import needs_photos

import edittools as et
from edittools import miniworld
from edittools.miniworld import attacks
from edittools.miniworld.attacks import ATTACKED
from edittools.miniworld.contexts import SPLITS, contexts
from edittools.scenarios import snow_scenario, tiers, typographic, typographic_scenario
from edittools.scenarios.snow import LIVES_ON_SNOW, SNOW_EXEMPLARS
from edittools.scenarios.typographic import OTHER_ATTACKS
from edittools.selection.constraints import FEW
from edittools.selection.splits import check_splits


class Painters:
    """Paint the first scenes of a set only, and note which were asked for: (first seed, how many)."""

    def __init__(self, most):
        self.most, self.asked = most, []

    def _few(self, count, split, offset=0):
        first = SPLITS[split].start if isinstance(split, str) else split
        self.asked.append(range(first + offset, first + offset + count))
        return min(count, self.most)

    def scenes(self, count, split="train", label=None, **options):
        few = self._few(count, split)
        labels = label if label is None or isinstance(label, str) else label[:few]
        return miniworld.scenes(few, split, labels, **options)

    def attacks(self, count, split, words, workers):
        return attacks.attacks(self._few(count, split, 800_000), split, words, workers)


@contextmanager
def painting(most):
    """Let the stories paint at most so many scenes of a set: whole ones are for the notebooks and the benchmarks."""
    painters = Painters(most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiers, "scenes", painters.scenes)
        patch.setattr(typographic, "attacks", painters.attacks)
        yield painters


def share_no_seed(asked):
    return all(one.stop <= other.start for one, other in pairwise(sorted(asked, key=lambda seeds: seeds.start)))


@pytest.fixture(scope="module")
def painted():
    with painting(most=200) as painters:
        return snow_scenario("mini"), painters.asked


@pytest.fixture
def mini(painted):
    return painted[0]


def test_unknown_tiers_are_refused(monkeypatch):
    monkeypatch.setenv("EDITTOOLS_TIER", "huge")
    with pytest.raises(ValueError, match="EDITTOOLS_TIER 'huge'.* mini, lite, paper"):
        snow_scenario()
    with pytest.raises(ValueError, match="tier 'light'.* mini, lite, paper"):
        snow_scenario("light")
    monkeypatch.delenv("EDITTOOLS_TIER")
    assert et.scenarios.current_tier() == "mini"


def test_no_image_of_the_mini_story_is_in_two_of_its_sets(painted):
    mini, asked = painted
    assert share_no_seed(asked) and sorted(map(len, asked)) == [120, 150, 240, 450, 600, 1080, 1200, 1200]
    sets = [*mini.sets.values(), mini.keep, mini.reference]
    assert list(mini.sets) == ["validation", "budget", "test", "clean", "keep_report", "own"]
    images = torch.cat(
        [data.images.flatten(1) for data in sets] + [e.image.flatten()[None] for e in mini.exemplars.values()]
    )
    assert len(torch.unique((images * 255).round().byte(), dim=0)) == len(images)


def test_the_mini_story_tests_other_classes_than_the_exemplars_and_only_on_snow(mini):
    shown = {mini.classifier.classes[label] for label in mini.test.labels.unique().tolist()}
    assert shown == set(contexts().query("family == 'vehicle'").index) - {"car"}
    assert {mini.classifier.classes[e.label] for e in mini.exemplars.values()} == {"car"}
    assert bool((mini.test.mask("road") == 0).all())
    assert mini.default["layer"] in mini.shortlist and mini.default["exemplar"] in mini.exemplars
    first = mini.exemplars["car 1"]
    assert torch.equal(mini.change(first.image, first.mask), first.changed)


def test_one_exemplar_mends_half_of_the_errors_of_other_classes_within_the_bounds(mini):
    """What notebook 01 claims of the small VGG, on the small ResNet: few images, every second layer."""
    story = replace(mini, classifier=et.load_classifier("mini_resnet"))
    layers = [layer for layer in et.editable_layers(story.classifier).layer if layer != "fc"]
    few = {"keep_report": story.keep_report.subset(range(2)), "clean": story.clean.subset(range(2)), "own": None}
    protocol = et.selection.Protocol(replace(story, **few), layers[len(layers) // 3 :: 2])
    assert protocol.states["test"].before.float().mean() > 0.3
    tried, one = et.selection.grid(objective=("l1", "least_squares")), {"car 2": story.exemplars["car 2"]}
    best = protocol.choose(protocol.rewriting(tried, (0.5, 1.0), one))
    assert best.kept.broken <= et.selection.most_broken(len(best.kept.before))
    assert best.found and best.accuracy_change >= -et.selection.BUDGET
    assert protocol.states["test"].compare(best.edit).row()["errors corrected"] >= 0.5


@needs_photos
def test_the_lite_story_keeps_exemplars_validation_and_test_apart():
    story = snow_scenario("lite")
    assert list(story.exemplars) == list(SNOW_EXEMPLARS)
    assert len(story.validation) + len(story.test) == 126 and abs(len(story.validation) - 0.3 * 126) <= 1
    check_splits(story)
    sets = (story.validation, story.test, story.budget, story.clean, story.keep, story.keep_report)
    groups = [set(data.names) for data in sets]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert not any(stem in name for stem in SNOW_EXEMPLARS.values() for name in set.union(*groups))
    assert len(story.budget) >= FEW and len(story.reference) > 200
    assert {e.label for e in story.exemplars.values()}.isdisjoint(story.test.labels.tolist())
    kept = {*story.keep.labels.tolist(), *story.keep_report.labels.tolist()}
    assert kept <= {story.classifier.index(word) for word in LIVES_ON_SNOW}
    assert story.default["layer"] in story.shortlist and story.default["exemplar"] in story.exemplars
    assert set(story.shortlist) <= set(story.layers) <= set(et.editable_layers(story.classifier).layer)


def test_the_typographic_story_attacks_other_objects_than_those_of_its_exemplars():
    with painting(most=26) as painters:
        story = typographic_scenario("mini")
    check_splits(story)
    *asked, more = painters.asked
    assert share_no_seed(asked) and sorted(map(len, asked)) == [150, 150, 300, 650, 1000, 1300, 1300]
    assert len(more) == 300 and any(more[0] == seeds[0] for seeds in asked)  # other words, on scenes of the test
    names = story.classifier.classes
    shown = {names[i] for i in story.test.labels.unique().tolist()}
    assert shown == set(ATTACKED)
    assert not shown & {names[e.label] for e in story.exemplars.values()}
    [variants] = story.several.values()
    assert len(variants) == 10 and {names[e.label] for e in variants} == {"jar"}
    assert len({e.changed.numpy().tobytes() for e in variants}) == 10
    assert {names[i] for i in story.keep_report.labels.tolist()} == {"iPod"}
    assert set(story.more) == {"bare", "blank", *OTHER_ATTACKS}
    sets = [data for name, data in story.sets.items() if name not in OTHER_ATTACKS] + [story.reference]
    images = torch.cat([data.images.flatten(1) for data in sets])
    assert len(torch.unique((images * 255).round().byte(), dim=0)) == len(images)
    first = next(iter(story.exemplars.values()))
    covered = story.change(first.changed, first.mask)
    assert torch.equal(covered[:, first.mask == 0], first.changed[:, first.mask == 0])
    assert story.default["exemplar"] in story.exemplars and story.default["layer"] in story.shortlist
    with pytest.raises(ValueError, match="tier 'light'"):
        typographic_scenario("light")


def test_half_of_the_scenes_that_choose_and_report_are_painted_and_all_of_the_others():
    with painting(most=6) as painters:
        snow_scenario("mini", small=True)
    assert sorted(map(len, painters.asked)) == [60, 120, 150, 450, 540, 600, 600, 1200]
    with painting(most=6) as painters:
        typographic_scenario("lite", small=True)  # drawn in that tier too
    assert sorted(map(len, painters.asked)) == [150, 150, 150, 150, 500, 650, 650, 1300]
