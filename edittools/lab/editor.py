"""The notebook's hands: draw a concept mask on an image, look at an exemplar, and watch predictions change.

`MaskEditor` draws in the browser (`mask_editor.js`), where strokes never wait for Python; each tool is also a method
here that sets the same pixels, for scripts and for people who do not use a mouse.
"""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import anywidget
import numpy as np
import torch
import traitlets
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from skimage.segmentation import slic
from torch import Tensor

from edittools.checks import check_number
from edittools.images import atomic_path, check_mask, load_mask, save_mask
from edittools.lab import masks as raster
from edittools.lab.pixels import to_pixels, to_png

PICTURE_PIXELS = 3_000_000  # a larger image is shown smaller (and compared by colour at that size)
SEGMENT_PIXELS = 400_000  # superpixels are computed on at most this many
UNDO_STEPS = 200
COLOURS = ("#ff2d95", "#00e5ff", "#39ff14", "#ffb300", "#8b5cff")
LEADING, OTHER = "#0969da", "#8c959f"


def _reduced(pixels: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """Shrink `(H, W, 3)` pixels until they are at most `most` in number."""
    height, width = pixels.shape[:2]
    if height * width <= most:
        return pixels
    scale = (most / (height * width)) ** 0.5
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _visible_colour(pixels: NDArray[np.uint8]) -> str:
    """Choose the colour that is furthest from what the image shows."""
    sample = _reduced(pixels, 4096).reshape(-1, 3).astype(float)
    distances = [np.linalg.norm(sample - list(bytes.fromhex(colour[1:])), axis=1) for colour in COLOURS]
    return COLOURS[int(np.argmax([np.percentile(distance, 5) for distance in distances]))]


def _superpixels(pixels: NDArray[np.uint8], segments: int | None) -> NDArray[np.int64]:
    """Number the superpixels of `(H, W, 3)` pixels from 0; a little smoothing keeps grain from tearing them."""
    if segments is None:
        segments = min(300, 1 + pixels.shape[0] * pixels.shape[1] // 50)
    check_number(segments, 1, 20_000, "number of segments")
    return slic(pixels, n_segments=segments, compactness=15, sigma=0.7, start_label=0).astype(np.int64)


class MaskEditor(anywidget.AnyWidget):
    """Draw named masks on an image, in the browser or with the methods below.

    `image` is `(3, H, W)` float in [0, 1]. `mask` is a `(H, W)` tensor of 0 and 1 to start from, or a dictionary of
    such tensors by name (`None` for an empty one) to draw several masks. `.mask` is the one that is drawn on now,
    `.masks` holds all. `colour` (`"#rrggbb"`) is chosen to show on the image if it is not given; `segments` is about
    how many superpixels smart select works with (up to 300 by the size of the image).

    A drawn mask reaches Python between cells: draw, then run the next cell. Colours of an image of more than
    3 megapixels are shown and compared at a reduced size; the mask always has the full one.

    Raises `TypeError` or `ValueError` for an image of another shape, type or range and for a mask that does not fit.
    """

    _esm = Path(__file__).parent / "mask_editor.js"
    _css = Path(__file__).parent / "mask_editor.css"
    _size = traitlets.List().tag(sync=True)
    _picture = traitlets.Unicode().tag(sync=True)
    _segments = traitlets.Dict().tag(sync=True)
    _masks = traitlets.List().tag(sync=True)
    _step = traitlets.Unicode(help="'undo' or 'redo' if that set the masks last").tag(sync=True)
    active = traitlets.Unicode(help="name of the mask that is drawn on").tag(sync=True)
    colour = traitlets.Unicode(help="colour of the mask, '#rrggbb'").tag(sync=True)
    opacity = traitlets.Float(0.45, min=0, max=1, help="opacity of the mask").tag(sync=True)

    def __init__(
        self,
        image: Tensor,
        mask: Tensor | Mapping[str, Tensor | None] | None = None,
        *,
        colour: str | None = None,
        segments: int | None = None,
    ) -> None:
        """Prepare the image, its superpixels and the masks to start from."""
        pixels = to_pixels(image)
        self._shape = pixels.shape[:2]
        self._past, self._future = [], []
        self._pixels = _reduced(pixels, PICTURE_PIXELS)
        self._labels = _superpixels(_reduced(pixels, SEGMENT_PIXELS), segments)
        named = mask if isinstance(mask, Mapping) else {"mask": mask}
        if not named:
            raise ValueError("no mask in the dictionary: expected at least one name, with None for an empty mask")
        runs = raster.run_lengths(self._labels.ravel())
        values = self._labels.ravel()[np.cumsum(runs) - 1]
        super().__init__(
            _size=list(self._shape),
            _picture=base64.b64encode(to_png(self._pixels)).decode(),
            _segments={
                "size": list(self._labels.shape),
                "runs": " ".join(map(str, np.stack([values, runs], 1).ravel().tolist())),
            },
            _masks=[[self._name(name), self._text(value)] for name, value in named.items()],
            active=next(iter(named)),
            colour=_visible_colour(pixels) if colour is None else colour,
        )
        self.observe(self._remember, "_masks")

    def __repr__(self) -> str:
        """Name the size and the masks (the same in every run)."""
        height, width = self._shape
        return f"MaskEditor({width} × {height} pixels, masks: {', '.join(map(repr, self.masks))})"

    # --- masks -----------------------------------------------------------------------------------------------------

    @property
    def masks(self) -> dict[str, Tensor]:
        """All masks by name, each `(H, W)` float of 0 and 1."""
        return {name: torch.from_numpy(raster.decode_runs(text, self._shape)).float() for name, text in self._masks}

    @property
    def mask(self) -> Tensor:
        """The mask that is drawn on now, `(H, W)` float of 0 and 1; setting it replaces the drawing (can be undone)."""
        return torch.from_numpy(self._drawn()).float()

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        self._replace(self._text(mask))

    def add_mask(self, name: str, mask: Tensor | None = None) -> None:
        """Add a mask under a new name and draw on it from now on."""
        if name in dict(self._masks):
            raise ValueError(f"there is a mask {name!r} already: choose another name, or set `.active` to draw on it")
        self._put([*self._masks, [self._name(name), self._text(mask)]])
        self.active = name

    def remove_mask(self, name: str) -> None:
        """Remove the mask of that name; the last one stays, so clear it instead."""
        left = [pair for pair in self._masks if pair[0] != self._known(name)]
        if not left:
            raise ValueError(f"{name!r} is the only mask: clear it instead")
        if self.active == name:
            self.active = left[0][0]
        self._put(left)

    def undo(self) -> None:
        """Take back the last change (a whole stroke), drawn or made in Python."""
        if self._past:
            self._put(self._past[-1], "undo")

    def redo(self) -> None:
        """Make the change again that was taken back last."""
        if self._future:
            self._put(self._future[-1], "redo")

    # --- the tools: each sets the pixels that it sets in the browser ----------------------------------------------

    def brush(self, points: ArrayLike, radius: int = 0, add: bool = True) -> None:
        """Paint along the points `(N, 2)` with a disc; `add=False` takes away. A point is a pixel `(x, y)`."""
        check_number(radius, 0, 10_000, "radius")
        self._combine(raster.stroke(self._shape, points, radius), add)

    def eraser(self, points: ArrayLike, radius: int = 0) -> None:
        """Erase along the points with a disc."""
        self.brush(points, radius, add=False)

    def line(self, start: Sequence[int], end: Sequence[int], radius: int = 0, add: bool = True) -> None:
        """Draw a straight line with a disc."""
        self.brush([start, end], radius, add)

    def polygon(self, points: ArrayLike, add: bool = True) -> None:
        """Fill the closed polygon through the points, edges included (inside by the even-odd rule)."""
        self._combine(raster.polygon(self._shape, points), add)

    def lasso(self, points: ArrayLike, add: bool = True) -> None:
        """Fill the area inside a closed path: a polygon with many points."""
        self.polygon(points, add)

    def rectangle(self, corner: Sequence[int], opposite: Sequence[int], add: bool = True) -> None:
        """Fill the rectangle between two corner pixels, both included."""
        self._combine(raster.rectangle(self._shape, corner, opposite), add)

    def fill(self, x: int, y: int, tolerance: int = 24, add: bool = True) -> None:
        """Fill the connected area around a pixel whose colours are within `tolerance` (0 to 255, each channel)."""
        check_number(tolerance, 0, 255, "tolerance")
        x, y = self._cell(x, y, self._pixels.shape)
        self._combine(raster.enlarge(raster.flood(self._pixels, x, y, tolerance), self._shape), add)

    def superpixel_at(self, x: int, y: int) -> int:
        """The number of the superpixel at a pixel."""
        x, y = self._cell(x, y, self._labels.shape)
        return int(self._labels[y, x])

    def superpixels(self, numbers: Sequence[int], add: bool = True) -> None:
        """Add whole superpixels by number (see `superpixel_at`)."""
        for number in numbers:
            check_number(number, 0, int(self._labels.max()), "superpixel")
        self._combine(raster.enlarge(np.isin(self._labels, list(numbers)), self._shape), add)

    def grow(self, pixels: int = 1) -> None:
        """Widen the mask by that many pixels."""
        self._draw(raster.grow(self._drawn(), check_number(pixels, 1, 10_000, "pixels to grow")))

    def shrink(self, pixels: int = 1) -> None:
        """Narrow the mask by that many pixels; it stays at the border of the image."""
        self._draw(raster.shrink(self._drawn(), check_number(pixels, 1, 10_000, "pixels to shrink")))

    def fill_holes(self) -> None:
        """Fill what the mask encloses."""
        self._draw(raster.fill_holes(self._drawn()))

    def invert(self) -> None:
        """Swap what is in the mask and what is not."""
        self._draw(~self._drawn())

    def clear(self) -> None:
        """Empty the mask."""
        self._draw(np.zeros(self._shape, bool))

    # --- files and other formats -----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike, kind: str = "rle") -> None:
        """Save the mask: a grey PNG for a name in `.png`, or COCO text of that kind (see `to_coco`) for `.json`."""
        if self._suffix(path) == ".png":
            save_mask(path, self.mask)
        else:
            text = json.dumps({"segmentation": self.to_coco(kind)})
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def load(self, path: str | os.PathLike) -> None:
        """Replace the mask by one from a `.png` or a COCO `.json` file."""
        if self._suffix(path) == ".png":
            self.mask = load_mask(path)
        else:
            try:
                segmentation = json.loads(Path(path).read_text(encoding="utf-8"))
            except ValueError as error:  # of JSON or of the text's encoding
                raise ValueError(f"{os.fspath(path)!r} is no JSON file of a COCO mask: {error}") from error
            self.from_coco(segmentation)

    def to_coco(self, kind: str = "rle") -> dict | list:
        """The mask as pycocotools reads it: `"rle"` compressed text, `"counts"` a list, `"polygons"`."""
        if kind == "polygons":
            return raster.encode_polygons(self._drawn())
        if kind not in ("rle", "counts"):
            raise ValueError(f"COCO segmentation of kind {kind!r}: expected 'rle', 'counts' or 'polygons'")
        return raster.encode_rle(self._drawn(), compressed=kind == "rle")

    def from_coco(self, segmentation: dict | list) -> None:
        """Replace the mask by a COCO segmentation: run lengths, polygons, or an annotation that holds one."""
        self._draw(raster.decode_segmentation(segmentation, self._shape))

    # --- inside ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _suffix(path: str | os.PathLike) -> str:
        suffix = Path(path).suffix.lower()
        if suffix not in (".png", ".json"):
            raise ValueError(f"mask file {os.fspath(path)!r}: expected a name that ends in .png or .json")
        return suffix

    @staticmethod
    def _name(name: str) -> str:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"mask name {name!r}: expected a text that is not empty")
        return name

    def _known(self, name: str) -> str:
        names = [known for known, _ in self._masks]
        if name not in names:
            raise ValueError(f"no mask {name!r}: there are {', '.join(map(repr, names))}")
        return name

    def _text(self, mask: Tensor | None) -> str:
        if mask is None:
            return raster.encode_runs(np.zeros(self._shape, bool))
        if not isinstance(mask, Tensor):
            raise TypeError(f"the mask is a {type(mask).__name__}: expected a torch tensor {self._shape} of 0 and 1")
        if tuple(mask.shape) != self._shape:
            raise ValueError(f"mask of shape {tuple(mask.shape)} does not fit the image: expected {self._shape}")
        return raster.encode_runs(check_mask(mask.detach().cpu(), allow_empty=True).numpy() > 0)

    def _drawn(self) -> NDArray[np.bool_]:
        return raster.decode_runs(dict(self._masks)[self.active], self._shape)

    def _draw(self, mask: NDArray[np.bool_]) -> None:
        self._replace(raster.encode_runs(mask))

    def _replace(self, text: str) -> None:
        self._put([[name, text if name == self.active else old] for name, old in self._masks])

    def _put(self, masks: list, step: str = "") -> None:
        """Set the masks, in one message with what step that is."""
        with self.hold_sync():
            self._step, self._masks = step, masks

    def _combine(self, area: NDArray[np.bool_], add: bool) -> None:
        self._draw(self._drawn() | area if add else self._drawn() & ~area)

    def _cell(self, x: int, y: int, grid: tuple[int, ...]) -> tuple[int, int]:
        """Turn a pixel of the image into the cell of a coarser grid."""
        height, width = self._shape
        check_number(x, 0, width - 1, "x")
        check_number(y, 0, height - 1, "y")
        return x * grid[1] // width, y * grid[0] // height

    def _remember(self, change: dict) -> None:
        """Keep the history; undo and redo, from whichever side, say so."""
        old, new = change["old"], change["new"]
        if self._step == "undo" and self._past and new == self._past[-1]:
            self._future.append(old)
            self._past.pop()
        elif self._step == "redo" and self._future and new == self._future[-1]:
            self._past.append(old)
            self._future.pop()
        else:
            self._past = [*self._past, old][-UNDO_STEPS:]
            self._future.clear()
        if self.active not in dict(new):
            self.active = new[0][0]

    @traitlets.validate("_masks")
    def _check_masks(self, proposal: dict) -> list:
        names = [self._name(name) for name, _ in proposal["value"]]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"mask names {names}: expected at least one, each of them once")
        for _, text in proposal["value"]:
            raster.decode_runs(text, self._shape)
        return proposal["value"]

    @traitlets.validate("active")
    def _check_active(self, proposal: dict) -> str:
        return self._known(proposal["value"])

    @traitlets.validate("colour")
    def _check_colour(self, proposal: dict) -> str:
        colour = proposal["value"]
        if not (len(colour) == 7 and colour[0] == "#" and all(c in "0123456789abcdefABCDEF" for c in colour[1:])):
            raise ValueError(f"colour {colour!r}: expected '#rrggbb', such as '#ff2d95'")
        return colour
