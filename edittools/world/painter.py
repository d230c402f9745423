"""A small anti-aliased painter: filled shapes with soft light, grain, and exact masks of what stays visible."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import ceil, floor
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageFont

Colour = str | Sequence[float] | np.ndarray
Points = Sequence | np.ndarray
SUPERSAMPLING = 4


def rgb(colour: Colour) -> np.ndarray:
    """Turn `"#rrggbb"` (or three numbers in [0, 1]) into an array (3,) of float32."""
    if isinstance(colour, str):
        return np.array(ImageColor.getrgb(colour), np.float32) / 255
    return np.asarray(colour, np.float32)


def _slope(heights: np.ndarray) -> np.ndarray:
    """Do what `np.gradient` does along the first axis, in half the time on so few numbers."""
    slope = np.empty_like(heights)
    slope[1:-1] = (heights[2:] - heights[:-2]) / 2
    slope[0], slope[-1] = heights[1] - heights[0], heights[-1] - heights[-2]
    return slope


_from_above = cache(partial(np.linspace, 1, -1, dtype=np.float32))


def value_noise(u: np.ndarray, v: np.ndarray, rng: np.random.Generator, octaves: int = 1) -> np.ndarray:
    """Make a smooth random field in [0, 1] at the coordinates (u, v), one grain per unit, each octave twice as fine."""
    total, weight = np.zeros(np.broadcast_shapes(u.shape, v.shape), np.float32), 0.0
    for octave in range(octaves):
        lattice = np.empty((65, 65), np.float32)  # the first row and column come again after the last
        lattice[:64, :64] = rng.random((64, 64), np.float32)
        lattice[64], lattice[:, 64] = lattice[0], lattice[:, 0]
        lattice = lattice.ravel()  # the right neighbour of number k is k + 1, the lower one k + 65
        x, y = u * 2**octave, v * 2**octave
        i, j = np.floor(x), np.floor(y)
        f, g = x - i, y - j
        f, g = f * f * (3 - 2 * f), g * g * (3 - 2 * g)
        corner, opposite = (i.astype(np.intp) & 63) + (j.astype(np.intp) & 63) * 65, 1 - f
        upper = lattice.take(corner) * opposite + lattice[1:].take(corner) * f
        lower = lattice[65:].take(corner) * opposite + lattice[66:].take(corner) * f
        total += (upper * (1 - g) + lower * g) * 0.5**octave
        weight += 0.5**octave
    return total / weight


@cache
def font_named(name: str) -> ImageFont.FreeTypeFont:
    """Return a font that comes with matplotlib, 48 pixels an em; `KeyError` for another name."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    if not path.exists():
        raise KeyError(f"no font {name!r}: expected one that comes with matplotlib, such as DejaVuSansMono")
    return ImageFont.truetype(path, 48)


def smooth(points: np.ndarray, times: int) -> np.ndarray:
    """Round the corners of a closed polygon (n, 2) by Chaikin's corner cutting."""
    for _ in range(times):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(-1, 2)
    return points


class Canvas:
    """A square picture (size, size, 3) in [0, 1], painted from back to front, and the topmost thing at each pixel."""

    def __init__(self, size: int, rng: np.random.Generator, light: tuple[float, float] = (0.5, 1.0)) -> None:
        self.size, self.light = size, light
        self.image = np.zeros((size, size, 3), np.float32)
        self.things = np.zeros((size, size), np.uint8)
        self.grain = rng.standard_normal((size, size), np.float32)

    def coverage(self, points: np.ndarray, margin: int = 0) -> tuple[tuple[slice, slice], Image.Image] | None:
        """Cover the pixels inside the polygon (n, 2; unit square, y down): their window and an 8-bit picture of it."""
        points = points * self.size
        across, down = points.T.tolist()  # of so few numbers Python finds the ends sooner
        x0, y0 = max(floor(min(across)) - margin, 0), max(floor(min(down)) - margin, 0)
        x1, y1 = min(ceil(max(across)) + margin, self.size), min(ceil(max(down)) + margin, self.size)
        if x0 >= x1 or y0 >= y1:
            return None
        stencil = Image.new("L", ((x1 - x0) * SUPERSAMPLING, (y1 - y0) * SUPERSAMPLING))
        corners = ((points - (x0, y0)) * SUPERSAMPLING - 0.5).ravel().tolist()
        ImageDraw.Draw(stencil).polygon(corners, fill=255)
        return (slice(y0, y1), slice(x0, x1)), stencil.reduce(SUPERSAMPLING)

    def paint(self, points: np.ndarray, colour: Colour, thing: int, relief: float = 0.5, grain: float = 0.03) -> None:
        """Fill a polygon (n, 2; unit square, y down): light from above, edges rounded by `relief`, some `grain`."""
        covered = self.coverage(points, margin=2 if relief else 0)
        if covered is None:
            return
        window, stencil = covered
        shade = 1 + grain * self.grain[window]
        if relief and min(stencil.size) > 4:
            radius = self.size / 32
            heights = np.asarray(stencil.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255
            down, across = _slope(heights), _slope(heights.T).T
            shade += relief * radius * (across * self.light[0] + down * self.light[1])
            shade += relief * 0.12 * _from_above(stencil.height)[:, None]
        self.blend(window, np.asarray(stencil, np.float32) / 255, rgb(colour) * shade[..., None], thing)

    def blend(self, window: tuple[slice, slice], alpha: np.ndarray, colour: np.ndarray, thing: int) -> None:
        """Lay `colour` (h, w, 3) over a window with opacity `alpha` (h, w); the mask takes what is half covered."""
        self.image[window] += (colour - self.image[window]) * alpha[..., None]
        self.things[window][alpha >= 0.5] = thing

    def darken(self, points: np.ndarray, strength: float, blur: float) -> None:
        """Multiply what is painted so far by a soft shadow with the outline `points`; masks stay."""
        covered = self.coverage(points, margin=int(3 * blur * self.size) + 1)
        if covered is not None:
            window, stencil = covered
            soft = np.asarray(stencil.filter(ImageFilter.GaussianBlur(blur * self.size)), np.float32)
            self.image[window] *= 1 - strength * soft[..., None] / 255


def pose(scale: float, stretch: float = 1.0, shear: float = 0.0, tilt: float = 0.0) -> np.ndarray:
    """Map a thing's own coordinates, y up, to the unit square, y down: a matrix `(2, 2)`; `tilt` is in radians."""
    cos, sin = np.cos(tilt), np.sin(tilt)
    return scale * np.array([[cos, sin], [sin, -cos]]) @ np.array([[stretch, shear], [0, 1]])


@dataclass
class Pen:
    """Paint one thing in its own coordinates, y up from its `base` on the canvas; `matrix` is that of `pose`."""

    canvas: Canvas
    rng: np.random.Generator
    thing: int
    base: tuple[float, float]
    matrix: np.ndarray

    def place(self, points: Points) -> np.ndarray:
        """Map points (n, 2) of the thing into the unit square, y down."""
        return np.asarray(points, np.float64) @ self.matrix.T + self.base

    def uniform(self, low: float, high: float) -> float:
        """Draw a proportion."""
        return float(self.rng.uniform(low, high))

    def choose(self, *colours: str, jitter: float = 0.06) -> np.ndarray:
        """Draw one of the colours, slightly changed."""
        colour = rgb(colours[self.rng.integers(len(colours))])
        return np.clip(colour + self.rng.normal(0, jitter / 2) + self.rng.normal(0, jitter / 2, 3), 0.02, 1)

    def fill(self, points: Points, colour: Colour, rounding: int = 0, **light: float) -> None:
        """Fill a polygon (n, 2), its corners cut `rounding` times; `light` is `Canvas.paint`'s relief and grain."""
        outline = self.place(smooth(np.asarray(points, np.float64), rounding))
        self.canvas.paint(outline, colour, self.thing, **light)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, **how: float) -> None:
        """Fill an upright rectangle as `fill` does; `rounding` rounds off a fifth of its shorter side."""
        rounding = int(how.pop("rounding", 0))
        cut = 0.2 * min(x1 - x0, y1 - y0) if rounding else 0.0
        corners = [(x0, y0 + cut), (x0, y1 - cut), (x0 + cut, y1), (x1 - cut, y1), (x1, y1 - cut), (x1, y0 + cut)]
        self.fill([*corners, (x1 - cut, y0), (x0 + cut, y0)], colour, max(rounding - 1, 0), **how)

    def disc(self, x: float, y: float, radius: float, colour: Colour, height: float = 0, **light: float) -> None:
        """Fill a disc, or an ellipse with half axes `radius` and `height`."""
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        outline = np.stack([x + radius * np.cos(angle), y + (height or radius) * np.sin(angle)], 1)
        self.fill(outline, colour, **light)

    def ring(self, x: float, y: float, radius: float, width: float, colour: Colour, span: Sequence = (0, 360)) -> None:
        """Paint an arc of a ring over the angles `span` in degrees, counter-clockwise from the right."""
        angle = np.radians(np.linspace(*span, 25))
        outer = np.stack([np.cos(angle), np.sin(angle)], 1)
        outline = np.concatenate([outer * radius, outer[::-1] * (radius - width)])
        self.fill(np.add(outline, (x, y)), colour, relief=0)

    def line(self, points: Sequence, width: float, colour: Colour, taper: float = 1.0) -> None:
        """Paint a stroke through the points, its width going from `width` to `taper * width`."""
        path = np.asarray(points, np.float64)
        direction = np.gradient(path, axis=0)
        normal = np.stack([-direction[:, 1], direction[:, 0]], 1) / np.linalg.norm(direction, axis=1, keepdims=True)
        half = 0.5 * width * np.linspace(1, taper, len(path))[:, None]
        self.fill(np.concatenate([path + half * normal, (path - half * normal)[::-1]]), colour, relief=0.3)

    def profile(self, outline: Points, colour: Colour, rounding: int = 1, **light: float) -> None:
        """Fill a shape symmetric about x = 0, given as (half width, y) from bottom to top."""
        right = np.asarray(outline, np.float64)
        self.fill(np.concatenate([right, right[::-1] * (-1, 1)]), colour, rounding, **light)
