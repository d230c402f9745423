"""How often a classifier errs, and what an edit changed: error rates, errors corrected, intervals, paired tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edittools.classifiers import Classifier, by_name, check_classifier
from edittools.graph import program_of
from edittools.images import Images, LabelledImages, in_batches

if TYPE_CHECKING:
    import pandas as pd


@torch.no_grad()
def predict(classifier: Classifier, images: Images, batch_size: int = 64, progress: bool = False) -> Tensor:
    """Compute the logits `(N, classes)` of images on the CPU, as in eval mode."""
    check_classifier(classifier)
    parts = []
    for some in in_batches(images, batch_size, "predictions", progress):
        program = program_of(classifier, some.shape[2:])
        parts.append(program.compute([program.logits], {program.images: classifier.normalise(some)})[0].cpu())
    return torch.cat(parts) if parts else torch.zeros(0, len(classifier.classes))


def errors(logits: Tensor, labels: Tensor) -> Tensor:
    """Say which of N images are misclassified: `(N,)` boolean, from `(N, classes)` logits or `(N,)` predictions.

    Logits that hold NaN are never right.
    """
    predictions = readings(logits) if logits.ndim == 2 else logits
    if predictions.shape != labels.shape:
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels: expected one each")
    return predictions != labels.to(predictions.device)


def readings(logits: Tensor) -> Tensor:
    """Return the class `(N,)` that `(N, classes)` logits are read as, -1 where they hold NaN."""
    return logits.argmax(dim=1).masked_fill(logits.isnan().any(dim=1), -1)


def error_rate(classifier: Classifier, images: LabelledImages, batch_size: int = 64) -> float:
    """Return the share of images that are misclassified, in [0, 1].

    Labels into other classes than the classifier's are taken by name; `ValueError` for a name that it does not have.
    """
    images = by_name("images", images, classifier)
    return float(errors(predict(classifier, images, batch_size), images.labels).float().mean())


def errors_corrected(before: Tensor, after: Tensor) -> float:
    """Compute (errors before − errors after) / errors before, eq. (2) of the paper, of `(N,)` booleans.

    Below 0 when more was broken than corrected; NaN when nothing was wrong.
    """
    found, wrong = Comparison(before, after), int(before.sum())
    return (found.corrected - found.broken) / wrong if wrong else float("nan")


def wilson(count: int, total: int) -> tuple[float, float]:
    """Give the 95 % Wilson score interval of a share `count / total`; the whole of [0, 1] when `total` is 0."""
    if total == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    interval = binomtest(count, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _clopper_pearson(count: float, total: float) -> tuple[float, float]:
    """Give the exact interval of a share, also of counts that are no whole numbers."""
    from scipy.special import betaincinv

    low = float(betaincinv(count, total - count + 1, 0.025)) if count else 0.0
    return low, float(betaincinv(count + 1, total - count, 0.975)) if count < total else 1.0


def mcnemar(corrected: int, broken: int) -> float:
    """Give the p-value of the exact McNemar test that an edit corrects as often as it breaks."""
    from scipy.stats import binomtest

    return float(binomtest(corrected, corrected + broken).pvalue) if corrected + broken else 1.0


def attack_row(before: Tensor, after: Tensor, labels: Tensor, goal: int) -> dict[str, float]:
    """Tell as a table row what an edit did to an attack that makes images be read as class `goal` (section 3.2).

    `before` and `after` are `(N, classes)` logits. Success is the share read as `goal`; of the images that were
    `fooled`, `fixed` are read as their own class afterwards, `share fixed` comes with its 95 % Wilson interval.
    """
    first, last = readings(before), readings(after)
    fooled = (first == goal) & (labels != goal)
    count, fixed = int(fooled.sum()), int((fooled & (last == labels)).sum())
    low, high = wilson(fixed, count)
    return {
        "success before": float((first == goal).float().mean()),
        "success after": float((last == goal).float().mean()),
        "fooled": count,
        "fixed": fixed,
        "share fixed": fixed / count if count else float("nan"),
        "low": low,
        "high": high,
    }


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
    def accuracy_change(self) -> float:
        """Return accuracy after − before, in points."""
        return 100 * (self.corrected - self.broken) / max(len(self.before), 1)

    def accuracy_interval(self) -> tuple[float, float]:
        """Give the 95 % interval of `accuracy_change` in points: Bonett and Price's for paired shares.

        It adds one image to what was corrected and to what was broken, so it is no point even where nothing changed.
        """
        count = len(self.before) + 2
        up, down = (self.corrected + 1) / count, (self.broken + 1) / count
        spread = NormalDist().inv_cdf(0.975) * sqrt((up + down - (up - down) ** 2) / count)
        return 100 * max(up - down - spread, -1.0), 100 * min(up - down + spread, 1.0)

    def corrected_interval(self) -> tuple[float, float]:
        """Give the 95 % interval of `errors_corrected`; NaN where nothing was wrong before."""
        return corrected_interval([self])

    def row(self) -> dict[str, float]:
        """Give the figures as a table row: counts, errors corrected (eq. 2), McNemar's p, accuracy in points."""
        return {
            "images": len(self.before),
            "errors before": int(self.before.sum()),
            "errors after": int(self.after.sum()),
            "corrected": self.corrected,
            "broken": self.broken,
            "errors corrected": errors_corrected(self.before, self.after),
            "p": mcnemar(self.corrected, self.broken),
            "accuracy change (points)": self.accuracy_change,
        }


def corrected_interval(found: Sequence[Comparison]) -> tuple[float, float]:
    """Bound the share of errors that edits of several classifiers corrected on the same images (eq. 2), at 95 %.

    Newcombe's square-and-add joins Clopper and Pearson's interval of the share corrected with that of how many
    readings break for each that was wrong. Where all were wrong none can break. Images are the sample: readings of one
    image that go together count as fewer.
    """
    before, after = (torch.stack([getattr(one, when) for one in found]) for when in ("before", "after"))
    wrong, fixed, lost = (cells.sum(dim=0).double() for cells in (before, before & ~after, ~before & after))
    if not before.any():
        return float("nan"), float("nan")
    share, size = _independent(fixed, wrong)
    low, high = _clopper_pearson(share * size, size)
    broken, least, most = float(lost.sum() / wrong.sum()), 0.0, 0.0
    if not before.all():
        part, size = _independent(lost, lost + wrong)
        least, most = (p / (1 - p) for p in _clopper_pearson(part * size, size))
    net = share - broken
    return net - hypot(share - low, most - broken), net + hypot(high - share, broken - least)


def _independent(counts: Tensor, totals: Tensor) -> tuple[float, float]:
    """Give a share of readings, `(N,)` counts of totals an image, and how many independent ones say as much."""
    share, total = float(counts.sum() / totals.sum()), float(totals.sum())
    most, alone = float(totals.square().sum()) / total, share * (1 - share) * total
    spread = float((counts - share * totals).square().sum()) / alone if alone else most
    return share, total / min(max(spread, 1.0), most)


def by_class(comparison: Comparison, labels: Tensor, classes: Sequence[str]) -> "pd.DataFrame":
    """Tabulate a comparison class by class, with Wilson intervals of the error rates; the last row is all of them."""
    import pandas as pd

    groups = [(classes[label], labels == label) for label in labels.unique().tolist()]
    rows = []
    for name, chosen in [*groups, ("all", torch.ones_like(labels, dtype=torch.bool))]:
        part = Comparison(comparison.before[chosen], comparison.after[chosen])
        row = {"class": name, **part.row()}
        for when, wrong in (("before", part.before), ("after", part.after)):
            row[f"error rate {when}"] = float(wrong.float().mean())
            row[f"low {when}"], row[f"high {when}"] = wilson(int(wrong.sum()), len(wrong))
        rows.append(row)
    return pd.DataFrame(rows).set_index("class")
