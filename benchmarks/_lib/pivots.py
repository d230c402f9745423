"""Tables of results: figures are formatted by metric, pivoted with pandas, and written in Markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

LEAST = 10
"""Intervals of fewer cases, errors or images are not shown."""


class Format(NamedTuple):
    """How a value is written, and the bounds of its interval."""

    value: Callable[[float], str]
    bound: Callable[[float], str]


def _number(value: float, digits: int = 0, sign: str = "") -> str:
    """Write a number with a proper minus sign; what is rounded to zero has none."""
    rounded = round(value, digits) + 0.0
    return f"{rounded:{sign}.{digits}f}".replace("-", "−")


SHARE = Format(lambda value: f"{_number(100 * value)}%", lambda value: _number(100 * value))
PRECISE_SHARE = Format(lambda value: f"{_number(100 * value, 1)}%", lambda value: _number(100 * value, 1))
SIGNED_SHARE = Format(lambda value: f"{_number(100 * value, 0, '+')}%", lambda value: _number(100 * value, 0, "+"))
POINTS = Format(lambda value: _number(100 * value, 0, "+"), lambda value: _number(100 * value, 0, "+"))
CHANGE = Format(lambda value: _number(value, 2, "+"), lambda value: _number(value, 2, "+"))
FINE_CHANGE = Format(lambda value: _number(value, 3, "+"), lambda value: _number(value, 3, "+"))
DECIMAL = Format("{:.2f}".format, "{:.2f}".format)
COUNT = Format("{:.0f}".format, "{:.0f}".format)
P_VALUE = Format("{:.2g}".format, "{:.2g}".format)
RATIO = Format("{:,.0f}".format, "{:,.0f}".format)
LOSS = Format("{:.3f}".format, "{:.3f}".format)

FORMATS = {
    "errors corrected": SHARE,
    "correct": PRECISE_SHARE,
    "predictions changed": PRECISE_SHARE,
    "criterion": SIGNED_SHARE,
    "effect": SIGNED_SHARE,
    "accuracy change": CHANGE,
    "precision": DECIMAL,
    "recall": DECIMAL,
    "rank correlation": DECIMAL,
    "errors corrected, selected by hosts": SHARE,
    "errors corrected, median candidate": SHARE,
    "errors corrected, best by labels": SHARE,
    "p": P_VALUE,
    "maximum on it": SHARE,
    "area": SHARE,
}
"""The format of each metric; all others are counts."""


def cells(
    table: pd.DataFrame,
    metric: str,
    split: str | None = None,
    *,
    index: str | Sequence[str] = "method",
    interval: bool = True,
    look: Format | None = None,
) -> pd.Series:
    """Write one metric as text.

    Args:
        table: rows of the long table.
        metric: the metric.
        split: the split; needed where the table has the metric of several splits.
        index: column or columns that the result is indexed by.
        interval: show the interval; those of fewer than `LEAST` are not shown.
        look: how values are written; by default as the metric is.

    Returns:
        One text per value of `index`, in the order of the table: empty if no row has the metric, a dash if the value is
        undefined.

    Raises:
        ValueError: if two rows have the same index.
    """
    rows = table[table.metric == metric]
    rows = rows if split is None else rows[rows.split == split]
    keys = [index] if isinstance(index, str) else list(index)
    if rows.duplicated(keys).any():
        twice = rows[rows.duplicated(keys, keep=False)][["run", *keys, "split", "condition"]].head(2).to_dict("records")
        raise ValueError(f"{metric!r} has several values: {twice}; name the split, or select the network or condition")
    look = look or FORMATS.get(metric, COUNT)
    texts = [_cell(row, look, interval) for row in rows.itertuples()]
    return pd.Series(texts, index=pd.MultiIndex.from_frame(rows[keys]) if len(keys) > 1 else rows[index], dtype=object)


def _cell(row: tuple, look: Format, interval: bool) -> str:
    """Write a value with its interval."""
    if np.isnan(row.value):
        return "–"
    is_shown = interval and not np.isnan(row.low) and (pd.isna(row.n) or row.n >= LEAST)
    return look.value(row.value) + (f" [{look.bound(row.low)}, {look.bound(row.high)}]" if is_shown else "")


def markdown(columns: Mapping[str, pd.Series], order: Sequence | None = None, rows: str = "") -> str:
    """Write texts as a Markdown table.

    Args:
        columns: one series of texts per column, by title. A column that is empty everywhere is left out.
        order: the rows, by index; by default those of the first column.
        rows: title of the index; without one it is not shown.
    """
    columns = {title: column for title, column in columns.items() if len(column)}
    order = next(iter(columns.values())).index if order is None else order
    frame = pd.DataFrame({title: column.reindex(order) for title, column in columns.items()})
    frame = frame.dropna(axis="columns", how="all").fillna("")
    if rows:
        frame.insert(0, rows, list(order))
    return frame.to_markdown(index=False, tablefmt="github", disable_numparse=True)
