"""Fine-tuning of the whole network without labels, on the images that select an edit."""

from dataclasses import replace

import pytest
import torch
from colors import GREEN, RED, color_network, marked_exemplar, of_colors, ordinary, with_mark
from conftest import condition

from edittools.metrics import predict
from edittools.selection import finetune_without_labels, finetuning
from edittools.selection.hosts import divergence
from edittools.selection.select import select


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch):
    """Look at four networks only: a small network learns fast."""
    monkeypatch.setattr(finetuning, "CHECKPOINTS", (10, 20))
    monkeypatch.setattr(finetuning, "WEIGHTS", (0.5, 1.0))


@pytest.fixture(scope="module")
def setup():
    """A classifier, and the selection of an edit."""
    classifier = color_network()
    images = ordinary(150, 1).images
    return classifier, select(classifier, marked_exemplar(), images, layers=["2"])


RATES = (1e-2,)


def test_fine_tuning_lowers_the_objective_and_corrects_new_images(setup):
    classifier, selection = setup
    before = condition(classifier)
    found = finetune_without_labels(classifier, selection, rates=RATES)
    assert condition(classifier) == before
    assert len(found.scores) == 4
    assert float(found.scores.objective().min()) < found.scores.objective_before()
    new = with_mark(of_colors([RED, GREEN] * 20, 12), 13)
    wrong = [predict(network, new).argmax(1) != new.labels for network in (classifier, found.edit.edited(classifier))]
    assert wrong[1].sum() < wrong[0].sum()


def test_scores_are_those_of_the_network_that_is_returned(setup):
    classifier, selection = setup
    found = finetune_without_labels(classifier, selection, rates=RATES)
    hosts = selection.hosts.select
    best = int(found.scores.objective().argmin())
    assert found.scores.candidates[best].params["weight"] == found.settings["weight"]
    network = found.edit.edited(classifier)
    for losses, images in ((found.scores.marked, hosts.marked), (found.scores.clean, hosts.images)):
        expected = divergence(hosts.original, predict(network, images).log_softmax(dim=1))
        torch.testing.assert_close(losses[best], expected, atol=1e-4, rtol=1e-3)


def test_seed_reproduces_the_network(setup):
    classifier, selection = setup
    digests = [finetune_without_labels(classifier, selection, rates=RATES, seed=seed).edit.digest for seed in (3, 3, 4)]
    assert digests[0] == digests[1] != digests[2]


def test_marks_vary_as_those_of_the_hosts_do(setup):
    classifier, selection = setup
    varied = replace(selection, hosts=replace(selection.hosts, vary=True))
    digests = [finetune_without_labels(classifier, one, rates=RATES).edit.digest for one in (selection, varied)]
    assert digests[0] != digests[1]


def test_selection_by_the_exemplar_has_no_hosts_to_train_on(setup):
    classifier, _ = setup
    selection = select(classifier, marked_exemplar(), ordinary(150, 1).images, layers=["2"], select_by="exemplar")
    with pytest.raises(ValueError, match="select_by='hosts'"):
        finetune_without_labels(classifier, selection)
