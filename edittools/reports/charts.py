"""Two charts of a search: what an edit does in each layer, and what the best candidates correct and cost.

Their figures are of images that were used for selection, and both charts say so. A report shows them, see `Page`;
`render_layers` renders the first one on its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import NamedTuple

LEFT, RIGHT = 15.0, 97.0
"""The left and the right end of the area of a plot, in percent of its width."""

UPPER, LOWER = 4.0, 79.0
"""The upper and the lower end of the area of a plot, in percent of its height."""

MOST_STEPS = 7
"""The largest number of steps between the ticks among the numbers of an axis."""


@dataclass(frozen=True)
class LayerBar:
    """What the best candidate with default settings does in one layer.

    Attributes:
        layer: name of the layer.
        corrected: number of images that it corrects.
        broken: number of images that it breaks.
        loss: its mean cross-entropy.
        goes_on: whether the whole grid was tried in this layer.
        selected: whether the selected edit changes this layer.
    """

    layer: str
    corrected: int
    broken: int
    loss: float
    goes_on: bool = False
    selected: bool = False


@dataclass(frozen=True)
class Point:
    """What one candidate corrects and costs.

    Attributes:
        candidate: its parameters in words.
        corrected: number of images that it corrects.
        broken: number of images that it breaks.
        accuracy_change: change of accuracy on clean images, in points.
        retained_broken: number of retained images that it breaks.
        feasible: whether it satisfies the constraints.
        selected: whether it is the selected one.
    """

    candidate: str
    corrected: int
    broken: int
    accuracy_change: float
    retained_broken: int
    feasible: bool
    selected: bool = False

    @property
    def net(self) -> int:
        """The number of images corrected, less those broken."""
        return self.corrected - self.broken


@dataclass(frozen=True)
class TradeOff:
    """What the best candidates correct and cost, and what they may cost.

    Attributes:
        points: the candidates.
        least_accuracy_change: the lowest change of accuracy of a feasible candidate, in points.
        most_retained_broken: the largest number of retained images that a feasible candidate breaks; None without
            retained images.
    """

    points: Sequence[Point]
    least_accuracy_change: float
    most_retained_broken: int | None = None


class Tick(NamedTuple):
    """A tick of an axis: its place, in percent, and its text."""

    place: float
    text: str


class Mark(NamedTuple):
    """A candidate in a plot: its place, in percent of the width and of the height."""

    x: float
    y: float
    point: Point


class Axis:
    """An axis that contains some numbers, with round ticks.

    Args:
        numbers: the numbers.
        start: place of the lower end, in percent.
        end: place of the upper end, in percent; less than `start` on an axis that is turned around.
        form: format of the texts of the ticks.
        whole: whether all numbers are whole.
    """

    def __init__(
        self, numbers: Sequence[float], start: float, end: float, form: str = "g", whole: bool = False
    ) -> None:
        least = min(numbers)
        most = max(numbers)
        margin = 0.08 * (most - least) or 1.0
        self.least = least - margin
        self.most = most + margin
        self.start = start
        self.end = end
        step = round_step((self.most - self.least) / MOST_STEPS)
        step = max(step, 1) if whole else step
        steps = range(ceil(self.least / step), floor(self.most / step) + 1)
        self.ticks = [Tick(self.place(step * count), _text(step * count, form)) for count in steps]

    def place(self, number: float) -> float:
        """Return the place of a number, in percent."""
        share = (number - self.least) / (self.most - self.least)
        return round(self.start + share * (self.end - self.start), 2)


@dataclass(frozen=True)
class Plot:
    """A cost of candidates against what they correct. Better is up and to the right.

    Attributes:
        title: what the vertical axis shows.
        marks: the candidates.
        across: the horizontal axis, corrected minus broken.
        upwards: the vertical axis.
        limit: place of the constraint on the vertical axis, in percent; None if it is outside the plot.
    """

    title: str
    marks: Sequence[Mark]
    across: Axis
    upwards: Axis
    limit: float | None


def plots_of(trade_off: TradeOff) -> list[Plot]:
    """Lay out the plots of a trade-off: of the accuracy and, if there are any, of the retained images."""
    changes = [point.accuracy_change for point in trade_off.points]
    upwards = Axis([0.0, *changes], LOWER, UPPER, "+g")
    title = "change of accuracy on clean images, in points"
    plots = [_plot(title, trade_off.points, upwards, changes, trade_off.least_accuracy_change)]
    if trade_off.most_retained_broken is not None:
        counts = [point.retained_broken for point in trade_off.points]
        upwards = Axis([0, 1, *counts], UPPER, LOWER, whole=True)
        title = "retained images broken (0 at the top)"
        plots.append(_plot(title, trade_off.points, upwards, counts, trade_off.most_retained_broken))
    return plots


def _plot(title: str, points: Sequence[Point], upwards: Axis, costs: Sequence[float], limit: float) -> Plot:
    """Lay out one cost of the candidates."""
    across = Axis([point.net for point in points], LEFT, RIGHT, whole=True)
    marks = []
    for point, cost in zip(points, costs, strict=True):
        marks.append(Mark(across.place(point.net), upwards.place(cost), point))
    is_inside = upwards.least <= limit <= upwards.most
    return Plot(title, marks, across, upwards, upwards.place(limit) if is_inside else None)


def round_step(number: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is at least a positive number."""
    power = 10.0 ** floor(log10(number))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= number)


def _text(number: float, form: str) -> str:
    """Write a number with a minus sign; 0 has no sign."""
    return format(number, form).replace("-", "−") if number else "0"
