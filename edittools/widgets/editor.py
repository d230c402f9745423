"""The mask editor: draw a mask on an image in the browser, and use it in Python.

The browser's part is `mask_operations.js`, what the tools do to a mask; `mask_document.js`, what all views of an editor
share; `mask_tools.js`, the tools and the elements of the controls; `mask_stage.js`, what is seen of the image and the
mask; and `mask_editor.js`, the controls, the pointer, and the keyboard.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.segmentation import slic
from torch import Tensor

from edittools._image_checks import check_mask
from edittools.image_files import save_mask
from edittools.widgets.drawing import image_grid
from edittools.widgets.pixels import StaticFigure, to_base64, to_pixels, to_png

JAVASCRIPT = ("mask_operations.js", "mask_document.js", "mask_tools.js", "mask_stage.js", "mask_editor.js")
"""The files of the browser's part, which in this order are one module, since anywidget takes one text."""

MAX_PIXELS = 72_000_000
"""The browser could not send the mask of a larger image: a message of more than 10 MiB is lost without an error."""

MAX_DISPLAY_PIXELS = 3_000_000
"""An image with more pixels is displayed at a reduced size."""

MAX_SEGMENT_PIXELS = 150_000
"""An image with more pixels is reduced before superpixels are computed."""

COLOR_DISTANCES = (0, 8, 16, 28, 44, 64)
"""The sizes of the segments of smart select: neighbors whose mean colors differ less, of 255, are one segment."""


class MaskEditor(StaticFigure, anywidget.AnyWidget):
    """Draw a mask on an image in the browser.

    Drawings are transferred to Python between two cells: draw, then run the next cell. An image of more than 3
    megapixels is displayed at a reduced size, but its mask always has the full size.

    Args:
        image: a tensor `(3, H, W)` of floats in [0, 1], a PIL image, or an array `(H, W, 3)` of bytes or of floats in
            [0, 1].
        mask: the mask to start from, `(H, W)` of 0 and 1; by default an empty one.

    Raises:
        ValueError: if the image has another shape, type or range, or more than 72 megapixels, or if the mask is not a
            tensor of its size.
    """

    _esm = "".join((Path(__file__).parent / name).read_text("utf-8") for name in JAVASCRIPT)
    _css = Path(__file__).parent / "mask_editor.css"
    _size = traitlets.List(help="height and width").tag(sync=True)
    _image_png = traitlets.Unicode(help="the displayed image in base64").tag(sync=True)
    _segments = traitlets.Dict(help="size and run lengths of the superpixels, and their segments at each size").tag(
        sync=True
    )
    _mask = traitlets.CBytes(help="the bits of the mask").tag(sync=True)
    _heat_png = traitlets.Unicode(help="the heat map over the image in base64").tag(sync=True)
    opacity = traitlets.Float(0.45, min=0.0, max=1.0, help="opacity of the mask over the image").tag(sync=True)

    def __init__(self, image: Tensor | Image.Image | NDArray, mask: Tensor | None = None) -> None:
        image = image_of(image)
        pixels = to_pixels(image)
        self._image = image
        self._shape = pixels.shape[:2]
        if self._shape[0] * self._shape[1] > MAX_PIXELS:
            raise ValueError(f"an image of {self._shape} is too large to draw on; reduce it to 72 megapixels")
        self.heat: Tensor | None = None
        super().__init__(
            _size=list(self._shape),
            _image_png=to_base64(to_png(_reduced(pixels, MAX_DISPLAY_PIXELS))),
            _segments=_superpixels(_reduced(pixels, MAX_SEGMENT_PIXELS)),
            _mask=self._encode(mask),
        )

    def __repr__(self) -> str:
        height, width = self._shape
        return f"MaskEditor({width} × {height} pixels, {int(self.mask.sum())} in the mask)"

    @property
    def mask(self) -> Tensor:
        """The mask, `(H, W)` float of 0 and 1; assigning to it replaces the drawing, None empties it."""
        return torch.from_numpy(unpack_mask(self._mask, self._shape)).float()

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        self._mask = self._encode(mask)

    def shows(self, image: Tensor | Image.Image | NDArray) -> bool:
        """Return whether this is the editor's image, with the same 8-bit pixels: only then is the mask one of it.

        Args:
            image: of one of the kinds that the editor takes.

        Raises:
            ValueError: if it is not an image.
        """
        return np.array_equal(to_pixels(image_of(image)), to_pixels(self._image))

    def show_heat(self, heat: Tensor | None) -> None:
        """Lay a heat map over the image.

        The attribute `heat` holds the map that is shown.

        Args:
            heat: `(H, W)` of finite numbers. Positive values are highlighted, the largest ones most. None removes the
                heat map.

        Raises:
            ValueError: if the map does not fit the image, or holds NaN or infinite numbers.
        """
        if heat is not None and (tuple(heat.shape) != self._shape or not heat.isfinite().all()):
            raise ValueError(
                f"the heat map of shape {tuple(heat.shape)} does not fit the image, or holds NaN; pass finite numbers "
                f"of shape {self._shape}"
            )
        self.heat = heat
        self._heat_png = "" if heat is None else to_base64(to_png(heat_pixels(heat)))

    def save(self, path: str | os.PathLike) -> None:
        """Save the mask as a gray PNG file, see `save_mask`."""
        save_mask(path, self.mask)

    def figure(self) -> Figure:
        """Plot the image with its heat map, if there is one, and with the mask."""
        return image_grid([self.shown_image], overlays=[self.mask], width=3.2)

    @property
    def shown_image(self) -> Tensor:
        """The image `(3, H, W)` as it is shown, with its heat map on top if there is one."""
        if self.heat is None:
            return self._image
        layer = torch.from_numpy(heat_pixels(self.heat)).permute(2, 0, 1) / 255
        return self._image * (1 - layer[3]) + layer[:3] * layer[3]

    def _encode(self, mask: Tensor | None) -> bytes:
        """Encode a mask `(H, W)` as bits; None is an empty mask."""
        if mask is None:
            return pack_mask(np.zeros(self._shape, bool))
        checked = check_mask(mask, self._image, allow_empty=True)
        return pack_mask(checked.detach().cpu().numpy() > 0)

    @traitlets.validate("_mask")
    def _check_bits(self, proposal: dict) -> bytes:
        """Raise `ValueError` for bits that do not fit the image."""
        unpack_mask(proposal["value"], self._shape)
        return proposal["value"]


def image_of(image: Tensor | Image.Image | NDArray) -> Tensor:
    """Convert a PIL image, or an array `(H, W, 3)` of bytes or floats, to `(3, H, W)`; a tensor is returned."""
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3:
        return image
    pixels = image / 255 if image.dtype == np.uint8 else image
    return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)).permute(2, 0, 1)


def strongest_heat(heat: Tensor) -> float:
    """Return the value of a heat map `(H, W)` from which on it has the full color, 0 if it is nowhere positive."""
    positive = heat.detach().cpu().float().clamp_min(0).numpy()
    return float(np.quantile(positive, 0.98) or positive.max())


def heat_pixels(heat: Tensor) -> NDArray[np.uint8]:
    """Color a heat map so that it can be seen on any image: orange where it is largest, dark where it is not positive.

    Args:
        heat: `(H, W)` of finite numbers.

    Returns:
        Pixels `(H, W, 4)` from 0 to 255: red, green, blue and opacity.
    """
    positive = heat.detach().cpu().float().clamp_min(0).numpy()
    strength = np.clip(positive / (strongest_heat(heat) or 1.0), 0, 1)
    shade = 0.5 * (1 - strength)
    tint = 0.6 * strength
    opacity = 1 - (1 - shade) * (1 - tint)
    share = np.divide(tint, opacity, out=np.zeros_like(tint), where=opacity > 0)
    layers = [channel * share for channel in (255, 140, 0)] + [255 * opacity]
    return np.stack(layers, axis=-1).round().astype(np.uint8)


def pack_mask(mask: NDArray[np.bool_]) -> bytes:
    """Encode a mask `(H, W)` as bits, through all rows in order, eight pixels per byte."""
    return np.packbits(mask).tobytes()


def unpack_mask(bits: bytes | memoryview, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode the bits that `pack_mask` returned.

    Args:
        bits: the bits.
        shape: height and width of the mask.

    Returns:
        The mask `(H, W)` of booleans.

    Raises:
        ValueError: if there are not as many bits as pixels, up to a whole byte.
    """
    size = shape[0] * shape[1]
    if len(bits) != -(-size // 8):
        raise ValueError(
            f"{len(bits)} bytes of a mask do not fit; pass {-(-size // 8)}, one bit for each of {size} pixels"
        )
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=size).astype(bool).reshape(shape)


def _reduced(pixels: NDArray[np.uint8], max_pixels: int) -> NDArray[np.uint8]:
    """Shrink `(H, W, 3)` pixels until there are at most `max_pixels` of them."""
    height, width = pixels.shape[:2]
    if height * width <= max_pixels:
        return pixels
    scale = (max_pixels / (height * width)) ** 0.5
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _superpixels(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Divide an image into superpixels, after a little smoothing so that noise does not fragment them.

    Args:
        pixels: `(H, W, 3)`.

    Returns:
        `size`: height and width; `runs`: the label and the length of each run of equal labels, through all rows in
        order; `segments`: for each of `COLOR_DISTANCES`, the number of the segment of each superpixel.
    """
    height, width = pixels.shape[:2]
    count = min(300, 1 + height * width // 50)
    labels = slic(pixels, n_segments=count, compactness=15, sigma=0.7, start_label=0)
    segments = merged_segments(pixels, labels, COLOR_DISTANCES)
    flat = labels.ravel()
    ends = np.r_[np.flatnonzero(np.diff(flat)), flat.size - 1]
    lengths = np.diff(ends, prepend=-1)
    runs = np.stack([flat[ends], lengths], axis=1)
    runs_text = " ".join(map(str, runs.ravel().tolist()))
    return {"size": [height, width], "runs": runs_text, "segments": segments}


def merged_segments(
    pixels: NDArray[np.uint8], labels: NDArray[np.integer], distances: Sequence[float]
) -> list[list[int]]:
    """Join neighboring superpixels of similar color.

    Args:
        pixels: `(H, W, 3)`.
        labels: the superpixel of each pixel, `(H, W)`, from 0 up.
        distances: superpixels are joined whose mean colors differ less.

    Returns:
        For each distance, the number of the segment of each superpixel.
    """
    count = int(labels.max()) + 1
    areas = np.bincount(labels.ravel(), minlength=count)
    sums = [np.bincount(labels.ravel(), pixels[..., channel].ravel(), count) for channel in range(3)]
    colors = np.stack(sums, axis=1) / areas[:, None]
    in_rows = np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()])
    in_columns = np.stack([labels[:-1].ravel(), labels[1:].ravel()])
    one, other = np.unique(np.concatenate([in_rows, in_columns], axis=1), axis=1)
    difference = np.linalg.norm(colors[one] - colors[other], axis=1)
    joined = []
    for distance in distances:
        is_similar = difference < distance
        edges = (np.ones(is_similar.sum()), (one[is_similar], other[is_similar]))
        _, segments = connected_components(coo_array(edges, shape=(count, count)), directed=False)
        joined.append(segments.tolist())
    return joined
