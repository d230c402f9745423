"""What an assessment says: its sentences in a summary, the page of its report, and the data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import PurePath
from pprint import pformat
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from edittools._caching import digest_tensors
from edittools.cut import Cut
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, in_batches
from edittools.methods import EDIT
from edittools.metrics import misclassified, predicted_classes, state_of
from edittools.reports import (
    Bar,
    Card,
    Figure,
    LayerBar,
    Page,
    Point,
    TradeOff,
    data_uri,
    package_versions,
    plain,
    render_layers,
    shade,
)
from edittools.selection.checks import LIMITS, used_exemplars
from edittools.selection.outcomes import describe_params
from edittools.selection.search import SECOND_LAYER, Search, Selection
from edittools.selection.splits import RETAINED

if TYPE_CHECKING:
    from edittools.selection.assessment import Assessment

MOST_CARDS = 60
"""The largest number of images with the concept that a report shows."""

MOST_COSTS = 12
"""The largest number of clean images, and of retained images, that a report shows."""

MOST_MAPS = 6
"""The largest number of images whose edit maps a report shows, the exemplar's included."""


def make_page(assessment: "Assessment", title: str = "") -> Page:
    """Collect the content of a report.

    Args:
        assessment: the assessment.
        title: the heading of the page.

    Returns:
        The content, to be written by `save_page` or `render`.
    """
    search = assessment.search
    selection = assessment.selection
    verdict = assessment.verdict
    table = assessment.table
    shown = _shown_images(search, selection)
    text = describe_selection(selection) if selection.feasible else "no edit"
    maps, note = _maps(search, selection, shown)
    costs, costs_note = _costs(search, selection)
    held_out = "each with an edit that was selected without it"
    if "target_test" in search.activations:
        held_out = "none of which was used to select the edit"
    elif not selection.held_out:
        held_out = "on which the edit was selected, so these figures are too optimistic"
    return Page(
        title=title or f"An edit of {type(search.classifier.model).__name__}",
        subtitle=f"{search.classifier}: {text}.",
        word=verdict.word,
        reason=verdict.reason,
        advice=verdict.advice,
        lines=list(verdict.lines.items()) if selection.feasible else [],
        checks=verdict.checks,
        exemplars=_exemplars(search, selection),
        maps=maps,
        map_note=note,
        cards=shown.cards(),
        cards_note=f"{min(len(shown.data), MOST_CARDS)} of {len(shown.data)} images, {held_out}.",
        costs=costs,
        costs_note=costs_note,
        corrected_bars=_corrected_bars(table),
        accuracy_bars=_accuracy_bars(table),
        layers=_layer_bars(selection),
        trade_off=_trade_off(search, selection, assessment.trade_off),
        table_head=("method", *_COLUMNS),
        table=_rows(table),
        settings=_settings(search, selection),
        versions=[*package_versions().items(), *_fingerprint_pairs(assessment.fingerprints)],
        code=_code(search, selection),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def make_data(assessment: "Assessment", title: str = "") -> dict[str, Any]:
    """Collect what a report says for programs, in types that JSON has; what was not measured is None.

    Args:
        assessment: the assessment.
        title: the heading of the page.
    """
    search = assessment.search
    selection = assessment.selection
    verdict = assessment.verdict
    checks = []
    for check in verdict.checks:
        names = ("name", "status", "figure", "advice", "at_best", "line")
        checks.append({name: getattr(check, name) for name in names})
    data = {
        "title": title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": str(search.classifier),
        "verdict": {"word": verdict.word, "reason": verdict.reason, "advice": verdict.advice, **verdict.lines},
        "checks": checks,
        "feasible": selection.feasible,
        "selected": selection.params,
        "candidates": selection.n_candidates,
        "methods": assessment.table.reset_index().to_dict("records"),
        "settings": arguments_of_repair(search) if search.splits.folds else None,
        "limits": asdict(LIMITS),
        "constraints": asdict(search.constraints),
        "versions": package_versions(),
        "fingerprints": assessment.fingerprints,
        "complete": assessment.complete,
    }
    return plain(data)


# --- sentences --------------------------------------------------------------------------------------------------------


def describe_selection(selection: Selection) -> str:
    """Name the selected method and its parameters."""
    first = {name: value for name, value in selection.params.items() if not name.startswith(SECOND_LAYER)}
    second = {
        name.removeprefix(SECOND_LAYER): value
        for name, value in selection.params.items()
        if name.startswith(SECOND_LAYER)
    }
    text = describe_edit(first)
    return f"{text}; and on top of it {describe_edit(second)}" if second else text


def describe_edit(params: Mapping[str, Any]) -> str:
    """Describe an edit of one layer; what was not among the settings is as `rewrite` has it."""
    method = params.get("method", EDIT)
    settings = dict(params)
    if method == EDIT:
        settings = {"rank": 1, "masked": True, **params}
        names = ("layer", "exemplar", "rank", "masked", "strength")
        settings = {name: settings[name] for name in names if name in settings}
    settings.pop("method", None)
    return f"{method} in {describe_params(settings)}"


def describe_map(inside_mask: float, covered: float) -> str:
    """Say where the edit acts in x'."""
    return f"{inside_mask:.0%} of its edit map of x' is inside the mask, which covers {covered:.0%} of the image."


# --- images -----------------------------------------------------------------------------------------------------------


class _Shown:
    """Images with their logits before and after an edit."""

    def __init__(self, data: LabelledImages, before: Tensor, after: Tensor) -> None:
        self.data = data
        self.probabilities = before.float().softmax(dim=1)
        self.edited_probabilities = after.float().softmax(dim=1)
        self.before = predicted_classes(before)
        self.after = predicted_classes(after)

    @property
    def change(self) -> Tensor:
        """The change of the probability of each image's label, `(N,)`."""
        column = self.data.labels[:, None]
        return (self.edited_probabilities.gather(1, column) - self.probabilities.gather(1, column))[:, 0]

    def cards(self, indices: Sequence[int] | None = None) -> list[Card]:
        """Make a card of each image at `indices`; by default of the images whose probabilities change most.

        The image whose label gains the most probability comes first.
        """
        if indices is None:
            indices = self.change.abs().argsort(descending=True, stable=True)[:MOST_CARDS].tolist()
        in_order = sorted(indices, key=lambda index: -float(self.change[index]))
        return [self._card(index) for index in in_order]

    def _card(self, index: int) -> Card:
        label = int(self.data.labels[index])
        before = int(self.before[index])
        after = int(self.after[index])
        classes = (*self.data.classes, "not a number")  # of logits that hold NaN, whose class is -1
        return Card(
            source=data_uri(self.data.images[index]),
            label=classes[label],
            before=classes[before],
            after=classes[after],
            state=state_of(before == label, after == label),
            probability=float(self.probabilities[index, label]),
            edited_probability=float(self.edited_probabilities[index, label]),
            name=PurePath(self.data.names[index]).name if self.data.names else "",
        )


def _shown_images(search: Search, selection: Selection) -> _Shown:
    """Compute the logits of the images with the concept before and after the edit."""
    name = "target_test" if "target_test" in search.activations else "target"
    data = _relabeled(search.splits.labeled[name], search.activations[name].labels, search)
    return _Shown(data, search.activations[name].original, _held_out_logits(search, selection, name))


def _held_out_logits(search: Search, selection: Selection, name: str) -> Tensor:
    """Compute the logits of a split with the edit; by cross-validation, with the edit that was selected without it."""
    activations = search.activations[name]
    folds = search.splits.folds.get(name)
    if folds is None or not selection.held_out:
        return activations.logits(selection.edit)
    after = activations.original.clone()
    for fold, of_fold in zip(search.folds, selection.fold_selections, strict=True):
        if of_fold.feasible:
            after[folds == fold] = activations.logits(of_fold.edit)[folds == fold]
    return after


def _relabeled(data: LabelledImages, labels: Tensor, search: Search) -> LabelledImages:
    """Give images their labels into the classifier's classes."""
    return LabelledImages(data.images, labels, search.classifier.classes, data.names)


def _costs(search: Search, selection: Selection) -> tuple[list[Card], str]:
    """Show the images that the edit breaks, of those that it may cost and that were not used to select it."""
    cards = []
    counts = []
    suffix = "_test" if "target_test" in search.activations else ""
    kinds = (("clean", "clean"), ("retain", "retained"), ("own_class", "own-class"))
    for split, what in kinds:
        name = f"{split}{suffix}"
        if name not in search.activations or not (suffix or selection.held_out):
            continue
        activations = search.activations[name]
        after = _held_out_logits(search, selection, name)
        is_broken = ~activations.before & misclassified(after, activations.labels)
        broken = is_broken.nonzero()[:MOST_COSTS, 0]
        counts.append(f"{int(is_broken.sum())} of {len(is_broken):,} {what} images")
        if len(broken):
            data = _relabeled(search.splits.labeled[name], activations.labels, search).subset(broken)
            part = _Shown(data, activations.original[broken], after[broken])
            cards += part.cards(range(len(broken)))
    if not counts:
        return [], ""
    note = f"The edit breaks {', '.join(counts)} that were not used to select it."
    return cards, f"{note} Shown are at most {MOST_COSTS} of each." if cards else note


def _exemplars(search: Search, selection: Selection) -> list[Figure]:
    """Show x, x' and the mask of the exemplars that the edit was made from, at most three of them."""
    classes = search.classifier.classes
    members = search.exemplar_members
    cached = search.exemplar_activations
    changed = cached.original.argmax(dim=1)
    is_reliable = ~cached.compare(selection.edit).after
    figures = []
    for index in used_exemplars(search, selection)[:3]:
        _, exemplar = members[index]
        back = ""
        if selection.feasible:
            back = f", with the edit {'as x' if is_reliable[index] else 'not as x'}"
        figures.append(Figure(data_uri(exemplar.image, 320), f"x: predicted as {classes[cached.labels[index]]}"))
        caption = f"x': predicted as {classes[changed[index]]}{back}"
        figures.append(Figure(data_uri(exemplar.changed, 320), caption))
        mask = exemplar.mask.float()
        marked = exemplar.changed * (0.35 + 0.65 * mask)
        figures.append(Figure(data_uri(marked, 320), f"the mask, {float(mask.mean()):.0%} of the image"))
    return figures


def has_map(selection: Selection) -> bool:
    """Tell whether an edit map can be made: the edit was made from an exemplar, and changes the weight of a layer."""
    return "exemplar" in selection.params and any(name.endswith(".weight") for name in selection.edit.changes)


def share_inside_mask(search: Search, selection: Selection) -> float | None:
    """Compute the share of the edit map of x' that lies inside the mask; None if the edit has no map.

    Of several exemplars that went into one edit, the first counts.
    """
    if not has_map(selection):
        return None
    exemplar = first_exemplar(search, selection)
    [edit_map] = _maps_of(search, selection.edit, exemplar.changed[None])
    return _share_inside(edit_map, exemplar.mask)


def _share_inside(edit_map: Tensor, mask: Tensor) -> float:
    """Compute the share of an edit map `(H, W)` that lies inside a mask `(H, W)`."""
    return float((edit_map * mask.to(edit_map)).sum() / edit_map.sum().clamp_min(1e-12))


def _maps_of(search: Search, edit: Edit, images: Tensor) -> Tensor:
    """Compute edit maps with the search's copy of the weights."""
    layer = next(name.removesuffix(".weight") for name in edit.changes if name.endswith(".weight"))
    if layer in search.cuts:
        return edit.map_at(search.cuts[layer], images)
    weights = next(iter(search.cuts.values())).weights
    return edit.map_at(
        Cut(search.classifier, layer, images.shape[2:], weights), images
    )  # the head, edited from any layer


def first_exemplar(search: Search, selection: Selection) -> Exemplar:
    """Return the exemplar that the edit was made from, the first one of several.

    Raises:
        ValueError: if the search does not have the exemplars of the edit.
    """
    name = selection.params["exemplar"]
    if name not in search.exemplars:
        raise ValueError(
            f"The edit was made from exemplars {name!r} that were passed to candidates; for a report, pass them to "
            "Search as well"
        )
    return search.exemplars[name][0]


def _maps(search: Search, selection: Selection, shown: _Shown) -> tuple[list[Figure], str]:
    """Lay the edit map over x' and some images with the concept, and describe how much of it is inside the mask."""
    if not has_map(selection):
        return [], ""
    exemplar = first_exemplar(search, selection)
    images = [exemplar.changed]
    captions = ["x'"]
    for index in shown.change.argsort(descending=True, stable=True).tolist():
        if len(images) == MOST_MAPS:
            break
        image = shown.data.images[index]
        if image.shape == exemplar.changed.shape:
            images.append(image)
            captions.append(shown.data.classes[int(shown.data.labels[index])])
    maps = _maps_of(search, selection.edit, torch.stack(images))
    largest = float(maps[0].max()) if float(maps[0].max()) > 0 else 1.0
    figures = []
    for image, strength, caption in zip(images, maps, captions, strict=True):
        figures.append(Figure(data_uri(shade(image, strength / largest), 240), caption))
    note = "Bright is where the edit changes the output of the layer, relative to the largest change in x'."
    share = _share_inside(maps[0], exemplar.mask)
    return figures, f"{note} {describe_map(share, float(exemplar.mask.mean()))}"


# --- figures ----------------------------------------------------------------------------------------------------------

_COLUMNS = ("corrected", "broken", "misclassified before", "accuracy, points", "retained, broken", "candidates")


def _rows(table: pd.DataFrame) -> list[list[str]]:
    """Write the table of methods, as texts."""
    rows = []
    for name, row in table.iterrows():
        retained = "–"
        if row.get("retained", float("nan")) > 0:
            retained = f"{row['retained broken']:.0f} of {row['retained']:.0f}"
        candidates = row.get("candidates", float("nan"))
        texts = [_whole(row.get(key)) for key in ("corrected", "broken", "errors")]
        texts += [_number(row.get("accuracy change"), "+.2f"), retained]
        rows.append([str(name), *texts, _whole(candidates)])
    return rows


def _number(value: float | None, form: str) -> str:
    """Write a number; a dash if it was not measured."""
    return "–" if value is None or value != value else format(float(value), form)


def _whole(value: float | None) -> str:
    """Write a count; a dash if it was not measured."""
    return _number(value, ",.0f")


def _corrected_bars(table: pd.DataFrame) -> list[Bar]:
    """Make a bar for the share of errors that each method corrects, net."""
    if "share" not in table:
        return []
    bars = []
    for name, row in table.iterrows():
        text = f"{row.share:.0%} [{row.low:.0%}, {row.high:.0%}]" if row.low == row.low else f"{row.share:.0%}"
        note = f"{row.corrected:.0f} corrected, {row.broken:.0f} broken of {row.errors:.0f}"
        value = [100 * float(number) for number in (row.share, row.low, row.high)]
        bars.append(Bar(str(name), *value, text, note, strong=name == table.index[0]))
    return bars


def _accuracy_bars(table: pd.DataFrame) -> list[Bar]:
    """Make a bar for the change of accuracy by each method."""
    if "accuracy change" not in table:
        return []
    bars = []
    for name, row in table.dropna(subset=["accuracy change"]).iterrows():
        value = [float(row[key]) for key in ("accuracy change", "accuracy low", "accuracy high")]
        text = f"{value[0]:+.2f} [{value[1]:+.2f}, {value[2]:+.2f}]"
        note = ""
        if row.get("retained", float("nan")) > 0:
            note = f"{row['retained broken']:.0f} of {row['retained']:.0f} {RETAINED} broken"
        bars.append(Bar(str(name), *value, text, note, strong=name == table.index[0]))
    return bars


def layers_html(selection: Selection) -> str:
    """Render the chart of the layers of a search as in its report.

    Args:
        selection: the selection.

    Returns:
        A piece of HTML; empty after a single pass.
    """
    return render_layers(_layer_bars(selection))


def _layer_bars(selection: Selection) -> list[LayerBar]:
    """Make a bar for each layer of the first pass; none after a single pass."""
    bars = []
    for _, row in selection.layers.iterrows():
        is_selected = row.layer in selection.edit.layers
        bars.append(LayerBar(row.layer, int(row.corrected), int(row.broken), row.loss, row["goes on"], is_selected))
    return bars


def _trade_off(search: Search, selection: Selection, table: pd.DataFrame) -> TradeOff | None:
    """Make a point for each candidate of a trade-off, and one for the selected candidate; None if there are none."""
    if not len(table):
        return None
    name = describe_params(selection.params) if selection.feasible else None
    points = []
    for _, row in table.iterrows():
        point = Point(
            candidate=row.candidate,
            corrected=int(row.corrected),
            broken=int(row.broken),
            accuracy_change=float(row["accuracy change"]),
            retained_broken=int(row["retained broken"]),
            feasible=bool(row.feasible),
            selected=row.candidate == name,
        )
        points.append(point)
    if name is not None and not any(point.selected for point in points):
        points.append(_selected_point(selection))
    retain = search.activations.get("retain")
    most_broken = None if retain is None else search.constraints.may_break(int((~retain.before).sum()))
    return TradeOff(points, -search.constraints.max_accuracy_drop, most_broken)


def _selected_point(selection: Selection) -> Point:
    """Make a point for the selected candidate, which others may beat, since the one of the lowest loss is selected."""
    return Point(
        candidate=describe_params(selection.params),
        corrected=int(selection.scores["corrected"]),
        broken=int(selection.scores["broken"]),
        accuracy_change=selection.accuracy_change,
        retained_broken=0 if selection.retain is None else selection.retain.broken,
        feasible=True,
        selected=True,
    )


# --- settings, versions and code --------------------------------------------------------------------------------------


def _settings(search: Search, selection: Selection) -> list[tuple[str, str]]:
    """List the settings that were tried and those that were selected."""
    pairs = [(f"selected: {name}", str(value)) for name, value in selection.params.items()]
    pairs.append(("candidates", f"{selection.n_candidates:,}"))
    pairs.append(("layers tried", ", ".join(search.cuts)))
    pairs.append(("exemplars", ", ".join(map(str, search.exemplars))))
    for name, method in search.methods.items():
        strengths = ", ".join(f"{value:g}" for value in method.strengths)
        pairs.append((f"tried: {name}", f"{_values(method.settings)}; strength {strengths}"))
    pairs.append(("constraints in the selection", search.describe_constraints()))
    if selection.on_boundary:
        pairs.append(("on the boundary of the grid", ", ".join(selection.on_boundary)))
    return pairs


def _values(settings: Sequence[Mapping[str, Any]]) -> str:
    """List the values of each parameter among settings, such as "rank 1, 3; masked True, False"."""
    values: dict[str, dict[str, None]] = {}
    for setting in settings:
        for name, value in setting.items():
            values.setdefault(name, {})[str(value)] = None
    return "; ".join(f"{name} {', '.join(texts)}" for name, texts in values.items()) or "the defaults"


def fingerprints_of(search: Search, selection: Selection) -> dict[str, Any]:
    """Compute the fingerprints of the weights before the edit, of the edit, and of the image sets with their sizes."""
    sets = {"reference": search.splits.reference, **search.splits.labeled}
    images = {}
    for name, data in sets.items():
        digest = digest_tensors(in_batches(data))
        images[name] = {"count": len(data), "digest": digest[:16]}
    return {"weights": selection.edit.fingerprint, "edit": selection.edit.digest, "images": images}


def _fingerprint_pairs(fingerprints: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Write fingerprints as names and texts."""
    pairs = [("weights before the edit", fingerprints["weights"]), ("edit", fingerprints["edit"])]
    for name, images in fingerprints["images"].items():
        pairs.append((f"images of {name!r}", f"{images['count']:,}, {images['digest']}"))
    return pairs


def _code(search: Search, selection: Selection) -> str:
    """Write the code that repeats the selection on the same images, and applies the edit."""
    lines = ["import edittools as et", "", "# The same weights and images have the fingerprints above."]
    if search.splits.folds:  # the sets were divided by `repair`
        retain = ", retain" if search.splits.retain is not None else ""
        lines += ["fix = et.repair(", "    classifier,", f"    exemplars,  # {', '.join(map(str, search.exemplars))}"]
        lines += [f"    concept, clean{retain},"]
        for name, value in arguments_of_repair(search).items():
            text = pformat(value, width=100, sort_dicts=False).replace("\n", "\n    " + " " * (len(name) + 1))
            lines.append(f"    {name}={text},")
        lines += [")", "print(fix.summary())", "edit = fix.edit"]
    else:
        constraints = f"et.selection.{search.constraints!r}"
        lines.append(f"layers = {list(search.cuts)!r}")
        lines.append(f"search = et.selection.Search(classifier, exemplars, splits, layers, {constraints})")
        lines.append("selection = search.select(search.score(methods))  # with the settings and strengths above")
        lines.append(f"# selected: {dict(selection.params)!r}")
        lines.append("edit = selection.edit")
    lines += [
        "",
        f"# edit.digest was {selection.edit.digest}",
        'edit.save("edit.safetensors")  # the change; et.Edit.load("edit.safetensors", classifier).apply_(classifier)',
        'edit.export(classifier, "weights.safetensors")  # the edited weights, a plain state dict',
    ]
    return "\n".join(lines)


def arguments_of_repair(search: Search) -> dict[str, Any]:
    """Return the arguments of `repair` that define the candidates, by name."""
    method = search.methods[EDIT]
    return {
        "layers": list(search.cuts),
        "settings": [dict(setting) for setting in method.settings],
        "strengths": tuple(method.strengths),
        "source": search.splits.source,
    }
