"""Repair a classifier in one call: `print(repair(classifier, exemplar, failing, clean).summary())`.

There are three methods: the low-rank edit of `rewrite`, the closed form and the projection of the concept. The best
candidate of all three is selected, and then the best candidate of another layer on top of it, if that helps. With a
dozen failing images, the same images select and evaluate, by cross-validation: the method, the layer, the settings and
the second layer are selected without each fold, and the selected edit is evaluated on the fold. The edit that is
returned is selected on all of them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from edittools.classifiers import Classifier, check_classifier, remap_labels
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import Images, LabelledImages, LazyImages
from edittools.metrics import misclassified, predict
from edittools.rewriting import OBJECTIVES, fits, pose
from edittools.selection.constraints import Constraints
from edittools.selection.search import (
    SCORES,
    Candidates,
    EditSearch,
    Selection,
    cross_validate,
    describe_params,
    grid,
    named_exemplars,
    score_each,
    stratified_folds,
    tabulate,
)
from edittools.selection.splits import Splits, check_disjoint, label_by_prediction, split_clean, without_duplicates

SETTINGS = tuple(
    grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=(0.0, 10.0, 100.0))
)
"""Settings of `rewrite` that `repair` tries in every layer; least squares, since it takes milliseconds."""

FINETUNING = tuple(grid(scope=("local",), rate=(1e-3, 1e-2), steps=(20,)))
"""Settings of `finetune` that `repair` tries as a control."""

METHODS = ("edit", "closed form", "projection")
"""The methods that `repair` selects from, as in its table; "edit" is the low-rank edit."""

NAMES = {"edit": "low-rank edit"}
"""What a method is called in the parameters and the summary, unless as in the table."""

SECOND = "second "
"""Prefix of the parameters of a second layer."""

ON_TOP = 10
"""Number of candidates of other layers that are tried on top of the best candidate."""

FITTED = 0.5
"""An edit fits the exemplar if at most this share of the loss there is left."""

Callback = Callable[[str, int, int | None], bool | None]


class _Stopped(Exception):
    """The callback has ended the search."""


@dataclass(frozen=True, eq=False)
class RepairResult:
    """What `repair` has found.

    Attributes:
        edit: the selected edit. If no candidate is feasible, it changes nothing.
        table: one row per method. "selected" is the whole procedure; "edit" (low-rank), "closed form" and "projection"
            are each of its methods alone; the others are controls. `corrected`, `broken`, `share` with its 95% interval
            and `p` are of the `failing` images, each evaluated with an edit that was selected without it; `kept broken`
            and `accuracy change` (in points, with its interval) are of images that were not used for selection.
        selection: the selection of the whole procedure, by cross-validation.
        search: the search, with the splits and their cached activations.
        complete: whether everything was tried; False if the search was ended early.
        selections: the selection of each row of the table.
        inside_mask: share of the edit map of x' that lies inside the mask; None if no candidate is feasible.
    """

    edit: Edit
    table: pd.DataFrame
    selection: Selection = field(repr=False)
    search: EditSearch = field(repr=False)
    complete: bool = True
    selections: Mapping[str, Selection] = field(default_factory=dict, repr=False)
    inside_mask: float | None = field(default=None, repr=False)

    def summary(self) -> str:
        """Describe what was selected, what it corrects and what it costs, one sentence per line."""
        if self.selection.feasible:
            lines = [_selected(self.selection), _acts_in_mask(self), *_figures(self.table), *_alternatives(self.table)]
        else:
            number = self.selection.n_candidates
            lines = [f"None of {number} candidates helps within the constraints.", _limit(self)]
        if not self.complete:
            lines.append("The search was interrupted: this is the best of what was tried.")
        return "\n".join(lines)


def repair(
    classifier: Classifier,
    exemplars: Exemplar | Sequence[Exemplar] | Mapping[str, Exemplar],
    failing: LabelledImages,
    clean: Images,
    retain: Images | None = None,
    *,
    layers: Sequence[str] | None = None,
    settings: Sequence[Mapping[str, Any]] = SETTINGS,
    strengths: Sequence[float] = (0.5, 1.0, 1.5),
    baselines: bool = True,
    callback: Callback | None = None,
    progress: bool = True,
) -> RepairResult:
    """Find the edit that corrects the most failing images under the constraints.

    Args:
        classifier: the classifier; it is not changed.
        exemplars: one or several, each tried alone. Their labels are used by fine-tuning only, which is a control.
        failing: labeled images that show the concept; at least two, of which at least one is misclassified. Labels into
            other classes than the classifier's are mapped by name.
        clean: images whose accuracy must not drop; without labels, the current predictions serve as labels. A quarter
            of them are reference images, half of them measure the constraint, a quarter is used for evaluation.
        retain: images that must stay as they are, labeled or not. Half of them are used for evaluation.
        layers: names of the layers to edit; by default at most ten of the later half, see `later_layers`.
        settings: settings of `rewrite` to try.
        strengths: factors α by which edits are scaled.
        baselines: select controls as well: a random direction, local fine-tuning and a logit correction.
        callback: is called with the method, the number of candidates done, and their total (None if unknown), before
            each candidate; the search ends when it returns False. Ctrl-C ends it as well.
        progress: show progress bars.

    Returns:
        The result. If the search was ended early, it is the best of what was tried, and `complete` is False.

    Raises:
        TypeError: if a set is of another type.
        ValueError: if there are fewer than two failing images or three clean images, if no failing image is
            misclassified, if two sets share an image (only x of an exemplar may be a failing image), or if there is no
            candidate.
        KeyboardInterrupt: if the search was ended before the first candidate.

    Warns:
        UserWarning: if an image occurs more than once in a set; it is used once.
    """
    named = named_exemplars(exemplars)
    splits = _splits(check_classifier(classifier), named, failing, clean, retain)
    one_image = 100 / len(splits.clean)  # points; with few images, one may be lost
    constraints = Constraints(max_accuracy_drop=max(Constraints().max_accuracy_drop, one_image))
    search = EditSearch(classifier, named, splits, layers, constraints, progress)
    procedure = _Procedure(search, callback, progress)
    complete = procedure.run(_candidates(search, settings, strengths, baselines))
    selections = {name: _with_loss(one, search) for name, one in procedure.selections.items()}
    selection = selections["selected"]
    rows = {name: _row(one, search) for name, one in selections.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    inside = _inside_mask(selection, search) if selection.feasible else None
    return RepairResult(selection.edit, table, selection, search, complete, selections, inside)


# --- the images -------------------------------------------------------------------------------------------------------


def _splits(
    classifier: Classifier,
    exemplars: Mapping[str, Exemplar],
    failing: LabelledImages,
    clean: Images,
    retain: Images | None,
) -> Splits:
    """Check the sets and split them."""
    if not isinstance(failing, LabelledImages):
        raise TypeError(
            f"The failing images are a {type(failing).__name__}; pass LabelledImages(images, labels, classes)"
        )
    sets = {"failing": _labeled("failing", failing, classifier), "clean": _labeled("clean", clean, classifier)}
    if retain is not None:
        sets["retain"] = _labeled("retain", retain, classifier)
    if len(sets["failing"]) < 2:
        raise ValueError(f"{len(sets['failing'])} failing images were given; pass at least two, better a dozen")
    if len(sets["clean"]) < 3:
        raise ValueError(f"{len(sets['clean'])} clean images were given; pass at least three, better hundreds")
    if not misclassified(predict(classifier, sets["failing"]), sets["failing"].labels).any():
        raise ValueError(
            f"All {len(failing)} failing images are classified as labeled; pass images that are misclassified"
        )
    changed = torch.stack([exemplar.changed for exemplar in exemplars.values()])
    original = torch.stack([exemplar.image for exemplar in exemplars.values()])
    shown = {"exemplars": torch.cat([changed, original]), "x' of the exemplars": changed}
    pairs = [("clean", "exemplars"), ("failing", "clean"), ("failing", "x' of the exemplars")]
    if retain is not None:
        pairs += [("retain", other) for other in ("failing", "exemplars", "clean")]
    check_disjoint({**sets, **shown}, pairs)
    reference, clean_images, clean_test = split_clean(sets["clean"])
    retained = sets.get("retain") or None  # None if there are no images
    retain_test = None
    if retained is not None and len(retained) > 1:
        retained, retain_test = retained.split(0.5)
    return Splits(
        reference=reference.images,
        target=sets["failing"],
        clean=clean_images,
        retain=retained,
        clean_test=clean_test,
        retain_test=retain_test,
    )


def _labeled(name: str, images: Images, classifier: Classifier) -> LabelledImages:
    """Give a set labels into the classifier's classes, by name or by its own predictions, and each image once."""
    if isinstance(images, LabelledImages):
        return without_duplicates(name, remap_labels(name, images, classifier))
    if not isinstance(images, Tensor | LazyImages):
        raise TypeError(
            f"The {name} images are a {type(images).__name__}; pass a tensor (N, 3, H, W), LazyImages or LabelledImages"
        )
    return without_duplicates(name, label_by_prediction(images, classifier))


# --- the search -------------------------------------------------------------------------------------------------------


def _candidates(
    search: EditSearch, settings: Sequence[Mapping[str, Any]], strengths: Sequence[float], baselines: bool
) -> dict[str, Candidates]:
    """List the candidates of each method, those to select from first, then the controls."""
    candidates = {
        "edit": search.candidates("rewrite", settings, strengths),
        "closed form": search.candidates("closed_form", strengths=(1.0,)),
        "projection": search.candidates("projection"),
    }
    if baselines:
        candidates["random direction"] = search.candidates("random_direction", settings, strengths)
        if all(exemplar.label is not None for exemplar in search.exemplars.values()):
            candidates["local fine-tuning"] = search.candidates("finetune", FINETUNING, strengths)
        candidates["logit correction"] = search.candidates("logit_correction")
    return candidates


class _Procedure:
    """The selection of a method, of a candidate and of a second layer, on all failing images and without each fold."""

    def __init__(self, search: EditSearch, callback: Callback | None, progress: bool) -> None:
        self.search = search
        self.callback = callback
        self.progress = progress
        self.target = search.activations["target"]
        self.folds = stratified_folds(self.target.labels)
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.selections: dict[str, Selection] = {}
        self._sums: dict[tuple[Edit, Edit], dict[str, Any]] = {}

    def run(self, candidates: Mapping[str, Candidates]) -> bool:
        """Score the candidates of all methods, and select; return False if the search was ended early.

        Raises:
            ValueError: if there is no candidate.
            KeyboardInterrupt: if the search was ended before the first candidate.
        """
        try:
            for name in METHODS:
                self._score(name, candidates[name])
            self.selections["selected"] = self._select_of_all(with_second_layer=True)
            for name in candidates:
                if name not in METHODS:
                    self._score(name, candidates[name])
                if self.rows[name] or name == "edit":
                    self.selections[name] = self.search.select(self._table(name), cv=self.folds)
        except (KeyboardInterrupt, _Stopped) as interrupt:
            if not self.rows["edit"]:
                raise KeyboardInterrupt from interrupt
            if "selected" not in self.selections:
                self.selections["selected"] = self._select_of_all(with_second_layer=False)
            if "edit" not in self.selections:
                self.selections["edit"] = self.search.select(self._table("edit"), cv=self.folds)
            return False
        return True

    def _score(self, method: str, candidates: Candidates) -> None:
        """Score the candidates of a method, as far as the callback lets it."""
        rows: list[dict[str, Any]] = []
        self.rows[method] = rows

        def tell(done: int, total: int | None) -> None:
            self._tell(method, done, total)

        for row in score_each(candidates, self.target, method if self.progress else "", tell):
            rows.append({"method": NAMES.get(method, method), **row})

    def _tell(self, method: str, done: int, total: int | None) -> None:
        """Call the callback."""
        if self.callback is not None and self.callback(method, done, total) is False:
            raise _Stopped

    def _table(self, *methods: str) -> pd.DataFrame:
        """Tabulate the candidates of some methods."""
        rows = [row for method in methods for row in self.rows.get(method, ())]
        return tabulate(rows, self.target.before)

    def _select_of_all(self, with_second_layer: bool) -> Selection:
        """Select among all methods, and a second layer on top, by cross-validation."""
        started = time.perf_counter()
        table = self._table(*METHODS)

        def select(images: Tensor | slice) -> Selection:
            selection = self.search.select(tabulate(table, self.target.before, images))
            return self._add_layer(selection, images) if with_second_layer and selection.feasible else selection

        selection = cross_validate(select, self.target.before, self.folds)
        return replace(selection, seconds=time.perf_counter() - started)

    def _add_layer(self, first: Selection, images: Tensor | slice) -> Selection:
        """Add the best candidate of another layer to a selected one, if that lowers the loss under the constraints."""
        rows = first.results.to_dict("records")
        others = first.results[~first.results.layer.isin(first.edit.layers) & (first.results.net > 0)]
        others = others.sort_values("loss", kind="stable").head(ON_TOP)
        for done, other in enumerate(others.to_dict("records")):
            self._tell("second layer", done, len(others))
            rows.append(self._sum(first, other))
        return self.search.select(tabulate(rows, self.target.before, images))

    def _sum(self, first: Selection, other: Mapping[str, Any]) -> dict[str, Any]:
        """Score the sum of a selected edit and the edit in another row, once for each pair."""
        pair = (first.edit, other["edit"])
        if pair not in self._sums:
            params = dict(first.params)
            for name, value in other.items():
                if name not in SCORES and value == value:  # NaN: a parameter of another method
                    params[f"{SECOND}{name}"] = value
            both = other["edit"] + first.edit  # the changes of the first come first, so the edit map is of its layer
            [row] = score_each([(params, both)], self.target)
            self._sums[pair] = row
        return self._sums[pair]


def _with_loss(selection: Selection, search: EditSearch) -> Selection:
    """Let the record of a scaled edit of one layer say what loss at the exemplar is left at its strength."""
    edit = selection.edit
    if not selection.feasible or edit.record is None or edit.record.loss_after is not None:
        return selection
    if edit.record.objective not in OBJECTIVES:
        return selection
    cut = search.cuts[selection.params["layer"]]
    exemplar = search.exemplars[selection.params["exemplar"]]
    problem = pose(cut, exemplar, None, bool(selection.params.get("masked", True)))
    _, left = fits(problem, edit.record.objective, edit.changes[f"{cut.layer}.weight"].delta())
    return replace(selection, edit=replace(edit, record=replace(edit.record, loss_after=left)))


def _inside_mask(selection: Selection, search: EditSearch) -> float:
    """Compute the share of an edit map of x' that lies inside the mask."""
    exemplar = search.exemplars[selection.params["exemplar"]]
    edit_map = selection.edit.edit_map(search.classifier, exemplar.changed)
    return float((edit_map * exemplar.mask.to(edit_map)).sum() / edit_map.sum().clamp_min(1e-12))


def _row(selection: Selection, search: EditSearch) -> dict[str, Any]:
    """Tabulate what a method does to images that were not used to select its edit."""
    held_out = selection.held_out
    figures = held_out.row()
    low, high = held_out.corrected_interval()
    clean = search.activations["clean_test"].compare(selection.edit)
    accuracy_low, accuracy_high = clean.accuracy_interval()
    row = {
        "failing": figures["errors before"],
        "corrected": held_out.corrected,
        "broken": held_out.broken,
        "share": figures["errors corrected"],
        "low": low,
        "high": high,
        "p": figures["p"],
        "accuracy change": clean.accuracy_change,
        "accuracy low": accuracy_low,
        "accuracy high": accuracy_high,
    }
    if "retain_test" in search.activations:
        retain = search.activations["retain_test"].compare(selection.edit)
        row["kept"] = len(retain.before)
        row["kept broken"] = retain.broken
    row["trials"] = selection.n_candidates
    layers = [selection.params.get(name, "") for name in ("layer", f"{SECOND}layer")]
    row["layer"] = " + ".join(layer for layer in layers if layer)
    return row


# --- the summary ------------------------------------------------------------------------------------------------------


def _selected(selection: Selection) -> str:
    """Name the selected method and its parameters, and say how well the edit fits the exemplar."""
    first = {name: value for name, value in selection.params.items() if not name.startswith(SECOND)}
    second = {name.removeprefix(SECOND): value for name, value in selection.params.items() if name.startswith(SECOND)}
    text = f"Selected: {_describe_edit(first)}"
    if second:
        return f"{text}; and on top of it {_describe_edit(second)}."
    record = selection.edit.record
    if record is None or record.share_left is None:
        return f"{text}."
    fit = "It fits" if record.share_left <= FITTED else "It fits only in part"
    return f"{text}. {fit}: {1 - record.share_left:.0%} of the loss at the exemplar is gone."


def _describe_edit(params: Mapping[str, Any]) -> str:
    """Describe an edit of one layer; what was not among the settings is as `rewrite` has it."""
    method = params["method"]
    settings = dict(params)
    if method == NAMES["edit"]:
        settings = {"rank": 1, "masked": True, **params}
        settings = {name: settings[name] for name in ("layer", "exemplar", "rank", "masked", "strength")}
    settings.pop("method", None)
    return f"{method} in {describe_params(settings)}"


def _acts_in_mask(result: RepairResult) -> str:
    """Say where the edit acts in x'."""
    exemplar = result.search.exemplars[result.selection.params["exemplar"]]
    covered = float(exemplar.mask.mean())
    return (
        f"{result.inside_mask:.0%} of its edit map of x' is inside the mask, which covers {covered:.0%} of the image."
    )


def _figures(table: pd.DataFrame) -> list[str]:
    """Say what the selected edit corrects, and what it costs on images that were not used for selection."""
    row = table.loc["selected"]
    corrected = (
        f"Held out: {row.corrected} of {row.failing} misclassified images corrected, {row.broken} broken "
        f"({row.share:.0%} [{row.low:.0%}, {row.high:.0%}], p {row.p:.2g})."
    )
    if row.p > 0.05:
        corrected += " So few images cannot tell more."
    cost = (
        f"Cost: {row['accuracy change']:+.2f} points [{row['accuracy low']:+.2f}, {row['accuracy high']:+.2f}] of "
        "accuracy on clean images"
    )
    if "kept" in row:
        cost += f"; {row['kept broken']:.0f} of {row.kept:.0f} retained images broken"
    return [corrected, f"{cost}."]


def _alternatives(table: pd.DataFrame) -> list[str]:
    """Say what each method alone gives, and what the controls give."""
    lines = []
    edit = table.loc["edit"]
    lines.append(f"The low-rank edit alone, selected the same way: {edit.corrected} corrected, {edit.broken} broken.")
    controls = table.drop(index=["selected", "edit"])
    if len(controls):
        counts = ", ".join(f"{name} {row.corrected} / {row.broken}" for name, row in controls.iterrows())
        lines.append(f"Other methods, corrected / broken: {counts}.")
    return lines


def _limit(result: RepairResult) -> str:
    """Say why no candidate is feasible: the fit at the exemplar, what the images show, or the constraints."""
    table = result.selection.results
    records = [edit.record for edit in table.edit if edit.record is not None and edit.record.loss_before]
    left = min((record.share_left for record in records if record.share_left is not None), default=0)
    if left > FITTED:
        return (
            f"No edit fits the exemplar: in no layer is more than {1 - left:.0%} of the loss there gone. Try other "
            "layers, a higher rank, or a mask that covers all of the change."
        )
    most = table.net.max()
    if most <= 0:
        return (
            "No edit corrects more failing images than it breaks: what they show is not what the exemplar changes, or "
            "they are misclassified for another reason."
        )
    constraints = result.search.constraints
    wrong = int(result.selection.held_out.before.sum())
    return (
        f"Edits correct up to {most} of {wrong} misclassified images, but none costs at most "
        f"{constraints.max_accuracy_drop:g} points of accuracy and keeps the retained images. Try more clean and "
        "retained images, another exemplar, or a smaller change."
    )
