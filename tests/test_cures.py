"""From a rule to the edit and back: what a scenario is made of, and when a rule counts as weaker."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from many_edits import cures_for
from torch.nn.functional import interpolate

from edittools.edits import applied_edits
from edittools.exemplars import Exemplar, paste_texture
from edittools.metrics import predict
from edittools.miniworld.scenes import CLASSES
from edittools.probing.probe import ProbeSettings, probe
from edittools.rewriting import rewrite
from edittools.scenarios.rules import scenario_for, shown_rule
from edittools.selection.splits import check_splits, shared_images

CAR = {"class": "car", "concept": "road", "style": "snow"}


@pytest.fixture(scope="module")
def concepts(story):
    return story[1]


@pytest.fixture(scope="module")
def cars(concepts):
    """The numbers of the cars; all of them show a road."""
    found = (concepts.data.labels == CLASSES.index("car")).nonzero()[:, 0].tolist()
    assert all(concepts.masks["road"][i].mean() >= 0.02 for i in found)
    return found


@pytest.fixture(scope="module")
def rule(cars):
    return CAR | {"evidence": tuple(cars)}


def make(story, rule, concepts=None, **options):
    classifiers, usual, _, everyday = story
    return scenario_for(classifiers["mini_vgg"], concepts or usual, rule, everyday, **options)


@pytest.fixture(scope="module")
def cure(story, rule):
    return make(story, rule)


@pytest.fixture(scope="module")
def edit(story, cure):
    several = cure[0].several["car 1 in 3 variants"]
    return rewrite(cure[0].classifier, "features.10", several, story[3]["reference"], rank=3)


def test_a_rule_becomes_a_scenario_whose_parts_do_not_meet(story, rule, cars, concepts):
    """The classifier is asked which images it reads rightly; all else is counted by hand from the masks."""
    cure, sets = make(story, rule, exemplars=2)
    check_splits(cure)
    data, masks = concepts.data, concepts.masks
    right = predict(cure.classifier, data).argmax(dim=1) == data.labels
    shown = {i for i in range(len(right)) if right[i] and masks["road"][i].mean() >= 0.02} - set(cars[:2])
    assert set().union(*sets.values()) == shown and sum(map(len, sets.values())) == len(shown)
    assert len(cure.validation) == 3 * len(sets["validation"]) and len(cure.test) == len(sets["test"])
    assert set(sets["own"]) <= set(cars) and not set(sets["test"]) & set(cars)
    parts = {"validation": (cure.validation, 3), "test": (cure.test, 1), "own": (cure.own, 1)}
    assert set(sets) == set(parts)
    for name, (made, variants) in parts.items():
        chosen = np.repeat(sets[name], variants)
        assert torch.equal(made.labels, data.labels[chosen])
        differs = (made.images - data.images[chosen]).abs().sum(dim=1) > 0
        assert not (differs & (masks["road"][chosen] == 0)).any() and differs.flatten(1).any(dim=1).all()
    snowy = right & (masks["snow"].mean(dim=(1, 2)) >= 0.02)
    kept, reported = (set(map(bytes, data.images.numpy())) for data in (cure.keep, cure.keep_report))
    assert not kept & reported and kept | reported == set(map(bytes, data.images[snowy].numpy()))
    assert abs(len(kept) - len(reported)) <= 1
    assert cure.layers[0] == "features.8" and set(cure.shortlist) <= set(cure.layers)
    assert cure.default["layer"] == "features.10" and cure.default["exemplar"] == "car 1"


def test_an_image_that_shows_both_is_not_kept(story, rule, concepts):
    """Half of each picture is said to show snow as well, of cars too; what shows a road is turned to it, not kept."""
    snow = concepts.masks["snow"].clone()
    both = (concepts.masks["road"].mean(dim=(1, 2)) >= 0.02).nonzero()[:, 0]
    snow[both, :32] = 1
    changed = replace(concepts, masks={**concepts.masks, "snow": snow})
    (cure, numbers), (before, known) = (make(story, rule, one, exemplars=2) for one in (changed, concepts))
    assert numbers == known and len(cure.keep) == len(before.keep)
    for kept in (cure.keep, cure.keep_report):
        assert not shared_images(kept, concepts.data.images[both])


def test_exemplars_are_the_evidence_in_variants_that_no_reported_image_has(cure, cars, concepts):
    snow, images, road = concepts.styles["snow"], concepts.data.images, concepts.masks["road"]
    cure, numbers = cure
    assert list(cure.exemplars) == ["car 1", "car 2", "car 3"]
    for k, (several, first) in enumerate(zip(cure.several.values(), cure.exemplars.values(), strict=True)):
        assert len(several) == 3 and several[0] is first
        for v, exemplar in enumerate(several):
            assert torch.equal(exemplar.image, images[cars[k]]) and exemplar.label == CLASSES.index("car")
            assert torch.equal(exemplar.changed, paste_texture(exemplar.image, road[cars[k]], snow[(k + v) % 4]))

    def variant(picture, i):
        made = paste_texture(images[i], road[i], snow)
        return next(v for v in range(len(snow)) if torch.equal(made[v], picture))

    assert {*map(variant, cure.validation.images, np.repeat(numbers["validation"], 3))} == {0, 1, 2, 3}
    assert {*map(variant, cure.test.images, numbers["test"])} <= {4, 5, 6, 7}


def test_photographs_are_cut_to_the_classifier(story, rule, concepts):
    """A story with larger pictures than the classifier takes, as on photographs."""
    masks = {c: interpolate(m[None], scale_factor=2)[0] for c, m in concepts.masks.items()}
    large = replace(concepts.data, images=interpolate(concepts.data.images, scale_factor=2))
    cure, numbers = make(story, rule, replace(concepts, data=large, masks=masks))
    size = cure.classifier.size
    assert cure.test.images.shape[-2:] == cure.keep_report.images.shape[-2:] == (size, size)
    for exemplar in (e for several in cure.several.values() for e in several):
        assert exemplar.mask.shape == (size, size) and set(exemplar.mask.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(cure.test.labels, large.labels[numbers["test"]])


def test_an_exemplar_of_another_size_keeps_what_its_mask_covers(concepts, cars):
    images = concepts.data.images
    exemplar = Exemplar(images[cars[0]], images[cars[1]], concepts.masks["road"][cars[0]], 3)
    half = exemplar.sized(32)
    assert half.image.shape == (3, 32, 32) and half.label == 3 and exemplar.sized(64).image.equal(exemplar.image)
    assert float(half.mask.mean()) == pytest.approx(float(exemplar.mask.mean()), abs=0.03)
    thin = replace(exemplar, mask=torch.eye(64) * (torch.arange(64) == 20))
    with pytest.raises(ValueError, match="mask is empty"):
        thin.sized(16)


def test_what_is_no_rule_of_the_story_is_refused(story, rule, concepts, cars):
    with pytest.raises(ValueError, match=r"'test': 0, 'own': \d+}, expected at least one exemplar"):
        make(story, {**rule, "evidence": (0,)}, concepts.subset(cars))
    with pytest.raises(ValueError, match="'exemplars': 0"):
        make(story, rule, exemplars=0)
    for wrong in ({"concept": "lava"}, {"style": "wooden"}, {"class": "ufo"}):
        [value] = wrong.values()
        with pytest.raises(KeyError, match=f"{value}'"):
            make(story, {**rule, **wrong})


def test_the_rule_shown_is_the_examples_else_the_strongest_else_a_suspicion(story):
    classifiers, concepts, settings, _ = story
    probed = probe(classifiers["mini_vgg"], concepts, replace(settings, least_images=3))
    found = probed.rules()
    for example in ("car", "ufo"):
        shown, sure = shown_rule(probed, example)
        suspects = probed.rules(fdr=1, least_effect=0) if found.empty else found
        among = suspects[suspects["class"] == example] if example == "car" else suspects
        assert sure is not found.empty and shown.equals(among.iloc[0])
    for table in (probed.table[:0], probed.table):
        with pytest.raises(ValueError, match="nothing with 99 images loses anything"):
            shown_rule(replace(probed, table=table, least_images=99))


@pytest.fixture(scope="module")
def again(cure, edit, concepts):
    """The rule probed once more, in variants that were not used, with several edits."""
    edits, classifier = {"edited": edit, "nothing": 0 * edit, "wrecked": -20 * edit}, cure[0].classifier
    named = {"before": classifier} | {name: one.edited(classifier) for name, one in edits.items()}
    _, unseen = concepts.parted("road", "snow")
    return probe(named, unseen, ProbeSettings(variants_per_image=2, control="in place"))


def test_a_rule_is_weaker_where_the_changed_pictures_gain_and_the_others_do_not_lose(again):
    found = again.changes()
    known = again.effects("classifier", "probability").set_index("classifier")
    level = known["before"] - known["drop"]
    assert found.index.tolist() == ["edited", "nothing", "wrecked"]
    for name in found.index:
        assert found.loc[name, "changed"] == pytest.approx(level[name] - level["before"])
        assert found.loc[name, "untouched"] == pytest.approx(known.loc[name, "before"] - known.loc["before", "before"])
        assert found.loc[name, ["effect before", "effect after"]].tolist() == pytest.approx(
            known.loc[["before", name], "effect"].tolist()
        )
    assert (
        found.loc["edited", "low"] > 0 and found.loc["edited", "p"] < 0.05 and found.loc["edited", "untouched"] > -0.05
    )
    assert found.loc["nothing", ["untouched", "control", "changed", "low", "high"]].abs().max() < 1e-5
    assert found.loc["wrecked", "effect after"] < found.loc["wrecked", "effect before"]  # by which it would look cured
    assert found.loc["wrecked", "low"] < 0 and found.loc["wrecked", "untouched"] < -0.3


def test_changes_that_compare_nothing_are_refused(again):
    with pytest.raises(KeyError, match="classifier 'none'.* before, edited"):
        again.changes("none")
    with pytest.raises(ValueError, match="no image has a control 'elsewhere'"):
        replace(again, control="elsewhere").changes()
    table = again.table
    other = table.assign(**{"class": np.where(table["classifier"] == "edited", "van", table["class"])})
    with pytest.raises(ValueError, match="different classes of an image"):
        replace(again, table=other).changes()


# --- all rules, each with images of its own class ---


@pytest.fixture(scope="module")
def report(probing_setup):
    return probing_setup("test")[1]


@pytest.fixture(scope="module")
def rules(story):
    """Three rules as a probe would find them, with the images of each class as evidence."""
    named, labels = [("car", "road", "snow"), ("van", "road", "snow"), ("sled", "snow", "water")], story[1].data.labels
    of = {name: (labels == CLASSES.index(name)).nonzero()[:, 0].tolist() for name, *_ in named}
    return pd.DataFrame([{"class": n, "concept": c, "style": s, "evidence": tuple(of[n][:1])} for n, c, s in named])


def cures_of(story, report, rules, **options):
    return cures_for(story[0]["mini_vgg"], story[1], report, rules, story[3], **options)


def test_each_rule_has_its_own_class_and_keeps_all_others(story, report, rules):
    """By hand: whose images, in which variants, and what is left of them as it is."""
    cures = cures_of(story, report, rules, exemplars=1)
    assert list(cures) == ["car: road → snow", "van: road → snow", "sled: snow → water"]
    for (_, rule), cure in zip(rules.iterrows(), cures.values(), strict=True):
        number = CLASSES.index(rule["class"])
        assert [e.label for e in cure.exemplars.values()] == [number]
        halves = story[1].styles[rule["style"]].split(4)
        for part, turned, kept, variants, count, used in (
            (story[1], cure.validation, cure.keep, halves[0], 3, set(rule["evidence"])),
            (report, cure.test, cure.keep_report, halves[1], 1, set()),
        ):
            labels, mask = part.data.labels, part.masks[rule["concept"]]
            right = predict(cure.classifier, part.data).argmax(dim=1) == labels
            own = [
                i
                for i in range(len(labels))
                if right[i] and labels[i] == number and mask[i].mean() >= 0.02 and i not in used
            ]
            assert set(turned.labels.tolist()) == {number} and len(turned) == count * len(own)
            for k, picture in enumerate(turned.images):
                i = own[k // count]
                made = [paste_texture(part.data.images[i], mask[i], one) for one in variants]
                assert any(torch.equal(picture, one) for one in made)
            shows = part.masks[rule["style"]].mean(dim=(1, 2)) >= 0.02
            named = torch.isin(labels, torch.tensor([CLASSES.index(n) for n in rules["class"]]))
            expected = part.data.images[right & (labels != number) & (named | shows)]
            assert torch.equal(kept.images, expected) and len(kept)
        assert not shared_images(cure.validation, cure.test) and not shared_images(cure.keep, cure.keep_report)


def test_edits_made_one_on_top_of_the_other_know_it(story, report, rules, monkeypatch):
    import many_edits

    monkeypatch.setattr(many_edits, "SETTINGS", [{"objective": "least_squares", "reference_weight": 10.0}])
    classifiers, concepts, settings, everyday = story
    few = everyday | {name: everyday[name].subset(range(40)) for name in ("budget", "clean")}
    few["reference"] = everyday["reference"][:64]
    cures = cures_of((classifiers, concepts, settings, few), report, rules, exemplars=1)
    chosen, classifier = {}, classifiers["mini_vgg"]
    for count in many_edits.stacked(cures, chosen):
        assert count == len(chosen)
        found = [choice.edit for choice in chosen.values() if choice.found]
        assert applied_edits(classifier) == tuple(found)
    assert len(chosen) == 3 and len(found) >= 2 and not applied_edits(classifier)
    assert [edit.on_top_of for edit in found] == [tuple(e.digest for e in found[:i]) for i in range(len(found))]
