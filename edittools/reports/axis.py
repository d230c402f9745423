"""The axis below the bars of a report."""

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import NamedTuple

MOST_STEPS = 7
"""The largest number of steps between the ticks among the numbers of an axis."""


class Tick(NamedTuple):
    """A tick of an axis: its place, in percent, and its text."""

    place: float
    text: str


class Axis:
    """An axis that contains some numbers, with round ticks.

    Args:
        numbers: the numbers.
        start: place of the lower end, in percent.
        end: place of the upper end, in percent; less than `start` on an axis that is turned around.
        form: format of the texts of the ticks.
    """

    def __init__(self, numbers: Sequence[float], start: float, end: float, form: str = "g") -> None:
        least = min(numbers)
        most = max(numbers)
        margin = 0.08 * (most - least) or 1.0
        self.least = least - margin
        self.most = most + margin
        self.start = start
        self.end = end
        step = round_step((self.most - self.least) / MOST_STEPS)
        steps = range(ceil(self.least / step), floor(self.most / step) + 1)
        self.ticks = [Tick(self.place(step * count), _text(step * count, form)) for count in steps]

    def place(self, number: float) -> float:
        """Return the place of a number, in percent."""
        share = (number - self.least) / (self.most - self.least)
        return round(self.start + share * (self.end - self.start), 2)


def round_step(number: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is at least a positive number."""
    power = 10.0 ** floor(log10(number))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= number)


def _text(number: float, form: str) -> str:
    """Write a number with a minus sign; 0 has no sign."""
    return format(number, form).replace("-", "−") if number else "0"
