"""Selecting by labels, in experiments: the score table is that of the edited network on the labeled images."""

import pytest
import torch
from colors import BLUE, GREEN, RED, color_network, marked_exemplar, of_colors, ordinary, with_mark
from torch.nn.functional import cross_entropy

from edittools.metrics import predict
from edittools_course.by_labels import select_by_labels
from edittools_course.methods import METHODS

LABELED = with_mark(of_colors([RED, GREEN] * 40 + [BLUE] * 70, 2), 3)


def scores_of(**options):
    images = ordinary(150, 1).images
    return select_by_labels(color_network(), marked_exemplar(), images, LABELED, layers=["2"], **options)


def test_table_has_the_cross_entropy_of_the_labeled_images():
    scores = scores_of()
    best = scores.best()
    number = list(scores.candidates).index(best)
    for losses, network in (
        (scores.before, color_network()),
        (scores.marked[number], best.scaled.edited(color_network())),
    ):
        expected = cross_entropy(predict(network, LABELED), LABELED.labels, reduction="none")
        assert losses.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert torch.equal(scores.is_own, LABELED.labels == BLUE)
    assert float(scores.objective().min()) < scores.objective_before()


def test_methods_take_the_place_of_edits():
    methods = [METHODS["projection"].trying([{}]), METHODS["random direction"].trying(strengths=(0.5, 1.0))]
    scores = scores_of(methods=methods)
    assert [one.params["method"] for one in scores.candidates].count("random direction") == 2
    assert {one.params["method"] for one in scores.candidates} == {"projection", "random direction"}
