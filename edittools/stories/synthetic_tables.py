"""Tables of a synthetic sweep: means over cases with intervals, breakdowns, trade-offs."""

import pandas as pd

from edittools.choosing.choice import BUDGET
from edittools.probing.statistics import bootstrap

MEASURES = ("other same", "other held out", "target same", "target held out")


def per_case(table: pd.DataFrame) -> pd.DataFrame:
    """Add eq. (2) for each of `MEASURES` as columns; NaN where there was nothing to correct. Undefined cases go."""
    table = table[table.method != "undefined"].copy()
    for name in MEASURES:
        before = table[f"{name} before"].where(table[f"{name} before"] > 0)
        table[name] = (before - table[f"{name} after"]) / before
    return table


def summary(
    table: pd.DataFrame, budget: float = BUDGET, exemplars: int | None = None, by: str = "method"
) -> pd.DataFrame:
    """Average over cases, one row for each `by` and measure: mean of eq. (2), 95 % `low` and `high`, and `cases`.

    `pooled` is eq. (2) over all images of all cases together, in which a case with many errors weighs more;
    `accuracy_change` is the mean, in points. `exemplars` defaults to the number that all methods were given.
    """
    number = table.exemplars.dropna().iloc[0] if exemplars is None else exemplars
    chosen = per_case(table)
    chosen = chosen[(chosen.budget == budget) & (chosen.exemplars == number)]
    rows = []
    for key, part in chosen.groupby(by, sort=False):
        for name in MEASURES:
            low, high = bootstrap(part[name].dropna())
            total = part[f"{name} before"].sum()
            counts = {what: int(part[f"{name} {what}"].sum()) for what in ("corrected", "broken")}
            row = {by: key, "measure": name, "mean": part[name].mean(), "low": low, "high": high}
            row |= {"cases": int(part[name].notna().sum()), "undefined": int(part[name].isna().sum())}
            row["pooled"] = (total - part[f"{name} after"].sum()) / total if total else float("nan")
            rows.append({**row, **counts, "accuracy_change": part.accuracy_change.mean()})
    return pd.DataFrame(rows)


def by(table: pd.DataFrame, column: str, measure: str = "other same", budget: float = BUDGET) -> pd.DataFrame:
    """Break eq. (2) down: mean over cases by method and a column, such as `concept`, `style`, `layer` or `budget`.

    Except by `exemplars`, only the rows with the number of exemplars that all methods were given are used, and by
    `exemplars` only the cases that tried several; except by `budget`, only the rows of one budget.
    """
    chosen = per_case(table)
    if column == "exemplars":
        chosen = chosen[chosen.groupby("job").exemplars.transform("nunique") > 1]
    else:
        chosen = chosen[chosen.exemplars == table.exemplars.dropna().iloc[0]]
    if column != "budget":
        chosen = chosen[chosen.budget == budget]
    order = list(dict.fromkeys(chosen.method))
    return chosen.pivot_table(measure, "method", column, sort=True).reindex(order)


def trade_off(table: pd.DataFrame, measure: str = "other same") -> pd.DataFrame:
    """Give, for each method and budget, the mean accuracy change in points and the mean share of errors `corrected`."""
    chosen = per_case(table)
    chosen = chosen[chosen.exemplars == table.exemplars.dropna().iloc[0]]
    return (
        chosen.groupby(["method", "budget"], sort=False)
        .agg(accuracy_change=("accuracy_change", "mean"), corrected=(measure, "mean"))
        .reset_index()
    )
