"""The summary of a repair in sentences, one per line, the verdict first."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from edittools.selection.assessment import FITTED, Assessment, Effect
from edittools.selection.search import EditSearch, Selection, describe_params
from edittools.selection.verdict import RETAINED

NAMES = {"edit": "low-rank edit"}
"""What a method is called in the parameters and the summary, unless as in the table."""

SECOND = "second "
"""Prefix of the parameters of a second layer."""


def describe_selection(selection: Selection) -> str:
    """Name the selected method and its parameters, and say how well the edit fits the exemplar."""
    first = {name: value for name, value in selection.params.items() if not name.startswith(SECOND)}
    second = {name.removeprefix(SECOND): value for name, value in selection.params.items() if name.startswith(SECOND)}
    text = f"Selected: {describe_edit(first)}"
    if second:
        return f"{text}; and on top of it {describe_edit(second)}."
    record = selection.edit.record
    if record is None or record.share_left is None:
        return f"{text}."
    fit = "It fits" if record.share_left <= FITTED else "It fits only in part"
    return f"{text}. {fit}: {1 - record.share_left:.0%} of the loss at the exemplar is gone."


def describe_edit(params: Mapping[str, Any]) -> str:
    """Describe an edit of one layer; what was not among the settings is as `rewrite` has it."""
    method = params.get("method", NAMES["edit"])
    settings = dict(params)
    if method == NAMES["edit"]:
        settings = {"rank": 1, "masked": True, **params}
        names = ("layer", "exemplar", "rank", "masked", "strength")
        settings = {name: settings[name] for name in names if name in settings}
    settings.pop("method", None)
    return f"{method} in {describe_params(settings)}"


def describe_map(inside_mask: float, covered: float) -> str:
    """Say where the edit acts in x'."""
    return f"{inside_mask:.0%} of its edit map of x' is inside the mask, which covers {covered:.0%} of the image."


def describe_measures(assessment: Assessment) -> list[str]:
    """Give reliability, generality and locality with their definitions, and the cost."""
    lines = []
    for name, (figure, definition) in assessment.measures.items():
        lines.append(f"{name.capitalize()} ({definition}): {figure}.")
    cost = describe_cost(assessment.effect)
    return [*lines, cost] if cost else lines


def describe_cost(effect: Effect) -> str:
    """Say what an edit costs on images that were not used to select it; empty if that was not measured."""
    parts = []
    if effect.clean is not None:
        low, high = effect.clean.accuracy_interval()
        parts.append(
            f"{effect.clean.accuracy_change:+.2f} points [{low:+.2f}, {high:+.2f}] of accuracy on clean images"
        )
    for name, comparison in effect.retained.items():
        if comparison is not None:
            what = RETAINED if name == RETAINED else f"{RETAINED} {name!r}"
            parts.append(f"{comparison.broken} of {len(comparison.before)} {what} broken")
    return f"Cost: {'; '.join(parts)}." if parts else ""


def describe_alternatives(table: pd.DataFrame) -> list[str]:
    """Say what each method alone gives, and what the controls give."""
    lines = []
    if "edit" in table.index:
        edit = table.loc["edit"]
        lines.append(
            f"The low-rank edit alone, selected the same way: {edit.corrected} corrected, {edit.broken} broken."
        )
    others = table.drop(index=[name for name in ("selected", "edit") if name in table.index])
    if len(others):
        counts = ", ".join(f"{name} {row.corrected} / {row.broken}" for name, row in others.iterrows())
        lines.append(f"Other methods, corrected / broken: {counts}.")
    return lines


def describe_obstacle(selection: Selection, search: EditSearch) -> str:
    """Say why no candidate is feasible: the fit at the exemplar, what the images show, or the constraints."""
    outcomes = selection.outcomes
    edits = [candidate.scaled for candidate in outcomes.candidates]
    records = [edit.record for edit in edits if edit.record is not None and edit.record.loss_before]
    left = min((record.share_left for record in records if record.share_left is not None), default=0)
    if left > FITTED:
        return (
            f"No edit fits the exemplar: in no layer is more than {1 - left:.0%} of the loss there gone. Try other "
            "layers, a higher rank, or a mask that covers all of the change."
        )
    most = int(outcomes.net.max())
    if most <= 0:
        return (
            "No edit corrects more failing images than it breaks: what they show is not what the exemplar changes, or "
            "they are misclassified for another reason. Try another exemplar."
        )
    wrong = int(search.activations["target"].before.sum())
    return (
        f"Edits correct up to {most} of {wrong} misclassified images, but none costs at most "
        f"{search.constraints.max_accuracy_drop:.3g} points of accuracy and keeps the retained images. Try more clean "
        "and retained images, another exemplar, or a smaller change."
    )
