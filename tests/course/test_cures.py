"""From a rule to an edit: what the scenario of a rule holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import shared_images
from torch.nn.functional import interpolate

from edittools.exemplars import Exemplar, paste_texture
from edittools.metrics import predict
from edittools.probing.probe import probe
from edittools_course.miniworld.scenes import CLASSES
from edittools_course.scenarios.rules import scenario_for

CAR = {"class": "car", "concept": "road", "material": "snow"}


@pytest.fixture(scope="module")
def concepts(story):
    return story.concepts


@pytest.fixture(scope="module")
def cars(concepts):
    """The numbers of the cars; all of them show a road."""
    numbers = (concepts.data.labels == CLASSES.index("car")).nonzero()[:, 0].tolist()
    assert (concepts.masks["road"][numbers].mean(dim=(1, 2)) >= 0.02).all()
    return numbers


@pytest.fixture(scope="module")
def rule(cars):
    return CAR | {"evidence": tuple(cars)}


def make(story, rule, concepts=None, exemplars=3):
    classifier = story.classifiers["mini_vgg"]
    return scenario_for(classifier, concepts or story.concepts, rule, story.common_fields, exemplars)


@pytest.fixture(scope="module")
def made(story, rule):
    """The scenario of the rule, and the numbers of its images."""
    return make(story, rule)


def test_scenario_for_sets_are_disjoint_and_complete(story, rule, cars, concepts):
    """The classifier predicts which images are correct; all else is counted from the masks."""
    scenario, numbers = make(story, rule, exemplars=2)
    scenario.splits.check_disjoint(scenario.exemplars.values())
    data = concepts.data
    is_correct = predict(scenario.classifier, data).argmax(dim=1) == data.labels
    shows_road = concepts.masks["road"].mean(dim=(1, 2)) >= 0.02
    expected = set((is_correct & shows_road).nonzero()[:, 0].tolist()) - set(cars[:2])
    assert set(numbers) == {"target", "target_test", "same_class_test"}
    assert set().union(*numbers.values()) == expected
    assert sum(map(len, numbers.values())) == len(expected)
    assert set(numbers["same_class_test"]) <= set(cars)
    assert not set(numbers["target_test"]) & set(cars)
    assert scenario.layers is None
    assert scenario.default["layer"] == "features.10"
    assert scenario.default["exemplar"] == "car 1"


def test_scenario_for_transforms_the_concept_only(made, concepts):
    scenario, numbers = made
    data = concepts.data
    for name, variants in {"target": 3, "target_test": 1, "same_class_test": 1}.items():
        transformed = scenario.splits.labeled[name]
        originals = np.repeat(numbers[name], variants)
        assert torch.equal(transformed.labels, data.labels[originals])
        differs = (transformed.images - data.images[originals]).abs().sum(dim=1) > 0
        assert not (differs & (concepts.masks["road"][originals] == 0)).any()
        assert differs.flatten(1).any(dim=1).all()


def test_scenario_for_retains_images_of_the_material(made, concepts):
    scenario, _ = made
    data = concepts.data
    is_correct = predict(scenario.classifier, data).argmax(dim=1) == data.labels
    shows_snow = concepts.masks["snow"].mean(dim=(1, 2)) >= 0.02
    expected = set(map(bytes, data.images[is_correct & shows_snow].numpy()))
    keep = set(map(bytes, scenario.splits.retain.images.numpy()))
    keep_report = set(map(bytes, scenario.splits.retain_test.images.numpy()))
    assert not keep & keep_report
    assert keep | keep_report == expected
    assert abs(len(keep) - len(keep_report)) <= 1


def test_scenario_for_image_of_concept_and_material_is_not_retained(story, rule, concepts):
    """Half of each image of a road is marked as snow as well: it is transformed to snow, not retained."""
    snow = concepts.masks["snow"].clone()
    both = (concepts.masks["road"].mean(dim=(1, 2)) >= 0.02).nonzero()[:, 0]
    snow[both, :32] = 1
    changed = replace(concepts, masks={**concepts.masks, "snow": snow})
    scenario, numbers = make(story, rule, changed, exemplars=2)
    usual_scenario, usual_numbers = make(story, rule, concepts, exemplars=2)
    assert numbers == usual_numbers
    assert len(scenario.splits.retain) == len(usual_scenario.splits.retain)
    for retained in (scenario.splits.retain, scenario.splits.retain_test):
        assert not shared_images(retained, concepts.data.images[both])


def test_scenario_for_exemplars_are_the_evidence_each_in_another_variant(made, cars, concepts):
    scenario, _ = made
    assert list(scenario.exemplars) == ["car 1", "car 2", "car 3"]
    for place, exemplar in enumerate(scenario.exemplars.values()):
        image = concepts.data.images[cars[place]]
        road = concepts.masks["road"][cars[place]]
        assert exemplar.label == CLASSES.index("car")
        assert torch.equal(exemplar.image, image)
        assert torch.equal(exemplar.changed, paste_texture(image, road, concepts.materials["snow"][place]))


def test_scenario_for_test_variants_are_held_out(made, concepts):
    scenario, numbers = made

    def variant_of(changed, number):
        image = concepts.data.images[number]
        road = concepts.masks["road"][number]
        versions = paste_texture(image, road, concepts.materials["snow"])
        return next(variant for variant, version in enumerate(versions) if torch.equal(version, changed))

    middle = len(concepts.materials["snow"]) // 2
    assert {*map(variant_of, scenario.splits.target.images, np.repeat(numbers["target"], 3))} <= set(range(middle))
    held_out = {*map(variant_of, scenario.splits.target_test.images, numbers["target_test"])}
    assert held_out <= set(range(middle, 2 * middle))


def test_scenario_for_larger_images_are_resized(story, rule, concepts):
    masks = {concept: interpolate(mask[None], scale_factor=2)[0] for concept, mask in concepts.masks.items()}
    large = replace(concepts.data, images=interpolate(concepts.data.images, scale_factor=2))
    scenario, numbers = make(story, rule, replace(concepts, data=large, masks=masks))
    size = scenario.classifier.size
    assert (
        scenario.splits.target_test.images.shape[-2:] == scenario.splits.retain_test.images.shape[-2:] == (size, size)
    )
    for exemplar in scenario.exemplars.values():
        assert exemplar.mask.shape == (size, size)
        assert set(exemplar.mask.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(scenario.splits.target_test.labels, large.labels[numbers["target_test"]])


def test_sized_exemplar_retains_the_share_of_the_mask(concepts, cars):
    images = concepts.data.images
    exemplar = Exemplar(images[cars[0]], images[cars[1]], concepts.masks["road"][cars[0]], 3)
    half = exemplar.sized(32)
    assert half.image.shape == (3, 32, 32)
    assert half.label == 3
    assert exemplar.sized(64).image.equal(exemplar.image)
    assert float(half.mask.mean()) == pytest.approx(float(exemplar.mask.mean()), abs=0.03)
    thin = replace(exemplar, mask=torch.eye(64) * (torch.arange(64) == 20))
    with pytest.raises(ValueError, match="mask is empty"):
        thin.sized(16)


def test_scenario_for_too_few_images(story, rule, concepts, cars):
    with pytest.raises(ValueError, match=r"'car' on 'road' → 'snow'.*'target_test': 0, 'same_class_test': \d+}"):
        make(story, {**rule, "evidence": (0,)}, concepts.subset(cars))
    with pytest.raises(ValueError, match="'exemplars': 0"):
        make(story, rule, exemplars=0)


@pytest.mark.parametrize(("key", "value"), [("concept", "lava"), ("material", "wooden"), ("class", "ufo")])
def test_scenario_for_unknown_names(story, rule, key, value):
    with pytest.raises(KeyError, match=f"'{value}'"):
        make(story, {**rule, key: value})


@pytest.fixture(scope="module")
def probed(story):
    settings = replace(story.settings, least_images=3)
    return probe(story.classifiers["mini_vgg"], story.concepts, settings)


def test_strongest_rule_prefers_the_example(probed):
    significant = probed.rules()
    rules = probed.rules(fdr=1, least_effect=0) if significant.empty else significant
    of_cars, cars_are_significant = probed.strongest_rule("car")
    strongest, strongest_is_significant = probed.strongest_rule("ufo")
    assert of_cars.equals(rules[rules["class"] == "car"].iloc[0])
    assert strongest.equals(rules.iloc[0])
    assert cars_are_significant is strongest_is_significant is not significant.empty


def test_strongest_rule_too_few_images(probed):
    for table in (probed.table[:0], probed.table):
        with pytest.raises(ValueError, match="99"):
            replace(probed, table=table, least_images=99).strongest_rule()
