"""Real photographs by what they show: the paper's snow photos, the ImageNet sample, MSRC v2 with its masks, folders."""

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.io import loadmat
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset
from tqdm.auto import tqdm

from edittools.classifiers import Classifier
from edittools.images import InputGeometry, LabelledImages, LazyImages, load_image, load_mask, refit_mask
from edittools.metrics import predict
from edittools.models.data import shipped
from edittools.models.downloads import available, offline_folder, photo, registry
from edittools.models.imagenet import imagenet_classes

SNOW_CLASSES = {
    "armytank": 847,
    "carwheel": 479,
    "firetruck": 555,
    "motorscooter": 670,
    "racingcar": 751,
    "schoolbus": 779,
    "trafficlight": 920,
}
"""Folders of the paper's snow photos and the ImageNet classes they show."""

SNOW_TWICE = "24738546165_59ac92b9c3_w.jpg"
"""The same racing car as `14820808994_e3e673e9f3_c.jpg`, smaller."""


def load_photo(name: str, classifier: Classifier) -> Tensor:
    """Load a registered photo as the classifier takes it, `(3, size, size)`."""
    return load_image(photo(name), classifier)


DRAWN_ON = InputGeometry(size=224, resize_to=256)
"""The part of its photo that each mask in `data/masks` was drawn on."""

KETTLE_MASK = "kettle_ipod_text"
"""The one mask in `data/masks` that is not of a photo in the ImageNet sample."""


def drawn_mask(name: str, classifier: Classifier) -> Tensor:
    """Load a hand-drawn mask of `data/masks`, fitted to the same photo at the classifier's size and crop.

    Args:
        name: of the file, without its ending.
        classifier: the classifier whose input the mask has to fit.

    Returns:
        The mask `(size, size)` of 0 and 1.

    Raises:
        FileNotFoundError: if there is no such mask, or if its photo is not available.
    """
    mask = load_mask(shipped(f"masks/{name}.png"))
    height, width = load_image(photo(photo_of_mask(name))).shape[1:]
    return refit_mask(mask, (height, width), DRAWN_ON, classifier)


def photo_of_mask(name: str) -> str:
    """Return the registered photo that a mask of `data/masks` was drawn for."""
    if name == KETTLE_MASK:
        return "editing-classifiers/typographic/kettle_ipod.jpg"
    return f"imagenet-sample/{name.removesuffix('_road')}.JPEG"


def load_photos(known: Mapping[str, int], classifier: Classifier, progress: bool, kind: str) -> LabelledImages:
    """Load the photos that are `known` with their labels; `kind` says which these are."""
    if not known:
        raise FileNotFoundError(f"no photo {kind}: expected at least one in EDITTOOLS_PHOTOS={str(offline_folder())!r}")
    bar = tqdm(known, desc="photos", unit="photo", disable=not progress, leave=False)
    images = torch.stack([load_photo(name, classifier) for name in bar])
    return LabelledImages(images, torch.tensor(list(known.values())), classifier.classes, tuple(known))


def snow_photos(classifier: Classifier, progress: bool = False) -> LabelledImages:
    """Load the paper's photos of vehicles and traffic lights on snow (section 3.1), at the classifier's size.

    Of the photo that is there in two sizes the larger one is taken.
    """
    found = available("editing-classifiers/snow/")
    names = [name for name in found if name.count("/") == 3 and not name.endswith(SNOW_TWICE)]
    known = {name: SNOW_CLASSES[name.split("/")[2]] for name in names}
    return load_photos(known, classifier, progress, "of vehicles on snow")


def snow_texture() -> Tensor:
    """Load the paper's snow texture, `(3, H, W)` in [0, 1]."""
    return load_image(photo("editing-classifiers/snow/snow_texture.jpg"))


def sample_labels() -> dict[str, int]:
    """Number the classes of the ImageNet sample's photos: the registry has one of each class, in their order."""
    return {name: i for i, name in enumerate(sorted(n for n in registry() if n.startswith("imagenet-sample/")))}


def imagenet_sample(classifier: Classifier, progress: bool = False) -> LabelledImages:
    """Load one photo of each ImageNet class (of those that can be had), at the classifier's size."""
    order = sample_labels()
    known = {name: order[name] for name in available("imagenet-sample/")}
    return load_photos(known, classifier, progress, "of the ImageNet sample")


def halves(data: LabelledImages, first: str, second: str) -> dict[str, LabelledImages]:
    """Part images into two sets of these names: every second image goes to each."""
    return {name: data.subset(range(start, len(data), 2)) for start, name in enumerate((first, second))}


def clean_and_reference(classifier: Classifier, progress: bool = False) -> dict[str, LabelledImages | Tensor]:
    """Give everyday photos: halves of the ImageNet sample are "budget" and "clean", those of RTA-100 the "reference".

    For other classes than ImageNet's the sample is two photos a class of the user's own folder.
    """
    known = classifier.classes == imagenet_classes()
    sample = imagenet_sample(classifier, progress) if known else validation_folder(classifier, 2)
    return {**halves(sample, "budget", "clean"), "reference": unlabeled("rta-100/", classifier, progress)}


def unlabeled(
    prefix: str, classifier: Classifier, progress: bool = False, most: int = 600, without: Collection[str] = ()
) -> Tensor:
    """Load the photos below `prefix` that can be had, `(N, 3, H, W)`, no labels; of more than `most`, every nth.

    Those named in `without` are left out.
    """
    names = [name for name in available(prefix) if name not in set(without)]
    known = dict.fromkeys(names[:: -(-len(names) // most) or 1], 0)
    return load_photos(known, classifier, progress, f"below {prefix!r}").images


def elsewhere(classifier: Classifier, progress: bool = False, prefix: str = "rta-100/") -> dict[str, LabelledImages]:
    """Give a set of at most 250 photos without another duty, labelled as they are read now: an error is a change."""
    images = unlabeled(prefix, classifier, progress, 250)
    labels = predict(classifier, images).argmax(dim=1)
    return {"elsewhere": LabelledImages(images, labels, classifier.classes)}


def validation_folder(classifier: Classifier, per_class: int) -> LabelledImages:
    """Use the folder of `EDITTOOLS_IMAGENET`, one subfolder a class, and of each the first images; read lazily.

    The classes are in the order of the subfolders' names; a name that is a number counts as one.
    """
    if not (folder := os.environ.get("EDITTOOLS_IMAGENET")):
        said = f"no labelled photos of {len(classifier.classes)} classes"
        raise FileNotFoundError(f"{said}: set EDITTOOLS_IMAGENET to a folder of images, one subfolder a class")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"EDITTOOLS_IMAGENET={folder!r} is no folder: expected one subfolder a class")
    kinds = [kind.name for kind in os.scandir(folder) if kind.is_dir()]
    kinds.sort(key=lambda name: (int(name) if name.isdecimal() else 0, name))
    if len(kinds) != len(classifier.classes):
        raise ValueError(f"{folder!r} has {len(kinds)} subfolders: expected {len(classifier.classes)}, one a class")
    known = {name: label for label, name in enumerate(kinds)}
    found = pd.DataFrame(make_dataset(folder, known, IMG_EXTENSIONS, allow_empty=True), columns=("path", "label"))
    found = found.sort_values("label", kind="stable").groupby("label").head(per_class)
    names = tuple(os.path.relpath(path, folder) for path in found.path)
    images = LazyImages(found.path.tolist(), classifier)
    return LabelledImages(images, torch.tensor(found.label.tolist(), dtype=torch.long), classifier.classes, names)


MSRC = (
    "building grass tree cow horse sheep sky mountain aeroplane water face car bicycle flower sign bird book chair "
    "road cat dog body boat"
).split()
"""The classes of the hand-made MSRC v2 segmentations, in the order of their numbers."""


def fit_map(regions: np.ndarray, size: int, resize_to: int | None = None) -> np.ndarray:
    """Resize and crop a map of region numbers `(H, W)` uint8 as `load_image` does its photo; nearest neighbor."""
    geometry = InputGeometry.of(size, resize_to)
    return np.asarray(geometry.crop(Image.fromarray(regions), Image.Resampling.NEAREST))


def msrc(
    classifier: Classifier, at_least: float = 0.0, progress: bool = False
) -> tuple[LabelledImages, dict[str, Tensor]]:
    """Load the MSRC v2 photos that can be had, and their hand-made masks `(N, H, W)` by concept.

    The label is the *classifier's own prediction* on the clean photo; only photos are kept where its probability is
    `at_least` so much.
    """
    data = load_photos(dict.fromkeys(available("msrc-v2/Images/"), 0), classifier, progress, "of MSRC v2")
    truths = [name.replace("Images/", "newsegmentations_mats/").replace(".bmp", "_GT.mat") for name in data.names]
    maps = [fit_map(msrc_classes(photo(truth)), classifier.size, classifier.resize_to) for truth in truths]
    confidence, labels = predict(classifier, data, progress=progress).softmax(dim=1).max(dim=1)
    numbers, sure = torch.from_numpy(np.stack(maps)), confidence >= at_least
    found = {concept: (numbers[sure] == number).float() for number, concept in enumerate(MSRC, start=1)}
    return replace(data, labels=labels).subset(sure), {name: masks for name, masks in found.items() if masks.any()}


def msrc_classes(path: Path) -> np.ndarray:
    """Read the class number (1 … 23) of each pixel, 0 where nobody said, as in regions above the last label."""
    truth = loadmat(path)
    table = np.zeros(256, np.uint8)
    table[1 : truth["newlabels"].size + 1] = truth["newlabels"].ravel()
    return table[truth["newseg"]]
