"""Fine-tune without labels in one run, of all layers or of the last block, and stop where the objective has risen."""

import time
from collections.abc import Sequence
from math import inf, nan
from typing import NamedTuple

import torch

from edittools.classifiers import Classifier
from edittools.edits import Edit, Record
from edittools.exemplars import all_exemplars
from edittools.metrics import predict
from edittools.selection.finetuning import FINETUNING, WEIGHTS, Training
from edittools.selection.hosts import divergence
from edittools.selection.scores import Candidate, Scores
from edittools.selection.select import Selection

RATES = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
"""The learning rates that may be tried."""

ALL_LAYERS, LAST = "all layers", "the last block"

LAST_BLOCK = {
    "shortcuts_squeezenet": ("features.12.", "classifier."),
    "shortcuts_lite0": ("blocks.6.", "conv_head.", "bn2.", "classifier."),
}
"""How the names of the parameters of the last block begin, and of all after it."""


class Tuned(NamedTuple):
    """The best candidate of a run.

    Attributes:
        edit: the change of all weights.
        objective: its objective.
        steps: its number of steps.
        weight: its weight in the interpolation with the original network.
        candidates: the number of candidates.
        seconds: the CPU time of the run, in seconds.
    """

    edit: Edit
    objective: float
    steps: int
    weight: float
    candidates: int
    seconds: float


def tuned(
    classifier: Classifier, selection: Selection, begins: Sequence[str], rate: float, checkpoints: Sequence[int]
) -> Tuned:
    """Fine-tune at one rate, and return what the objective selects.

    Args:
        classifier: the classifier; it is not changed.
        selection: a selection by hosts, whose images and exemplars are used.
        begins: how the names of the parameters that are trained begin; an empty text for all.
        rate: the learning rate.
        checkpoints: the numbers of steps; the run ends at the first one at which the objective has risen.
    """
    started = time.process_time()
    hosts = selection.hosts
    of_solve = [next(iter(part.values())).images for part in (hosts.solve, hosts.solve_own)]
    images = torch.cat([*of_solve, hosts.reference])
    target = predict(classifier, images).log_softmax(dim=1)
    exemplars = all_exemplars(selection.exemplars)
    training = Training(classifier, images, target, exemplars, hosts.where, hosts.vary, rate, seed=0)
    for name, parameter in training.network.model.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(begins)))
    best = Tuned(Edit(training.changes(), selection.weights.fingerprint), inf, 0, 0.0, 0, 0.0)
    count = 0
    for steps in range(1, max(checkpoints) + 1):
        training.step()
        if steps not in checkpoints:
            continue
        scores = _scores(training, selection, steps)
        count += len(scores)
        lowest = float(scores.objective().min())
        if lowest > best.objective:
            break
        candidate = scores.best()
        best = Tuned(candidate.scaled, lowest, steps, candidate.strength, 0, 0.0)
    return best._replace(candidates=count, seconds=time.process_time() - started)


def _scores(training: Training, selection: Selection, steps: int) -> Scores:
    """Score the network between the original one and the one that is trained."""
    select = selection.hosts.select
    weights = selection.weights
    edit = Edit(
        training.changes(),
        weights.fingerprint,
        Record(FINETUNING, nan, None, steps),
        normalization=weights.normalization,
    )
    divergences = []
    for weight in WEIGHTS:
        network = training.interpolated(weight)
        for images in (select.marked, select.images):
            divergences.append(divergence(select.original, predict(network, images).log_softmax(dim=1)))
    return Scores(
        [Candidate(edit, {"steps": steps, "weight": weight}, weight) for weight in WEIGHTS],
        torch.stack(divergences[::2]),
        torch.stack(divergences[1::2]),
        before=divergence(select.original, select.with_mark),
        is_own=select.is_own,
        is_counted=~select.shows_mark,
    )


def next_rate(objectives: dict[float, float]) -> float | None:
    """Return the rate to try next: the neighbor, lower or higher, of the best one that was not tried.

    Args:
        objectives: the lowest objective at each rate that was tried, neighbors among `RATES`.

    Returns:
        The rate; None if both neighbors were tried, or if there are no more.
    """
    best = min(objectives, key=objectives.__getitem__)
    place = RATES.index(best)
    for neighbor in (place - 1, place + 1):
        if neighbor in range(len(RATES)) and RATES[neighbor] not in objectives:
            return RATES[neighbor]
    return None
