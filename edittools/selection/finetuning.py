"""Fine-tune the whole network without labels, as a user would do instead of an edit: on the same images.

Its loss is the divergence that selects an edit: with the mark, the network should predict what it predicted without it,
and without the mark, the same as before. Rates, numbers of steps, and the weight of an interpolation with the original
network are selected on the same hosts, by the same objective.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from edittools._inference import logits_of, without_autocast
from edittools._progress import Progress, bar_of
from edittools.classifiers import Classifier
from edittools.edits import Change, Edit, Record
from edittools.exemplars import Exemplar, all_exemplars
from edittools.metrics import predict
from edittools.selection.hosts import divergence
from edittools.selection.scores import CLEAN_WEIGHT, Candidate, Scores
from edittools.selection.select import Selection, table_of

FINETUNING = "fine-tuning"
"""The name of the network that is fine-tuned on request, with which the edit is compared."""

RATES = (3e-5, 1e-4, 3e-4)
"""Learning rates of AdamW."""

CHECKPOINTS = (25, 50, 100)
"""Numbers of steps."""

WEIGHTS = (0.5, 0.75, 1.0)
"""Weights of the fine-tuned network in an interpolation with the original one."""

BATCH = 16
"""The number of images of a step; each is shown with and without the mark."""


@dataclass(frozen=True, eq=False)
class Finetuned:
    """A network that was fine-tuned without labels, and how it was selected.

    Attributes:
        edit: the change of all weights.
        settings: the selected `rate`, `steps` and `weight`.
        scores: the score table of all candidates, on the hosts that select an edit.
    """

    edit: Edit
    settings: Mapping[str, float]
    scores: Scores


@without_autocast()
def finetune_without_labels(
    classifier: Classifier,
    selection: Selection,
    *,
    rates: Sequence[float] = RATES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Finetuned:
    """Fine-tune the whole network on ordinary images with the marks of the exemplars, without labels.

    It trains on the images that the edit was solved with and on those that define C, with marks that are pasted as for
    the edit, and is selected on the hosts that select an edit, by the same objective. Batch norm stays in eval mode,
    and the optimizer is AdamW.

    Args:
        classifier: the classifier; it is not changed.
        selection: the selection of an edit by hosts, whose images and exemplars are used.
        rates: the learning rates to try.
        seed: seed of the batches, of the places of marks, and of what varies.
        progress: a class like `tqdm.tqdm`, for a bar.

    Returns:
        The selected network as an edit of all weights.

    Raises:
        ValueError: if the selection has no hosts.
    """
    hosts = selection.hosts
    if hosts is None:
        raise ValueError("fine-tuning needs hosts, but the exemplar's own prediction selected; pass select_by='hosts'")
    started = time.process_time()
    of_solve = [next(iter(part.values())).images for part in (hosts.solve, hosts.solve_own)]
    images = torch.cat([*of_solve, hosts.reference])
    exemplars = all_exemplars(selection.exemplars)
    target = predict(classifier, images).log_softmax(dim=1)
    candidates, marked, clean = [], [], []
    with bar_of(progress, total=len(rates) * max(CHECKPOINTS), desc="fine-tuning", unit="step") as bar:
        for rate in rates:
            training = Training(classifier, images, target, exemplars, hosts.where, hosts.vary, rate, seed)
            for steps in range(1, max(CHECKPOINTS) + 1):
                training.step()
                bar.update()
                if steps not in CHECKPOINTS:
                    continue
                record = Record(FINETUNING, nan, None, steps)
                mark = selection.weights.fingerprint
                normalization = selection.weights.normalization
                edit = Edit(training.changes(), mark, record, normalization=normalization)
                for weight in WEIGHTS:
                    network = training.interpolated(weight)
                    with_mark = predict(network, hosts.select.marked).log_softmax(dim=1)
                    without_mark = predict(network, hosts.select.images).log_softmax(dim=1)
                    params = {"method": FINETUNING, "rate": rate, "steps": steps, "weight": weight}
                    candidates.append(Candidate(edit, params, weight))
                    marked.append(divergence(hosts.select.original, with_mark))
                    clean.append(divergence(hosts.select.original, without_mark))
    scores = table_of(candidates, torch.stack(marked), torch.stack(clean), hosts.select)
    scores = replace(scores, seconds=time.process_time() - started)
    best = scores.best()
    settings = {name: value for name, value in best.params.items() if name != "method"}
    return Finetuned(best.scaled, settings, scores)


class Training:
    """The training of a copy of the network at one rate.

    Args:
        classifier: the classifier; it is not changed.
        images: ordinary images, `(N, 3, H, W)`.
        target: their original log-probabilities, `(N, classes)`.
        exemplars: whose marks are pasted, in turn.
        where: where they are pasted, see `Exemplar.hosts`.
        vary: whether they vary, see `Exemplar.hosts`.
        rate: the learning rate.
        seed: seed of the batches, of the places of marks, and of what varies.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        target: Tensor,
        exemplars: Sequence[Exemplar],
        where: str,
        vary: bool,
        rate: float,
        seed: int,
    ) -> None:
        self.classifier = classifier
        self.images = images
        self.target = target
        self.exemplars = exemplars
        self.where = where
        self.vary = vary
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)
        self.network = copy.deepcopy(classifier).eval()
        self.mixed = copy.deepcopy(classifier)
        self.network.requires_grad_(True)
        self.original = {name: value.detach().clone() for name, value in self.network.model.named_parameters()}
        self.optimizer = torch.optim.AdamW(self.network.model.parameters(), lr=rate, weight_decay=0.0)
        self.steps = 0

    def step(self) -> None:
        """Take a step on a batch with and without the mark."""
        self.steps += 1
        members = torch.randperm(len(self.images), generator=self.generator)[:BATCH]
        images = self.images[members]
        if torch.rand(1, generator=self.generator) < 0.5:
            images = images.flip(3)
        exemplar = self.exemplars[self.steps % len(self.exemplars)]
        hosts = exemplar.hosts(images, self.where, 100_003 * self.seed + self.steps, self.vary)
        target = self.target[members].to(self.classifier.device)
        with torch.enable_grad():
            both = self.classifier.normalize(torch.cat([hosts.changed, images]))
            predicted = logits_of(self.network.model, both, len(self.classifier.classes)).float().log_softmax(dim=1)
            with_mark, without_mark = predicted.split(len(members))
            loss = kl_div(with_mark, target, reduction="batchmean", log_target=True)
            loss = loss + CLEAN_WEIGHT * kl_div(without_mark, target, reduction="batchmean", log_target=True)
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def interpolated(self, weight: float) -> Classifier:
        """Return the network between the original one (0) and the one that is trained (1); each call changes it."""
        parameters = dict(self.mixed.model.named_parameters())
        for name, value in self.network.model.named_parameters():
            parameters[name].copy_(torch.lerp(self.original[name], value, weight))
        return self.mixed

    def changes(self) -> dict[str, Change]:
        """Return the changes of all weights until now, by name."""
        changes = {}
        for name, value in self.network.model.named_parameters():
            changes[name] = Change((value.detach() - self.original[name]).cpu())
        return changes
