"""The scenarios of notebooks 01 and 02: which scenes and photos their sets hold, and that the sets are disjoint."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import needs_photos

import edittools as et
import edittools_course
from edittools.images import LabeledImages
from edittools.layers import candidate_layers
from edittools.selection.scores import Candidate, Scores
from edittools_course.by_labels import select_by_labels
from edittools_course.miniworld.attacks import ATTACKED
from edittools_course.miniworld.contexts import contexts
from edittools_course.scenarios import snow, snow_scenario, typographic, typographic_scenario
from edittools_course.scenarios.scenario import ScenarioSplits, best_by_method
from edittools_course.scenarios.snow import LIVES_ON_SNOW, SNOW_EXEMPLARS
from edittools_course.scenarios.tiers import UNTUNED
from edittools_course.scenarios.typographic import OTHER_ATTACKS

SPLITS = ("target", "retain", "clean", "target_test", "clean_test", "retain_test", "same_class_test")


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


def test_small_snow_scenario_searches_the_layer_of_its_default_edit():
    for name, layers in snow.FEW_LAYERS.items():
        assert UNTUNED[name] in layers


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
    assert edittools_course.scenarios.current_tier() == "mini"


@pytest.mark.parametrize("name", edittools_course.__all__)
def test_course_imports_a_subpackage_when_it_is_first_used(name):
    script = f"import edittools_course; print(edittools_course.{name}.__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"edittools_course.{name}", done.stderr


def test_course_has_no_other_name():
    with pytest.raises(AttributeError, match="'scenes'.*scenarios"):
        _ = edittools_course.scenes


def test_snow_scenario_mini_sets_are_disjoint(mini):
    assert are_disjoint(snow.scene_sets().values())
    assert list(mini.splits.labeled) == list(SPLITS)
    sets = {**mini.splits.labeled, "reference": mini.splits.reference}
    assert {name: len(data) for name, data in sets.items()} == counts(snow.scene_sets(most_scenes=200))
    images = torch.cat([data.images for data in sets.values()])
    exemplar_images = torch.stack([exemplar.image for exemplar in mini.exemplars.values()])
    assert are_distinct(torch.cat([images, exemplar_images]))


def test_snow_scenario_mini_test_has_other_classes_on_snow_only(mini):
    names = {mini.classifier.classes[label] for label in mini.splits.target_test.labels.unique().tolist()}
    assert names == set(contexts().query("family == 'vehicle'").index) - {"car"}
    assert {mini.classifier.classes[exemplar.label] for exemplar in mini.exemplars.values()} == {"car"}
    assert bool((mini.splits.target_test.mask("road") == 0).all())
    assert mini.layers is None and mini.default["layer"] in candidate_layers(mini.classifier)
    assert mini.default["exemplar"] in mini.exemplars
    first = mini.exemplars["car 1"]
    assert torch.equal(mini.change(first.image, first.mask), first.changed)


def test_snow_scenario_mini_one_exemplar_corrects_half_of_the_errors(mini):
    """The claim of notebook 01 about the small VGG holds for the small ResNet: few images and layers."""
    classifier = et.load_classifier("mini_resnet")
    splits = mini.splits
    layers = [layer for layer in candidate_layers(classifier) if layer != "fc"]
    scores = select_by_labels(
        classifier,
        {"car 2": mini.exemplars["car 2"]},
        splits.images,
        splits.target,
        layers=layers[len(layers) // 3 :: 4],
        where=mini.where,
    )
    edited = scores.best().scaled.edited(classifier)
    before, after = (et.error_rate(network, splits.target_test) for network in (classifier, edited))
    assert before > 0.3
    assert after <= before / 2
    assert et.error_rate(edited, splits.clean_test) <= et.error_rate(classifier, splits.clean_test) + 0.03


def test_best_by_method_has_the_lowest_objective_of_each():
    candidates = [Candidate(None, {"method": name}) for name in ("b", "a", "a", "b")]
    marked = torch.tensor([[3.0], [2.0], [1.0], [4.0]])
    nothing = torch.zeros(4, 0)
    is_own = torch.zeros(1, dtype=torch.bool)
    scores = Scores(candidates, marked, nothing, marked[0], is_own, torch.zeros(0, dtype=torch.bool))
    assert best_by_method(scores) == {"a": candidates[2], "b": candidates[0]}


def test_splits_name_an_extra_set_that_is_another_one(photos32):
    data = LabeledImages(photos32, torch.zeros(40, dtype=torch.long), ("a",))
    with pytest.raises(ValueError, match="'clean_test'"):
        ScenarioSplits(photos32, data, extra={"clean_test": data})
    with pytest.raises(TypeError, match="'target' is a Tensor"):
        ScenarioSplits(photos32, photos32)


def test_splits_may_not_share_an_image_for_two_purposes(photos32):
    data = LabeledImages(photos32, torch.zeros(40, dtype=torch.long), ("a",))
    target, test, clean = data.subset(range(10)), data.subset(range(10, 20)), data.subset(range(20, 30))
    splits = ScenarioSplits(photos32[30:], target, clean, target_test=test, extra={"more": test})
    splits.check_disjoint()
    assert list(splits.for_evaluation) == ["target_test", "more"]
    exemplar = et.Exemplar(photos32[0], 1 - photos32[0], torch.ones(32, 32))
    splits.check_disjoint([exemplar])  # x may be a target image
    with pytest.raises(ValueError, match="'target' and 'target_test' share 1 image"):
        replace(splits, target_test=data.subset(range(9, 20))).check_disjoint()
    with pytest.raises(ValueError, match="'reference' and 'clean' share 10 images"):
        replace(splits, reference=photos32[20:]).check_disjoint()
    with pytest.raises(ValueError, match="'x' and 'clean' share 1 image"):
        splits.check_disjoint([replace(exemplar, image=photos32[20])])


@needs_photos
def test_snow_scenario_lite_sets_are_disjoint():
    scenario = snow_scenario("lite")
    assert list(scenario.exemplars) == list(SNOW_EXEMPLARS)
    assert len(scenario.splits.target) + len(scenario.splits.target_test) == 126
    assert abs(len(scenario.splits.target) - 0.3 * 126) <= 1
    scenario.splits.check_disjoint(scenario.exemplars.values())
    sets = (
        scenario.splits.target,
        scenario.splits.target_test,
        scenario.splits.clean,
        scenario.splits.clean_test,
        scenario.splits.retain,
        scenario.splits.retain_test,
    )
    names = set().union(*(data.names for data in sets))
    assert sum(map(len, sets)) == len(names)
    assert not any(stem in name for stem in SNOW_EXEMPLARS.values() for name in names)
    assert len(scenario.splits.clean) >= 400
    assert len(scenario.splits.reference) > 200
    test_labels = scenario.splits.target_test.labels.tolist()
    assert {exemplar.label for exemplar in scenario.exemplars.values()}.isdisjoint(test_labels)
    retained_labels = {*scenario.splits.retain.labels.tolist(), *scenario.splits.retain_test.labels.tolist()}
    assert retained_labels <= {scenario.classifier.index(name) for name in LIVES_ON_SNOW}
    layers = candidate_layers(scenario.classifier)
    assert scenario.layers is None and scenario.default["layer"] in layers
    assert scenario.default["exemplar"] in scenario.exemplars
    assert set(snow_scenario("lite", small=True).layers) < set(layers)


@pytest.fixture(scope="module")
def attacked():
    return typographic_scenario("mini", most_scenes=26)


def test_typographic_scenario_sets_are_disjoint(attacked):
    several = [exemplar for group in attacked.several.values() for exemplar in group]
    attacked.splits.check_disjoint([*attacked.exemplars.values(), *several])
    attacked_sets, bare_sets = typographic.scene_sets()
    other_words = attacked_sets.pop("other words")
    assert are_disjoint([*attacked_sets.values(), *bare_sets.values()])
    assert other_words.seeds.start == attacked_sets["target_test"].seeds.start  # other words, on scenes of the test
    assert set(attacked.splits.extra) == {"bare", "blank", *OTHER_ATTACKS}
    sets = [data for name, data in attacked.splits.labeled.items() if name not in OTHER_ATTACKS]
    images = torch.cat([data.images for data in [*sets, attacked.splits.reference]])
    assert are_distinct(images)


def test_typographic_scenario_attacks_other_objects_than_the_exemplars(attacked):
    names = attacked.classifier.classes
    test_names = {names[label] for label in attacked.splits.target_test.labels.unique().tolist()}
    assert test_names == set(ATTACKED)
    assert not test_names & {names[exemplar.label] for exemplar in attacked.exemplars.values()}
    [variants] = attacked.several.values()
    assert len(variants) == 10
    assert {names[exemplar.label] for exemplar in variants} == {"jar"}
    assert len({exemplar.changed.numpy().tobytes() for exemplar in variants}) == 10
    assert {names[label] for label in attacked.splits.retain_test.labels.tolist()} == {"iPod"}
    assert attacked.default["exemplar"] in attacked.exemplars
    assert attacked.layers is None and attacked.default["layer"] in candidate_layers(attacked.classifier)


def test_typographic_scenario_lite_small_renders_the_first_scenes(attacked, monkeypatch):
    monkeypatch.setattr(typographic, "load_classifier", {"mini_clip": attacked.classifier}.__getitem__)  # exported
    scenario = typographic_scenario("lite", small=True, most_scenes=6)  # rendered in that tier, too
    splits = scenario.splits
    assert len(splits.target_test) == len(splits.extra["pizza"]) == len(splits.clean_test) == 6
    assert torch.equal(splits.target_test.labels, torch.tensor([scenario.classifier.index(name) for name in ATTACKED]))
