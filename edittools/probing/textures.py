"""Transform concepts: render the paper's eight styles as textures, and paste them over a concept's mask.

A texture is an image `(3, H, W)` in [0, 1] of a material seen from above. Each style has `VARIANTS` of them, so that
some can be held out. `restyle` and `paste_texture` keep the light and shadow of the area that they cover.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from torch import Tensor

from edittools._checks import check_number, one_of
from edittools.exemplars import paste_texture
from edittools.probing.noise import rgb, value_noise

VARIANTS = 6
"""Number of textures of each style."""


class _Brush:
    """The coordinates of a texture and its random numbers, and noise made from both.

    Args:
        size: side in pixels.
        seed: seed of the random numbers.
        fineness: number of grains across the texture; `x` and `y` are in grains.
    """

    def __init__(self, size: int, seed: tuple[int, ...], fineness: float) -> None:
        self.rng = np.random.default_rng(seed)
        self.size = size
        y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size * fineness
        self.x = x + self.rng.uniform(0, 64)
        self.y = y + self.rng.uniform(0, 64)

    def noise(self, across: float = 1.0, down: float | None = None, octaves: int = 3) -> np.ndarray:
        """Make noise in [-0.5, 0.5], with `across` and `down` grains per unit; `down` is `across` by default."""
        down = across if down is None else down
        return value_noise(self.x * across, self.y * down, self.rng, octaves) - 0.5

    def speckle(self) -> np.ndarray:
        """Make independent noise for each pixel, smoothed to the same grain at any size."""
        noise = self.rng.standard_normal((self.size, self.size))
        return gaussian_filter(noise, self.size / 500) * max(1, self.size / 160)

    def mix(self, first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Blend two colors `(3,)` or images `(H, W, 3)`; `share` in [0, 1] is that of the second."""
        share = np.clip(share, 0, 1)[..., None]
        return first * (1 - share) + second * share

    def cells(self, density: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Divide the texture into cells around random points.

        Args:
            density: number of cells per square grain.

        Returns:
            For each pixel, the distance to the nearest point and to the second nearest, in grains, and a random number
            of its cell.
        """
        count = max(int(density * (np.ptp(self.x) + 2) * (np.ptp(self.y) + 2)), 3)
        points_x = self.x.min() - 1 + self.rng.random(count) * (np.ptp(self.x) + 2)
        points_y = self.y.min() - 1 + self.rng.random(count) * (np.ptp(self.y) + 2)
        pixels = np.stack([self.x.ravel(), self.y.ravel()], 1)
        distance, index = cKDTree(np.stack([points_x, points_y], 1)).query(pixels, k=2)
        nearest, second = distance.T.reshape(2, self.size, self.size)
        tones = self.rng.random(count)
        return nearest, second, tones[index[:, 0]].reshape(self.size, self.size)

    def lit(self, height: np.ndarray, strength: float) -> np.ndarray:
        """Light a relief `(H, W)` from the upper left; return a factor `(H, W, 1)` around 1."""
        down, right = np.gradient(height * self.size / 64)
        return np.clip(1 + strength * (down + right), 0.3, 1.8)[..., None]


def _snow(brush: _Brush, variant: int) -> np.ndarray:
    drifts = brush.noise(0.35, 0.8, 3)
    crust = brush.noise(3, octaves=3)
    shadow = rgb(("#b9c9e2", "#a9bfdf", "#c4d0e0", "#b0c4e6", "#c9d2dc", "#a3b8d8")[variant])
    depth = 0.18 + (0.9 + 0.25 * (variant % 3)) * drifts + 0.55 * crust + 0.04 * brush.speckle()
    snow = brush.mix(rgb("#f6f9fd"), shadow, depth)
    return snow + 0.25 * (brush.speckle() > 2.4)[..., None]


def _wooden(brush: _Brush, variant: int) -> np.ndarray:
    wood = rgb(("#9c6b3f", "#6f4426", "#c39a66", "#83502c", "#b5793f", "#5a3a26")[variant])
    is_horizontal = bool(variant % 2)
    along = brush.x if is_horizontal else brush.y
    across = brush.y if is_horizontal else brush.x
    bend = value_noise(along * 0.25, across * 0.8, brush.rng, 3) - 0.5
    rings = np.sin(across * 5 + 14 * bend)
    fiber = value_noise(along * 1.2, across * 14, brush.rng, 2) - 0.5
    joint = np.abs((across / 2.2) % 1 - 0.5) > 0.475
    plank = value_noise(np.floor(across / 2.2 + 0.5), 0 * along, brush.rng) - 0.5
    return wood * (1 + 0.16 * rings + 0.4 * fiber + 0.35 * plank - 0.5 * joint)[..., None]


def _graffiti(brush: _Brush, variant: int) -> np.ndarray:
    wall = rgb(("#b5aea4", "#8f8a86", "#c9c2b0", "#7a6a62", "#a8b0b5", "#5d5a60")[variant])
    picture = wall * (1 + 0.3 * brush.noise(2, octaves=4))[..., None]
    paints = ("#e8327c", "#22b8d6", "#f4d022", "#6a2fb8", "#38c25a", "#f0701e", "#f4f4f4", "#2347c8")
    for number in range(7):
        paint = rgb(paints[(number + variant) % len(paints)])
        band = np.abs(brush.noise(0.28, octaves=2) - brush.rng.uniform(-0.12, 0.12))
        stroke = np.clip((0.05 - band) / 0.012, 0, 1)
        picture = brush.mix(picture, rgb("#141418"), np.clip((0.066 - band) / 0.012, 0, 1) * (number > 2))
        picture = brush.mix(picture, paint * (1 + 0.2 * brush.noise(1.5)[..., None]), stroke)
    return picture


def _floral(brush: _Brush, variant: int) -> np.ndarray:
    ground = rgb(("#2f5a3a", "#f2e6d0", "#27365a", "#d9e3d0", "#5a2338", "#f4d9dc")[variant])
    petals = ("#d8324a", "#f0a8c0", "#f2c230", "#f7f2e8", "#8a5bd0", "#e8703a")
    picture = ground * (1 + 0.25 * brush.noise(1.5))[..., None]
    for _ in range(50):
        _draw_blossom(brush, picture, rgb("#4f8a46"), is_leaf=True)
    picture = picture.astype(np.float64)  # flowers are mixed in double precision
    for number in range(50, 110):
        _draw_blossom(brush, picture, rgb(petals[(number + variant) % len(petals)]), is_leaf=False)
    return picture


def _draw_blossom(brush: _Brush, picture: np.ndarray, color: np.ndarray, is_leaf: bool) -> None:
    """Draw a flower of five or six petals, or a pair of leaves, at a random place of a picture, in place."""
    rows = brush.y[:, 0]
    columns = brush.x[0]
    x = brush.rng.uniform(columns[0], columns[-1])
    y = brush.rng.uniform(rows[0], rows[-1])
    turn = brush.rng.uniform(0, 6.3)
    size = brush.rng.uniform(0.35, 0.75)
    petals = 2 if is_leaf else brush.rng.integers(5, 7)
    top, bottom = rows.searchsorted((y - size, y + size))
    left, right = columns.searchsorted((x - size, x + size))
    here = (slice(top, bottom), slice(left, right))
    across = brush.x[here] - x
    down = brush.y[here] - y
    radius = np.hypot(across, down)
    angle = np.arctan2(down, across) + turn
    edge = size * (0.3 + 0.7 * np.abs(np.cos(angle * petals / 2)) ** (1.6 if is_leaf else 0.8))
    shaded = color * (0.75 + 0.4 * np.clip(radius / size, 0, 1))[..., None]
    picture[here] = brush.mix(picture[here], shaded, (edge - radius) * 18)
    if not is_leaf:
        picture[here] = brush.mix(picture[here], rgb("#f6d860"), (0.2 * size - radius) * 18)


def _gravel(brush: _Brush, variant: int) -> np.ndarray:
    stone = rgb(("#9a948b", "#7f7d80", "#b5a48c", "#8f7a68", "#a3a8a8", "#6b6660")[variant])
    near, second, tone = brush.cells(3.5)
    dome = np.clip(second - near, 0, 0.25) / 0.25
    tint = np.stack([tone - 0.5, 0 * tone, 0.5 - tone], -1) * 0.12
    pebbles = (stone + tint) * (0.65 + 0.6 * tone + 0.15 * brush.noise(4))[..., None] * brush.lit(dome, 0.35)
    return brush.mix(rgb("#3a352f"), pebbles, dome * 2.2)


def _furry(brush: _Brush, variant: int) -> np.ndarray:
    coat = rgb(("#7a4a28", "#b98a5a", "#4a4a50", "#e6ddcf", "#a8652f", "#2a2522")[variant])
    tip = rgb(("#d9a872", "#f0dcb8", "#a8a8b0", "#fffaf0", "#f0b878", "#6b5a50")[variant])
    across = brush.x + 2 * brush.noise(0.5, octaves=2)
    along = brush.y + brush.noise(0.7, octaves=2)
    hairs = value_noise(across * 6, along * 0.9, brush.rng, 2) + 0.7 * value_noise(across * 15, along * 1.8, brush.rng)
    tufts = brush.noise(1.2, 0.7, octaves=2)
    fur = brush.mix(coat, tip, 1.3 * (hairs - 0.85) + 1.1 * tufts + 0.4) * brush.lit(0.12 * hairs + 0.3 * tufts, 0.6)
    if variant in (2, 4):
        fur *= np.where(brush.noise(0.45) > 0.08, 0.45, 1.0)[..., None]
    return fur


def _fall_colors(brush: _Brush, variant: int) -> np.ndarray:
    leaf_colors = ("#c9421e", "#e0861e", "#e8b52a", "#8a2f1a", "#a8581e", "#d9a03a", "#7a6a2a")
    leaves = np.stack([rgb(color) for color in leaf_colors])[np.roll(np.arange(7), variant)]
    picture = np.broadcast_to(rgb("#4a3018"), (brush.size, brush.size, 3)) * (1 + 0.4 * brush.noise(2))[..., None]
    for _ in range(3):
        near, second, tone = brush.cells(1.6 + 0.3 * (variant % 3))
        edge = 0.42 + 0.25 * brush.noise(2.5, octaves=2)
        color = leaves[(tone * 97).astype(int) % len(leaves[: 5 + variant % 3])]
        vein = np.abs(np.sin((brush.x * np.cos(tone * 20) + brush.y * np.sin(tone * 20)) * 9)) < 0.12
        shade = 0.8 + 0.5 * (tone * 31 % 1) - 0.18 * vein + 0.25 * brush.noise(3)
        picture = brush.mix(picture, picture * 0.45, (edge + 0.08 - near) * 9)
        picture = brush.mix(picture, color * shade[..., None], np.minimum(edge - near, second - near + 0.1) * 16)
    return picture


def _black_and_white(brush: _Brush, variant: int) -> np.ndarray:
    x = brush.x
    y = brush.y
    warp = 1.5 * brush.noise(0.4, octaves=2)
    patterns = (
        lambda: np.sin((x + 2.5 * warp) * 4.5) * 4,
        lambda: np.sin(x * 3) * np.sin(y * 3) * 8,
        lambda: (0.34 - np.hypot(x * 1.6 % 1 - 0.5, y * 1.6 % 1 - 0.5)) * 20,
        lambda: np.sin((x + y) * 5) * 4,
        lambda: (0.12 - np.abs(brush.noise(0.7, octaves=4))) * 18,
        lambda: brush.noise(0.6, octaves=2) * 25,
    )
    gray = 0.5 + 0.42 * np.tanh(patterns[variant]()) + 0.12 * brush.noise(3)
    return np.repeat(gray[..., None], 3, axis=-1)


_MAKERS: dict[str, tuple[Callable[[_Brush, int], np.ndarray], float]] = {
    "snow": (_snow, 12),
    "wooden": (_wooden, 8),
    "graffiti": (_graffiti, 9),
    "floral": (_floral, 6),
    "gravel": (_gravel, 9),
    "furry": (_furry, 9),
    "fall colors": (_fall_colors, 7),
    "black and white": (_black_and_white, 7),
}
"""The function that renders each style, and the number of grains across its textures."""
STYLES = tuple(_MAKERS)


def texture(style: str, variant: int = 0, size: int = 224) -> Tensor:
    """Render a texture; the result is the same for the same arguments, and looks alike at every size.

    Args:
        style: one of `STYLES`.
        variant: its variant, from 0.
        size: side in pixels.

    Returns:
        The texture, `(3, size, size)` in [0, 1].

    Raises:
        KeyError: if there is no such style.
        ValueError: if there is no such variant.
    """
    one_of(style, STYLES, "style", KeyError)
    if not 0 <= variant < VARIANTS:
        raise ValueError(f"style {style!r} has no variant {variant}; pass a number from 0 to {VARIANTS - 1}")
    return _texture(style, variant, check_number(size, "size", 1)).clone()


def style_textures(
    styles: Sequence[str] = STYLES, variants: Sequence[int] = (0,), size: int = 224
) -> dict[str, Tensor]:
    """Render textures of several styles, for a probe to transform concepts to.

    Args:
        styles: the styles.
        variants: the variants of each style.
        size: side in pixels.

    Returns:
        Textures `(V, 3, size, size)` by style, one for each variant.
    """
    textures = {}
    for style in styles:
        textures[style] = torch.stack([texture(style, variant, size) for variant in variants])
    return textures


@lru_cache(maxsize=64)
def _texture(style: str, variant: int, size: int) -> Tensor:
    """Render a texture once; it must not be changed in place."""
    render, fineness = _MAKERS[style]
    brush = _Brush(size, (STYLES.index(style), variant), fineness)
    pixels = np.clip(render(brush, variant), 0, 1)
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))


def restyle(image: Tensor, mask: Tensor, style: str, variant: int = 0) -> Tensor:
    """Paste a texture of a style over a concept (section 4 of the paper).

    Args:
        image: image `(3, H, W)` in [0, 1].
        mask: mask `(H, W)` of the concept.
        style: one of `STYLES`.
        variant: its variant, from 0.

    Returns:
        The image with the concept transformed, `(3, H, W)`.
    """
    return paste_texture(image, mask, texture(style, variant, max(image.shape[1:])))
