"""Select an edit among candidates: every layer, exemplar, setting and strength, under the same constraints.

    search = EditSearch(classifier, exemplars, splits, progress=True)
    best = search.select(search.candidates("rewrite", grid(rank=(1, 3), objective=("least_squares",))))
    control = search.select(search.candidates("random_direction", grid(rank=(1, 3), objective=("least_squares",))))
    search.evaluate({"edit": best.edit, "random direction": control.edit})

Candidates are scored on the target images. The one of lowest cross-entropy that corrects more than it breaks and
satisfies the `Constraints` is selected. The test splits are used by `evaluate` only.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, product
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from edittools._checks import one_of
from edittools.baselines import BASELINES, OF_THE_HEAD, find_head, finetune, rewrite_at_random
from edittools.classifiers import Classifier, check_classifier
from edittools.cut import Cut, editable_layers
from edittools.edits import Edit
from edittools.exemplars import Exemplar, exemplars_at
from edittools.images import stratified
from edittools.metrics import Comparison, misclassified
from edittools.moments import RankError
from edittools.rewriting import rewrite
from edittools.selection.activations import CachedActivations, SplitActivations
from edittools.selection.constraints import ConstraintCheck, Constraints
from edittools.selection.splits import Splits

Candidate = tuple[dict[str, Any], Edit]
"""The parameters of an edit, by name, and the edit."""

Exemplars = Mapping[str, Exemplar | Sequence[Exemplar]]
"""By name, one exemplar, or several that go into one edit."""

REFERENCE_WEIGHTS = (0.0, 10.0, 30.0, 100.0)
"""Values of `reference_weight` of `rewrite` to try."""

METHODS: dict[str, tuple[Callable[..., Edit | list[Edit]], Sequence[Mapping[str, Any]], Sequence[float]]] = {
    "rewrite": (rewrite, ({},), (0.5, 1.0)),
    "random_direction": (rewrite_at_random, ({},), (0.5, 1.0)),
    "finetune": (finetune, ({},), (1.0,)),
}
METHODS |= {name: (method, settings, (0.5, 1.0)) for name, (method, settings) in BASELINES.items()}
"""The methods by name: the function, and the settings and strengths that are tried by default."""

SCORES = ("corrected", "broken", "net", "loss", "edit", "losses", "wrong")
"""Columns of a table of results that are not parameters."""


def candidate_layers(classifier: Classifier) -> tuple[str, ...]:
    """Name the layers in which a rule is sought, from first to last: the convolutions, as in the paper.

    For a model that has more linear layers on tokens or maps than convolutions, such as a transformer, these are the
    linear layers.
    """
    table = editable_layers(classifier)
    convolutions = table[table.in_paper]
    on_tokens = table[~table.in_paper & (table["keys"].map(len) > 1)]
    if len(on_tokens) > len(convolutions):
        return tuple(on_tokens.layer)
    return tuple(convolutions.layer) if len(convolutions) else tuple(table.layer)


def later_layers(classifier: Classifier, most: int = 10) -> list[str]:
    """Name at most `most` of the later half of the candidate layers, evenly spaced, the last one included."""
    names = candidate_layers(classifier)
    later = list(names[len(names) // 2 :])
    step = max(1, -(-len(later) // most))
    return later[::-step][::-1]


def grid(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """Combine values in every way, such as `grid(rank=(1, 3), masked=(True, False))`, in the order given."""
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]


def named_exemplars(exemplars: Exemplar | Sequence[Exemplar] | Exemplars) -> dict[str, Exemplar | Sequence[Exemplar]]:
    """Name exemplars "exemplar 1" and so on, unless they have names.

    Raises:
        ValueError: if a sequence holds no exemplar.
    """
    if isinstance(exemplars, Mapping):
        return dict(exemplars)
    sequence = [exemplars] if isinstance(exemplars, Exemplar) else list(exemplars)
    if not sequence:
        raise ValueError("No exemplar was given; pass at least one, Exemplar(image, changed, mask)")
    return {f"exemplar {number}": exemplar for number, exemplar in enumerate(sequence, start=1)}


@dataclass(frozen=True)
class Candidates(Iterable[Candidate]):
    """The edits of one method in each layer, from each exemplar, with each setting, at each strength.

    Each iteration makes the edits again, one by one. Several `steps` in a setting are one run. The length is an upper
    bound: a rank that exceeds the number of independent keys at a small mask gives no candidate.

    Args:
        method: `method(classifier, layer, exemplars, reference, **setting) -> Edit`, such as `rewrite` or a baseline.
        cuts: the cut at each layer.
        exemplars: by name, one exemplar, or several that go into one edit.
        reference: by layer, what `method` takes as reference.
        settings: keyword arguments of `method`.
        strengths: factors α by which each edit is scaled.
    """

    method: Callable[..., Edit | list[Edit]]
    cuts: Mapping[str, Cut]
    exemplars: Exemplars
    reference: Mapping[str, Any]
    settings: Sequence[Mapping[str, Any]]
    strengths: Sequence[float] = (0.5, 1.0)

    def __len__(self) -> int:
        edits = sum(len(_settings_of_run(setting)) for setting in self.settings)
        return len(self.cuts) * len(self.exemplars) * edits * len(self.strengths)

    def __iter__(self) -> Iterator[Candidate]:
        for (layer, cut), name in product(self.cuts.items(), self.exemplars):
            states = exemplars_at(cut.classifier, cut, self.exemplars[name])  # run up to the layer once
            for setting in self.settings:
                try:
                    made = self.method(cut.classifier, cut, states, self.reference[layer], **setting)
                except RankError:
                    continue
                edits = made if isinstance(made, list) else [made]
                for values, edit in zip(_settings_of_run(setting), edits, strict=True):
                    for strength in self.strengths:
                        params = {"layer": layer, "exemplar": name, **values, "strength": strength}
                        yield params, strength * edit


def _settings_of_run(setting: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the settings of each edit that a run gives: one for each number of `steps`."""
    steps = setting.get("steps")
    if isinstance(steps, Sequence):
        return [{**setting, "steps": stop} for stop in steps]
    return [dict(setting)]


@dataclass(frozen=True, eq=False)
class Selection:
    """The candidate that was selected.

    Attributes:
        edit: the edit. If no candidate is feasible, it changes nothing.
        params: its parameters: layer, exemplar, settings and strength. Empty if no candidate is feasible.
        scores: what it does to the target images: `corrected`, `broken` and `loss` (mean cross-entropy).
        clean: comparison of the clean images before and after the edit.
        retain: comparison of the retained images; None if there are none.
        results: one row per candidate, see `EditSearch.score`.
        n_candidates: number of candidates.
        seconds: time that scoring and selection took.
        wrong: which target images are misclassified with the edit, `(N,)` booleans; None if no candidate is feasible.
        held_out: by cross-validation, comparison of each target image before and after the edit that was selected
            without it.
        folds: by cross-validation, the selection without each fold.
        fold: by cross-validation, the index in `folds` of each target image's fold, `(N,)`.
    """

    edit: Edit
    params: Mapping[str, Any]
    scores: Mapping[str, float]
    clean: Comparison = field(repr=False)
    retain: Comparison | None = field(repr=False)
    results: pd.DataFrame = field(repr=False)
    n_candidates: int
    seconds: float = float("nan")
    wrong: Tensor | None = field(default=None, repr=False)
    held_out: Comparison | None = field(default=None, repr=False)
    folds: "tuple[Selection, ...]" = field(default=(), repr=False)
    fold: Tensor | None = field(default=None, repr=False)

    @property
    def feasible(self) -> bool:
        """Whether a candidate corrects more than it breaks and satisfies the constraints."""
        return bool(self.params)

    @property
    def on_boundary(self) -> tuple[str, ...]:
        """The parameters whose value is the least or the largest that was tried, so that more values may be better.

        A value of 0 and rank 1 do not count, since there is nothing below them.
        """
        names = []
        for name in self.results.columns.intersection(list(self.params), sort=False):
            value = self.params[name]
            tried = pd.to_numeric(self.results[name], errors="coerce").dropna()
            is_outermost = tried.nunique() > 1 and value in (tried.min(), tried.max())
            if is_outermost and value and (name, value) != ("rank", 1) and name != "masked":
                names.append(name)
        return tuple(names)

    @property
    def accuracy_change(self) -> float:
        """The change of accuracy on the clean images, in points."""
        return self.clean.accuracy_change

    def __str__(self) -> str:
        if not self.feasible:
            return "nothing"
        text = describe_params(self.params)
        return f"{text} (boundary of the grid: {', '.join(self.on_boundary)})" if self.on_boundary else text


def describe_params(params: Mapping[str, Any]) -> str:
    """Describe the parameters of an edit in words, names first."""
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
    callback: Callable[[int, int | None], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Score candidates on the target images, one by one.

    Args:
        candidates: parameters and edits.
        target: the target images.
        bar: name of a progress bar; empty for none.
        callback: is called with the number of candidates done and their total (None if unknown), before each one.

    Yields:
        The parameters, the `edit`, and for each image its cross-entropy (`losses`) and whether it is misclassified
        (`wrong`).
    """
    total = len(candidates) if hasattr(candidates, "__len__") else None
    progress = tqdm(candidates, bar, total, unit="candidate", disable=not bar, leave=False)
    for done, (params, edit) in enumerate(progress):
        if callback is not None:
            callback(done, total)
        logits = target.logits(edit, checked=done > 0)
        losses = F.cross_entropy(logits, target.labels, reduction="none").nan_to_num(nan=float("inf"))
        yield {**params, "edit": edit, "losses": losses, "wrong": misclassified(logits, target.labels)}


def tabulate(
    rows: Iterable[Mapping[str, Any]] | pd.DataFrame, before: Tensor, images: Tensor | slice = slice(None)
) -> pd.DataFrame:
    """Count what candidates do to the target images, or to some of them.

    Args:
        rows: what `score_each` yields, or a table of it.
        before: which target images are misclassified without an edit, `(N,)` booleans.
        images: which of them count, `(N,)` booleans.

    Returns:
        A table with one row per candidate, see `EditSearch.score`. Parameters keep their types, such as None among
        numbers; a parameter that a candidate does not have is NaN.
    """
    table = pd.DataFrame(rows, dtype=object)
    if table.empty:
        return table
    errors_before = int(before[images].sum())
    corrected = [int((before & ~wrong)[images].sum()) for wrong in table.wrong]
    net = [errors_before - int(wrong[images].sum()) for wrong in table.wrong]
    broken = [fixed - gain for fixed, gain in zip(corrected, net, strict=True)]
    loss = [float(losses[images].double().mean()) for losses in table.losses]
    return table.assign(corrected=corrected, broken=broken, net=net, loss=loss)


def select_best(table: pd.DataFrame, check: ConstraintCheck, constraints: Constraints) -> Selection:
    """Select the candidate of lowest loss that corrects more than it breaks and satisfies the constraints.

    Candidates are ranked by their loss, not by the number of corrections: many share the latter, and the luckiest of
    hundreds is not the best.

    Args:
        table: one row per candidate, see `tabulate`.
        check: measures the constraints.
        constraints: the constraints.

    Raises:
        ValueError: if there is no candidate.
    """
    if table.empty:
        raise ValueError(
            "No candidates: the grid or the strengths are empty, or every rank exceeds the number of independent keys "
            "at the mask; pass settings, strengths and lower ranks"
        )
    order = table.sort_values("loss", kind="stable")
    check.check_model()  # once, not for each edit
    for _, row in order[order.net > 0].iterrows():
        measured = check.measure(row.edit, constraints, checked=True)
        if measured is None:
            continue
        clean, retain = measured
        tried = row.drop(row.index.intersection(SCORES)).to_dict()
        params = {name: value for name, value in tried.items() if value == value}  # NaN: of another candidate
        scores = row[["corrected", "broken", "loss"]].to_dict()
        return Selection(row.edit, params, scores, clean, retain, table, len(table), wrong=row.wrong)
    clean, retain = check.unedited()
    scores = {"corrected": 0, "broken": 0, "loss": float("nan")}
    return Selection(0 * order.edit.iloc[0], {}, scores, clean, retain, table, len(table))


def stratified_folds(labels: Tensor, count: int = 5) -> Tensor:
    """Divide images into folds of equal size at random, class by class: the number of each image's fold, `(N,)`."""
    folds = torch.full((len(labels),), -1)
    count = min(count, len(labels))
    for number in range(count - 1):
        left = (folds < 0).nonzero()[:, 0]
        is_next = stratified(labels[left], 1 / (count - number), seed=0)
        folds[left[is_next]] = number
    return torch.where(folds < 0, count - 1, folds)


def cross_validate(select: Callable[[Tensor | slice], Selection], before: Tensor, folds: Tensor) -> Selection:
    """Select on all target images; and for each fold, select on the other images and evaluate on the fold.

    Args:
        select: selects on some of the target images, `(N,)` booleans.
        before: which target images are misclassified without an edit, `(N,)` booleans.
        folds: the number of each image's fold, `(N,)`.

    Returns:
        The selection on all images, with `held_out`, `folds` and `fold`. Where no candidate is feasible without a fold,
        the images of the fold are as before.
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
    """Search for the edit of a classifier that corrects the most, under constraints; the same way for every method.

    Attributes:
        classifier: the classifier.
        exemplars: the exemplars, by name.
        splits: the image sets.
        constraints: what a selected edit may cost.
        activations: the labeled splits by name, cached at the layers, with `cuts` and `reference`.
    """

    def __init__(
        self,
        classifier: Classifier,
        exemplars: Exemplar | Sequence[Exemplar] | Exemplars,
        splits: Splits,
        layers: Sequence[str] | None = None,
        constraints: Constraints = Constraints(),  # noqa: B008
        progress: bool = False,
        activations: SplitActivations | None = None,
    ) -> None:
        """Check that the splits are disjoint, and run each image up to all layers once.

        Args:
            classifier: the classifier; it is not changed.
            exemplars: one or several, each tried alone.
            splits: the image sets.
            layers: names of the layers to edit, in the network's order; by default at most ten of the later half, see
                `later_layers`.
            constraints: what a selected edit may cost.
            progress: show progress bars.
            activations: those of another search at the same layers; what they hold of the same sets is not run again.

        Raises:
            ValueError: if two splits share an image, or `activations` are of another classifier or of other layers.
        """
        self.classifier = check_classifier(classifier)
        self.exemplars = named_exemplars(exemplars)
        self.splits = splits
        self.constraints = constraints
        self.progress = progress
        splits.check_disjoint(_single(self.exemplars))
        layers = tuple(later_layers(classifier) if layers is None else layers)
        self.activations = SplitActivations(classifier, layers, splits, progress, activations)
        self.cuts = self.activations.cuts
        self._check = ConstraintCheck(self.activations["clean"], self.activations.get("retain"))

    def candidates(
        self,
        method: str | Callable[..., Edit | list[Edit]] = "rewrite",
        grid: Sequence[Mapping[str, Any]] | None = None,
        strengths: Sequence[float] | None = None,
        exemplars: Exemplar | Sequence[Exemplar] | Exemplars | None = None,
        layers: Sequence[str] | None = None,
    ) -> Candidates:
        """Combine layers, exemplars, settings and strengths of a method.

        Args:
            method: a name of `METHODS`, or a function that is called like these.
            grid: settings of the method, see `grid`; by default those of `METHODS`.
            strengths: factors α by which each edit is scaled; by default those of `METHODS`.
            exemplars: by default those of the search. Values that are sequences go into one edit.
            layers: some of the layers of the search; by default all.

        Returns:
            The candidates. They are none if the method changes the last layer and there is no linear one. Settings of
            full rank are left out for "random_direction".

        Raises:
            KeyError: for an unknown method.
            ValueError: if a split has an image of one of the `exemplars`.
        """
        function, settings, usual_strengths = (method, ({},), (0.5, 1.0))
        if isinstance(method, str):
            function, settings, usual_strengths = METHODS[one_of(method, METHODS, "method", KeyError)]
        if grid is not None:
            settings = grid
        if function is rewrite_at_random:
            settings = [setting for setting in settings if setting.get("rank", 1) is not None]
        cuts = {layer: self.cuts[layer] for layer in (self.cuts if layers is None else layers)}
        of_the_head = isinstance(method, str) and method in OF_THE_HEAD
        if of_the_head:  # it changes the head, whichever layer it is given
            last_layer, last_cut = list(cuts.items())[-1]
            cuts = {}
            with suppress(ValueError):
                find_head(self.classifier)
                cuts = {last_layer: last_cut}
        reference = self.activations.reference.moments
        if of_the_head or any(setting.get("locality") for setting in settings):
            reference = {layer: self.activations.reference.batches(layer) for layer in cuts}
        named = self.exemplars
        if exemplars is not None:
            named = named_exemplars(exemplars)
            self.splits.check_disjoint(_single(named))
        return Candidates(
            function, cuts, named, reference, settings, usual_strengths if strengths is None else strengths
        )

    def score(self, candidates: Iterable[Candidate]) -> pd.DataFrame:
        """Score candidates on the target images.

        Args:
            candidates: see `candidates`; or pairs of parameters and an edit.

        Returns:
            One row per candidate: its parameters; `corrected`, `broken` and `net` (corrected − broken) images; `loss`
            (mean cross-entropy); the `edit`; and for each image its cross-entropy (`losses`) and whether it is
            misclassified (`wrong`).
        """
        target = self.activations["target"]
        return tabulate(score_each(candidates, target, "candidates" if self.progress else ""), target.before)

    def select(
        self,
        candidates: Iterable[Candidate] | pd.DataFrame,
        cv: int | Tensor | None = None,
        constraints: Constraints | None = None,
    ) -> Selection:
        """Select the best candidate, see `select_best`.

        Args:
            candidates: see `candidates`; a table of `score` is not scored again.
            cv: number of folds for cross-validation, or the number of each target image's fold, `(N,)`.
            constraints: by default those of the search.

        Raises:
            ValueError: if there is no candidate.
        """
        started = time.perf_counter()
        constraints = self.constraints if constraints is None else constraints
        table = candidates if isinstance(candidates, pd.DataFrame) else self.score(candidates)
        target = self.activations["target"]

        def select_on(images: Tensor | slice) -> Selection:
            return select_best(tabulate(table, target.before, images), self._check, constraints)

        if cv is None:
            selection = select_best(table, self._check, constraints)
        else:
            folds = stratified_folds(target.labels, cv) if isinstance(cv, int) else cv
            selection = cross_validate(select_on, target.before, folds)
        return replace(selection, seconds=time.perf_counter() - started)

    def is_feasible(self, edit: Edit) -> bool:
        """Return whether an edit satisfies the constraints of this search."""
        return self._check.measure(edit, self.constraints) is not None

    def evaluate(self, edits: Mapping[str, Edit]) -> pd.DataFrame:
        """Evaluate edits on all splits.

        Args:
            edits: the edits by name.

        Returns:
            One row per edit. Of "target_test", if it is there, the figures of `Comparison.row` and the interval of
            errors corrected (`low`, `high`); of every other split its errors (`... before`, `... after`) and its change
            of accuracy in points (`... change`, `... low`, `... high`).
        """
        for split in self.activations.values():
            split.check_model()
        rows = {name: _evaluation(edit, self.activations) for name, edit in edits.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    def trade_off(
        self, edits: Mapping[str, Edit], strengths: Sequence[float], target: str = "target", retain: str = "retain"
    ) -> pd.DataFrame:
        """Follow edits along their strength: what they correct, and what they break.

        Args:
            edits: the edits by name.
            strengths: factors by which each edit is scaled.
            target: name of the split to correct.
            retain: name of the split that should stay as it is.

        Returns:
            One row per `method` and `strength`: the share of `errors corrected`, and the share of images `broken`.
        """
        gains = self.activations[target]
        losses = self.activations[retain]
        gains.check_model()
        losses.check_model()
        rows = []
        for (method, edit), strength in product(edits.items(), strengths):
            scaled = strength * edit
            gained = gains.compare(scaled, checked=True)
            lost = losses.compare(scaled, checked=True)
            row = {
                "method": method,
                "strength": strength,
                "errors corrected": gained.errors_corrected,
                "broken": lost.broken / len(lost.before),
            }
            rows.append(row)
        return pd.DataFrame(rows)

    def describe_constraints(self) -> str:
        """Say how fine the constraints are on the images of this search."""
        retain = self.splits.retain
        return self.constraints.describe(len(self.splits.clean), None if retain is None else len(retain))


def _single(exemplars: Exemplars) -> list[Exemplar]:
    """List all exemplars, those that go into one edit together one by one."""
    groups = [[group] if isinstance(group, Exemplar) else group for group in exemplars.values()]
    return list(chain.from_iterable(groups))


def _evaluation(edit: Edit, splits: Mapping[str, CachedActivations]) -> dict[str, float]:
    """Evaluate an edit on all splits, whose model was checked a moment ago, see `EditSearch.evaluate`."""
    row = {}
    if "target_test" in splits:
        test = splits["target_test"].compare(edit, checked=True)
        row = test.row()
        row["low"], row["high"] = test.corrected_interval()
        row.pop("accuracy change (points)")
    for name, split in splits.items():
        if name == "target_test":
            continue
        comparison = split.compare(edit, checked=True)
        row[f"{name} before"] = int(comparison.before.sum())
        row[f"{name} after"] = int(comparison.after.sum())
        row[f"{name} change"] = comparison.accuracy_change
        row[f"{name} low"], row[f"{name} high"] = comparison.accuracy_interval()
    return row
