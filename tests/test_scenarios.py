from dataclasses import replace

import pytest
import torch
from conftest import needs_photos

import edittools as et
from edittools import probing, scenarios
from edittools.images import LabelledImages
from edittools.mini_clip import ATTACKED
from edittools.miniworld import contexts
from edittools.scenarios import LIVES_ON_SNOW, OTHER_ATTACKS, SNOW_EXEMPLARS


@pytest.fixture(scope="module")
def mini():
    return et.snow_scenario("mini")


def test_unknown_tiers_are_refused(monkeypatch):
    monkeypatch.setenv("EDITTOOLS_TIER", "huge")
    with pytest.raises(ValueError, match="EDITTOOLS_TIER='huge': expected one of mini, lite, paper"):
        et.snow_scenario()
    with pytest.raises(ValueError, match="tier 'light': expected one of mini, lite, paper"):
        et.snow_scenario("light")
    monkeypatch.delenv("EDITTOOLS_TIER")
    assert et.current_tier() == "mini"


def test_no_image_of_the_mini_story_is_in_two_of_its_sets(mini):
    sets = [mini.validation, mini.test, mini.clean_validation, mini.clean, mini.legitimate, mini.own]
    images = torch.cat(
        [data.images.flatten(1) for data in sets] + [e.image.flatten()[None] for e in mini.exemplars.values()]
    )
    assert len(torch.unique((images * 255).round().byte(), dim=0)) == len(images)


def test_the_mini_story_tests_other_classes_than_the_exemplars_and_only_on_snow(mini):
    shown = {mini.classifier.classes[label] for label in mini.test.labels.unique().tolist()}
    assert shown == set(contexts().query("family == 'vehicle'").index) - {"car"}
    assert {mini.classifier.classes[e.label] for e in mini.exemplars.values()} == {"car"}
    assert len(mini.test) >= 1000 and bool((mini.test.mask("road") == 0).all())
    assert mini.default["layer"] in mini.shortlist and mini.default["exemplar"] in mini.exemplars
    first = mini.exemplars["car 1"]
    assert torch.equal(mini.change(first.image, first.mask), first.changed)


@pytest.mark.parametrize("name", ["mini_vgg", "mini_resnet"])
def test_one_exemplar_mends_half_of_the_errors_of_other_classes_within_the_budget(mini, name):
    """A small version of what notebook 01 and benchmarks/snow_miniworld.py show, on both models with the same code."""
    story = replace(mini, classifier=et.load_classifier(name))
    layers = [
        layer for layer in et.editable_layers(story.classifier).layer if "classifier" not in layer and layer != "fc"
    ]
    sets = {"validation": story.validation, "test": story.test, "clean": story.clean_validation}
    cuts, kept = et.prepare(story.classifier, layers[len(layers) // 3 :], **sets)
    assert kept["test"].before.float().mean() > 0.3
    moments = et.second_moments(story.classifier, list(cuts), story.reference, cache="")
    one = {"car 2": story.exemplars["car 2"]}
    trials = et.rewriting_trials(cuts, one, moments, et.grid(objective=("l1", "least_squares")), (0.5, 1.0))
    best = et.select(et.sweep(trials, kept["validation"]), kept["clean"])
    assert best.accuracy_change >= -et.BUDGET
    assert kept["test"].compare(best.edit).row()["errors corrected"] >= 0.5


@needs_photos
def test_the_lite_story_keeps_exemplars_validation_and_test_apart():
    story = et.snow_scenario("lite")
    assert list(story.exemplars) == list(SNOW_EXEMPLARS)
    assert len(story.validation) + len(story.test) == 127 and abs(len(story.validation) - 0.3 * 127) <= 1
    groups = [set(data.names) for data in (story.validation, story.test, story.clean_validation, story.clean)]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert not any(wnid in name for wnid in SNOW_EXEMPLARS.values() for name in set.union(*groups))
    assert {e.label for e in story.exemplars.values()}.isdisjoint(story.test.labels.tolist())
    assert set(story.legitimate.labels.tolist()) <= {story.classifier.index(word) for word in LIVES_ON_SNOW}
    assert story.default["layer"] in story.shortlist and story.default["exemplar"] in story.exemplars
    assert set(story.shortlist) <= set(story.layers) <= set(et.editable_layers(story.classifier).layer)


def test_the_typographic_story_attacks_other_objects_than_those_of_its_exemplars():
    story = et.typographic_scenario("mini")
    names = story.classifier.classes
    shown = {names[i] for i in story.test.labels.unique().tolist()}
    assert shown == set(ATTACKED) and len(story.test) == 1000
    assert not shown & {names[e.label] for e in story.exemplars.values()}
    [variants] = story.several.values()
    assert len(variants) == 10 and {names[e.label] for e in variants} == {"jar"}
    assert len({e.changed.numpy().tobytes() for e in variants}) == 10
    assert {names[i] for i in story.legitimate.labels.tolist()} == {"iPod"}
    assert set(story.more) == {"bare", "blank", *OTHER_ATTACKS}
    sets = [story.validation, story.test, story.clean_validation, story.clean, story.legitimate, story.more["blank"]]
    images = torch.cat([data.images.flatten(1) for data in sets])
    assert len(torch.unique((images * 255).round().byte(), dim=0)) == len(images)
    first = next(iter(story.exemplars.values()))
    covered = story.change(first.changed, first.mask)
    assert torch.equal(covered[:, first.mask == 0], first.changed[:, first.mask == 0])
    assert story.default["exemplar"] in story.exemplars and story.default["layer"] in story.shortlist
    with pytest.raises(ValueError, match="tier 'light'"):
        et.typographic_scenario("light")


class Loaded(Exception):
    """Stops a scenario at the classifier."""


@pytest.mark.parametrize("tier", ["mini", "lite", "paper"])
@pytest.mark.parametrize("story", [et.snow_scenario, et.typographic_scenario, et.probing_scenario])
def test_every_scenario_puts_its_classifier_where_it_is_told(story, tier, monkeypatch):
    def load(name, device=None, **options):
        raise Loaded(device)

    for module in (scenarios, probing):
        monkeypatch.setattr(module, "load_classifier", load)
    monkeypatch.setattr(
        probing, "scenes", lambda *args, **options: LabelledImages(torch.zeros(0, 3, 8, 8), torch.zeros(0).long(), ())
    )
    with pytest.raises(Loaded, match="^there$"):
        story(tier, device="there")
