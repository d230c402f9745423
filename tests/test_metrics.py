import math
from functools import lru_cache
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, wilcoxon

from edittools.classifiers import Classifier
from edittools.cut import cut_all
from edittools.images import LabeledImages
from edittools.metrics import Comparison, error_rate, misclassified, predict
from edittools.probing.effects import signed_rank
from edittools.states import States
from edittools.stats import mcnemar


def _flags(text):
    return torch.tensor([c == "x" for c in text])


def test_errors_corrected_of_equation_2():
    before = _flags("xxxx...")
    after = _flags("x...x..")
    assert Comparison(before, after).errors_corrected == pytest.approx((4 - 2) / 4)
    assert Comparison(_flags("x.."), _flags("xxx")).errors_corrected == -2
    assert math.isnan(Comparison(_flags("..."), _flags("x..")).errors_corrected)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_signed_rank_with_ties_and_zeros(differences):
    nonzero = np.array([d for d in differences if d] or [0])
    ranks = rankdata(abs(nonzero))
    signs = np.array(list(product((0, 1), repeat=len(nonzero))))
    sums = signs @ ranks
    observed = ranks[nonzero > 0].sum()
    above = (sums >= observed).mean()
    below = (sums <= observed).mean()
    expected = (above, min(1, 2 * above, 2 * below)) if nonzero.any() else (1, 1)
    p_values = signed_rank(differences, "greater"), signed_rank(differences)
    assert p_values == pytest.approx(expected)


def test_signed_rank_against_scipy():
    assert signed_rank([1, 2, 3, 4, 5], "greater") == 1 / 32  # the normal distribution says 0.022
    assert math.isnan(signed_rank([]))
    rng = np.random.default_rng(0)
    for count, method in ((50, "exact"), (51, "asymptotic"), (400, "asymptotic")):
        values = rng.normal(0.2, 1, count)
        for alternative in ("greater", "two-sided"):
            expected = wilcoxon(values, alternative=alternative, method=method).pvalue
            assert signed_rank([*values, 0, 0], alternative) == pytest.approx(expected)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_row_of_a_comparison_adds_up(pairs):
    before, after = (torch.tensor(column) for column in zip(*pairs, strict=True))
    comparison = Comparison(before, after)
    row = comparison.row()
    assert row["errors after"] == row["errors before"] - comparison.corrected + comparison.broken


def test_error_rate_in_training_mode(tiny, photos32):
    labels = predict(tiny, photos32, batch_size=7).argmax(1)
    labels[:10] = (labels[:10] + 1) % 5
    tiny.train()
    assert error_rate(tiny, LabeledImages(photos32, labels, tiny.classes)) == pytest.approx(0.25)
    assert tiny.training


def test_error_rate_with_labels_of_other_classes(tiny, photos32):
    predicted = predict(tiny, photos32).argmax(1)
    reversed_classes = LabeledImages(photos32, 4 - predicted, tiny.classes[::-1])
    assert error_rate(tiny, reversed_classes) == 0
    assert not States(cut_all(tiny, ["conv1"]), reversed_classes).before.any()
    with_unknown_class = LabeledImages(photos32, torch.arange(40) % 5, ("ant", "bee", "cat", "dog", "fox"))
    for evaluate in (error_rate, lambda _, data: States(cut_all(tiny, ["conv1"]), data)):
        with pytest.raises(ValueError, match="images.*'fox'"):
            evaluate(tiny, with_unknown_class)


def test_misclassified_with_nan():
    logits = torch.eye(3).index_fill(0, torch.tensor([0]), math.nan)
    logits[1, 2] = math.nan
    assert misclassified(logits, torch.arange(3)).tolist() == [True, True, False]


def test_accuracy_interval_coverage():
    """Images drawn with known shares of corrected and broken ones, many times."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    repeats = 400
    for _ in range(repeats):
        draw = torch.rand(300, generator=generator)
        comparison = Comparison(draw < 0.10, (draw > 0.04) & (draw < 0.13))  # 4% corrected, 3% broken
        low, high = comparison.accuracy_interval()
        covered += low <= 1.0 <= high
    assert 0.92 <= covered / repeats <= 0.98
    no_errors = torch.zeros(281, dtype=torch.bool)
    low, high = Comparison(no_errors, no_errors).accuracy_interval()
    assert -1.2 < low < -0.5 and high == -low  # nothing changed, but of 281 images only


@pytest.mark.parametrize("errors_before", [5, 50])
def test_corrected_interval_coverage(errors_before):
    """Images drawn with known shares of misclassified, corrected and broken ones, many times."""
    rng = np.random.default_rng(0)
    right = 3 * errors_before
    interval = lru_cache(None)(lambda *cells: _with_cells(*cells).corrected_interval())
    for share, broken in product((0.05, 0.5, 0.9, 0.97), (0.0, 0.5)):  # broken for each that was wrong
        shares = np.array([share, 1 - share, broken, 3 - broken]) / 4
        all_drawn = rng.multinomial(errors_before + right, shares, 200)
        corrected = rng.binomial(errors_before, share, 200)
        lost = rng.binomial(right, broken / 3, 200)
        same_images = np.transpose([corrected, errors_before - corrected, lost, right - lost])
        truth = share - broken
        for cells in (all_drawn, same_images):
            intervals = [interval(*map(int, counts)) for counts in cells if counts[0] + counts[1]]
            covered = np.mean([low - 1e-9 <= truth <= high + 1e-9 for low, high in intervals])
            assert covered >= 0.9, (share, broken, covered)


def _with_cells(corrected, left, broken, right):
    before = torch.arange(corrected + left + broken + right) < corrected + left
    after = torch.tensor([False] * corrected + [True] * (left + broken) + [False] * right)
    return Comparison(before, after)


def test_corrected_interval_of_extreme_counts():
    assert _with_cells(5, 0, 0, 0).corrected_interval() == pytest.approx((0.478, 1), abs=1e-3)  # Clopper and Pearson's
    low, high = _with_cells(0, 11, 0, 200).corrected_interval()
    assert low < -0.3 and high == pytest.approx(0.285, abs=1e-3)
    for corrected in (5, 6):  # it excludes 0 where McNemar's test says that something was corrected
        low, _ = _with_cells(corrected, 0, 0, 90).corrected_interval()
        assert (low > 0) == (mcnemar(corrected, 0) < 0.05)
    assert all(map(math.isnan, _with_cells(0, 0, 3, 4).corrected_interval()))


@pytest.mark.parametrize(("size", "images"), [(64, 64), (224, 8), (2000, 1)])
def test_predict_takes_large_images_in_small_batches(size, images):
    class Counting(torch.nn.Module):
        def forward(self, batch):
            counts.append(len(batch))
            return batch.mean(dim=(2, 3))

    counts = []
    predict(Classifier(Counting(), ("red", "green", "blue"), size=size), torch.zeros(1, 3, 4, 4).expand(64, -1, -1, -1))
    assert counts == 64 // images * [images]
