"""Figures of the notebooks: images with predictions, error rates with intervals, trade-offs, effects of concepts."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from edittools.images import LabeledImages
from edittools.metrics import misclassified
from edittools.widgets.drawing import (
    WRONG,
    image_grid,
    pixels_of_image,
    prediction_title,
    titles_and_states,
)
from edittools.widgets.pixels import figure_to_png, to_base64

BEFORE = "#8c959f"
"""The color of results before an edit."""

AFTER = "#0969da"
"""The color of results after an edit."""

AXIS = "#24292f"
"""The color of axes and of the whiskers of intervals."""

WHISKERS: dict[str, Any] = {"fmt": "none", "ecolor": AXIS, "elinewidth": 1, "capsize": 2}
"""Options of `errorbar`."""


def predictions(
    data: LabeledImages,
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


def attack_grid(sets: Mapping[str, tuple[LabeledImages, Tensor]], count: int = 6) -> Figure:
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


def counterfactuals(probe: Any, rule: pd.Series) -> Figure:
    """Draw evidence of a rule: five images, the same images with the concept transformed, and the controls.

    Args:
        probe: a `probing.Probe`.
        rule: a row of its `rules()`.
    """
    columns = ["classifier", "concept", "material"]
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
            titles.append(f"{view.title}\n{prediction_title(class_name, view.predicted)}")
            right.append(view.predicted == class_name)
    return image_grid(images, titles, right, columns=len(views_by_image), width=1.6)


def _spread(is_member: Tensor, count: int) -> list[int]:
    """Select up to `count` of the indices where a tensor `(N,)` is true, spread over them."""
    indices = is_member.nonzero()[:, 0].tolist()
    count = min(count, len(indices))
    return [indices[i * len(indices) // count] for i in range(count)]


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

    Where a notebook is shown without pictures, the text takes the figure's place. The figure is closed.

    Args:
        figure: the figure.
        alt: what the figure shows, in one or two sentences.
    """
    from IPython.display import display

    picture = {"image/png": to_base64(figure_to_png(figure)), "text/plain": alt}
    plt.close(figure)
    display(picture, raw=True, metadata={"image/png": {"alt": alt}})
