"""The notebooks' figures: pictures with predictions, error rates with intervals, trade-offs. Each gives a Figure."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from edittools.benchmark import Kept
from edittools.edits import Edit
from edittools.images import LabelledImages
from edittools.metrics import errors
from edittools.scenarios import Scenario

RIGHT, WRONG, BEFORE, AFTER = "#1a7f37", "#cf222e", "#8c959f", "#0969da"
OVERLAY = "#e6007e"  # shows on snow, asphalt, grass and sky


def _pixels(image: Tensor) -> np.ndarray:
    return image.detach().cpu().permute(1, 2, 0).clamp(0, 1).numpy()


def image_grid(
    images: Sequence[Tensor] | Tensor,
    titles: Sequence[str] | None = None,
    right: Sequence[bool] | Tensor | None = None,
    overlays: Sequence[Tensor] | None = None,
    columns: int = 5,
    width: float = 2.0,
) -> Figure:
    """Draw `(3, H, W)` images in a grid, each with a title; `right` colours the titles green and red.

    `overlays` are `(H, W)` maps, 0 transparent and 1 (or more) strong, drawn over the images.
    """
    count = len(images)
    columns = min(columns, max(count, 1))
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * width, rows * (width + 0.45)), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        axis.imshow(_pixels(image), interpolation="nearest" if image.shape[-1] < 100 else "antialiased")
        if overlays is not None:
            heat = overlays[i].cpu().clamp(0, 1).numpy()
            axis.imshow(np.ones_like(heat), cmap=ListedColormap([OVERLAY]), alpha=0.7 * heat)
        if titles is not None:
            colour = "black" if right is None else RIGHT if bool(right[i]) else WRONG
            axis.set_title(titles[i], fontsize=8.5, color=colour)
    figure.tight_layout(pad=0.4)
    plt.close(figure)
    return figure


def predictions(
    data: LabelledImages,
    logits: Tensor,
    before: Tensor | None = None,
    count: int = 10,
    indices: Sequence[int] | None = None,
) -> Figure:
    """Draw some images with what they are and what they are read as; wrong readings are red.

    Without `indices`, up to half of `count` are wrong ones, spread over the set. With `before` `(N, classes)`, a second
    line gives the reading before and after.
    """
    guesses, wrong = logits.argmax(dim=1), errors(logits, data.labels)
    if indices is None:
        bad, good = (_spread(chosen.nonzero()[:, 0].tolist(), count // 2) for chosen in (wrong, ~wrong))
        indices = [*bad, *good]

    def name(step: Tensor, i: int) -> str:
        label = data.classes[int(step[i])]
        return label if len(label) < 15 else f"{label[:13]}…"

    if before is None:
        titles = [f"{name(data.labels, i)} → {name(guesses, i)}" for i in indices]
    else:
        first = before.argmax(dim=1)
        titles = [f"{name(data.labels, i)}\n{name(first, i)} → {name(guesses, i)}" for i in indices]
    return image_grid(torch.stack([data.images[i] for i in indices]), titles, ~wrong[list(indices)])


def _spread(items: Sequence[int], count: int) -> list[int]:
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)


def confusions(data: LabelledImages, logits: Tensor, top: int = 8) -> Figure:
    """Draw what the misclassified images are taken for, most frequent first."""
    taken = logits.argmax(dim=1)[errors(logits, data.labels)]
    counts = pd.Series([data.classes[int(i)] for i in taken]).value_counts().head(top)[::-1]
    figure, axis = _axes(None, (6, 0.3 * len(counts) + 0.9))
    axis.barh(counts.index, counts.to_numpy(), color=WRONG)
    axis.set_xlabel(f"of {len(taken)} misread images, how many are taken for …")
    return _finished(figure)


def layers(table: pd.DataFrame, colour: str = "objective") -> Figure:
    """Draw every trial of a sweep as a dot: `net` errors corrected in % by `layer`, coloured by `colour`."""
    figure, axis = _axes(None, (max(6, 0.55 * table.layer.nunique()), 3.4))
    shades = {"hue": colour, "palette": [AFTER, "#d4a72c"]}
    sns.stripplot(table, x="layer", y="net", jitter=0.25, size=4, alpha=0.7, ax=axis, **shades)
    axis.axhline(0, color="#24292f", linewidth=1)
    axis.set_ylim(max(table.net.min(), -110), 110)
    axis.set_ylabel("net errors corrected (%)")
    axis.set_xlabel("")
    axis.tick_params(axis="x", rotation=60, labelsize=8)
    _legend(axis, colour)
    return _finished(figure)


def before_after(story: Scenario, test: Kept, edit: Edit, exemplar: str) -> Figure:
    """Draw the story in one picture: the exemplar, where its key fires, and test images before and after the edit."""
    example = story.exemplars[exemplar]
    before, after = test.logits(), test.logits(edit)
    mended = (test.before & ~errors(after, test.labels)).nonzero()[:, 0].tolist()
    chosen = _spread(mended, 7)
    images = [example.image, example.changed, *(story.test.images[i] for i in chosen)]
    names = story.classifier.classes
    titles = [
        "x: road",
        "x': snow",
        *(f"{names[int(before[i].argmax())]}\n→ {names[int(after[i].argmax())]}" for i in chosen),
    ]
    firing = [edit.firing_map(story.classifier, image) for image in images]
    return image_grid(
        [*images, *images], [*titles, *[""] * len(images)], overlays=[*(0 * f for f in firing), *firing], columns=9
    )


def exemplar_figure(image: Tensor, changed: Tensor, mask: Tensor, firing: Tensor | None = None) -> Figure:
    """Draw x, the mask, x' and, if given, where the edited key fires in x'."""
    images, titles = [image, image, changed], ["x", "mask", "x'"]
    overlays = [mask * 0, mask, mask * 0]
    if firing is not None:
        images, titles, overlays = [*images, changed], [*titles, "where the key fires"], [*overlays, firing]
    return image_grid(images, titles, overlays=overlays, columns=4, width=2.6)


def error_bars(tables: Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Figure:
    """Draw error rates by class with Wilson intervals: before, and after each edit in `tables` (see `by_class`)."""
    first = next(iter(tables.values()))
    series = {"before": (first, "before")} | {name: (table, "after") for name, table in tables.items()}
    figure, axis = _axes(ax, (1.1 * len(first) + 2, 3.2))
    step = 0.8 / len(series)
    colours = [BEFORE, AFTER, *plt.get_cmap("Set2").colors]
    for i, (name, (table, when)) in enumerate(series.items()):
        rate, places = 100 * table[f"error rate {when}"], np.arange(len(table)) + (i - (len(series) - 1) / 2) * step
        spread = np.abs(100 * table[[f"low {when}", f"high {when}"]].to_numpy().T - rate.to_numpy())
        axis.bar(places, rate, step * 0.92, color=colours[i], label=name)
        axis.errorbar(places, rate, spread, fmt="none", ecolor="#24292f", elinewidth=1, capsize=2)
    axis.set_xticks(
        np.arange(len(first)), [f"{c}\n({n})" for c, n in zip(first.index, first.images, strict=True)], fontsize=8
    )
    axis.set_ylabel("error rate (%)")
    _legend(axis)
    return _finished(figure)


def method_bars(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the share of errors corrected, in %, method by method; columns are groups of images, rows are methods."""
    figure, axis = _axes(ax, (8, 0.5 * len(table) + 1.2))
    (100 * table.iloc[::-1]).plot.barh(ax=axis, width=0.8, color=[AFTER, "#d4a72c", BEFORE][: table.shape[1]])
    axis.axvline(0, color="#24292f", linewidth=1)
    axis.set_xlabel("errors corrected (%), eq. 2")
    axis.set_ylabel("")
    _legend(axis)
    return _finished(figure)


def strength_curve(table: pd.DataFrame, budget: float, ax: Axes | None = None) -> Figure:
    """Draw errors corrected and accuracy change against the strength α (see `benchmark.strength_curve`)."""
    figure, axis = _axes(ax, (6.5, 3.2))
    axis.plot(table.index, 100 * table["errors corrected"], "o-", color=AFTER, label="errors corrected")
    axis.set_xlabel("strength α of the edit")
    axis.set_ylabel("errors corrected (%)", color=AFTER)
    other = axis.twinx()
    other.plot(table.index, table["accuracy change (points)"], "s--", color=WRONG, label="accuracy change")
    other.axhline(-budget, color=WRONG, linewidth=0.8, linestyle=":")
    other.set_ylabel("accuracy on clean images (points)", color=WRONG)
    for side in (axis, other):
        side.spines["top"].set_visible(False)
    figure.tight_layout()
    plt.close(figure)
    return figure


def _axes(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    return (ax.figure, ax) if ax is not None else plt.subplots(figsize=size)


def _legend(axis: Axes, title: str | None = None) -> None:
    """Put the legend beside the picture, where it hides nothing."""
    axis.legend(title=title, frameon=False, fontsize=8, title_fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _finished(figure: Figure) -> Figure:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    plt.close(figure)
    return figure
