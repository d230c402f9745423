"""Select an edit among candidates of every layer, exemplar, setting and strength, under the same constraints.

    search = EditSearch(classifier, exemplars, splits, progress=True)
    best = search.select(search.candidates("rewrite", grid(rank=(1, 3), objective=("least_squares",))))
    control = search.select(search.candidates("random_direction", grid(rank=(1, 3), objective=("least_squares",))))
    search.evaluate({"edit": best.edit, "random direction": control.edit})

Candidates are scored on the target images. Of those that correct more than they break and satisfy the `Constraints`,
the one with the lowest cross-entropy is selected. The splits for evaluation, such as `target_test`, are used by
`evaluate` only.
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
"""Exemplars by name; a sequence of exemplars goes into one edit."""

REFERENCE_WEIGHTS = (0.0, 10.0, 30.0, 100.0)
"""Values of `reference_weight` of `rewrite` to try."""

METHODS: dict[str, tuple[Callable[..., Edit | list[Edit]], Sequence[Mapping[str, Any]], Sequence[float]]] = {
    "rewrite": (rewrite, ({},), (0.5, 1.0)),
    "random_direction": (rewrite_at_random, ({},), (0.5, 1.0)),
    "finetune": (finetune, ({},), (1.0,)),
}
METHODS |= {name: (method, settings, (0.5, 1.0)) for name, (method, settings) in BASELINES.items()}
"""The methods by name: each with its function, and the settings and the strengths that are tried by default."""

SCORES = ("corrected", "broken", "net", "loss", "edit", "losses", "wrong")
"""Columns of a table of results that are not parameters."""


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


def later_layers(classifier: Classifier, most: int = 10) -> list[str]:
    """List the names of at most `most` layers in the later half of `candidate_layers`.

    They are evenly spaced, and the last candidate layer is one of them.
    """
    names = candidate_layers(classifier)
    later = list(names[len(names) // 2 :])
    step = max(1, -(-len(later) // most))
    return later[::-step][::-1]


def grid(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """Return one dictionary of settings for each combination of values, in the order given.

    Example: `grid(rank=(1, 3), masked=(True, False))` returns four dictionaries, the first one with rank 1 and a mask.
    """
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]


def named_exemplars(exemplars: Exemplar | Sequence[Exemplar] | Exemplars) -> dict[str, Exemplar | Sequence[Exemplar]]:
    """Return exemplars by name; those without a name are called "exemplar 1", "exemplar 2" and so on.

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
    """The edits of one method: for each layer, exemplar, setting and strength.

    Each iteration makes the edits again, one by one. If a setting has several `steps`, one run makes an edit for each
    number of steps. The length is an upper bound, since a rank that exceeds the number of independent keys at a small
    mask gives no candidate.

    Args:
        method: a function `method(classifier, layer, exemplars, reference, **setting) -> Edit`, such as `rewrite` or a
            baseline.
        cuts: the cut at each layer, by the layer's name.
        exemplars: exemplars by name; a sequence of exemplars goes into one edit.
        reference: the reference that is passed to `method`, by the layer's name.
        settings: dictionaries of keyword arguments of `method`.
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
    """List the settings of each edit that a run makes: one for each number of `steps`."""
    steps = setting.get("steps")
    if isinstance(steps, Sequence):
        return [{**setting, "steps": stop} for stop in steps]
    return [dict(setting)]


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
        results: one row per candidate, see `EditSearch.score`.
        n_candidates: number of candidates.
        seconds: time that scoring and selection took, in seconds.
        wrong: which target images are misclassified with the edit, `(N,)` booleans; None if no candidate is feasible.
        held_out: comparison of each target image before and after the edit that was selected without it; None without
            cross-validation.
        folds: the selection without each fold; empty without cross-validation.
        fold: index of each target image's fold in `folds`, `(N,)`; None without cross-validation.
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
        """The parameters whose selected value is the smallest or the largest that was tried.

        Values beyond the grid may be better. The value 0 and rank 1 do not count, since there is nothing below them.
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
    callback: Callable[[int, int | None], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Score candidates on the target images, one by one.

    Args:
        candidates: pairs of the parameters of an edit and the edit.
        target: the cached target images.
        bar: name of the progress bar; empty for no progress bar.
        callback: is called before each candidate with the number of candidates done, and their total (None if it is
            unknown).

    Yields:
        One dictionary per candidate: its parameters, the `edit`, the cross-entropy of each image (`losses`, `(N,)`) and
        which images are misclassified (`wrong`, `(N,)` booleans).
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
    """Count the target images, or some of them, that each candidate corrects and breaks.

    Args:
        rows: the dictionaries that `score_each` yields, or a table of them.
        before: which target images are misclassified without an edit, `(N,)` booleans.
        images: which target images count, `(N,)` booleans; by default all.

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
    """Select the candidate with the lowest loss that corrects more than it breaks and satisfies the constraints.

    Candidates are ranked by their loss, not by the number of images that they correct: many candidates correct the same
    number, and of hundreds of candidates, the one that corrects the most may do so by chance.

    Args:
        table: one row per candidate, see `tabulate`.
        check: measures the effect of an edit on the clean and the retained images.
        constraints: the constraints.

    Returns:
        The selection. If no candidate is feasible, its edit changes nothing.

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

    Attributes:
        classifier: the classifier.
        exemplars: the exemplars, by name.
        splits: the image sets.
        constraints: what a selected edit may cost.
        progress: whether progress bars are shown.
        activations: the cached activations of the labeled splits at the layers, by the name of the split. Its
            attributes `cuts` and `reference` hold the cut at each layer and the reference keys.
        cuts: the cut at each layer, by the layer's name.
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
            exemplars: one or several. Each is tried alone; in a mapping, a sequence of exemplars goes into one edit.
            splits: the image sets.
            layers: names of the layers to edit, in the network's order; by default at most ten of the later half, see
                `later_layers`.
            constraints: what a selected edit may cost.
            progress: show progress bars.
            activations: cached activations of another search at the same layers; image sets that they already hold are
                not run through the network again.

        Raises:
            ValueError: if two splits share an image, or if `activations` are of another classifier or of other layers.
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
        """Make the candidates of a method: one edit for each layer, exemplar, setting and strength.

        Args:
            method: a name of `METHODS`, or a function with the same arguments as these methods.
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
            candidates: see `candidates`; or pairs of the parameters of an edit and the edit.

        Returns:
            One row per candidate: its parameters; the numbers of images `corrected`, `broken` and `net` (corrected −
            broken); the `loss` (mean cross-entropy); the `edit`; the cross-entropy of each image (`losses`, `(N,)`);
            and which images are misclassified (`wrong`, `(N,)` booleans).
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
            candidates: see `candidates`; or the table that `score` returned for them.
            cv: number of folds for cross-validation, or the number of each target image's fold, `(N,)`; None for no
                cross-validation.
            constraints: the constraints; by default those of the search.

        Returns:
            The selection. If no candidate is feasible, its edit changes nothing.

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
            One row per edit. If there is a split "target_test", its columns are those of `Comparison.row`, without the
            change of accuracy, and the 95% interval of the errors corrected (`low`, `high`). Each other split has
            columns with its name: its numbers of errors (`… before`, `… after`), and its change of accuracy in points
            with the 95% interval (`… change`, `… low`, `… high`).
        """
        for split in self.activations.values():
            split.check_model()
        rows = {name: _evaluation(edit, self.activations) for name, edit in edits.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    def trade_off(
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
        """Describe the constraints, and how many images of this search an edit may lose or break."""
        retain = self.splits.retain
        return self.constraints.describe(len(self.splits.clean), None if retain is None else len(retain))


def _single(exemplars: Exemplars) -> list[Exemplar]:
    """List all exemplars one by one, also those that go into one edit together."""
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
