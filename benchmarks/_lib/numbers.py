"""The numbers in the text of pages, from the files in results.

A page holds a number between `<!-- number: NAME -->` and `<!-- end -->`.
"""

from collections.abc import Callable

import pandas as pd

from _lib.comparisons import joined
from _lib.effects import CLEAN, CORRECT, CORRECTED, FLIPS, OWN_CLASS, OWN_CLEAN, TARGET
from _lib.pivots import PRECISE_SHARE, SHARE
from _lib.results import BY_EXEMPLAR, BY_HOSTS, BY_LABELS, LABEL_FREE, NO_EDIT, read_results

BY_USERS = "as users make them"
"""The condition of the exemplars of the gate that count."""

NOTED = 0.05
"""A fall of the own class that is counted."""


def figure(run: str, method: str, split: str, metric: str, condition: str = "", network: str = "all") -> float:
    """Read one value of a run."""
    return float(rows_of(run, method, split, metric).set_index(["network", "condition"]).value[network, condition])


def rows_of(run: str, method: str, split: str, metric: str) -> pd.DataFrame:
    """Read the rows of a run with one metric of one method."""
    table = read_results(run)
    return table[(table.method == method) & (table.split == split) & (table.metric == metric)]


def of_pairs(run: str, method: str, split: str, metric: str, condition: str = "") -> pd.Series:
    """Read the values of each network and mark, which are the rows within a condition, by network and mark."""
    rows = rows_of(run, method, split, metric)
    start = joined(condition, "")
    is_pair = (rows.network != "all") & rows.condition.str.startswith(start) & (rows.condition != condition)
    return rows[is_pair].set_index(["network", "condition"]).value


def share(value: float) -> str:
    """Write a share in percent."""
    return SHARE.value(value)


def precise(value: float) -> str:
    """Write a share in percent, with one digit."""
    return PRECISE_SHARE.value(value)


def between(low: float, high: float) -> str:
    """Write a range of shares."""
    return f"{SHARE.value(low).removesuffix('%')} and {SHARE.value(high)}"


def own_class_falls() -> pd.Series:
    """By how much less often the own class is correct with the mark and the edit than without both, in each pair."""
    without = of_pairs("gate", NO_EDIT, OWN_CLEAN, CORRECT, BY_USERS)
    return without - of_pairs("gate", BY_HOSTS, OWN_CLASS, CORRECT, BY_USERS)


def gate(method: str, split: str, metric: str) -> float:
    """Read a mean of the gate over all pairs."""
    return figure("gate", method, split, metric, BY_USERS)


RETAINED = "retain_test"
"""The images of classes where a material belongs."""


def snow(method: str) -> str:
    """Write what a method corrects of the errors on rendered snow."""
    return share(figure("snow_mini", method, TARGET, CORRECTED))


def retained_on_snow(method: str) -> str:
    """Write which share of the images where snow belongs is correct after it."""
    return share(figure("snow_mini", method, RETAINED, CORRECT))


NUMBERS: dict[str, Callable[[], str]] = {
    "gate_edit": lambda: share(gate(BY_HOSTS, TARGET, CORRECTED)),
    "gate_edit_range": lambda: between(
        *of_pairs("gate", BY_HOSTS, TARGET, CORRECTED, BY_USERS).agg(["min", "max"]).to_list()
    ),
    "gate_edit_changed": lambda: precise(gate(BY_HOSTS, CLEAN, FLIPS)),
    "gate_tuned": lambda: share(gate(LABEL_FREE, TARGET, CORRECTED)),
    "gate_tuned_changed": lambda: precise(gate(LABEL_FREE, CLEAN, FLIPS)),
    "gate_own_unmarked": lambda: share(gate(NO_EDIT, OWN_CLEAN, CORRECT)),
    "gate_own_marked": lambda: share(gate(BY_HOSTS, OWN_CLASS, CORRECT)),
    "gate_own_falls": lambda: f"{(own_class_falls() > NOTED).sum()}",
    "gate_own_largest_fall": lambda: f"{100 * own_class_falls().max():.0f}",
    "learned_edit": lambda: share(figure("learned_shortcut", BY_HOSTS, TARGET, CORRECTED)),
    "learned_tuned": lambda: share(figure("learned_shortcut", LABEL_FREE, TARGET, CORRECTED)),
    "learned_exemplar": lambda: share(figure("learned_shortcut", BY_EXEMPLAR, TARGET, CORRECTED)),
    "snow_hosts": lambda: snow(BY_HOSTS),
    "snow_exemplar": lambda: snow(BY_EXEMPLAR),
    "snow_labels": lambda: snow(BY_LABELS),
    "snow_retained": lambda: retained_on_snow(NO_EDIT),
    "snow_retained_hosts": lambda: retained_on_snow(BY_HOSTS),
    "snow_retained_exemplar": lambda: retained_on_snow(BY_EXEMPLAR),
    "snow_retained_labels": lambda: retained_on_snow(BY_LABELS),
    "watermark_edit": lambda: share(figure("watermark", BY_HOSTS, TARGET, CORRECTED)),
    "notes_edit": lambda: share(figure("handwriting", BY_HOSTS, TARGET, CORRECTED)),
}
"""The text of each number, by name."""
