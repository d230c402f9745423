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

from edittools.images import LabelledImages
from edittools.metrics import misclassified

RIGHT, WRONG, BEFORE, AFTER = "#1a7f37", "#cf222e", "#8c959f", "#0969da"
BASELINE_LABELS = ("projection", "null space", "closed form")
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
            color = "black" if right is None else RIGHT if bool(right[i]) else WRONG
            longest = max(len(line) for line in titles[i].split("\n"))
            title = titles[i] if longest < 14 * width else titles[i].replace(": ", ":\n")
            axis.set_title(title, fontsize=9, color=color)
    figure.tight_layout(pad=0.4)
    plt.close(figure)
    return figure


def prediction_title(truth: str, before: str, after: str | None = None) -> str:
    """Title an image: `truth` where it is read rightly, else `truth: read`; with an edit `truth: before → after`."""
    truth, before, after = (name if len(name) < 15 else f"{name[:13]}…" for name in (truth, before, after or before))
    if before != after:
        return f"{truth}: {before} → {after}"
    return truth if before == truth else f"{truth}: {before}"


def predictions(
    data: LabelledImages,
    logits: Tensor,
    before: Tensor | None = None,
    count: int = 10,
    indices: Sequence[int] | None = None,
    **grid: Any,
) -> Figure:
    """Draw some images, each under its `prediction_title`; wrong ones are red. `before` are the logits before an edit.

    Without `indices`, up to half of `count` are wrong ones, spread over the set. `grid` are options of `image_grid`.
    """
    wrong, first = misclassified(logits, data.labels), logits if before is None else before
    if indices is None:
        indices = []
        for chosen in (wrong, ~wrong):
            numbers = chosen.nonzero()[:, 0].tolist()
            few = min(count // 2, len(numbers))
            indices += [numbers[i * len(numbers) // few] for i in range(few)]
    shown = zip(*(one[list(indices)].tolist() for one in (data.labels, first.argmax(1), logits.argmax(1))), strict=True)
    titles = [prediction_title(*(data.classes[label] for label in labels)) for labels in shown]
    return image_grid(torch.stack([data.images[i] for i in indices]), titles, ~wrong[list(indices)], **grid)


def attack_grid(sets: Mapping[str, tuple[LabelledImages, Tensor]], count: int = 6) -> Figure:
    """Draw the same objects bare, with a blank label, with a word …: a row for each set of images and its logits."""
    images, titles, right = [], [], []
    for name, (data, logits) in sets.items():
        images += [data.images[i] for i in range(count)]
        pairs = zip(data.labels[:count].tolist(), logits[:count].argmax(1).tolist(), strict=True)
        titles += [f"{name}\n{prediction_title(*(data.classes[label] for label in pair))}" for pair in pairs]
        right += (~misclassified(logits, data.labels)[:count]).tolist()
    return image_grid(images, titles, right, columns=count, width=1.4)


def confusions(data: LabelledImages, logits: Tensor, top: int = 8) -> Figure:
    """Draw what the misclassified images are taken for, most frequent first."""
    taken = logits.argmax(dim=1)[misclassified(logits, data.labels)]
    counts = pd.Series([data.classes[int(i)] for i in taken]).value_counts().head(top)[::-1]
    figure, axis = plt.subplots(figsize=(6, 0.3 * len(counts) + 0.9))
    axis.barh(counts.index, counts.to_numpy(), color=WRONG)
    axis.set_xlabel(f"of {len(taken)} misread images, how many are taken for …")
    return finished(figure)


def layers(table: pd.DataFrame) -> Figure:
    """Draw every trial of a sweep as a dot: `net` errors corrected in % by `layer`, coloured by `objective`."""
    figure, axis = plt.subplots(figsize=(max(6, 0.55 * table.layer.nunique()), 3.4))
    shades = {"hue": "objective", "palette": [AFTER, "#d4a72c"]}
    sns.stripplot(table, x="layer", y="net", jitter=0.25, size=4, alpha=0.7, ax=axis, **shades)
    axis.axhline(0, color="#24292f", linewidth=1)
    axis.set_ylim(max(table.net.min() - 5, -110), 110)
    axis.set(xlabel="", ylabel="net errors corrected (%)")
    axis.tick_params(axis="x", rotation=60, labelsize=9)
    legend(axis, "objective")
    return finished(figure)


def exemplar_figure(image: Tensor, changed: Tensor, mask: Tensor) -> Figure:
    """Draw x, the mask and x'."""
    return image_grid([image, image, changed], ["x", "mask", "x'"], overlays=[0 * mask, mask, 0 * mask], width=2.6)


def edit_map_figure(images: Sequence[Tensor] | Tensor, edit_maps: Tensor, titles: Sequence[str]) -> Figure:
    """Draw images and, below each, where an edit acts in it: its `edit_map`, 1 as at the exemplar's mask."""
    size = (1.5 * len(images) + 1, 3.4)
    figure, axes = plt.subplots(2, len(images), figsize=size, squeeze=False, layout="constrained")
    for (above, below), image, one, title in zip(axes.T, images, edit_maps, titles, strict=True):
        above.imshow(image.detach().cpu().permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        drawn = below.imshow(one.cpu().numpy(), cmap="magma", vmin=0, vmax=2, interpolation="nearest")
        above.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.colorbar(drawn, ax=axes, ticks=(0, 1, 2), label="firing (1: as at the mask)")
    plt.close(figure)
    return figure


def error_bars(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw error rates by class with Wilson intervals: before, and after each edit in `tables` (see `by_class`)."""
    first = next(iter(tables.values()))
    series = {"before": (first, "before")} | {name: (table, "after") for name, table in tables.items()}
    figure, axis = plt.subplots(figsize=(1.1 * len(first) + 2, 3.2))
    step = 0.8 / len(series)
    colors = [BEFORE, AFTER, *plt.get_cmap("Set2").colors]
    for i, (name, (table, when)) in enumerate(series.items()):
        rate, places = 100 * table[f"error rate {when}"], np.arange(len(table)) + (i - (len(series) - 1) / 2) * step
        axis.bar(places, rate, step * 0.92, color=colors[i], label=name)
        axis.errorbar(places, rate, _error_lengths(rate, table[[f"low {when}", f"high {when}"]]), **WHISKERS)
    names = [f"{name}\n({n})" for name, n in zip(first.index, first.images, strict=True)]
    axis.set_xticks(np.arange(len(first)), names, fontsize=9)
    axis.set_ylabel("error rate (%)")
    legend(axis)
    return finished(figure)


def method_bars(table: pd.DataFrame, label: str = "errors corrected, less those made (%)") -> Figure:
    """Draw shares in %, method by method; columns are groups of images, rows are methods."""
    figure, axis = plt.subplots(figsize=(8, 0.5 * len(table) + 1.2))
    colors = [AFTER, "#d4a72c"][: table.shape[1]]
    (100 * table.iloc[::-1, ::-1]).plot.barh(ax=axis, width=0.8, color=colors[::-1])
    axis.axvline(0, color="#24292f", linewidth=1)
    axis.set(xlabel=label, ylabel="")
    legend(axis, reverse=True)
    return finished(figure)


def retained_trade_off(table: pd.DataFrame, bound: float) -> Figure:
    """Draw errors corrected against kept images broken, a line a method along α, a ring at α = 1.

    `table` is that of `selection.trade_off`; a dotted line is at the `bound`, the share of kept images that may break.
    """
    figure, axis = plt.subplots(figsize=(6.5, 3.6))
    for color, (name, part) in zip(sns.color_palette("colorblind"), table.groupby("method", sort=False), strict=False):
        axis.plot(100 * part["kept broken"], 100 * part["errors corrected"], ".-", color=color, label=name)
        whole = part[part.strength == 1]
        ring = {"color": color, "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.8}
        axis.plot(100 * whole["kept broken"], 100 * whole["errors corrected"], "o", **ring)
    axis.axvline(100 * bound, color=WRONG, linewidth=0.8, linestyle=":")
    most = 100 * table["kept broken"].max()
    axis.set_xscale("function", functions=(lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * x**2))
    axis.set_xlim(-0.1, 1.05 * max(most, 1))
    axis.set_xticks([t for t in (0, 1, 5, 10, 20, 40, 70, 100) if t <= most])
    axis.set(xlabel="kept images broken (%)", ylabel="errors corrected (%)")
    axis.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
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
    axis.errorbar(lost, places, xerr=_error_lengths(lost, found[["drop low", "drop high"]]), **WHISKERS)
    axis.plot(100 * found["control drop"], places, "o", mfc="white", mec=WRONG, label="at the control")
    names = [f"{name} ({n})" for name, n in zip(found[label], found["images"], strict=True)]
    axis.set_yticks(places, names, fontsize=9)
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
        beside = {"xytext": (0.5, 0.05 + 0.055 * row), "textcoords": "axes fraction", "fontsize": 9, "va": "center"}
        line = {"arrowstyle": "-", "color": BEFORE, "linewidth": 0.6, "shrinkB": 4}
        axis.annotate(" on ".join(pair), effects[["exact", "probe"]], arrowprops=line, **beside)
    axis.set(xlabel="effect, painted again (log-odds)", ylabel="effect, probed", xlim=ends, ylim=ends, aspect="equal")
    axis.legend(loc="upper left")
    return finished(figure)


def style_heat(found: pd.DataFrame) -> Figure:
    """Draw the drops of `Probe.effects(["concept", "style"])` in points: styles × concepts."""
    grid = 100 * found.pivot(index="style", columns="concept", values="drop")
    grid = grid.loc[grid.mean(axis=1).sort_values(ascending=False).index]
    grid = grid[grid.mean().sort_values(ascending=False).index]
    figure, axis = plt.subplots(figsize=(0.55 * grid.shape[1] + 2.4, 0.36 * len(grid) + 1.3))
    _heat(grid, axis, cmap="rocket_r", vmin=0, cbar_kws={"label": "drop (points)"})
    return finished(figure)


def counterfactuals(probe: Any, rule: pd.Series, count: int = 5) -> Figure:
    """Draw a rule's evidence: images, the concept transformed, and the control, each with its `prediction_title`.

    `probe` is a `probing.Probe`, `rule` a row of its `rules()`.
    """
    same = ["classifier", "class", "concept", "style"]
    chosen = probe.table[(probe.table[same] == rule[same]).all(axis=1)]
    chosen = chosen.drop_duplicates("image").set_index("image", drop=False).loc[list(rule["evidence"][:count])]
    shown = [probe.views(row) for _, row in chosen.iterrows()]
    flat = [view for line in zip(*shown, strict=False) for view in line]
    titles = [f"{view.title}\n{prediction_title(rule['class'], view.read)}" for view in flat]
    right = [view.read == rule["class"] for view in flat]
    return image_grid([view.image for view in flat], titles, right, columns=len(shown), width=1.75)


def benchmark_bars(table: pd.DataFrame, measures: Mapping[str, str]) -> Figure:
    """Draw errors corrected by method with 95 % intervals, a panel for each of `measures` (name → title).

    `table` is that of `synthetic.summary`; fine-tuning and rivals are drawn in other colours than editing (Figure 5).
    """
    methods = list(dict.fromkeys(table.method))
    size = (3 * len(measures) + 1.6, 0.3 * len(methods) + 1)
    figure, axes = plt.subplots(1, len(measures), figsize=size, sharey=True)
    places = np.arange(len(methods))[::-1]
    kinds = {"fine-tuning": "#d4a72c", "random": BEFORE} | dict.fromkeys(BASELINE_LABELS, "#8250df")
    colors = [next((color for kind, color in kinds.items() if kind in method), AFTER) for method in methods]
    for axis, (measure, title) in zip(np.atleast_1d(axes), measures.items(), strict=True):
        part = table[table.measure == measure].set_index("method").loc[methods]
        axis.barh(places, 100 * part["mean"], 0.75, color=colors)
        error_lengths = _error_lengths(100 * part["mean"], part[["low", "high"]])
        axis.errorbar(100 * part["mean"], places, xerr=error_lengths, **WHISKERS)
        axis.axvline(0, color="#24292f", linewidth=1)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("errors corrected (%)")
        axis.set_yticks(places, methods)
    return finished(figure)


def accuracy_trade_off(points: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw errors corrected against the accuracy that it cost, a line a method, a dot for each accuracy budget.

    Columns: `method`, `budget`, `accuracy_change`, `corrected`. Blue is editing, yellow and brown fine-tuning.
    """
    figure, axis = plt.subplots(figsize=(6.5, 3.6))
    kinds = {"editing, ": "#54aeff", "editing": AFTER, "local": "#d4a72c", "global": "#9a6700"}
    for method in methods:
        part = points[points.method == method].sort_values("budget")
        color = next((shade for kind, shade in kinds.items() if method.startswith(kind)), BEFORE)
        axis.plot(part.accuracy_change, 100 * part.corrected, "o-", color=color, label=method)
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


def _error_lengths(percent: pd.Series | np.ndarray, ends: pd.DataFrame) -> np.ndarray:
    """How far the ends of intervals, in shares, lie from their values in per cent: `(2, N)`, as errorbar takes it."""
    return np.abs(100 * ends.to_numpy().T - np.asarray(percent))


def _heat(table: pd.DataFrame, axis: Axes, **looks: Any) -> None:
    """Draw a table as a heat map with its numbers."""
    sns.heatmap(table, ax=axis, annot=True, fmt=".0f", annot_kws={"fontsize": 9}, **looks)
    axis.set(xlabel="", ylabel="")
    axis.tick_params(axis="x", rotation=40, labelsize=9)
    axis.tick_params(axis="y", rotation=0, labelsize=9)


def legend(axis: Axes, title: str | None = None, reverse: bool = False) -> None:
    """Put the legend beside the picture, where it hides nothing."""
    looks = {"frameon": False, "fontsize": 9, "title_fontsize": 9, "loc": "upper left", "bbox_to_anchor": (1, 1)}
    axis.legend(title=title, reverse=reverse, **looks)


def finished(figure: Figure, without: Sequence[str] = ("top", "right")) -> Figure:
    """Lay the figure out, without some lines of its frame, and so that it is not shown twice."""
    for axis in figure.axes:
        axis.spines[list(without)].set_visible(False)
    figure.tight_layout()
    plt.close(figure)
    return figure
