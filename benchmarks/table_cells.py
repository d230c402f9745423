"""What the tables of docs/results.md are put together from: cells and Markdown."""

from collections.abc import Iterable
from typing import Any

Figures = dict[str, Any]


def points(value: float) -> str:
    """An accuracy change in points."""
    return f"{value:+.2f}".replace("-", "−")


def share(value: float, low: float, high: float, signed: bool = False) -> str:
    """A share in per cent, with its interval."""
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.0f} % [{100 * low:{sign}.0f}, {100 * high:{sign}.0f}]".replace("-", "−")


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table of a head and rows."""
    head = list(head)
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], f"|{' --- |' * len(head)}", *lines[1:]])
