"""Tests and intervals of shares: published values, statsmodels where it is installed, and simulations."""

from itertools import product

import numpy as np
import pytest

from edittools.stats import (
    FEWEST_CHANGED,
    POWER,
    SIGNIFICANCE,
    difference_interval,
    holm,
    images_for_mcnemar,
    mcnemar,
    wilson,
)


def test_wilson_of_published_counts():
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998
    assert wilson(0, 0) == (0, 1)


def test_difference_interval_of_published_counts():
    assert difference_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)  # Newcombe 1998
    assert difference_interval(0, 0, 3, 5)[0] == pytest.approx(-1, abs=0.2)


def test_mcnemar_of_known_counts():
    assert mcnemar(8, 1) == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(8, 1, "greater") == pytest.approx((1 + 9) / 2**9)
    assert mcnemar(0, 0) == 1 and mcnemar(3, 3) == 1


def test_fewest_changed_is_the_first_number_that_can_be_significant():
    assert mcnemar(FEWEST_CHANGED, 0) <= SIGNIFICANCE < mcnemar(FEWEST_CHANGED - 1, 0)


def test_mcnemar_wilson_and_newcombe_are_those_of_statsmodels():
    missing = "statsmodels is not installed: pip install 'edittools[dev]'"
    tables = pytest.importorskip("statsmodels.stats.contingency_tables", reason=missing)
    proportion = pytest.importorskip("statsmodels.stats.proportion", reason=missing)
    for corrected, broken in product(range(0, 40, 3), range(0, 12, 2)):
        if corrected + broken:
            expected = tables.mcnemar([[0, corrected], [broken, 0]], exact=True).pvalue
            assert mcnemar(corrected, broken) == pytest.approx(min(expected, 1))
    for count, total in ((0, 9), (3, 9), (9, 9), (81, 263)):
        assert wilson(count, total) == pytest.approx(proportion.proportion_confint(count, total, method="wilson"))
    for counts in ((56, 70, 48, 80), (9, 10, 3, 10), (0, 28, 2, 29)):
        expected = proportion.confint_proportions_2indep(*counts, method="newcomb", compare="diff")
        assert difference_interval(*counts) == pytest.approx(expected, abs=1e-9)


def test_holm_of_published_values():
    """Holm's p-values, each at least as large as those of smaller ones, and at most 1."""
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.7, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@pytest.mark.parametrize(("corrected", "broken", "images"), [(5, 0, 10), (12, 4, 60), (15, 9, 200)])
def test_images_for_mcnemar_give_the_power_that_they_should(corrected, broken, images):
    """Images drawn with these shares of corrected and broken ones, many times."""
    needed = images_for_mcnemar(corrected, broken, images)
    shares = [corrected / images, broken / images, 1 - (corrected + broken) / images]
    drawn = np.random.default_rng(0).multinomial(needed, shares, 2_000)
    is_significant = [mcnemar(int(wins), int(losses)) <= SIGNIFICANCE for wins, losses, _ in drawn]
    assert np.mean(is_significant) == pytest.approx(POWER, abs=0.08)


def test_images_for_mcnemar_are_more_than_there_are_and_at_least_six():
    assert images_for_mcnemar(5, 0, 5) == 6
    assert images_for_mcnemar(5, 0, 100) > 100
    assert images_for_mcnemar(2, 2, 9) is None
