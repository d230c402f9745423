"""Tables of methods that need no labels: means over pairs of a network and a mark, and the values of each pair."""

import pandas as pd

from _lib.effects import ACCURACY, CLEAN, CORRECT, CORRECTED, FLIPS, METRICS, OWN_CLASS, OWN_CLEAN, TARGET
from _lib.pivots import cells, markdown
from _lib.results import BY_HOSTS, METHOD_NAMES, NO_EDIT

TITLES = {
    (TARGET, CORRECTED): "errors corrected",
    (CLEAN, ACCURACY): "accuracy, points",
    (CLEAN, FLIPS): "predictions changed",
    (OWN_CLASS, CORRECT): "own class with the mark",
    (OWN_CLEAN, CORRECT): "own class without it",
}
"""The title of each metric."""

MINUS = f"minus {BY_HOSTS}"
"""The condition of differences from the default."""


def without_labels(table: pd.DataFrame) -> str:
    """Write what each method corrects and costs, and how it differs from the default; then the values of each pair."""
    everywhere = table[(table.network == "all") & ~table.condition.str.contains(MINUS, regex=False)]
    parts = []
    for condition in everywhere[everywhere.metric.isin([metric for _, metric in METRICS])].condition.unique():
        title = f"{condition}:\n\n" if condition else ""
        parts.append(f"{title}{of_methods(table, condition)}\n\n{of_pairs(table, condition)}")
    return "\n\n".join(parts)


def of_methods(table: pd.DataFrame, condition: str) -> str:
    """Write one row per method: means over all pairs, and the mean paired difference from the default."""
    everywhere = table[table.network == "all"]
    part = everywhere[everywhere.condition == condition]
    differences = everywhere[everywhere.condition == joined(condition, MINUS)]
    methods = [name for name in METHOD_NAMES if (part.method == name).any()]
    columns = {"method": pd.Series({name: f"**{name}**" if name == BY_HOSTS else name for name in methods})}
    for (split, metric), title in TITLES.items():
        columns[title] = cells(part, metric, split, interval=split == TARGET)
    columns[f"errors corrected, {MINUS}"] = cells(differences, CORRECTED, TARGET)
    columns["accuracy, minus"] = cells(differences, ACCURACY, CLEAN)
    columns["own class with the mark, minus"] = cells(differences, CORRECT, OWN_CLASS)
    seconds = table[(table.metric == "CPU seconds") & (table.condition == condition)]
    for network, of_network in seconds.groupby("network", sort=False):
        columns[f"CPU seconds, {network}"] = of_network.set_index("method").value.map("{:.3g}".format)
    return markdown(columns)


def of_pairs(table: pd.DataFrame, condition: str) -> str:
    """Write one row per network and mark: what the methods correct, the change of accuracy, and the own class."""
    here = table[(table.network != "all") & (table.metric == CORRECTED) & (table.method == BY_HOSTS)]
    start = joined(condition, "")
    cases = [row for row in here.itertuples() if row.condition.startswith(start) and row.condition != condition]
    rows = []
    for case in cases:
        of_case = table[(table.network == case.network) & (table.condition == case.condition)]
        row = {"network": case.network, "mark": case.condition.removeprefix(start)}
        for method in METHOD_NAMES:
            of_method = of_case[of_case.method == method]
            if method != NO_EDIT and len(of_method):
                values = [cells(of_method, metric, split).iloc[0] for split, metric in (*METRICS[:2], METRICS[3])]
                row[method] = ", ".join(values)
        rows.append(row)
    title = "Errors corrected, change of accuracy in points, and own class with the mark, for each pair:"
    return f"{title}\n\n{markdown(dict(pd.DataFrame(rows).items()))}"


def joined(condition: str, more: str) -> str:
    """Join a condition with what tells rows apart within it."""
    return f"{condition}, {more}" if condition else more
