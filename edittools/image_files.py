"""Read image files and mask files, and write masks."""

import os

import numpy as np
import torch
from PIL import ExifTags, Image, ImageChops, ImageOps
from torch import Tensor

from edittools._image_checks import check_mask
from edittools._storage import atomic_path
from edittools.geometry import HasInputSize, InputGeometry

MOST_COLOR = 32
"""By how much a channel of a gray mask may differ from its gray, of 255: the compression of a JPEG colors grays."""


def _load_rgb(path: str | os.PathLike, background: str) -> Image.Image:
    """Load an image file upright as 8-bit RGB, laid over the color `background` where it is transparent."""
    try:
        with Image.open(path) as photo:
            photo.load()
            photo = ImageOps.exif_transpose(photo)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{os.fspath(path)!r} is not a readable image: {error}") from error
    if photo.mode.startswith(("I", "F")):
        raise ValueError(f"{os.fspath(path)!r} has pixels of mode {photo.mode!r}; save it with 8 bits per channel")
    if photo.mode in ("RGB", "L") and "transparency" not in photo.info:
        return photo.convert("RGB")
    layer = photo.convert("RGBA")
    opaque = Image.alpha_composite(Image.new("RGBA", layer.size, background), layer)
    return opaque.convert("RGB")


def _cropped(photo: Image.Image, size: int | HasInputSize | None) -> Image.Image:
    """Resize and crop a photo, or the mask of one, to the input of that size; without a size, return it unchanged."""
    return photo if size is None else InputGeometry.of(size).crop(photo, Image.Resampling.BICUBIC)


def load_image(path: str | os.PathLike, size: int | HasInputSize | None = None) -> Tensor:
    """Load a photo as `(3, H, W)` float in [0, 1], upright and in RGB; transparent parts become white.

    Args:
        path: an image file.
        size: a classifier, an `InputGeometry(size, resize_to)`, or the side of the input in pixels. The photo's short
            side is then resized to `resize_to` pixels (bicubic), for a number to `size * 8 / 7` (256 for 224), and its
            center of `size × size` pixels is kept. By default the photo keeps its own size.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a readable image of 8 bits per channel, or if a size is not valid.
    """
    photo = _cropped(_load_rgb(path, "white"), size)
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255


def photo_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return the height and width in pixels of a photo as it stands upright, without decoding it.

    Args:
        path: an image file. Its EXIF orientation is applied.

    Raises:
        FileNotFoundError: if there is no such file.
        PIL.UnidentifiedImageError: if it is not an image file.
    """
    with Image.open(path) as photo:
        width, height = photo.size
        is_turned = photo.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (width, height) if is_turned else (height, width)


def load_mask(path: str | os.PathLike, size: int | HasInputSize | None = None) -> Tensor:
    """Load a mask as `(H, W)` float of 0 and 1, which is 1 where the file is white.

    A pixel of the mask is 1 if it is brighter than half; transparent parts of the file count as black. If no pixel is
    that bright and all pixels that are not black have one color, these are marked, as in a file of 0 and 1; in a
    drawing in black on a transparent ground, the drawing is marked. There are two kinds of mask files, which the file
    itself does not distinguish:

    - A mask that was drawn on the whole photo, at the photo's own size: pass a `size`. The mask is then resized and
      cropped as `load_image` does with the photo, so it still marks the same objects.
    - A mask that was drawn on the classifier's input, as in the `MaskEditor` on an image that `load_image` has cropped:
      load it without a `size`.

    Args:
        path: an image file.
        size: a classifier, its geometry, or the side of its input in pixels, see `load_image`. By default the mask
            keeps its own size.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a readable image of 8 bits per channel, if it has several colors or only dark
            grays, as a file of class indices has, or if a size is not valid.
    """
    grays = _cropped(_load_grays(path), size)
    return (torch.from_numpy(np.array(grays)) > 127).float()


def _load_grays(path: str | os.PathLike) -> Image.Image:
    """Load a mask file as 8-bit grays that are bright where the mask is, see `load_mask`."""
    photo = _load_rgb(path, "black")
    grays = photo.convert("L")
    shades = [shade for shade, count in enumerate(grays.histogram()) if count and shade > 0]
    if not shades:
        drawing = ImageOps.invert(_load_rgb(path, "white").convert("L"))
        is_opaque = drawing.getextrema() == (255, 255)
        return grays if is_opaque else drawing
    color = ImageChops.difference(photo, grays.convert("RGB"))
    is_colored = max(highest for _, highest in color.getextrema()) > MOST_COLOR
    if is_colored and photo.getcolors(2) is None:
        raise ValueError(f"{os.fspath(path)!r} has several colors; save one mask per concept, white on black")
    if shades[-1] > 127:
        return grays
    if len(shades) > 1:
        raise ValueError(
            f"{os.fspath(path)!r} has {len(shades)} shades of gray, of which the brightest is {shades[-1]} of 255; "
            "save one mask per concept, white on black"
        )
    return grays.point(lambda shade: 255 if shade else 0)


def _as_grays(mask: Tensor) -> Image.Image:
    """Check a mask, which may be empty, and convert it to an image of the grays 0 and 255."""
    pixels = (check_mask(mask, allow_empty=True) * 255).byte().cpu().numpy()
    return Image.fromarray(pixels)


def save_mask(path: str | os.PathLike, mask: Tensor) -> None:
    """Write a mask `(H, W)` of 0 and 1 as an 8-bit gray PNG, in one step.

    Raises:
        ValueError: if the name of the file does not end in .png, or if the mask has other values.
    """
    if not os.fspath(path).lower().endswith(".png"):
        raise ValueError(f"{os.fspath(path)!r} does not end in .png; a mask is saved as a PNG file, such as mask.png")
    grays = _as_grays(mask)
    with atomic_path(path) as temporary:
        grays.save(temporary, format="PNG", optimize=True)
