"""Conversions of tensors for widgets, and the static figure that a saved notebook keeps of each widget."""

import base64
import io
import json
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from edittools._image_checks import check_image


class StaticFigure:
    """Keep the `figure()` of a widget in the saved notebook, for viewers that run no widgets, if it `has_figure`.

    Its text for readers who do not see it is `alt`, or the widget's `repr` if there is none.
    """

    has_figure = True
    alt = ""

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict]:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        if not self.has_figure:
            return data, metadata
        picture = {"image/png": to_base64(figure_to_png(self.figure()))}
        return {**data, **picture}, {**metadata, "image/png": {"alt": self.alt or repr(self)}}


def figure_to_png(figure: Figure) -> bytes:
    """Encode a figure as a PNG file on white, with its `plotted_numbers` as the file's description.

    Fonts and rounding change pixels from machine to machine; the numbers tell whether two files show the same.
    """
    file = io.BytesIO()
    description = json.dumps(plotted_numbers(figure))
    figure.savefig(file, format="png", facecolor="white", bbox_inches="tight", metadata={"Description": description})
    return file.getvalue()


def plotted_numbers(figure: Figure) -> list[float]:
    """List what a figure plots: the coordinates of lines, dots, and bars, and the mean colors of its images' parts.

    Args:
        figure: the figure.

    Returns:
        The numbers, axes by axes, rounded to three decimals; an image gives those of 4 by 4 parts.
    """
    numbers: list[float] = []
    for axes in figure.axes:
        arrays = [line.get_xydata() for line in axes.lines]
        arrays += [collection.get_offsets() for collection in axes.collections]
        arrays += [bar.get_bbox().get_points() for bar in axes.patches if isinstance(bar, Rectangle)]
        arrays += [_means_of_parts(np.asarray(image.get_array())) for image in axes.images]
        for array in arrays:
            numbers += np.asarray(array, dtype=float).round(3).ravel().tolist()
    return numbers


def _means_of_parts(pixels: NDArray) -> NDArray:
    """Average an image `(H, W)` or `(H, W, channels)` over 4 by 4 parts."""
    parts = [part for row in np.array_split(pixels, 4) for part in np.array_split(row, 4, axis=1)]
    return np.array([part.mean(axis=(0, 1)) for part in parts])


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """Convert an image to 8-bit pixels.

    Args:
        image: `(3, H, W)` in [0, 1].

    Returns:
        The pixels `(H, W, 3)`.

    Raises:
        ValueError: if it is not such an image.
    """
    image = check_image(image).detach().cpu()
    return (image.permute(1, 2, 0) * 255).round().byte().numpy()


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode 8-bit pixels `(H, W, 3)` as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def to_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encode 8-bit pixels `(H, W, 3)` as a JPEG file, a tenth of a PNG's size, for hundreds of small images."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=90, subsampling=0)
    return file.getvalue()


def to_base64(content: bytes) -> str:
    """Encode the content of a file as text."""
    return base64.b64encode(content).decode()


def plain_text(text: str) -> str:
    """Escape dollar signs, which a label or a figure would otherwise typeset as mathematics."""
    return text.replace("$", r"\$")
