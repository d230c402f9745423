"""Draw images in rows and columns with matplotlib, each under its prediction."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from edittools.metrics import SIGNS, misclassified, state_of

RIGHT = "#1a7f37"
"""The color of correct predictions."""

WRONG = "#cf222e"
"""The color of wrong predictions."""

STATE_COLORS = {"correct": RIGHT, "corrected": RIGHT, "misclassified": WRONG, "broken": WRONG}
"""The color of an image's title by its state, see `state_of`."""

OVERLAY = "#e6007e"
"""The color of masks over images, which is visible on snow, asphalt, grass and sky."""


def image_grid(
    images: Sequence[Tensor] | Tensor,
    titles: Sequence[str] | None = None,
    right: Sequence[bool] | Tensor | None = None,
    overlays: Sequence[Tensor] | None = None,
    columns: int = 5,
    width: float = 2.0,
    states: Sequence[str] | None = None,
) -> Figure:
    """Draw images in a grid.

    Args:
        images: each `(3, H, W)` in [0, 1].
        titles: one title per image.
        right: whether each prediction is correct; the titles are then green with ✓ and red with ✗.
        overlays: maps `(H, W)` that are drawn over the images; 0 is transparent, 1 or more is strong.
        columns: number of columns.
        width: width of an image in inches.
        states: the state of each image before and after an edit; its sign, see `SIGNS`, takes the place of ✓ and ✗.
    """
    if states is None and right is not None:
        states = ["correct" if is_correct else "misclassified" for is_correct in right]
    columns = min(columns, max(len(images), 1))
    rows = -(-len(images) // columns)
    shown_titles = _titles_in_lines(titles, states, 14 * width)
    most_lines = max([2, *(title.count("\n") + 1 for title in shown_titles)])
    size = (columns * width, rows * (width + 0.05 + 0.2 * most_lines))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        draw_pixels(axis, pixels_of_image(image))
        if overlays is not None:
            strength = overlays[i].cpu().clamp(0, 1).numpy()
            axis.imshow(np.ones_like(strength), cmap=ListedColormap([OVERLAY]), alpha=0.7 * strength)
        if titles is not None:
            color = "black" if states is None else STATE_COLORS[states[i]]
            axis.set_title(shown_titles[i], fontsize=9, color=color)
    figure.tight_layout(pad=0.4)
    plt.close(figure)
    return figure


def prediction_title(truth: str, before: str, after: str | None = None) -> str:
    """Make the title of an image from the names of classes, which are shortened.

    Args:
        truth: the correct class.
        before: the predicted class.
        after: the predicted class with an edit.

    Returns:
        `true class` if the prediction is correct, else `true class: prediction`; if an edit changes the prediction,
        `true class: before → after`.
    """
    after = before if after is None else after
    truth = shortened(truth)
    before = shortened(before)
    after = shortened(after)
    if before != after:
        return f"{truth}: {before} → {after}"
    return truth if before == truth else f"{truth}: {before}"


def titles_and_states(
    classes: Sequence[str], labels: Tensor, before: Tensor, after: Tensor
) -> tuple[list[str], list[str]]:
    """Make the `prediction_title` of each image, and determine its state before and after an edit, see `state_of`.

    Args:
        classes: the names of the classes.
        labels: `(N,)`, class indices.
        before: logits `(N, classes)` before an edit.
        after: logits `(N, classes)` with it; the same ones if there is none.
    """
    titles = []
    for indices in zip(labels.tolist(), before.argmax(dim=1).tolist(), after.argmax(dim=1).tolist(), strict=True):
        names = [classes[index] for index in indices]
        titles.append(prediction_title(*names))
    was_correct = (~misclassified(before, labels)).tolist()
    is_correct = (~misclassified(after, labels)).tolist()
    states = [state_of(*pair) for pair in zip(was_correct, is_correct, strict=True)]
    return titles, states


def draw_pixels(axis: Axes, pixels: np.ndarray) -> None:
    """Draw an image, given as pixels `(H, W, 3)`; a small one is enlarged without blurring."""
    axis.imshow(pixels, interpolation="nearest" if pixels.shape[1] < 100 else "antialiased")


def pixels_of_image(image: Tensor) -> np.ndarray:
    """Convert an image `(3, H, W)` to pixels `(H, W, 3)` in [0, 1]."""
    return image.detach().cpu().permute(1, 2, 0).clamp(0, 1).numpy()


def _titles_in_lines(titles: Sequence[str] | None, states: Sequence[str] | None, letters: float) -> list[str]:
    """Put the sign of its state before each title, and break long titles, see `in_lines`."""
    titles = [] if titles is None else list(titles)
    if states is not None:
        titles = [f"{SIGNS[state]} {title}" for state, title in zip(states, titles, strict=True)]
    return [in_lines(title, letters) for title in titles]


def in_lines(title: str, letters: float) -> str:
    """Break a title whose lines have more letters after the true class, and if need be after the arrow."""
    for separator in (": ", " → "):
        if max(len(line) for line in title.split("\n")) >= letters:
            title = title.replace(separator, f"{separator.rstrip()}\n")
    return title


def shortened(name: str) -> str:
    """Shorten a long class name."""
    return name if len(name) < 15 else f"{name[:13]}…"
