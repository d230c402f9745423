"""The mask editor: draw masks on an image in the browser, and use them in Python.

The browser's part is `mask_operations.js`, what the tools do to a mask, and `mask_editor.js`, the view.
"""

import os
from collections.abc import Callable, Mapping, Sequence
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

from edittools._image_checks import check_mask, check_mask_names
from edittools.image_files import save_mask
from edittools.probing.segmentation import suggest_masks
from edittools.widgets.drawing import image_grid
from edittools.widgets.pixels import StaticFigure, to_base64, to_pixels, to_png

JAVASCRIPT = ("mask_operations.js", "mask_editor.js")
"""The files of the browser's part, which together are one module."""

MAX_DISPLAY_PIXELS = 3_000_000
"""An image with more pixels is displayed at a reduced size."""

MAX_SEGMENT_PIXELS = 150_000
"""An image with more pixels is reduced before superpixels are computed."""

COLOR_DISTANCES = (0, 8, 16, 28, 44, 64)
"""The sizes of the segments of smart select: neighbors whose mean colors differ less, of 255, are one segment."""


class MaskEditor(StaticFigure, anywidget.AnyWidget):
    """Draw named masks on an image in the browser.

    `mask` is the mask that is drawn on, `active` its name, and `masks` holds all masks. Drawings are transferred to
    Python between two cells: draw, then run the next cell. An image of more than 3 megapixels is displayed at a reduced
    size, but its masks always have the full size.

    Args:
        image: a tensor `(3, H, W)` of floats in [0, 1], a PIL image, or an array `(H, W, 3)` of bytes or of floats in
            [0, 1].
        mask: the mask to start from, `(H, W)` of 0 and 1; or several masks by name, with None for an empty mask.
        finder: a function that suggests masks of concepts in the image, see `probing.segmentation`; by default both
            DeepLabs of 2 MB. They need the package ai-edge-litert and two files.

    Raises:
        ValueError: if the image has another shape, type or range, if a mask is not a tensor of its size, or if there is
            no mask.
    """

    _esm = "".join((Path(__file__).parent / name).read_text("utf-8") for name in JAVASCRIPT)
    _css = Path(__file__).parent / "mask_editor.css"
    _size = traitlets.List(help="height and width").tag(sync=True)
    _image_png = traitlets.Unicode(help="the displayed image in base64").tag(sync=True)
    _segments = traitlets.Dict(help="size and run lengths of the superpixels, and their segments at each size").tag(
        sync=True
    )
    _masks = traitlets.List(help="name and bits of each mask").tag(sync=True)
    _suggestions_requested = traitlets.Int(help="how often the browser has asked for suggestions").tag(sync=True)
    _suggestions = traitlets.List(help="name and bits of each suggested mask").tag(sync=True)
    _suggestions_message = traitlets.Unicode(help="why there is no suggestion, in one line").tag(sync=True)
    _suggestions_error = traitlets.Unicode(help="the whole error, if there was one").tag(sync=True)
    _heat_png = traitlets.Unicode(help="the heat map over the image in base64").tag(sync=True)
    active = traitlets.Unicode(help="name of the mask that is drawn on").tag(sync=True)
    opacity = traitlets.Float(0.45, min=0.0, max=1.0, help="opacity of the mask over the image").tag(sync=True)

    def __init__(
        self,
        image: Tensor | Image.Image | NDArray,
        mask: Tensor | Mapping[str, Tensor | None] | None = None,
        finder: Callable[[Tensor], dict[str, Tensor]] | None = None,
    ) -> None:
        image = image_of(image)
        pixels = to_pixels(image)
        self._image = image
        self._shape = pixels.shape[:2]
        self._finder = finder
        self.heat: Tensor | None = None
        masks = mask if isinstance(mask, Mapping) else {"mask": mask}
        if not masks:
            raise ValueError("the dictionary of masks is empty; pass at least one name, with None for an empty mask")
        super().__init__(
            _size=list(self._shape),
            _image_png=to_base64(to_png(_reduced(pixels, MAX_DISPLAY_PIXELS))),
            _segments=_superpixels(_reduced(pixels, MAX_SEGMENT_PIXELS)),
            _masks=[[name, self._encode(value)] for name, value in masks.items()],
            active=next(iter(masks)),
        )

    def __repr__(self) -> str:
        height, width = self._shape
        return f"MaskEditor({width} × {height} pixels, masks: {', '.join(map(repr, self.masks))})"

    @property
    def masks(self) -> dict[str, Tensor]:
        """All masks by name, each `(H, W)` float of 0 and 1."""
        return {name: torch.from_numpy(unpack_mask(bits, self._shape)).float() for name, bits in self._masks}

    @property
    def mask(self) -> Tensor:
        """The mask that is drawn on, `(H, W)` float of 0 and 1; assigning to it replaces the drawing."""
        return self.masks[self.active]

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        new_bits = self._encode(mask)
        self._masks = [[name, new_bits if name == self.active else bits] for name, bits in self._masks]

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

    def suggest(self) -> dict[str, Tensor]:
        """Find concepts in the image.

        Returns:
            A mask `(H, W)` of 0 and 1 for each concept, by its name, the largest one first.
        """
        return suggest_masks(self._image, self._finder)

    def save(self, path: str | os.PathLike) -> None:
        """Save the mask that is drawn on as a gray PNG file, see `save_mask`."""
        save_mask(path, self.mask)

    def figure(self) -> Figure:
        """Plot the image with its heat map, if there is one, and with the mask that is drawn on."""
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

    @traitlets.observe("_suggestions_requested")
    def _send_suggestions(self, change: dict) -> None:
        """Send the suggestions that the browser asked for, or the reason why there are none."""
        suggestions = []
        message = ""
        details = ""
        try:
            for name, mask in self.suggest().items():
                suggestions.append([name, self._encode(mask)])
        except Exception as error:  # finders fail in any way
            suggestions = []
            message = self._reason(error)
            details = f"{type(error).__name__}: {error}"
        else:
            if not suggestions:
                message = "Nothing was recognized in this image."
        with self.hold_sync():
            self._suggestions_error = details
            self._suggestions_message = message
            self._suggestions = suggestions

    def _reason(self, error: Exception) -> str:
        """Describe in one line why there is no suggestion."""
        if self._finder is None and isinstance(error, ModuleNotFoundError):
            return "Suggest needs the package ai-edge-litert; see docs/desk.md."
        if self._finder is None and isinstance(error, OSError | ValueError):
            return "Suggest needs two files of 2 MB each; see docs/desk.md."
        return f"Suggest has failed with {type(error).__name__}."

    @traitlets.validate("_masks")
    def _check_masks(self, proposal: dict) -> list:
        """Raise `ValueError` for masks whose names or bits cannot be used."""
        check_mask_names([name for name, _ in proposal["value"]])
        for _, bits in proposal["value"]:
            unpack_mask(bits, self._shape)
        return [[name, bytes(bits)] for name, bits in proposal["value"]]


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
