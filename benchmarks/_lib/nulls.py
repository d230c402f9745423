"""Repairs and audits without anything to find, in folders with copies, frames, borders, or black images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from _lib.cases_of_repair import frames_of
from _lib.striped import squares
from edittools import models
from edittools.auditing.sheet import ContactSheet, WindowGroup
from edittools.auditing.windows import confirm, contact_sheet, shuffled
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import LabeledImages
from edittools.metrics import Comparison, misclassified, predict, predicted_classes
from edittools_course.miniworld import scenes

NETWORKS = ("mini_vgg", "mini_resnet", "mini_vgg_balanced")
VEHICLES = ("van", "bus", "tractor", "bicycle", "truck", "motorcycle")
SAMPLES = (60, 200)
"""The numbers of images with the concept."""

CLEAN = 520
ORDINARY = 200
NEW = {"concept": 600, "clean": 2_000}
"""The number of new images."""

SEED_OF_NEW = 950_000_000
"""The seed of the new images, beyond those of all cases."""

NOISE = 24
"""The side of the noise of an exemplar, in pixels."""

FRAMES = 8
BORDER = 4
"""The width of a border, in pixels."""

AUDITED = 110
"""The number of images of an audit."""

TRUTH = 500
"""The number of new images that tell whether a window turns images into its class."""


# --- folders ----------------------------------------------------------------------------------------------------------


def unchanged(data: LabeledImages, generator: torch.Generator) -> LabeledImages:
    """Return the images without a change."""
    return data


def with_copies(data: LabeledImages, generator: torch.Generator) -> LabeledImages:
    """Replace half of the images by copies of the other half, with a little noise."""
    half = -(-len(data) // 2)
    kept = data.subset(torch.arange(half))
    copies = (kept.images + 0.004 * torch.randn(kept.images.shape, generator=generator)).clamp(0, 1)
    images = torch.cat([kept.images, copies])[: len(data)]
    return LabeledImages(images, torch.cat([kept.labels, kept.labels])[: len(data)], data.classes)


def in_frames(data: LabeledImages, generator: torch.Generator) -> LabeledImages:
    """Replace the images by frames of an eighth of them."""
    shown = data.subset(torch.arange(-(-len(data) // FRAMES)))
    return frames_of(shown, FRAMES, generator, moves=False).subset(torch.arange(len(data)))


def with_borders(data: LabeledImages, generator: torch.Generator) -> LabeledImages:
    """Draw a black border around half of the images."""
    images = data.images.clone()
    is_framed = torch.rand(len(data), generator=generator) < 0.5
    inner = torch.zeros(images.shape[2:], dtype=torch.bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    images[is_framed] = torch.where(inner, images[is_framed], 0.0)
    return LabeledImages(images, data.labels, data.classes)


def with_black(data: LabeledImages, generator: torch.Generator) -> LabeledImages:
    """Make a fifth of the images all black."""
    images = data.images.clone()
    images[torch.rand(len(data), generator=generator) < 0.2] = 0.0
    return LabeledImages(images, data.labels, data.classes)


def of_one_class(data: LabeledImages, generator: torch.Generator) -> LabeledImages:
    """Call all images but a tenth by one class, as a folder does whose subfolder names are wrong."""
    labels = data.labels.clone()
    labels[torch.rand(len(data), generator=generator) < 0.9] = labels[0]
    return LabeledImages(data.images, labels, data.classes)


def labeled_at_random(data: LabeledImages, generator: torch.Generator) -> LabeledImages:
    """Shuffle the labels."""
    return LabeledImages(data.images, data.labels[torch.randperm(len(data), generator=generator)], data.classes)


Change = Callable[[LabeledImages, torch.Generator], LabeledImages]

FOLDERS: Mapping[str, Change] = {
    "unchanged": unchanged,
    "copies": with_copies,
    "frames": in_frames,
    "borders": with_borders,
    "black images": with_black,
    "one class": of_one_class,
}
"""How the images of a null repair are changed."""

AUDITED_FOLDERS: Mapping[str, Change] = {**FOLDERS, "labels at random": labeled_at_random}
"""How the images of a null audit are changed."""


# --- repairs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NullRepair:
    """What a repair gets that cannot help: the exemplar shows noise, and the images fail because of snow.

    Args:
        classifier: the network.
        exemplar: the exemplar.
        images: ordinary images.
        concept: vehicles on snow.
        clean: ordinary labeled images.
    """

    classifier: Classifier
    exemplar: Exemplar
    images: Tensor
    concept: LabeledImages
    clean: LabeledImages


def noise_exemplar(classifier: Classifier, seed: int) -> Exemplar:
    """Paste noise at a random place of a correct scene, so that the prediction changes."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        data = scenes(20, seed)
        correct = ~misclassified(predict(classifier, data), data.labels)
        for index in correct.nonzero()[:, 0].tolist():
            image = data.images[index]
            top, left = torch.randint(0, image.shape[-1] - NOISE, (2,), generator=generator).tolist()
            mask = torch.zeros(image.shape[1:])
            mask[top : top + NOISE, left : left + NOISE] = 1
            tint = 0.5 * torch.rand(3, 1, 1, generator=generator)
            noise = tint + 0.5 * torch.rand(image.shape, generator=generator)
            changed = torch.where(mask > 0, noise, image)
            if misclassified(predict(classifier, changed[None]), data.labels[index : index + 1]).any():
                return Exemplar(image, changed, mask, int(data.labels[index]))
        seed += 20


def null_repair(network: str, sample: int, folder: str, seed: int) -> NullRepair:
    """Make a repair that cannot help.

    Args:
        network: one of `NETWORKS`.
        sample: the number of images with the concept.
        folder: how the labeled images are changed, one of `FOLDERS`.
        seed: the first of 10,000 seeds that are used.
    """
    generator = torch.Generator().manual_seed(seed)
    classifier = models.load_classifier(network)
    concept, clean, images = _rendered(sample, seed)
    change = FOLDERS[folder]
    exemplar = noise_exemplar(classifier, seed + 5_000)
    if change is not with_black:  # a set with black images shares none of them with another one
        concept = change(concept, generator)
    return NullRepair(classifier, exemplar, images, concept, change(clean, generator))


@cache
def _rendered(sample: int, seed: int) -> tuple[LabeledImages, LabeledImages, Tensor]:
    """Render vehicles on snow, clean scenes, and ordinary ones."""
    names = list(VEHICLES) * -(-sample // len(VEHICLES))
    return (
        scenes(sample, seed + 1_000, names[:sample], ground="snow"),
        scenes(CLEAN, seed + 2_000),
        scenes(ORDINARY, seed + 3_000).images,
    )


@cache
def _new_scenes() -> Mapping[str, LabeledImages]:
    """Render new vehicles on snow, and new clean scenes."""
    names = list(VEHICLES) * (NEW["concept"] // len(VEHICLES))
    concept = scenes(NEW["concept"], SEED_OF_NEW, names, ground="snow")
    return {"concept": concept, "clean": scenes(NEW["clean"], SEED_OF_NEW + 10_000)}


@cache
def _wrong_before(network: str) -> Mapping[str, Tensor]:
    classifier = models.load_classifier(network)
    return {name: misclassified(predict(classifier, data), data.labels) for name, data in _new_scenes().items()}


def truth_of_repair(network: str, edited: Classifier) -> dict[str, Comparison]:
    """Compare the predictions for new scenes without and with an edit."""
    before = _wrong_before(network)
    return {
        name: Comparison(before[name], misclassified(predict(edited, data), data.labels))
        for name, data in _new_scenes().items()
    }


# --- audits -----------------------------------------------------------------------------------------------------------


def null_folder(folder: str, seed: int) -> LabeledImages:
    """Make the images of an audit; the class of an image is the tint of its square, and nothing else."""
    generator = torch.Generator().manual_seed(seed + 1)
    count = FRAMES * AUDITED if folder == "frames" else AUDITED
    return AUDITED_FOLDERS[folder](squares(count, seed), generator)


@dataclass(frozen=True)
class TestedWindow:
    """A group of windows of a contact sheet.

    Args:
        is_enough: whether there were enough photos to test it.
        is_confirmed: whether it was confirmed.
        gain: by how much more of many new images become the class with its windows than with shuffled ones.
    """

    is_enough: bool
    is_confirmed: bool
    gain: float


def windows_of_audit(classifier: Classifier, data: LabeledImages, seed: int) -> list[TestedWindow]:
    """Confirm all windows of a contact sheet, and measure on new images what they do; empty if no sheet can be made."""
    try:
        sheet = contact_sheet(classifier, data, progress=None)
    except ValueError:  # too few classes
        return []
    tested = []
    for group in sheet.groups:
        found = confirm(classifier, sheet, group, seed, progress=None)
        gain = gain_on_new_images(classifier, sheet, group, seed)
        tested.append(TestedWindow(found.is_enough, found.is_confirmed, gain))
    return tested


def gain_on_new_images(classifier: Classifier, sheet: ContactSheet, group: WindowGroup, seed: int) -> float:
    """Paste the windows of a group into new images: the share that becomes the class, less that of shuffled windows."""
    generator = torch.Generator().manual_seed(seed)
    new = _new_squares()
    is_host = (new.labels != group.label) & (predicted_classes(predict(classifier, new)) != group.label)
    pictures = sheet.data.images[:]
    shares = []
    hosts = new.images[is_host][:TRUTH]
    places = torch.randint(hosts.shape[-1], (len(hosts), 2), generator=generator)
    for is_shuffled in (False, True):
        pasted = hosts.clone()
        for number, (image, place) in enumerate(zip(pasted, places.tolist(), strict=True)):
            window = group.windows[number % len(group.windows)]
            pixels = window.of(pictures)
            if is_shuffled:
                pixels = shuffled(pixels, generator)
            top, left = (start % (image.shape[-1] - window.side + 1) for start in place)
            image[:, top : top + window.side, left : left + window.side] = pixels
        is_turned = predicted_classes(predict(classifier, pasted)) == group.label
        shares.append(float(is_turned.float().mean()))
    return shares[0] - shares[1]


@cache
def _new_squares() -> LabeledImages:
    return squares(1_000, SEED_OF_NEW)
