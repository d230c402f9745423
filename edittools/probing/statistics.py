"""Intervals and tests over many images or cases: a bootstrap, Wilcoxon's test."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def bootstrap(
    values: Sequence[float] | NDArray, rng: np.random.Generator | int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean, drawn from `rng` or a seed; NaN without any value."""
    values, rng = np.asarray(values, float), np.random.default_rng(rng)
    if not len(values):
        return float("nan"), float("nan")
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def signed_rank(differences: Sequence[float] | NDArray, alternative: str = "two-sided") -> float:
    """Return the p-value of Wilcoxon's signed-rank test that differences lie about 0, zeros left out.

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
