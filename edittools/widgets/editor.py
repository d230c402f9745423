"""Draw a concept mask on an image in the browser (`mask_editor.js`), and read it in Python."""

import base64
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import slic
from torch import Tensor

from edittools._checks import extra
from edittools.images import atomic_path, check_mask, load_mask, save_mask
from edittools.plots import image_grid
from edittools.probing.segmentation import deeplab
from edittools.widgets.pixels import Pictured, to_pixels, to_png

PICTURE_PIXELS = 3_000_000  # a larger image is shown smaller
SEGMENT_PIXELS = 400_000  # superpixels are computed on at most this many


class MaskEditor(Pictured, anywidget.AnyWidget):
    """Draw named masks on an image in the browser.

    `image` is `(3, H, W)` float in [0, 1]. `mask` is a `(H, W)` tensor of 0 and 1 to start from, or a dictionary of
    such tensors by name (`None` for an empty one) to draw several masks. `.mask` is the one that is drawn on now,
    `.masks` holds all, `.active` names the one that is drawn on.

    A drawn mask reaches Python between cells: draw, then run the next cell. An image of more than 3 megapixels is
    shown at a reduced size; the mask always has the full one. `finder` suggests masks of what it sees in the image, see
    `probing.segmentation`; by default both DeepLabs do, where they are installed.

    Raises `TypeError` or `ValueError` for an image of another shape, type or range and for a mask that does not fit.
    """

    _esm = Path(__file__).parent / "mask_editor.js"
    _css = Path(__file__).parent / "mask_editor.css"
    _size = traitlets.List().tag(sync=True)
    _picture = traitlets.Unicode().tag(sync=True)
    _segments = traitlets.Dict().tag(sync=True)
    _masks = traitlets.List().tag(sync=True)
    _asked = traitlets.Bool(help="whether the browser asks for suggestions").tag(sync=True)
    _suggested = traitlets.List(help="name and run lengths of each").tag(sync=True)
    _said = traitlets.Unicode(help="why there is no suggestion").tag(sync=True)
    active = traitlets.Unicode(help="name of the mask that is drawn on").tag(sync=True)

    def __init__(
        self,
        image: Tensor,
        mask: Tensor | Mapping[str, Tensor | None] | None = None,
        finder: Callable[[Tensor], dict[str, Tensor]] | None = None,
    ) -> None:
        pixels = to_pixels(image)
        self._image, self._shape, self._finder = image, pixels.shape[:2], finder
        named = mask if isinstance(mask, Mapping) else {"mask": mask}
        if not named:
            raise ValueError("no mask in the dictionary: expected at least one name, with None for an empty mask")
        super().__init__(
            _size=list(self._shape),
            _picture=base64.b64encode(to_png(_reduced(pixels, PICTURE_PIXELS))).decode(),
            _segments=_superpixels(_reduced(pixels, SEGMENT_PIXELS)),
            _masks=[[name, self._text(value)] for name, value in named.items()],
            active=next(iter(named)),
        )

    def __repr__(self) -> str:
        height, width = self._shape
        return f"MaskEditor({width} × {height} pixels, masks: {', '.join(map(repr, self.masks))})"

    @property
    def masks(self) -> dict[str, Tensor]:
        """All masks by name, each `(H, W)` float of 0 and 1."""
        return {name: torch.from_numpy(decode_runs(text, self._shape)).float() for name, text in self._masks}

    @property
    def mask(self) -> Tensor:
        """The mask that is drawn on now, `(H, W)` float of 0 and 1; setting it replaces the drawing."""
        return self.masks[self.active]

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        text = self._text(mask)
        self._masks = [[name, text if name == self.active else old] for name, old in self._masks]

    def add(self, name: str, mask: Tensor | None = None) -> None:
        """Add a mask under a new name and draw on it from now on; `ValueError` for a name that is taken."""
        self._masks = [*self._masks, [name, self._text(mask)]]
        self.active = name

    def suggest(self) -> dict[str, Tensor]:
        """Find concepts in the image: masks `(H, W)` of 0 and 1 by name, the largest first."""
        finders, found = [self._finder] if self._finder else [deeplab("cityscapes"), deeplab("pascal")], {}
        for finder in finders:
            found |= {name: masks[0] for name, masks in finder(self._image[None]).items()}
        return dict(sorted(found.items(), key=lambda pair: -float(pair[1].sum())))

    def save(self, path: str | os.PathLike) -> None:
        """Save the mask as a grey PNG (`.png`), or as COCO run lengths (`.json`), for which pycocotools is needed."""
        if _suffix(path) == ".png":
            save_mask(path, self.mask)
            return
        with extra("widgets", "coco"):
            from pycocotools import mask as coco
        encoded = coco.encode(np.asfortranarray(self.mask.numpy().astype(np.uint8)))
        text = json.dumps({"segmentation": encoded | {"counts": encoded["counts"].decode()}})
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def load(self, path: str | os.PathLike) -> None:
        """Replace the mask by one from a `.png`, or from a `.json` that holds a COCO annotation or segmentation."""
        if _suffix(path) == ".png":
            self.mask = load_mask(path)
            return
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:  # of JSON or of the text's encoding
            raise ValueError(f"{os.fspath(path)!r} is no JSON file of a COCO mask: {error}") from error
        self.mask = torch.from_numpy(_decoded(found, self._shape)).float()

    def figure(self) -> Figure:
        """Draw the image with the mask that is drawn on now."""
        return image_grid([self._image], overlays=[self.mask], width=3.2)

    def _text(self, mask: Tensor | None) -> str:
        if mask is None:
            return encode_runs(np.zeros(self._shape, bool))
        if not isinstance(mask, Tensor):
            raise TypeError(f"the mask is a {type(mask).__name__}: expected a torch tensor {self._shape} of 0 and 1")
        if tuple(mask.shape) != self._shape:
            raise ValueError(f"mask of shape {tuple(mask.shape)} does not fit the image: expected {self._shape}")
        return encode_runs(check_mask(mask.detach().cpu(), allow_empty=True).numpy() > 0)

    @traitlets.observe("_asked")
    def _answer(self, change: dict) -> None:
        """Send the suggestions that the browser asked for, or why there are none."""
        try:
            found = [[name, self._text(mask)] for name, mask in self.suggest().items()]
        except Exception as error:  # a finder of one's own raises any kind
            found, self._said = [], f"{type(error).__name__}: {error}"
        else:
            self._said = "" if found else "Nothing that is known is seen in this picture."
        self._suggested = found

    @traitlets.validate("_masks")
    def _check_masks(self, proposal: dict) -> list:
        names = [name for name, _ in proposal["value"]]
        if not all(isinstance(name, str) and name.strip() for name in names) or len(set(names)) < len(names):
            raise ValueError(f"mask names {names}: expected texts that are not empty, each of them once")
        for _, text in proposal["value"]:
            decode_runs(text, self._shape)
        return proposal["value"]


def encode_runs(mask: NDArray[np.bool_]) -> str:
    """Write a mask as text: lengths of the runs of 0, 1, 0, … row by row, the first of them possibly 0."""
    flat = mask.ravel()
    lengths = np.diff(np.r_[0, np.flatnonzero(np.diff(flat)) + 1, len(flat)]).tolist()
    return " ".join(map(str, ([0] if flat[0] else []) + lengths))


def decode_runs(text: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read the text that `encode_runs` wrote; raise `ValueError` if it is not a mask of that shape."""
    runs = np.array([int(length) for length in text.split()], dtype=np.int64)
    size = shape[0] * shape[1]
    if (runs < 0).any() or runs.sum() != size:
        raise ValueError(f"run lengths with the sum {runs.sum()}: expected {size}, the number of pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape)


def _decoded(found: Any, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a COCO annotation, its run lengths or its polygons as a mask `(H, W)` of 0 and 1."""
    segmentation = found.get("segmentation", found) if isinstance(found, dict) else found
    with extra("widgets", "coco"):
        from pycocotools import mask as coco
    try:
        if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
            segmentation = coco.frPyObjects(segmentation, *shape)
        mask = coco.decode(coco.merge(segmentation) if isinstance(segmentation, list) else segmentation)
    except Exception as error:  # pycocotools raises any kind
        said = f"segmentation {str(segmentation)[:60]!r}…"
        raise ValueError(f"{said}: expected COCO run lengths {{'size': …, 'counts': …}} or polygons") from error
    if mask.shape != shape:
        raise ValueError(f"segmentation of size {list(mask.shape)} does not fit: expected {list(shape)}")
    return mask


def _suffix(path: str | os.PathLike) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".json"):
        raise ValueError(f"mask file {os.fspath(path)!r}: expected a name that ends in .png or .json")
    return suffix


def _reduced(pixels: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """Shrink `(H, W, 3)` pixels until they are at most `most` in number."""
    height, width = pixels.shape[:2]
    if height * width <= most:
        return pixels
    scale = (most / (height * width)) ** 0.5
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _superpixels(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Part `(H, W, 3)` pixels into superpixels, as run lengths; a little smoothing keeps grain from tearing them."""
    count = min(300, 1 + pixels.shape[0] * pixels.shape[1] // 50)
    labels = slic(pixels, n_segments=count, compactness=15, sigma=0.7, start_label=0)
    ends = np.r_[np.flatnonzero(np.diff(labels.ravel())), labels.size - 1]
    runs = np.stack([labels.ravel()[ends], np.diff(ends, prepend=-1)], axis=1)
    return {"size": list(labels.shape), "runs": " ".join(map(str, runs.ravel().tolist()))}
