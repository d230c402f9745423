"""Counterfactual probing: exact small cases, oracles of the statistics, and the rules that are known to be planted."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, wilcoxon
from torch import nn

from edittools import plots
from edittools.classifiers import Classifier
from edittools.images import LabelledImages
from edittools.metrics import predict
from edittools.miniworld.contexts import GROUNDS
from edittools.miniworld.scenes import CLASSES, scene, scenes
from edittools.models.load import load_classifier
from edittools.probing.counterfactuals import Concepts, control_mask, materials
from edittools.probing.effects import Probe, pairs, score
from edittools.probing.probe import ProbeSettings, probe
from edittools.scenarios.rules import repainted
from edittools.widgets.views import ProbeBrowser

SIZE = 16
RED, GREEN, BLUE = (color[:, None, None].expand(3, SIZE, SIZE) for color in torch.eye(3))
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
    table = probe(looker, Concepts(*world, FLAT)).table
    assert len(table) == 2 * (12 + 12 + 6)
    sea, sky = (table[table.concept == name] for name in ("sea", "sky"))
    assert set(sea.before) == set(sea.control.dropna()) == {"ship"} and set(sea.after) == {"house"}
    assert set(sky.after) == {"ship"}
    right, wrong = 1 / (1 + np.exp(-8)), 1 / (1 + np.exp(8))
    assert np.allclose(sea.p_before, right) and np.allclose(sea.p_after, wrong)
    assert np.allclose(sea.area, 0.5) and np.allclose(table[table.concept == "mast"].area, 8 / 256)


def test_drop_control_and_effect_are_the_means_of_the_table(looker, world):
    found = probe(looker, Concepts(*world, FLAT)).effects("concept").set_index("concept")
    assert found.loc["sea", ["images", "before", "drop", "control drop", "effect"]].tolist() == [12, 1, 1, 0, 1]
    assert found.loc["sea", ["drop low", "drop high", "low", "high"]].tolist() == [1, 1, 1, 1]
    assert found.loc["mast", "drop"] == 0 and found.loc["mast", "images"] == 6
    assert found.loc["sky", "effect"] == -1  # its control falls on the sea
    assert found.loc["sea", "p"] == 1 / 2**12 and found.loc["mast", "p"] == 1


def test_a_rule_is_found_with_its_evidence_and_leads_to_an_exemplar(looker, world):
    data, masks = world
    concepts = Concepts(data, masks, {"sea": RED[None], "meadow": torch.stack([GREEN, BLUE])})
    probed = probe(looker, concepts, ProbeSettings(only=["sea"], control="in place"))
    found = probed.rules()
    assert pairs(found) == {("ship", "sea")} and len(found) == 1
    rule = found.iloc[0]
    assert len(rule.evidence) == 12 and rule["style"] == "meadow"
    for variant, texture in enumerate((GREEN, BLUE)):
        exemplar = concepts.exemplar(rule, variant)
        assert torch.equal(exemplar.mask, half(1)) and exemplar.label == 0
        assert torch.equal(exemplar.image, data.images[rule.evidence[0]])
        assert torch.allclose(exemplar.changed[:, SIZE // 2 :], texture[:, SIZE // 2 :])
        assert torch.equal(exemplar.changed[:, : SIZE // 2], RED[:, : SIZE // 2])
    with pytest.raises(KeyError, match="style 'meadow': expected one of green, blue"):
        Concepts(data, masks, FLAT).exemplar(rule)
    with pytest.raises(ValueError, match="'ship' on 'sea' has 12 images.* place 12"):
        concepts.exemplar(rule, place=12)
    assert replace(probed, table=probed.table.assign(before="house")).rules().iloc[0]["evidence"] == ()


def test_classes_of_few_images_have_a_rule_together(looker, world):
    probed = probe(looker, Concepts(*world, FLAT))
    names = probed.table["image"].map(lambda number: ("ship", "boat")[number % 2])
    mixed = replace(probed, table=probed.table.assign(**{"class": names, "before": names}))
    assert mixed.rules().empty  # each has six images
    [rule] = mixed.rules(pooled=True).to_dict("records")
    assert (rule["concept"], rule["images"], len(rule["evidence"])) == ("sea", 12, 12)
    assert rule["class"] == names[probed.table["image"] == rule["evidence"][0]].iloc[0]


def test_images_are_turned_in_rotation_and_a_style_parts_into_known_and_held_out_variants(world):
    data, masks = world
    many = {"sea": RED[None], "grey": torch.stack([c * RED for c in (0.1, 0.2, 0.3, 0.4, 0.5)]), "green": GREEN[None]}
    concepts = Concepts(data, masks, many, groups=[("sea",)])
    known, held_out = concepts.parted("sea", "grey")
    assert [list(one.masks) for one in (known, held_out)] == 2 * [["sea"]] and not known.groups
    assert torch.equal(torch.cat([known.styles["grey"], held_out.styles["grey"]]), many["grey"])
    assert known.styles["sea"] is held_out.styles["sea"] and len(known.styles["grey"]) == 3
    made = known.turned([1, 4], "sea", "grey", 2)
    reds = made.images[:, 0, SIZE - 1, 0].tolist()
    assert reds == pytest.approx([0.2, 0.3, 0.2, 0.3]) and torch.equal(
        made.images[:, :, : SIZE // 2], data.images[:4, :, : SIZE // 2]
    )
    for pair in (("lake", "grey"), ("sea", "snow")):
        with pytest.raises(KeyError, match="(concept 'lake'|style 'snow'): expected one of"):
            concepts.parted(*pair)


def test_objects_of_classes_are_marked_never_a_rule_and_spared_by_controls(looker, world):
    data, masks = world
    probed = probe(looker, Concepts(data, masks, FLAT, objects={"sea": ("ship",)}))
    table = probed.table
    assert set(table[table.is_object].concept) == {"sea"}
    marked = probed.effects(["class", "concept"]).set_index("concept")
    assert marked.is_object.tolist() == [True, False, False] and np.isnan(marked.loc["sea", "q"])
    assert probed.rules().empty
    assert "sea" not in set(probed.effects("concept").concept)
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


def random_table(seed=0, classes=9, images=14):
    rng = np.random.default_rng(seed)
    rows = []
    for k, i, style in product(range(classes), range(images), ("a", "b")):
        row = {"classifier": "c", "image": 100 * k + i, "class": f"class {k}", "concept": "grass", "style": style}
        lost, beside = rng.random() * (0.1 + 0.08 * k), 0.2 * rng.random()
        rows.append(row | {"p_before": 0.9, "p_after": 0.9 - lost, "p_control": 0.9 - beside})
    return pd.DataFrame(rows).assign(is_object=False, before="", after="", control="")


def test_q_is_benjamini_hochberg_by_an_independent_restatement():
    found = Probe(random_table()).effects(["class", "concept"], "probability")
    p, count = found.p.to_numpy(), len(found)
    for one, q in zip(p, found.q, strict=True):
        # the least level at which the step-up procedure rejects this hypothesis
        levels = [other * count / (p <= other).sum() for other in p if other >= one]
        assert q == pytest.approx(min(1, *levels))
    assert (found.q <= 0.05).any() and (found.q > 0.05).any()


def test_each_classifier_is_its_own_family_of_comparisons():
    strong, weak = random_table(), random_table(seed=1).assign(classifier="other", p_after=0.8)
    both, alone = (
        Probe(table).effects(["class", "concept"], "probability") for table in (pd.concat([strong, weak]), strong)
    )
    assert both[both.classifier == "c"].q.tolist() == alone.q.tolist()


def test_the_unit_is_the_image_not_the_picture():
    table = random_table()
    twice = pd.concat([table, table.assign(variant=1)])
    once, again = (Probe(t).effects("class", "probability") for t in (table, twice))
    assert np.allclose(once.p, again.p) and np.allclose(once["low"], again["low"])
    one = table[table["class"] == "class 3"].groupby("image")[["p_after", "p_control"]].mean()
    exact = wilcoxon(one.p_control - one.p_after, alternative="greater", method="exact").pvalue
    assert once.p[3] == pytest.approx(exact)


def test_intervals_are_those_of_the_percentile_bootstrap():
    table = random_table(images=40)
    found = Probe(table).effects("class", "probability").iloc[5]
    one = table[table["class"] == "class 5"].groupby("image")[["p_after", "p_control"]].mean()
    values = (one.p_control - one.p_after).to_numpy()
    oracle = bootstrap([values], np.mean, n_resamples=4000, method="percentile").confidence_interval
    assert found.low == pytest.approx(oracle.low, abs=0.02) and found.high == pytest.approx(oracle.high, abs=0.02)
    assert found.low < found.effect < found.high


@pytest.mark.parametrize("measure", ["accuracy", "probability"])
def test_what_has_no_control_is_not_compared_with_the_control_of_another_concept(measure):
    """A small concept matters to nobody and has a control; a large one that matters has no room for one."""
    row = {"classifier": "c", "class": "a", "is_object": False, "style": "s", "before": "a", "p_before": 0.9}
    small = row | {"concept": "small", "after": "a", "p_after": 0.9, "control": "a", "p_control": 0.9}
    large = row | {"concept": "large", "after": "b", "p_after": 0.1, "control": None, "p_control": np.nan}
    table = pd.DataFrame([{**one, "image": i} for i in range(20) for one in (small, large)])
    [found] = Probe(table).effects("class", measure).to_dict("records")
    assert found["effect"] == 0 and found["control drop"] == 0 and found["p"] == 1
    assert found["drop"] == pytest.approx(0.5 if measure == "accuracy" else 0.4)


def test_turned_to_itself_is_the_control_in_place():
    table = random_table(images=12).replace({"style": {"a": "grass"}})
    found = Probe(table, "in place").effects("class", "probability")
    rows = table[table["class"] == "class 2"].set_index("image")
    same, other = (rows[rows["style"] == style].p_after for style in ("grass", "b"))
    assert found.effect[2] == pytest.approx((same - other).mean())
    assert found["control drop"][2] == pytest.approx(0.9 - same.mean())


def test_log_odds_are_those_of_probabilities_kept_from_0_and_1():
    table = random_table().assign(p_before=1.0, p_control=0.75, p_after=0.5)
    found = Probe(table).effects("class", "log-odds").iloc[0]
    assert found["before"] == pytest.approx(np.log(999)) and found["effect"] == pytest.approx(np.log(3))
    assert found["drop"] == pytest.approx(np.log(999))


def test_a_rule_is_tested_against_the_least_effect_not_against_none():
    table = random_table(classes=2, images=40)
    rng = np.random.default_rng(1)
    table["p_control"] = 0.7
    table["p_after"] = 0.7 - (0.02 + 0.02 * rng.random(len(table)))
    probed = Probe(table)
    assert (probed.effects(["class", "concept"], "probability").q < 1e-6).all()
    assert len(probed.rules(least_effect=0.05)) == 2
    assert probed.rules().empty  # a hundredth of the probability is little in log-odds


def test_under_no_rule_few_are_found():
    rng = np.random.default_rng(0)
    table = random_table(classes=40)
    table["p_after"], table["p_control"] = rng.random((2, len(table)))
    assert len(Probe(table).rules()) <= 1
    few = Probe(random_table(images=5).assign(p_after=0.1))  # too few to compare
    assert few.rules().empty and len(replace(few, least_images=5).rules()) == 9


def test_without_labels_a_classifier_is_held_to_its_own_reading(looker, world):
    data, masks = world
    blue = LabelledImages(BLUE.repeat(12, 1, 1, 1), data.labels, data.classes)
    concepts = Concepts(blue, masks, FLAT)
    assert set(probe(looker, concepts, ProbeSettings(labels="read")).table["class"]) == {"house"}
    assert set(probe(looker, concepts).table["class"]) == {"ship"}


def test_materials_show_the_concept_and_nothing_else():
    images = torch.stack([torch.where(half(1) > 0, RED, BLUE), torch.where(half(1) > 0, GREEN, BLUE)])
    data = LabelledImages(images, torch.zeros(2, dtype=torch.long), ("ship",))
    mask = half(1).repeat(2, 1, 1)
    mask[0, SIZE // 2] = 0
    found = materials(data, {"sea": mask})["sea"]
    assert torch.equal(found[0], GREEN) and torch.equal(found[1], RED)  # the largest first
    assert materials(data, {"sea": mask}, 3) == {}  # two images show it


def test_bad_input_is_named(looker, world):
    data, masks = world
    with pytest.raises(ValueError, match=r"'sea' have shape \(16, 16\)"):
        Concepts(data, {"sea": half(1)}, FLAT)
    with pytest.raises(ValueError, match="labels 'truth': expected one of given, read"):
        ProbeSettings(labels="truth")
    concepts = Concepts(data, masks, FLAT)
    with pytest.raises(KeyError, match="concept 'lake': expected one of sea, sky, mast"):
        probe(looker, concepts, ProbeSettings(only=["lake"]))
    with pytest.raises(KeyError, match="style 'sea': expected one of green, blue"):
        Concepts(data, masks, FLAT, groups=[["sea", "sky"]])
    with pytest.raises(TypeError, match=r"styles=\['tartan'\]"):
        Concepts(data, masks, ["tartan"])
    with pytest.raises(ValueError, match=r"styles=\{\}"):
        Concepts(data, masks, {})
    with pytest.raises(ValueError, match="mast on 2%"):
        probe(looker, concepts.subset(range(6)), ProbeSettings(only=["mast"]))
    probed = probe(looker, concepts)
    with pytest.raises(KeyError, match="column 'colour': expected one of classifier, image"):
        probed.effects("colour")
    with pytest.raises(ValueError, match="concepts=None"):
        replace(probed, concepts=None).views(probed.table.iloc[0])
    with pytest.raises(ValueError, match="image 12, 13; .* 0, 1, 2"):
        probed.where("image", 12, 13)
    with pytest.raises(ValueError, match="measure 'loss'"):
        probed.effects(measure="loss")


def test_in_a_group_concepts_are_turned_to_each_other_only(looker, world):
    data, masks = world
    textures = {"sea": RED[None], "sky": BLUE[None], "mast": GREEN[None]}
    probed = probe(looker, Concepts(data, masks, textures, groups=[("sea", "sky"), ("mast",)]))
    turned = set(zip(probed.table.concept, probed.table["style"], strict=True))
    assert turned == {("mast", "mast"), *((a, b) for a in ("sea", "sky") for b in ("sea", "sky"))}
    sea = probe(looker, Concepts(data, masks, {"sea": RED[None], "sky": BLUE[None]}), ProbeSettings(only=["sea"])).table
    pd.testing.assert_frame_equal(probed.where("concept", "sea").table.reset_index(drop=True), sea)


def test_score_counts_pairs():
    found = pd.DataFrame({"class": ["car", "cow", "cow"], "concept": ["road", "grass", "sky"]})
    figures = score(found, {("car", "road"), ("cow", "grass"), ("ship", "water"), ("camel", "sand")})
    assert figures == {"precision": 2 / 3, "recall": 0.5, "found": 3, "planted": 4}
    assert np.isnan(score(found[:0], {("car", "road")})["precision"])


def test_in_miniworld_the_planted_rules_are_found_and_none_without_them():
    models = {name: load_classifier(name) for name in ("mini_vgg", "mini_vgg_balanced")}
    data = scenes(60, 2_700_000, label=["car", "tractor", "ship", "sled", "penguin"] * 12)
    masks = {concept: data.mask(concept) for concept in (*GROUNDS, "object")}
    donors = scenes(26, 3_700_000, label=list(CLASSES))
    grounds = materials(donors, {ground: donors.mask(ground) for ground in GROUNDS})
    concepts = Concepts(data, masks, grounds, {"object": CLASSES}, [GROUNDS])
    found = probe(models, concepts, ProbeSettings(variants_per_image=2, control="in place")).rules()
    named = set(zip(found.classifier, found["class"], found.concept, strict=True))
    planted = {("car", "road"), ("tractor", "road"), ("ship", "water"), ("sled", "snow"), ("penguin", "snow")}
    assert named == {("mini_vgg", *pair) for pair in planted}


def test_a_scene_painted_again_differs_in_its_ground_only_and_is_read_as_it_looks(story):
    classifiers, concepts, *_ = story
    few, one = concepts.subset(range(34)), {"mini_vgg": classifiers["mini_vgg"]}
    table, data = repainted(one, few, "validation").table, few.data
    assert len(table) == len(data) * len(GROUNDS) and set(table["classifier"]) == {"mini_vgg"}
    itself = table[table["style"] == table["concept"]]
    assert len(itself) == len(data) and np.allclose(itself["p_before"], itself["p_after"], atol=1e-5)
    row = table[(table["image"] == 30) & (table["style"] == "water")].iloc[0]
    picture = scene(1_200_030, row["class"], "water")
    chances = predict(one["mini_vgg"], picture.image[None]).softmax(dim=1)[0]
    right = chances[data.classes.index(row["class"])]
    assert row["p_after"] == pytest.approx(float(right), abs=0.01)  # pictures of a set are rounded to 8 bits
    masks = scene(1_200_030, row["class"], row["concept"]).masks
    changed = (picture.image - data.images[30]).abs().sum(dim=0) > 0.02
    assert changed[masks[row["concept"]] > 0].float().mean() > 0.9
    assert changed[masks["object"] > 0].float().mean() < 0.1
    with pytest.raises(ValueError, match="'validation'"):
        repainted(one, concepts.subset(range(10, 20)), "validation")


def test_agreement_pairs_the_effects_of_two_tables(looker, world):
    data, masks = world
    one = probe(looker, Concepts(data, masks, {"green": FLAT["green"]}))
    half_green = {"half": (RED[None] + GREEN[None]) / 2}
    other = probe(looker, Concepts(data, masks, half_green), ProbeSettings(only=["sea", "sky"]))
    both = one.agreement(other)
    expected = [found.effects("concept", "log-odds").set_index("concept")["effect"]["sea"] for found in (one, other)]
    assert both.loc[("ship", "sea")].tolist() == pytest.approx(expected) and expected[0] > expected[1] + 1
    assert set(both.index) == {("ship", "sea"), ("ship", "sky")}
    drawn = plots.agreement(both, {("ship", "sky")}, {("ship", "sky"), ("ship", "sea")}, 0.5)
    assert [text.get_text() for text in drawn.axes[0].texts] == ["ship on sea"]  # learned, not planted
    with pytest.raises(ValueError, match=" 10 images"):
        replace(one, control="in place").agreement(replace(other, control="in place"))  # none was probed
    with pytest.raises(ValueError, match="classifier, second"):
        one.agreement(replace(other, table=other.table.assign(classifier="second")))


def test_the_browser_shows_what_the_table_says(looker, world):
    probed = probe(looker, Concepts(*world, FLAT))
    browser = ProbeBrowser(probed)
    assert browser.classes.options == ("ship",) and set(browser.concept.options) == {"sea", "sky", "mast"}
    browser.concept.value = "sea"
    browser.style.value = "blue"
    browser.image.value = 7
    assert browser.row["image"] == 7 and browser.row["style"] == "blue"
    assert browser.captions == (
        "original: ship, ship 100 %",
        "sea → blue: house, ship 0 %",
        "elsewhere → blue: ship, ship 100 %",
    )
    assert len(browser.pictures.children) == 3
    browser.concept.value = "mast"
    assert browser.style.value == "blue" and set(browser.image.options) == set(range(6, 12))
    assert "mast → blue: ship" in repr(browser)
    with pytest.raises(ValueError, match="no rows of classifier 'other'"):
        ProbeBrowser(probed, "other")


def test_variants_rotate_from_image_to_image(looker, world):
    many = {"grey": torch.stack([c * RED for c in (0.1, 0.2, 0.3, 0.4)]), "green": GREEN[None]}
    settings = ProbeSettings(only=["sea"], variants_per_image=2)
    table = probe(looker, Concepts(*world, many), settings).table
    grey = table[table["style"] == "grey"].groupby("image").variant.agg(set)
    assert grey.tolist() == [{k % 4, (k + 1) % 4} for k in range(12)]
    assert (table[table["style"] == "green"].groupby("image").size() == 1).all()


def test_a_view_without_a_control_elsewhere_takes_the_one_in_place(looker, world):
    data, masks = world
    concepts = Concepts(data, masks, {**FLAT, "sea": RED[None]})
    probed = probe(looker, concepts, ProbeSettings(only=["sea"], control="in place"))
    green = probed.where("style", "green")
    row = green.table.iloc[0]
    shown = probed.views(row)
    assert [view.title for view in shown] == ["original", "sea → green", "another sea"]
    assert [view.read for view in shown] == ["ship", "house", "ship"]
    assert len(green.views(row)) == 2


def test_figures_name_what_they_show(looker, world):
    data, masks = world
    probed = probe(looker, Concepts(data, masks, FLAT))
    bars = plots.drops(probed.effects("concept"), "concept")
    assert [label.get_text() for label in bars.axes[0].get_yticklabels()] == ["sea (12)", "sky (12)", "mast (6)"]
    heat = plots.style_heat(probed.effects(["concept", "style"]))
    assert {label.get_text() for label in heat.axes[0].get_xticklabels()} == set(masks)
    grid = plots.counterfactuals(probed, probed.rules().iloc[0], count=3)
    titles = [axis.get_title() for axis in grid.axes]
    assert titles[::3] == [
        "original\nship",
        "sea → green\nship: house",
        "elsewhere → green\nship",
    ]
