"""The report of an assessment: its page, and its data for programs."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from edittools.edits import Edit
from edittools.images import LabelledImages
from edittools.metrics import predict, state_of
from edittools.reports import Bar, Card, Figure, Page, data_uri, package_versions, plain, shade
from edittools.selection.checks import MAX_ACCURACY_DROP, MAX_OWN_DROP, MAX_RETAINED_BROKEN
from edittools.selection.effects import Effect

if TYPE_CHECKING:
    from edittools.selection.assessment import Assessment

MOST_CARDS = 60
"""The largest number of images with the concept that a report shows."""

MOST_COSTS = 12
"""The largest number of images of each other set that a report shows."""

MOST_MAPS = 6
"""The largest number of images whose edit maps a report shows, the exemplar's included."""

COLUMNS = {
    "corrected": ",.0f",
    "broken": ",.0f",
    "errors": ",.0f",
    "accuracy change": "+.2f",
    "predictions changed": ".1%",
    "own class correct": ",.0f",
    "own class": ",.0f",
    "retained broken": ",.0f",
    "retained": ",.0f",
}
"""The columns of the table of methods, with their formats."""


def make_page(assessment: "Assessment", title: str = "") -> Page:
    """Collect the content of a report.

    Args:
        assessment: the assessment.
        title: the heading of the page.
    """
    verdict = assessment.verdict
    candidate = assessment.selection.candidate
    splits = assessment.splits
    cards: list[Card] = []
    cards_note = "No labeled images with the concept were given."
    if splits.concept is not None:
        effect = assessment.effects["concept"]
        cards = cards_of(assessment.classifier, assessment.edit, splits.concept, effect)
        cards_note = f"{len(cards)} of {len(effect)} images, none of which selected the edit."
    costs, costs_note = _costs(assessment)
    table = assessment.table
    return Page(
        title=title or f"An edit of {type(assessment.classifier.model).__name__}",
        subtitle=f"{assessment.classifier}: edit in {candidate}.",
        word=verdict.word,
        reason=verdict.reason,
        advice=verdict.advice,
        lines=list(verdict.lines.items()),
        checks=verdict.checks,
        exemplars=_exemplars(assessment),
        maps=_maps(assessment),
        map_note="Bright is where the edit changes the output of the layer, relative to the largest change in x'.",
        cards=cards,
        cards_note=cards_note,
        costs=costs,
        costs_note=costs_note,
        corrected_bars=_bars(table, "share", "low", "high", 100, ".0f", "%"),
        accuracy_bars=_bars(table, "accuracy change", "accuracy low", "accuracy high", 1, "+.2f", ""),
        table_head=("method", *COLUMNS),
        table=_rows(table),
        settings=_settings(assessment),
        versions=[*package_versions().items(), *_digests(assessment).items()],
        code=_code(assessment),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def make_data(assessment: "Assessment", title: str = "") -> dict[str, Any]:
    """Collect what a report says for programs, in types that JSON has; what was not measured is None.

    Args:
        assessment: the assessment.
        title: the heading of the page.
    """
    verdict = assessment.verdict
    names = ("name", "status", "figure", "advice", "at_best", "line")
    splits = assessment.splits
    images = {}
    for name, data in splits.labeled.items():
        images[name] = {"count": len(data), "scenes": len(splits.scenes[name].unique()), "digest": splits.digest(name)}
    images["ordinary"] = {"count": len(splits.images), "digest": splits.digest("images")}
    data = {
        "title": title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": str(assessment.classifier),
        "verdict": {"word": verdict.word, "reason": verdict.reason, "advice": verdict.advice, **verdict.lines},
        "checks": [{name: getattr(check, name) for name in names} for check in verdict.checks],
        "selected": dict(assessment.selection.candidate.params),
        "selected_by": assessment.selection.selected_by,
        "candidates": len(assessment.selection.scores),
        "methods": assessment.table.reset_index().to_dict("records"),
        "consistency": assessment.consistency.rename_axis("hosts of").reset_index().to_dict("records"),
        "limits": {
            "accuracy drop, points": MAX_ACCURACY_DROP,
            "retained broken, percent": MAX_RETAINED_BROKEN,
            "own class drop, points": MAX_OWN_DROP,
        },
        "versions": package_versions(),
        "fingerprints": {
            "weights": assessment.selection.edit.fingerprint,
            "edit": assessment.selection.edit.digest,
            "images": images,
        },
        "reselected": assessment.is_reselected,
        "complete": assessment.complete,
    }
    return plain(data)


# --- images -----------------------------------------------------------------------------------------------------------


def cards_of(
    classifier: Any, edit: Edit, data: LabelledImages, effect: Effect, most: int = MOST_CARDS, broken_only: bool = False
) -> list[Card]:
    """Make cards of the images of a set whose predictions change, then of others: what is predicted before and after.

    Args:
        classifier: the classifier.
        edit: the edit.
        data: the labeled images.
        effect: what the edit does to them.
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
    before = predict(classifier, images).float().softmax(dim=1)
    after = predict(edit.edited(classifier), images).float().softmax(dim=1)
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


def _costs(assessment: "Assessment") -> tuple[list[Card], str]:
    """Show the images that the edit breaks, of those that it may cost."""
    cards = []
    counts = []
    for name, data in assessment.splits.labeled.items():
        if name == "concept":
            continue
        effect = assessment.effects[name]
        broken = effect.comparison.broken
        counts.append(f"{broken} of {len(effect):,} {name.replace('_', ' ')} images")
        cards += cards_of(assessment.classifier, assessment.edit, data, effect, MOST_COSTS, broken_only=True)
    if not counts:
        return [], ""
    note = f"The edit breaks {', '.join(counts)}, none of which selected it."
    return cards, f"{note} Shown are at most {MOST_COSTS} of each." if cards else note


def _exemplars(assessment: "Assessment") -> list[Figure]:
    """Show x, x' and the mask of the exemplars that the edit was made from, at most three of them."""
    classes = assessment.classifier.classes
    edited = assessment.selection.edit.edited(assessment.classifier)
    members = [exemplar for group in assessment.exemplars.values() for exemplar in group]
    figures = []
    for exemplar in members[:3]:
        pair = torch.stack([exemplar.image, exemplar.changed])
        original, changed = (classes[index] for index in predict(assessment.classifier, pair).argmax(dim=1).tolist())
        after = classes[int(predict(edited, exemplar.changed[None]).argmax())]
        figures.append(Figure(data_uri(exemplar.image, 320), f"x: predicted as {original}"))
        caption = f"x': predicted as {changed}, with the edit as {after}"
        figures.append(Figure(data_uri(exemplar.changed, 320), caption))
        mask = exemplar.mask.float()
        marked = exemplar.changed * (0.35 + 0.65 * mask)
        figures.append(Figure(data_uri(marked, 320), f"the mask, {float(mask.mean()):.0%} of the image"))
    return figures


def _maps(assessment: "Assessment") -> list[Figure]:
    """Lay the edit map over x' and some images with the concept."""
    exemplar = next(iter(assessment.exemplars.values()))[0]
    images = [exemplar.changed]
    captions = ["x'"]
    concept = assessment.splits.concept
    if concept is not None:
        for index in range(min(MOST_MAPS - 1, len(concept))):
            images.append(concept.images[index])
            captions.append(concept.classes[int(concept.labels[index])])
    maps = assessment.selection.edit.edit_map(assessment.classifier, torch.stack(images))
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
        texts = []
        for column, form in COLUMNS.items():
            value = row.get(column, float("nan"))
            texts.append("–" if value != value else format(float(value), form))
        rows.append([str(name), *texts])
    return rows


def _bars(table: pd.DataFrame, value: str, low: str, high: str, factor: float, form: str, unit: str) -> list[Bar]:
    """Make a bar for a number of each method, with its interval."""
    if value not in table:
        return []
    bars = []
    for name, row in table.dropna(subset=[value]).iterrows():
        numbers = [factor * float(row[column]) for column in (value, low, high)]
        text = f"{numbers[0]:{form}}{unit}"
        if row[low] == row[low]:
            text += f" [{numbers[1]:{form}}{unit}, {numbers[2]:{form}}{unit}]"
        bars.append(Bar(str(name), *numbers, text, strong=name == table.index[0]))
    return bars


def _settings(assessment: "Assessment") -> list[tuple[str, str]]:
    """List the settings that were selected, and among how many."""
    selection = assessment.selection
    pairs = [(f"selected: {name}", str(value)) for name, value in selection.candidate.params.items()]
    pairs.append(("candidates", f"{len(selection.scores):,}"))
    pairs.append(("CPU seconds of the selection", f"{selection.scores.seconds:.0f}"))
    pairs.append(("exemplars", ", ".join(map(str, selection.exemplars))))
    return pairs


def _digests(assessment: "Assessment") -> Mapping[str, str]:
    """Name the weights, the edit, and the labeled sets by their digests."""
    splits = assessment.splits
    digests = {"weights before the edit": assessment.selection.edit.fingerprint, "edit": assessment.edit.digest}
    for name, data in splits.labeled.items():
        digests[f"images of {name!r}"] = f"{len(data):,}, {splits.digest(name)[:16]}"
    return digests


def _code(assessment: "Assessment") -> str:
    """Write the code that repeats the selection on the same images, and applies the edit."""
    given = [name for name in ("concept", "clean") if getattr(assessment.splits, name) is not None]
    given += ["retain"] if assessment.splits.retain else []
    sets = "".join(f", {name}={name}" for name in given)
    return "\n".join(
        [
            "import edittools as et",
            "",
            f"fix = et.repair(classifier, exemplars, images{sets}, source={assessment.splits.source!r})",
            "print(fix.summary())",
            "",
            f"# fix.edit.digest was {assessment.edit.digest}",
            'fix.edit.save("edit.safetensors")  # the change; et.Edit.load(…, classifier).apply_(classifier)',
            'fix.edit.export(classifier, "weights.safetensors")  # the edited weights, a plain state dict',
        ]
    )
