"""Select an edit among candidates of every layer, exemplar, setting and strength, under the same constraints.

    search = EditSearch(classifier, exemplars, splits, progress=True)
    best = search.select(search.candidates("rewrite", grid(rank=(1, 3), objective=("least_squares",))))
    control = search.select(search.candidates("random_direction", grid(rank=(1, 3), objective=("least_squares",))))
    search.evaluate({"edit": best.edit, "random direction": control.edit})

Candidates are scored on the target images. Of those that correct more than they break and satisfy the `Constraints`,
the one with the lowest cross-entropy is selected. The splits for evaluation, such as `target_test`, are used by
`evaluate` only.

A search in many layers takes two passes. The first one tries the default settings in each layer, for each exemplar. The
second one tries the whole grid in the best layers of the first, see `EditSearch.best_layers`. The candidates of both
can be selected. Every method gets the same two passes, unless it has so few candidates that all of them are tried
(`FEW_CANDIDATES`).
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, product
from math import inf
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from edittools._checks import one_of
from edittools._inference import refuse_inference_mode
from edittools.baselines import BASELINES, OF_THE_HEAD, finetune, rewrite_at_random
from edittools.classifiers import Classifier, check_classifier, check_size
from edittools.cut import Cut, editable_layers, find_layer
from edittools.edits import Edit
from edittools.exemplars import Exemplar, Exemplars, named_exemplars
from edittools.images import LabelledImages, pixels_of, stratified
from edittools.metrics import Comparison, misclassified
from edittools.moments import RankError
from edittools.rewriting import rewrite_at
from edittools.selection.evaluation import (
    CachedActivations,
    ConstraintCheck,
    Constraints,
    SplitActivations,
    StateMemory,
    batch_size_of_states,
    bytes_of_states,
)
from edittools.selection.label_errors import LabelError, find_label_errors
from edittools.selection.splits import Splits
from edittools.site import Site, site_at

LAYERS_THAT_GO_ON = 4
"""The number of layers in which a search tries the whole grid."""

FEW_CANDIDATES = 100
"""So few candidates are tried in all layers, in a single pass."""

MOST_WEIGHED = 30
"""The number of candidates whose cost is measured in full for `EditSearch.trade_off`."""

FEWEST_AT_ONCE = 4
"""The smallest number of images that the first pass runs up to all layers at once."""

REFERENCE_WEIGHTS = (0.0, 10.0, 30.0, 100.0)
"""Values of `reference_weight` of `rewrite` to try."""

Tell = Callable[[int, int | None], None]
"""A function that is told the number of candidates done, and their total (None if it is unknown)."""

Method = Callable[..., list[Edit]]
"""A function `method(site, **settings)` that returns a list of edits, such as `rewrite_at` or a baseline."""

METHODS: dict[str, tuple[Method, Sequence[Mapping[str, Any]], Sequence[float]]] = {
    "rewrite": (rewrite_at, ({},), (0.5, 1.0)),
    "random_direction": (rewrite_at_random, ({},), (0.5, 1.0)),
    "finetune": (finetune, ({},), (1.0,)),
}
METHODS |= {name: (method, settings, (0.5, 1.0)) for name, (method, settings) in BASELINES.items()}
"""The methods by name: each with its function, and the settings and the strengths that are tried by default."""


def candidate_layers(classifier: Classifier) -> tuple[str, ...]:
    """List the names of the layers that are worth editing, from first to last: the convolutions, as in the paper.

    If a model has more linear layers on tokens or maps than convolutions, as a transformer has, the list holds these
    linear layers instead.
    """
    table = editable_layers(classifier)
    convolutions = table[table.in_paper]
    on_tokens = table[~table.in_paper & (table["keys"].map(len) > 1)]
    if len(on_tokens) > len(convolutions):
        return tuple(on_tokens.layer)
    return tuple(convolutions.layer) if len(convolutions) else tuple(table.layer)


def check_layers(classifier: Classifier, layers: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names of the layers of a search, each once and in the network's order.

    Args:
        classifier: the classifier.
        layers: names of layers; None for `candidate_layers`.

    Raises:
        KeyError: if the model has no layer of that name.
        ValueError: if there is no layer, or if one cannot be edited.
    """
    if layers is None:
        return candidate_layers(classifier)
    names = [find_layer(classifier.model, layer) for layer in layers]
    if not names:
        raise ValueError("layers=[] names no layer to edit; pass names that editable_layers(classifier) lists")
    in_order = editable_layers(classifier).layer.tolist()
    for name in names:
        if name not in in_order:
            Cut(classifier, name)  # refuses it, with the reason
    return tuple(sorted(set(names), key=in_order.index))


def grid(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """Return one dictionary of settings for each combination of values, in the order given.

    Example: `grid(rank=(1, 3), masked=(True, False))` returns four dictionaries, the first one with rank 1 and a mask.
    """
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]


@dataclass(frozen=True, eq=False)
class Candidate:
    """An edit to try.

    Attributes:
        params: its parameters by name: layer, exemplar, settings and strength.
        edit: the edit.
        strength: factor α by which the edit is scaled.
    """

    params: Mapping[str, Any]
    edit: Edit
    strength: float = 1.0

    @cached_property
    def scaled(self) -> Edit:
        """The edit, scaled by the strength."""
        return self.strength * self.edit


@dataclass(frozen=True)
class Candidates(Iterable[Candidate]):
    """The edits of one method: for each layer, exemplar, setting and strength.

    Each iteration makes the edits again, one by one. If a setting has several `steps`, one run makes an edit for each
    number of steps. The length is an upper bound, since a rank that exceeds the number of independent keys at a small
    mask gives no candidate.

    Args:
        method: the method.
        layers: names of the layers.
        exemplars: the exemplars of each edit, by name.
        site: returns the site of a layer, by its name, and of the exemplars of one edit.
        settings: dictionaries of keyword arguments of `method`.
        strengths: factors α by which each edit is scaled.
    """

    method: Method
    layers: Sequence[str]
    exemplars: Mapping[str, Sequence[Exemplar]]
    site: Callable[[str, Sequence[Exemplar]], Site]
    settings: Sequence[Mapping[str, Any]]
    strengths: Sequence[float]

    def __len__(self) -> int:
        edits = sum(len(_settings_of_run(setting)) for setting in self.settings)
        return len(self.layers) * len(self.exemplars) * edits * len(self.strengths)

    def __iter__(self) -> Iterator[Candidate]:
        for layer, (name, members) in product(self.layers, self.exemplars.items()):
            site = self.site(layer, members)
            for setting in self.settings:
                try:
                    edits = self.method(site, **setting)
                except RankError:
                    continue
                for values, edit in zip(_settings_of_run(setting), edits, strict=True):
                    for strength in self.strengths:
                        params = {"layer": layer, "exemplar": name, **values, "strength": strength}
                        yield Candidate(params, edit, strength)

    @property
    def need_two_passes(self) -> bool:
        """Whether the candidates are so many that only some layers get the whole grid."""
        return len(self.layers) > LAYERS_THAT_GO_ON and len(self) > FEW_CANDIDATES

    @property
    def expected_count(self) -> int:
        """About how many candidates are scored, in one or two passes."""
        if not self.need_two_passes:
            return len(self)
        in_one_layer = len(self) // len(self.layers)
        return len(self.coarse()) + LAYERS_THAT_GO_ON * in_one_layer

    def coarse(self) -> "Candidates":
        """Return the candidates of a first pass: the default settings and a strength of 1, in each layer.

        Settings that have the same value in all of the grid keep it. If full rank is among the ranks of the grid, it is
        tried next to the default rank, since the two are at their best in different layers. Without a strength of 1,
        the middle one is taken.
        """
        first, *others = self.settings or [{}]
        shared = {
            name: value
            for name, value in first.items()
            if all(name in other and other[name] == value for other in others)
        }
        if isinstance(shared.get("steps"), Sequence):
            shared["steps"] = shared["steps"][0]
        strength = 1.0 if 1.0 in self.strengths else self.strengths[len(self.strengths) // 2]
        settings = [shared]
        if "rank" not in shared and any(setting.get("rank", 1) is None for setting in self.settings):
            settings.append({**shared, "rank": None})
        return replace(self, settings=settings, strengths=(strength,))


def _settings_of_run(setting: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the settings of each edit that a run makes: one for each number of `steps`."""
    steps = setting.get("steps")
    if isinstance(steps, Sequence):
        return [{**setting, "steps": stop} for stop in steps]
    return [dict(setting)]


class Outcome(NamedTuple):
    """What a candidate does to N images.

    Attributes:
        candidate: the candidate.
        losses: the cross-entropy of each image, `(N,)`.
        wrong: which images are misclassified, `(N,)` booleans.
    """

    candidate: Candidate
    losses: Tensor
    wrong: Tensor


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What K candidates do to N target images.

    Attributes:
        candidates: the candidates.
        losses: the cross-entropy of each image with each candidate, `(K, N)`.
        wrong: which images are misclassified with each candidate, `(K, N)` booleans.
        before: which images are misclassified without an edit, `(N,)` booleans.
    """

    candidates: Sequence[Candidate]
    losses: Tensor = field(repr=False)
    wrong: Tensor = field(repr=False)
    before: Tensor = field(repr=False)

    @classmethod
    def of(cls, outcomes: Iterable[Outcome], before: Tensor) -> "Outcomes":
        """Collect the outcomes of candidates; `before` is that of the attributes."""
        outcomes = list(outcomes)
        shape = (len(outcomes), len(before))
        losses = torch.stack([one.losses for one in outcomes]) if outcomes else torch.zeros(shape)
        wrong = torch.stack([one.wrong for one in outcomes]) if outcomes else torch.zeros(shape, dtype=torch.bool)
        return cls([one.candidate for one in outcomes], losses, wrong, before)

    def __len__(self) -> int:
        return len(self.candidates)

    def on_images(self, images: Tensor | slice) -> "Outcomes":
        """Return the outcomes on some of the images, which are given as `(N,)` booleans, as indices or as a slice."""
        return replace(self, losses=self.losses[:, images], wrong=self.wrong[:, images], before=self.before[images])

    def of_candidates(self, indices: Sequence[int]) -> "Outcomes":
        """Return the outcomes of some of the candidates, which are given by their indices, in that order."""
        indices = list(indices)
        candidates = [self.candidates[index] for index in indices]
        return replace(self, candidates=candidates, losses=self.losses[indices], wrong=self.wrong[indices])

    def joined(self, other: "Outcomes") -> "Outcomes":
        """Return these outcomes and those of other candidates on the same images."""
        return replace(
            self,
            candidates=[*self.candidates, *other.candidates],
            losses=torch.cat([self.losses, other.losses]),
            wrong=torch.cat([self.wrong, other.wrong]),
        )

    @cached_property
    def corrected(self) -> Tensor:
        """The number of images that each candidate corrects, `(K,)`."""
        return (self.before & ~self.wrong).sum(dim=1)

    @cached_property
    def broken(self) -> Tensor:
        """The number of images that each candidate breaks, `(K,)`."""
        return (~self.before & self.wrong).sum(dim=1)

    @cached_property
    def net(self) -> Tensor:
        """The number of images that each candidate corrects, minus the number that it breaks, `(K,)`."""
        return self.corrected - self.broken

    @cached_property
    def loss(self) -> Tensor:
        """The mean cross-entropy with each candidate, `(K,)` float64."""
        return self.losses.double().mean(dim=1)

    @property
    def by_loss(self) -> list[int]:
        """The indices of the candidates, the one with the lowest loss first."""
        return self.loss.argsort(stable=True).tolist()

    def table(self) -> pd.DataFrame:
        """Tabulate the candidates.

        Returns:
            One row per candidate: its parameters; the numbers of images `corrected`, `broken` and `net` (corrected −
            broken); and the `loss` (mean cross-entropy). Parameters keep their types, such as None among numbers; one
            that a method does not have is empty.
        """
        table = pd.DataFrame([dict(candidate.params) for candidate in self.candidates], dtype=object)
        scores = {"corrected": self.corrected, "broken": self.broken, "net": self.net, "loss": self.loss}
        return table.assign(**{name: values.numpy() for name, values in scores.items()})


class Scored(NamedTuple):
    """What the candidates of a method do to the target images, after one or two passes.

    Attributes:
        outcomes: the outcomes of the candidates, after two passes those in the layers that go on.
        first: the outcomes of the first pass, with the default settings in each layer; None after a single pass.
    """

    outcomes: Outcomes
    first: Outcomes | None = None


@dataclass(frozen=True, eq=False)
class Selection:
    """The candidate that was selected.

    Attributes:
        edit: the edit. If no candidate is feasible, it changes nothing.
        params: the parameters of the edit: layer, exemplar, settings and strength. Empty if no candidate is feasible.
        scores: the effect on the target images: the numbers `corrected` and `broken`, and the `loss` (mean
            cross-entropy).
        clean: comparison of the clean images before and after the edit.
        retain: comparison of the retained images; None if there are none.
        outcomes: what each candidate does to the target images.
        n_candidates: number of candidates.
        seconds: time that scoring and selection took, in seconds.
        wrong: which target images are misclassified with the edit, `(N,)` booleans; None if no candidate is feasible.
        held_out: comparison of each target image before and after the edit that was selected without it; None without
            cross-validation.
        folds: the selection without each fold; empty without cross-validation.
        fold: index of each target image's fold in `folds`, `(N,)`; None without cross-validation.
        first: the outcomes of the first pass, with the default settings in each layer; None after a single pass.
        going_on: the names of the layers in which the whole grid was tried; empty after a single pass.
    """

    edit: Edit
    params: Mapping[str, Any]
    scores: Mapping[str, float]
    clean: Comparison = field(repr=False)
    retain: Comparison | None = field(repr=False)
    outcomes: Outcomes = field(repr=False)
    n_candidates: int
    seconds: float = float("nan")
    wrong: Tensor | None = field(default=None, repr=False)
    held_out: Comparison | None = field(default=None, repr=False)
    folds: "tuple[Selection, ...]" = field(default=(), repr=False)
    fold: Tensor | None = field(default=None, repr=False)
    first: Outcomes | None = field(default=None, repr=False)
    going_on: Sequence[str] = ()

    @property
    def layers(self) -> pd.DataFrame:
        """The best candidate of the first pass in each layer, on the images that were used for selection.

        There is one row per layer, in the network's order, with the columns `layer`, `corrected`, `broken`, `loss` and
        `goes on`: whether the whole grid was tried there. It is empty after a single pass.
        """
        columns = ["layer", "corrected", "broken", "loss", "goes on"]
        if self.first is None:
            return pd.DataFrame(columns=columns)
        table = self.first.table()
        best = table.loc[table.groupby("layer", sort=False).loss.idxmin()]
        return best.assign(**{"goes on": best.layer.isin(self.going_on)})[columns].reset_index(drop=True)

    @property
    def feasible(self) -> bool:
        """Whether a candidate corrects more than it breaks and satisfies the constraints."""
        return bool(self.params)

    @property
    def results(self) -> pd.DataFrame:
        """One row per candidate, see `Outcomes.table`."""
        return self.outcomes.table()

    @property
    def on_boundary(self) -> tuple[str, ...]:
        """The parameters whose selected value is the smallest or the largest that was tried.

        Values beyond the grid may be better. The value 0 and rank 1 do not count, since there is nothing below them.
        """
        names = []
        for name, value in self.params.items():
            tried = {candidate.params.get(name) for candidate in self.outcomes.candidates}
            numbers = [number for number in tried if isinstance(number, int | float) and not isinstance(number, bool)]
            is_outermost = len(numbers) > 1 and value in (min(numbers), max(numbers))
            is_rank_one = name.endswith("rank") and value == 1
            if is_outermost and value and not is_rank_one:
                names.append(name)
        return tuple(names)

    @property
    def accuracy_change(self) -> float:
        """The change of accuracy on the clean images, in percentage points."""
        return self.clean.accuracy_change

    def __str__(self) -> str:
        if not self.feasible:
            return "nothing"
        text = describe_params(self.params)
        return f"{text} (boundary of the grid: {', '.join(self.on_boundary)})" if self.on_boundary else text


def describe_params(params: Mapping[str, Any]) -> str:
    """Describe the parameters of an edit in words, those with numbers last."""
    in_order = sorted(params.items(), key=lambda param: isinstance(param[1], int | float))
    words = [_describe(name, value) for name, value in in_order]
    return ", ".join(word for word in words if word)


def _describe(name: str, value: Any) -> str:
    """Describe one parameter in words."""
    if name == "masked":
        return "mask" if value else "no mask"
    if value is None:
        return f"full {name}"
    if isinstance(value, str):
        return value
    return f"α {value:g}" if name == "strength" else f"{name} {value:g}"


def score_each(
    candidates: Iterable[Candidate],
    target: CachedActivations,
    bar: str = "",
    callback: Tell | None = None,
) -> Iterator[Outcome]:
    """Score candidates on the target images, one by one.

    Args:
        candidates: the candidates.
        target: the cached target images.
        bar: name of the progress bar; empty for no progress bar.
        callback: is called before each candidate.

    Yields:
        What each candidate does to the target images.
    """
    total = len(candidates) if hasattr(candidates, "__len__") else None
    progress = tqdm(candidates, bar, total, unit="candidate", disable=not bar, leave=False)
    for done, candidate in enumerate(progress):
        if callback is not None:
            callback(done, total)
        logits = target.logits(candidate.edit, candidate.strength)
        losses = F.cross_entropy(logits, target.labels, reduction="none").nan_to_num(nan=float("inf"))
        yield Outcome(candidate, losses, misclassified(logits, target.labels))


def select_best(
    outcomes: Outcomes, check: ConstraintCheck, constraints: Constraints, images: Tensor | slice = slice(None)
) -> Selection:
    """Select the candidate with the lowest loss that corrects more than it breaks and satisfies the constraints.

    Candidates are ranked by their loss, not by the number of images that they correct: many candidates correct the same
    number, and of hundreds of candidates, the one that corrects the most may do so by chance.

    Args:
        outcomes: what the candidates do to the target images.
        check: measures the effect of an edit on the clean and the retained images.
        constraints: the constraints.
        images: which target images count, `(N,)` booleans; by default all.

    Returns:
        The selection, with the outcomes on these images. If no candidate is feasible, its edit changes nothing.

    Raises:
        ValueError: if there is no candidate.
    """
    if not len(outcomes):
        raise ValueError(
            "No candidates: the grid or the strengths are empty, or every rank exceeds the number of independent keys "
            "at the mask; pass settings, strengths and lower ranks"
        )
    counted = outcomes.on_images(images)
    order = counted.by_loss
    for index in order:
        if counted.net[index] <= 0:
            continue
        candidate = counted.candidates[index]
        measured = check.measure(candidate.edit, candidate.strength, constraints)
        if measured is None:
            continue
        clean, retain = measured
        scores = {
            "corrected": int(counted.corrected[index]),
            "broken": int(counted.broken[index]),
            "loss": float(counted.loss[index]),
        }
        wrong = outcomes.wrong[index]
        return Selection(candidate.scaled, candidate.params, scores, clean, retain, counted, len(counted), wrong=wrong)
    clean, retain = check.unedited()
    scores = {"corrected": 0, "broken": 0, "loss": float("nan")}
    nothing = 0 * counted.candidates[order[0]].edit
    return Selection(nothing, {}, scores, clean, retain, counted, len(counted))


def stratified_folds(labels: Tensor, count: int = 5) -> Tensor:
    """Divide images at random, class by class, into folds of about the same size.

    Args:
        labels: class of each image, `(N,)`.
        count: number of folds; at most one per image is made.

    Returns:
        The number of each image's fold, `(N,)`.
    """
    folds = torch.full((len(labels),), -1)
    count = min(count, len(labels))
    for number in range(count - 1):
        left = (folds < 0).nonzero()[:, 0]
        is_next = stratified(labels[left], 1 / (count - number), seed=0)
        folds[left[is_next]] = number
    return torch.where(folds < 0, count - 1, folds)


def cross_validate(select: Callable[[Tensor | slice], Selection], before: Tensor, folds: Tensor) -> Selection:
    """Select on all target images; for each fold, also select on the other images and evaluate on the fold.

    Args:
        select: a function that selects on the target images that it is passed, as `(N,)` booleans or a slice.
        before: which target images are misclassified without an edit, `(N,)` booleans.
        folds: number of each image's fold, `(N,)`.

    Returns:
        The selection on all images, with `held_out`, `folds` and `fold`. If no candidate is feasible without a fold,
        the images of that fold count as unchanged.
    """
    after = before.clone()
    selections = []
    numbers, index_of_fold = folds.unique(return_inverse=True)
    for fold in numbers.tolist():
        in_fold = folds == fold
        selection = select(~in_fold)
        selections.append(selection)
        if selection.feasible:
            after[in_fold] = selection.wrong[in_fold]
    selection = select(slice(None))
    return replace(selection, held_out=Comparison(before, after), folds=tuple(selections), fold=index_of_fold)


class EditSearch:
    """Search candidate edits for the one with the lowest loss under constraints, in the same way for every method.

    Everything is computed with a copy of the weights that the classifier has when the search is made; an edit that
    someone applies to the classifier meanwhile does not concern the search.

    Attributes:
        classifier: the classifier.
        exemplars: the exemplars of each edit that is tried, by name.
        splits: the image sets.
        constraints: what a selected edit may cost.
        progress: whether progress bars are shown.
        activations: the cached activations of the labeled splits at the layers, by the name of the split. Its
            attributes `cuts` and `reference` hold, by layer, the cut and what the reference images say.
        cuts: the cut at each layer, by the layer's name.
    """

    def __init__(
        self,
        classifier: Classifier,
        exemplars: Exemplars,
        splits: Splits,
        layers: Sequence[str] | None = None,
        constraints: Constraints = Constraints(),  # noqa: B008
        progress: bool = False,
        activations: SplitActivations | None = None,
    ) -> None:
        """Check that the splits are disjoint, and run each image once.

        Args:
            classifier: the classifier; it is not changed.
            exemplars: one or several. Each is tried alone; in a mapping, a sequence of exemplars goes into one edit.
            splits: the image sets.
            layers: names of the layers to edit; by default all of `candidate_layers`.
            constraints: what a selected edit may cost.
            progress: show progress bars.
            activations: cached activations of another search at the same layers; image sets that they already hold are
                not run through the network again.

        Raises:
            KeyError: if the model has no layer of that name.
            RuntimeError: under `torch.inference_mode()`.
            ValueError: if images do not have the size of the classifier's input, if the label of an exemplar is not a
                class index, if two splits share an image, or if `activations` are of another classifier or of other
                layers.
        """
        refuse_inference_mode()
        self.classifier = check_classifier(classifier)
        self.exemplars = named_exemplars(exemplars, classifier)
        for name, images in {"reference": splits.reference, **splits.labeled}.items():
            check_size(name, images, classifier)
        layers = check_layers(classifier, layers)
        self.splits = splits
        self.constraints = constraints
        self.progress = progress
        splits.check_disjoint(chain.from_iterable(self.exemplars.values()))
        kept = layers if len(layers) <= LAYERS_THAT_GO_ON else ()
        self.activations = SplitActivations(classifier, layers, splits, progress, activations, kept)
        self.cuts = self.activations.cuts
        self._check = ConstraintCheck(self.activations["clean"], self.activations.get("retain"))
        self._sites: dict[tuple, Site] = {}

    @cached_property
    def label_errors(self) -> tuple[LabelError, ...]:
        """Clean and retained images whose labels are likely wrong, see `find_label_errors`.

        Raises:
            ModuleNotFoundError: if cleanlab is not installed.
        """
        return find_label_errors(self.activations, self.splits.labeled, self.classifier.classes)

    @property
    def exemplar_members(self) -> list[tuple[str, Exemplar]]:
        """The exemplars one by one, each with its name; several may go into one edit under one name."""
        return [(name, exemplar) for name, group in self.exemplars.items() for exemplar in group]

    @cached_property
    def exemplar_activations(self) -> CachedActivations:
        """x' of the exemplars, in the order of `exemplar_members`, labeled by what x is predicted as."""
        exemplars = [exemplar for _, exemplar in self.exemplar_members]
        original = torch.stack([exemplar.image for exemplar in exemplars])
        changed = torch.stack([exemplar.changed for exemplar in exemplars])
        classes = self.classifier.classes
        nothing_kept = StateMemory(0, ())  # states are computed again for the one edit that is compared
        unlabeled = LabelledImages.unlabeled(original, classes)
        labels = CachedActivations(self.cuts, unlabeled, memory=nothing_kept).original.argmax(dim=1)
        return CachedActivations(self.cuts, LabelledImages(changed, labels, classes), memory=nothing_kept)

    def site(self, layer: str, exemplars: Sequence[Exemplar]) -> Site:
        """Return the site of a layer and of the exemplars of one edit; they are run up to the layer once."""
        key = (layer, *map(id, exemplars))
        if key not in self._sites:
            self._sites[key] = site_at(self.cuts[layer], exemplars, self.activations.reference[layer])
        return self._sites[key]

    def candidates(
        self,
        method: str | Method = "rewrite",
        grid: Sequence[Mapping[str, Any]] | None = None,
        strengths: Sequence[float] | None = None,
        exemplars: Exemplars | None = None,
        layers: Sequence[str] | None = None,
    ) -> Candidates:
        """Make the candidates of a method: one edit for each layer, exemplar, setting and strength.

        Args:
            method: a name of `METHODS`, or a function `method(site, **settings)` that returns a list of edits.
            grid: settings of the method, see `grid`; by default those in `METHODS`.
            strengths: factors α by which each edit is scaled; by default those in `METHODS`.
            exemplars: the exemplars; by default those of the search. In a mapping, a sequence of exemplars goes into
                one edit.
            layers: names of some of the search's layers; by default all of them.

        Returns:
            The candidates, which are made during iteration. For "random_direction", settings of full rank are left out.
            For a method that changes the last layer, there are none if that layer is not linear.

        Raises:
            KeyError: if there is no method or layer of that name.
            ValueError: if a split holds an image of one of the `exemplars`; x may be a target image.
        """
        function, settings, usual_strengths = (method, ({},), (0.5, 1.0))
        if isinstance(method, str):
            function, settings, usual_strengths = METHODS[one_of(method, METHODS, "method", KeyError)]
        if grid is not None:
            settings = grid
        if function is rewrite_at_random:
            settings = [setting for setting in settings if setting.get("rank", 1) is not None]
        layers = list(self.cuts) if layers is None else list(layers)
        for layer in layers:
            one_of(layer, self.cuts, "layer", KeyError)
        if method in OF_THE_HEAD:  # it changes the head, whichever layer it is given
            last = layers[-1]
            try:
                self.cuts[last].head  # noqa: B018
            except ValueError:
                layers = []
            else:
                layers = [last]
        named = self.exemplars
        if exemplars is not None:
            named = named_exemplars(exemplars, self.classifier)
            self.splits.check_disjoint(chain.from_iterable(named.values()))
        strengths = usual_strengths if strengths is None else strengths
        return Candidates(function, layers, named, self.site, settings, strengths)

    def score(self, candidates: Iterable[Candidate]) -> Outcomes:
        """Score candidates on the target images, in one pass.

        Args:
            candidates: see `candidates`.
        """
        target = self.activations["target"]
        return Outcomes.of(score_each(candidates, target, "candidates" if self.progress else ""), target.before)

    def first_pass(self, candidates: Candidates, callback: Tell | None = None) -> Outcomes | None:
        """Score the default settings in each layer on the target images, see `Candidates.coarse`.

        The images are run in small groups: up to all layers at once, and from each layer on with its candidates. So
        the states of few images, and their outputs at one layer, are in memory at a time.

        Args:
            candidates: see `candidates`.
            callback: see `score_each`.

        Returns:
            The outcomes; None if a single pass is enough.
        """
        if not candidates.need_two_passes:
            return None
        tried = list(candidates.coarse())
        cuts = {layer: self.cuts[layer] for layer in candidates.layers}
        target = self.splits.target
        most_bytes = self.activations.memory.limit / 2
        size = int(most_bytes / bytes_of_states(cuts, pixels_of(target)[:1]))
        size = min(max(size, FEWEST_AT_ONCE), batch_size_of_states(self.classifier))
        groups = torch.arange(len(target)).split(size)
        total = len(groups) * len(tried)
        losses = []
        wrong = []
        with tqdm(total=total, desc="layers", unit="candidate", disable=not self.progress, leave=False) as bar:
            for group in groups:
                part = CachedActivations(cuts, target.subset(group), len(group), memory=StateMemory(inf, cuts))
                outcomes = []
                for outcome in score_each(tried, part):
                    if callback is not None:
                        callback(int(bar.n), total)
                    outcomes.append(outcome)
                    bar.update()
                scored = Outcomes.of(outcomes, part.before)
                losses.append(scored.losses)
                wrong.append(scored.wrong)
        return Outcomes(tried, torch.cat(losses, dim=1), torch.cat(wrong, dim=1), self.activations["target"].before)

    def best_layers(self, first: Outcomes, images: Tensor | slice = slice(None)) -> list[str]:
        """List the layers that go on after the first pass, `LAYERS_THAT_GO_ON` of them.

        One half are the layers with the lowest loss. The other half are the next ones in which a candidate corrects
        more than it breaks and satisfies the constraints. If these are too few, others follow by their loss.

        Args:
            first: the outcomes of the first pass.
            images: which target images count, `(N,)` booleans; by default all.
        """
        counted = first.on_images(images)
        by_loss = [(index, counted.candidates[index]) for index in counted.by_loss]
        layers = list(dict.fromkeys(candidate.params["layer"] for _, candidate in by_loss))
        going_on = layers[: LAYERS_THAT_GO_ON // 2]
        for index, candidate in by_loss:
            layer = candidate.params["layer"]
            if len(going_on) == LAYERS_THAT_GO_ON:
                break
            if layer in going_on or counted.net[index] <= 0:
                continue
            if self.is_feasible(candidate.edit, candidate.strength):
                going_on.append(layer)
        others = [layer for layer in layers if layer not in going_on]
        return going_on + others[: LAYERS_THAT_GO_ON - len(going_on)]

    def finalists(self, scored: Scored, images: Tensor | slice = slice(None)) -> Outcomes:
        """Return the outcomes to select from: those in the layers that go on, and those of the first pass.

        The layers are selected on the given images only, so nothing that is selected on these depends on the others.

        Args:
            scored: the outcomes of the candidates of a method.
            images: which target images count, `(N,)` booleans; by default all.
        """
        if scored.first is None:
            return scored.outcomes
        layers = self.best_layers(scored.first, images)
        layer_of_each = [candidate.params["layer"] for candidate in scored.outcomes.candidates]
        indices = [index for index, layer in enumerate(layer_of_each) if layer in layers]
        return scored.outcomes.of_candidates(indices).joined(scored.first)

    def second_pass(self, candidates: Candidates, first: Outcomes | None, folds: Tensor | None = None) -> Candidates:
        """Restrict candidates to the layers that go on, and keep the states there in memory.

        Args:
            candidates: see `candidates`.
            first: what `first_pass` returned for them.
            folds: number of each target image's fold, `(N,)`. The layers that go on without one fold are among those
                of the candidates, for each fold.

        Returns:
            The candidates.
        """
        if first is not None:
            sets: list[Tensor | slice] = [slice(None)]
            if folds is not None:
                sets += [folds != fold for fold in folds.unique()]
            self.keep_states(self.cuts)
            going_on = {layer for images in sets for layer in self.best_layers(first, images)}
            candidates = replace(candidates, layers=[layer for layer in candidates.layers if layer in going_on])
        self.keep_states(candidates.layers)
        return candidates

    def keep_states(self, layers: Collection[str]) -> None:
        """Keep the states of all splits at some layers in memory; those at other layers leave when there is no room.

        If the search has only a few layers (`LAYERS_THAT_GO_ON`), the states at all of them are kept in any case.
        """
        if len(self.cuts) > LAYERS_THAT_GO_ON:
            self.activations.memory.keep([layer for layer in self.cuts if layer in layers])

    def score_in_passes(self, candidates: Iterable[Candidate] | Outcomes, folds: Tensor | None = None) -> Scored:
        """Score candidates on the target images, in two passes if they need these.

        Args:
            candidates: see `candidates`; or the outcomes that `score` returned for them.
            folds: see `second_pass`.
        """
        if isinstance(candidates, Outcomes):
            return Scored(candidates)
        if not isinstance(candidates, Candidates):
            return Scored(self.score(candidates))
        first = self.first_pass(candidates)
        return Scored(self.score(self.second_pass(candidates, first, folds)), first)

    def select(
        self,
        candidates: Iterable[Candidate] | Outcomes,
        cv: int | Tensor | None = None,
        constraints: Constraints | None = None,
    ) -> Selection:
        """Select the best candidate, see `select_best`.

        Many candidates in many layers are tried in two passes, see `Candidates.need_two_passes`.

        Args:
            candidates: see `candidates`; or the outcomes that `score` returned for them.
            cv: number of folds for cross-validation, or the number of each target image's fold, `(N,)`; None for no
                cross-validation.
            constraints: the constraints; by default those of the search.

        Returns:
            The selection. If no candidate is feasible, its edit changes nothing.

        Raises:
            ValueError: if there is no candidate.
        """
        started = time.perf_counter()
        target = self.activations["target"]
        folds = stratified_folds(target.labels, cv) if isinstance(cv, int) else cv
        scored = self.score_in_passes(candidates, folds)

        def select_on(images: Tensor | slice) -> Selection:
            return self.select_on(scored, images, constraints)

        selection = select_on(slice(None)) if folds is None else cross_validate(select_on, target.before, folds)
        return replace(selection, seconds=time.perf_counter() - started)

    def select_on(
        self, scored: Scored | Outcomes, images: Tensor | slice, constraints: Constraints | None = None
    ) -> Selection:
        """Select the best candidate on some of the target images, `(N,)` booleans or a slice; see `select_best`.

        Args:
            scored: the outcomes of the candidates on all target images.
            images: which target images count.
            constraints: the constraints; by default those of the search.
        """
        if isinstance(scored, Outcomes):
            scored = Scored(scored)
        selection = select_best(self.finalists(scored, images), self._check, constraints or self.constraints, images)
        return self.with_first_pass(selection, scored.first, images)

    def with_first_pass(self, selection: Selection, first: Outcomes | None, images: Tensor | slice) -> Selection:
        """Add the results of the first pass on the same images to a selection, if there was a first pass."""
        if first is None:
            return selection
        return replace(selection, first=first.on_images(images), going_on=self.best_layers(first, images))

    def is_feasible(self, edit: Edit, strength: float = 1.0) -> bool:
        """Return whether an edit, scaled by a strength, satisfies the constraints of this search."""
        return self._check.measure(edit, strength, self.constraints) is not None

    def evaluate(self, edits: Mapping[str, Edit]) -> pd.DataFrame:
        """Evaluate edits on all splits.

        Args:
            edits: the edits by name.

        Returns:
            One row per edit. If there is a split "target_test", its columns are those of `Comparison.row`, without the
            change of accuracy, and the 95% interval of the errors corrected (`low`, `high`). Each other split has
            columns with its name: its numbers of errors (`… before`, `… after`), and its change of accuracy in points
            with the 95% interval (`… change`, `… low`, `… high`).
        """
        rows = {name: _evaluation(edit, self.activations) for name, edit in edits.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    def by_strength(
        self, edits: Mapping[str, Edit], strengths: Sequence[float], target: str = "target", retain: str = "retain"
    ) -> pd.DataFrame:
        """Tabulate how many errors edits correct, and how many images they break, at several strengths.

        Args:
            edits: the edits by name.
            strengths: factors by which each edit is scaled.
            target: name of the split whose errors should be corrected.
            retain: name of the split whose correct predictions should not change.

        Returns:
            One row per `method` and `strength`: the share of `errors corrected` (eq. 2) in `target`, and the share of
            the images in `retain` that are `broken`.
        """
        rows = []
        for method, edit in edits.items():
            gains = [self.activations[target].compare(edit, strength) for strength in strengths]
            losses = [self.activations[retain].compare(edit, strength) for strength in strengths]
            for strength, gained, lost in zip(strengths, gains, losses, strict=True):
                row = {
                    "method": method,
                    "strength": strength,
                    "errors corrected": gained.errors_corrected,
                    "broken": lost.broken / len(lost.before),
                }
                rows.append(row)
        return pd.DataFrame(rows)

    def trade_off(self, outcomes: Outcomes, most: int = MOST_WEIGHED) -> pd.DataFrame:
        """Tabulate the candidates that no other one beats in what they correct, and in what they cost.

        The candidates with the lowest loss that correct more than they break are compared on all clean and retained
        images, and if none of them is feasible, so is the first one after them that is. All of these images are used
        for selection, so the figures are too optimistic.

        Args:
            outcomes: what the candidates do to the target images.
            most: the number of candidates with the lowest loss that are compared.

        Returns:
            One row per candidate, the one that corrects the most first, with the columns `candidate` (its parameters in
            words), `corrected`, `broken`, `accuracy change` (points, on clean images), `retained broken` (number of
            images; 0 without retained images) and `feasible` (whether it satisfies the constraints). No other row has a
            higher `corrected` − `broken`, no lower accuracy and no more broken retained images at once.
        """
        rows = []
        for index in outcomes.by_loss:
            candidate = outcomes.candidates[index]
            is_weighed = len(rows) < most or not any(row["feasible"] for row in rows)
            if outcomes.net[index] <= 0 or not is_weighed:
                continue
            is_feasible = self.is_feasible(candidate.edit, candidate.strength)
            if len(rows) >= most and not is_feasible:
                continue
            clean = self.activations["clean"].compare(candidate.edit, candidate.strength)
            retained_broken = 0
            if "retain" in self.activations:
                retained_broken = self.activations["retain"].compare(candidate.edit, candidate.strength).broken
            row = {
                "candidate": describe_params(candidate.params),
                "corrected": int(outcomes.corrected[index]),
                "broken": int(outcomes.broken[index]),
                "accuracy change": clean.accuracy_change,
                "retained broken": retained_broken,
                "feasible": is_feasible,
            }
            rows.append(row)
        columns = ["candidate", "corrected", "broken", "accuracy change", "retained broken", "feasible"]
        table = pd.DataFrame(rows, columns=columns)
        gains = [table.corrected - table.broken, table["accuracy change"], -table["retained broken"]]
        is_beaten = _is_dominated(np.stack([gain.to_numpy(dtype=float) for gain in gains], axis=1))
        kept = table[~is_beaten].drop_duplicates(columns[1:])
        order = (kept.broken - kept.corrected).sort_values(kind="stable").index
        return kept.loc[order].reset_index(drop=True)

    def describe_constraints(self) -> str:
        """Describe the constraints, and how many images of this search an edit may lose or break."""
        retain = self.splits.retain
        return self.constraints.describe(len(self.splits.clean), None if retain is None else len(retain))


def _is_dominated(gains: np.ndarray) -> np.ndarray:
    """Tell which rows of gains `(K, n)` another row surpasses in one column, and reaches in all, `(K,)` booleans."""
    reaches = (gains[None] >= gains[:, None]).all(axis=2)
    surpasses = (gains[None] > gains[:, None]).any(axis=2)
    return (reaches & surpasses).any(axis=1)


def _evaluation(edit: Edit, splits: Mapping[str, CachedActivations]) -> dict[str, float]:
    """Evaluate an edit on all splits, see `EditSearch.evaluate`."""
    row = {}
    if "target_test" in splits:
        test = splits["target_test"].compare(edit)
        row = test.row()
        row["low"], row["high"] = test.corrected_interval()
        row.pop("accuracy change (points)")
    for name, split in splits.items():
        if name == "target_test":
            continue
        comparison = split.compare(edit)
        row[f"{name} before"] = int(comparison.before.sum())
        row[f"{name} after"] = int(comparison.after.sum())
        row[f"{name} change"] = comparison.accuracy_change
        row[f"{name} low"], row[f"{name} high"] = comparison.accuracy_interval()
    return row
