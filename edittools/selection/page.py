"""What the report of an assessment shows: pictures of what was measured, and tables."""

from collections.abc import Mapping, Sequence
from math import isnan, nan
from pathlib import PurePath

import pandas as pd
import torch

from edittools.cut import Cut
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabeledImages
from edittools.metrics import state_of
from edittools.reports import Card, Figure, data_uri, shade
from edittools.reports.words import pair_captions
from edittools.selection.effects import Effect
from edittools.selection.select import Selection
from edittools.selection.splits import Splits
from edittools.states import States

MOST_CARDS = 60
"""The largest number of images with the concept that a report shows."""

MOST_COSTS = 12
"""The largest number of images of each other set that a report shows."""

MOST_MAPS = 6
"""The largest number of images whose edit maps a report shows, the exemplar's included."""

COLUMNS = (
    "errors corrected, net",
    "corrected",
    "broken",
    "accuracy, points",
    "predictions changed",
    "mark's class, correct",
    "retained, broken",
)
"""The columns of the table of methods, next to the names of these. In brackets are 95% intervals."""


# --- images -----------------------------------------------------------------------------------------------------------


def cards_of(
    cut: Cut, edit: Edit, data: LabeledImages, effect: Effect, most: int = MOST_CARDS, broken_only: bool = False
) -> list[Card]:
    """Make cards of the images of a set whose predictions change, then of others: what is predicted before and after.

    Args:
        most: the largest number of cards.
        broken_only: whether only images that the edit breaks are shown.
    """
    comparison = effect.comparison
    is_broken = ~comparison.before & comparison.after
    is_changed = comparison.before != comparison.after
    shown = is_broken.nonzero()[:, 0] if broken_only else is_changed.long().argsort(descending=True, stable=True)
    indices = shown[:most].tolist()
    if not indices:
        return []
    images = torch.stack([data.images[index] for index in indices])
    states = States({cut.layer: cut}, images)
    before = states.original.float().softmax(dim=1)
    after = states.logits(edit).float().softmax(dim=1)
    cards = []
    for row, index in enumerate(indices):
        label = int(data.labels[index])
        classes = (*data.classes, "not a number")  # of logits that hold NaN, whose class is -1
        card = Card(
            source=data_uri(images[row]),
            label=classes[label],
            before=classes[int(effect.before[index])],
            after=classes[int(effect.after[index])],
            state=state_of(not comparison.before[index], not comparison.after[index]),
            probability=float(before[row, label]),
            edited_probability=float(after[row, label]),
            name=PurePath(data.names[index]).name if data.names else "",
        )
        cards.append(card)
    return sorted(cards, key=lambda card: -card.change)


def broken_cards(cut: Cut, edit: Edit, splits: Splits, effects: Mapping[str, Effect]) -> list[Card]:
    """Show the images that the edit breaks, of those that it may cost, at most `MOST_COSTS` of each set."""
    cards = []
    for name, data in splits.labeled.items():
        if name != "concept":
            cards += cards_of(cut, edit, data, effects[name], MOST_COSTS, broken_only=True)
    return cards


def broken_counts(effects: Mapping[str, Effect]) -> dict[str, tuple[int, int]]:
    """Count the images that the edit breaks, and all, of each set that it may cost."""
    return {name: (one.comparison.broken, len(one)) for name, one in effects.items() if name != "concept"}


def exemplar_figures(cut: Cut, edit: Edit, exemplars: Sequence[Exemplar]) -> list[Figure]:
    """Show x, x' and the mask of the exemplars that the edit was made from, at most three of them."""
    classes = cut.classifier.classes
    figures = []
    for exemplar in exemplars[:3]:
        pair = States({cut.layer: cut}, torch.stack([exemplar.image, exemplar.changed]))
        original, changed = (classes[index] for index in pair.original.argmax(dim=1).tolist())
        after = classes[int(pair.logits(edit)[1].argmax())]
        mask = exemplar.mask.float()
        marked = exemplar.changed * (0.35 + 0.65 * mask)
        captions = pair_captions(original, changed, after, float(mask.mean()))
        for picture, caption in zip((exemplar.image, exemplar.changed, marked), captions, strict=True):
            figures.append(Figure(data_uri(picture, 320), caption))
    return figures


def edit_maps(cut: Cut, edit: Edit, exemplar: Exemplar, concept: LabeledImages | None) -> list[Figure]:
    """Lay the edit map over x' and some images with the concept."""
    images = [exemplar.changed]
    captions = ["x'"]
    if concept is not None:
        for index in range(min(MOST_MAPS - 1, len(concept))):
            images.append(concept.images[index])
            captions.append(concept.classes[int(concept.labels[index])])
    maps = edit.map_at(cut, torch.stack(images))
    largest = max(float(maps[0].max()), 1e-12)
    figures = []
    for image, strength, caption in zip(images, maps, captions, strict=True):
        figures.append(Figure(data_uri(shade(image, strength / largest), 240), caption))
    return figures


# --- figures ----------------------------------------------------------------------------------------------------------


def method_rows(table: pd.DataFrame) -> list[list[str]]:
    """Write the table of methods, as texts; a dash for what was not measured."""
    rows = []
    for name, row in table.iterrows():
        texts = [
            _with_interval(row, ("share", "low", "high"), ".0%"),
            _of_total(row, "corrected", "errors"),
            _text(row.get("broken", nan), ",.0f"),
            _with_interval(row, ("accuracy change", "accuracy low", "accuracy high"), "+.2f"),
            _text(row.get("predictions changed", nan), ".1%"),
            _of_total(row, "own class correct", "own class"),
            _of_total(row, "retained broken", "retained"),
        ]
        rows.append([str(name), *texts])
    return rows


def _text(number: float, form: str) -> str:
    """Write a number; a dash for NaN."""
    return "–" if isnan(number) else format(float(number), form)


def _with_interval(row: pd.Series, columns: tuple[str, str, str], form: str) -> str:
    """Write a number with its interval, if it has one."""
    value, low, high = (row.get(column, nan) for column in columns)
    if isnan(value) or isnan(low):
        return _text(value, form)
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _of_total(row: pd.Series, column: str, total: str) -> str:
    """Write a number, and of how many."""
    count = row.get(column, nan)
    return "–" if isnan(count) else f"{count:,.0f} of {row[total]:,.0f}"


def settings_of(selection: Selection) -> list[tuple[str, str]]:
    """List the settings that were selected, and among how many."""
    pairs = [(f"selected: {name}", str(value)) for name, value in selection.candidate.params.items()]
    pairs.append(("candidates", f"{len(selection.scores):,}"))
    pairs.append(("CPU seconds of the selection", f"{selection.scores.seconds:.0f}"))
    pairs.append(("exemplars", ", ".join(map(str, selection.exemplars))))
    return pairs


def digests_of(edit: Edit, splits: Splits) -> Mapping[str, str]:
    """Name the weights, the edit, and the labeled sets by their digests."""
    digests = {"weights before the edit": edit.fingerprint, "edit": edit.digest}
    for name, data in splits.labeled.items():
        digests[f"images of {name!r}"] = f"{len(data):,}, {splits.digests[name][:16]}"
    return digests
