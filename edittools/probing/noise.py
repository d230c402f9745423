"""Colors, and smooth random fields: what rendered textures are made of."""

from collections.abc import Sequence

import numpy as np
from PIL import ImageColor

Color = str | Sequence[float] | np.ndarray
"""`"#rrggbb"`, or three numbers in [0, 1]."""


def rgb(color: Color) -> np.ndarray:
    """Convert a color to an array `(3,)` of float32 in [0, 1]."""
    if isinstance(color, str):
        return np.array(ImageColor.getrgb(color), np.float32) / 255
    return np.asarray(color, np.float32)


def value_noise(u: np.ndarray, v: np.ndarray, rng: np.random.Generator, octaves: int = 1) -> np.ndarray:
    """Make a smooth random field in [0, 1]: lattice noise, interpolated with smooth steps.

    Args:
        u: first coordinate; there is one grain per unit.
        v: second coordinate, of a shape that broadcasts with that of `u`.
        rng: random numbers, one lattice for each octave.
        octaves: number of fields that are averaged; each is twice as fine as the last and has half its weight.
    """
    total = np.zeros(np.broadcast_shapes(u.shape, v.shape), np.float32)
    weight = 0.0
    for octave in range(octaves):
        lattice = np.empty((65, 65), np.float32)  # the first row and column are repeated after the last
        lattice[:64, :64] = rng.random((64, 64), np.float32)
        lattice[64] = lattice[0]
        lattice[:, 64] = lattice[:, 0]
        lattice = lattice.ravel()  # the right neighbor of number k is k + 1, the lower one k + 65
        x = u * 2**octave
        y = v * 2**octave
        i = np.floor(x)
        j = np.floor(y)
        f = x - i
        g = y - j
        f = f * f * (3 - 2 * f)
        g = g * g * (3 - 2 * g)
        corner = (i.astype(np.intp) & 63) + (j.astype(np.intp) & 63) * 65
        opposite = 1 - f
        upper = lattice.take(corner) * opposite + lattice[1:].take(corner) * f
        lower = lattice[65:].take(corner) * opposite + lattice[66:].take(corner) * f
        total += (upper * (1 - g) + lower * g) * 0.5**octave
        weight += 0.5**octave
    return total / weight
