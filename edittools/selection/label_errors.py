"""Likely label errors among clean and retained images, found by cleanlab from predictions that a search has.

Failing images are left out: a confident misprediction of these is the rule that an edit changes.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from edittools._checks import extra
from edittools.images import LabelledImages
from edittools.selection.activations import CachedActivations

KINDS = {"clean": "clean", "clean_test": "clean", "retain": "retained", "retain_test": "retained"}
"""The splits that are searched for label errors, and what messages call their images."""

FILTER = "both"
"""The filter of cleanlab that flags the fewest images: those that two criteria flag, by class and by noise rate."""


@dataclass(frozen=True)
class LabelError:
    """An image whose label is likely wrong.

    Attributes:
        split: the split that holds the image.
        index: the number of the image in the split.
        name: name of the image, such as the path of its file; may be empty.
        label: name of the class that the image is labeled with.
        prediction: name of the class that is predicted.
        probability: probability of the predicted class.
    """

    split: str
    index: int
    name: str
    label: str
    prediction: str
    probability: float

    @property
    def kind(self) -> str:
        """What the image is: "clean" or "retained"."""
        return KINDS[self.split]

    def __str__(self) -> str:
        return (
            f"{self.name or f'{self.kind} image {self.index}'}: labeled {self.label}, predicted as {self.prediction} "
            f"with a probability of {self.probability:.0%}"
        )


def has_cleanlab() -> bool:
    """Return whether cleanlab is installed."""
    return find_spec("cleanlab") is not None


def find_label_errors(
    activations: Mapping[str, CachedActivations], labeled: Mapping[str, LabelledImages], classes: Sequence[str]
) -> tuple[LabelError, ...]:
    """Find clean and retained images whose labels are likely wrong, from their predictions without an edit.

    A label that is the current prediction is never an error, so images without labels of their own have none.

    Args:
        activations: the cached splits, by name; of these, the clean and the retained ones are looked at.
        labeled: the images of the splits, by name.
        classes: names of the classifier's classes.

    Returns:
        The label errors, the one whose label has the lowest probability first.

    Raises:
        ModuleNotFoundError: if cleanlab is not installed.
    """
    with extra("selection", "notebooks"):
        from cleanlab.filter import find_label_issues
    splits = [split for split in KINDS if split in activations]
    places = [(split, index) for split in splits for index in range(len(labeled[split]))]
    labels = torch.cat([activations[split].labels for split in splits])
    probabilities = torch.cat([activations[split].original for split in splits]).double().softmax(dim=1)
    finite = probabilities.isfinite().all(dim=1).nonzero()[:, 0]
    places = [places[number] for number in finite.tolist()]
    labels = labels[finite]
    probabilities = probabilities[finite]
    predictions = probabilities.argmax(dim=1)
    if len(labels.unique()) < 2 or bool((predictions == labels).all()):
        return ()
    occurring = torch.cat([labels, predictions]).unique()  # of thousands of classes, most may not occur
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cleanlab warns about each class of few images
        issues = find_label_issues(
            torch.searchsorted(occurring, labels).numpy(),
            probabilities[:, occurring].numpy(),
            filter_by=FILTER,
            return_indices_ranked_by="self_confidence",
            n_jobs=1,
        )
    errors = []
    for number in issues.tolist():
        split, index = places[number]
        names = labeled[split].names
        prediction = int(predictions[number])
        error = LabelError(
            split=split,
            index=index,
            name=names[index] if names else "",
            label=classes[int(labels[number])],
            prediction=classes[prediction],
            probability=float(probabilities[number, prediction]),
        )
        errors.append(error)
    return tuple(errors)
