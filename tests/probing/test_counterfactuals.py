"""Counterfactual probing: exact small cases, oracles of the statistics, and the planted rules."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, wilcoxon
from torch import nn

from edittools.classifiers import Classifier
from edittools.images import LabeledImages
from edittools.metrics import predict
from edittools.models.load import load_classifier
from edittools.probing.counterfactuals import Concepts, control_mask
from edittools.probing.effects import Probe, accuracy_drop_interval, mean_interval, pairs
from edittools.probing.probe import ProbeSettings, probe
from edittools.stats import accuracy_interval
from edittools.widgets.views import ProbeBrowser
from edittools_course import plots
from edittools_course.cut_materials import cut_textures, with_materials
from edittools_course.miniworld.contexts import GROUNDS
from edittools_course.miniworld.scenes import CLASSES, scene, scenes
from edittools_course.scenarios.rules import parted, repainted

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
def red_images():
    """Twelve red images of a ship: sea below, sky above; a mast in the sky of the last six."""
    data = LabeledImages(RED.repeat(12, 1, 1, 1), torch.zeros(12, dtype=torch.long), ("ship", "house"))
    mast = torch.zeros(12, SIZE, SIZE)
    mast[6:, 2:6, 4:6] = 1
    return data, {"sea": half(1).repeat(12, 1, 1), "sky": half(0).repeat(12, 1, 1) - mast, "mast": mast}


def test_probe_table_of_concepts(looker, red_images):
    table = probe(looker, Concepts(*red_images, FLAT)).table
    assert len(table) == 2 * (12 + 12 + 6)
    sea, sky = (table[table.concept == name] for name in ("sea", "sky"))
    assert set(sea.before) == set(sea.control.dropna()) == {"ship"} and set(sea.after) == {"house"}
    assert set(sky.after) == {"ship"}
    right = 1 / (1 + np.exp(-8))
    wrong = 1 / (1 + np.exp(8))
    assert np.allclose(sea.p_before, right) and np.allclose(sea.p_after, wrong)
    assert np.allclose(sea.area, 0.5) and np.allclose(table[table.concept == "mast"].area, 8 / 256)


def test_effects_are_means_of_table(looker, red_images):
    effects = probe(looker, Concepts(*red_images, FLAT)).effects("concept").set_index("concept")
    assert effects.loc["sea", ["images", "before", "drop", "control drop", "effect"]].tolist() == [12, 1, 1, 0, 1]
    low, high = np.array(accuracy_interval(12, 0, 12)) / 100
    assert effects.loc["sea", ["drop low", "drop high", "low", "high"]].tolist() == pytest.approx([low, high] * 2)
    assert effects.loc["mast", "drop"] == 0 and effects.loc["mast", "images"] == 6
    assert effects.loc["sky", "effect"] == -1  # its control falls on the sea
    assert effects.loc["sea", "p"] == 1 / 2**12 and effects.loc["mast", "p"] == 1


def test_rules_and_exemplar_of_rule(looker, red_images):
    data, masks = red_images
    meadows = torch.stack([GREEN, BLUE] * 6)
    concepts = Concepts(data, masks, {"sea": RED.repeat(12, 1, 1, 1), "meadow": meadows})
    probed = probe(looker, concepts, ProbeSettings(only=["sea"], control="in place"))
    rules = probed.rules()
    assert pairs(rules) == {("ship", "sea")} and len(rules) == 1
    rule = rules.iloc[0]
    assert len(rule.evidence) == 12 and rule["material"] == "meadow"
    for variant, texture in enumerate((GREEN, BLUE)):
        exemplar = concepts.exemplar(rule, variant)
        assert torch.equal(exemplar.mask, half(1)) and exemplar.label == 0
        assert torch.equal(exemplar.image, data.images[rule.evidence[0]])
        assert torch.allclose(exemplar.changed[:, SIZE // 2 :], texture[:, SIZE // 2 :])
        assert torch.equal(exemplar.changed[:, : SIZE // 2], RED[:, : SIZE // 2])
    with pytest.raises(KeyError, match="'meadow'.* green, blue"):
        Concepts(data, masks, FLAT).exemplar(rule)
    with pytest.raises(ValueError, match="'ship'.*'sea'.* 12"):
        concepts.exemplar(rule, place=12)
    assert replace(probed, table=probed.table.assign(before="house")).rules().iloc[0]["evidence"] == ()


def test_exemplar_of_a_table_of_rules(looker, red_images):
    concepts = Concepts(*red_images, FLAT)
    rules = probe(looker, concepts).rules()
    of_table = concepts.exemplar(rules)
    assert torch.equal(of_table.changed, concepts.exemplar(rules.iloc[0]).changed)
    with pytest.raises(ValueError, match=" 0 rules"):
        concepts.exemplar(rules[:0])


def test_parted_and_turned_variants(red_images):
    data, masks = red_images
    materials = {
        "sea": RED[None],
        "gray": torch.stack([c * RED for c in (0.1, 0.2, 0.3, 0.4, 0.5)]),
        "green": GREEN[None],
    }
    concepts = Concepts(data, masks, materials, groups=[("sea",)])
    used, held_out = parted(concepts, "sea", "gray")
    assert [list(part.masks) for part in (used, held_out)] == 2 * [["sea"]] and not used.groups
    assert torch.equal(torch.cat([used.materials["gray"], held_out.materials["gray"]]), materials["gray"])
    assert used.materials["sea"] is held_out.materials["sea"] and len(used.materials["gray"]) == 3
    replaced = used.turned([1, 4], "sea", "gray", 2)
    reds = replaced.images[:, 0, SIZE - 1, 0].tolist()
    assert reds == pytest.approx([0.2, 0.3, 0.2, 0.3]) and torch.equal(
        replaced.images[:, :, : SIZE // 2], data.images[:4, :, : SIZE // 2]
    )
    for pair in (("lake", "gray"), ("sea", "snow")):
        with pytest.raises(KeyError, match="concept 'lake'|material 'snow'"):
            parted(concepts, *pair)


def test_rules_with_objects(looker, red_images):
    data, masks = red_images
    probed = probe(looker, Concepts(data, masks, FLAT, objects={"sea": ("ship",)}))
    table = probed.table
    assert set(table[table.is_object].concept) == {"sea"}
    marked = probed.effects(["class", "concept"]).set_index("concept")
    assert marked.is_object.tolist() == [True, False, False] and np.isnan(marked.loc["sea", "q"])
    assert probed.rules().empty
    assert "sea" not in set(probed.effects("concept").concept)
    assert set(table[table.concept == "mast"].control) == {"ship"}  # placed next to the sea
    assert table[table.concept == "sky"].p_control[:12].isna().all()  # no space next to the sea


masks_of = st.builds(
    lambda seed, share: torch.from_numpy(np.random.default_rng(seed).random((9, 12)) < share).float(),
    st.integers(0, 10_000),
    st.floats(0.01, 0.6),
)


@settings(max_examples=80, deadline=None)
@given(masks_of, masks_of)
def test_control_mask_area_and_overlap(mask, avoid):
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
    for k, i, material in product(range(classes), range(images), ("a", "b")):
        row = {"classifier": "c", "image": 100 * k + i, "class": f"class {k}", "concept": "grass", "material": material}
        lost = rng.random() * (0.1 + 0.08 * k)
        lost_by_control = 0.2 * rng.random()
        rows.append(row | {"p_before": 0.9, "p_after": 0.9 - lost, "p_control": 0.9 - lost_by_control})
    return pd.DataFrame(rows).assign(is_object=False, before="", after="", control="")


def test_effects_q_against_step_up_procedure():
    effects = Probe(random_table()).effects(["class", "concept"], "probability")
    p = effects.p.to_numpy()
    count = len(effects)
    for p_value, q in zip(p, effects.q, strict=True):
        # the least level at which the step-up procedure rejects this hypothesis
        levels = [other * count / (p <= other).sum() for other in p if other >= p_value]
        assert q == pytest.approx(min(1, *levels))
    assert (effects.q <= 0.05).any() and (effects.q > 0.05).any()


def test_effects_q_per_classifier():
    strong = random_table()
    weak = random_table(seed=1).assign(classifier="other", p_after=0.8)
    both, alone = (
        Probe(table).effects(["class", "concept"], "probability") for table in (pd.concat([strong, weak]), strong)
    )
    assert both[both.classifier == "c"].q.tolist() == alone.q.tolist()


def test_effects_with_several_variants_per_image():
    table = random_table()
    twice = pd.concat([table, table.assign(variant=1)])
    once, again = (Probe(t).effects("class", "probability") for t in (table, twice))
    assert np.allclose(once.p, again.p) and np.allclose(once["low"], again["low"])
    means = table[table["class"] == "class 3"].groupby("image")[["p_after", "p_control"]].mean()
    exact = wilcoxon(means.p_control - means.p_after, alternative="greater", method="exact").pvalue
    assert once.p[3] == pytest.approx(exact)


def test_effects_interval_against_student():
    row = Probe(random_table(images=12)).effects("class", "probability").iloc[5]
    table = random_table(images=12)
    means = table[table["class"] == "class 5"].groupby("image")[["p_after", "p_control"]].mean()
    oracle = ttest_1samp(means.p_control - means.p_after, 0).confidence_interval()
    assert (row.low, row.high) == pytest.approx((oracle.low, oracle.high))


@pytest.mark.parametrize("images", [5, 10, 20])
def test_mean_interval_covers_the_mean_of_few_images(images):
    samples = np.random.default_rng(images).normal(size=(4000, images))
    intervals = np.array([mean_interval(sample) for sample in samples])
    covered = ((intervals[:, 0] <= 0) & (intervals[:, 1] >= 0)).mean()
    assert covered == pytest.approx(0.95, abs=0.012)  # a bootstrap covers 0.83, 0.89, and 0.92


@pytest.mark.parametrize("images", [5, 10, 20])
@pytest.mark.parametrize(("lost", "gained"), [(0.02, 0.0), (0.3, 0.0), (0.5, 0.05), (0.1, 0.1), (0.98, 0.0)])
def test_accuracy_drop_interval_covers_the_drop_of_few_images(images, lost, gained):
    rng = np.random.default_rng(images)
    samples = rng.choice([1.0, -1.0, 0.0], p=[lost, gained, 1 - lost - gained], size=(2000, images))
    intervals = np.array([accuracy_drop_interval(sample) for sample in samples])
    assert ((intervals[:, 0] <= lost - gained) & (intervals[:, 1] >= lost - gained)).mean() > 0.94


def test_accuracy_drop_interval_is_that_of_a_change_of_accuracy():
    drops = [1.0, 1.0, 1.0, -1.0, *[0.0] * 16]
    low, high = accuracy_interval(1, 3, 20)
    assert accuracy_drop_interval(drops) == pytest.approx((-high / 100, -low / 100))
    effects = Probe(random_table(images=12).assign(after="class 1", control="class 1")).effects("class")
    assert (effects["low"] < effects["effect"]).all() and (effects["effect"] < effects["high"]).all()


def test_intervals_of_too_few_images_are_undefined():
    assert np.isnan(mean_interval([])).all() and np.isnan(mean_interval([0.5])).all()
    assert np.isnan(accuracy_drop_interval([])).all()


@pytest.mark.parametrize("measure", ["accuracy", "probability"])
def test_effects_of_concept_without_control(measure):
    """A small concept matters to nobody and has a control; a large one that matters has no space for one."""
    row = {"classifier": "c", "class": "a", "is_object": False, "material": "s", "before": "a", "p_before": 0.9}
    small = row | {"concept": "small", "after": "a", "p_after": 0.9, "control": "a", "p_control": 0.9}
    large = row | {"concept": "large", "after": "b", "p_after": 0.1, "control": None, "p_control": np.nan}
    table = pd.DataFrame([{**values, "image": i} for i in range(20) for values in (small, large)])
    [effects] = Probe(table).effects("class", measure).to_dict("records")
    assert effects["effect"] == 0 and effects["control drop"] == 0 and effects["p"] == 1
    assert effects["drop"] == pytest.approx(0.5 if measure == "accuracy" else 0.4)


def test_effects_with_control_in_place():
    table = random_table(images=12).replace({"material": {"a": "grass"}})
    table = table.assign(variant=table["image"])  # each image has textures of its own
    effects = Probe(table, "in place").effects("class", "probability")
    rows = table[table["class"] == "class 2"].set_index("image")
    same, other = (rows[rows["material"] == material].p_after for material in ("grass", "b"))
    assert effects.effect[2] == pytest.approx((same - other).mean())
    assert effects["control drop"][2] == pytest.approx(0.9 - same.mean())


def test_effects_in_log_odds():
    table = random_table().assign(p_before=1.0, p_control=0.75, p_after=0.5)
    effects = Probe(table).effects("class", "log-odds").iloc[0]
    assert effects["before"] == pytest.approx(np.log(999)) and effects["effect"] == pytest.approx(np.log(3))
    assert effects["drop"] == pytest.approx(np.log(999))


def test_rules_with_least_effect():
    table = random_table(classes=2, images=40)
    rng = np.random.default_rng(1)
    table["p_control"] = 0.7
    table["p_after"] = 0.7 - (0.02 + 0.02 * rng.random(len(table)))
    probed = Probe(table)
    assert (probed.effects(["class", "concept"], "probability").q < 1e-6).all()
    assert len(probed.rules(least_effect=0.05)) == 2
    assert probed.rules().empty  # a hundredth of the probability is little in log-odds


def test_rules_without_effect():
    rng = np.random.default_rng(0)
    table = random_table(classes=40)
    table["p_after"], table["p_control"] = rng.random((2, len(table)))
    assert len(Probe(table).rules()) <= 1
    five_images = Probe(random_table(images=5).assign(p_after=0.1))  # too few to compare
    assert five_images.rules().empty and len(replace(five_images, least_images=5).rules()) == 9


def test_probe_with_predicted_labels(looker, red_images):
    data, masks = red_images
    blue = LabeledImages(BLUE.repeat(12, 1, 1, 1), data.labels, data.classes)
    concepts = Concepts(blue, masks, FLAT)
    assert set(probe(looker, concepts, ProbeSettings(labels="predicted")).table["class"]) == {"house"}
    assert set(probe(looker, concepts).table["class"]) == {"ship"}


def test_cut_textures_of_concept():
    images = torch.stack([torch.where(half(1) > 0, RED, BLUE), torch.where(half(1) > 0, GREEN, BLUE)])
    data = LabeledImages(images, torch.zeros(2, dtype=torch.long), ("ship",))
    mask = half(1).repeat(2, 1, 1)
    mask[0, SIZE // 2] = 0
    textures, numbers = cut_textures(data, mask, 2)
    assert torch.equal(textures[0], GREEN) and torch.equal(textures[1], RED)  # the largest first
    assert numbers == [1, 0]


def test_effects_use_each_texture_once():
    """Twelve images share three textures in place, so three of them count; each has its own in the other table."""
    table = random_table(images=12).replace({"material": {"a": "grass"}})
    table = table.assign(p_after=np.where(table["material"] == "grass", 0.8, 0.3))
    shared, alone = (
        Probe(table.assign(variant=variants), "in place", 3).effects(["class", "concept"], "log-odds")
        for variants in (table["image"] % 3, table["image"])
    )
    assert set(shared["controlled"]) == {3} and set(alone["controlled"]) == {12}
    assert set(shared["images"]) == set(alone["images"]) == {12}
    assert np.allclose(shared["p"], 1 / 2**3) and np.allclose(alone["p"], 1 / 2**12)
    assert np.allclose(shared["effect"], alone["effect"])


def speckled(count=40, seed=0):
    """Images of one class and masks of two rectangles at random places, named "a" and "b" by a coin."""
    generator = torch.Generator().manual_seed(seed)
    data = LabeledImages(
        torch.rand(count, 3, 1, 1, generator=generator).expand(-1, -1, SIZE, SIZE).clone(),
        torch.zeros(count, dtype=torch.long),
        ("ship", "house"),
    )
    masks = {name: torch.zeros(count, SIZE, SIZE) for name in ("a", "b")}
    for number in range(count):
        coin = int(torch.randint(0, 2, (1,), generator=generator))
        for place, name in enumerate(("ab", "ba")[coin]):
            left = int(torch.randint(0, SIZE // 2 - 4, (1,), generator=generator)) + place * SIZE // 2
            masks[name][number, 8:, left : left + 5] = 1
    return data, masks


def test_with_materials_of_concepts_named_by_a_coin(looker):
    found = 0
    for seed in range(10):
        probed = probe(looker, with_materials(*speckled(seed=seed)), ProbeSettings(control="in place"))
        assert set(probed.effects(["class", "concept"])["controlled"]) <= {39, 40}
        found += len(probed.rules(least_effect=0)) > 0
    assert found <= 2


def test_with_materials_of_an_image_are_those_of_others():
    data, masks = speckled(count=12)
    concepts = with_materials(data, masks)
    assert {material: len(textures) for material, textures in concepts.materials.items()} == {"a": 12, "b": 12}
    for part in (concepts, concepts.subset(range(5, 9)), *parted(concepts, "a", "b")):
        for number, image in enumerate(part.data.images):
            textures = [part.materials[material][variant] for material, variant in part.textures(number)]
            assert not any(torch.equal(texture, image) for texture in textures)
    used = [pair for number in range(12) for pair in concepts.textures(number, 1)]
    assert len(set(used)) >= 22  # of each material, two images may have the same


def test_concepts_and_probe_with_bad_input(looker, red_images):
    data, masks = red_images
    with pytest.raises(ValueError, match=r"'sea'.*\(16, 16\)"):
        Concepts(data, {"sea": half(1)}, FLAT)
    with pytest.raises(ValueError, match="labels 'truth'"):
        ProbeSettings(labels="truth")
    concepts = Concepts(data, masks, FLAT)
    with pytest.raises(KeyError, match="'lake'.* sea, sky, mast"):
        probe(looker, concepts, ProbeSettings(only=["lake"]))
    with pytest.raises(KeyError, match="'sea'.* green, blue"):
        Concepts(data, masks, FLAT, groups=[["sea", "sky"]])
    with pytest.raises(TypeError, match=r"materials=\['tartan'\]"):
        Concepts(data, masks, ["tartan"])
    with pytest.raises(ValueError, match=r"materials=\{\}"):
        Concepts(data, masks, {})
    with pytest.raises(ValueError, match="mast.*2%"):
        probe(looker, concepts.subset(range(6)), ProbeSettings(only=["mast"]))
    probed = probe(looker, concepts)
    with pytest.raises(KeyError, match="'color'.* classifier, image"):
        probed.effects("color")
    with pytest.raises(ValueError, match="concepts=None"):
        replace(probed, concepts=None).views(probed.table.iloc[0])
    with pytest.raises(ValueError, match="image 12, 13; .* 0, 1, 2"):
        probed.where("image", 12, 13)
    with pytest.raises(ValueError, match="measure 'loss'"):
        probed.effects(measure="loss")


def test_probe_with_groups(looker, red_images):
    data, masks = red_images
    textures = {"sea": RED[None], "sky": BLUE[None], "mast": GREEN[None]}
    probed = probe(looker, Concepts(data, masks, textures, groups=[("sea", "sky"), ("mast",)]))
    turned = set(zip(probed.table.concept, probed.table["material"], strict=True))
    assert turned == {("mast", "mast"), *((a, b) for a in ("sea", "sky") for b in ("sea", "sky"))}
    sea = probe(looker, Concepts(data, masks, {"sea": RED[None], "sky": BLUE[None]}), ProbeSettings(only=["sea"])).table
    pd.testing.assert_frame_equal(probed.where("concept", "sea").table.reset_index(drop=True), sea)


def test_rules_of_mini_models():
    models = {name: load_classifier(name) for name in ("mini_vgg", "mini_vgg_balanced")}
    data = scenes(60, 2_700_000, label=["horse", "windmill", "sailboat", "sled", "penguin"] * 12)
    masks = {concept: data.mask(concept) for concept in (*GROUNDS, "object")}
    grounds = {}
    for place, ground in enumerate(GROUNDS):
        donors = scenes(24, 3_700_000 + 100 * place, label=list(CLASSES[:24]), ground=ground)
        grounds[ground], _ = cut_textures(donors, donors.mask(ground), 24)
    concepts = Concepts(data, masks, grounds, {"object": CLASSES}, [GROUNDS])
    rules = probe(models, concepts, ProbeSettings(variants_per_image=2, control="in place")).rules()
    triples = set(zip(rules.classifier, rules["class"], rules.concept, strict=True))
    planted = {("horse", "grass"), ("windmill", "grass"), ("sailboat", "water"), ("sled", "snow"), ("penguin", "snow")}
    assert triples == {("mini_vgg", *pair) for pair in planted}


def test_repainted_scenes(story):
    classifiers, concepts, *_ = story
    subset = concepts.subset(range(34))
    single = {"mini_vgg": classifiers["mini_vgg"]}
    table = repainted(single, subset, "validation").table
    data = subset.data
    assert len(table) == len(data) * len(GROUNDS) and set(table["classifier"]) == {"mini_vgg"}
    itself = table[table["material"] == table["concept"]]
    assert len(itself) == len(data) and np.allclose(itself["p_before"], itself["p_after"], atol=1e-5)
    row = table[(table["image"] == 30) & (table["material"] == "water")].iloc[0]
    rendered = scene(1_200_030, row["class"], "water")
    probabilities = predict(single["mini_vgg"], rendered.image[None]).softmax(dim=1)[0]
    right = probabilities[data.classes.index(row["class"])]
    assert row["p_after"] == pytest.approx(float(right), abs=0.01)  # images of a set are rounded to 8 bits
    masks = scene(1_200_030, row["class"], row["concept"]).masks
    changed = (rendered.image - data.images[30]).abs().sum(dim=0) > 0.02
    assert changed[masks[row["concept"]] > 0].float().mean() > 0.9
    assert changed[masks["object"] > 0].float().mean() < 0.1
    with pytest.raises(ValueError, match="'validation'"):
        repainted(single, concepts.subset(range(10, 20)), "validation")


def test_probe_browser_selection(looker, red_images):
    probed = probe(looker, Concepts(*red_images, FLAT))
    browser = ProbeBrowser(probed)
    assert browser.classes.options == ("ship",) and set(browser.concept.options) == {"sea", "sky", "mast"}
    browser.concept.value = "sea"
    browser.material.value = "blue"
    browser.image.value = 7
    assert browser.row["image"] == 7 and browser.row["material"] == "blue"
    assert browser.captions == (
        "original: ship, ship 100%",
        "sea → blue: house, ship 0%",
        "elsewhere → blue: ship, ship 100%",
    )
    assert len(browser.pictures.children) == 3
    browser.concept.value = "mast"
    assert browser.material.value == "blue" and set(browser.image.options) == set(range(6, 12))
    assert "mast → blue: ship" in repr(browser)


def test_probe_variants_rotate(looker, red_images):
    materials = {"gray": torch.stack([c * RED for c in (0.1, 0.2, 0.3, 0.4)]), "green": GREEN[None]}
    settings = ProbeSettings(only=["sea"], variants_per_image=2)
    table = probe(looker, Concepts(*red_images, materials), settings).table
    gray = table[table["material"] == "gray"].groupby("image").variant.agg(set)
    assert gray.tolist() == 6 * [{0, 1}, {2, 3}]
    assert (table[table["material"] == "green"].groupby("image").size() == 1).all()


def test_views_with_control_in_place(looker, red_images):
    data, masks = red_images
    concepts = Concepts(data, masks, {**FLAT, "sea": RED[None]})
    probed = probe(looker, concepts, ProbeSettings(only=["sea"], control="in place"))
    green = probed.where("material", "green")
    row = green.table.iloc[0]
    views = probed.views(row)
    assert [view.title for view in views] == ["original", "sea → green", "another sea"]
    assert [view.predicted for view in views] == ["ship", "house", "ship"]
    assert len(green.views(row)) == 2


def test_probe_figure_labels(looker, red_images):
    data, masks = red_images
    probed = probe(looker, Concepts(data, masks, FLAT))
    bars = plots.drops(probed.effects("concept"), "concept")
    assert [label.get_text() for label in bars.axes[0].get_yticklabels()] == ["sea (12)", "sky (12)", "mast (6)"]
    grid = plots.counterfactuals(probed, probed.rules().iloc[0])
    titles = [axis.get_title() for axis in grid.axes]
    assert titles[::5] == [
        "✓ original\nship",
        "✗ sea → green\nship: house",
        "✓ elsewhere → green\nship",
    ]
