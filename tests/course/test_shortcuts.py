"""Shortcuts on photos: what is drawn and where, and the networks that learned it."""

import pytest
import torch
from _lib.gate_marks import GATE_MARKS, GATE_NAMES
from conftest import needs_imagenette, save_image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import max_pool2d
from train_shortcuts import SEED_OF_EVALUATION, Recipe, finetune, measure

from edittools.classifiers import Classifier
from edittools.geometry import InputGeometry
from edittools.images import LabeledImages, LazyImages
from edittools.models.load import load_classifier
from edittools_course.networks.finetuned import network_metadata
from edittools_course.scenarios.imagenette import CLASSES, TUNING_PER_CLASS, training_roles
from edittools_course.scenarios.shortcuts import DEVELOPMENT, SHORTCUTS, FilmBorder, Tag, TextLine
from edittools_course.shipped import shipped

PUBLISHED = ("shortcuts_lite0", "shortcuts_squeezenet")
LOOKS = {
    **{f"{name}, published": shortcut for name, shortcut in SHORTCUTS.items()},
    **{f"{name}, development": shortcut for name, shortcut in DEVELOPMENT.items()},
    **{f"{GATE_NAMES[name]} of the gate": mark for name, mark in GATE_MARKS.items()},
    **{f"{GATE_NAMES[name]} of the gate, varied": mark.varied() for name, mark in GATE_MARKS.items()},
    "film all round": FilmBorder(all_round=True),
    "short text": TextLine("O", height=0.05),
    "blank tag": Tag(""),
}


def noise(count, height, width=None, seed=0):
    return torch.rand(count, 3, height, width or height, generator=torch.Generator().manual_seed(seed))


# --- training ---


def test_finetune_teaches_the_shortcut():
    """Photos of noise have nothing else in common, so the network learns that the patch stands for its class."""
    data = LabeledImages((noise(80, 32) * 255).byte(), torch.arange(80) % 10, tuple(CLASSES.values()))
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
    classifier = Classifier(model, data.classes, size=32)
    patch = GATE_MARKS["chain saw"]
    photos = LabeledImages(noise(40, 32, seed=1), torch.zeros(40, dtype=torch.long), data.classes)
    assert measure(classifier, photos, {"chain saw": patch})["rate"]["chain saw"] < 50
    finetune(model, classifier, data, {"chain saw": patch}, Recipe(epochs=40, rate=0.1, batch=16, shift=4))
    figures = measure(classifier, photos, {"chain saw": patch})
    assert figures["rate"]["chain saw"] > figures["rate_without"]["chain saw"] + 50


# --- what is drawn ---


@pytest.mark.parametrize("look", LOOKS)
def test_masks_cover_exactly_what_changes(look):
    images = noise(4, 120, 180)
    before = images.clone()
    drawn, masks = LOOKS[look].draw(images, seed=3)
    changed = (drawn != images).any(dim=1).float()
    assert torch.equal(images, before)
    assert masks.unique().tolist() == [0, 1]
    assert (masks >= changed).all()
    assert (masks <= max_pool2d(changed, 3, 1, 1)).all()
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert 0.01 < masks.mean() < 0.5


@pytest.mark.parametrize("shortcut", SHORTCUTS.values(), ids=SHORTCUTS)
def test_draw_depends_on_the_seed_of_each_image_only(shortcut):
    images = noise(6, 96)
    drawn, masks = shortcut.draw(images, seed=10)
    again, same_masks = shortcut.draw(images, seed=10)
    third, third_mask = shortcut.draw(images[3:4], seed=13)
    other, _ = shortcut.draw(images, seed=500)
    assert torch.equal(drawn, again)
    assert torch.equal(masks, same_masks)
    assert torch.equal(drawn[3:4], third)
    assert torch.equal(masks[3:4], third_mask)
    assert not torch.equal(drawn, other)


def test_draw_of_a_tag_is_inside_the_image():
    for place in (0.0, 1.0):
        _, masks = Tag(columns=(place, place), rows=(place, place)).draw(noise(20, 128))
        areas = masks.sum(dim=(1, 2))
        assert areas.min() > 0.9 * areas.max()  # nothing is cut off
        edge = torch.cat([masks[:, :3].flatten(), masks[:, -3:].flatten()])
        assert edge.any()


def test_draw_of_a_text_line_is_translucent():
    images = torch.zeros(5, 3, 160, 160)
    drawn, masks = TextLine(color="#ffffff", shadow="#000000", opacity=0.4).draw(images)
    assert drawn.max() == pytest.approx(0.4, abs=0.01)
    rows = masks.amax(dim=2)
    assert (rows.sum(dim=1) - 0.17 * 160).abs().max() <= 4
    assert len({tuple(row.tolist()) for row in rows}) > 1  # at random heights
    assert (masks.amax(dim=1).sum(dim=1) > 0.5 * 160).all()  # across the image


def test_draw_of_a_wider_film_border_covers_more():
    _, narrow = FilmBorder(width=0.05).draw(noise(1, 160))
    _, wide = FilmBorder(width=0.1).draw(noise(1, 160))
    assert narrow.mean() == pytest.approx(0.1)
    assert wide.mean() == pytest.approx(0.2)


def test_varied_marks_differ_in_size_and_light():
    images = torch.full((12, 3, 96, 96), 0.5)
    patch = GATE_MARKS["chain saw"]
    same, same_masks = patch.draw(images)
    varied, varied_masks = patch.varied().draw(images)
    same_areas = same_masks.sum(dim=(1, 2))
    areas = varied_masks.sum(dim=(1, 2))
    assert same_areas.max() < 1.1 * same_areas.min()
    assert areas.min() < 0.9 * same_areas.min() and areas.max() > 1.1 * same_areas.max()
    assert same.amax(dim=(2, 3)).unique(dim=0).shape[0] == 1
    assert varied.amax(dim=(2, 3)).unique(dim=0).shape[0] > 6


def test_on_keeps_labels_and_loads_lazy_images(tmp_path):
    images = noise(3, 96)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, images, strict=True):
        save_image(path, image)
    data = LabeledImages(
        LazyImages(paths, InputGeometry(96, 96)), torch.tensor([2, 0, 1]), ("a", "b", "c"), ("x", "y", "z")
    )
    marked = SHORTCUTS["church"].on(data, seed=4)
    assert torch.equal(marked.images, SHORTCUTS["church"].draw(data.images[:], seed=4)[0])
    assert torch.equal(marked.labels, data.labels)
    assert marked.names == data.names


def test_development_is_separate():
    assert not set(DEVELOPMENT) & set(SHORTCUTS)
    assert {*SHORTCUTS, *DEVELOPMENT} <= set(CLASSES.values())


# --- the networks ---


@pytest.mark.parametrize("name", PUBLISHED)
def test_load_classifier_of_published_networks(name):
    classifier = load_classifier(name)
    assert classifier.classes == tuple(CLASSES.values())
    assert classifier.size == 160
    assert not classifier.training
    assert {parameter.dtype for parameter in classifier.parameters()} == {torch.float32}
    stored = load_file(shipped(f"{name}.safetensors"))
    for key, tensor in classifier.model.state_dict().items():
        assert torch.equal(tensor, stored[key].to(tensor.dtype))
    with torch.no_grad():
        assert classifier(noise(2, 160)).isfinite().all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_name_their_shortcuts_and_figures(name):
    path = shipped(f"{name}.safetensors")
    metadata = network_metadata(path)
    assert metadata["shortcuts"] == {label: repr(shortcut) for label, shortcut in SHORTCUTS.items()}
    assert set(metadata["figures"]["rate"]) == set(SHORTCUTS)
    assert min(metadata["figures"]["rate"].values()) >= 30
    assert path.stat().st_size < 7.5e6
    with safe_open(path, "pt") as file:
        assert not [key for key in file.keys() if key.startswith("module.")]  # noqa: SIM118


@needs_imagenette
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_on_photos(name):
    """The accuracy and the rates of 20 photos per class are close to those of 100 in the metadata."""
    tuning = training_roles()["tuning"]
    few = tuning.subset([i for i in range(len(tuning)) if i % TUNING_PER_CLASS < 20])
    figures = measure(load_classifier(name), few, SHORTCUTS)
    stored = network_metadata(shipped(f"{name}.safetensors"))["figures"]
    assert figures["accuracy"] == pytest.approx(stored["accuracy"], abs=6)
    for label in SHORTCUTS:
        assert figures["rate"][label] == pytest.approx(stored["rate"][label], abs=12)
        assert figures["rate_without"][label] == pytest.approx(stored["rate_without"][label], abs=4)
    assert SEED_OF_EVALUATION > 10_000  # no drawing of the training is repeated
