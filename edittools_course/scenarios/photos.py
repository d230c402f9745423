"""Real photos by what they show: the paper's snow photos, the ImageNet sample, MSRC v2 with its masks, and folders."""

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.io import loadmat
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from edittools._progress import Progress, bar_of
from edittools.classifiers import Classifier
from edittools.geometry import InputGeometry
from edittools.image_files import load_image, load_mask, photo_size
from edittools.images import LabeledImages, LazyImages
from edittools.metrics import predict
from edittools.models.imagenet import imagenet_classes
from edittools.selection.splits import label_by_prediction
from edittools_course.downloads import available, offline_folder, photo, registry
from edittools_course.refit import refit_mask
from edittools_course.shipped import shipped

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

DRAWN_ON = InputGeometry(size=224, resize_to=256)
"""The part of its photo that each mask in `data/masks` was drawn on."""

KETTLE_MASK = "kettle_ipod_text"
"""The one mask in `data/masks` that is not of a photo in the ImageNet sample."""

MSRC = (
    "building grass tree cow horse sheep sky mountain aeroplane water face car bicycle flower sign bird book chair "
    "road cat dog body boat"
).split()
"""The classes of the hand-made MSRC v2 segmentations, in the order of their numbers."""


def load_photo(name: str, classifier: Classifier) -> Tensor:
    """Load a registered photo at the classifier's size and crop, `(3, size, size)`."""
    return load_image(photo(name), classifier)


def drawn_mask(name: str, classifier: Classifier) -> Tensor:
    """Load a hand-drawn mask of `data/masks`, fitted to the same photo at the classifier's size and crop.

    A road goes on at the borders of the part that its mask was drawn on, so in a larger crop, the outermost pixels of
    the mask are repeated.

    Args:
        name: of the file, without its ending.
        classifier: the classifier whose input the mask has to fit.

    Returns:
        The mask `(size, size)` of 0 and 1.

    Raises:
        FileNotFoundError: if there is no such mask, or if its photo is not available.
    """
    mask = load_mask(shipped(f"masks/{name}.png"))
    drawn_on = DRAWN_ON
    if name != KETTLE_MASK:
        margin = (DRAWN_ON.resize_to - DRAWN_ON.size) // 2
        mask = F.pad(mask[None], [margin] * 4, mode="replicate")[0]
        drawn_on = InputGeometry(size=DRAWN_ON.resize_to, resize_to=DRAWN_ON.resize_to)
    return refit_mask(mask, photo_size(photo(photo_of_mask(name))), drawn_on, classifier)


def photo_of_mask(name: str) -> str:
    """Return the registered photo that a mask of `data/masks` was drawn for."""
    if name == KETTLE_MASK:
        return "editing-classifiers/typographic/kettle_ipod.jpg"
    return f"imagenet-sample/{name.removesuffix('_road')}.JPEG"


def load_photos(
    labels: Mapping[str, int], classifier: Classifier, progress: Progress | None, kind: str
) -> LabeledImages:
    """Load registered photos.

    Args:
        labels: the class index of each photo, by its registered name.
        kind: what kind of photos they are, for the error message.

    Raises:
        FileNotFoundError: if there is no photo.
    """
    if not labels:
        raise FileNotFoundError(
            f"there is no photo {kind} in EDITTOOLS_PHOTOS={str(offline_folder())!r}; use a folder that has some, or "
            "unset it to download them"
        )
    bar = bar_of(progress, labels, desc="photos", unit="photo")
    images = torch.stack([load_photo(name, classifier) for name in bar])
    return LabeledImages(images, torch.tensor(list(labels.values())), classifier.classes, tuple(labels))


def snow_photos(classifier: Classifier, progress: Progress | None = None) -> LabeledImages:
    """Load the paper's photos of vehicles and traffic lights on snow (section 3.1), at the classifier's size.

    Where the same photo exists in two sizes, the larger one is loaded.
    """
    labels = {}
    for name in available("editing-classifiers/snow/"):
        parts = name.split("/")
        if len(parts) == 4 and not name.endswith(SNOW_TWICE):
            labels[name] = SNOW_CLASSES[parts[2]]
    return load_photos(labels, classifier, progress, "of vehicles on snow")


def snow_texture() -> Tensor:
    """Load the paper's snow texture, `(3, H, W)` in [0, 1]."""
    return load_image(photo("editing-classifiers/snow/snow_texture.jpg"))


def sample_labels() -> dict[str, int]:
    """Return the class index of each photo of the ImageNet sample; the registry has one per class, in their order."""
    names = sorted(name for name in registry() if name.startswith("imagenet-sample/"))
    return {name: label for label, name in enumerate(names)}


def imagenet_sample(classifier: Classifier, progress: Progress | None = None) -> LabeledImages:
    """Load one photo of each ImageNet class, of those that are available, at the classifier's size."""
    all_labels = sample_labels()
    labels = {name: all_labels[name] for name in available("imagenet-sample/")}
    return load_photos(labels, classifier, progress, "of the ImageNet sample")


def halves(data: LabeledImages, first: str, second: str) -> dict[str, LabeledImages]:
    """Divide images into two sets of these names; the images go to each in turn."""
    count = len(data)
    return {first: data.subset(range(0, count, 2)), second: data.subset(range(1, count, 2))}


def clean_and_reference(classifier: Classifier, progress: Progress | None = None) -> dict[str, LabeledImages | Tensor]:
    """Load clean photos and reference photos.

    Args:
        classifier: a classifier of ImageNet's classes, or of those of the folder in `EDITTOOLS_IMAGENET`. The clean
            photos of the former are the ImageNet sample; of the latter, two photos per class of the folder.

    Returns:
        The halves of the clean photos as "clean" and "clean_test", and photos of RTA-100 as "reference".
    """
    if classifier.classes == imagenet_classes():
        sample = imagenet_sample(classifier, progress)
    else:
        sample = validation_folder(classifier, 2)
    return {**halves(sample, "clean", "clean_test"), "reference": unlabeled("rta-100/", classifier, progress)}


def unlabeled(
    prefix: str,
    classifier: Classifier,
    progress: Progress | None = None,
    most: int = 600,
    without: Collection[str] = (),
) -> Tensor:
    """Load the available photos below a path, without labels.

    Args:
        prefix: beginning of the registered names.
        most: the largest number of photos; if there are more, every nth is loaded.
        without: names of photos to leave out.

    Returns:
        The photos, `(N, 3, size, size)`.

    Raises:
        FileNotFoundError: if there is no photo.
    """
    excluded = set(without)
    names = [name for name in available(prefix) if name not in excluded]
    step = -(-len(names) // most) or 1
    return load_photos(dict.fromkeys(names[::step], 0), classifier, progress, f"below {prefix!r}").images


def elsewhere(
    classifier: Classifier, progress: Progress | None = None, prefix: str = "rta-100/"
) -> dict[str, LabeledImages]:
    """Load at most 250 photos that no other set has, as the set "elsewhere".

    Their labels are the classifier's current predictions, so that an error is a changed prediction.
    """
    images = unlabeled(prefix, classifier, progress, 250)
    return {"elsewhere": label_by_prediction(images, classifier)}


def validation_folder(classifier: Classifier, per_class: int) -> LabeledImages:
    """Read the first images of each class in the folder of `EDITTOOLS_IMAGENET`, lazily.

    The folder has one subfolder per class, in the order of their names; names that are numbers are sorted as numbers.

    Args:
        per_class: the largest number of images of each class.

    Raises:
        FileNotFoundError: if `EDITTOOLS_IMAGENET` is not set, or names no folder.
        ValueError: if the folder does not have one subfolder per class.
    """
    folder = os.environ.get("EDITTOOLS_IMAGENET")
    class_count = len(classifier.classes)
    if not folder:
        raise FileNotFoundError(
            f"there are no labeled photos of the classifier's {class_count} classes, because EDITTOOLS_IMAGENET is not "
            "set; set it to a folder of images with one subfolder per class"
        )
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"EDITTOOLS_IMAGENET={folder!r} is not a directory (relative to {os.getcwd()!r}); use an absolute path to "
            "a folder with one subfolder per class"
        )
    subfolders = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    subfolders.sort(key=lambda name: (int(name) if name.isdecimal() else 0, name))
    if len(subfolders) != class_count:
        raise ValueError(
            f"EDITTOOLS_IMAGENET={folder!r} has {len(subfolders)} subfolders, but the classifier has {class_count} "
            "classes; use a folder with one subfolder per class"
        )
    class_indices = {name: label for label, name in enumerate(subfolders)}
    paths_and_labels = make_dataset(folder, class_indices, IMG_EXTENSIONS, allow_empty=True)
    listing = pd.DataFrame(paths_and_labels, columns=("path", "label"))
    listing = listing.sort_values("label", kind="stable").groupby("label").head(per_class)
    images = LazyImages(listing.path.tolist(), classifier)
    labels = torch.tensor(listing.label.tolist(), dtype=torch.long)
    names = tuple(os.path.relpath(path, folder) for path in listing.path)
    return LabeledImages(images, labels, classifier.classes, names)


def msrc(
    classifier: Classifier, at_least: float = 0.0, progress: Progress | None = None
) -> tuple[LabeledImages, dict[str, Tensor]]:
    """Load the available MSRC v2 photos and their hand-made masks.

    Args:
        classifier: the classifier whose input the photos have to fit. Its predictions are the labels.
        at_least: the smallest probability of the prediction; photos with a lower one are left out.

    Returns:
        The photos, and masks `(N, size, size)` of 0 and 1 by concept, for the concepts that some photo shows.

    Raises:
        FileNotFoundError: if there is no photo.
    """
    data = load_photos(dict.fromkeys(available("msrc-v2/Images/"), 0), classifier, progress, "of MSRC v2")
    geometry = InputGeometry.of(classifier)
    maps = []
    for name in data.names:
        path = name.replace("Images/", "newsegmentations_mats/").replace(".bmp", "_GT.mat")
        class_map = Image.fromarray(msrc_classes(photo(path)))
        maps.append(np.asarray(geometry.crop(class_map, Image.Resampling.NEAREST)))
    confidence, labels = predict(classifier, data, progress=progress).softmax(dim=1).max(dim=1)
    is_confident = confidence >= at_least
    numbers = torch.from_numpy(np.stack(maps))[is_confident]
    masks = {}
    for number, concept in enumerate(MSRC, start=1):
        concept_masks = (numbers == number).float()
        if concept_masks.any():
            masks[concept] = concept_masks
    return replace(data, labels=labels).subset(is_confident), masks


def msrc_classes(path: Path) -> np.ndarray:
    """Read the class number of each pixel, 1 to 23.

    It is 0 where the photo is not labeled, as in regions whose number exceeds that of the last label.
    """
    truth = loadmat(path)
    class_of_region = np.zeros(256, np.uint8)
    class_of_region[1 : truth["newlabels"].size + 1] = truth["newlabels"].ravel()
    return class_of_region[truth["newseg"]]
