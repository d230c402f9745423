"""The page of an assessment: pictures and tables of what was selected and measured."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isnan, nan
from pathlib import PurePath

import pandas as pd
import torch

from edittools.cut import Cut
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabeledImages
from edittools.metrics import state_of
from edittools.reports import Card, Figure, Page, data_uri, package_versions, shade
from edittools.reports.words import PAGE, check_words, verdict_words
from edittools.selection.effects import Effect
from edittools.selection.select import Selection
from edittools.selection.splits import Splits
from edittools.states import States
from edittools.verdict import Check

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
"""The columns of the table of methods. In brackets are 95% intervals."""


def make_page(
    title: str,
    cut: Cut,
    selection: Selection,
    exemplars: Sequence[Exemplar],
    splits: Splits,
    effects: Mapping[str, Effect],
    table: pd.DataFrame,
    checks: Sequence[Check],
) -> Page:
    """Collect the content of a report.

    Args:
        title: the heading of the page; by default, it names the network.
        cut: the classifier, cut at the layer of the edit, with a copy of its weights.
    """
    words = verdict_words(checks, PAGE)
    edit = selection.edit
    classifier = cut.classifier
    cards: list[Card] = []
    cards_note = "No labeled images with the mark were given."
    if splits.concept is not None:
        effect = effects["concept"]
        cards = _cards(cut, edit, splits.concept, effect, MOST_CARDS)
        cards_note = f"{len(cards)} of {len(effect)} images, none of which selected the edit."
    costs, costs_note = _costs(cut, edit, splits, effects)
    return Page(
        title=title or f"An edit of {type(classifier.model).__name__}",
        subtitle=f"{classifier}: edit in {selection.candidate}.",
        word=words.word,
        sentences=words.sentences,
        checks=[(check.status, check_words(check, PAGE)) for check in checks],
        exemplars=_exemplars(cut, edit, exemplars),
        maps=_maps(cut, edit, exemplars[0], splits.concept),
        map_note="Bright is where the edit changes the output of the layer, relative to the largest change in x'.",
        cards=cards,
        cards_note=cards_note,
        costs=costs,
        costs_note=costs_note,
        table_head=("method", *COLUMNS),
        table=_rows(table),
        settings=_settings(selection),
        versions=[*package_versions().items(), *_digests(edit, splits).items()],
        code=_code(edit, splits),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


# --- images -----------------------------------------------------------------------------------------------------------


def _cards(
    cut: Cut, edit: Edit, data: LabeledImages, effect: Effect, most: int, broken_only: bool = False
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


def _costs(cut: Cut, edit: Edit, splits: Splits, effects: Mapping[str, Effect]) -> tuple[list[Card], str]:
    """Show the images that the edit breaks, of those that it may cost."""
    cards = []
    counts = []
    for name, data in splits.labeled.items():
        if name == "concept":
            continue
        effect = effects[name]
        broken = effect.comparison.broken
        counts.append(f"{broken} of {len(effect):,} {name.replace('_', ' ')} images")
        cards += _cards(cut, edit, data, effect, MOST_COSTS, broken_only=True)
    if not counts:
        return [], ""
    note = f"The edit breaks {', '.join(counts)}, none of which selected it."
    return cards, f"{note} Shown are at most {MOST_COSTS} of each." if cards else note


def _exemplars(cut: Cut, edit: Edit, exemplars: Sequence[Exemplar]) -> list[Figure]:
    """Show x, x' and the mask of the exemplars that the edit was made from, at most three of them."""
    classes = cut.classifier.classes
    figures = []
    for exemplar in exemplars[:3]:
        pair = States({cut.layer: cut}, torch.stack([exemplar.image, exemplar.changed]))
        original, changed = (classes[index] for index in pair.original.argmax(dim=1).tolist())
        after = classes[int(pair.logits(edit)[1].argmax())]
        figures.append(Figure(data_uri(exemplar.image, 320), f"x: predicted as {original}"))
        caption = f"x': predicted as {changed}, with the edit as {after}"
        figures.append(Figure(data_uri(exemplar.changed, 320), caption))
        mask = exemplar.mask.float()
        marked = exemplar.changed * (0.35 + 0.65 * mask)
        figures.append(Figure(data_uri(marked, 320), f"the mask, {float(mask.mean()):.0%} of the image"))
    return figures


def _maps(cut: Cut, edit: Edit, exemplar: Exemplar, concept: LabeledImages | None) -> list[Figure]:
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


def _rows(table: pd.DataFrame) -> list[list[str]]:
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


def _settings(selection: Selection) -> list[tuple[str, str]]:
    """List the settings that were selected, and among how many."""
    pairs = [(f"selected: {name}", str(value)) for name, value in selection.candidate.params.items()]
    pairs.append(("candidates", f"{len(selection.scores):,}"))
    pairs.append(("CPU seconds of the selection", f"{selection.scores.seconds:.0f}"))
    pairs.append(("exemplars", ", ".join(map(str, selection.exemplars))))
    return pairs


def _digests(edit: Edit, splits: Splits) -> Mapping[str, str]:
    """Name the weights, the edit, and the labeled sets by their digests."""
    digests = {"weights before the edit": edit.fingerprint, "edit": edit.digest}
    for name, data in splits.labeled.items():
        digests[f"images of {name!r}"] = f"{len(data):,}, {splits.digests[name][:16]}"
    return digests


def _code(edit: Edit, splits: Splits) -> str:
    """Write the code that repeats the selection on the same images, and applies the edit."""
    given = [name for name in ("concept", "clean") if getattr(splits, name) is not None]
    given += ["retain"] if splits.retain else []
    sets = "".join(f", {name}={name}" for name in given)
    return "\n".join(
        [
            "import edittools as et",
            "",
            f"fix = et.repair(classifier, exemplars, images{sets}, source={splits.source!r})",
            "print(fix.summary())",
            "",
            f"# fix.edit.digest was {edit.digest}",
            'fix.edit.save("edit.safetensors")  # the change; et.Edit.load(…, classifier).apply_(classifier)',
            'fix.edit.export(classifier, "weights.safetensors")  # the edited weights, a plain state dict',
        ]
    )
