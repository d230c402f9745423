"""Methods beside each other: what each edit did to every set, and along its strength."""

from collections.abc import Mapping, Sequence
from itertools import product

import pandas as pd

from edittools.choosing.states import CachedStates
from edittools.edits import Edit


def strength_curve(edit: Edit, strengths: Sequence[float], target: CachedStates, clean: CachedStates) -> pd.DataFrame:
    """Follow an edit from α = 0 up: errors corrected on `target` and accuracy change on `clean`, by strength."""
    pairs = {a: (target.compare(a * edit).row(), clean.compare(a * edit).row()) for a in strengths}
    figures = ("errors corrected", "accuracy change (points)")
    rows = {a: {name: row[name] for name, row in zip(figures, pair, strict=True)} for a, pair in pairs.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("strength")


def trade_off(
    edits: Mapping[str, Edit], strengths: Sequence[float], target: CachedStates, kept: CachedStates
) -> pd.DataFrame:
    """Follow each edit from α = 0 up: what it corrects against what it breaks of the images that must stay.

    One row a method and strength: `method`, `strength`, `errors corrected` on `target` and `kept broken`, both shares.
    """
    rows = []
    for (name, edit), strength in product(edits.items(), strengths):
        gained, lost = target.compare(strength * edit).row(), kept.compare(strength * edit)
        row = {"method": name, "strength": strength, "errors corrected": gained["errors corrected"]}
        rows.append({**row, "kept broken": lost.broken / len(lost.before)})
    return pd.DataFrame(rows)


def report(edits: Mapping[str, Edit | Sequence[Edit]], states: Mapping[str, CachedStates]) -> pd.DataFrame:
    """Methods beside each other: one row a method, evaluated on every set of images in `states`.

    `states["test"]` gives the errors before and after, corrected, broken, errors corrected (eq. 2) with its 95 %
    interval (`low`, `high`) and McNemar's p. Of every other set the columns are its `… before` and `… after` errors and
    its accuracy change in points with its interval (`… change`, `… low`, `… high`). A sequence of edits (several seeds)
    gives the mean of its rows, which has neither p nor interval, see `mean_of`.
    """
    several = {name: [edit] if isinstance(edit, Edit) else edit for name, edit in edits.items()}
    rows = {name: mean_of([_report_one(edit, states) for edit in each]) for name, each in several.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _report_one(edit: Edit, states: Mapping[str, CachedStates]) -> dict[str, float]:
    test = states["test"].compare(edit)
    row = test.row() | dict(zip(("low", "high"), test.corrected_interval(), strict=True))
    row.pop("accuracy change (points)")
    for name, other in states.items():
        if name != "test":
            found = other.compare(edit)
            row |= {f"{name} before": int(found.before.sum()), f"{name} after": int(found.after.sum())}
            row |= {f"{name} change": found.accuracy_change}
            row |= dict(zip((f"{name} low", f"{name} high"), found.accuracy_interval(), strict=True))
    return row


def mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average the figures of several edits on the same images, name by name.

    A mean of p-values is no p-value, and a mean of an interval's ends no interval: of several rows these, whose names
    end in p, q, low or high, are NaN. Nor are counts pooled for them, since every image would count several times.
    """
    means = pd.DataFrame(rows).mean()
    if len(rows) > 1:
        means[[name.replace("_", " ").split()[-1] in ("p", "q", "low", "high") for name in means.index]] = float("nan")
    return means.to_dict()
