"""What the grounds of MiniWorld look like, one function each."""

from collections.abc import Callable

import numpy as np

from edittools.world.painter import rgb, value_noise


def ground_look(ground: str, t: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint (h, w, 3) a ground seen in perspective; `t` (h, 1) runs from 0 at the horizon to 1 at the viewer."""
    z = 1 / (t + 0.12)
    u, v = (x - 0.5) * z * 4 + rng.uniform(0, 64), z * 6 + rng.uniform(0, 64)
    near = np.clip(3 * t, 0, 1)
    broad, fine = value_noise(u, v, rng, 3) - 0.5, near * (value_noise(u * 6, v * 6, rng, 2) - 0.5)
    speckle = rng.standard_normal(u.shape, np.float32) * near
    return _LOOKS[ground](t, u, v, broad, fine, speckle, rng)


def _shaded(base: np.ndarray, shade: np.ndarray) -> np.ndarray:
    return base * (1 + shade[..., None])


def _road(t, u, v, broad, fine, speckle, rng) -> np.ndarray:  # noqa: ANN001
    grey = rgb(rng.choice(["#5c5c60", "#6d6a66", "#4a4b50", "#7a7876"]))
    asphalt = _shaded(grey, 0.25 * broad + 0.25 * fine + 0.08 * speckle - 0.3 * (np.abs(broad) < 0.006))
    paint = rgb(rng.choice(["#e9e6dc", "#e3b53a"]))
    middle, width = rng.uniform(0.3, 0.8), rng.uniform(0.05, 0.09)
    dashes = np.clip(1.5 - np.abs(t - middle) / width * 2, 0, 1) * (np.sin(u * rng.uniform(1.2, 2.2)) > -0.3)
    edge = np.clip(1.5 - np.abs(t - 0.09) / 0.03, 0, 1) + 0 * u
    marked = (np.maximum(dashes, 0.7 * edge) * (0.85 + 0.3 * fine))[..., None]
    return asphalt * (1 - marked) + paint * marked


def _grass(t, u, v, broad, fine, speckle, rng) -> np.ndarray:  # noqa: ANN001
    green = rgb(rng.choice(["#5d8a35", "#7a963f", "#4a7a3a", "#8a9a4a"]))
    blades = np.clip(3 * t, 0, 1) * (value_noise(u * 14, v * 4, rng, 2) - 0.5)
    meadow = _shaded(green, 0.5 * broad + 0.9 * blades + 0.07 * speckle)
    meadow[..., 0] += 0.12 * broad
    flowers = (rng.random(u.shape) > 0.993) & (fine > 0)
    meadow[flowers & (rng.random() < 0.5)] = rgb(rng.choice(["#f4efd8", "#f0cf3f", "#d86a8a"]))
    return meadow


def _sand(t, u, v, broad, fine, speckle, rng) -> np.ndarray:  # noqa: ANN001
    tan = rgb(rng.choice(["#d6b883", "#c9a66b", "#e0c79a", "#c99d6a"]))
    ripples = np.sin(v * rng.uniform(2.5, 4) + 0.6 * u + 8 * broad) * np.clip(2 * t, 0, 1)
    return _shaded(tan, 0.3 * broad + 0.07 * ripples + 0.12 * fine + 0.045 * speckle)


def _water(t, u, v, broad, fine, speckle, rng) -> np.ndarray:  # noqa: ANN001
    blue = rgb(rng.choice(["#2f6d99", "#2a7f8f", "#3f6f8a", "#274f7f"]))
    waves = value_noise(u * 1.5, v * 5, rng, 2) - 0.5
    water = _shaded(blue, 0.35 * broad + 0.9 * waves * np.clip(2 * t + 0.2, 0, 1))
    glint = np.clip((waves - 0.22) * 8, 0, 1)[..., None]
    return water * (1 - 0.75 * glint) + 0.75 * glint * rgb("#eaf3f7") + 0.1 * (1 - t)[..., None]


def _snow(t, u, v, broad, fine, speckle, rng) -> np.ndarray:  # noqa: ANN001
    white, shadow = rgb("#f5f8fc"), rgb(rng.choice(["#b7c8e2", "#c2cfe0", "#a9bfdf"]))
    drifts = value_noise(u * 0.7, v * 1.6, rng, 2)
    depth = np.clip(0.15 + 1.3 * (drifts - 0.45) + 0.4 * broad + 0.5 * fine + 0.05 * speckle, 0, 1)[..., None]
    snow = white * (1 - depth) + shadow * depth
    snow[(rng.random(u.shape) > 0.985) & (t > 0.15)] = 1.0
    return snow


def _table(t, u, v, broad, fine, speckle, rng) -> np.ndarray:  # noqa: ANN001
    if rng.random() < 0.35:
        cloth, other = rgb(rng.choice(["#b8433a", "#3f6f9c", "#5d8a5a"])), rgb("#f0eadc")
        checks = 0.5 * (np.sin(u * 2.2) > 0).astype(np.float32) + 0.5 * (np.sin(v * 2.2) > 0)
        return _shaded(cloth * checks[..., None] + other * (1 - checks[..., None]), 0.12 * broad + 0.1 * fine)
    wood = rgb(rng.choice(["#9c6b3f", "#7a4a2a", "#b98a5a", "#5d3b26", "#c9a577"]))
    rings = np.sin(v * 3 + 10 * (value_noise(u * 0.35, v * 2, rng, 2) - 0.5))
    planks = 0.35 * (np.abs(np.sin(v * 0.8)) < 0.06)
    return _shaded(wood, 0.12 * rings + 0.2 * broad + 0.15 * fine - planks)


_LOOKS: dict[str, Callable[..., np.ndarray]] = {
    look.__name__.removeprefix("_"): look for look in (_road, _grass, _sand, _water, _snow, _table)
}
