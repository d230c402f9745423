"""Fine-tune the whole network, as a user would do instead of an edit: on the same images, selected by the same rule.

Of the six folds of a search, four train the network. Rates, numbers of steps and weights of an interpolation with the
original network are selected on one of the two others and evaluated on the other one, and the reverse.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from edittools._inference import logits_of, without_autocast
from edittools._progress import Progress, bar_of
from edittools.classifiers import Classifier
from edittools.edits import Change, Edit, Record
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, pixels_of
from edittools.metrics import Comparison, misclassified, predict, predicted_classes
from edittools.selection.constraints import Constraints
from edittools.selection.evaluation import Evaluation
from edittools.selection.search import Search
from edittools.selection.splits import FOLDS

RATES = (3e-5, 1e-4, 3e-4)
"""Learning rates of AdamW."""

FURTHER_RATES = (1e-5, 1e-3)
"""The rates below and above `RATES`; one of them is tried if the selected rate is the smallest or the largest."""

CHECKPOINTS = (25, 50, 100)
"""Numbers of steps."""

WEIGHTS = (0.25, 0.5, 1.0)
"""Weights of the fine-tuned network in an interpolation with the original one."""

BATCH = 24
"""The number of clean and retained images of a step."""

CONCEPT_BATCH = 8
"""The number of images with the concept of a step."""

NO_LIMITS = Constraints(max_accuracy_drop=100.0, max_retain_broken=100.0, max_own_drop=100.0)
"""A candidate may cost anything."""

JUDGING = (FOLDS - 2, FOLDS - 1)
"""The numbers of the folds that do not train."""


@dataclass(frozen=True, eq=False)
class Finetuned:
    """A network that was fine-tuned, and how it was selected.

    Attributes:
        edit: the change of all weights; None if no candidate corrects more than it breaks within the constraints.
        settings: the selected `rate`, `steps` and `weight`; empty without a candidate.
        evaluation: what it does to the images of the two folds that did not train it, each with the candidate that was
            selected on the other fold.
        candidates: number of candidates.
        without_limits: what is selected from the same candidates if it may cost anything.
    """

    edit: Edit | None
    settings: Mapping[str, float]
    evaluation: Evaluation
    candidates: int
    without_limits: "Finetuned | None" = field(default=None, repr=False)


@dataclass(eq=False)
class _Best:
    """The best candidate by the images of some folds: its loss, its outcomes, and its settings."""

    loss: float = float("inf")
    wrong: Mapping[str, Tensor] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)


def judged_images(search: Search) -> dict[str, Tensor]:
    """Tell which images of each split are in the two folds that do not train, `(N,)` booleans by name."""
    return {name: folds >= JUDGING[0] for name, folds in search.splits.folds.items()}


def minutes_of(search: Search) -> float:
    """Estimate how many minutes `finetune_network` takes."""
    steps = len(RATES) * max(CHECKPOINTS)
    trained = 3 * steps * (BATCH + CONCEPT_BATCH)  # a backward pass takes about twice the time of a forward pass
    judged = sum(int(is_judged.sum()) for is_judged in judged_images(search).values())
    evaluated = len(RATES) * len(CHECKPOINTS) * len(WEIGHTS) * judged
    return (trained + evaluated) * search.seconds_per_image / 60


@without_autocast()
def finetune_network(
    search: Search,
    pasted: Exemplar | None = None,
    rates: Sequence[float] | None = None,
    progress: Progress | None = tqdm,
) -> Finetuned:
    """Fine-tune the whole network on images with the concept and on clean and retained images, by cross-entropy.

    Batch norm stays in eval mode, and the optimizer is AdamW. Half of the batches are flipped. Candidates are selected
    like edits: the one with the lowest cross-entropy on images with the concept, of those that correct more than they
    break and satisfy the constraints of the search.

    Args:
        search: a search whose splits have `FOLDS` folds.
        pasted: an exemplar whose mark is pasted at random places of half of the clean images, instead of training on
            images with the concept. It is not pasted on images of the class that x' is predicted as.
        rates: learning rates to try; by default `RATES`, and the one beyond if the smallest or the largest is selected.
        progress: a class like `tqdm.tqdm`, for a bar.

    Returns:
        The fine-tuned network as an edit, and its evaluation.

    Raises:
        ValueError: if the splits do not have `FOLDS` folds.
    """
    if len(search.folds) != FOLDS:
        raise ValueError(
            f"The splits have {len(search.folds)} folds; pass images with the concept of at least {FOLDS} scenes, and "
            f"splits.with_folds({FOLDS})"
        )
    judged = _JudgedImages(search)
    within_limits = _Judge(judged, search.constraints)
    without_limits = _Judge(judged, NO_LIMITS)
    tried = 0
    to_try = list(RATES if rates is None else rates)
    with bar_of(progress, total=len(to_try) * max(CHECKPOINTS), desc="fine-tuning", unit="step") as bar:
        for rate in to_try:
            for steps, network, changes in train_network(search, rate, pasted, bar):
                for weight in WEIGHTS:
                    scaled = {name: weight * change for name, change in changes.items()}
                    outcome = judged.outcome(network, scaled)
                    settings = {"rate": rate, "steps": steps, "weight": weight}
                    within_limits.consider(outcome, scaled, settings)
                    without_limits.consider(outcome, scaled, settings)
                    tried += 1
            if rates is None and rate == RATES[-1] and len(to_try) == len(RATES):
                to_try += _further_rate(within_limits.selected.settings.get("rate"))
                bar.total = len(to_try) * max(CHECKPOINTS)
    return replace(within_limits.finetuned(tried), without_limits=without_limits.finetuned(tried))


def _further_rate(selected: float | None) -> list[float]:
    """Return the rate beyond the selected one if that is the smallest or the largest; nothing otherwise."""
    if selected == RATES[0]:
        return [FURTHER_RATES[0]]
    return [FURTHER_RATES[1]] if selected == RATES[-1] else []


class _Outcome(NamedTuple):
    """What a candidate does to the judged images.

    Attributes:
        wrong: which images of each split are misclassified, `(N,)` booleans by name.
        losses: the cross-entropy of each image with the concept, `(N,)`.
    """

    wrong: Mapping[str, Tensor]
    losses: Tensor


class _JudgedImages:
    """The images of the two folds that do not train.

    Args:
        search: the search.
    """

    def __init__(self, search: Search) -> None:
        self.search = search
        self.images: dict[str, LabelledImages] = {}
        self.labels: dict[str, Tensor] = {}
        self.folds: dict[str, Tensor] = {}
        self.before: dict[str, Tensor] = {}
        for name, is_judged in judged_images(search).items():
            self.images[name] = search.splits.labeled[name].subset(is_judged)
            self.labels[name] = search.activations[name].labels[is_judged]
            self.folds[name] = search.splits.folds[name][is_judged]
            self.before[name] = search.activations[name].before[is_judged]

    def outcome(self, network: Classifier, changes: Mapping[str, Tensor]) -> _Outcome:
        """Classify the images.

        Args:
            network: a copy of the classifier, whose parameters are set.
            changes: what is added to the parameters, by their names.
        """
        originals = dict(self.search.classifier.model.named_parameters())
        with torch.no_grad():
            for name, parameter in network.model.named_parameters():
                if name in changes:
                    parameter.copy_(originals[name] + changes[name])
        wrong = {}
        for name, images in self.images.items():
            logits = predict(network, images)
            wrong[name] = misclassified(logits, self.labels[name])
            if name == "target":
                losses = F.cross_entropy(logits.double(), self.labels[name], reduction="none")
        return _Outcome(wrong, losses.nan_to_num(nan=float("inf")))


class _Judge:
    """Select among candidates on each of the two folds that do not train, and on both.

    Args:
        judged: the images of these folds.
        constraints: what a candidate may cost.
    """

    def __init__(self, judged: _JudgedImages, constraints: Constraints) -> None:
        self.judged = judged
        self.constraints = constraints
        self.best: dict[tuple[int, ...], _Best] = {(fold,): _Best() for fold in JUDGING}
        self.best[JUDGING] = _Best()
        self.edit: Edit | None = None

    @property
    def selected(self) -> _Best:
        """The best candidate by the images of both folds."""
        return self.best[JUDGING]

    def consider(self, outcome: _Outcome, changes: Mapping[str, Tensor], settings: Mapping[str, float]) -> None:
        """Compare a candidate with the best ones so far.

        Args:
            outcome: what it does to the judged images.
            changes: what it adds to the parameters, by their names.
            settings: its settings.
        """
        for folds, best in self.best.items():
            is_member = torch.isin(self.judged.folds["target"], torch.tensor(folds))
            loss = float(outcome.losses[is_member].mean())
            if loss < best.loss and self._is_feasible(outcome.wrong, folds):
                self.best[folds] = _Best(loss, outcome.wrong, dict(settings))
                if folds == JUDGING:
                    record = Record("fine-tuning", float("nan"), None, int(settings["steps"]))
                    fingerprint = next(iter(self.judged.search.cuts.values())).weights.fingerprint
                    self.edit = Edit({name: Change(change) for name, change in changes.items()}, fingerprint, record)

    def _is_feasible(self, wrong: Mapping[str, Tensor], folds: tuple[int, ...]) -> bool:
        """Return whether a candidate has a net gain and satisfies the constraints on the images of some folds."""
        accuracy = self.judged.search.accuracy_without_concept
        for name, before in self.judged.before.items():
            is_member = torch.isin(self.judged.folds[name], torch.tensor(folds))
            comparison = Comparison(before[is_member], wrong[name][is_member])
            if name == "target":
                if comparison.corrected <= comparison.broken:
                    return False
            elif name != "own_class" or accuracy is not None:
                counted = comparison.broken if name == "retain" else int(comparison.after.sum())
                most = self.constraints.most_wrong(name, comparison.before, 1.0 if accuracy is None else accuracy)
                if counted > most:
                    return False
        return True

    def finetuned(self, candidates: int) -> Finetuned:
        """Return the selected network; evaluate on each fold the candidate that was selected on the other one."""
        comparisons = {}
        for name, before in self.judged.before.items():
            after = before.clone()
            for fold, other in (JUDGING, JUDGING[::-1]):
                best = self.best[other,]
                if best.wrong:
                    in_fold = self.judged.folds[name] == fold
                    after[in_fold] = best.wrong[name][in_fold]
            comparisons[name] = Comparison(before, after)
        search = self.judged.search
        evaluation = Evaluation.of_comparisons(search, comparisons, judged_images(search))
        return Finetuned(self.edit, self.selected.settings, evaluation, candidates)


def train_network(
    search: Search, rate: float, pasted: Exemplar | None, bar: tqdm
) -> Iterator[tuple[int, Classifier, dict[str, Tensor]]]:
    """Train a copy of the classifier, as `finetune_network` does with one learning rate.

    Args:
        search: a search whose splits have folds.
        rate: the learning rate.
        pasted: see `finetune_network`.
        bar: the bar of the steps.

    Yields:
        At each of `CHECKPOINTS`: the number of steps, another copy of the classifier, and the changes of the weights by
        name.
    """
    network = copy.deepcopy(search.classifier)
    judged = copy.deepcopy(search.classifier)
    model = network.model.eval()
    originals = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.is_floating_point()}
    for parameter in trained.values():
        parameter.requires_grad_()
    optimizer = torch.optim.AdamW(trained.values(), lr=rate, weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)
    pools = _pools(search)
    for step in range(1, max(CHECKPOINTS) + 1):
        images, labels = _batch(pools, pasted, generator)
        with torch.enable_grad():
            logits = logits_of(model, network.normalize(images), len(network.classes))
            loss = F.cross_entropy(logits, labels.to(logits.device))
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        try:
            bar.update()
        except Exception as error:  # the bar of a user ends it, as Ctrl-C does
            raise KeyboardInterrupt from error
        if step in CHECKPOINTS:
            changes = {name: (parameter.detach() - originals[name]) for name, parameter in trained.items()}
            yield step, judged, changes


def _pools(search: Search) -> dict[str, list[LabelledImages]]:
    """Collect the images that train: those with the concept, the others, and of these the hosts of pasted marks.

    They are in the folds that train; reference images with labels train as well. Hosts are not of a class that x' of an
    exemplar is predicted as.
    """
    splits = search.splits
    pools: dict[str, list[LabelledImages]] = {"concept": [], "others": []}
    for name, is_judged in judged_images(search).items():
        data = splits.labeled[name].subset(~is_judged)
        labels = search.activations[name].labels[~is_judged]
        kind = "concept" if name in ("target", "own_class") else "others"
        pools[kind].append(LabelledImages(data.images, labels, search.classifier.classes))
    if isinstance(splits.reference, LabelledImages):
        pools["others"].append(splits.reference)
    own_classes = predicted_classes(search.exemplar_activations.original)
    pools["hosts"] = [data.subset(~torch.isin(data.labels, own_classes)) for data in pools["others"]]
    return pools


def _batch(
    pools: Mapping[str, Sequence[LabelledImages]], pasted: Exemplar | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a batch: clean and retained images, and images with the concept or with a mark that is pasted on them."""
    if pasted is None:
        images, labels = _draw(pools["others"], BATCH, generator)
        shown, shown_labels = _draw(pools["concept"], CONCEPT_BATCH, generator)
    else:
        images, labels = _draw(pools["others"], BATCH // 2, generator)
        hosts, shown_labels = _draw(pools["hosts"], BATCH // 2, generator)
        seed = int(torch.randint(2**31, (1,), generator=generator))
        shown = pasted.paste_on(hosts, seed=seed)
    images = torch.cat([images, shown])
    labels = torch.cat([labels, shown_labels])
    if torch.rand(1, generator=generator) < 0.5:
        images = images.flip(3)
    return images, labels


def _draw(pool: Sequence[LabelledImages], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw images of several sets without replacement, as far as there are enough."""
    sizes = [len(data) for data in pool]
    chosen = torch.randperm(sum(sizes), generator=generator)[:count]
    images = []
    labels = []
    first = 0
    for data in pool:
        places = chosen[(chosen >= first) & (chosen < first + len(data))] - first
        if len(places):
            images.append(pixels_of(data)[places])
            labels.append(data.labels[places])
        first += len(data)
    return torch.cat(images), torch.cat(labels)
