"""Folders of image files as labeled images; unusable files are skipped and named."""

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from edittools._checks import suggestion
from edittools._progress import Progress, bar_of
from edittools.classifiers import Classifier
from edittools.image_files import load_image
from edittools.images import LabelledImages, LazyImages
from edittools.metrics import predict


def image_files(folder: str | os.PathLike) -> list[Path]:
    """List the image files below a folder, sorted; hidden files are skipped.

    A link to a folder is followed, unless it leads to a folder that is listed by its own path or by an earlier link.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it contains no image file.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"{os.fspath(folder)!r} is not a folder; pass a folder of images, or a folder with one subfolder per class"
        )
    paths = []
    visited = set()
    linked = [root]
    while linked:  # first all folders below the root, then those behind links, in the order of their names
        for directory, subfolders, files in os.walk(linked.pop(0)):
            real_path = os.path.realpath(directory)
            if real_path in visited:
                subfolders.clear()
                continue
            visited.add(real_path)
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            linked += [Path(directory, name) for name in subfolders if os.path.islink(os.path.join(directory, name))]
            for name in files:
                if not name.startswith(".") and name.lower().endswith(IMG_EXTENSIONS):
                    paths.append(Path(directory, name))
    if not paths:
        raise ValueError(f"folder {os.fspath(folder)!r} contains no images; pass a folder with .png or .jpg files")
    return sorted(paths)


def read_folder(
    folder: str | os.PathLike, classifier: Classifier, progress: Progress | None = None, lazy: bool = False
) -> tuple[LabelledImages, list[str]]:
    """Load the images below a folder at the classifier's size, and label them by their subfolder.

    A subfolder is named after a class (`School_bus` is `school bus`), or has the class index as its name. An image
    directly in the folder has no label: the current prediction serves as its label.

    Args:
        folder: the folder.
        classifier: gives the size, the class names, and predictions for images without a label.
        progress: a class like `tqdm.tqdm`, for bars.
        lazy: whether images are only tried, and loaded again when they are used, so that any number fits in memory.

    Returns:
        The images, and one line per skipped file: its name and the reason.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if no image in it can be used.
    """
    paths = image_files(folder)
    with bar_of(progress, desc="images", total=len(paths), unit="image") as bar:
        data, is_labeled, left_out = read_files(folder, paths, classifier, lambda image: bar.update(), lazy)
    if not is_labeled.all():
        predicted = predict(classifier, data, progress=progress).argmax(dim=1)
        data = replace(data, labels=torch.where(is_labeled, data.labels, predicted))
    return data, left_out


def read_files(
    folder: str | os.PathLike,
    paths: Sequence[Path],
    classifier: Classifier,
    on_images: Callable[[Tensor], None] | None = None,
    lazy: bool = False,
    labeled: bool = True,
) -> tuple[LabelledImages, Tensor, list[str]]:
    """Load image files of a folder as `read_folder` does, without predictions.

    Args:
        paths: those of its files to load, see `image_files`.
        classifier: gives the size and the class names.
        on_images: is called with each image `(1, 3, H, W)` that was read.
        lazy: whether images are loaded again when they are used, see `read_folder`.
        labeled: whether subfolders name classes; otherwise, no image has a label.

    Returns:
        The images, with the label 0 for those without one; whether each image has a label, `(N,)` booleans; and one
        line per skipped file.

    Raises:
        ValueError: if no image can be used.
    """
    root = Path(folder).expanduser()
    images = []
    used = []
    labels = []
    left_out = []
    for path in paths:
        name = str(path.relative_to(root))
        label = None
        if labeled and path.parent != root:
            label = class_index(path.parent.name, classifier)
            if label is None:
                reason = f"{path.parent.name!r} is not one of the {len(classifier.classes)} classes"
                question = suggestion(_simplified(path.parent.name), classifier.classes)
                left_out.append(f"{name}: {reason}; {question}" if question else f"{name}: {reason}")
                continue
        try:
            image = load_image(path, classifier)
        except (ValueError, OSError) as error:
            left_out.append(f"{name}: {_reason_of(error, path)}")
            continue
        if not lazy:
            images.append(image)
        used.append(path)
        labels.append(label)
        if on_images is not None:
            on_images(image[None])
    if not used:
        raise ValueError(
            f"folder {os.fspath(folder)!r} contains {len(paths)} images, none of which can be used ({left_out[0]}); "
            "pass a folder with .png or .jpg files"
        )
    is_labeled = torch.tensor([label is not None for label in labels])
    indices = torch.tensor([label or 0 for label in labels])
    pixels = LazyImages(used, classifier) if lazy else torch.stack(images)
    names = tuple(str(path.relative_to(root)) for path in used)
    return LabelledImages(pixels, indices, classifier.classes, names), is_labeled, left_out


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
