"""Read the image sets of a session: from folders or tensors, at the classifier's size, each image once."""

import os
import warnings
from dataclasses import replace

from torch import Tensor

from edittools.classifiers import Classifier, remap_labels
from edittools.folders import image_files, read_folder
from edittools.images import LabelledImages, LazyImages, resized
from edittools.selection.splits import label_by_prediction, without_duplicates

ImageSource = LabelledImages | LazyImages | Tensor | str | os.PathLike
"""Images with or without labels, or the path of a folder."""

MAX_PIXELS = 20_000_000
"""The largest size of a set (400 images of 224 × 224), which keeps a session fast; larger sets are thinned evenly."""


def read_set(
    name: str, source: ImageSource, classifier: Classifier, notes: list[str], max_pixels: int = MAX_PIXELS
) -> LabelledImages:
    """Load a set at the classifier's size, each image once.

    Args:
        name: name of the set, used in notes and error messages.
        source: the images. Without labels, the current predictions serve as labels.
        classifier: the classifier, which gives the size, the class names and the predictions.
        notes: a line is appended about images that are left out, and about labels that are predicted.
        max_pixels: the largest size of the set; of a larger one, every second, third, … image is used.

    Raises:
        TypeError: if `source` is anything else.
        ValueError: if it is empty or cannot be used.
        FileNotFoundError: if there is no such folder.
    """
    if not isinstance(source, str | os.PathLike | LabelledImages | Tensor | LazyImages):
        raise TypeError(
            f"{name!r} is a {type(source).__name__}; pass LabelledImages, a tensor (N, 3, H, W), LazyImages or the "
            "path of a folder"
        )
    is_folder = isinstance(source, str | os.PathLike)
    count = len(image_files(source)) if is_folder else len(source)
    step = max(1, -(-count * classifier.size**2 // max_pixels))
    if step > 1:
        notes.append(f"{name}: one image in {step} is used.")
    if is_folder:
        data, left_out = read_folder(source, classifier, step)
        if left_out:
            notes.append(f"{name}: {len(left_out)} files are left out ({'; '.join(left_out[:3])}).")
    else:
        data = _labeled_set(name, source, classifier, step, notes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        data = without_duplicates(name, data)
    notes += [f"{warning.message}." for warning in caught]
    return data


def _labeled_set(
    name: str, source: LabelledImages | LazyImages | Tensor, classifier: Classifier, step: int, notes: list[str]
) -> LabelledImages:
    """Take one image in `step` at the classifier's size; without labels, the predictions serve as labels."""
    if isinstance(source, LabelledImages):
        data = remap_labels(name, source, classifier)
    else:
        data = LabelledImages.unlabeled(source, classifier.classes)
    if not len(data):
        raise ValueError(f"{name!r} is empty; pass at least one image")
    data = data.subset(range(0, len(data), step))
    data = replace(data, images=resized(data.images[:], classifier.size))
    if not isinstance(source, LabelledImages):
        data = label_by_prediction(data, classifier)
        notes.append(f"{name}: there are no labels, so the current predictions serve as labels.")
    return data


def with_names(data: LabelledImages) -> LabelledImages:
    """Name images that have no names by their indices."""
    return data if data.names else replace(data, names=tuple(f"image {index}" for index in range(len(data))))
