"""How often a classifier errs, and what an edit changed: error rates, errors corrected, intervals, paired tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, nan, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edittools._inference import check_logits_shape, eval_copy, without_autocast
from edittools.classifiers import Classifier, check_classifier, remap_labels
from edittools.images import Images, LabelledImages, in_batches

if TYPE_CHECKING:
    import pandas as pd


@torch.no_grad()
@without_autocast()
def predict(classifier: Classifier, images: Images, batch_size: int = 64, progress: bool = False) -> Tensor:
    """Compute the logits of images by the model's own forward pass in eval mode; the model is left as it is.

    Args:
        classifier: the classifier.
        images: `(N, 3, H, W)` in [0, 1], with or without labels.
        batch_size: images per batch.
        progress: show a progress bar.

    Returns:
        The logits `(N, classes)`, on the CPU; their `argmax(dim=1)` is the predicted class.

    Raises:
        ValueError: for images that are not in [0, 1], and a model that does not return one logit per class.
    """
    model = check_classifier(classifier).model
    classes = len(classifier.classes)
    parts = [torch.zeros(0, classes)]
    with eval_copy(model) as copied:
        for batch in in_batches(images, batch_size, "predictions", progress):
            answer = copied(classifier.normalize(batch))
            parts.append(check_logits_shape(answer, len(batch), classes, model).cpu())
    return torch.cat(parts[1:] or parts)


def misclassified(logits: Tensor, labels: Tensor) -> Tensor:
    """Say which of N images `(N, classes)` logits misread: `(N,)` boolean; those that hold NaN are never right."""
    if len(logits) != len(labels):
        raise ValueError(f"{len(logits)} predictions for {len(labels)} labels: expected one each")
    return predicted_classes(logits) != labels.to(logits.device)


def predicted_classes(logits: Tensor) -> Tensor:
    """Return the class `(N,)` that `(N, classes)` logits are read as, -1 where they hold NaN."""
    return logits.argmax(dim=1).masked_fill(logits.isnan().any(dim=1), -1)


def error_rate(classifier: Classifier, images: LabelledImages) -> float:
    """Return the share of images that are misclassified, in [0, 1].

    Labels into other classes than the classifier's are taken by name; `ValueError` for a name that it does not have.
    """
    images = remap_labels("images", images, classifier)
    return float(misclassified(predict(classifier, images), images.labels).float().mean())


def wilson(count: int, total: int) -> tuple[float, float]:
    """Give the 95 % Wilson score interval of a share `count / total`; the whole of [0, 1] when `total` is 0."""
    if total == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    interval = binomtest(count, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(corrected: int, broken: int) -> float:
    """Give the p-value of the exact McNemar test that an edit corrects as often as it breaks."""
    from scipy.stats import binomtest

    return float(binomtest(corrected, corrected + broken).pvalue) if corrected + broken else 1.0


def attack_row(before: Tensor, after: Tensor, labels: Tensor, goal: int) -> dict[str, float]:
    """Tell as a table row what an edit did to an attack that makes images be read as class `goal` (section 3.2).

    `before` and `after` are `(N, classes)` logits. Of the images that were `fooled`, `fixed` are read as their own
    class afterwards; `low` and `high` bound their share.
    """
    first, last = predicted_classes(before), predicted_classes(after)
    fooled = (first == goal) & (labels != goal)
    count, fixed = int(fooled.sum()), int((fooled & (last == labels)).sum())
    low, high = wilson(fixed, count)
    found = {
        "success before": float((first == goal).float().mean()),
        "success after": float((last == goal).float().mean()),
    }
    found |= {"fooled": count, "fixed": fixed, "share fixed": fixed / count if count else nan}
    return found | {"low": low, "high": high}


@dataclass(frozen=True)
class Comparison:
    """What an edit did to a set of images: which were wrong before and which are after, `(N,)` booleans."""

    before: Tensor
    after: Tensor

    def __post_init__(self) -> None:
        if self.before.shape != self.after.shape:
            shapes = f"{tuple(self.before.shape)} and {tuple(self.after.shape)}"
            raise ValueError(f"errors of shapes {shapes}: expected those of the same images before and after")

    @property
    def corrected(self) -> int:
        """Count what was wrong and is right."""
        return int((self.before & ~self.after).sum())

    @property
    def broken(self) -> int:
        """Count what was right and is wrong."""
        return int((~self.before & self.after).sum())

    @property
    def errors_corrected(self) -> float:
        """Compute (errors before − errors after) / errors before, eq. (2) of the paper; NaN when nothing was wrong."""
        return (self.corrected - self.broken) / int(self.before.sum()) if self.before.any() else nan

    @property
    def accuracy_change(self) -> float:
        """Return accuracy after − before, in points."""
        return 100 * (self.corrected - self.broken) / max(len(self.before), 1)

    def accuracy_interval(self) -> tuple[float, float]:
        """Give the 95 % interval of `accuracy_change` in points: Bonett and Price's for paired shares.

        It adds one image to what was corrected and to what was broken, so it is no point even where nothing changed.
        """
        count = len(self.before) + 2
        up, down = (self.corrected + 1) / count, (self.broken + 1) / count
        half_width = NormalDist().inv_cdf(0.975) * sqrt((up + down - (up - down) ** 2) / count)
        return 100 * max(up - down - half_width, -1.0), 100 * min(up - down + half_width, 1.0)

    def corrected_interval(self) -> tuple[float, float]:
        """Give the 95 % interval of `errors_corrected`; NaN where nothing was wrong before."""
        wrong = int(self.before.sum())
        return corrected_interval(self.corrected, wrong, self.broken, 0 if self.before.all() else wrong + self.broken)

    def row(self) -> dict[str, float]:
        """Give the figures as a table row: counts, errors corrected (eq. 2), McNemar's p, accuracy in points."""
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


def corrected_interval(fixed: float, wrong: float, lost: float, either: float) -> tuple[float, float]:
    """Bound the errors corrected less those made, as a share of those that were `wrong` (eq. 2), at 95 %.

    Newcombe's square-and-add joins the interval of the share `fixed` with that of how many were `lost` for each that
    was wrong. `either` counts what was wrong or lost; it is 0 where all were wrong, so that none can be lost.
    """
    if not wrong:
        return nan, nan
    share, (low, high) = fixed / wrong, _clopper_pearson(fixed, wrong)
    parts = (lost / either, *_clopper_pearson(lost, either)) if either else (0.0, 0.0, 0.0)
    broken, least, most = (part / (1 - part) for part in parts)
    net = share - broken
    return net - hypot(share - low, most - broken), net + hypot(high - share, broken - least)


def _clopper_pearson(count: float, total: float) -> tuple[float, float]:
    """Give the exact interval of a share, also of counts that are no whole numbers."""
    from scipy.special import betaincinv

    low = float(betaincinv(count, total - count + 1, 0.025)) if count else 0.0
    return low, float(betaincinv(count + 1, total - count, 0.975)) if count < total else 1.0


def by_class(comparison: Comparison, labels: Tensor, classes: Sequence[str]) -> "pd.DataFrame":
    """Tabulate a comparison class by class, with Wilson intervals of the error rates; the last row is all of them."""
    import pandas as pd

    groups = [(classes[label], labels == label) for label in labels.unique().tolist()]
    rows = []
    for name, chosen in [*groups, ("all", torch.ones_like(labels, dtype=torch.bool))]:
        part = Comparison(comparison.before[chosen], comparison.after[chosen])
        row = {"class": name, **part.row()}
        for when in ("before", "after"):
            wrong, total = row[f"errors {when}"], row["images"]
            row[f"error rate {when}"] = wrong / total
            row[f"low {when}"], row[f"high {when}"] = wilson(wrong, total)
        rows.append(row)
    return pd.DataFrame(rows).set_index("class")
