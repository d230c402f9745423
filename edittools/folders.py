"""Folders of image files as labeled images; unusable files are skipped and named."""

import os
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import torch

from edittools._checks import suggestion
from edittools._paths import image_files, printable
from edittools._progress import Progress, bar_of
from edittools.classifiers import Classifier
from edittools.image_files import load_image
from edittools.images import LabeledImages, LazyImages
from edittools.metrics import predict


def read_folder(
    folder: str | os.PathLike,
    classifier: Classifier,
    progress: Progress | None = None,
    *,
    labeled: bool = True,
    lazy: bool = False,
    most: int | None = None,
) -> tuple[LabeledImages, list[str]]:
    """Load the images below a folder at the classifier's size, and label them by their subfolder.

    A subfolder is named after a class (`School_bus` is `school bus`), or has the class index as its name. An image
    directly in the folder has no label: the current prediction serves as its label. `is_labeled` of the images tells
    which labels were given.

    Args:
        folder: the folder.
        classifier: gives the size, the class names, and predictions for images without a label.
        progress: a class like `tqdm.tqdm`, for bars.
        labeled: whether subfolders name classes; otherwise, all images are read, whatever their subfolders are called,
            and none has a label.
        lazy: whether images are only tried, and loaded again when they are used, so that any number fits in memory.
        most: the largest number of images to read; of a larger folder, every second, third, … image is read.

    Returns:
        The images, and one line per skipped file: its name and the reason.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if no image in it can be used.
    """
    root = Path(folder).expanduser()
    paths = image_files(folder)
    step = 1 if most is None else -(-len(paths) // most)
    paths = paths[::step]
    images = []
    used = []
    labels = []
    left_out = []
    with bar_of(progress, paths, desc="images", unit="image") as bar:
        for path in bar:
            try:
                label = _label_of(path.parent, root, classifier) if labeled else None
                image = _load(path, classifier)
            except (ValueError, OSError) as error:
                left_out.append(f"{printable(path.relative_to(root))}: {_reason_of(error, path)}")
                continue
            used.append(path)
            labels.append(label)
            if not lazy:
                images.append(image)
    if not used:
        raise ValueError(f"none of the {len(paths)} images in {os.fspath(folder)!r} can be used; {left_out[0]}")
    data = LabeledImages(
        LazyImages(used, classifier) if lazy else torch.stack(images),
        torch.tensor([label or 0 for label in labels]),
        classifier.classes,
        tuple(printable(path.relative_to(root)) for path in used),
        is_labeled=torch.tensor([label is not None for label in labels]),
    )
    if not labeled or data.is_labeled.all():
        return data, left_out
    predicted = predict(classifier, data, progress=progress).argmax(dim=1)
    return replace(data, labels=torch.where(data.is_labeled, data.labels, predicted)), left_out


def _label_of(folder: Path, root: Path, classifier: Classifier) -> int | None:
    """Return the class that a folder below the root names; None for the root itself.

    Raises:
        ValueError: if it names no class.
    """
    if folder == root:
        return None
    label = class_index(folder.name, classifier)
    if label is None:
        name = printable(folder.name)
        remedy = suggestion(_simplified(name), classifier.classes) or "name the subfolder after a class or its index"
        raise ValueError(f"{name!r} is not one of the {len(classifier.classes)} classes; {remedy}")
    return label


def _load(path: Path, classifier: Classifier) -> torch.Tensor:
    """Load an image from a file, and from nothing else: to open a named pipe would wait for ever."""
    if path.exists() and not path.is_file():
        raise ValueError("is not a file")
    return load_image(path, classifier)


def class_index(name: str, classifier: Classifier) -> int | None:
    """Return the index of the class that a subfolder, or a user, names; None if there is no such class.

    The exact name comes first, then a name that differs only in case, spaces, or accents, then a number.
    """
    if name in classifier.classes:
        return classifier.index(name)
    for index, class_name in enumerate(classifier.classes):
        if _simplified(class_name) == _simplified(name):
            return index
    if name.isdecimal() and int(name) < len(classifier.classes):
        return int(name)
    return None


def _reason_of(error: Exception, path: Path) -> str:
    """Say why a file cannot be read, without its path, which the line about the file begins with."""
    reason = getattr(error, "strerror", None)
    return reason or str(error).removeprefix(f"{os.fspath(path)!r}").lstrip()


def _simplified(name: str) -> str:
    """Write a name in lower case, with composed accents, and with single spaces between its words."""
    composed = unicodedata.normalize("NFC", name)
    return re.sub(r"[\s_-]+", " ", composed).strip().casefold()
