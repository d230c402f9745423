"""Sketch the household things of MiniWorld, one function each, from back to front."""

from collections.abc import Callable

import numpy as np

from edittools.probing.noise import rgb
from edittools_course.miniworld.painter import Pen

STEEL = "#b9bec4"


def _glaze(pen: Pen) -> np.ndarray:
    """Draw the color of a piece of pottery at random."""
    return pen.choose("#e9e4d8", "#2f6c9c", "#b8432f", "#d9a441", "#3f7f6a", "#7a4f8a", "#d98aa0", "#4a4f58")


def _teapot(pen: Pen) -> None:
    color = _glaze(pen)
    pen.ring(-0.6, 0.48, 0.36, 0.1, color * 0.85, (60, 300))
    pen.line([(0.46, 0.36), (0.78, 0.5), (0.84, 0.76), (1.0, 0.86)], 0.24, color * 0.9, 0.45)
    pen.disc(0, 0.44, 0.66, color, height=0.44, relief=1)
    pen.disc(0, 0.86, 0.3, color * 0.8, 0.09)
    pen.disc(0, 0.97, 0.09, color)


def _mug(pen: Pen) -> None:
    color = _glaze(pen)
    wide = pen.uniform(0.42, 0.54)
    pen.ring(wide, 0.5, 0.32, 0.11, color * 0.85, (-100, 100))
    pen.profile([(wide * 0.8, 0), (wide * 0.95, 0.06), (wide, 0.3), (wide, 0.95)], color, relief=1)
    pen.disc(0, 0.92, wide * 0.97, color * 0.6, height=0.1, relief=0)
    pen.disc(0, 0.9, wide * 0.82, "#3d2416", height=0.06, relief=0)


def _vase(pen: Pen) -> None:
    color = _glaze(pen)
    belly = pen.uniform(0.36, 0.5)
    for x in (-0.24, -0.04, 0.2):
        end = (x * 1.5, pen.uniform(1.1, 1.4))
        pen.line([(x * 0.3, 0.7), (x, 0.95), end], 0.04, "#3f7a35")
        petal = pen.choose("#d8324a", "#f0b429", "#e98ac0", "#f5f0e6", "#7d5bd0")
        for angle in np.arange(5) * 1.257:
            pen.disc(end[0] + 0.09 * np.cos(angle), end[1] + 0.09 * np.sin(angle), 0.075, petal, relief=0.3)
        pen.disc(*end, 0.05, "#6b4a1a", relief=0)
    pen.profile([(0.2, 0), (0.26, 0.06), (belly, 0.36), (0.16, 0.68), (0.24, 0.84)], color, rounding=2, relief=1)


def _bottle(pen: Pen) -> None:
    color = pen.choose("#1f5a36", "#5a3a1a", "#2a4f86", "#8fb9b0", "#7a1f2a")
    wide = pen.uniform(0.24, 0.32)
    neck = pen.uniform(0.08, 0.11)
    pen.box(-neck * 0.8, 1.28, neck * 0.8, 1.4, "#b98d5a")
    pen.profile([(wide, 0), (wide, 0.7), (wide, 0.84), (neck, 1.0), (neck, 1.32)], color, relief=1)
    pen.box(-0.6 * wide, 0.08, -0.35 * wide, 0.75, color * 0.6 + 0.35, relief=0)


def _lamp(pen: Pen) -> None:
    shade = pen.choose("#f3d48a", "#e8b9a0", "#cfe0c4", "#f0e6d2")
    base = _glaze(pen)
    pen.profile([(0.36, 0), (0.3, 0.1), (0.14, 0.18), (0.2, 0.42), (0.06, 0.62)], base, 2, relief=1)
    pen.profile([(pen.uniform(0.56, 0.68), 0.58), (pen.uniform(0.26, 0.36), 1.3)], shade, 0, relief=0.6)


def _ipod(pen: Pen) -> None:
    case = pen.choose("#f4f3f0", "#c9ccd1", "#2c2d30", "#4a90c2", "#d85a86", "#7fae4a")
    pen.box(-0.42, 0, 0.42, 1.36, case, rounding=1, relief=0.6)
    pen.box(-0.32, 0.74, 0.32, 1.24, pen.choose("#9fc4d6", "#c9d8b0", "#27405a"), relief=0.2)
    for y in (0.88, 0.98, 1.08):
        pen.line([(-0.24, y), (pen.uniform(-0.05, 0.22), y)], 0.035, "#2a333b")
    pen.disc(0, 0.38, 0.27, case * 0.8 + 0.1, relief=0.2)
    pen.disc(0, 0.38, 0.1, case, relief=0.2)


def _clock(pen: Pen) -> None:
    color = _glaze(pen)
    for side in (-1, 1):
        pen.line([(side * 0.3, 0.2), (side * 0.42, 0)], 0.1, color * 0.6)
        pen.disc(side * 0.32, 1.1, 0.2, "#c9a53a", 0.15)
    pen.disc(0, 0.6, 0.54, color, relief=0.8)
    pen.disc(0, 0.6, 0.43, "#f6f2e6", relief=0)
    for angle in np.arange(12) * np.pi / 6:
        pen.disc(0.36 * np.cos(angle), 0.6 + 0.36 * np.sin(angle), 0.03, "#2a2a2c", relief=0)
    for length, width in ((0.2, 0.06), (0.32, 0.045)):
        angle = pen.uniform(0, 2 * np.pi)
        pen.line([(0, 0.6), (length * np.cos(angle), 0.6 + length * np.sin(angle))], width, "#1d1d20")


def _bowl(pen: Pen) -> None:
    color = _glaze(pen)
    for x in (-0.42, 0.4, -0.14, 0.16):
        fruit = pen.choose("#c8322b", "#e3a11f", "#7fae3a", "#d9772b")
        pen.disc(x, pen.uniform(0.62, 0.78), 0.24, fruit, relief=1)
    pen.profile([(0.24, 0), (0.3, 0.06), (0.66, 0.24), (0.86, 0.62)], color, rounding=1, relief=1)
    pen.box(-0.88, 0.57, 0.88, 0.64, color * 0.85, relief=0)


def _jar(pen: Pen) -> None:
    jam = pen.choose("#8c1f2f", "#d9852b", "#4a2a5a", "#c9a23a", "#6b8f3a")
    wide = pen.uniform(0.38, 0.48)
    pen.profile([(wide * 0.86, 0), (wide, 0.08), (wide, 0.72), (0.76 * wide, 0.9)], "#c8d6d6", relief=0.8)
    pen.profile([(wide * 0.9, 0.05), (wide * 0.9, 0.68)], jam, relief=0.8)
    pen.box(-0.84 * wide, 0.88, 0.84 * wide, 1.06, pen.choose("#c9a53a", "#b8bcc2", "#c0392b"))


def _book(pen: Pen) -> None:
    cover = pen.choose("#7a1f2a", "#1f3f6b", "#2f5a3a", "#6b4a2a", "#c98a2a", "#3a2f55")
    pen.fill([(0.42, 0.0), (0.42, 1.16), (0.56, 1.22), (0.56, 0.07)], "#efe6cf", relief=0.2)
    pen.box(-0.46, 0, 0.44, 1.18, cover, relief=0.4)
    pen.box(-0.46, 0, -0.34, 1.18, cover * 0.7, relief=0)
    pen.line([(-0.24, 0.98), (0.34, 0.98)], 0.06, "#e3c67a")


def _candle(pen: Pen) -> None:
    wax = pen.choose("#f2e8cf", "#c23a3a", "#e3c67a", "#7a9fb5")
    top = pen.uniform(0.75, 1.0)
    wide = pen.uniform(0.17, 0.24)
    pen.disc(0, 0.07, 0.5, "#b08a3a", 0.09)
    pen.profile([(wide, 0.06), (wide, top)], wax, rounding=0, relief=1)
    pen.line([(0, top), (0, top + 0.08)], 0.04, "#2a2320")
    flame = np.array([(0, 0), (-0.09, 0.12), (0, 0.34), (0.09, 0.12)])
    pen.fill(np.add(flame, (0, top + 0.04)), "#ffb52e", 2, relief=0)
    pen.fill(0.55 * flame + (0, top + 0.06), "#fff3b8", 2, relief=0)


def _plant(pen: Pen) -> None:
    green = pen.choose("#3f7f3a", "#2f6a45", "#6b9a3a")
    for angle in np.linspace(0.3, np.pi - 0.3, int(pen.rng.integers(6, 9))):
        end = np.array([0.62 * np.cos(angle), 0.55 + 0.75 * np.sin(angle)]) * pen.uniform(0.85, 1.1)
        middle = np.array([0, 0.45]) * 0.45 + end * 0.55
        across = np.array([-np.sin(angle), np.cos(angle)]) * 0.13
        tone = green * pen.uniform(0.75, 1.15)
        pen.fill([(0, 0.45), middle + across, end, middle - across], tone, 2, relief=0.8)
    pen.profile([(0.28, 0), (0.4, 0.44)], pen.choose("#b5623a", "#d9d2c4", "#3f5f7a"), rounding=0, relief=1)
    pen.box(-0.45, 0.4, 0.45, 0.52, "#a8552f")


def _radio(pen: Pen) -> None:
    case = pen.choose("#8a4f2a", "#c94a3a", "#3f7f7a", "#e6dcc4", "#2f3136")
    pen.line([(0.6, 0.8), (0.86, 1.36)], 0.03, STEEL)
    pen.box(-0.86, 0, 0.86, 0.84, case, rounding=1, relief=0.6)
    pen.disc(-0.42, 0.42, 0.3, rgb("#2b2622"), relief=0.2)
    pen.ring(-0.42, 0.42, 0.2, 0.05, "#8c7f6c")
    pen.box(0.06, 0.5, 0.72, 0.7, "#efe3b5", relief=0)
    for x in (0.2, 0.56):
        pen.disc(x, 0.24, 0.11, case * 0.5 + 0.3)


HOUSEHOLD: dict[str, Callable[[Pen], None]] = {
    "teapot": _teapot,
    "mug": _mug,
    "vase": _vase,
    "bottle": _bottle,
    "lamp": _lamp,
    "iPod": _ipod,
    "clock": _clock,
    "bowl": _bowl,
    "jar": _jar,
    "book": _book,
    "candle": _candle,
    "plant": _plant,
    "radio": _radio,
}
"""The function that sketches each household thing, by name."""
