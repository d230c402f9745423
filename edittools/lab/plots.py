"""The notebooks' figures: pictures with predictions, error rates with intervals, trade-offs. Each gives a Figure."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.images import LabelledImages
from edittools.metrics import errors, predict

RIGHT, WRONG, BEFORE, AFTER = "#1a7f37", "#cf222e", "#8c959f", "#0969da"
RIVALS = ("projection", "null space", "closed form")
WHISKERS = {"fmt": "none", "ecolor": "#24292f", "elinewidth": 1, "capsize": 2}
OVERLAY = "#e6007e"  # shows on snow, asphalt, grass and sky


def image_grid(
    images: Sequence[Tensor] | Tensor,
    titles: Sequence[str] | None = None,
    right: Sequence[bool] | Tensor | None = None,
    overlays: Sequence[Tensor] | None = None,
    columns: int = 5,
    width: float = 2.0,
) -> Figure:
    """Draw `(3, H, W)` images in a grid, each with a title; `right` colours these green and red.

    `overlays` are `(H, W)` maps, 0 transparent and 1 (or more) strong, drawn over the images.
    """
    columns = min(columns, max(len(images), 1))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * width, rows * (width + 0.45)), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        pixels = image.detach().cpu().permute(1, 2, 0).clamp(0, 1).numpy()
        axis.imshow(pixels, interpolation="nearest" if image.shape[-1] < 100 else "antialiased")
        if overlays is not None:
            heat = overlays[i].cpu().clamp(0, 1).numpy()
            axis.imshow(np.ones_like(heat), cmap=ListedColormap([OVERLAY]), alpha=0.7 * heat)
        if titles is not None:
            colour = "black" if right is None else RIGHT if bool(right[i]) else WRONG
            axis.set_title(titles[i], fontsize=9, color=colour)
    figure.tight_layout(pad=0.4)
    plt.close(figure)
    return figure


def predictions(
    data: LabelledImages,
    logits: Tensor,
    before: Tensor | None = None,
    count: int = 10,
    indices: Sequence[int] | None = None,
    **grid: Any,
) -> Figure:
    """Draw some images, each with its class, and below what it is read as; wrong readings are red.

    With `before` `(N, classes)` a reading that has changed is `before → after`. Without `indices`, up to half of
    `count` are wrong ones, spread over the set. `grid` are options of `image_grid`.
    """
    guesses, wrong = logits.argmax(dim=1), errors(logits, data.labels)
    if indices is None:
        bad, good = (some_of(chosen.nonzero()[:, 0].tolist(), count // 2) for chosen in (wrong, ~wrong))
        indices = [*bad, *good]

    def name(label: Tensor) -> str:
        found = data.classes[int(label)]
        return found if len(found) < 15 else f"{found[:13]}…"

    first, titles = guesses if before is None else before.argmax(dim=1), []
    for i in indices:
        changed = f"{name(first[i])} → " if first[i] != guesses[i] else ""
        titles.append(f"{name(data.labels[i])}\n{changed}{name(guesses[i])}")
    return image_grid(torch.stack([data.images[i] for i in indices]), titles, ~wrong[list(indices)], **grid)


def attack_grid(classifier: Classifier, sets: Mapping[str, LabelledImages], indices: Sequence[int]) -> Figure:
    """Draw the same objects bare, with a blank label, with a word …: one row a set, with what each is read as."""
    images, titles, right = [], [], []
    for name, data in sets.items():
        chosen = torch.stack([data.images[i] for i in indices])
        shares = predict(classifier, chosen).softmax(dim=1)
        images += list(chosen)
        titles += [f"{name}:\n{classifier.classes[int(s.argmax())][:18]} {100 * s.max():.0f} %" for s in shares]
        right += (shares.argmax(dim=1) == data.labels[list(indices)]).tolist()
    return image_grid(images, titles, right, columns=len(indices), width=1.1)


def some_of(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of the items, evenly spread."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)


def confusions(data: LabelledImages, logits: Tensor, top: int = 8) -> Figure:
    """Draw what the misclassified images are taken for, most frequent first."""
    taken = logits.argmax(dim=1)[errors(logits, data.labels)]
    counts = pd.Series([data.classes[int(i)] for i in taken]).value_counts().head(top)[::-1]
    figure, axis = plt.subplots(figsize=(6, 0.3 * len(counts) + 0.9))
    axis.barh(counts.index, counts.to_numpy(), color=WRONG)
    axis.set_xlabel(f"of {len(taken)} misread images, how many are taken for …")
    return finished(figure)


def layers(table: pd.DataFrame, colour: str = "objective") -> Figure:
    """Draw every trial of a sweep as a dot: `net` errors corrected in % by `layer`, coloured by `colour`."""
    figure, axis = plt.subplots(figsize=(max(6, 0.55 * table.layer.nunique()), 3.4))
    shades = {"hue": colour, "palette": [AFTER, "#d4a72c"]}
    sns.stripplot(table, x="layer", y="net", jitter=0.25, size=4, alpha=0.7, ax=axis, **shades)
    axis.axhline(0, color="#24292f", linewidth=1)
    axis.set_ylim(max(table.net.min() - 5, -110), 110)
    axis.set(xlabel="", ylabel="net errors corrected (%)")
    axis.tick_params(axis="x", rotation=60, labelsize=8)
    legend(axis, colour)
    return finished(figure)


def exemplar_figure(image: Tensor, changed: Tensor, mask: Tensor, firing: Tensor | None = None) -> Figure:
    """Draw x, the mask, x' and, if given, where the edited key fires in x'."""
    images, titles = [image, image, changed], ["x", "mask", "x'"]
    overlays = [mask * 0, mask, mask * 0]
    if firing is not None:
        images, titles, overlays = [*images, changed], [*titles, "where the key fires"], [*overlays, firing]
    return image_grid(images, titles, overlays=overlays, columns=4, width=2.6)


def error_bars(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw error rates by class with Wilson intervals: before, and after each edit in `tables` (see `by_class`)."""
    first = next(iter(tables.values()))
    series = {"before": (first, "before")} | {name: (table, "after") for name, table in tables.items()}
    figure, axis = plt.subplots(figsize=(1.1 * len(first) + 2, 3.2))
    step = 0.8 / len(series)
    colours = [BEFORE, AFTER, *plt.get_cmap("Set2").colors]
    for i, (name, (table, when)) in enumerate(series.items()):
        rate, places = 100 * table[f"error rate {when}"], np.arange(len(table)) + (i - (len(series) - 1) / 2) * step
        axis.bar(places, rate, step * 0.92, color=colours[i], label=name)
        axis.errorbar(places, rate, _spread(rate, table[[f"low {when}", f"high {when}"]]), **WHISKERS)
    axis.set_xticks(
        np.arange(len(first)), [f"{c}\n({n})" for c, n in zip(first.index, first.images, strict=True)], fontsize=8
    )
    axis.set_ylabel("error rate (%)")
    legend(axis)
    return finished(figure)


def method_bars(table: pd.DataFrame) -> Figure:
    """Draw the share of errors corrected, in %, method by method; columns are groups of images, rows are methods."""
    figure, axis = plt.subplots(figsize=(8, 0.5 * len(table) + 1.2))
    (100 * table.iloc[::-1]).plot.barh(ax=axis, width=0.8, color=[AFTER, "#d4a72c", BEFORE][: table.shape[1]])
    axis.axvline(0, color="#24292f", linewidth=1)
    axis.set(xlabel="errors corrected (%), eq. 2", ylabel="")
    legend(axis)
    return finished(figure)


def strength_curve(table: pd.DataFrame, budget: float) -> Figure:
    """Draw errors corrected and accuracy change against the strength α (see `choosing.strength_curve`)."""
    figure, axis = plt.subplots(figsize=(6.5, 3.2))
    axis.plot(table.index, 100 * table["errors corrected"], "o-", color=AFTER, label="errors corrected")
    axis.set_xlabel("strength α of the edit")
    axis.set_ylabel("errors corrected (%)", color=AFTER)
    other = axis.twinx()
    other.plot(table.index, table["accuracy change (points)"], "s--", color=WRONG, label="accuracy change")
    other.axhline(-budget, color=WRONG, linewidth=0.8, linestyle=":")
    other.set_ylabel("accuracy on clean images (points)", color=WRONG)
    return finished(figure, ["top"])


def kept_trade_off(table: pd.DataFrame, bound: float | None = None) -> Figure:
    """Draw errors corrected against kept images broken, a line a method along α, a ring at α = 1.

    `table` is that of `choosing.trade_off`; `bound` is the share of kept images that may break, a dotted line. The
    axis of what breaks is stretched towards 0, where the choices are.
    """
    figure, axis = plt.subplots(figsize=(6.5, 3.6))
    for colour, (name, part) in zip(sns.color_palette("colorblind"), table.groupby("method", sort=False), strict=False):
        axis.plot(100 * part["kept broken"], 100 * part["errors corrected"], ".-", color=colour, label=name)
        whole = part[part.strength == 1]
        ring = {"color": colour, "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.8}
        axis.plot(100 * whole["kept broken"], 100 * whole["errors corrected"], "o", **ring)
    if bound is not None:
        axis.axvline(100 * bound, color=WRONG, linewidth=0.8, linestyle=":")
    most = 100 * table["kept broken"].max()
    axis.set_xscale("function", functions=(lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * x**2))
    axis.set_xlim(-0.1, 1.05 * max(most, 1))
    axis.set_xticks([t for t in (0, 1, 5, 10, 20, 40, 70, 100) if t <= most])
    axis.set(xlabel="kept images broken (%)", ylabel="errors corrected (%)")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return finished(figure)


def drops(found: pd.DataFrame, label: str) -> Figure:
    """Draw what is lost when a concept is transformed, with intervals, beside its control (the ring).

    `found` comes from `Probe.effects`; `label` is the column that names the bars, drawn from the top down. A
    class whose object is the concept is hatched.
    """
    figure, axis = plt.subplots(figsize=(6.5, 0.3 * len(found) + 1.0))
    places, lost = np.arange(len(found))[::-1], 100 * found["drop"].to_numpy()
    bars = axis.barh(places, lost, 0.7, color=AFTER, label="at the concept")
    for bar, is_object in zip(bars, found.get("is_object", [False] * len(found)), strict=True):
        bar.set_hatch("///" if is_object else None)
    axis.errorbar(lost, places, xerr=_spread(lost, found[["drop low", "drop high"]]), **WHISKERS)
    axis.plot(100 * found["control drop"], places, "o", mfc="white", mec=WRONG, label="at the control")
    axis.set_yticks(
        places, [f"{name} ({n})" for name, n in zip(found[label], found["images"], strict=True)], fontsize=8
    )
    axis.axvline(0, color="#24292f", linewidth=1)
    axis.set_xlabel("drop (points)")
    legend(axis)
    return finished(figure)


def agreement(
    pairs: pd.DataFrame, planted: Collection[tuple[str, str]], learned: Collection[tuple[str, str]], least: float
) -> Figure:
    """Draw the effects of `Probe.agreement`, as probed over exact; `planted` pairs are filled.

    Dotted lines are at the `least` effect of a rule. Named are pairs planted but not `learned`, or the reverse.
    """
    figure, axis = plt.subplots(figsize=(5.2, 4.4))
    ends = [min(0, pairs.min().min()) - 0.5, pairs.max().max() + 0.5]
    axis.plot(ends, ends, color=BEFORE, linewidth=1)
    for line in (axis.axhline, axis.axvline):
        line(least, color=BEFORE, linewidth=0.8, linestyle=":")
    known = np.array([pair in planted for pair in pairs.index])
    for some, label, face in ((pairs[known], "planted", AFTER), (pairs[~known], "not planted", "none")):
        if len(some):
            axis.scatter(some["exact"], some["probe"], 34, facecolors=face, edgecolors=AFTER, label=label)
    named = pairs[known != [pair in learned for pair in pairs.index]].sort_values("probe")
    for row, (pair, effects) in enumerate(named.iterrows()):  # below the diagonal there is room, one name above another
        beside = {"xytext": (0.5, 0.05 + 0.055 * row), "textcoords": "axes fraction", "fontsize": 8, "va": "center"}
        line = {"arrowstyle": "-", "color": BEFORE, "linewidth": 0.6, "shrinkB": 4}
        axis.annotate(" on ".join(pair), effects[["exact", "probe"]], arrowprops=line, **beside)
    axis.set(xlabel="effect, painted again (log-odds)", ylabel="effect, probed", xlim=ends, ylim=ends, aspect="equal")
    axis.legend(loc="upper left")
    return finished(figure)


def style_heat(found: pd.DataFrame, value: str = "drop") -> Figure:
    """Draw a value of `Probe.effects(["concept", "style"])` in points: styles × concepts."""
    grid = 100 * found.pivot(index="style", columns="concept", values=value)
    grid = grid.loc[grid.mean(axis=1).sort_values(ascending=False).index]
    grid = grid[grid.mean().sort_values(ascending=False).index]
    figure, axis = plt.subplots(figsize=(0.55 * grid.shape[1] + 2.4, 0.36 * len(grid) + 1.3))
    _heat(grid, axis, cmap="rocket_r", vmin=0, cbar_kws={"label": f"{value} (points)"})
    return finished(figure)


def counterfactuals(probe: Any, rule: pd.Series, style: str | None = None, count: int = 5) -> Figure:
    """Draw a rule's evidence: images, the concept transformed, and the control, each with what it is read as.

    `probe` is a `probing.Probe`, `rule` a row of its `rules()`; `style` is by default the one that hurts most.
    """
    style = style or rule["style"]
    table = probe.table
    chosen = table[
        (table["concept"] == rule["concept"]) & (table["style"] == style) & (table["class"] == rule["class"])
    ]
    if "classifier" in rule:
        chosen = chosen[chosen["classifier"] == rule["classifier"]]
    chosen = chosen.drop_duplicates("image").set_index("image", drop=False).loc[list(rule["evidence"][:count])]
    shown = [probe.views(row) for _, row in chosen.iterrows()]
    flat = [view for line in zip(*shown, strict=False) for view in line]
    titles = [f"{view.title}\n{view.read} ({rule['class']} {100 * view.chance:.0f} %)" for view in flat]
    right = [view.read == rule["class"] for view in flat]
    return image_grid([view.image for view in flat], titles, right, columns=len(shown), width=1.75)


def benchmark_bars(table: pd.DataFrame, measures: Mapping[str, str]) -> Figure:
    """Draw errors corrected by method with 95 % intervals, a panel for each of `measures` (name → title).

    `table` is that of `synthetic.summary`; fine-tuning and rivals are drawn in other colours than editing (Figure 5).
    """
    methods = list(dict.fromkeys(table.method))
    figure, axes = plt.subplots(
        1, len(measures), figsize=(3 * len(measures) + 1.6, 0.3 * len(methods) + 1), sharey=True
    )
    places = np.arange(len(methods))[::-1]
    kinds = {"fine-tuning": "#d4a72c", "locality": "#d4a72c", "random": BEFORE} | dict.fromkeys(RIVALS, "#8250df")
    colours = [next((colour for kind, colour in kinds.items() if kind in method), AFTER) for method in methods]
    for axis, (measure, title) in zip(np.atleast_1d(axes), measures.items(), strict=True):
        part = table[table.measure == measure].set_index("method").loc[methods]
        axis.barh(places, 100 * part["mean"], 0.75, color=colours)
        spread = _spread(100 * part["mean"], part[["low", "high"]])
        axis.errorbar(100 * part["mean"], places, xerr=spread, **WHISKERS)
        axis.axvline(0, color="#24292f", linewidth=1)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("errors corrected (%)")
        axis.set_yticks(places, methods)
    return finished(figure)


def trade_off(points: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw errors corrected against the accuracy that it cost, a line a method, a dot for each accuracy budget.

    Blue is editing, yellow local and brown global fine-tuning, dashed with a locality term, grey anything else.

    `points` is that of `synthetic.trade_off`: `method`, `budget`, `accuracy_change` (points), `corrected` (share).
    """
    figure, axis = plt.subplots(figsize=(6.5, 3.6))
    kinds = {"editing, ": "#54aeff", "editing": AFTER, "local": "#d4a72c", "global": "#9a6700"}
    for method in methods:
        part = points[points.method == method].sort_values("budget")
        colour = next((shade for kind, shade in kinds.items() if method.startswith(kind)), BEFORE)
        line = "o--" if "locality" in method else "o-"
        axis.plot(part.accuracy_change, 100 * part.corrected, line, color=colour, label=method)
    axis.axhline(0, color="#24292f", linewidth=1)
    axis.set(xlabel="accuracy on clean images (points)", ylabel="errors corrected (%)")
    legend(axis)
    return finished(figure)


def heat(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw tables of shares (methods × something) as heat maps beside each other, in %; `tables` go by title."""
    widths = [table.shape[1] for table in tables.values()]
    size = (0.8 * sum(widths) + 3.2, 0.32 * max(len(t) for t in tables.values()) + 1.3)
    figure, axes = plt.subplots(1, len(tables), figsize=size, width_ratios=widths, sharey=True, squeeze=False)
    for axis, (title, table) in zip(axes[0], tables.items(), strict=True):
        _heat(100 * table, axis, cmap="RdBu", center=0, vmin=-100, vmax=100, cbar=False)
        axis.set_title(title, fontsize=9)
    return finished(figure)


def _spread(percent: pd.Series | np.ndarray, ends: pd.DataFrame) -> np.ndarray:
    """How far the ends of intervals, in shares, lie from their values in per cent: `(2, N)`, as errorbar takes it."""
    return np.abs(100 * ends.to_numpy().T - np.asarray(percent))


def _heat(table: pd.DataFrame, axis: Axes, **looks: Any) -> None:
    """Draw a table as a heat map with its numbers."""
    sns.heatmap(table, ax=axis, annot=True, fmt=".0f", annot_kws={"fontsize": 8}, **looks)
    axis.set(xlabel="", ylabel="")
    axis.tick_params(axis="x", rotation=40, labelsize=8)
    axis.tick_params(axis="y", rotation=0, labelsize=8)


def legend(axis: Axes, title: str | None = None) -> None:
    """Put the legend beside the picture, where it hides nothing."""
    axis.legend(title=title, frameon=False, fontsize=8, title_fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def finished(figure: Figure, without: Sequence[str] = ("top", "right")) -> Figure:
    """Lay the figure out, without some lines of its frame, and so that it is not shown twice."""
    for axis in figure.axes:
        axis.spines[list(without)].set_visible(False)
    figure.tight_layout()
    plt.close(figure)
    return figure
