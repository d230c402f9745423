"""The figures of what the benchmarks found."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from edittools.plots import AFTER, BEFORE, finished, legend

KINDS = {"edit": AFTER, "fine-tuning": "#d4a72c", "interpolated": "#d4a72c", "random": BEFORE}
"""The colour of the methods whose name holds a word; all others are violet."""


def shade(method: str) -> str:
    """Give the colour of a method."""
    return next((color for word, color in KINDS.items() if word in method), "#8250df")


def methods_by_story(table: pd.DataFrame) -> Figure:
    """Draw the share of errors corrected with its interval: a panel a story, a named row a method, best first.

    `table` has the columns `story`, `method`, `share`, `low`, `high` and `holds`: "yes" (filled) where an edit keeps
    its bounds on held-out images, "no" (hollow), or "unknown" (half filled) where one of them was not measured.
    """
    stories = {name: part.sort_values("share") for name, part in table.groupby("story", sort=False)}
    lines = -(-len(stories) // 2)
    figure, axes = plt.subplots(lines, 2, figsize=(10, 2.6 * lines + 0.6), sharex=True, squeeze=False)
    looks = {"yes": ("full", "bounds hold"), "unknown": ("left", "one is unknown"), "no": ("none", "one does not hold")}
    for axis, (story, part) in zip(axes.flat, stories.items(), strict=False):
        for place, row in enumerate(part.itertuples()):
            color = shade(row.method)
            axis.plot([100 * row.low, 100 * row.high], [place, place], color=color, linewidth=1.3)
            dot = {"fillstyle": looks[row.holds][0], "markerfacecoloralt": "white", "markersize": 6.5}
            axis.plot(100 * row.share, place, "o", color=color, **dot)
        axis.set_yticks(range(len(part)), part.method, fontsize=9)
        axis.set_title(story.replace("\n", " "), fontsize=11, loc="left")
        axis.axvline(0, color="#24292f", linewidth=1)
        axis.grid(axis="x", linewidth=0.4)
        axis.tick_params(labelbottom=True)
    for axis in axes.flat[len(stories) :]:
        axis.set_visible(False)
    axes[-1, 0].set_xlabel("errors corrected, less those made (%)")
    for style, label in looks.values():
        axes[-1, 0].plot([], [], "o", color="#24292f", fillstyle=style, markerfacecoloralt="white", label=label)
    figure.legend(frameon=False, ncols=3, loc="lower right")
    return finished(figure)


def generalisation_by_locality(table: pd.DataFrame) -> Figure:
    """Draw errors corrected against locality, a line a method along its strength; a filled dot is at the chosen one.

    `table` has the columns `method`, `strength`, `errors corrected` and `locality`, the last two in [0, 1].
    """
    figure, axis = plt.subplots(figsize=(8, 4.5))
    for marker, (method, part) in zip("osD^v<>pPX*hd", table.groupby("method", sort=False), strict=False):
        filled = [index for index, strength in enumerate(part.strength) if strength == 1]
        looks = {"color": shade(method), "marker": marker, "linewidth": 2.5 if "edit" in method else 1.2, "alpha": 0.85}
        line = 100 * part.locality, 100 * part["errors corrected"]
        axis.plot(*line, **looks, fillstyle="none", label=method)
        axis.plot(*line, **looks, linestyle="none", markevery=filled)
    axis.axhline(0, color="#24292f", linewidth=1)
    axis.set_xlabel("of the 50 clean images nearest the boundary, read as before (%)")
    axis.set_ylabel("errors corrected, less those made (%)")
    axis.grid(linewidth=0.4)
    legend(axis)
    return finished(figure)
