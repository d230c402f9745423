"""From a rule to the edit and back: what a scenario is made of, and when a rule counts as weaker."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from many_edits import cures_for
from torch.nn.functional import interpolate

from edittools.choosing.duties import shared_images
from edittools.edits import applied_edits
from edittools.exemplars import Exemplar
from edittools.metrics import predict
from edittools.pasting import paste_texture
from edittools.probing.probe import Settings
from edittools.rewriting import rewrite
from edittools.stories.cures import scenario_for, shown_rule
from edittools.world.miniworld import CLASSES

CAR = {"class": "car", "concept": "road", "style": "snow"}


@pytest.fixture(scope="module")
def cars(story):
    """The numbers of the cars; all of them show a road."""
    found = (story.data.labels == CLASSES.index("car")).nonzero()[:, 0].tolist()
    assert all(story.masks["road"][i].mean() >= 0.02 for i in found)
    return found


@pytest.fixture(scope="module")
def rule(cars):
    return pd.Series({**CAR, "evidence": tuple(cars)})


@pytest.fixture(scope="module")
def cure(story, rule):
    return scenario_for(story, rule)


@pytest.fixture(scope="module")
def edit(story, cure):
    return rewrite(cure.classifier, "features.10", cure.several["car 1 in 3 variants"], story.reference, rank=3)


def test_a_rule_becomes_a_scenario_whose_parts_do_not_meet(story, rule, cars):
    """The story's classifier is asked which images it reads rightly; all else is counted by hand from the masks."""
    cure = scenario_for(story, rule, exemplars=2)
    right = predict(story.classifiers[story.first], story.data).argmax(dim=1) == story.data.labels
    shown = {i for i in range(len(right)) if right[i] and story.masks["road"][i].mean() >= 0.02} - set(cars[:2])
    sets = cure.numbers
    assert set().union(*sets.values()) == shown and sum(map(len, sets.values())) == len(shown)
    assert len(cure.validation) == 3 * len(sets["validation"]) and len(cure.test) == len(sets["test"])
    assert set(sets["target class"]) <= set(cars) and not set(sets["test"]) & set(cars)
    parts = {"validation": (cure.validation, 3), "test": (cure.test, 1), "target class": (cure.own, 1)}
    assert set(sets) == set(parts)
    for name, (data, variants) in parts.items():
        chosen = np.repeat(sets[name], variants)
        assert torch.equal(data.labels, story.data.labels[chosen])
        differs = (data.images - story.data.images[chosen]).abs().sum(dim=1) > 0
        assert not (differs & (story.masks["road"][chosen] == 0)).any() and differs.flatten(1).any(dim=1).all()
    snowy = right & (story.masks["snow"].mean(dim=(1, 2)) >= 0.02)
    kept, reported = (set(map(bytes, data.images.numpy())) for data in (cure.keep, cure.keep_report))
    assert not kept & reported and kept | reported == set(map(bytes, story.data.images[snowy].numpy()))
    assert abs(len(kept) - len(reported)) <= 1
    assert len(cure.clean) == len(cure.budget) == len(story.clean) / 2
    everyday = torch.cat([data.images.flatten(1) for data in (cure.clean, cure.budget)] + [cure.reference.flatten(1)])
    assert len(torch.unique((everyday * 255).round().byte(), dim=0)) == len(everyday)
    assert cure.layers[0] == "features.8" and set(cure.shortlist) <= set(cure.layers)


def test_an_image_that_shows_both_is_not_kept(story, rule, cars):
    """Half of each picture is said to show snow as well, of cars too; what shows a road is turned to it, not kept."""
    snow = story.masks["snow"].clone()
    both = (story.masks["road"].mean(dim=(1, 2)) >= 0.02).nonzero()[:, 0]
    snow[both, :32] = 1
    changed = replace(story, concepts=replace(story.concepts, masks={**story.masks, "snow": snow}))
    cure, before = scenario_for(changed, rule, exemplars=2), scenario_for(story, rule, exemplars=2)
    assert cure.numbers == before.numbers and len(cure.keep) == len(before.keep)
    for kept in (cure.keep, cure.keep_report):
        assert not shared_images(kept, story.data.images[both])


def test_exemplars_are_the_evidence_in_variants_that_no_reported_image_has(story, cure, cars):
    snow = story.concepts.styles["snow"]
    assert list(cure.exemplars) == ["car 1", "car 2", "car 3"]
    for k, (several, first) in enumerate(zip(cure.several.values(), cure.exemplars.values(), strict=True)):
        assert len(several) == 3 and several[0] is first
        for v, exemplar in enumerate(several):
            assert torch.equal(exemplar.image, story.data.images[cars[k]]) and exemplar.label == CLASSES.index("car")
            expected = paste_texture(exemplar.image, story.masks["road"][cars[k]], snow[(k + v) % 4])
            assert torch.equal(exemplar.changed, expected)

    def variant(picture, i):
        made = paste_texture(story.data.images[i], story.masks["road"][i], snow)
        return next(v for v in range(len(snow)) if torch.equal(made[v], picture))

    assert {*map(variant, cure.validation.images, np.repeat(cure.numbers["validation"], 3))} == {0, 1, 2, 3}
    assert {*map(variant, cure.test.images, cure.numbers["test"])} <= {4, 5, 6, 7}
    again = cure.probe_again({}, cure.numbers["test"])
    assert torch.equal(again.concepts.styles["snow"], snow[4:])
    assert set(again.table.query("style == 'snow'")["variant"]) <= {0, 1, 2, 3}


def test_photographs_are_cut_to_the_classifier_and_held_to_its_readings(story, rule):
    """A story with larger pictures than the classifier takes, as on photographs; labels that are wrong play no part."""
    large = interpolate(story.data.images, scale_factor=2)
    masks = {c: interpolate(m[None], scale_factor=2)[0] for c, m in story.masks.items()}
    wrong = replace(story.data, images=large, labels=torch.zeros_like(story.data.labels))
    cure = scenario_for(
        replace(story, concepts=replace(story.concepts, data=wrong, masks=masks), settings=Settings(labels="read")),
        rule,
    )
    size = cure.classifier.size
    assert cure.test.images.shape[-2:] == cure.keep_report.images.shape[-2:] == (size, size)
    exemplars = [e for several in cure.several.values() for e in several]
    assert {e.label for e in exemplars} == {CLASSES.index("car")}
    for exemplar in exemplars:
        assert exemplar.mask.shape == (size, size) and set(exemplar.mask.unique().tolist()) <= {0.0, 1.0}
    read = predict(cure.classifier, interpolate(large, size, mode="bilinear", antialias=True)).argmax(dim=1)
    for data, chosen in (
        (cure.validation, np.repeat(cure.numbers["validation"], 3)),
        (cure.test, cure.numbers["test"]),
    ):
        assert torch.equal(data.labels, read[list(chosen)])


def test_an_exemplar_of_another_size_keeps_what_its_mask_covers(story, cars):
    exemplar = Exemplar(story.data.images[cars[0]], story.data.images[cars[1]], story.masks["road"][cars[0]], 3)
    half = exemplar.sized(32)
    assert half.image.shape == (3, 32, 32) and half.label == 3 and exemplar.sized(64).image.equal(exemplar.image)
    assert float(half.mask.mean()) == pytest.approx(float(exemplar.mask.mean()), abs=0.03)
    thin = exemplar.map(mask=torch.eye(64) * (torch.arange(64) == 20))
    with pytest.raises(ValueError, match="nothing is left of the mask at 16 × 16 pixels"):
        thin.sized(16)
    with pytest.raises(ValueError, match="size 'big': expected a whole number"):
        exemplar.sized("big")


def test_another_classifier_of_the_story_gets_layers_of_its_own(story, rule):
    cure = scenario_for(story, pd.Series({**rule, "classifier": "mini_resnet"}))
    assert cure.classifier is story.classifiers["mini_resnet"]
    assert cure.default["layer"] in cure.layers and set(cure.shortlist) <= set(cure.layers)
    assert all(layer.startswith("layer") for layer in cure.layers)


def test_what_is_no_rule_of_the_story_is_refused(story, rule, cure, cars):
    alone = replace(story, concepts=story.concepts.subset(cars))
    with pytest.raises(ValueError, match=r"'test': 0, 'target class': \d+}, 0 to keep; expected at least one exemplar"):
        scenario_for(alone, pd.Series({**rule, "evidence": (0,)}))
    with pytest.raises(ValueError, match="'exemplars': 0"):
        scenario_for(story, rule, exemplars=0)
    for wrong in ({"concept": "lava"}, {"style": "wooden"}, {"classifier": "vgg16"}, {"class": "ufo"}):
        [value] = wrong.values()
        with pytest.raises(KeyError, match=f"{value}'.*(expected one of|among)"):
            scenario_for(story, pd.Series({**rule, **wrong}))
    with pytest.raises(ValueError, match="an edit named 'before'"):
        cure.probe_again({"before": None})


def test_the_rule_shown_is_the_examples_else_the_strongest_else_a_suspicion(story):
    probed = replace(story.with_materials(names=[story.first]), least_images=3)
    found = probed.rules()
    for example in ("car", None):
        shown, sure = shown_rule(replace(story, example=example), probed)
        suspects = probed.rules(fdr=1, least_effect=0) if found.empty else found
        among = suspects if example is None else suspects[suspects["class"] == example]
        assert sure is not found.empty and shown.equals(among.iloc[0])
        assert shown["classifier"] == "mini_vgg"
    for table in (probed.table[:0], probed.table):
        with pytest.raises(ValueError, match="no class with 99 images loses anything"):
            shown_rule(story, replace(probed, table=table, least_images=99))


def test_the_rule_is_probed_again_for_every_edit_and_held_to_the_labels_from_before(story, rule, edit):
    read, some = replace(story, settings=Settings(labels="read")), list(range(1, len(story.data)))
    probed = scenario_for(read, rule).probe_again({"edited": edit, "nothing": 0 * edit}, some)
    again = probed.table
    assert again["classifier"].unique().tolist() == ["before", "edited", "nothing"]
    assert set(again["concept"]) == {"road"} and set(again["style"]) == {"road", "snow"}
    first, edited, nothing = (rows.drop(columns="classifier") for _, rows in again.groupby("classifier", sort=False))
    assert first["before"].tolist() == first["class"].tolist() == edited["class"].tolist()
    assert np.allclose(first["p_after"], nothing["p_after"], atol=1e-5)
    number, classifier = first["image"].iloc[-1], story.classifiers[story.first]
    assert first["class"].iloc[-1] == CLASSES[predict(classifier, story.data.images)[number].argmax()]
    assert first["area"].iloc[-1] == pytest.approx(float(story.masks["road"][number].mean()))
    assert not classifier.model.training
    assert torch.equal(probed.views(again.iloc[-1])[0].image, story.data.images[number])


def test_a_rule_is_weaker_where_the_changed_pictures_gain_and_the_others_do_not_lose(cure, edit):
    again = cure.probe_again({"edited": edit, "nothing": 0 * edit, "wrecked": -20 * edit})
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


def test_changes_that_compare_nothing_are_refused(cure, edit):
    again = cure.probe_again({"edited": edit})
    with pytest.raises(KeyError, match="no classifier 'none' in the table: expected one of before, edited"):
        again.changes("none")
    with pytest.raises(ValueError, match="'before' and 'edited' share no image with control='elsewhere'"):
        replace(again, control="elsewhere").changes()
    table = again.table
    other = table.assign(**{"class": np.where(table["classifier"] == "edited", "van", table["class"])})
    with pytest.raises(ValueError, match="held to different classes of an image"):
        replace(again, table=other).changes()


# --- all rules, each with images of its own class ---


@pytest.fixture(scope="module")
def report(probing_story):
    return probing_story("test")


@pytest.fixture(scope="module")
def rules(story):
    """Three rules as a probe would find them, with the images of each class as evidence."""
    named = [("car", "road", "snow"), ("van", "road", "snow"), ("sled", "snow", "water")]
    of = {name: (story.data.labels == CLASSES.index(name)).nonzero()[:, 0].tolist() for name, *_ in named}
    return pd.DataFrame([{"class": n, "concept": c, "style": s, "evidence": tuple(of[n][:1])} for n, c, s in named])


def test_each_rule_has_its_own_class_and_keeps_all_others(story, report, rules):
    """By hand: whose images, in which variants, and what is left of them as it is."""
    cures = cures_for(story, report, rules, exemplars=1)
    assert list(cures) == ["car: road → snow", "van: road → snow", "sled: snow → water"]
    for (_, rule), cure in zip(rules.iterrows(), cures.values(), strict=True):
        number = CLASSES.index(rule["class"])
        assert [e.label for e in cure.exemplars.values()] == [number]
        halves = story.concepts.styles[rule["style"]].split(4)
        for part, turned, kept, variants, count, used in (
            (story, cure.validation, cure.keep, halves[0], 3, set(rule["evidence"])),
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


def test_a_rule_without_an_image_to_choose_on_is_named(story, report, rules):
    car = rules.iloc[:1].copy()
    car["evidence"] = [tuple((story.data.labels == CLASSES.index("car")).nonzero()[:, 0].tolist())]
    with pytest.raises(ValueError, match="rule 'car' on 'road': no image left that is read rightly"):
        cures_for(story, report, car, exemplars=4)
    with pytest.raises(KeyError, match="a rule of the concept 'lava'"):
        cures_for(story, report, rules.assign(concept="lava"))


def test_edits_made_one_on_top_of_the_other_know_it(story, report, rules, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import many_edits

    monkeypatch.setattr(many_edits, "SETTINGS", [{"objective": "least_squares", "reference_weight": 10.0}])
    everyday = story.clean.subset(range(80))
    cures = cures_for(replace(story, clean=everyday, reference=story.reference[:64]), report, rules, exemplars=1)
    chosen, classifier = {}, story.classifiers[story.first]
    for count in many_edits.stacked(cures, chosen):
        assert count == len(chosen)
        found = [choice.edit for choice in chosen.values() if choice.found]
        assert applied_edits(classifier) == tuple(found)
    assert len(chosen) == 3 and len(found) >= 2 and not applied_edits(classifier)
    assert [edit.on_top_of for edit in found] == [tuple(e.digest for e in found[:i]) for i in range(len(found))]
