"""The figures of all experiments."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edittools.plots import AFTER, BEFORE, finished

KINDS = {"edit": AFTER, "fine-tuning": "#d4a72c", "interpolated": "#d4a72c", "random": BEFORE}
"""The color of the methods whose name holds a word; all others are violet."""


def shade(method: str) -> str:
    """Return the color of a method."""
    return next((color for word, color in KINDS.items() if word in method), "#8250df")


def methods_by_experiment(table: pd.DataFrame) -> Figure:
    """Draw the share of errors corrected with its interval: one panel per experiment, one row per method, best first.

    `table` has the columns `experiment`, `method`, `share`, `low`, `high` and `constraints`: "yes" (a filled marker)
    where both constraints hold on test images, "no" (hollow), or "unknown" (half filled) where one was not measured.
    """
    panels = {name: part.sort_values("share") for name, part in table.groupby("experiment", sort=False)}
    lines = -(-len(panels) // 2)
    figure, axes = plt.subplots(lines, 2, figsize=(10, 2.6 * lines + 0.6), sharex=True, squeeze=False)
    looks = {
        "yes": ("full", "both constraints hold"),
        "unknown": ("left", "one was not measured"),
        "no": ("none", "one is violated"),
    }
    for axis, (name, part) in zip(axes.flat, panels.items(), strict=False):
        for place, row in enumerate(part.itertuples()):
            color = shade(row.method)
            axis.plot([100 * row.low, 100 * row.high], [place, place], color=color, linewidth=1.3)
            marker = {"fillstyle": looks[row.constraints][0], "markerfacecoloralt": "white", "markersize": 6.5}
            axis.plot(100 * row.share, place, "o", color=color, **marker)
        axis.set_yticks(range(len(part)), part.method, fontsize=9)
        axis.set_title(name, fontsize=11, loc="left")
        axis.axvline(0, color="#24292f", linewidth=1)
        axis.grid(axis="x", linewidth=0.4)
        axis.tick_params(labelbottom=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    axes.flat[len(panels) - 1].set_xlabel("errors corrected minus introduced (%)")
    for style, label in looks.values():
        axes[-1, 0].plot([], [], "o", color="#24292f", fillstyle=style, markerfacecoloralt="white", label=label)
    figure.legend(frameon=False, ncols=3, loc="lower left")
    return finished(figure)


def generalization_by_locality(table: pd.DataFrame) -> Figure:
    """Draw errors corrected against locality along the strength, one panel per method with the edit for comparison.

    `table` has the columns `method`, `strength`, `errors corrected` and `locality`, the last two in [0, 1]. A filled
    marker is at the selected strength, which is 1. One of the methods is named "edit".
    """
    methods = dict(list(table.groupby("method", sort=False)))
    others = [name for name in methods if name != "edit"]
    columns = min(len(others), 6)
    lines = -(-len(others) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(2.1 * columns + 0.4, 2 * lines + 0.6), sharex=True, sharey=True, squeeze=False
    )
    for place, (axis, method) in enumerate(zip(axes.flat, others, strict=False)):
        axis.tick_params(labelbottom=place + columns >= len(others))
        _draw_line(axis, methods["edit"], KINDS["edit"], 2.5)
        _draw_line(axis, methods[method], "#24292f" if "edit" in method else shade(method), 1.5)
        axis.set_title(method.replace(", ", ",\n"), fontsize=8, loc="left")
        axis.axhline(0, color="#24292f", linewidth=1)
        axis.grid(linewidth=0.4)
    for axis in axes.flat[len(others) :]:
        axis.set_visible(False)
    figure.supxlabel("locality: of the 50 nearest clean images, those still classified correctly (%)", fontsize=10)
    figure.supylabel("errors corrected minus errors introduced (%)", fontsize=10)
    return finished(figure)


def errors_by_exemplar_count(table: pd.DataFrame) -> Figure:
    """Draw errors corrected against the number of exemplars: one panel per split, one line per method.

    `table` has the columns `method`, `split`, `exemplars`, and `value`, `low`, `high` in [0, 1].
    """
    panels = dict(list(table.groupby("split", sort=False)))
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels) + 2.4, 3.4), sharey=True, squeeze=False)
    for axis, (split, panel) in zip(axes.flat, panels.items(), strict=True):
        counts = sorted(panel.exemplars.unique())
        for shift, (method, line) in enumerate(panel.groupby("method", sort=False)):
            line = line.sort_values("exemplars")
            places = [counts.index(count) + 0.06 * shift for count in line.exemplars]
            errors = [100 * (line.value - line.low), 100 * (line.high - line.value)]
            color = shade(method)
            axis.errorbar(places, 100 * line.value, yerr=errors, color=color, marker="o", label=method, linewidth=1.5)
        axis.set_xticks(range(len(counts)), counts)
        axis.set_xlabel("exemplars")
        axis.set_title(split, fontsize=11, loc="left")
        axis.axhline(0, color="#24292f", linewidth=1)
        axis.grid(axis="y", linewidth=0.4)
    axes[0, 0].set_ylabel("errors corrected minus introduced (%)")
    axes[0, -1].legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.02, 1))
    return finished(figure)


def _draw_line(axis: Axes, part: pd.DataFrame, color: str, width: float) -> None:
    """Draw one method along its strength."""
    line = 100 * part.locality, 100 * part["errors corrected"]
    selected = [index for index, strength in enumerate(part.strength) if strength == 1]
    looks = {"color": color, "marker": "o", "markersize": 4, "alpha": 0.85}
    axis.plot(*line, **looks, linewidth=width, fillstyle="none")
    axis.plot(*line, **looks, linestyle="none", markevery=selected)
