"""Tables of methods that are compared on the same pairs: means over pairs, and the values of each pair."""

import pandas as pd

from _lib.effects import ACCURACY, CLEAN, CORRECT, CORRECTED, FLIPS, OWN_CLASS, OWN_CLEAN, TARGET
from _lib.pivots import POINTS, cells, markdown
from _lib.results import BLURRED, BY_HOSTS, METHOD_NAMES
from edittools.rewriting import RANDOM

TITLES = {
    (TARGET, CORRECTED): "errors corrected",
    (CLEAN, ACCURACY): "accuracy, points",
    (CLEAN, FLIPS): "predictions changed",
    (OWN_CLASS, CORRECT): "the mark's class with the mark",
    (OWN_CLEAN, CORRECT): "the mark's class without it",
    ("retain_test", CORRECT): "retained images correct",
    ("elsewhere", CORRECT): "predictions kept on other photos",
    ("other words", CORRECTED): "errors with other words corrected",
    ("blank", CORRECT): "objects with an empty sticker correct",
    ("unseen marks", CORRECTED): "errors with unseen marks corrected",
}
"""The title of each metric that a table shows."""

SHOWN_BY_CASE = ((TARGET, CORRECTED), (CLEAN, ACCURACY), (OWN_CLASS, CORRECT))
"""The metrics that are shown for each pair."""

MINUS = f"minus {BY_HOSTS}"
"""The condition of differences from the default."""


def compared(table: pd.DataFrame) -> str:
    """Write what each method corrects and costs, and how it differs from the default; then the values of each pair."""
    parts = []
    conditions = conditions_of(table)
    for condition in conditions:
        if len(conditions) > 1:
            parts.append(f"{condition}:")
        parts.append(of_methods(table, condition))
        parts += of_pairs(table, condition)
    return "\n\n".join(parts)


def conditions_of(table: pd.DataFrame) -> list[str]:
    """List the conditions within which methods are compared."""
    is_mean = (table.network == "all") & (table.metric == CORRECTED) & (table.split == TARGET)
    is_difference = table.condition.str.contains(MINUS, regex=False)
    return table[is_mean & ~is_difference].condition.unique().tolist()


def of_methods(table: pd.DataFrame, condition: str) -> str:
    """Write one row per method: means over all pairs, and the mean paired difference from the default."""
    everywhere = table[table.network == "all"]
    part = everywhere[everywhere.condition == condition]
    differences = everywhere[everywhere.condition == joined(condition, MINUS)]
    columns = {}
    for (split, metric), title in TITLES.items():
        columns[title] = cells(part, metric, split, interval=split == TARGET)
    columns[f"errors corrected, {MINUS}, points"] = cells(differences, CORRECTED, TARGET, look=POINTS)
    columns["accuracy, minus"] = cells(differences, ACCURACY, CLEAN)
    columns["the mark's class with the mark, minus, points"] = cells(differences, CORRECT, OWN_CLASS, look=POINTS)
    seconds = seconds_of_selection(table[table.condition == condition])
    for network, of_network in seconds.groupby("network", sort=False):
        columns[f"CPU seconds, {network}"] = of_network.set_index("method").value.map("{:,.1f}".format)
    measured = set().union(*(column.index for column in columns.values()))
    names = {name: f"**{name}**" if name == BY_HOSTS else name for name in METHOD_NAMES if name in measured}
    return markdown({"method": pd.Series(names), **columns})


def seconds_of_selection(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the CPU seconds of methods that select; random directions and blurring are measured without a selection."""
    return table[(table.metric == "CPU seconds") & ~table.method.isin((RANDOM, BLURRED))]


def of_pairs(table: pd.DataFrame, condition: str) -> list[str]:
    """Write one row per pair: what the methods correct, the change of accuracy, and the mark's class if there is one.

    Returns:
        The title and the table; nothing where there is one pair only, which the table of methods shows.
    """
    start = joined(condition, "")
    others = tuple(other for other in conditions_of(table) if other != condition and other.startswith(start))
    is_value = (table.network != "all") & (table.metric == CORRECTED) & (table.split == TARGET)
    is_here = table.condition.str.startswith(start) & (table.condition != condition)
    values = table[is_value & is_here & ~table.condition.str.startswith(others)]
    rows = []
    for (network, case), of_case in values.groupby(["network", "condition"], sort=False):
        here = table[(table.network == network) & (table.condition == case)]
        row = {"network": network, "mark or exemplar": case.removeprefix(start)}
        for method in METHOD_NAMES:
            if method in of_case.method.to_list():
                texts = [cells(here[here.method == method], metric, split) for split, metric in SHOWN_BY_CASE]
                row[method] = ", ".join(text.iloc[0] for text in texts if len(text))
        rows.append(row)
    if len(rows) == 1:
        return []
    title = (
        "By pair: errors corrected, accuracy in points, and, if the mark stands for a class, how much of it is correct:"
    )
    return [title, markdown(dict(pd.DataFrame(rows).fillna("–").items()))]


def joined(condition: str, more: str) -> str:
    """Join a condition with what tells rows apart within it."""
    return f"{condition}, {more}" if condition else more
