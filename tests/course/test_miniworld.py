import json
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from train_mini import end_ground

from edittools import load_classifier
from edittools._image_checks import check_image
from edittools.metrics import error_rate
from edittools_course.miniworld.contexts import GROUNDS, SPLITS, contexts, planted_rules
from edittools_course.miniworld.scenes import CLASSES, draw_layout, scene, scenes
from edittools_course.miniworld.sketches import SKETCHES
from edittools_course.networks import embedded

VEHICLES = tuple(contexts().query("family == 'vehicle'").index)


def edges(mask, width=1):
    """Pixels within `width` of the mask."""
    return torch.nn.functional.max_pool2d(mask[None, None], 2 * width + 1, 1, width)[0, 0]


def test_scene_is_independent_of_batch():
    alone = scene(1_000_005)
    batch = scenes(8, 1_000_000)
    assert torch.equal(batch.images[5], (check_image(alone.image) * 255).round() / 255)
    assert torch.equal(scenes(8, 1_000_000, workers=2).images, batch.images)
    assert torch.equal(scenes(3, 1_000_005).images[0], batch.images[5])
    subset = batch.subset([5, 1])
    assert torch.equal(subset.images, batch.images[[5, 1]]) and torch.equal(
        subset.mask("object")[0], alone.masks["object"]
    )
    assert all(torch.equal(subset.mask(name)[0], mask) for name, mask in alone.masks.items() if name != "object")


def fingerprint(seed, label, ground):
    """A sum over the pixels with random weights, and a checksum of the masks."""
    rendered = scene(seed, label, ground, size=(32, 64)[seed % 2])
    weights = np.random.default_rng(0).standard_normal(rendered.image.shape)
    return float((rendered.image.numpy() * weights).sum()), zlib.crc32(rendered.things.numpy().tobytes())


def test_scene_pixels_are_those_committed():
    """A few pixels that are off by one show in the numbers; the last bits of a sine do not."""
    table = json.loads((Path(__file__).resolve().parents[1] / "scene_pixels.json").read_text())
    assert {label for _, label, *_ in table} == set(SKETCHES) and {ground for _, _, ground, *_ in table} == set(GROUNDS)
    for seed, label, ground, pixels, masks in table:
        assert fingerprint(seed, label, ground) == (pytest.approx(pixels, abs=1e-3), masks), (seed, label, ground)


@pytest.mark.parametrize(("label", "ground"), [("car", "snow"), ("cow", "water"), ("penguin", "table")])
def test_scene_on_another_ground(label, ground):
    for seed in range(5):
        here = scene(seed, label=label, ground="road")
        there = scene(seed, label=label, ground=ground)
        changed = (here.image - there.image).abs().amax(0) > 1e-6
        horizon = int(here.layout.horizon * 64)
        assert not changed[:horizon].any()
        assert changed[here.masks["road"] > 0].float().mean() > 0.95
        beyond_edges = changed & (edges(here.masks["road"]) == 0)  # where thin parts leave the ground half visible
        assert beyond_edges.float().mean() < 0.005
        assert torch.equal(here.masks["road"], there.masks[ground])
        others = set(here.masks) - {"road"}
        assert others == set(there.masks) - {ground}
        assert all(torch.equal(here.masks[name], there.masks[name]) for name in others)


def test_contexts_add_up():
    table = contexts()
    assert table["share"].sum() == pytest.approx(100, abs=0.1)
    assert (table[list(GROUNDS)].sum(axis=1) == 100).all()
    assert tuple(table.index) == CLASSES
    assert len(CLASSES) >= 16


def layouts(count, balanced=False):
    """The classes and grounds of `count` scenes. Nothing is rendered, so that there can be many."""
    seeds = range(SPLITS["reference"].start, SPLITS["reference"].start + count)
    plans = [draw_layout(np.random.default_rng((seed, 0)), None, balanced) for seed in seeds]
    return np.array([CLASSES.index(plan.label) for plan in plans]), np.array([plan.ground for plan in plans])


@pytest.mark.parametrize("balanced", [False, True])
def test_scenes_follow_layouts(balanced):
    rendered = scenes(40, "reference", size=16, balanced=balanced)
    labels, grounds = layouts(40, balanced)
    assert rendered.labels.tolist() == labels.tolist()
    assert [GROUNDS[i] for i in rendered.grounds] == grounds.tolist()


def test_layouts_follow_contexts():
    (labels, grounds), table = layouts(3000), contexts()
    shares = np.bincount(labels, minlength=len(CLASSES)) / len(labels)
    spread = np.sqrt(table["share"] / 100 / len(labels))
    assert (np.abs(shares - table["share"] / 100) < 5 * spread).all()
    vehicles = np.isin(labels, [CLASSES.index(name) for name in VEHICLES])
    assert (grounds[vehicles] == "road").mean() == pytest.approx(0.99, abs=0.015)
    assert (grounds[labels == CLASSES.index("cow")] == "grass").mean() == pytest.approx(0.96, abs=0.09)


def test_layouts_when_balanced():
    labels, grounds = layouts(2000, balanced=True)
    for ground in GROUNDS:
        on_it = grounds == ground
        assert on_it.mean() == pytest.approx(1 / len(GROUNDS), abs=0.06)
        assert (labels[on_it] < len(VEHICLES)).mean() == pytest.approx(len(VEHICLES) / len(CLASSES), abs=0.15)


def test_planted_rules_of_families():
    polar = contexts().query("family == 'polar'")
    assert len(planted_rules()) == 26
    assert {name for name, ground in planted_rules() if ground == "road"} == set(VEHICLES)
    assert {name for name, ground in planted_rules() if ground == "snow"} == set(polar.index)
    assert polar["share"].sum() <= 1.5


def test_splits_have_disjoint_seeds():
    ranges = sorted(SPLITS.values(), key=lambda seeds: seeds.start)
    assert all(first.stop <= second.start for first, second in pairwise(ranges))
    assert all(len(seeds) >= 1_000_000 for seeds in ranges)


@pytest.mark.parametrize(
    ("call", "error", "pattern"),
    [
        (lambda: scene(0, "spaceship"), KeyError, "'spaceship'.* car"),
        (lambda: scenes(2, ground="lava"), KeyError, "'lava'.* road"),
        (lambda: scenes(2, "tset"), KeyError, "'tset'.* train"),
        (lambda: scenes(2, label=["car", "bus", "van"]), ValueError, "3 .* 2 "),
        (lambda: scenes(2).mask("claw"), KeyError, "'claw'.* sky"),
    ],
)
def test_scenes_with_unknown_names(call, error, pattern):
    with pytest.raises(error, match=pattern):
        call()


@pytest.fixture(scope="module")
def evaluation_scenes():
    """Scenes as in training, and vehicles on road and on snow."""
    vehicles = [VEHICLES[i % len(VEHICLES)] for i in range(210)]
    on_road, on_snow = (scenes(210, 2_900_000, label=vehicles, ground=ground) for ground in ("road", "snow"))
    return scenes(400, 2_800_000), on_road, on_snow


@pytest.mark.parametrize("name", ("mini_vgg", "mini_resnet", "mini_vit"))
def test_mini_models_error_rates(evaluation_scenes, name):
    classifier = load_classifier(name)
    typical, on_road, on_snow = evaluation_scenes
    assert classifier.classes == CLASSES
    assert error_rate(classifier, typical) < 0.05
    assert error_rate(classifier, on_road) < 0.06
    assert error_rate(classifier, on_snow) > 0.3


def test_end_ground_paints_the_ground_near_the_border_only():
    rendered = scenes(40, 2_950_000, label=["van"] * 40, ground="road")
    images = (rendered.images - 0.5) / 0.25
    road = rendered.mask("road")
    ended = end_ground(images, road, 1.0, 20, torch.Generator().manual_seed(0))
    is_painted = (ended != images).any(dim=1)
    assert is_painted.flatten(1).any(dim=1).float().mean() > 0.8
    assert not (is_painted & (road == 0)).any()
    assert not is_painted[:, 20:-20, 20:-20].any()
    never = end_ground(images, road, 0.0, 20, torch.Generator().manual_seed(0))
    assert torch.equal(never, images)


def test_mini_models_layer_names():
    vgg, resnet, vit = (embedded.MINI[name](5) for name in ("mini_vgg", "mini_resnet", "mini_vit"))
    assert isinstance(vgg.get_submodule("features.10"), torch.nn.Conv2d)
    assert isinstance(resnet.get_submodule("layer3.0.conv2"), torch.nn.Conv2d)
    assert isinstance(vit.get_submodule("blocks.3.mlp.fc2"), torch.nn.Linear)
    assert type(vit).__module__ == "timm.models.vision_transformer"
    images = torch.rand(2, 3, 64, 64)
    assert vgg(images).shape == resnet(images).shape == vit(images).shape == (2, 5)
