"""The photos of Imagenette, ten classes of ImageNet, and their division into disjoint roles."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from edittools._checks import one_of
from edittools._progress import Progress
from edittools.geometry import InputGeometry
from edittools.images import LabeledImages, LazyImages, in_batches
from edittools_course.downloads import PhotoArchive, photo_folder

CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
"""The name of each class as in ImageNet, by the name of its folder; their order is that of the labels."""

SPLITS = ("train", "val")
"""The folders of Imagenette."""

ARCHIVE = PhotoArchive(
    name="imagenette",
    url="https://github.com/thunderInfy/imagenette/archive/b850f030ff0701c36a4adc8b928ea9483a46915b.tar.gz",
    folders=SPLITS,
    digest="79f4b660a8f46c9bb7ed38522b26df5a9d910dcb0acf2ca6abff3692ed2c3c75",
)
"""9,469 photos for training and 3,925 for evaluation, each of 224 × 224 pixels."""

SIZE = 160
"""Side in pixels at which the networks with shortcuts see photos."""

TRAINING_PER_CLASS = 250
"""Photos of each class on which the networks with shortcuts are trained."""

TUNING_PER_CLASS = 100
"""Photos of each class on which the strength of the shortcuts is tuned."""


def imagenette(split: str, size: int = SIZE) -> LabeledImages:
    """List the photos of a split in a fixed order: by class, then by name of the file. They are loaded when used.

    Args:
        split: "train" or "val".
        size: the side in pixels to which whole photos are resized.

    Returns:
        The photos as `LazyImages`, with labels into the names of `CLASSES`; their names are paths below the archive.

    Raises:
        ValueError: if there is no such split, or if the photos are not the registered ones.
        FileNotFoundError: if the photos are not on this machine and cannot be downloaded.
    """
    one_of(split, SPLITS, "split")
    folder = photo_folder(ARCHIVE)
    paths: list[Path] = []
    labels: list[int] = []
    for label, wnid in enumerate(CLASSES):
        photos = sorted((folder / split / wnid).glob("*.JPEG"))
        paths += photos
        labels += [label] * len(photos)
    images = LazyImages(paths, InputGeometry.of(size, size))
    names = tuple(os.path.relpath(path, folder) for path in paths)
    return LabeledImages(images, torch.tensor(labels), tuple(CLASSES.values()), names)


def in_memory(photos: LabeledImages, bar: str = "", progress: Progress | None = None) -> LabeledImages:
    """Load the photos of a set into memory.

    Args:
        photos: the photos.
        bar: the name of the progress bar.
    """
    return replace(photos, images=torch.cat(list(in_batches(photos, bar=bar, progress=progress))))


def divide(photos: LabeledImages, seed: int = 0) -> dict[str, LabeledImages]:
    """Divide photos at random into disjoint roles, class by class.

    Args:
        photos: labeled photos.
        seed: seed of the random numbers.

    Returns:
        "training": `TRAINING_PER_CLASS` photos of each class; "tuning": `TUNING_PER_CLASS` of each; "left": all others.
        Within a role, photos are sorted by class, and the photos of a class are in random order.
    """
    generator = torch.Generator().manual_seed(seed)
    ends = torch.tensor([TRAINING_PER_CLASS, TRAINING_PER_CLASS + TUNING_PER_CLASS])
    indices: dict[str, list[int]] = {"training": [], "tuning": [], "left": []}
    for label in range(len(photos.classes)):
        members = (photos.labels == label).nonzero()[:, 0]
        shuffled = members[torch.randperm(len(members), generator=generator)]
        for role, part in zip(indices, shuffled.tensor_split(ends), strict=True):
            indices[role] += part.tolist()
    return {role: photos.subset(members) for role, members in indices.items()}


def training_roles(size: int = SIZE) -> dict[str, LabeledImages]:
    """Divide the photos of the split "train" into "training", "tuning" and "left", see `divide` and `imagenette`."""
    return divide(imagenette("train", size))
