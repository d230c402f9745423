"""What the grounds of MiniWorld look like, one function each."""

from collections.abc import Callable

import numpy as np

from edittools.world.painter import rgb, value_noise


class _Seen:
    """A ground in perspective: `t` says how near, `u` and `v` where on the ground; and how uneven it is there."""

    def __init__(self, t: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> None:
        z, near = 1 / (t + 0.12), np.clip(3 * t, 0, 1)
        self.t, self.u, self.v = t, (x - 0.5) * z * 4 + rng.uniform(0, 64), z * 6 + rng.uniform(0, 64)
        self.broad = value_noise(self.u, self.v, rng, 3) - 0.5
        self.fine = near * (value_noise(self.u * 6, self.v * 6, rng, 2) - 0.5)
        self.speckle = rng.standard_normal(self.u.shape, np.float32) * near


def ground_look(ground: str, t: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint (h, w, 3) a ground seen in perspective; `t` (h, 1) runs from 0 at the horizon to 1 at the viewer."""
    return _LOOKS[ground](_Seen(t, x, rng), rng)


def _shaded(base: np.ndarray, shade: np.ndarray) -> np.ndarray:
    return base * (1 + shade[..., None])


def _road(seen: _Seen, rng: np.random.Generator) -> np.ndarray:
    grey = rgb(rng.choice(["#5c5c60", "#6d6a66", "#4a4b50", "#7a7876"]))
    cracks = np.abs(seen.broad) < 0.006
    asphalt = _shaded(grey, 0.25 * seen.broad + 0.25 * seen.fine + 0.08 * seen.speckle - 0.3 * cracks)
    paint = rgb(rng.choice(["#e9e6dc", "#e3b53a"]))
    middle, width = rng.uniform(0.3, 0.8), rng.uniform(0.05, 0.09)
    dashes = np.clip(1.5 - np.abs(seen.t - middle) / width * 2, 0, 1) * (np.sin(seen.u * rng.uniform(1.2, 2.2)) > -0.3)
    edge = np.clip(1.5 - np.abs(seen.t - 0.09) / 0.03, 0, 1) + 0 * seen.u
    marked = (np.maximum(dashes, 0.7 * edge) * (0.85 + 0.3 * seen.fine))[..., None]
    return asphalt * (1 - marked) + paint * marked


def _grass(seen: _Seen, rng: np.random.Generator) -> np.ndarray:
    green = rgb(rng.choice(["#5d8a35", "#7a963f", "#4a7a3a", "#8a9a4a"]))
    blades = np.clip(3 * seen.t, 0, 1) * (value_noise(seen.u * 14, seen.v * 4, rng, 2) - 0.5)
    meadow = _shaded(green, 0.5 * seen.broad + 0.9 * blades + 0.07 * seen.speckle)
    meadow[..., 0] += 0.12 * seen.broad
    flowers = (rng.random(seen.u.shape) > 0.993) & (seen.fine > 0)
    meadow[flowers & (rng.random() < 0.5)] = rgb(rng.choice(["#f4efd8", "#f0cf3f", "#d86a8a"]))
    return meadow


def _sand(seen: _Seen, rng: np.random.Generator) -> np.ndarray:
    tan = rgb(rng.choice(["#d6b883", "#c9a66b", "#e0c79a", "#c99d6a"]))
    ripples = np.sin(seen.v * rng.uniform(2.5, 4) + 0.6 * seen.u + 8 * seen.broad) * np.clip(2 * seen.t, 0, 1)
    return _shaded(tan, 0.3 * seen.broad + 0.07 * ripples + 0.12 * seen.fine + 0.045 * seen.speckle)


def _water(seen: _Seen, rng: np.random.Generator) -> np.ndarray:
    blue = rgb(rng.choice(["#2f6d99", "#2a7f8f", "#3f6f8a", "#274f7f"]))
    waves = value_noise(seen.u * 1.5, seen.v * 5, rng, 2) - 0.5
    water = _shaded(blue, 0.35 * seen.broad + 0.9 * waves * np.clip(2 * seen.t + 0.2, 0, 1))
    glint = np.clip((waves - 0.22) * 8, 0, 1)[..., None]
    return water * (1 - 0.75 * glint) + 0.75 * glint * rgb("#eaf3f7") + 0.1 * (1 - seen.t)[..., None]


def _snow(seen: _Seen, rng: np.random.Generator) -> np.ndarray:
    white, shadow = rgb("#f5f8fc"), rgb(rng.choice(["#b7c8e2", "#c2cfe0", "#a9bfdf"]))
    drifts = value_noise(seen.u * 0.7, seen.v * 1.6, rng, 2)
    depth = 0.15 + 1.3 * (drifts - 0.45) + 0.4 * seen.broad + 0.5 * seen.fine + 0.05 * seen.speckle
    depth = np.clip(depth, 0, 1)[..., None]
    snow = white * (1 - depth) + shadow * depth
    snow[(rng.random(seen.u.shape) > 0.985) & (seen.t > 0.15)] = 1.0
    return snow


def _table(seen: _Seen, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.35:
        cloth, other = rgb(rng.choice(["#b8433a", "#3f6f9c", "#5d8a5a"])), rgb("#f0eadc")
        checks = 0.5 * (np.sin(seen.u * 2.2) > 0).astype(np.float32) + 0.5 * (np.sin(seen.v * 2.2) > 0)
        return _shaded(cloth * checks[..., None] + other * (1 - checks[..., None]), 0.12 * seen.broad + 0.1 * seen.fine)
    wood = rgb(rng.choice(["#9c6b3f", "#7a4a2a", "#b98a5a", "#5d3b26", "#c9a577"]))
    rings = np.sin(seen.v * 3 + 10 * (value_noise(seen.u * 0.35, seen.v * 2, rng, 2) - 0.5))
    planks = 0.35 * (np.abs(np.sin(seen.v * 0.8)) < 0.06)
    return _shaded(wood, 0.12 * rings + 0.2 * seen.broad + 0.15 * seen.fine - planks)


_LOOKS: dict[str, Callable[..., np.ndarray]] = {
    look.__name__.removeprefix("_"): look for look in (_road, _grass, _sand, _water, _snow, _table)
}
