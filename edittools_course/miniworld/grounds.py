"""Paint the grounds of MiniWorld, one function each."""

from collections.abc import Callable

import numpy as np

from edittools.probing.noise import rgb, value_noise


class _View:
    """A ground in perspective, for each pixel: where on the ground it is, and how uneven the ground is there.

    `t` runs from 0 at the horizon to 1 at the viewer; `u` and `v` are coordinates on the ground; `broad`, `fine` and
    `speckle` are noise, from coarse to fine.
    """

    def __init__(self, t: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> None:
        z = 1 / (t + 0.12)
        near = np.clip(3 * t, 0, 1)
        self.t = t
        self.u = (x - 0.5) * z * 4 + rng.uniform(0, 64)
        self.v = z * 6 + rng.uniform(0, 64)
        self.broad = value_noise(self.u, self.v, rng, 3) - 0.5
        self.fine = near * (value_noise(self.u * 6, self.v * 6, rng, 2) - 0.5)
        self.speckle = rng.standard_normal(self.u.shape, np.float32) * near


def ground_look(ground: str, t: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint a ground in perspective.

    Args:
        ground: one of `GROUNDS`.
        t: nearness `(h, 1)`, from 0 at the horizon to 1 at the viewer.
        x: position `(1, w)` in the image, from 0 at the left to 1 at the right.

    Returns:
        The colors, `(h, w, 3)`.
    """
    return _LOOKS[ground](_View(t, x, rng), rng)


def _shaded(base: np.ndarray, shade: np.ndarray) -> np.ndarray:
    """Lighten a color `(3,)` or colors `(h, w, 3)` by the shares `shade` `(h, w)`."""
    return base * (1 + shade[..., None])


def _road(view: _View, rng: np.random.Generator) -> np.ndarray:
    gray = rgb(rng.choice(["#5c5c60", "#6d6a66", "#4a4b50", "#7a7876"]))
    cracks = np.abs(view.broad) < 0.006
    asphalt = _shaded(gray, 0.25 * view.broad + 0.25 * view.fine + 0.08 * view.speckle - 0.3 * cracks)
    paint = rgb(rng.choice(["#e9e6dc", "#e3b53a"]))
    middle = rng.uniform(0.3, 0.8)
    width = rng.uniform(0.05, 0.09)
    line = np.clip(1.5 - np.abs(view.t - middle) / width * 2, 0, 1)
    dashes = line * (np.sin(view.u * rng.uniform(1.2, 2.2)) > -0.3)
    edge = np.clip(1.5 - np.abs(view.t - 0.09) / 0.03, 0, 1) + 0 * view.u
    marked = (np.maximum(dashes, 0.7 * edge) * (0.85 + 0.3 * view.fine))[..., None]
    return asphalt * (1 - marked) + paint * marked


def _grass(view: _View, rng: np.random.Generator) -> np.ndarray:
    green = rgb(rng.choice(["#5d8a35", "#7a963f", "#4a7a3a", "#8a9a4a"]))
    blades = np.clip(3 * view.t, 0, 1) * (value_noise(view.u * 14, view.v * 4, rng, 2) - 0.5)
    meadow = _shaded(green, 0.5 * view.broad + 0.9 * blades + 0.07 * view.speckle)
    meadow[..., 0] += 0.12 * view.broad
    flowers = (rng.random(view.u.shape) > 0.993) & (view.fine > 0)
    meadow[flowers & (rng.random() < 0.5)] = rgb(rng.choice(["#f4efd8", "#f0cf3f", "#d86a8a"]))
    return meadow


def _sand(view: _View, rng: np.random.Generator) -> np.ndarray:
    tan = rgb(rng.choice(["#d6b883", "#c9a66b", "#e0c79a", "#c99d6a"]))
    ripples = np.sin(view.v * rng.uniform(2.5, 4) + 0.6 * view.u + 8 * view.broad) * np.clip(2 * view.t, 0, 1)
    return _shaded(tan, 0.3 * view.broad + 0.07 * ripples + 0.12 * view.fine + 0.045 * view.speckle)


def _water(view: _View, rng: np.random.Generator) -> np.ndarray:
    blue = rgb(rng.choice(["#2f6d99", "#2a7f8f", "#3f6f8a", "#274f7f"]))
    waves = value_noise(view.u * 1.5, view.v * 5, rng, 2) - 0.5
    water = _shaded(blue, 0.35 * view.broad + 0.9 * waves * np.clip(2 * view.t + 0.2, 0, 1))
    glint = np.clip((waves - 0.22) * 8, 0, 1)[..., None]
    return water * (1 - 0.75 * glint) + 0.75 * glint * rgb("#eaf3f7") + 0.1 * (1 - view.t)[..., None]


def _snow(view: _View, rng: np.random.Generator) -> np.ndarray:
    white = rgb("#f5f8fc")
    shadow = rgb(rng.choice(["#b7c8e2", "#c2cfe0", "#a9bfdf"]))
    drifts = value_noise(view.u * 0.7, view.v * 1.6, rng, 2)
    depth = 0.15 + 1.3 * (drifts - 0.45) + 0.4 * view.broad + 0.5 * view.fine + 0.05 * view.speckle
    depth = np.clip(depth, 0, 1)[..., None]
    snow = white * (1 - depth) + shadow * depth
    snow[(rng.random(view.u.shape) > 0.985) & (view.t > 0.15)] = 1.0
    return snow


def _table(view: _View, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.35:
        cloth = rgb(rng.choice(["#b8433a", "#3f6f9c", "#5d8a5a"]))
        other = rgb("#f0eadc")
        checks = 0.5 * (np.sin(view.u * 2.2) > 0).astype(np.float32) + 0.5 * (np.sin(view.v * 2.2) > 0)
        pattern = cloth * checks[..., None] + other * (1 - checks[..., None])
        return _shaded(pattern, 0.12 * view.broad + 0.1 * view.fine)
    wood = rgb(rng.choice(["#9c6b3f", "#7a4a2a", "#b98a5a", "#5d3b26", "#c9a577"]))
    rings = np.sin(view.v * 3 + 10 * (value_noise(view.u * 0.35, view.v * 2, rng, 2) - 0.5))
    planks = 0.35 * (np.abs(np.sin(view.v * 0.8)) < 0.06)
    return _shaded(wood, 0.12 * rings + 0.2 * view.broad + 0.15 * view.fine - planks)


_LOOKS: dict[str, Callable[[_View, np.random.Generator], np.ndarray]] = {
    "road": _road,
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "snow": _snow,
    "table": _table,
}
