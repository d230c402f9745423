"""The score table: its objective, the selection from it, and cross-validation."""

import pytest
import torch

from edittools.selection import Candidate, Scores


def table(marked, clean, is_own=None, predicted=None):
    """Make a score table of candidates whose edits do not matter."""
    marked = torch.tensor(marked)
    clean = torch.tensor(clean)
    own = torch.zeros(marked.shape[1], dtype=torch.bool) if is_own is None else torch.tensor(is_own)
    candidates = [Candidate(None, {"layer": f"layer {number}", "strength": 1.0}) for number in range(len(marked))]
    counts = torch.ones(clean.shape[1], dtype=torch.bool)
    predicted = None if predicted is None else torch.tensor(predicted)
    return Scores(candidates, marked, clean, torch.ones(marked.shape[1]), own, counts, predicted)


def test_objective_weighs_clean_images_and_the_own_class():
    scores = table([[1.0, 3.0, 5.0]], [[0.0, 1.0, 2.0]], [False, False, True])
    assert scores.objective(clean_weight=2.0, own_weight=0.0).tolist() == [3.0 + 1.0]
    assert scores.objective(clean_weight=0.0, own_weight=3.0).tolist() == [17.0]
    assert scores.objective_before(own_weight=3.0) == 4.0


def test_best_depends_on_the_weight_of_clean_images():
    scores = table([[0.1, 0.1], [0.5, 0.5]], [[0.4, 0.4], [0.0, 0.0]])
    assert scores.best(clean_weight=0.5).params["layer"] == "layer 0"
    assert scores.best(clean_weight=2.0).params["layer"] == "layer 1"


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "2"])
def test_weights_that_are_no_amounts_are_refused(weight):
    for name in ("clean_weight", "own_weight"):
        with pytest.raises(ValueError, match=f"{name}.*{weight}"):
            table([[1.0]], [[0.0]]).best(**{name: weight})


def test_candidate_that_diverges_is_not_selected():
    scores = table([[float("inf"), 0.0], [5.0, 5.0]], [[0.0], [0.0]])
    assert scores.best().params["layer"] == "layer 1"


def test_cross_validated_predicts_each_image_by_the_candidate_selected_without_its_fold():
    """Candidate 0 is best on fold 0 only, candidate 1 on fold 1 only, and candidate 2 is second on both."""
    marked = [[0.0, 0.0, 9.0, 9.0], [9.0, 9.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
    predicted = [[10, 11, 12, 13], [20, 21, 22, 23], [30, 31, 32, 33]]
    scores = table(marked, [[0.0]] * 3, predicted=predicted)
    assert scores.cross_validated(torch.tensor([0, 0, 1, 1])).tolist() == [20, 21, 12, 13]
    assert scores.cross_validated(torch.tensor([0, 1, 0, 1])).tolist() == [30, 31, 32, 33]


def test_cross_validated_counts_no_image_as_unchanged():
    """Without fold 0, all candidates diverge, and without fold 1, all do harm. Both folds measure one all the same."""
    inf = float("inf")
    scores = table([[2.0, 2.0, inf, inf], [3.0, 3.0, inf, inf]], [[9.0], [9.0]], predicted=[[10] * 4, [20] * 4])
    assert scores.objective_before() < scores.without(torch.tensor([False, False, True, True])).objective().min()
    assert scores.without(torch.tensor([True, True, False, False])).objective().isinf().all()
    assert scores.cross_validated(torch.tensor([0, 0, 1, 1])).tolist() == [10] * 4


def test_cross_validation_does_not_depend_on_the_losses_of_the_held_out_fold():
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(5, 30, generator=generator)
    predicted = torch.randint(9, (5, 30), generator=generator)
    folds = torch.arange(30) % 6
    own = (torch.arange(30) % 4 == 0).tolist()
    expected = table(losses.tolist(), [[0.0]] * 5, own, predicted.tolist()).cross_validated(folds)
    for fold in range(6):
        changed = torch.where(folds == fold, 9 * torch.rand(5, 30, generator=generator), losses)
        found = table(changed.tolist(), [[0.0]] * 5, own, predicted.tolist()).cross_validated(folds)
        assert torch.equal(found[folds == fold], expected[folds == fold])
