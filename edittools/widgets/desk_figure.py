"""The desk as a figure, for viewers of a saved notebook that run no widgets."""

import textwrap
from typing import Any

import ipywidgets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from torch import Tensor

from edittools.plots.figures import OVERLAY, STATE_COLORS, draw_pixels
from edittools.widgets.pixels import plain_text, to_pixels

SIZE = (13.0, 6.6)
"""Width and height of the figure in inches."""

COLUMNS = 4
ROWS = 5
"""Columns and rows of the gallery in the figure."""


def desk_figure(desk: ipywidgets.VBox) -> Figure:
    """Draw a desk as it looks now.

    Args:
        desk: the desk, a `Desk`.

    Returns:
        The figure: on the left the first images of the gallery with their predictions, in the middle the image in the
        editor with its mask and heat map, on the right what is selected, x and x', and the verdict.
    """
    figure = Figure(figsize=SIZE)
    _draw_gallery(figure, desk)
    _draw_editor(figure, desk)
    _draw_controls(figure, desk)
    return figure


def _draw_gallery(figure: Figure, desk: ipywidgets.VBox) -> None:
    """Draw the first images of the gallery; the selected one has a frame."""
    figure.text(
        0.01,
        0.97,
        f"1 Select an image ({desk.controls.group.value}, {desk.controls.sort.value})",
        weight="bold",
        va="top",
    )
    for place, position in enumerate(desk.gallery.order[: COLUMNS * ROWS]):
        left = 0.01 + 0.085 * (place % COLUMNS)
        upper = 0.93 - 0.187 * (place // COLUMNS)
        card = desk.gallery.cards[position]
        index = desk.image_at(position)
        axes = figure.add_axes((left, upper - 0.118, 0.075, 0.118))
        _draw_image(axes, desk.session.images.images[index])
        for spine in axes.spines.values():
            spine.set_visible(index == desk.index)
            spine.set(color="#1976d2", linewidth=2.5)
        _write_card(figure, left, upper - 0.121, card, 0.073)


def _draw_editor(figure: Figure, desk: ipywidgets.VBox) -> None:
    """Draw the image in the editor, under its heat map and its mask."""
    figure.text(0.365, 0.97, "2 Mark what misleads", weight="bold", va="top")
    axes = figure.add_axes((0.365, 0.26, 0.34, 0.66), anchor="NW")
    _draw_image(axes, desk.editor.shown_image)
    mask = desk.editor.mask
    if mask.any():
        axes.contourf(mask.numpy(), levels=[0.5, 1.5], colors=[OVERLAY], alpha=0.45)
        axes.contour(mask.numpy(), levels=[0.5], colors=[OVERLAY], linewidths=1.5)
    figure.text(0.365, 0.235, f"{int(mask.sum()):,} px, {100 * float(mask.mean()):.1f}% of the image", va="top")
    if desk.controls.heat.value:
        heat = f"{desk.controls.heat.description} Bright: where the layer argues for {desk.controls.heat_class.value}"
        figure.text(0.365, 0.20, plain_text(heat), va="top", style="italic")


def _draw_controls(figure: Figure, desk: ipywidgets.VBox) -> None:
    """Write what is selected, and draw x and x' and the verdict."""
    controls = desk.controls
    left = 0.72
    figure.text(left, 0.97, "3 Replace it, and rewrite", weight="bold", va="top")
    settings = [f"label: {controls.class_name.value}", f"replace by: {controls.material.value}"]
    _write(figure, left, 0.925, settings)
    if desk.pair is not None:
        for number, image in enumerate((desk.pair.image, desk.pair.changed)):
            across = left + 0.11 * number
            _draw_image(figure.add_axes((across, 0.68, 0.1, 0.165)), image)
            _write_card(figure, across, 0.675, controls.pair.cards[number], 0.095)
    settings = [f"layer: {controls.layer.value}", f"strength: {controls.strength.value:g}"]
    bottom = _write(figure, left, 0.60, [*settings, "", controls.message.text])
    if desk.result is not None:
        figure.text(left, bottom - 0.02, controls.title_text, weight="bold", va="top", size=9)
        _write(figure, left, bottom - 0.055, controls.verdict.text.split("\n"))


def _draw_image(axes: Axes, image: Tensor) -> None:
    """Draw an image without ticks; a small one is enlarged without blurring."""
    draw_pixels(axes, to_pixels(image))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _write_card(figure: Figure, left: float, upper: float, card: dict[str, Any], width: float) -> None:
    """Write the lines of a card below its image; the names of classes are shortened, the probabilities are not.

    Args:
        figure: the figure.
        left: left end of the lines.
        upper: upper end of the first line.
        card: the card.
        width: the width of the lines, as a share of that of the figure.
    """
    room = 72 * SIZE[0] * width  # in points
    for number, (text, probability) in enumerate(card["lines"]):
        is_first = number == 0
        font = FontProperties(size=7, weight="bold" if is_first else "normal")
        figure.text(
            left,
            upper - 0.021 * number,
            plain_text(_fitted(text, probability, font, room)),
            va="top",
            fontproperties=font,
            color="black" if is_first else STATE_COLORS[card["state"]],
        )


def _fitted(text: str, probability: str, font: FontProperties, room: float) -> str:
    """Shorten a text until it fits into a line of `room` points together with its probability."""
    arrow = " →" if text.endswith("→") else ""
    name = text.removesuffix(arrow)
    line = f"{text} {probability}".rstrip()
    while name and TextPath((0, 0), line, prop=font, usetex=False).get_extents().width > room:
        name = name[:-1]
        line = f"{name.rstrip()}…{arrow} {probability}".rstrip()
    return line


def _write(figure: Figure, left: float, upper: float, sentences: list[str]) -> float:
    """Write sentences below each other, each wrapped, and return where the next one would begin."""
    lines = []
    for sentence in sentences:
        lines += textwrap.wrap(sentence, 50) or [""]
    for number, line in enumerate(lines):
        figure.text(left, upper - 0.032 * number, plain_text(line), va="top", size=9)
    return upper - 0.032 * len(lines)
