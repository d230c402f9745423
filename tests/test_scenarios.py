"""The scenarios of notebooks 01 and 02: which scenes and photos their sets hold, and that the sets are disjoint."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import needs_photos

import edittools as et
from edittools.miniworld.attacks import ATTACKED
from edittools.miniworld.contexts import contexts
from edittools.scenarios import snow, snow_scenario, typographic, typographic_scenario
from edittools.scenarios.snow import LIVES_ON_SNOW, SNOW_EXEMPLARS
from edittools.scenarios.typographic import OTHER_ATTACKS
from edittools.selection.constraints import FEW
from edittools.selection.splits import check_splits


def are_disjoint(scene_sets):
    """No seed is in two of the sets."""
    seeds = sorted((scene_set.seeds for scene_set in scene_sets), key=lambda seeds: seeds.start)
    return all(first.stop <= second.start for first, second in pairwise(seeds))


def counts(scene_sets):
    return {name: scene_set.count for name, scene_set in scene_sets.items()}


def are_distinct(images):
    """No two images `(N, ...)` are the same in 8 bits."""
    return len(torch.unique((images * 255).round().byte(), dim=0)) == len(images)


@pytest.fixture(scope="module")
def mini():
    return snow_scenario("mini", most_scenes=200)


def test_current_tier_unknown(monkeypatch):
    monkeypatch.setenv("EDITTOOLS_TIER", "huge")
    with pytest.raises(ValueError, match="EDITTOOLS_TIER 'huge'.*mini, lite, paper"):
        snow_scenario()
    with pytest.raises(ValueError, match="tier 'light'.*mini, lite, paper"):
        snow_scenario("light")
    with pytest.raises(ValueError, match="tier 'light'"):
        typographic_scenario("light")


def test_current_tier_default(monkeypatch):
    monkeypatch.delenv("EDITTOOLS_TIER", raising=False)
    assert et.scenarios.current_tier() == "mini"


def test_snow_scenario_mini_sets_are_disjoint(mini):
    assert are_disjoint(snow.scene_sets().values())
    assert list(mini.sets) == ["validation", "budget", "test", "clean", "keep_report", "own"]
    sets = {**mini.sets, "keep": mini.keep, "reference": mini.reference}
    assert {name: len(data) for name, data in sets.items()} == counts(snow.scene_sets(most_scenes=200))
    images = torch.cat([data.images for data in sets.values()])
    exemplar_images = torch.stack([exemplar.image for exemplar in mini.exemplars.values()])
    assert are_distinct(torch.cat([images, exemplar_images]))


def test_snow_scenario_mini_test_has_other_classes_on_snow_only(mini):
    names = {mini.classifier.classes[label] for label in mini.test.labels.unique().tolist()}
    assert names == set(contexts().query("family == 'vehicle'").index) - {"car"}
    assert {mini.classifier.classes[exemplar.label] for exemplar in mini.exemplars.values()} == {"car"}
    assert bool((mini.test.mask("road") == 0).all())
    assert mini.default["layer"] in mini.shortlist
    assert mini.default["exemplar"] in mini.exemplars
    first = mini.exemplars["car 1"]
    assert torch.equal(mini.change(first.image, first.mask), first.changed)


def test_snow_scenario_mini_one_exemplar_corrects_half_of_the_errors(mini):
    """The claim of notebook 01 about the small VGG holds for the small ResNet: few images, every second layer."""
    scenario = replace(
        mini,
        classifier=et.load_classifier("mini_resnet"),
        keep_report=mini.keep_report.subset(range(2)),
        clean=mini.clean.subset(range(2)),
        own=None,
    )
    layers = [layer for layer in et.editable_layers(scenario.classifier).layer if layer != "fc"]
    protocol = et.selection.Protocol(scenario, layers[len(layers) // 3 :: 2])
    assert protocol.states["test"].before.float().mean() > 0.3
    settings = et.selection.grid(objective=("l1", "least_squares"))
    exemplar = {"car 2": scenario.exemplars["car 2"]}
    best = protocol.choose(protocol.rewriting(settings, (0.5, 1.0), exemplar))
    assert best.found
    assert best.kept.broken <= et.selection.most_broken(len(best.kept.before))
    assert best.accuracy_change >= -et.selection.BUDGET
    assert protocol.states["test"].compare(best.edit).row()["errors corrected"] >= 0.5


@needs_photos
def test_snow_scenario_lite_sets_are_disjoint():
    scenario = snow_scenario("lite")
    assert list(scenario.exemplars) == list(SNOW_EXEMPLARS)
    assert len(scenario.validation) + len(scenario.test) == 126
    assert abs(len(scenario.validation) - 0.3 * 126) <= 1
    check_splits(scenario)
    sets = (
        scenario.validation,
        scenario.test,
        scenario.budget,
        scenario.clean,
        scenario.keep,
        scenario.keep_report,
    )
    names = set().union(*(data.names for data in sets))
    assert sum(map(len, sets)) == len(names)
    assert not any(stem in name for stem in SNOW_EXEMPLARS.values() for name in names)
    assert len(scenario.budget) >= FEW
    assert len(scenario.reference) > 200
    test_labels = scenario.test.labels.tolist()
    assert {exemplar.label for exemplar in scenario.exemplars.values()}.isdisjoint(test_labels)
    retained_labels = {*scenario.keep.labels.tolist(), *scenario.keep_report.labels.tolist()}
    assert retained_labels <= {scenario.classifier.index(name) for name in LIVES_ON_SNOW}
    assert scenario.default["layer"] in scenario.shortlist
    assert scenario.default["exemplar"] in scenario.exemplars
    assert set(scenario.shortlist) <= set(scenario.layers) <= set(et.editable_layers(scenario.classifier).layer)


@pytest.fixture(scope="module")
def attacked():
    return typographic_scenario("mini", most_scenes=26)


def test_typographic_scenario_sets_are_disjoint(attacked):
    check_splits(attacked)
    attacked_sets, bare_sets = typographic.scene_sets()
    other_words = attacked_sets.pop("other words")
    assert are_disjoint([*attacked_sets.values(), *bare_sets.values()])
    assert other_words.seeds.start == attacked_sets["test"].seeds.start  # other words, on scenes of the test
    assert set(attacked.more) == {"bare", "blank", *OTHER_ATTACKS}
    sets = [data for name, data in attacked.sets.items() if name not in OTHER_ATTACKS]
    images = torch.cat([data.images for data in [*sets, attacked.reference]])
    assert are_distinct(images)


def test_typographic_scenario_attacks_other_objects_than_the_exemplars(attacked):
    names = attacked.classifier.classes
    test_names = {names[label] for label in attacked.test.labels.unique().tolist()}
    assert test_names == set(ATTACKED)
    assert not test_names & {names[exemplar.label] for exemplar in attacked.exemplars.values()}
    [variants] = attacked.several.values()
    assert len(variants) == 10
    assert {names[exemplar.label] for exemplar in variants} == {"jar"}
    assert len({exemplar.changed.numpy().tobytes() for exemplar in variants}) == 10
    assert {names[label] for label in attacked.keep_report.labels.tolist()} == {"iPod"}
    assert attacked.default["exemplar"] in attacked.exemplars
    assert attacked.default["layer"] in attacked.shortlist


def test_typographic_scenario_change_covers_the_mask_only(attacked):
    first = next(iter(attacked.exemplars.values()))
    covered = attacked.change(first.changed, first.mask)
    assert torch.equal(covered[:, first.mask == 0], first.changed[:, first.mask == 0])
    assert not torch.equal(covered, first.changed)


def test_scene_sets_small_halves_those_of_selection_and_evaluation():
    assert counts(snow.scene_sets()) == {
        "validation": 240,
        "test": 1080,
        "own": 120,
        "budget": 1200,
        "clean": 1200,
        "reference": 600,
        "keep": 450,
        "keep_report": 150,
    }
    halved = {"validation": 120, "test": 540, "own": 60, "clean": 600}
    assert counts(snow.scene_sets(small=True)) == counts(snow.scene_sets()) | halved
    attacked_sets, bare_sets = typographic.scene_sets()
    assert counts(attacked_sets) == {"validation": 300, "test": 1000, "other words": 300}
    assert counts(bare_sets) == {"reference": 650, "budget": 1300, "clean": 1300, "keep": 150, "keep_report": 150}
    attacked_sets, small_bare_sets = typographic.scene_sets(small=True)
    assert counts(attacked_sets) == {"validation": 150, "test": 500, "other words": 150}
    assert counts(small_bare_sets) == counts(bare_sets) | {"clean": 650}


def test_typographic_scenario_lite_small_renders_the_first_scenes():
    scenario = typographic_scenario("lite", small=True, most_scenes=6)  # rendered in that tier, too
    assert len(scenario.test) == len(scenario.more["pizza"]) == len(scenario.clean) == 6
    assert torch.equal(scenario.test.labels, torch.tensor([scenario.classifier.index(name) for name in ATTACKED]))
