"""Figures of what the benchmarks found. Each gives a Figure."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from edittools.lab.plots import BEFORE, finished, legend


def many_edits(table: pd.DataFrame) -> Figure:
    """Draw what is left of single edits' corrections when more are in, and what breaks: a line for each way to combine.

    `table` has the columns `how`, `rules`, `left`, `kept broken` (shares) and `clean change` (points).
    """
    titles = {
        "left": "corrected by single edits, still right (%)",
        "kept broken": "kept report broken (%)",
        "clean change": "accuracy, held out (points)",
    }
    figure, axes = plt.subplots(1, len(titles), figsize=(11, 3.0))
    for axis, (column, title) in zip(axes, titles.items(), strict=True):
        for colour, (how, part) in zip(sns.color_palette("colorblind"), table.groupby("how", sort=False), strict=False):
            scale = 1 if column == "clean change" else 100
            axis.plot(part.rules, scale * part[column], "o-", color=colour, label=how)
        axis.set_xscale("log", base=2)
        counts = sorted(table.rules.unique())
        axis.set_xticks(counts, counts)
        axis.set(xlabel="rules cured", title=title)
        axis.title.set_fontsize(9)
    legend(axes[-1])
    return finished(figure)


def methods_by_story(table: pd.DataFrame) -> Figure:
    """Draw the share of errors corrected with its interval, a row a story, a dot a method, always in the same order.

    `table` has the columns `story`, `method`, `share`, `low`, `high` and `holds`: "yes" (filled) where an edit keeps
    its bounds on held-out images, "no" (hollow), or "unknown" (half filled) where one of them was not measured.
    """
    stories, methods = table.story.unique(), table.method.unique()
    step = 1 / (len(methods) + 2)
    figure, axis = plt.subplots(figsize=(9, 0.12 * len(stories) * (len(methods) + 2) + 1.7))
    looks = {"yes": ("full", "bounds hold"), "unknown": ("left", "one is unknown"), "no": ("none", "one does not hold")}
    colours = [*sns.color_palette("colorblind", 8), *sns.color_palette("dark")]  # without the yellow
    for k, (method, colour) in enumerate(zip(methods, colours, strict=False)):
        for row in table[table.method == method].itertuples():
            place = list(stories).index(row.story) + (k - (len(methods) - 1) / 2) * step
            axis.plot([100 * row.low, 100 * row.high], [place, place], color=colour, linewidth=1.3)
            dot = {"fillstyle": looks[row.holds][0], "markerfacecoloralt": "white", "markersize": 6.5}
            axis.plot(100 * row.share, place, "o", color=colour, **dot)
        axis.plot([], [], "o", color=colour, label=method)
    for style, label in looks.values():
        axis.plot([], [], "o", color="#24292f", fillstyle=style, markerfacecoloralt="white", label=label)
    axis.hlines(np.arange(len(stories) - 1) + 0.5, 0, 1, BEFORE, linewidth=0.6, transform=axis.get_yaxis_transform())
    axis.axvline(0, color="#24292f", linewidth=1)
    axis.set(ylim=(len(stories) - 0.5, -0.5), xlabel="errors corrected, less those made (%)")
    axis.set_yticks(range(len(stories)), stories)
    axis.grid(axis="x", linewidth=0.4)
    axis.legend(frameon=False, fontsize=9, ncols=4, loc="lower left", bbox_to_anchor=(-0.2, 1.0))
    return finished(figure)
