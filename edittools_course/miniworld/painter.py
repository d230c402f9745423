"""Paint anti-aliased shapes with soft light and grain, and keep exact masks of what stays visible."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import ceil, floor
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from edittools.probing.noise import Color, rgb

Points = Sequence | np.ndarray
"""Points `(n, 2)`, as (x, y)."""
SUPERSAMPLING = 4
RELIEF = 0.5
"""How much the edges of a shape look rounded, unless a sketch says otherwise."""
GRAIN = 0.03
"""Strength of the grain of a shape, unless a sketch says otherwise."""


def _slope(heights: np.ndarray) -> np.ndarray:
    """Compute `np.gradient` along the first axis, in half the time for arrays this small."""
    slope = np.empty_like(heights)
    slope[1:-1] = (heights[2:] - heights[:-2]) / 2
    slope[0] = heights[1] - heights[0]
    slope[-1] = heights[-1] - heights[-2]
    return slope


_from_above = cache(partial(np.linspace, 1, -1, dtype=np.float32))


@cache
def font_named(name: str) -> ImageFont.FreeTypeFont:
    """Return a font that comes with matplotlib, at 48 pixels per em.

    Raises:
        KeyError: if there is no such font.
    """
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    if not path.exists():
        raise KeyError(f"no font {name!r} comes with matplotlib; choose another name, such as 'DejaVuSansMono'")
    return ImageFont.truetype(str(path), 48)


def smooth(points: np.ndarray, times: int) -> np.ndarray:
    """Round the corners of a closed polygon `(n, 2)` by Chaikin's corner cutting, repeated `times` times."""
    for _ in range(times):
        following = np.roll(points, -1, axis=0)
        near = 0.75 * points + 0.25 * following
        far = 0.25 * points + 0.75 * following
        points = np.stack([near, far], 1).reshape(-1, 2)
    return points


class Canvas:
    """A square image that is painted from back to front.

    `image` `(size, size, 3)` holds pixels in [0, 1], `things` `(size, size)` the number of the topmost thing at each.

    Args:
        size: side in pixels.
        rng: random numbers for the grain.
        light: direction of the light, (from the left, from above).
    """

    def __init__(self, size: int, rng: np.random.Generator, light: tuple[float, float] = (0.5, 1.0)) -> None:
        self.size = size
        self.light = light
        self.image = np.zeros((size, size, 3), np.float32)
        self.things = np.zeros((size, size), np.uint8)
        self.grain = rng.standard_normal((size, size), np.float32)

    def coverage(self, points: np.ndarray, margin: int = 0) -> tuple[tuple[slice, slice], Image.Image] | None:
        """Compute which pixels a polygon covers.

        Args:
            points: the polygon, `(n, 2)` in the unit square, y down.
            margin: pixels to add around it.

        Returns:
            The window of the polygon and an 8-bit image of its coverage there; None if it lies outside the canvas.
        """
        points = points * self.size
        across, down = points.T.tolist()  # for so few numbers, min and max of lists are faster
        x0 = max(floor(min(across)) - margin, 0)
        y0 = max(floor(min(down)) - margin, 0)
        x1 = min(ceil(max(across)) + margin, self.size)
        y1 = min(ceil(max(down)) + margin, self.size)
        if x0 >= x1 or y0 >= y1:
            return None
        stencil = Image.new("L", ((x1 - x0) * SUPERSAMPLING, (y1 - y0) * SUPERSAMPLING))
        corners = ((points - (x0, y0)) * SUPERSAMPLING - 0.5).ravel().tolist()
        ImageDraw.Draw(stencil).polygon(corners, fill=255)
        return (slice(y0, y1), slice(x0, x1)), stencil.reduce(SUPERSAMPLING)

    def paint(self, points: np.ndarray, color: Color, thing: int, relief: float = RELIEF, grain: float = GRAIN) -> None:
        """Fill a polygon, lit from above.

        Args:
            points: the polygon, `(n, 2)` in the unit square, y down.
            color: its color.
            thing: the number of the thing that it shows.
            relief: how much its edges look rounded.
            grain: strength of the grain.
        """
        covered = self.coverage(points, margin=2 if relief else 0)
        if covered is None:
            return
        window, stencil = covered
        shade = 1 + grain * self.grain[window]
        if relief and min(stencil.size) > 4:
            radius = self.size / 32
            heights = np.asarray(stencil.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255
            down = _slope(heights)
            across = _slope(heights.T).T
            shade += relief * radius * (across * self.light[0] + down * self.light[1])
            shade += relief * 0.12 * _from_above(stencil.height)[:, None]
        self.blend(window, np.asarray(stencil, np.float32) / 255, rgb(color) * shade[..., None], thing)

    def blend(self, window: tuple[slice, slice], alpha: np.ndarray, color: np.ndarray, thing: int) -> None:
        """Lay `color` `(h, w, 3)` over a window with opacity `alpha` `(h, w)`.

        Pixels that are at least half covered show the `thing` from then on.
        """
        self.image[window] += (color - self.image[window]) * alpha[..., None]
        self.things[window][alpha >= 0.5] = thing

    def darken(self, points: np.ndarray, strength: float, blur: float) -> None:
        """Darken what is painted so far by a soft shadow; things stay as they are.

        Args:
            points: outline of the shadow, `(n, 2)` in the unit square, y down.
            strength: how much is darkened, in [0, 1].
            blur: standard deviation of the blur, as a share of the canvas.
        """
        covered = self.coverage(points, margin=int(3 * blur * self.size) + 1)
        if covered is not None:
            window, stencil = covered
            soft = np.asarray(stencil.filter(ImageFilter.GaussianBlur(blur * self.size)), np.float32)
            self.image[window] *= 1 - strength * soft[..., None] / 255


def pose(scale: float, stretch: float = 1.0, shear: float = 0.0, tilt: float = 0.0) -> np.ndarray:
    """Return the matrix `(2, 2)` that maps a thing's own coordinates, y up, to the unit square, y down.

    Args:
        scale: size of one unit.
        stretch: factor of the width; below 0 it mirrors the thing.
        shear: shift of x for one unit of y.
        tilt: rotation in radians.
    """
    cos = np.cos(tilt)
    sin = np.sin(tilt)
    return scale * np.array([[cos, sin], [sin, -cos]]) @ np.array([[stretch, shear], [0, 1]])


@dataclass
class Pen:
    """Paint one thing in its own coordinates, y up from its base.

    Args:
        canvas: the canvas.
        rng: random numbers for the proportions and colors of the thing.
        thing: the number of the thing.
        base: the point where it stands, in the unit square, y down.
        matrix: the matrix of `pose`.
    """

    canvas: Canvas
    rng: np.random.Generator
    thing: int
    base: tuple[float, float]
    matrix: np.ndarray

    def place(self, points: Points) -> np.ndarray:
        """Map points `(n, 2)` of the thing into the unit square, y down."""
        return np.asarray(points, np.float64) @ self.matrix.T + self.base

    def uniform(self, low: float, high: float) -> float:
        """Draw a random proportion."""
        return float(self.rng.uniform(low, high))

    def choose(self, *colors: str, jitter: float = 0.06) -> np.ndarray:
        """Draw one of the colors at random, and change its brightness and its channels slightly."""
        color = rgb(colors[self.rng.integers(len(colors))])
        brightness = self.rng.normal(0, jitter / 2)
        tint = self.rng.normal(0, jitter / 2, 3)
        return np.clip(color + brightness + tint, 0.02, 1)

    def fill(
        self, points: Points, color: Color, rounding: int = 0, relief: float = RELIEF, grain: float = GRAIN
    ) -> None:
        """Fill a polygon `(n, 2)`, its corners cut `rounding` times; see `Canvas.paint` for relief and grain."""
        outline = self.place(smooth(np.asarray(points, np.float64), rounding))
        self.canvas.paint(outline, color, self.thing, relief, grain)

    def box(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        color: Color,
        rounding: int = 0,
        relief: float = RELIEF,
        grain: float = GRAIN,
    ) -> None:
        """Fill an upright rectangle as `fill` does; with `rounding`, a fifth of its shorter side is rounded off."""
        cut = 0.2 * min(x1 - x0, y1 - y0) if rounding else 0.0
        corners = [(x0, y0 + cut), (x0, y1 - cut), (x0 + cut, y1), (x1 - cut, y1), (x1, y1 - cut), (x1, y0 + cut)]
        corners += [(x1 - cut, y0), (x0 + cut, y0)]
        self.fill(corners, color, max(rounding - 1, 0), relief, grain)

    def disc(
        self,
        x: float,
        y: float,
        radius: float,
        color: Color,
        height: float = 0,
        relief: float = RELIEF,
        grain: float = GRAIN,
    ) -> None:
        """Fill a disc, or an ellipse with half axes `radius` and `height`."""
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        outline = np.stack([x + radius * np.cos(angle), y + (height or radius) * np.sin(angle)], 1)
        self.fill(outline, color, relief=relief, grain=grain)

    def ring(self, x: float, y: float, radius: float, width: float, color: Color, span: Sequence = (0, 360)) -> None:
        """Paint an arc of a ring over the angles `span` in degrees, counterclockwise from the right."""
        angle = np.radians(np.linspace(*span, 25))
        outer = np.stack([np.cos(angle), np.sin(angle)], 1)
        outline = np.concatenate([outer * radius, outer[::-1] * (radius - width)])
        self.fill(np.add(outline, (x, y)), color, relief=0)

    def line(self, points: Sequence, width: float, color: Color, taper: float = 1.0) -> None:
        """Paint a stroke through the points, its width going from `width` to `taper * width`."""
        path = np.asarray(points, np.float64)
        direction = np.gradient(path, axis=0)
        normal = np.stack([-direction[:, 1], direction[:, 0]], 1) / np.linalg.norm(direction, axis=1, keepdims=True)
        half_width = 0.5 * width * np.linspace(1, taper, len(path))[:, None]
        left = path + half_width * normal
        right = path - half_width * normal
        self.fill(np.concatenate([left, right[::-1]]), color, relief=0.3)

    def profile(
        self, outline: Points, color: Color, rounding: int = 1, relief: float = RELIEF, grain: float = GRAIN
    ) -> None:
        """Fill a shape that is symmetric about x = 0, given as (half width, y) from bottom to top."""
        right = np.asarray(outline, np.float64)
        left = right[::-1] * (-1, 1)
        self.fill(np.concatenate([right, left]), color, rounding, relief, grain)
