"""Masks: drawing on them, and reading and writing them as text.

Each shape has a twin of the same name in `mask_editor.js` that sets the same pixels, so all of them are defined in
whole numbers. A point is a pixel `(x, y)`, x to the right and y down from 0; it may lie outside the image. Masks are
boolean arrays `(H, W)` here; the editor's `.mask` is the tensor.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.measure import find_contours

Mask = NDArray[np.bool_]
Shape = tuple[int, int]
FURTHEST = 100_000  # a point further out than this is a mistake, and would only cost memory


def check_points(points: ArrayLike, least: int = 1) -> NDArray[np.int64]:
    """Return points as `(N, 2)` integers x, y; raise `ValueError` if they are not, or fewer than `least`."""
    given = np.asarray(points, dtype=float)
    if given.ndim != 2 or given.shape[1] != 2 or len(given) < least:
        raise ValueError(f"points of shape {given.shape}: expected at least {least} pixels (x, y), so ({least}+, 2)")
    if not (np.isfinite(given).all() and (given == given.round()).all() and (abs(given) <= FURTHEST).all()):
        raise ValueError(f"points {given[:3].tolist()}…: expected whole numbers of pixels x, y up to ±{FURTHEST}")
    return given.astype(np.int64)


def line_pixels(start: Sequence[int], end: Sequence[int]) -> NDArray[np.int64]:
    """The pixels `(N, 2)` of a straight line: one a step along its longer side, the other side rounded."""
    start, end = np.asarray(start, np.int64), np.asarray(end, np.int64)
    steps = abs(end - start).max()
    i = np.arange(steps + 1)[:, None]
    return start + (2 * i * (end - start) + steps) // max(2 * steps, 1)


def grow(mask: Mask, radius: int) -> Mask:
    """Widen a mask by a disc: add every pixel with dx² + dy² ≤ radius · (radius + 1) from one of its pixels."""
    if radius == 0 or not mask.any():
        return mask.copy()
    return ndimage.distance_transform_edt(~mask) ** 2 < radius * (radius + 1) + 0.5


def shrink(mask: Mask, radius: int) -> Mask:
    """Take away every pixel that a disc around a pixel outside of the mask reaches; the image's border stays."""
    return ~grow(~mask, radius)


def fill_holes(mask: Mask) -> Mask:
    """Add the pixels from which no path of up, down, left and right leads out of the image without crossing it."""
    return ndimage.binary_fill_holes(mask)


def stroke(shape: Shape, points: ArrayLike, radius: int) -> Mask:
    """Draw discs (see `grow`) along straight lines through the points."""
    points = check_points(points)
    path = np.concatenate([line_pixels(*ends) for ends in pairwise([points[0], *points])])
    path = path[((path >= -radius) & (path < np.array(shape[::-1]) + radius)).all(1)]
    mask = np.zeros(shape, bool)
    if len(path):
        low = path.min(0) - radius
        canvas = np.zeros((path.max(0) + radius + 1 - low)[::-1], bool)
        canvas[tuple((path - low).T[::-1])] = True
        first, last = np.maximum(low, 0), np.minimum(low + canvas.shape[::-1], shape[::-1])
        (x0, y0), (x1, y1), (left, top) = first, last, first - low
        mask[y0:y1, x0:x1] = grow(canvas, radius)[top : top + y1 - y0, left : left + x1 - x0]
    return mask


def _inside(shape: Shape, points: NDArray) -> Mask:
    """The pixels whose centre is inside a closed polygon by the even-odd rule (coordinates of pixel centres)."""
    flips = np.zeros((shape[0], shape[1] + 1), bool)
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        (x0, y0), (x1, y1) = (a, b) if a[1] <= b[1] else (b, a)
        rows = np.arange(max(np.ceil(y0), 0), min(np.ceil(y1), shape[0]), dtype=np.int64)
        if len(rows):
            crossing = x0 + (rows - y0) * (x1 - x0) / (y1 - y0)
            flips[rows, np.clip(np.floor(crossing) + 1, 0, shape[1]).astype(np.int64)] ^= True
    return np.logical_xor.accumulate(flips, axis=1)[:, :-1]


def polygon(shape: Shape, points: ArrayLike) -> Mask:
    """Fill a closed polygon: pixels inside by the even-odd rule, and those of the lines along its edges."""
    points = check_points(points, least=3)
    return _inside(shape, points) | stroke(shape, [*points, points[0]], 0)


def rectangle(shape: Shape, corner: Sequence[int], opposite: Sequence[int]) -> Mask:
    """Fill a rectangle between two corner pixels, both included."""
    x, y = np.sort(check_points([corner, opposite]), axis=0).T.clip(-1)
    mask = np.zeros(shape, bool)
    mask[max(y[0], 0) : y[1] + 1, max(x[0], 0) : x[1] + 1] = True
    return mask


def flood(pixels: NDArray[np.uint8], x: int, y: int, tolerance: int) -> Mask:
    """The connected area (up, down, left, right) around a pixel of `(H, W, 3)` 8-bit colours like its own.

    Like means that no channel differs from that pixel by more than `tolerance` (0 to 255).
    """
    like = abs(pixels.astype(np.int16) - pixels[y, x]).max(-1) <= tolerance
    areas = ndimage.label(like)[0]
    return areas == areas[y, x]


def enlarge(grid: NDArray, shape: Shape) -> NDArray:
    """Enlarge an array to `shape` by repeating: pixel i of n takes cell i · cells // n."""
    rows, columns = (np.arange(n) * cells // n for n, cells in zip(shape, grid.shape, strict=True))
    return grid[np.ix_(rows, columns)]


def run_lengths(values: NDArray) -> NDArray[np.int64]:
    """The lengths of the runs of equal neighbours in a flat array."""
    return np.diff(np.r_[0, np.flatnonzero(np.diff(values)) + 1, len(values)])


def encode_runs(mask: Mask) -> str:
    """Write a mask as text: lengths of the runs of 0, 1, 0, … row by row, the first of them possibly 0."""
    flat = mask.ravel()
    return " ".join(map(str, ([0] if flat[0] else []) + run_lengths(flat).tolist()))


def decode_runs(text: str, shape: Shape) -> Mask:
    """Read the text that `encode_runs` wrote; raise `ValueError` if it is not a mask of that shape."""
    return _from_counts([int(n) for n in text.split()], shape[0] * shape[1]).reshape(shape)


def _from_counts(counts: Sequence[int], size: int) -> Mask:
    """Lay out runs of 0, 1, 0, … as a flat mask."""
    runs = np.asarray(counts, dtype=np.int64)
    if (runs < 0).any() or runs.sum() != size:
        raise ValueError(f"run lengths with the sum {runs.sum()}: expected {size}, the number of pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def _pack(counts: Sequence[int]) -> str:
    """Write run lengths as COCO's compressed text: five bits a character, from the third on as differences."""
    characters = []
    for i, count in enumerate(counts):
        rest, more = count - (counts[i - 2] if i > 2 else 0), True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            characters.append(chr(48 + bits + 32 * more))
    return "".join(characters)


def _unpack(text: str) -> list[int]:
    """Read COCO's compressed text as run lengths."""
    counts, value, shift = [], 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"COCO run lengths hold the character {character!r}: expected those from '0' to 'o'")
        value, shift = value | (code & 31) << shift, shift + 5
        if not code & 32:
            value -= (code & 16) << shift - 4  # the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("COCO run lengths break off in the middle of a number")
    return counts


def encode_rle(mask: Mask, compressed: bool = True) -> dict:
    """Write a mask as COCO run lengths `{"size": [H, W], "counts": text}`, or a list of counts if not compressed."""
    flat = mask.ravel(order="F")
    counts = ([0] if flat[0] else []) + run_lengths(flat).tolist()
    return {"size": list(mask.shape), "counts": _pack(counts) if compressed else counts}


def encode_polygons(mask: Mask) -> list[list[float]]:
    """Write a mask as COCO polygons `[x, y, x, y, …]`, one for each connected area; a pixel spans `[x, x + 1]`.

    A hole is tied to its area by a line there and back, which encloses nothing; `decode_segmentation` gives back the
    same pixels.
    """
    areas = ndimage.label(mask)[0]
    polygons = []
    for number, box in enumerate(ndimage.find_objects(areas), start=1):
        rings = find_contours(np.pad(areas[box] == number, 1).astype(float), 0.5)
        offset = [box[1].start - 0.5, box[0].start - 0.5]
        rings = [ring[:, ::-1] + offset for ring in rings]
        path = np.concatenate(rings + [ring[:1] for ring in rings[-2::-1]]) if len(rings) > 1 else rings[0][:-1]
        polygons.append(path.ravel().tolist())
    return polygons


def decode_segmentation(segmentation: dict | list, shape: Shape) -> Mask:
    """Read a COCO segmentation: run lengths (text or list), polygons, or an annotation that holds one of them.

    Raises `ValueError` when it is none of these or does not fit `shape`.
    """
    if isinstance(segmentation, dict) and "segmentation" in segmentation:
        segmentation = segmentation["segmentation"]
    if isinstance(segmentation, dict) and {"size", "counts"} <= set(segmentation):
        if tuple(segmentation["size"]) != shape:
            raise ValueError(f"segmentation of size {segmentation['size']} does not fit: expected {list(shape)}")
        counts = segmentation["counts"]
        counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
        counts = _unpack(counts) if isinstance(counts, str) else counts
        return _from_counts(counts, shape[0] * shape[1]).reshape(shape, order="F")
    if not isinstance(segmentation, list) or not all(isinstance(path, list) for path in segmentation):
        raise ValueError(
            f"segmentation {str(segmentation)[:60]!r}…: expected COCO run lengths {{'size': …, 'counts': …}} "
            "or a list of polygons [x, y, x, y, …]"
        )
    mask = np.zeros(shape, bool)
    for path in segmentation:
        if len(path) < 6 or len(path) % 2:
            raise ValueError(f"polygon with {len(path)} numbers: expected x, y of at least 3 corners")
        mask |= _inside(shape, np.asarray(path, float).reshape(-1, 2) - 0.5)
    return mask
