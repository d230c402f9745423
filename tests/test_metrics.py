import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edittools.images import LabelledImages
from edittools.metrics import Comparison, by_class, error_rate, errors, errors_corrected, mcnemar, predict, wilson


def _bools(text):
    return torch.tensor([c == "x" for c in text])


def test_errors_corrected_is_equation_2_over_what_was_right_before():
    before, after = _bools("xxxx..."), _bools("x...x..")
    assert errors_corrected(before, after) == pytest.approx((4 - 2) / 4)
    assert errors_corrected(before, after, _bools("xx..x..")) == pytest.approx((2 - 2) / 2)
    assert errors_corrected(_bools("x.."), _bools("xxx")) == -2
    assert math.isnan(errors_corrected(_bools("..."), _bools("x..")))


def test_wilson_intervals_are_the_published_ones():
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998
    assert wilson(0, 0) == (0, 1)
    with pytest.raises(ValueError, match="5 of 4"):
        wilson(5, 4)


def test_mcnemar_is_the_exact_two_sided_binomial():
    assert mcnemar(8, 1) == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(0, 0) == 1 and mcnemar(3, 3) == 1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_a_comparison_adds_up(pairs):
    before, after = (torch.tensor(column) for column in zip(*pairs, strict=True))
    comparison = Comparison(before, after)
    row = comparison.row()
    assert row["errors after"] == row["errors before"] - comparison.corrected + comparison.broken
    labels = torch.arange(len(pairs)) % 2
    table = by_class(comparison, labels, ["even", "odd"])
    assert table.loc["all", "corrected"] == table.corrected[:-1].sum() == comparison.corrected
    assert (table["low after"] <= table["error rate after"] + 1e-9).all()
    assert (table["error rate after"] <= table["high after"] + 1e-9).all()


def test_error_rate_counts_wrong_predictions_in_eval_mode(tiny, photos32):
    labels = predict(tiny, photos32, batch_size=7).argmax(1)
    labels[:10] = (labels[:10] + 1) % 5
    tiny.train()
    assert error_rate(tiny, LabelledImages(photos32, labels, tiny.classes)) == pytest.approx(0.25)
    assert tiny.training
    with pytest.raises(ValueError, match="3 predictions for 2 labels"):
        errors(torch.zeros(3, 5), torch.zeros(2))
