"""Figures of the notebooks: images with predictions, error rates with intervals, trade-offs, effects of concepts."""

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from edittools.images import LabelledImages
from edittools.metrics import misclassified
from edittools.widgets.drawing import (
    WRONG,
    image_grid,
    pixels_of_image,
    prediction_title,
    titles_and_states,
)
from edittools.widgets.pixels import to_base64

BEFORE = "#8c959f"
"""The color of results before an edit."""

AFTER = "#0969da"
"""The color of results after an edit."""

YELLOW = "#d4a72c"
"""The color of a second series next to `AFTER`."""

AXIS = "#24292f"
"""The color of axes and of the whiskers of intervals."""

VIOLET = "#8250df"
"""The color of the third series."""

METHOD_COLORS = {
    "local": YELLOW,
    "global": "#9a6700",
    "random": BEFORE,
    "full rank": VIOLET,
    "projection": "#bf3989",
    "default settings": "#54aeff",
    "editing, ": "#54aeff",
}
"""The color of a method by a part of its name, the same in all figures; other edits have the color `AFTER`."""

MARKERS = "osD^vPX*"
"""The markers of lines that are next to each other, so that they can be told apart without color."""

WHISKERS: dict[str, Any] = {"fmt": "none", "ecolor": AXIS, "elinewidth": 1, "capsize": 2}
"""Options of `errorbar`."""

MAX_CONFUSIONS = 8
"""The largest number of classes that `confusions` draws."""


def predictions(
    data: LabelledImages,
    logits: Tensor,
    before: Tensor | None = None,
    count: int = 10,
    indices: Sequence[int] | None = None,
    columns: int = 5,
    width: float = 2.0,
) -> Figure:
    """Draw some images, each under its `prediction_title` and a sign; the titles of misclassified images are red.

    Args:
        data: the images.
        logits: `(N, classes)`.
        before: logits `(N, classes)` before an edit.
        count: number of images to draw if there are no `indices`. Up to half of them are misclassified ones; the images
            are spread over the set.
        indices: indices of the images to draw.
        columns: number of columns.
        width: width of an image in inches.
    """
    is_misclassified = misclassified(logits, data.labels)
    if indices is None:
        indices = _spread(is_misclassified, count // 2) + _spread(~is_misclassified, count // 2)
    indices = list(indices)
    before = logits if before is None else before
    titles, states = titles_and_states(data.classes, data.labels[indices], before[indices], logits[indices])
    images = torch.stack([data.images[index] for index in indices])
    return image_grid(images, titles, columns=columns, width=width, states=states)


def attack_grid(sets: Mapping[str, tuple[LabelledImages, Tensor]], count: int = 6) -> Figure:
    """Draw the same objects without and with attacks, one row per set.

    Args:
        sets: by name, the images of the same objects (bare, with a blank sticker, with a word) and their logits.
        count: number of images per set.
    """
    images = []
    titles = []
    right = []
    for name, (data, logits) in sets.items():
        images += [data.images[i] for i in range(count)]
        labels = data.labels[:count].tolist()
        predicted = logits[:count].argmax(dim=1).tolist()
        for label, prediction in zip(labels, predicted, strict=True):
            titles.append(f"{name}\n{prediction_title(data.classes[label], data.classes[prediction])}")
        right += (~misclassified(logits, data.labels)[:count]).tolist()
    return image_grid(images, titles, right, columns=count, width=1.4)


def confusions(data: LabelledImages, logits: Tensor) -> Figure:
    """Draw the classes that the misclassified images are predicted as, the most frequent first, up to `MAX_CONFUSIONS`.

    Args:
        data: the images.
        logits: `(N, classes)`.
    """
    predicted = logits.argmax(dim=1)[misclassified(logits, data.labels)].tolist()
    counts = pd.Series([data.classes[index] for index in predicted]).value_counts().head(MAX_CONFUSIONS)[::-1]
    figure, axis = plt.subplots(figsize=(6, 0.3 * len(counts) + 0.9))
    axis.barh(counts.index, counts.to_numpy(), color=WRONG)
    axis.set_xlabel(f"misclassified images predicted as this class (of {len(predicted)})")
    return finished(figure)


def layers(table: pd.DataFrame, errors: int, color_by: str = "objective") -> Figure:
    """Draw every candidate as a dot: by layer, the net share of the errors that it corrects.

    Args:
        table: one row per candidate, see `Selection.results`; `net` is the number of images corrected minus broken.
        errors: number of images that are misclassified before an edit.
        color_by: the parameter that the color of a dot shows, with at most three values. Candidates that have none,
            such as those of a first pass, are gray.
    """
    names = [str(value) for value in table[color_by].dropna().unique()]
    palette = dict(zip(names, [AFTER, YELLOW, VIOLET], strict=False))
    values = table[color_by].map(str, na_action="ignore")
    if values.isna().any():
        palette["default"] = BEFORE
        values = values.fillna("default")
    figure, axis = plt.subplots(figsize=(7, 0.5 * table.layer.nunique() + 1))
    net_percent = 100 * table.net / errors
    sns.swarmplot(
        x=net_percent,
        y=table.layer,
        order=table.layer.drop_duplicates(keep="last"),  # those of a first pass are last, in the network's order
        hue=values,
        hue_order=list(palette),
        palette=palette,
        size=4,
        alpha=0.7,
        warn_thresh=1,  # dots that do not fit next to each other overlap
        ax=axis,
    )
    axis.axvline(0, color=AXIS, linewidth=1)
    axis.set_xlim(max(net_percent.min() - 5, -110), 105)
    axis.set(xlabel="net errors corrected (%)", ylabel="layer")
    axis.tick_params(axis="y", labelsize=9)
    legend(axis, color_by.replace("_", " "))
    return finished(figure)


def exemplar_figure(image: Tensor, changed: Tensor, mask: Tensor) -> Figure:
    """Draw an exemplar.

    Args:
        image: x, `(3, H, W)`.
        changed: x', `(3, H, W)`.
        mask: `(H, W)`.
    """
    no_overlay = torch.zeros_like(mask)
    return image_grid(
        [image, image, changed],
        ["x", "mask", "x'"],
        overlays=[no_overlay, mask, no_overlay],
        width=2.6,
    )


def edit_map_figure(images: Sequence[Tensor] | Tensor, edit_maps: Tensor, titles: Sequence[str]) -> Figure:
    """Draw images and, below each, its edit map: where and how strongly the edit acts.

    Args:
        images: each `(3, H, W)` in [0, 1].
        edit_maps: `(N, H, W)`, see `Edit.edit_map`; 1 means as strongly as at the exemplar's mask.
        titles: one title per image.
    """
    size = (1.5 * len(images) + 1, 3.4)
    figure, axes = plt.subplots(2, len(images), figsize=size, squeeze=False, layout="constrained")
    for (upper, lower), image, edit_map, title in zip(axes.T, images, edit_maps, titles, strict=True):
        upper.imshow(pixels_of_image(image), interpolation="nearest")
        upper.set_title(title, fontsize=9)
        drawn_map = lower.imshow(edit_map.cpu().numpy(), cmap="magma", vmin=0, vmax=2, interpolation="nearest")
    for axis in axes.flat:
        axis.set_axis_off()
    label = "change of the layer's output\n(1: as at the exemplar's mask)"
    figure.colorbar(drawn_map, ax=axes, ticks=(0, 1, 2), label=label)
    plt.close(figure)
    return figure


def method_bars(table: pd.DataFrame, label: str = "net errors corrected (%)") -> Figure:
    """Draw shares by method.

    Args:
        table: one row per method, one column per group of images.
        label: label of the axis.
    """
    figure, axis = plt.subplots(figsize=(8, 0.5 * len(table) + 1.2))
    colors = [AFTER, YELLOW][: table.shape[1]]
    percent = 100 * table.iloc[::-1, ::-1]  # bars are drawn from the bottom up
    percent.plot.barh(ax=axis, width=0.8, color=colors[::-1])
    axis.axvline(0, color=AXIS, linewidth=1)
    axis.set(xlabel=label, ylabel="")
    legend(axis, reverse=True)
    return finished(figure)


def drops(effects: pd.DataFrame, label: str) -> Figure:
    """Draw the drops that transforming a concept causes, with intervals, and those of the control as rings.

    Args:
        effects: see `Probe.effects`. The bars of a class whose object is the concept are hatched.
        label: the column that names the bars, which are drawn from the top down.
    """
    figure, axis = plt.subplots(figsize=(8, 0.3 * len(effects) + 1.0))
    positions = np.arange(len(effects))[::-1]
    percent = 100 * effects["drop"].to_numpy()
    bars = axis.barh(positions, percent, 0.7, color=AFTER, label="at the concept")
    if "is_object" in effects:
        for bar, is_object in zip(bars, effects["is_object"], strict=True):
            bar.set_hatch("///" if is_object else None)
    lengths = _whisker_lengths(percent, effects[["drop low", "drop high"]])
    axis.errorbar(percent, positions, xerr=lengths, **WHISKERS)
    axis.plot(100 * effects["control drop"], positions, "o", mfc="white", mec=WRONG, label="at the control")
    names = [f"{name} ({count})" for name, count in zip(effects[label], effects["images"], strict=True)]
    axis.set_yticks(positions, names, fontsize=9)
    _zero_line(axis, "no drop")
    axis.set_xlabel("drop (points)")
    legend(axis)
    return finished(figure)


def agreement(
    effects: pd.DataFrame,
    planted: Collection[tuple[str, str]],
    found: Collection[tuple[str, str]],
    least_effect: float,
) -> Figure:
    """Draw the effects that a probe measures against the exact ones; planted rules are filled, and red if missed.

    Args:
        effects: see `Probe.agreement`.
        planted: the pairs of class and concept of the planted rules.
        found: the pairs whose rule the probe has found.
        least_effect: the smallest effect of a rule, drawn as dotted lines.
    """
    figure, axis = plt.subplots(figsize=(6, 4.8))
    limits = [min(0, effects.min().min()) - 0.5, effects.max().max() + 0.5]
    axis.plot(limits, limits, color=BEFORE, linewidth=1, label="both effects are equal")
    axis.axhline(
        least_effect, color=AXIS, linewidth=1, linestyle=":", label=f"least effect of a rule ({least_effect:g})"
    )
    axis.axvline(least_effect, color=AXIS, linewidth=1, linestyle=":")
    is_planted = np.array([pair in planted for pair in effects.index])
    is_missed = is_planted & np.array([pair not in found for pair in effects.index])
    groups = [
        (effects[is_planted & ~is_missed], "planted, found", AFTER, AFTER, "o"),
        (effects[is_missed], "planted, missed", WRONG, WRONG, "X"),
        (effects[~is_planted], "not planted", "none", AFTER, "o"),
    ]
    for rows, name, face, edge, marker in groups:
        if len(rows):
            axis.scatter(rows["exact"], rows["probe"], 38, facecolors=face, edgecolors=edge, marker=marker, label=name)
    axis.set(
        xlabel="exact effect, from rendering again (log-odds)",
        ylabel="effect measured by the probe (log-odds)",
        xlim=limits,
        ylim=limits,
        aspect="equal",
    )
    axis.legend(loc="upper left", fontsize=9)
    return finished(figure)


def counterfactuals(probe: Any, rule: pd.Series) -> Figure:
    """Draw evidence of a rule: five images, the same images with the concept transformed, and the controls.

    Args:
        probe: a `probing.Probe`.
        rule: a row of its `rules()`.
    """
    columns = ["classifier", "concept", "style"]
    rows = probe.table[(probe.table[columns] == rule[columns]).all(axis=1)]
    rows = rows.drop_duplicates("image").set_index("image", drop=False)
    rows = rows.loc[list(rule["evidence"][:5])]
    views_by_image = [probe.views(row) for _, row in rows.iterrows()]
    classes = rows["class"].tolist()
    images = []
    titles = []
    right = []
    for views in zip(*views_by_image, strict=False):  # the originals, then the transformed images, then the controls
        for class_name, view in zip(classes, views, strict=True):
            images.append(view.image)
            titles.append(f"{view.title}\n{prediction_title(class_name, view.read)}")
            right.append(view.read == class_name)
    return image_grid(images, titles, right, columns=len(views_by_image), width=1.6)


def benchmark_bars(table: pd.DataFrame) -> Figure:
    """Draw errors corrected by method with 95% intervals, two panels side by side (Figure 5 of the paper).

    Args:
        table: one row per `method` and `measure`, with the `mean` and the ends of its interval, `low` and `high`. There
            is one panel per measure. Methods have the colors of `METHOD_COLORS`; one without a row is left out of a
            panel, with a note.
    """
    methods = table.method.unique().tolist()
    measures = table.measure.unique().tolist()
    panel_rows = -(-len(measures) // 2)
    size = (8, panel_rows * (0.3 * len(methods) + 1.1))
    figure, axes = plt.subplots(panel_rows, 2, figsize=size, sharex=True, sharey=True, squeeze=False)
    positions = np.arange(len(methods))[::-1]
    colors = [_first_match(METHOD_COLORS, method, AFTER) for method in methods]
    for axis, measure in zip(axes.flat, measures, strict=False):
        rows = table[table.measure == measure].set_index("method").reindex(methods)
        percent = 100 * rows["mean"]
        axis.barh(positions, percent, 0.75, color=colors)
        axis.errorbar(percent, positions, xerr=_whisker_lengths(percent, rows[["low", "high"]]), **WHISKERS)
        for position in positions[rows["mean"].isna()]:
            axis.text(1, position, "not measured", fontsize=8, color=AXIS, va="center")
        _zero_line(axis, "no edit")
        axis.set_title(measure, fontsize=9, pad=16)
        axis.set_yticks(positions, methods, fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("errors corrected (%)")
    return finished(figure)


def _spread(is_member: Tensor, count: int) -> list[int]:
    """Select up to `count` of the indices where a tensor `(N,)` is true, spread over them."""
    indices = is_member.nonzero()[:, 0].tolist()
    count = min(count, len(indices))
    return [indices[i * len(indices) // count] for i in range(count)]


def _first_match(values: Mapping[str, str], text: str, default: str) -> str:
    """Return the value of the first key that is part of a text."""
    return next((value for key, value in values.items() if key in text), default)


def _whisker_lengths(percent: pd.Series | np.ndarray, ends: pd.DataFrame) -> np.ndarray:
    """Return the distances of the ends of intervals from their values, as `errorbar` expects them.

    Args:
        percent: values `(N,)` in percent.
        ends: the ends of their intervals, `(N, 2)`, as shares.

    Returns:
        Distances `(2, N)` in percent.
    """
    return np.abs(100 * ends.to_numpy().T - np.asarray(percent))


def _zero_line(axis: Axes, text: str) -> None:
    """Draw a line at 0 on the horizontal axis, and above it a text that says what 0 means."""
    axis.axvline(0, color=AXIS, linewidth=1)
    place = axis.get_xaxis_transform()  # data across, share of the height upwards
    axis.annotate(text, (0, 1), (0, 2), place, "offset points", ha="center", va="bottom", fontsize=8, color=AXIS)


def legend(axis: Axes, title: str | None = None, reverse: bool = False) -> None:
    """Put the legend next to the axes, where it hides nothing.

    Args:
        axis: the axes.
        title: title of the legend.
        reverse: whether the entries are in reverse order.
    """
    axis.legend(
        title=title,
        reverse=reverse,
        frameon=False,
        fontsize=9,
        title_fontsize=9,
        loc="upper left",
        bbox_to_anchor=(1, 1),
    )


def finished(figure: Figure) -> Figure:
    """Lay out a figure with frames that are open above and on the right, and close it.

    A figure that is not closed is shown twice by a notebook.
    """
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    plt.close(figure)
    return figure


def show_figure(figure: Figure, alt: str) -> None:
    """Show a figure in a notebook, on an opaque white background and with a text for readers who do not see it.

    Where a notebook is shown without pictures, the text takes the figure's place.

    Args:
        figure: the figure.
        alt: what the figure shows, in one or two sentences.
    """
    from IPython.display import display

    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor="white", bbox_inches="tight")
    picture = {"image/png": to_base64(file.getvalue()), "text/plain": alt}
    display(picture, raw=True, metadata={"image/png": {"alt": alt}})
