"""Choosing an edit honestly: many trials over kept states, selection on validation images under an accuracy budget.

Images are run up to every layer once (`Kept`); a trial then costs the rest of the network only. `sweep` tries edits on
the validation images, `select` takes the best one that keeps the accuracy of clean images (section 4.2 of the paper).
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import product
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from edittools.cut import Cut, State, cut_all, prefixes
from edittools.edits import Edit, added, applied_edits
from edittools.exemplars import Exemplar
from edittools.finetuning import finetune, forward
from edittools.images import LabelledImages
from edittools.metrics import Comparison, errors
from edittools.models import Classifier, unwrapped
from edittools.moments import RankError, SecondMoment
from edittools.rewriting import rewrite

BUDGET = 0.25
"""Points of accuracy that a selected edit may cost on clean images (section 4.2)."""


class Kept:
    """Labelled images kept as their states at several layers, so that an edit is evaluated from its layer on.

    Edits that are applied to the model meanwhile are part of the states. When others are applied later, only layers
    before them can still be evaluated; beyond, `ValueError` is raised.
    """

    def __init__(
        self, cuts: Mapping[str, Cut], data: LabelledImages, batch_size: int = 64, progress: bool = False
    ) -> None:
        """Run all images once; `cuts` come from one `cut_all`, in the network's order."""
        if not cuts:
            raise ValueError("images kept at no layer: expected at least one cut, see prepare")
        self.cuts, self.labels = cuts, data.labels
        self._applied = self._applied_now()
        self.states: dict[str, list[State]] = {layer: [] for layer in cuts}
        total = -(-len(data) // batch_size)
        for images, _ in tqdm(
            data.batches(batch_size), "states", total, unit="batch", disable=not progress, leave=False
        ):
            for layer, state in zip(cuts, prefixes(list(cuts.values()), images), strict=True):
                self.states[layer].append(state)
        self._outputs: dict[str, tuple[int, list[Tensor]]] = {}
        self._fitting: set[str] = set()
        self.original = self.logits()
        self.before = errors(self.original, self.labels)

    def subset(self, chosen: Tensor, batch_size: int = 64) -> "Kept":
        """Keep the images at `chosen` (integers `(n,)`, or one boolean each), in that order; nothing is run again."""
        part = copy.copy(self)
        chosen = torch.arange(len(self.labels))[chosen]
        part.labels, part.original, part.before = self.labels[chosen], self.original[chosen], self.before[chosen]
        part.states = {layer: _pick(states, chosen, batch_size) for layer, states in self.states.items()}
        part._outputs = {}
        return part

    def fragile_first(self) -> "Kept":
        """Order the images by how nearly they are misread, so that `accuracy_change` is soon sure of a costly edit."""
        own = self.original.gather(1, self.labels[:, None])[:, 0]
        best = self.original.scatter(1, self.labels[:, None], float("-inf")).max(dim=1).values
        return self.subset((own - best).argsort(stable=True))

    def batches(self, layer: str, size: int = 16) -> list[tuple[State, Tensor]]:
        """Give the states at a layer with the original log-probabilities: what `finetune` takes as a reference."""
        states = _pick(self.states[layer], torch.arange(len(self.labels)), size)
        parts = self.original.log_softmax(dim=1).to(self.cuts[layer].classifier.device).split(size)
        return list(zip(states, parts, strict=True))

    def logits(self, edit: Edit | None = None) -> Tensor:
        """Give the logits `(N, classes)` with `edit` applied, from the first layer that it changes on.

        For an edit of one layer's weight, that layer's unedited output is kept as well, and only what the edit adds to
        it is computed; whether the edit fits the model is then checked once for all edits of one fingerprint.
        """
        return torch.cat(list(self._parts(edit)))

    def _applied_now(self) -> tuple[Edit, ...]:
        return applied_edits(next(iter(self.cuts.values())).model)

    def _check_states(self, start: str) -> None:
        """Refuse states at a layer before which the model is no longer the same."""
        others = set(self._applied_now()) ^ set(self._applied)
        order = [name for name, _ in unwrapped(self.cuts[start].model).named_modules()] if others else []
        for edit, layer in [(other, layer) for other in others for layer in other.layers]:
            if order.index(layer) < order.index(start):
                raise ValueError(
                    f"the images were kept at {start!r} before {edit} was applied or undone, which changes {layer!r}: "
                    "keep them again"
                )

    @torch.no_grad()
    def _parts(self, edit: Edit | None) -> Iterator[Tensor]:
        """Give the logits batch by batch."""
        layers = list(self.cuts)
        if edit is None:
            self._check_states(layers[-1])
            yield from (self.cuts[layers[-1]].suffix(state).cpu() for state in self.states[layers[-1]])
            return
        start = next((layer for layer in layers if layer in edit.layers), None)
        if start is None:
            raise KeyError(f"{edit} changes none of the layers kept here: {', '.join(layers)}")
        self._check_states(start)
        cut, change = self.cuts[start], edit.changes.get(f"{start}.weight")
        if edit.fingerprint not in self._fitting:
            edit.check_fits(cut.classifier)
            self._fitting.add(edit.fingerprint)
        if change is None or len(edit.changes) > 1:
            parameters = {n: (p := cut.model.get_parameter(n)) + c.delta().to(p) for n, c in edit.changes.items()}
            yield from (forward(cut, state, parameters).cpu() for state in self.states[start])
            return
        pairs = zip(self.states[start], self._unedited(start), strict=True)
        yield from (cut.logits(s, output + added(cut, cut.keys(s), change)).cpu() for s, output in pairs)

    def _unedited(self, layer: str) -> list[Tensor]:
        """What the layer makes of the kept keys with the weight that it has now."""
        version, cut = self.cuts[layer].weight._version, self.cuts[layer]
        if self._outputs.get(layer, (None,))[0] != version:
            self._outputs[layer] = version, [cut.output(state) for state in self.states[layer]]
        return self._outputs[layer][1]

    def compare(self, edit: Edit) -> Comparison:
        """Give which images are misclassified before and after an edit."""
        return Comparison(self.before, errors(self.logits(edit), self.labels))

    def accuracy_change(self, edit: Edit, at_least: float = float("-inf")) -> float:
        """Give an edit's accuracy change in points; NaN as soon as it is sure to be below `at_least`."""
        gained, mendable, start = 0, int(self.before.sum()), 0
        with closing(self._parts(edit)) as parts:
            for logits in parts:
                here = slice(start, start := start + len(logits))
                wrong = int(self.before[here].sum())
                gained += wrong - int(errors(logits, self.labels[here]).sum())
                mendable -= wrong
                if 100 * (gained + mendable) / len(self.labels) < at_least:
                    return float("nan")
        return 100 * gained / max(len(self.labels), 1)


def _pick(states: Sequence[State], chosen: Tensor, batch_size: int) -> list[State]:
    """Take the images at `chosen` out of a sequence of batches; what is no tensor is the same for all."""
    whole = [torch.cat(p) if isinstance(p[0], Tensor) else p[0] for p in zip(*(s.alive for s in states), strict=True)]
    return [
        State(tuple(part[some.to(part.device)] if isinstance(part, Tensor) else part for part in whole))
        for some in chosen.split(batch_size)
    ]


def grid(**choices: Sequence[Any]) -> list[dict[str, Any]]:
    """Give every combination of the named choices, such as `grid(rank=(1, 3), masked=(True, False))`."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def rewriting_trials(
    cuts: Mapping[str, Cut],
    exemplars: Mapping[str, Exemplar | Sequence[Exemplar]],
    moments: Mapping[str, SecondMoment],
    settings: Sequence[Mapping[str, Any]],
    strengths: Sequence[float] = (0.5, 1.0),
) -> Iterator[tuple[dict[str, Any], Edit]]:
    """Make an edit for each layer, exemplar, setting of `rewrite` and strength α, with a description of each.

    Ranks above what the keys at a small mask span are left out.
    """
    for layer, name, setting in product(cuts, exemplars, settings):
        try:
            edit = rewrite(cuts[layer].classifier, cuts[layer], exemplars[name], moments[layer], **setting)
        except RankError:
            continue
        yield from at_strengths([({"layer": layer, "exemplar": name, **setting}, edit)], strengths)


def finetuning_trials(
    cuts: Mapping[str, Cut],
    exemplars: Mapping[str, Exemplar | Sequence[Exemplar]],
    settings: Sequence[Mapping[str, Any]],
    reference: LabelledImages | Kept | None = None,
) -> Iterator[tuple[dict[str, Any], Edit]]:
    """Fine-tune for each layer, exemplar and setting of `finetune`, with a description of each.

    `reference` images for the locality term may come as `Kept`; then they are not run up to the layer again.
    """
    for layer, name, setting in product(cuts, exemplars, settings):
        near = reference.batches(layer) if isinstance(reference, Kept) else reference
        edit = finetune(cuts[layer].classifier, cuts[layer], exemplars[name], reference=near, **setting)
        yield {"layer": layer, "exemplar": name, **setting}, edit


def at_strengths(
    trials: Iterable[tuple[dict[str, Any], Edit]], strengths: Sequence[float]
) -> Iterator[tuple[dict[str, Any], Edit]]:
    """Give each trial at several strengths α: α times what it changes."""
    for description, edit in trials:
        for strength in strengths:
            yield {**description, "strength": strength}, strength * edit


def sweep(
    trials: Iterable[tuple[dict[str, Any], Edit]], validation: Kept, total: int | None = None, progress: bool = False
) -> pd.DataFrame:
    """Try each edit on the validation images.

    One row a trial: its description, `corrected`, `broken`, `net` (corrected − broken), `loss` (mean cross-entropy) and
    the `edit` itself.
    """
    rows = []
    for description, edit in tqdm(trials, "trials", total, unit="trial", disable=not progress, leave=False):
        logits = validation.logits(edit)
        found = Comparison(validation.before, errors(logits, validation.labels))
        loss = float(F.cross_entropy(logits, validation.labels))
        counts = {"corrected": found.corrected, "broken": found.broken, "net": found.corrected - found.broken}
        rows.append({**description, **counts, "loss": loss if loss == loss else float("inf"), "edit": edit})
    return pd.DataFrame(rows)


def select(table: pd.DataFrame, clean: Kept, budget: float = BUDGET) -> pd.Series:
    """Take the trial of lowest validation loss that corrects more than it breaks and costs at most `budget` points.

    The loss ranks, not the count of corrections: among few validation images many trials have the same count, and the
    most fortunate of hundreds is not the best. The row comes back with its `accuracy_change` in points on `clean`. When
    no trial with a net gain keeps the budget, it is the edit that changes nothing (`edit` scaled by 0), so that a
    method that cannot help is reported as such.
    """
    return select_each(table, clean, [budget])[budget]


def select_each(table: pd.DataFrame, clean: Kept, budgets: Sequence[float]) -> dict[float, pd.Series]:
    """Select as `select` does under each of several budgets; each trial is run on `clean` at most once."""
    if table.empty:
        raise ValueError("a table with no trial: expected at least one row, see sweep")
    ranked, found = table.sort_values("loss", kind="stable"), {}
    for _, row in ranked[ranked.net > 0].iterrows():
        missing = [budget for budget in budgets if budget not in found]
        if not missing:
            break
        change = clean.accuracy_change(row.edit, -max(missing))
        for budget in budgets:
            if budget not in found and change >= -budget:
                found[budget] = pd.concat([row, pd.Series({"accuracy_change": change})])
    nothing = {"strength": 0.0, "corrected": 0, "broken": 0, "net": 0, "accuracy_change": 0.0}
    nothing = pd.Series({"edit": 0 * ranked.edit.iloc[0], **nothing})
    idle = pd.concat([ranked.iloc[0].drop(labels=list(nothing.index), errors="ignore"), nothing])
    return {budget: found.get(budget, idle) for budget in budgets}


def add_layer(first: Edit, table: pd.DataFrame, validation: Kept, clean: Kept, among: int = 40) -> pd.Series:
    """Compose two edits: add to `first` the trial of `table`, in another layer, that helps most on top of it.

    The `among` best trials of other layers are tried, and `first` alone, whose row has the layer ""; selection is as in
    `select`.
    """
    others = table[~table.layer.isin(first.layers) & (table.net > 0)].sort_values("loss").head(among)
    found = others.columns.intersection(["corrected", "broken", "net", "loss", "edit"])
    trials = [(row.drop(found).to_dict(), first + row.edit) for _, row in others.iterrows()]
    return select(sweep([({"layer": ""}, first), *trials], validation), clean)


def random_direction(edit: Edit, solve: Callable[[Tensor], Edit], seeds: Sequence[int]) -> list[Edit]:
    """Make the control edits of a rank-limited edit of one layer: solved in the same way along random directions."""
    [change] = edit.changes.values()
    found = []
    for seed in seeds:
        found.append(solve(random_basis(*change.right.shape, seed).to(change.right)))
    return found


def random_basis(rank: int, width: int, seed: int) -> Tensor:
    """Draw orthonormal rows `(rank, width)`."""
    noise = torch.randn((rank, width), generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(noise.T).Q.T


def prepare(classifier: Classifier, layers: Sequence[str], progress: bool = False, **data: LabelledImages) -> tuple:
    """Cut a classifier at `layers` and keep each named set of images at them: `(cuts, {name: Kept})`."""
    cuts = cut_all(classifier, layers)
    return cuts, {name: Kept(cuts, images, progress=progress) for name, images in data.items()}


def strength_curve(edit: Edit, strengths: Sequence[float], target: Kept, clean: Kept) -> pd.DataFrame:
    """Follow an edit from α = 0 up: errors corrected on `target` and accuracy change on `clean`, by strength."""
    rows = {}
    for strength in strengths:
        scaled = strength * edit
        rows[strength] = {
            "errors corrected": target.compare(scaled).row()["errors corrected"],
            "accuracy change (points)": clean.compare(scaled).row()["accuracy change (points)"],
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("strength")


def report(edits: Mapping[str, Edit | Sequence[Edit]], kept: Mapping[str, Kept]) -> pd.DataFrame:
    """Tabulate methods against each other: one row a method, evaluated on every set of images in `kept`.

    `kept["test"]` gives the errors before and after, corrected, broken, errors corrected (eq. 2) and McNemar's p; of
    every other set the columns are its `… before` and `… after` errors and its accuracy change in points (`… change`).
    A sequence of edits (controls over several seeds) gives the mean of its rows.
    """
    rows = {}
    for name, edit in edits.items():
        several = [edit] if isinstance(edit, Edit) else list(edit)
        rows[name] = pd.DataFrame([_report_one(one, kept) for one in several]).mean()
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _report_one(edit: Edit, kept: Mapping[str, Kept]) -> dict[str, float]:
    row = kept["test"].compare(edit).row()
    row.pop("accuracy change (points)")
    for name, other in kept.items():
        if name != "test":
            found = other.compare(edit).row()
            row |= {f"{name} before": found["errors before"], f"{name} after": found["errors after"]}
            row |= {f"{name} change": found["accuracy change (points)"]}
    return row
