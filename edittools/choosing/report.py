"""Methods beside each other: what each edit did to every set, and along its strength."""

from collections.abc import Mapping, Sequence
from itertools import product

import pandas as pd

from edittools.choosing.states import CachedStates
from edittools.edits import Edit


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


def report(edits: Mapping[str, Edit], states: Mapping[str, CachedStates]) -> pd.DataFrame:
    """Put methods beside each other: one row a method, evaluated on every set of images in `states`.

    `states["test"]` gives the errors before and after, corrected, broken, errors corrected (eq. 2) with its 95 %
    interval (`low`, `high`) and McNemar's p. Of every other set the columns are its `… before` and `… after` errors and
    its accuracy change in points with its interval (`… change`, `… low`, `… high`).
    """
    rows = {}
    for name, edit in edits.items():
        test = states["test"].compare(edit)
        row = test.row() | dict(zip(("low", "high"), test.corrected_interval(), strict=True))
        row.pop("accuracy change (points)")
        for other in [name for name in states if name != "test"]:
            found = states[other].compare(edit)
            low, high = found.accuracy_interval()
            row |= {f"{other} before": int(found.before.sum()), f"{other} after": int(found.after.sum())}
            row |= {f"{other} change": found.accuracy_change, f"{other} low": low, f"{other} high": high}
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
