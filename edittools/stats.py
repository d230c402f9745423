"""Intervals and tests of shares: before and after an edit, and of two sets of images.

Intervals are 95%. SciPy is imported where it is used, since it takes longer to import than most calls take.
"""

from collections.abc import Mapping
from math import ceil, hypot, nan, sqrt
from statistics import NormalDist

SIGNIFICANCE = 0.05
"""The largest p-value that counts as evidence."""

POWER = 0.8
"""With the number of images that an advice names, a test is significant with this probability."""

FEWEST_CHANGED = 6
"""With fewer images that change, McNemar's test is never significant."""

QUANTILE = NormalDist().inv_cdf(0.975)
"""Of the standard normal distribution, for 95% intervals and two-sided tests."""


# --- tests ------------------------------------------------------------------------------------------------------------


def mcnemar(corrected: int, broken: int, alternative: str = "two-sided") -> float:
    """Compute the p-value of the exact McNemar test that an edit corrects as many images as it breaks.

    Args:
        corrected: number of images that were misclassified before and are correct after.
        broken: number of images that were correct before and are misclassified after.
        alternative: "two-sided", or "greater": more are corrected than broken.

    Returns:
        The p-value; 1 if no image changes.
    """
    if corrected + broken == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(corrected, corrected + broken, alternative=alternative).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values for several comparisons by Holm's method."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min((len(p_values) - rank) * p_values[name], 1.0))
        adjusted[name] = largest
    return adjusted


# --- intervals --------------------------------------------------------------------------------------------------------


def wilson(count: int, total: int) -> tuple[float, float]:
    """Compute the Wilson score interval of the share `count / total`; (0, 1) if `total` is 0."""
    if total == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    interval = binomtest(count, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def difference_interval(count: int, total: int, other_count: int, other_total: int) -> tuple[float, float]:
    """Compute Newcombe's interval of `count / total − other_count / other_total`, two independent shares."""
    low, high = wilson(count, total)
    other_low, other_high = wilson(other_count, other_total)
    share = count / max(total, 1)
    other_share = other_count / max(other_total, 1)
    difference = share - other_share
    below = hypot(share - low, other_high - other_share)
    above = hypot(high - share, other_share - other_low)
    return difference - below, difference + above


def accuracy_interval(corrected: float, broken: float, images: int) -> tuple[float, float]:
    """Compute the interval of a change of accuracy, in points: Bonett and Price's for paired shares.

    It adds one image to those corrected and one to those broken, so it has a width even if nothing changed. The counts
    need not be whole numbers.

    Args:
        corrected: number of images that were misclassified before and are correct after.
        broken: number of images that were correct before and are misclassified after.
        images: number of images.
    """
    count = images + 2
    corrected_share = (corrected + 1) / count
    broken_share = (broken + 1) / count
    change = corrected_share - broken_share
    half_width = QUANTILE * sqrt((corrected_share + broken_share - change**2) / count)
    low = max(change - half_width, -1.0)
    high = min(change + half_width, 1.0)
    return 100 * low, 100 * high


def corrected_interval(corrected: float, errors: float, broken: float, wrong_or_broken: float) -> tuple[float, float]:
    """Compute the interval of (corrected − broken) / errors, eq. (2) of the paper.

    Newcombe's square-and-add method joins the interval of the share corrected with that of the number broken per error.
    The counts need not be whole numbers.

    Args:
        corrected: number of errors that were corrected.
        errors: number of errors before the edit.
        broken: number of correct images that were broken.
        wrong_or_broken: number of images that were misclassified before or broken; 0 if all images were misclassified,
            so that none can be broken.

    Returns:
        The lower and the upper end; NaN if `errors` is 0.
    """
    if not errors:
        return nan, nan
    share = corrected / errors
    low, high = _clopper_pearson(corrected, errors)
    broken_per_error = fewest = most = 0.0
    if wrong_or_broken:
        broken_per_error = _odds(broken / wrong_or_broken)
        broken_low, broken_high = _clopper_pearson(broken, wrong_or_broken)
        fewest = _odds(broken_low)
        most = _odds(broken_high)
    net = share - broken_per_error
    below = hypot(share - low, most - broken_per_error)
    above = hypot(high - share, broken_per_error - fewest)
    return net - below, net + above


def _odds(share: float) -> float:
    """Convert a share to odds."""
    return share / (1 - share)


def _clopper_pearson(count: float, total: float) -> tuple[float, float]:
    """Compute the exact interval of a share; unlike SciPy's, also for counts that are not whole numbers."""
    from scipy.special import betaincinv

    low = float(betaincinv(count, total - count + 1, 0.025)) if count else 0.0
    high = float(betaincinv(count + 1, total - count, 0.975)) if count < total else 1.0
    return low, high


# --- how many images --------------------------------------------------------------------------------------------------


def images_for_mcnemar(corrected: int, broken: int, images: int) -> int | None:
    """Compute about how many images McNemar's test needs to be significant with `POWER`, at the observed shares.

    This is Connor's formula for paired shares (Biometrics 43, 1987).

    Returns:
        The number; None if the edit does not correct more images than it breaks.
    """
    if corrected <= broken:
        return None
    changed_share = (corrected + broken) / images
    net_share = (corrected - broken) / images
    of_test = QUANTILE * sqrt(changed_share)
    of_power = NormalDist().inv_cdf(POWER) * sqrt(changed_share - net_share**2)
    return max(ceil(((of_test + of_power) / net_share) ** 2), ceil(FEWEST_CHANGED / changed_share), images + 1)


def images_for_limit(lost: float, variance: float, limit: float) -> int | None:
    """Compute about how many images show that no more than a share and one image are lost, at the observed shares.

    It is the number at which the upper end of `accuracy_interval` comes down to the limit.

    Args:
        lost: the share of images that are lost, net.
        variance: the variance of what an image loses: 0, 1, or −1.
        limit: the share that may be lost.

    Returns:
        The number; None if the share that is lost is not below the limit.
    """
    margin = limit - lost
    if margin <= 0:
        return None
    # (margin n + 1)² = QUANTILE² (variance n + 2), solved for n
    slope = QUANTILE**2 * variance - 2 * margin
    return ceil((slope + sqrt(slope**2 + 4 * margin**2 * (2 * QUANTILE**2 - 1))) / (2 * margin**2))


def probability_of_more(images: int, share: float, allowed: int) -> float:
    """Compute the probability that more than an allowed number of images is lost, if a share of all images would be."""
    from scipy.stats import binom

    return float(binom.sf(allowed, images, share))
