"""Read the image sets of a session: from folders or tensors, at the classifier's size, each image once."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from edittools._paths import image_files
from edittools._progress import Progress, bar_of
from edittools.classifiers import Classifier, remap_labels
from edittools.folders import read_folder
from edittools.geometry import InputGeometry
from edittools.image_files import load_image, photo_size
from edittools.images import LabelledImages, LazyImages, in_batches, numbered, resized
from edittools.selection.splits import repeated

ImageSource = LabelledImages | LazyImages | Tensor | str | os.PathLike
"""Images with or without labels, or the path of a folder."""

MOST_BYTES = 1_500_000_000
"""The memory that the images of a set may take: about 2,500 images of 224 × 224; larger sets are thinned evenly."""

BYTES_OF_PIXEL = 12
"""Three colors in float32."""

MOST_DETAIL = 3
"""How many times as large as the classifier's input a photo is shown and marked at most, see `load_detailed`."""

AT_ONCE = 8
"""The number of `LazyImages` that are read at once."""


OnImages = Callable[[Tensor], None]
"""Is called with images `(N, 3, H, W)` that were read."""


@dataclass(frozen=True)
class ReadSet:
    """A set of images as it was read, before predictions serve as labels.

    Args:
        data: the images, with any label for those that have none.
        is_labeled: whether each image has a label, `(N,)` booleans.
    """

    data: LabelledImages
    is_labeled: Tensor

    def labeled(self, logits: Tensor) -> LabelledImages:
        """Return the images; for those without a label, the prediction of logits `(N, classes)` serves as label."""
        return replace(self.data, labels=torch.where(self.is_labeled, self.data.labels, logits.argmax(dim=1)))


def counted(number: int, noun: str) -> str:
    """Write a number with its noun, such as "1 image" or "1,200 images"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def check_source(name: str, source: ImageSource, classifier: Classifier) -> list[Path] | LabelledImages:
    """Check a set without reading an image file, and return its files or its images.

    Args:
        name: name of the set, used in error messages.
        source: the images.
        classifier: the classifier, which gives the class names.

    Returns:
        The image files of a folder; otherwise the images, labeled by the classifier's class indices, all 0 if `source`
        has no labels.

    Raises:
        TypeError: if `source` is not a set of images.
        ValueError: if it is empty, if a tensor has another shape, or if a label is of no class of the classifier.
        FileNotFoundError: if there is no such folder.
    """
    if not isinstance(source, str | os.PathLike | LabelledImages | Tensor | LazyImages):
        raise TypeError(
            f"{name!r} is a {type(source).__name__}; pass LabelledImages, a tensor (N, 3, H, W), LazyImages or the "
            "path of a folder"
        )
    if isinstance(source, str | os.PathLike):
        return image_files(source)
    if isinstance(source, LabelledImages):
        data = remap_labels(name, source, classifier)
    else:
        data = LabelledImages.unlabeled(source, classifier.classes)
    if not len(data):
        raise ValueError(f"{name!r} is empty; pass at least one image")
    return data


def read_set(
    name: str,
    source: ImageSource,
    classifier: Classifier,
    notes: list[str],
    progress: Progress | None = None,
) -> ReadSet:
    """Load a set at the classifier's size, each image once.

    Of a set that would take more than `MOST_BYTES`, only every second, third, … image is loaded.

    Args:
        name: name of the set, used in notes and error messages.
        source: the images.
        classifier: the classifier, which gives the size and the class names.
        notes: a line is appended about images that are left out, and if there are no labels.
        progress: a class like `tqdm.tqdm`, for a bar.

    Raises:
        TypeError: if `source` is not a set of images.
        ValueError: if it is empty or cannot be used.
        FileNotFoundError: if there is no such folder.
    """
    checked = check_source(name, source, classifier)
    bytes_of_set = len(checked) * classifier.size**2 * BYTES_OF_PIXEL
    step = max(1, -(-bytes_of_set // MOST_BYTES))
    if step > 1:
        notes.append(f"{name}: one image in {step} is used; all would take {bytes_of_set / 1e9:.1f} GB of memory.")
    if isinstance(checked, list):
        data, left_out = read_folder(source, classifier, progress, most=-(-len(checked) // step))
        if left_out:
            verb = "is" if len(left_out) == 1 else "are"
            reasons = "; ".join(left_out[:3])
            notes.append(f"{name}: {counted(len(left_out), 'file')} {verb} left out ({reasons}).")
    else:
        count = len(range(0, len(checked), step))
        with bar_of(progress, total=count, desc=f"reading {name}", unit="image") as bar:

            def report(images: Tensor) -> None:
                bar.update(len(images))

            data = _resized(checked.subset(range(0, len(checked), step)), classifier.size, report)
        if not isinstance(source, LabelledImages):
            notes.append(f"{name}: there are no labels, so the current predictions serve as labels.")
    is_repeated = repeated(data)
    if is_repeated.any():
        repeats = counted(int(is_repeated.sum()), "image")
        notes.append(f"{name!r} holds {repeats} more than once; each is used once.")
        data = data.subset(~is_repeated)
    return ReadSet(data, data.is_labeled)


def _resized(data: LabelledImages, size: int, report: OnImages) -> LabelledImages:
    """Load the images of a set, and resize them to `size × size` pixels; a tensor of that size is not copied."""
    at_once = len(data) if isinstance(data.images, Tensor) else AT_ONCE
    batches = []
    for batch in in_batches(data, at_once):
        batches.append(resized(batch, size))
        report(batches[-1])
    return replace(data, images=batches[0] if len(batches) == 1 else torch.cat(batches))


def files_of(source: ImageSource | None, names: Sequence[str]) -> dict[int, Path]:
    """Return the file of each image of a folder by its index, from their names; there are none without a folder."""
    if not isinstance(source, str | os.PathLike):
        return {}
    return {index: Path(source).expanduser() / name for index, name in enumerate(names)}


def load_detailed(path: Path, classifier: Classifier) -> Tensor:
    """Load what the classifier sees of a photo `(3, H, W)` at a whole multiple of its size, about that of the photo.

    Args:
        path: the file.
        classifier: the classifier, which gives the size.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not a readable image.
    """
    factor = min(MOST_DETAIL, -(-min(photo_size(path)) // classifier.resize_to))
    return load_image(path, InputGeometry(factor * classifier.size, factor * classifier.resize_to))


def with_names(data: LabelledImages) -> LabelledImages:
    """Name images that have no names by their indices, and number names that occur more than once."""
    names = data.names or tuple(f"image {index}" for index in range(len(data)))
    return replace(data, names=tuple(numbered(names)))
