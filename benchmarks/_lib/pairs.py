"""What a method corrects over pairs of a network and a mark: means, intervals over photos, and what removal corrects.

The interval is about other photos, and the same networks, marks, and exemplars. All pairs of a run see the same photos,
so the photos are what is random: each has an influence on the mean, and the variance of the mean is that of the sum of
the influences (the delta method). Which photo is which follows from its place in the outcomes of a run.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import pandas as pd

from _lib.effects import CLEAN, TARGET
from _lib.gate_marks import GATE_NAMES
from _lib.results import BY_HOSTS, decode, read_outcomes
from _lib.shortcuts import NAMES
from edittools.stats import QUANTILE, SIGNIFICANCE, holm, mcnemar
from edittools_course.scenarios.imagenette import CLASSES

PHOTOS_OF_CLASSES = {"gate": [50] * 10, "learned_shortcut": [97, 99, 89, 96, 103, 98, 97, 105, 100, 97]}
"""How many photos of each class of Imagenette a run measures on, in their order.

There, the mark stands for a class, and errors are those on photos of the other classes.
"""

UNMARKED = {
    **dict.fromkeys((*PHOTOS_OF_CLASSES, "watermark", "watermark_lite0", "watermark_lite1", "watermark_lite2"), CLEAN),
    "typographic_mini": "blank",
}
"""The set of the same images without the mark, of each run that measured them."""

CLASS_OF_MARK = {mark: name for name, mark in {**NAMES, **GATE_NAMES}.items()}


class OverPhotos(NamedTuple):
    """A mean over pairs, and what each photo contributes to its error.

    Attributes:
        value: the mean, a share.
        influence: by how much it would change with more weight of each photo, `(photos,)`.
    """

    value: float
    influence: np.ndarray

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval over photos."""
        count = len(self.influence)
        half = QUANTILE * float(np.sqrt(count / (count - 1) * (self.influence**2).sum()))
        return self.value - half, self.value + half

    def minus(self, other: Self) -> "OverPhotos":
        """Return the difference of two means that were measured on the same photos."""
        return OverPhotos(self.value - other.value, self.influence - other.influence)


class Outcome(NamedTuple):
    """Which photos of one pair are misclassified.

    Attributes:
        network: the network.
        mark: the mark, or the exemplar.
        photos: the photos among those of the run, `(n,)` indices.
        before: whether each is misclassified before the edit, `(n,)`.
        after: whether it is with the edit.
    """

    network: str
    mark: str
    photos: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @property
    def net(self) -> float:
        """The net share of the errors that is corrected."""
        return float((self.before.sum() - self.after.sum()) / self.before.sum())


def outcomes_of(run: str, method: str, network: str = "all") -> list[Outcome]:
    """List what a method does to the photos with the mark, one entry per pair, draw, and seed."""
    return [
        Outcome(name, mark, _others(run, mark, len(before)), before, after)
        for name, mark, (before, after) in _decoded(run, method, TARGET, network)
    ]


def removals_of(run: str, network: str = "all") -> list[Outcome]:
    """List what removing the mark perfectly does to the same photos; empty if that was not measured."""
    if run not in UNMARKED:
        return []
    unmarked = [errors[0] for _, _, errors in _decoded(run, BY_HOSTS, UNMARKED[run], network)]
    removals = []
    for one, errors in zip(outcomes_of(run, BY_HOSTS, network), unmarked, strict=True):
        removals.append(one._replace(after=errors[one.photos]))
    return removals


def mean_of(outcomes: list[Outcome]) -> OverPhotos:
    """Average the net shares over pairs, after draws and seeds of each pair."""
    runs = pd.Series([(one.network, one.mark) for one in outcomes]).value_counts()
    value = 0.0
    influence = np.zeros(1 + max(int(one.photos[-1]) for one in outcomes))
    for one in outcomes:
        weight = 1 / len(runs) / runs[one.network, one.mark]
        value += weight * one.net
        gain = one.before.astype(float) - one.after
        influence[one.photos] += weight * (gain - one.net * one.before) / one.before.sum()
    return OverPhotos(value, influence)


def gain_over_photos(of_default: list, of_varied: list) -> OverPhotos:
    """Return the net share of errors corrected, varied minus default hosts, the mean over seeds.

    Args:
        of_default: by seed, what the edit does to the images with the mark: 1 for each that is misclassified, before
            and after.
        of_varied: the same of the edits that varied hosts selected, with the same seeds.
    """
    errors = np.array(of_default[0][0], dtype=float)
    fewer = np.mean(
        [np.array(one[1]) - np.array(other[1]) for one, other in zip(of_default, of_varied, strict=True)], 0
    )
    value = float(fewer.sum() / errors.sum())
    return OverPhotos(value, (fewer - value * errors) / errors.sum())


def nets_by_pair(outcomes: list[Outcome]) -> pd.Series:
    """Average the net share of each network and mark."""
    nets = pd.DataFrame([(one.network, one.mark, one.net) for one in outcomes], columns=["network", "mark", "net"])
    return nets.groupby(["network", "mark"], sort=False).net.mean()


def times_better(run: str, first: str, second: str) -> tuple[int, int]:
    """Count in how many selections a method leaves significantly fewer errors than another one (McNemar, Holm).

    Returns:
        The count, and the number of selections.
    """
    p_values = {}
    fewer = {}
    pairs = zip(outcomes_of(run, first), outcomes_of(run, second), strict=True)
    for number, (one, other) in enumerate(pairs):
        gained = int((other.after & ~one.after).sum())
        lost = int((one.after & ~other.after).sum())
        p_values[str(number)] = mcnemar(gained, lost)
        fewer[str(number)] = gained > lost
    adjusted = holm(p_values)
    return sum(fewer[name] and p <= SIGNIFICANCE for name, p in adjusted.items()), len(adjusted)


def _decoded(run: str, method: str, split: str, network: str) -> Iterator[tuple[str, str, tuple]]:
    """Yield the network, the mark, and the errors before and after of each row of a set."""
    table = read_outcomes(run)
    of_method = table[(table.method == method) & table.split.str.startswith(f"{split}, ")]
    for row in of_method.itertuples():
        if network in ("all", row.network):
            yield row.network, row.split.split(", ")[1], decode(row.outcomes)


def _others(run: str, mark: str, count: int) -> np.ndarray:
    """Return the indices of the photos on which errors count: of all classes but the mark's, if it stands for one."""
    if run not in PHOTOS_OF_CLASSES:
        return np.arange(count)
    own = list(CLASSES.values()).index(CLASS_OF_MARK[mark])
    return (np.repeat(range(len(CLASSES)), PHOTOS_OF_CLASSES[run]) != own).nonzero()[0]
