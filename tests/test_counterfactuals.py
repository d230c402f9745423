"""Counterfactual probing: exact small cases, oracles of the statistics, and the rules that are known to be planted."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, wilcoxon
from torch import nn

from edittools.classifiers import Classifier
from edittools.images import LabelledImages
from edittools.lab import plots
from edittools.lab.views import ProbeBrowser
from edittools.metrics import predict
from edittools.probing.counterfactuals import Concepts, control_mask, exemplar_for, materials
from edittools.probing.effects import agreement, effects, rules, score
from edittools.probing.probe import probe, probe_swaps
from edittools.rewriting import rewrite
from edittools.world.contexts import GROUNDS
from edittools.world.miniworld import CLASSES, scene, scenes
from edittools.zoo.load import load_classifier

SIZE = 16
RED, GREEN, BLUE = (colour[:, None, None].expand(3, SIZE, SIZE) for colour in torch.eye(3))
FLAT = {"green": GREEN[None], "blue": BLUE[None]}


class RedBelow(nn.Module):
    """Looks at the lower half only: "ship" when it is red, "house" when it is not."""

    def forward(self, images):
        red = images[:, 0, images.shape[2] // 2 :].mean(dim=(1, 2))
        return torch.stack([8 * red, 8 * (1 - red)], dim=1)


@pytest.fixture
def looker():
    return Classifier(RedBelow(), ("ship", "house"), (0, 0, 0), (1, 1, 1), SIZE)


def half(lower):
    mask = torch.zeros(SIZE, SIZE)
    mask[SIZE // 2 :] = lower
    mask[: SIZE // 2] = 1 - lower
    return mask


@pytest.fixture
def world():
    """Twelve red pictures of a ship: sea below, sky above; a mast in the sky of the last six."""
    data = LabelledImages(RED.repeat(12, 1, 1, 1), torch.zeros(12, dtype=torch.long), ("ship", "house"))
    mast = torch.zeros(12, SIZE, SIZE)
    mast[6:, 2:6, 4:6] = 1
    return data, {"sea": half(1).repeat(12, 1, 1), "sky": half(0).repeat(12, 1, 1) - mast, "mast": mast}


def test_only_the_concept_that_the_classifier_looks_at_has_an_effect(looker, world):
    table = probe(looker, *world, FLAT)
    assert len(table) == 2 * (12 + 12 + 6)
    sea, sky = (table[table.concept == name] for name in ("sea", "sky"))
    assert set(sea.before) == set(sea.control.dropna()) == {"ship"} and set(sea.after) == {"house"}
    assert set(sky.after) == {"ship"}
    right, wrong = 1 / (1 + np.exp(-8)), 1 / (1 + np.exp(8))
    assert np.allclose(sea.p_before, right) and np.allclose(sea.p_after, wrong)
    assert np.allclose(sea.area, 0.5) and np.allclose(table[table.concept == "mast"].area, 8 / 256)


def test_drop_control_and_effect_are_the_means_of_the_table(looker, world):
    found = effects(probe(looker, *world, FLAT), "concept").set_index("concept")
    assert found.loc["sea", ["images", "before", "drop", "control drop", "effect"]].tolist() == [12, 1, 1, 0, 1]
    assert found.loc["sea", ["drop low", "drop high", "low", "high"]].tolist() == [1, 1, 1, 1]
    assert found.loc["mast", "drop"] == 0 and found.loc["mast", "images"] == 6
    assert found.loc["sky", "effect"] == -1  # its control falls on the sea
    assert found.loc["sea", "p"] == 1 / 2**12 and found.loc["mast", "p"] == 1


def test_a_rule_is_found_with_its_evidence_and_leads_to_an_exemplar(looker, world):
    data, masks = world
    found = rules(probe(looker, data, masks, FLAT))
    assert list(zip(found["class"], found.concept, strict=True)) == [("ship", "sea")]
    rule = found.iloc[0]
    assert len(rule.evidence) == 6 and rule["style"] in FLAT
    exemplar = exemplar_for(rule, data, masks, FLAT)
    assert torch.equal(exemplar.mask, half(1)) and exemplar.label == 0
    assert torch.equal(exemplar.image, data.images[rule.evidence[0]])
    assert torch.allclose(exemplar.changed[:, SIZE // 2 :], FLAT[rule["style"]][0][:, SIZE // 2 :])
    assert torch.equal(exemplar.changed[:, : SIZE // 2], RED[:, : SIZE // 2])


def test_the_exemplar_of_a_rule_of_materials_needs_them(looker, world):
    data, masks = world
    looks = {"sea": RED[None], "meadow": torch.stack([GREEN, BLUE])}
    rule = rules(probe(looker, data, masks, looks, only=["sea"], control=False), control="itself").iloc[0]
    assert rule["style"] == "meadow"
    with pytest.raises(KeyError, match=r"no style 'meadow' in .*materials\(donors, donor_masks, \['meadow'\]\)"):
        exemplar_for(rule, data, masks, FLAT)
    for variant, look in enumerate((GREEN, BLUE)):
        exemplar = exemplar_for(rule, data, masks, looks, variant)
        assert torch.allclose(exemplar.changed[:, SIZE // 2 :], look[:, SIZE // 2 :])
    with pytest.raises(ValueError, match="variant 2 of style 'meadow': expected 0 to 1"):
        exemplar_for(rule, data, masks, looks, 2)


@pytest.mark.parametrize("rank", [2, -1, "first"])
def test_an_exemplar_without_evidence_is_refused(looker, world, rank):
    data, masks = world
    table = probe(looker, data, masks, FLAT)
    for count in (2, 0):
        rule = rules(table, evidence=count).iloc[0]
        with pytest.raises(
            ValueError, match=rf"'ship' on 'sea' has {count} images as evidence, none at place '?{rank}"
        ):
            exemplar_for(rule, data, masks, FLAT, rank=rank)
    wrong = rules(table.assign(before="house"), evidence=3).iloc[0]
    with pytest.raises(ValueError, match="has 0 images as evidence.*expected one that was read rightly before"):
        exemplar_for(wrong, data, masks, FLAT)


def test_own_objects_are_marked_never_a_rule_and_spared_by_controls(looker, world):
    data, masks = world
    own = {"sea": ("ship",)}
    table = probe(looker, data, masks, FLAT, own=own)
    assert set(table[table.own].concept) == {"sea"}
    marked = effects(table, ["class", "concept"]).set_index("concept")
    assert marked.own.tolist() == [True, False, False] and np.isnan(marked.loc["sea", "q"])
    assert rules(table).empty
    assert "sea" not in set(effects(table, "concept").concept)
    assert set(table[table.concept == "mast"].control) == {"ship"}  # placed beside the sea
    assert table[table.concept == "sky"].p_control[:12].isna().all()  # no room beside the sea


masks_of = st.builds(
    lambda seed, share: torch.from_numpy(np.random.default_rng(seed).random((9, 12)) < share).float(),
    st.integers(0, 10_000),
    st.floats(0.01, 0.6),
)


@settings(max_examples=80, deadline=None)
@given(masks_of, masks_of)
def test_a_control_has_the_same_area_and_never_meets_the_concept_or_what_is_avoided(mask, avoid):
    control = control_mask(mask, avoid)
    free = ((mask + avoid) == 0).sum()
    if free < mask.sum():
        assert control is None
    else:
        assert control.sum() == mask.sum()
        assert (control * mask).sum() == 0 and (control * avoid).sum() == 0
        assert set(control.unique().tolist()) <= {0.0, 1.0}


def test_a_control_keeps_the_shape_where_it_fits():
    mask = torch.zeros(8, 8)
    mask[6:, 1:4] = 1
    assert torch.equal(control_mask(mask), mask.flip(0))


def random_table(seed=0, classes=9, images=14):
    rng = np.random.default_rng(seed)
    rows = [
        {
            "classifier": "c", "image": 100 * k + i, "class": f"class {k}", "concept": "grass", "own": False,
            "area": 0.3, "style": style, "variant": 0, "before": "", "after": "", "control": "", "p_before": 0.9,
            "p_after": 0.9 - rng.random() * (0.1 + 0.08 * k), "p_control": 0.9 - 0.2 * rng.random(),
        }
        for k in range(classes) for i in range(images) for style in ("a", "b")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_q_is_benjamini_hochberg_by_an_independent_restatement():
    found = effects(random_table(), ["class", "concept"], "probability")
    p, count = found.p.to_numpy(), len(found)
    for one, q in zip(p, found.q, strict=True):
        # the least level at which the step-up procedure rejects this hypothesis
        levels = [other * count / (p <= other).sum() for other in p if other >= one]
        assert q == pytest.approx(min(1, *levels))
    assert (found.q <= 0.05).any() and (found.q > 0.05).any()


def test_each_classifier_is_its_own_family_of_comparisons():
    strong, weak = random_table(), random_table(seed=1).assign(classifier="other", p_after=0.8)
    both = effects(pd.concat([strong, weak]), ["class", "concept"], "probability")
    alone = effects(strong, ["class", "concept"], "probability")
    assert both[both.classifier == "c"].q.tolist() == alone.q.tolist()


def test_the_unit_is_the_image_not_the_picture():
    table = random_table()
    twice = pd.concat([table, table.assign(variant=1)])
    once, again = (effects(t, "class", "probability") for t in (table, twice))
    assert np.allclose(once.p, again.p) and np.allclose(once["low"], again["low"])
    one = table[table["class"] == "class 3"].groupby("image")[["p_after", "p_control"]].mean()
    exact = wilcoxon(one.p_control - one.p_after, alternative="greater", method="exact").pvalue
    assert once.p[3] == pytest.approx(exact)


def test_intervals_are_those_of_the_percentile_bootstrap():
    table = random_table(images=40)
    found = effects(table, "class", "probability", resamples=4000).iloc[5]
    one = table[table["class"] == "class 5"].groupby("image")[["p_after", "p_control"]].mean()
    values = (one.p_control - one.p_after).to_numpy()
    oracle = bootstrap([values], np.mean, n_resamples=4000, method="percentile").confidence_interval
    assert found.low == pytest.approx(oracle.low, abs=0.01) and found.high == pytest.approx(oracle.high, abs=0.01)
    assert found.low < found.effect < found.high


def test_turned_to_itself_is_the_control_in_place():
    table = random_table(images=12).replace({"style": {"a": "grass"}})
    found = effects(table, "class", "probability", control="itself")
    rows = table[table["class"] == "class 2"].set_index("image")
    same, other = (rows[rows["style"] == style].p_after for style in ("grass", "b"))
    assert found.effect[2] == pytest.approx((same - other).mean())
    assert found["control drop"][2] == pytest.approx(0.9 - same.mean())


def test_log_odds_are_those_of_probabilities_kept_from_0_and_1():
    table = random_table().assign(p_before=1.0, p_control=0.75, p_after=0.5)
    found = effects(table, "class", "log-odds").iloc[0]
    assert found["before"] == pytest.approx(np.log(999)) and found["effect"] == pytest.approx(np.log(3))
    assert found["drop"] == pytest.approx(np.log(999))


def test_a_rule_is_tested_against_the_least_effect_not_against_none():
    table = random_table(classes=2, images=40)
    rng = np.random.default_rng(1)
    table["p_control"] = 0.7
    table["p_after"] = 0.7 - (0.02 + 0.02 * rng.random(len(table)))
    certain = effects(table, ["class", "concept"], "probability")
    assert (certain.q < 1e-6).all()
    assert len(rules(table, measure="probability", least_effect=0.01)) == 2
    assert rules(table, measure="probability", least_effect=0.03).empty  # about half of the images say more
    assert rules(table).empty  # a hundredth of the probability is little in log-odds


def test_the_least_effect_is_one_of_the_measure():
    table = random_table(classes=2, images=40).assign(p_control=0.7)
    table["p_after"] = np.where(table["class"] == "class 0", 0.5, 0.6)
    for measure in ("probability", "log-odds"):
        assert set(rules(table, measure=measure)["class"]) == {"class 0"}, measure
    right = table.assign(control=table["class"], after=np.where(table["image"] % 2, table["class"], "another"))
    assert len(rules(right, measure="accuracy")) == 2  # half of the images are misread


def test_under_no_rule_few_are_found():
    rng = np.random.default_rng(0)
    table = random_table(classes=40)
    table["p_after"], table["p_control"] = rng.random((2, len(table)))
    assert len(rules(table)) <= 1


def test_small_comparisons_are_not_made():
    table = random_table(images=5)
    assert effects(table, "class", "probability", least_images=6).empty
    assert rules(table).empty


def test_interrupted_and_resumed_is_the_same_as_uninterrupted(looker, world, tmp_path):
    data, masks = world
    whole = probe(looker, data, masks, FLAT, chunk=4)
    store = tmp_path / "probe.jsonl"
    probe(looker, data, masks, FLAT, chunk=4, store=store)
    lines = store.read_text().splitlines(keepends=True)
    store.write_text("".join(lines[:2]) + lines[2][:40])  # cut off in the second job
    pd.testing.assert_frame_equal(probe(looker, data, masks, FLAT, chunk=4, store=store), whole)
    with pytest.raises(ValueError, match="another sweep"):
        probe(looker, data, masks, FLAT, chunk=4, least_area=0.1, store=store)


class Elsewhere(ThreadPoolExecutor):
    """Sends work and jobs away as a process pool does: pickled."""

    def submit(self, work, /, *arguments):
        return super().submit(pickle.loads(pickle.dumps(work)), *pickle.loads(pickle.dumps(arguments)))


def test_any_executor_gives_the_same_table(looker, world):
    with Elsewhere(2) as executor:
        away = probe(looker, *world, FLAT, chunk=5, executor=executor)
    pd.testing.assert_frame_equal(away, probe(looker, *world, FLAT, chunk=5))


def test_several_classifiers_see_the_same_pictures_at_their_own_sizes(looker, world):
    large = Classifier(RedBelow(), ("ship", "house"), (0, 0, 0), (1, 1, 1), 2 * SIZE)
    table = probe({"small": looker, "large": large}, *world, FLAT)
    small, large = (table[table.classifier == name].reset_index(drop=True) for name in ("small", "large"))
    assert small.after.equals(large.after) and small.image.equals(large.image)
    assert set(effects(table).classifier) == {"small", "large"}


def test_without_labels_a_classifier_is_held_to_its_own_reading(looker, world):
    data, masks = world
    blue = LabelledImages(BLUE.repeat(12, 1, 1, 1), data.labels, data.classes)
    assert set(probe(looker, blue, masks, FLAT, against="reading")["class"]) == {"house"}
    assert set(probe(looker, blue, masks, FLAT)["class"]) == {"ship"}


def test_the_classifier_is_left_in_its_mode(looker, world):
    looker.train()
    probe(looker, *world, FLAT)
    assert looker.training and looker.model.training


def test_materials_show_the_concept_and_nothing_else():
    images = torch.stack([torch.where(half(1) > 0, RED, BLUE), torch.where(half(1) > 0, GREEN, BLUE)])
    data = LabelledImages(images, torch.zeros(2, dtype=torch.long), ("ship",))
    mask = half(1).repeat(2, 1, 1)
    mask[0, SIZE // 2] = 0
    found = materials(data, {"sea": mask}, ["sea"])["sea"]
    assert torch.equal(found[0], GREEN) and torch.equal(found[1], RED)  # the largest first
    with pytest.raises(ValueError, match="'sea' is seen in 2 images"):
        materials(data, {"sea": mask}, ["sea"], 3)


def test_bad_input_is_named(looker, world):
    data, masks = world
    with pytest.raises(ValueError, match="masks of 'sea' of shape"):
        probe(looker, data, {"sea": half(1)}, FLAT)
    with pytest.raises(ValueError, match="against='truth'"):
        probe(looker, data, masks, FLAT, against="truth")
    with pytest.raises(KeyError, match="no concept 'lake'"):
        probe(looker, data, masks, FLAT, only=["lake"])
    with pytest.raises(TypeError, match=r"styles \['tartan'\]: expected textures"):
        probe(looker, data, masks, ["tartan"])
    with pytest.raises(ValueError, match="at least one"):
        probe(looker, data, masks, {})
    with pytest.raises(ValueError, match="no image shows one of mast on 20%"):
        probe(looker, data, masks, FLAT, only=["mast"], least_area=0.2)
    table = probe(looker, data, masks, FLAT)
    with pytest.raises(KeyError, match="no column 'colour'"):
        effects(table, "colour")
    with pytest.raises(ValueError, match="measure 'loss'"):
        effects(table, measure="loss")
    with pytest.raises(ValueError, match="control 'none'"):
        effects(table, control="none")


def test_score_counts_pairs():
    found = pd.DataFrame({"class": ["car", "cow", "cow"], "concept": ["road", "grass", "sky"]})
    figures = score(found, {("car", "road"), ("cow", "grass"), ("ship", "water"), ("camel", "sand")})
    assert figures == {"precision": 2 / 3, "recall": 0.5, "found": 3, "planted": 4}
    assert np.isnan(score(found[:0], {("car", "road")})["precision"])


@pytest.fixture(scope="module")
def vehicles():
    """Scenes of five classes, the masks of their grounds, and other scenes that give the materials."""
    names = ("car", "tractor", "ship", "sled", "penguin")
    data = scenes(60, 2_700_000, label=[names[i % 5] for i in range(60)])
    donors = scenes(26, 3_700_000, label=list(CLASSES))
    seen = (*GROUNDS, "object")
    return data, {c: data.mask(c) for c in seen}, donors, {c: donors.mask(c) for c in seen}


def test_in_miniworld_the_planted_rules_are_found_and_none_without_them(vehicles):
    models = {name: load_classifier(name) for name in ("mini_vgg", "mini_vgg_balanced")}
    data, masks, donors, donor_masks = vehicles
    table = probe_swaps(models, data, masks, [GROUNDS], donors, donor_masks, 2, own={"object": CLASSES}, control=False)
    found = rules(table, control="itself")
    pairs = set(zip(found.classifier, found["class"], found.concept, strict=True))
    planted = {("car", "road"), ("tractor", "road"), ("ship", "water"), ("sled", "snow"), ("penguin", "snow")}
    assert pairs == {("mini_vgg", *pair) for pair in planted}


def test_a_scene_painted_again_differs_in_its_ground_only_and_is_read_as_it_looks(story):
    few = range(2 * len(CLASSES))
    story = replace(story, data=story.data.subset(few), masks={c: mask[few] for c, mask in story.masks.items()})
    table = story.repainted(["mini_vgg"])
    assert len(table) == len(story.data) * len(GROUNDS) and set(table["classifier"]) == {"mini_vgg"}
    itself = table[table["style"] == table["concept"]]
    assert len(itself) == len(story.data) and np.allclose(itself["p_before"], itself["p_after"], atol=1e-5)
    row = table[(table["image"] == 30) & (table["style"] == "water")].iloc[0]
    picture = scene(story.first_seed + 30, row["class"], "water")
    chances = predict(story.classifiers["mini_vgg"], picture.image[None]).softmax(dim=1)[0]
    right = chances[story.data.classes.index(row["class"])]
    assert row["p_after"] == pytest.approx(float(right), abs=0.01)  # pictures of a set are rounded to 8 bits
    assert row["area"] == pytest.approx(float(story.masks[row["concept"]][30].mean()))
    masks = scene(story.first_seed + 30, row["class"], row["concept"]).masks
    changed = (picture.image - story.data.images[30]).abs().sum(dim=0) > 0.02
    assert changed[masks[row["concept"]] > 0].float().mean() > 0.9
    assert changed[masks["object"] > 0].float().mean() < 0.1
    assert set(table) == set(story.with_materials([("road", "water")], ["mini_vgg"]))  # the columns of a probe
    some = replace(story, data=story.data.subset(range(10, 20)))
    with pytest.raises(ValueError, match="image 0 is not the scene with seed"):
        some.repainted(["mini_vgg"])


def test_pictures_are_of_one_probe_since_names_repeat(story):
    looks = {of: story.pictures(of).textures["snow", 0] for of in ("styles", "materials")}
    assert not torch.equal(looks["styles"], looks["materials"])
    without = {c: mask * (c != "road") for c, mask in story.donor_masks.items()}
    shown = {style for style, _ in replace(story, donor_masks=without).pictures("materials").textures}
    assert shown == {*story.concepts} - {"road"}
    with pytest.raises(ValueError, match="pictures of 'all': expected 'styles' or 'materials'"):
        story.pictures("all")


def test_a_story_of_photographs_cannot_be_painted_again(story):
    story = replace(story, tier="lite", first_seed=None)
    with pytest.raises(ValueError, match="images of tier 'lite' cannot be painted again"):
        story.repainted()


def test_agreement_pairs_the_effects_of_two_tables(looker, world):
    data, masks = world
    one = probe(looker, data, masks, {"green": FLAT["green"]})
    half_green = {"half": (RED[None] + GREEN[None]) / 2}
    other = probe(looker, data, masks, half_green, only=["sea", "sky"])
    pairs = agreement(one, other, control="elsewhere")
    expected = [effects(t, "concept", "log-odds").set_index("concept")["effect"]["sea"] for t in (one, other)]
    assert pairs.loc[("ship", "sea")].tolist() == pytest.approx(expected) and expected[0] > expected[1] + 1
    assert set(pairs.index) == {("ship", "sea"), ("ship", "sky")}
    for planted, learned, named in (
        ((), ("sea",), ["ship on sea"]),
        (("sea",), ("sea",), []),
        (("sky",), (), ["ship on sky"]),
    ):
        sets = [{("ship", concept) for concept in part} for part in (planted, learned)]
        assert [text.get_text() for text in plots.agreement(pairs, *sets, 0.5).axes[0].texts] == named
    with pytest.raises(ValueError, match="no class and concept has an effect in both tables"):
        agreement(one, other)  # no control in place was probed
    with pytest.raises(ValueError, match="tables of the classifiers classifier, second: expected the rows of one"):
        agreement(one, other.assign(classifier="second"))


def test_the_loop_from_rule_to_edit_and_back(vehicles):
    classifier = load_classifier("mini_vgg")
    data, masks, donors, donor_masks = vehicles
    cars = [i for i in range(60) if data.classes[data.labels[i]] in ("car", "tractor")]
    data, masks = data.subset(cars), {c: m[cars] for c, m in masks.items()}
    looks = {"snow": materials(donors, donor_masks, ["snow"], 2)["snow"]}
    before = probe(classifier, data, masks, looks, only=["road"], control=True)
    rule = rules(before[before["class"] == "car"], least_images=8).iloc[0]
    edit = rewrite(classifier, "features.10", exemplar_for(rule, data, masks, looks), donors)
    with edit.applied(classifier):
        after = probe(classifier, data, masks, looks, only=["road"])
    first, second = (effects(table, "class").set_index("class")["drop"] for table in (before, after))
    assert (second < first - 0.2).all()  # tractors as well, though the exemplar shows a car


def test_the_browser_shows_what_the_table_says(looker, world):
    data, masks = world
    table = probe(looker, data, masks, FLAT)
    browser = ProbeBrowser(table, Concepts.of(data, masks, FLAT))
    assert browser.classes.options == ("ship",) and set(browser.concept.options) == {"sea", "sky", "mast"}
    browser.concept.value = "sea"
    browser.style.value = "blue"
    browser.image.value = 7
    assert browser.row["image"] == 7 and browser.row["style"] == "blue"
    assert browser.readings == (
        "original: ship, ship 100 %",
        "sea → blue: house, ship 0 %",
        "elsewhere → blue: ship, ship 100 %",
    )
    assert len(browser.pictures.children) == 3
    browser.concept.value = "mast"
    assert browser.style.value == "blue" and set(browser.image.options) == set(range(6, 12))
    assert "mast → blue: ship" in repr(browser)
    with pytest.raises(ValueError, match="no rows of classifier 'other'"):
        ProbeBrowser(table, Concepts.of(data, masks, FLAT), "other")


def test_the_browser_follows_a_menu_where_those_below_it_stay_as_they_are(looker, world):
    data, masks = world
    browser = ProbeBrowser(probe(looker, data, masks, FLAT), Concepts.of(data, masks, FLAT))
    browser.concept.value, browser.style.value = "sea", "green"
    image = browser.image.value
    for concept, style, read in (("sea", "blue", "house"), ("sky", "blue", "ship"), ("sea", "blue", "house")):
        browser.concept.value, browser.style.value = concept, style
        assert browser.image.value == image
        assert browser.readings[1].startswith(f"{concept} → {style}: {read}")
        assert browser.readings[1] in str(browser.pictures.children[1].children[0].value)


def test_looks_rotate_from_image_to_image(looker, world):
    many = {"grey": torch.stack([c * RED for c in (0.1, 0.2, 0.3, 0.4)]), "green": GREEN[None]}
    table = probe(looker, *world, many, only=["sea"], looks=2, chunk=5)
    grey = table[table["style"] == "grey"].groupby("image").variant.agg(set)
    assert grey.tolist() == [{k % 4, (k + 1) % 4} for k in range(12)]
    assert (table[table["style"] == "green"].groupby("image").size() == 1).all()


def test_a_view_without_a_control_elsewhere_takes_the_one_in_place(looker, world):
    data, masks = world
    looks = {**FLAT, "sea": RED[None]}
    table = probe(looker, data, masks, looks, only=["sea"], control=False)
    concepts = Concepts.of(data, masks, looks)
    row = table[table["style"] == "green"].iloc[0]
    shown = concepts.views(table, row)
    assert [view.title for view in shown] == ["original", "sea → green", "another sea"]
    assert [view.read for view in shown] == ["ship", "house", "ship"]
    assert len(concepts.views(table[table["style"] == "green"], row)) == 2


def test_figures_name_what_they_show(looker, world):
    data, masks = world
    table = probe(looker, data, masks, FLAT)
    bars = plots.drops(effects(table, "concept"), "concept")
    assert [label.get_text() for label in bars.axes[0].get_yticklabels()] == ["sea (12)", "sky (12)", "mast (6)"]
    heat = plots.style_heat(effects(table, ["concept", "style"]))
    assert {label.get_text() for label in heat.axes[0].get_xticklabels()} == set(masks)
    grid = plots.counterfactuals(table, Concepts.of(data, masks, FLAT), rules(table).iloc[0], count=3)
    titles = [axis.get_title() for axis in grid.axes]
    assert titles[::3] == [
        "original\nship (ship 100 %)",
        "sea → green\nhouse (ship 0 %)",
        "elsewhere → green\nship (ship 100 %)",
    ]
