"""The score table: its objective, and the selection from it."""

import pytest
import torch

from edittools.selection import Candidate, Scores


def table(marked, clean, is_own=None):
    """Make a score table of candidates whose edits do not matter."""
    marked = torch.tensor(marked)
    clean = torch.tensor(clean)
    own = torch.zeros(marked.shape[1], dtype=torch.bool) if is_own is None else torch.tensor(is_own)
    candidates = [Candidate(None, {"layer": f"layer {number}", "strength": 1.0}) for number in range(len(marked))]
    counts = torch.ones(clean.shape[1], dtype=torch.bool)
    return Scores(candidates, marked, clean, torch.ones(marked.shape[1]), own, counts)


def test_objective_weighs_clean_images_and_the_own_class():
    scores = table([[1.0, 3.0, 5.0]], [[0.0, 1.0, 2.0]], [False, False, True])
    assert scores.objective(clean_weight=2.0).tolist() == [2.0 + 5.0 + 2.0]
    assert scores.objective(clean_weight=0.0).tolist() == [7.0]
    assert scores.objective_before() == 2.0


def test_best_depends_on_the_weight_of_clean_images():
    scores = table([[0.1, 0.1], [0.5, 0.5]], [[0.4, 0.4], [0.0, 0.0]])
    assert scores.best(clean_weight=0.5).params["layer"] == "layer 0"
    assert scores.best(clean_weight=2.0).params["layer"] == "layer 1"


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "2"])
def test_weights_that_are_no_amounts_are_refused(weight):
    with pytest.raises(ValueError, match=f"clean_weight.*{weight}"):
        table([[1.0]], [[0.0]]).best(clean_weight=weight)


def test_candidate_that_diverges_is_not_selected():
    scores = table([[float("inf"), 0.0], [5.0, 5.0]], [[0.0], [0.0]])
    assert scores.best().params["layer"] == "layer 1"
