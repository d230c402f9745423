"""Predictions and error rates, and the changes that an edit makes, with intervals and paired tests."""

from dataclasses import dataclass
from math import nan

import torch
from torch import Tensor

from edittools._inference import eval_copy, logits_of, without_autocast
from edittools._progress import Progress
from edittools.classifiers import Classifier, check_classifier, remap_labels, usual_batch_size
from edittools.images import Images, LabeledImages, in_batches
from edittools.stats import accuracy_interval, corrected_interval, mcnemar

SIGNS = {"correct": "✓", "misclassified": "✗", "corrected": "+", "broken": "−"}
"""The sign of each state of an image, for readers who do not tell its color, see `state_of`."""


@torch.no_grad()
@without_autocast()
def predict(
    classifier: Classifier,
    images: Images,
    batch_size: int | None = None,
    bar: str = "predictions",
    progress: Progress | None = None,
) -> Tensor:
    """Compute the logits of images, not their classes: `predict(…).argmax(dim=1)` is the predicted class.

    For labeled images `data`, `misclassified(predict(classifier, data), data.labels)` tells which are misclassified.
    The logits are those of the model's own forward pass in eval mode; the model itself is not changed.

    Args:
        classifier: the classifier.
        images: `(N, 3, H, W)` in [0, 1], with or without labels.
        batch_size: images per batch; by default 64, and fewer large images on a CPU, see `usual_batch_size`.
        bar: the name of the progress bar.
        progress: a class like `tqdm.tqdm`, for a bar.

    Returns:
        The logits `(N, classes)`, on the CPU.

    Raises:
        TypeError: if the images are neither a tensor nor `LazyImages` nor `LabeledImages`.
        ValueError: if the images are not in [0, 1], or if the model does not return one logit per class.
    """
    model = eval_copy(check_classifier(classifier).model)
    if batch_size is None:
        batch_size = usual_batch_size(classifier)
    classes = len(classifier.classes)
    logits = []
    for batch in in_batches(images, batch_size, bar, progress):
        logits.append(logits_of(model, classifier.normalize(batch), classes).cpu())
    return torch.cat(logits) if logits else torch.zeros(0, classes)


def state_of(is_correct_before: bool, is_correct_after: bool) -> str:
    """Return the state of an image before and after an edit: correct, misclassified, corrected, or broken."""
    if is_correct_after:
        return "correct" if is_correct_before else "corrected"
    return "broken" if is_correct_before else "misclassified"


def misclassified(logits: Tensor, labels: Tensor) -> Tensor:
    """Tell which images are misclassified; logits that hold NaN are never correct.

    Args:
        logits: `(N, classes)`.
        labels: `(N,)`, class indices.

    Returns:
        `(N,)` booleans, on the device of the logits.

    Raises:
        ValueError: if the logits are not `(N, classes)`, or if there is not one label per image.
    """
    if logits.ndim != 2:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} are not (N, classes); pass the logits that predict returns, not "
            "predicted classes"
        )
    if len(logits) != len(labels):
        raise ValueError(f"{len(logits)} predictions for {len(labels)} labels; pass one label per image")
    return predicted_classes(logits) != labels.to(logits.device)


def predicted_classes(logits: Tensor) -> Tensor:
    """Return the predicted class `(N,)` of logits `(N, classes)`, -1 where they hold NaN."""
    return logits.argmax(dim=1).masked_fill(logits.isnan().any(dim=1), -1)


def error_rate(classifier: Classifier, images: LabeledImages) -> float:
    """Compute the share of images that are misclassified, in [0, 1].

    Args:
        classifier: the classifier.
        images: images with labels. If their class names differ from the classifier's, labels are mapped by class name.

    Returns:
        The share; NaN if there is no image.

    Raises:
        TypeError: if the images have no labels.
        ValueError: if the class name of a label is not one of the classifier's.
    """
    images = remap_labels("images", images, check_classifier(classifier))
    logits = predict(classifier, images)
    return float(misclassified(logits, images.labels).float().mean())


@dataclass(frozen=True, eq=False)
class Comparison:
    """What an edit did to a set of images.

    Args:
        before: `(N,)` booleans, which images were misclassified before the edit.
        after: `(N,)` booleans, which of the same images are misclassified after it.

    Raises:
        ValueError: if the two do not have the same shape.
    """

    before: Tensor
    after: Tensor

    def __post_init__(self) -> None:
        if self.before.shape != self.after.shape:
            raise ValueError(
                f"the errors before have shape {tuple(self.before.shape)}, those after {tuple(self.after.shape)}; "
                "pass the errors of the same images"
            )

    @property
    def corrected(self) -> int:
        """The number of images that were misclassified before and are correct after."""
        return int((self.before & ~self.after).sum())

    @property
    def broken(self) -> int:
        """The number of images that were correct before and are misclassified after."""
        return int((~self.before & self.after).sum())

    @property
    def errors_corrected(self) -> float:
        """(errors before − errors after) / errors before, eq. (2) of the paper; NaN if there was no error before."""
        errors = int(self.before.sum())
        return (self.corrected - self.broken) / errors if errors else nan

    @property
    def accuracy_change(self) -> float:
        """Accuracy after − accuracy before, in percentage points."""
        return 100 * (self.corrected - self.broken) / max(len(self.before), 1)

    def accuracy_interval(self) -> tuple[float, float]:
        """Compute the 95% interval of `accuracy_change`, in points, see `stats.accuracy_interval`."""
        return accuracy_interval(self.corrected, self.broken, len(self.before))

    def corrected_interval(self) -> tuple[float, float]:
        """Compute the 95% interval of `errors_corrected`; NaN if there was no error before."""
        errors = int(self.before.sum())
        wrong_or_broken = 0 if self.before.all() else errors + self.broken
        return corrected_interval(self.corrected, errors, self.broken, wrong_or_broken)

    def row(self) -> dict[str, float]:
        """Summarize as a table row: counts, errors corrected (eq. 2), McNemar's p, change of accuracy in points."""
        return {
            "images": len(self.before),
            "errors before": int(self.before.sum()),
            "errors after": int(self.after.sum()),
            "corrected": self.corrected,
            "broken": self.broken,
            "errors corrected": self.errors_corrected,
            "p": mcnemar(self.corrected, self.broken),
            "accuracy change (points)": self.accuracy_change,
        }


def leads_without_prediction(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute by how much the labeled class is ahead of all others but the predicted one, `(N,)`.

    A misclassified image with a large lead would be correct, but for something that speaks for the predicted class.

    Args:
        logits: `(N, classes)`, or probabilities.
        labels: `(N,)` class indices.
    """
    column = labels[:, None]
    others = logits.scatter(1, logits.argmax(dim=1, keepdim=True), float("-inf")).scatter(1, column, float("-inf"))
    return logits.gather(1, column)[:, 0] - others.amax(dim=1)
