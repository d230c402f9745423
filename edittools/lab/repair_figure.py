"""What `repair` found, in one figure."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edittools.choosing.choice import BUDGET, most_broken
from edittools.choosing.repair import Repair
from edittools.lab.plots import AFTER, BEFORE, WRONG, picture, predictions, some_of, stretched


def repair_figure(fix: Repair, count: int = 12) -> Figure:
    """Draw what a repair found, in three parts.

    The net share of the failing images that each method corrects, held out, with its interval; what the edit's trials
    gained and cost where they were chosen (`Repair.costs`), the bound a dotted line, the choice a ring; and where the
    key fires in x', over up to `count` failing images with their label, and what they are read as before and with the
    edit.
    """
    states, story = fix.protocol.states["validation"], fix.protocol.story
    indices = some_of(range(len(states.labels)), count)
    height = 1.9 * -(-len(indices) // 6)
    figure = Figure(figsize=(11, 3.4 + height), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3.4, height))
    above.suptitle(fix.verdict.splitlines()[0], fontsize=9)
    bars, costs, firing = above.subplots(1, 3, width_ratios=(1.3, 1.3, 1))
    _held_out(fix.table, bars)
    _trial_costs(fix, costs)
    exemplar = story.exemplars[fix.methods["edit"].settings.get("exemplar", next(iter(story.exemplars)))]
    picture(firing, exemplar.changed, fix.edit.firing_map(story.classifier, exemplar.changed))
    firing.set_title("where the key fires in x'", fontsize=8.5)
    after = states.logits(fix.edit)
    predictions(story.validation, after, states.original, indices=indices, columns=6, within=below)
    return figure


def _held_out(table: pd.DataFrame, axis: Axes) -> None:
    """A bar for each method, from the top down, with its interval and what it corrects / breaks."""
    places, share = np.arange(len(table))[::-1], 100 * table["share"].to_numpy()
    axis.barh(places, share, 0.7, color=[AFTER if name == "edit" else BEFORE for name in table.index])
    sides = np.abs(100 * table[["low", "high"]].to_numpy().T - share)
    axis.errorbar(share, places, xerr=sides, fmt="none", ecolor="#24292f", elinewidth=1, capsize=2)
    axis.set_yticks(places, [f"{name}\n{row.corrected} / {row.broken}" for name, row in table.iterrows()], fontsize=8)
    axis.axvline(0, color="#24292f", linewidth=1)
    axis.set_xlabel(f"net of {table.failing.iloc[0]} misread images corrected, held out (%)", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _trial_costs(fix: Repair, axis: Axes) -> None:
    """A dot for each trial: its net gain on failing images against the cost that bounds the choice."""
    trials, states = fix.costs(), fix.protocol.states
    images = len(states.get("keep", states["budget"]).labels)
    if "keep" in states:
        cost, bound = 100 * trials["kept broken"] / images, 100 * most_broken(images) / images
        stretched(axis, cost.max())
        axis.set_xlabel(f"{images} kept images broken (%)", fontsize=8)
    else:
        cost, bound = -trials["accuracy change"], max(BUDGET, 100 / images)
        axis.set_xlabel("accuracy lost on everyday images (points)", fontsize=8)
    chosen = trials.chosen
    axis.scatter(cost, trials.net, 14, color=BEFORE, alpha=0.5, linewidths=0)
    axis.scatter(cost[chosen], trials.net[chosen], 90, facecolors="none", edgecolors=AFTER, linewidths=2)
    axis.axvline(bound, color=WRONG, linewidth=0.8, linestyle=":")
    axis.set_ylabel("net failing images corrected, by trial", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
