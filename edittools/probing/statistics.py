"""Intervals and tests over many images, cases or classifiers: a bootstrap, Wilcoxon's test, classifiers pooled."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edittools.metrics import Comparison, corrected_interval


def bootstrap(
    values: Sequence[float] | NDArray, rng: np.random.Generator | int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a mean, drawn from `rng` (or a seed); NaN without any value."""
    values, rng = np.asarray(values, float), np.random.default_rng(rng)
    if not len(values):
        return float("nan"), float("nan")
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def signed_rank(differences: Sequence[float] | NDArray, alternative: str = "two-sided") -> float:
    """The p-value of Wilcoxon's signed-rank test that differences lie about 0, zeros left out.

    Exact, also with ties, for up to 50 that are not zero, asymptotic for more; 1 where all are zero, NaN where there is
    none. `alternative` is "two-sided", or "greater": that they lie above 0.
    """
    given = np.asarray(differences, float)
    moved = given[given != 0]
    if not len(moved):
        return 1.0 if len(given) else float("nan")
    from scipy.stats import rankdata, wilcoxon

    if len(moved) > 50:
        return float(wilcoxon(moved, alternative=alternative, method="asymptotic").pvalue)
    ranks = (2 * rankdata(np.abs(moved))).astype(int)  # ties have half ranks
    chances = np.ones(1)  # of each sum of the ranks above 0, when every sign is as likely as its opposite
    for rank in ranks:
        chances = np.convolve(chances, np.r_[0.5, np.zeros(rank - 1), 0.5])
    total = ranks[moved > 0].sum()
    above, below = float(chances[total:].sum()), float(chances[: total + 1].sum())
    return above if alternative == "greater" else min(1.0, 2 * above, 2 * below)


def pooled_row(found: Sequence[Comparison]) -> dict[str, float]:
    """What edits of several classifiers did to the same images, as one table row: counts are sums over classifiers.

    Images are the sample, not classifiers × images: `low` and `high` bound the errors corrected (eq. 2), p is
    Wilcoxon's that an image is misread by as many classifiers before as after, the accuracy change is the classifiers'
    mean. Raises `ValueError` where the numbers of images differ.
    """
    if len({len(one.before) for one in found}) != 1:
        raise ValueError(f"{[len(one.before) for one in found]} images: expected the same ones for each classifier")
    wrong = np.sum([one.before.numpy() for one in found], axis=0)
    gain = wrong - np.sum([one.after.numpy() for one in found], axis=0)
    low, high = corrected_interval(found)
    change = np.append(gain / len(found), [1, -1])
    spread = NormalDist().inv_cdf(0.975) * change.std() / sqrt(len(change))
    return {
        "images": len(wrong),
        "errors before": int(wrong.sum()),
        "errors after": int(wrong.sum() - gain.sum()),
        "corrected": sum(one.corrected for one in found),
        "broken": sum(one.broken for one in found),
        "errors corrected": float(gain.sum() / wrong.sum()) if wrong.any() else float("nan"),
        "low": low,
        "high": high,
        "p": signed_rank(gain),
        "accuracy change (points)": 100 * float(gain.mean()) / len(found),
        "accuracy low": 100 * max(change.mean() - spread, -1.0),
        "accuracy high": 100 * min(change.mean() + spread, 1.0),
    }
