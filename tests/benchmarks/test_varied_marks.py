"""Marks that vary, and the comparison of default and varied hosts, on small exact cases."""

import numpy as np
import pandas as pd
import pytest
import torch
import varied_marks
from _lib import varied_cases
from _lib.effects import TARGET
from _lib.pairs import gain_over_photos
from _lib.results import BY_HOSTS, BY_VARIED_HOSTS, Results
from _lib.varied_cases import VARIED

from edittools_course.scenarios.shortcuts import SHORTCUTS


def test_worn_changes_nothing_far_from_the_mark():
    image = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(40, 60)
    mask[10:20, 20:36] = 1
    marked = torch.where(mask > 0, torch.ones(3, 1, 1), image)
    results = [varied_cases.worn(image, marked, mask, np.random.default_rng(seed)) for seed in range(20)]
    for changed in results:
        assert torch.equal(changed[:, :4], image[:, :4]) and torch.equal(changed[:, :, :14], image[:, :, :14])
        assert changed.min() >= 0 and changed.max() <= 1
    assert len({float(changed.sum()) for changed in results}) > 10


def test_partly_covered_leaves_most_of_the_mark():
    mask = torch.zeros(40, 60)
    mask[10:20, 20:36] = 1
    for seed in range(20):
        seen = varied_cases.partly_covered(mask, mask, np.random.default_rng(seed))
        assert 0.6 * mask.sum() <= seen.sum() <= mask.sum()
        assert not (seen * (1 - mask)).any()


@pytest.mark.parametrize("goal", ["garbage truck", "church"])
def test_resized_mark_covers_another_area(goal):
    image = torch.full((1, 3, 64, 64), 0.5)
    marks = [varied_cases.resized_mark(SHORTCUTS[goal], factor) for factor in varied_cases.SIZE]
    smaller, larger = (mark.draw(image, 3)[1].sum() for mark in marks)
    assert larger > 1.5 * smaller


def rows_of(of_default, of_varied):
    """Six seeds of a case: how many of ten errors each method corrects, for both kinds of marks."""
    rows = []
    for method, counts in {BY_HOSTS: of_default, BY_VARIED_HOSTS: of_varied}.items():
        for seed, count in enumerate(counts):
            wrong = [[1] * 10 + [0] * 10, [0] * count + [1] * (10 - count) + [0] * 10]
            sets = {TARGET: wrong, VARIED: wrong}
            rows.append({"network": "a", "case": "tag", "method": method, "run": f"seed {seed}", "sets": sets})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("of_varied", "expected"),
    [
        ([7, 7, 7, 7, 7, 7], "met"),
        ([5, 5, 5, 5, 5, 5], "not met"),  # less is corrected
        ([4, 10, 4, 10, 6, 10], "not met"),  # the spread is larger
    ],
)
def test_decide_compares_gains_and_deviations(of_varied, expected):
    results = Results("varied_marks", "photos")
    varied_marks.decide(results, rows_of([6, 7, 6, 7, 6, 7], of_varied))
    assert results.notes["criterion"] == expected


def test_gain_over_photos_is_the_mean_over_seeds():
    rows = rows_of([6, 7, 6, 7, 6, 7], [7, 8, 7, 8, 7, 8])
    sets = [[one[TARGET] for one in part.sets] for _, part in rows.groupby("method", sort=False)]
    gain = gain_over_photos(*sets)
    assert gain.value == pytest.approx(0.1)
    assert gain.interval[0] < 0.1 < gain.interval[1]
