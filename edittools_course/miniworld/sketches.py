"""Sketch the things of MiniWorld, one function each: draw a few proportions at random, then parts from back to front.

Each sketch fits in about x in [-1, 1], y in [0, 1.3].
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from edittools_course.miniworld.household import HOUSEHOLD, STEEL
from edittools_course.miniworld.painter import Pen

CAR_PAINT = ("#b3202a", "#1f4e9c", "#e8e6e1", "#2b2d33", "#d9a521", "#2f7d4f", "#8a97a6", "#c65a1e", "#6b2f6e")
GLASS = ("#2e4a5e", "#49687c", "#6f93a8")
RUBBER = "#1d1d20"


def _wheel(pen: Pen, x: float, radius: float) -> None:
    """Paint a wheel with a tire and a rim."""
    pen.disc(x, radius, radius, RUBBER)
    pen.disc(x, radius, 0.58 * radius, STEEL)
    pen.disc(x, radius, 0.2 * radius, "#55585c", relief=0)


def _housed_wheels(pen: Pen, places: tuple[float, ...], radius: float, shade: np.ndarray) -> None:
    """Paint wheels, each in a dark wheel arch."""
    for x in places:
        pen.disc(x, radius + 0.01, radius + 0.045, shade, relief=0)
        _wheel(pen, x, radius)


def _spoked_wheel(pen: Pen, x: float, radius: float, width: float) -> None:
    """Paint a wheel with spokes."""
    for angle in np.arange(4) * np.pi / 4 + pen.uniform(0, 1):
        end = 0.9 * radius * np.array([np.cos(angle), np.sin(angle)])
        pen.line([end + (x, radius), (x, radius) - end], 0.025, STEEL)  # noqa: RUF005
    pen.ring(x, radius, radius, width, RUBBER)
    pen.disc(x, radius, 0.16 * radius, "#8a8d91", relief=0)


def _pane(pen: Pen, points: list[tuple[float, float]], color: np.ndarray) -> None:
    """Paint a window pane with a reflection."""
    corners = np.asarray(points)
    pen.fill(corners, color, 1, relief=0.2)
    center = corners.mean(0)
    streak = np.array([(-0.5, -0.6), (-0.1, 0.6), (0.25, 0.6), (-0.15, -0.6)]) * np.ptp(corners, axis=0) * 0.6
    pen.fill(center + streak, color * 0.55 + 0.4, relief=0)


def _car(pen: Pen) -> None:
    paint = pen.choose(*CAR_PAINT)
    glass = pen.choose(*GLASS)
    roof = pen.uniform(0.66, 0.8)
    rear = pen.uniform(-0.8, -0.42)
    front = pen.uniform(0.1, 0.3)
    waist = pen.uniform(0.44, 0.5)
    cabin = [(rear - 0.2, waist - 0.05), (rear, roof), (front, roof), (front + 0.38, waist - 0.02)]
    pen.fill([(-0.99, 0.15), (-1, waist - 0.04), *cabin, (0.93, 0.4), (1, 0.3), (0.99, 0.15)], paint, rounding=2)
    middle = (rear + front) / 2 + 0.04
    top = roof - 0.06
    low = waist + 0.01
    _pane(pen, [(rear - 0.06, low), (rear + 0.06, top), (middle - 0.03, top), (middle - 0.03, low)], glass)
    _pane(pen, [(middle + 0.03, low), (middle + 0.03, top), (front - 0.02, top), (front + 0.24, low)], glass)
    pen.line([(middle, low), (middle + 0.02, 0.2)], 0.02, paint * 0.55)
    pen.box(-0.97, 0.14, 0.97, 0.2, paint * 0.45, relief=0)
    pen.disc(0.93, 0.34, 0.06, "#fff2b8", relief=0)
    pen.box(-1, 0.32, -0.93, 0.42, "#d2222b", relief=0)
    _housed_wheels(pen, (-0.58, 0.6), 0.2, paint * 0.3)


def _van(pen: Pen) -> None:
    paint = pen.choose(*CAR_PAINT)
    glass = pen.choose(*GLASS)
    roof = pen.uniform(0.88, 1.05)
    nose = pen.uniform(0.5, 0.62)
    side = [(-0.98, 0.14), (-1, roof), (nose - 0.08, roof), (nose + 0.28, 0.56), (1, 0.46), (1, 0.14)]
    pen.fill(side, paint, rounding=2)
    _pane(pen, [(nose - 0.28, 0.56), (nose - 0.28, roof - 0.1), (nose - 0.1, roof - 0.1), (nose + 0.18, 0.56)], glass)
    if pen.uniform(0, 1) < 0.5:
        _pane(pen, [(-0.8, 0.58), (-0.8, roof - 0.1), (-0.05, roof - 0.1), (-0.05, 0.58)], glass)
    else:
        pen.box(-0.97, 0.42, 0.2, 0.52, pen.choose("#f2efe6", "#d04a2b", "#2d5fa8"), relief=0.2)
    pen.line([(nose - 0.36, roof - 0.08), (nose - 0.36, 0.2)], 0.02, paint * 0.55)
    pen.disc(0.95, 0.36, 0.06, "#fff2b8", relief=0)
    _housed_wheels(pen, (-0.6, 0.62), 0.19, paint * 0.3)


def _bus(pen: Pen) -> None:
    paint = pen.choose("#c8281e", "#e0a417", "#2a6fb0", "#3d8b57", "#e9e7e0")
    glass = pen.choose(*GLASS)
    roof = pen.uniform(0.84, 0.98)
    count = int(pen.rng.integers(5, 8))
    pen.box(-1.18, 0.12, 1.18, roof, paint, rounding=1)
    pen.box(-1.17, 0.34, 1.17, 0.42, pen.choose("#f4f1e8", "#22262b", "#f0c33c"), relief=0)
    edges = np.linspace(-1.1, 0.84, count + 1)
    for left, right in pairwise(edges):
        _pane(pen, [(left, 0.5), (left, roof - 0.1), (right - 0.06, roof - 0.1), (right - 0.06, 0.5)], glass)
    pen.box(0.88, 0.17, 1.08, roof - 0.1, glass * 0.8, relief=0.2)
    pen.disc(1.13, 0.27, 0.05, "#fff2b8", relief=0)
    _housed_wheels(pen, (-0.72, 0.62), 0.17, paint * 0.3)


def _truck(pen: Pen) -> None:
    paint = pen.choose(*CAR_PAINT)
    glass = pen.choose(*GLASS)
    kind = pen.rng.integers(3)
    load = pen.choose("#e6e3da", "#c9ced3", "#b5542f", "#2f6d8f")
    pen.box(-1.15, 0.2, 1.0, 0.3, "#2e3034", relief=0)
    if kind == 0:
        pen.box(-1.15, 0.3, 0.36, pen.uniform(0.95, 1.15), load)
        for x in np.arange(-0.9, 0.3, 0.25):
            pen.line([(x, 0.33), (x, 0.93)], 0.015, load * 0.8)
    elif kind == 1:
        pen.box(-1.17, 0.3, 0.36, 0.86, load, rounding=2, relief=1)
        pen.box(-0.5, 0.84, -0.3, 0.92, load * 0.7)
    else:
        for number, x in enumerate((-0.9, -0.55, -0.2, 0.14, -0.72, -0.37, -0.03)):
            y = 0.43 if number < 4 else 0.68
            pen.disc(x, y, 0.17, "#8c5a33")
            pen.disc(x, y, 0.12, "#d6ae79", relief=0)
    pen.fill([(0.4, 0.18), (0.4, 0.98), (0.78, 0.98), (0.93, 0.6), (1.04, 0.52), (1.04, 0.18)], paint, rounding=1)
    _pane(pen, [(0.54, 0.58), (0.54, 0.88), (0.74, 0.88), (0.87, 0.58)], glass)
    pen.disc(1.0, 0.32, 0.05, "#fff2b8", relief=0)
    for x in (-0.9, -0.5, 0.72):
        _wheel(pen, x, 0.2)


def _tractor(pen: Pen) -> None:
    paint = pen.choose("#c3291f", "#2f7d32", "#1f5fa8", "#dd8a1a")
    glass = pen.choose(*GLASS)
    top = pen.uniform(1.12, 1.28)
    pen.line([(0.62, 0.6), (0.62, 1.05)], 0.07, "#3a3b3d")
    pen.fill([(-0.2, 0.3), (-0.2, 0.72), (0.82, 0.66), (0.9, 0.56), (0.9, 0.3)], paint, rounding=1)
    _pane(pen, [(-0.62, 0.62), (-0.56, top - 0.06), (0.0, top - 0.06), (0.08, 0.66)], glass)
    pen.box(-0.68, top - 0.08, 0.08, top, paint)
    for x in (-0.62, 0.04):
        pen.line([(x, 0.6), (x + 0.02, top - 0.04)], 0.05, paint * 0.7)
    pen.disc(-0.5, 0.46, 0.53, paint * 0.8)
    pen.disc(-0.5, 0.44, 0.44, RUBBER)
    pen.disc(-0.5, 0.44, 0.25, "#e3b92f")
    pen.disc(0.68, 0.25, 0.25, RUBBER)
    pen.disc(0.68, 0.25, 0.13, "#e3b92f")
    pen.disc(0.88, 0.52, 0.05, "#fff2b8", relief=0)


def _motorcycle(pen: Pen) -> None:
    paint = pen.choose(*CAR_PAINT)
    radius = pen.uniform(0.3, 0.36)
    for x in (-0.64, 0.66):
        _spoked_wheel(pen, x, radius, 0.11)
    pen.line([(0.66, radius), (0.42, 0.88)], 0.07, STEEL)
    pen.line([(-0.64, radius), (-0.05, 0.36), (0.3, 0.62)], 0.08, "#55585c")
    pen.disc(0.02, 0.38, 0.22, "#74787d", 0.18)
    pen.line([(0.0, 0.28), (-0.45, 0.22), (-0.9, 0.28)], 0.09, "#d5d8db")
    pen.fill([(-0.12, 0.58), (-0.02, 0.78), (0.34, 0.82), (0.42, 0.62), (0.1, 0.54)], paint, rounding=2, relief=0.9)
    pen.fill([(-0.78, 0.62), (-0.7, 0.7), (-0.1, 0.66), (0.0, 0.56), (-0.5, 0.54)], "#26221f", 2)
    pen.line([(0.44, 0.84), (0.34, 1.0), (0.16, 1.02)], 0.05, "#2b2b2e")
    pen.disc(0.52, 0.8, 0.09, "#fff2b8")


def _bicycle(pen: Pen) -> None:
    paint = pen.choose(*CAR_PAINT)
    radius = pen.uniform(0.38, 0.43)
    for x in (-0.58, 0.6):
        _spoked_wheel(pen, x, radius, 0.065)
    crank = (-0.08, radius - 0.06)
    seat = (-0.22, 0.86)
    head = (0.42, 0.84)
    rear = (-0.58, radius)
    for path in ([rear, crank], [rear, seat], [crank, seat], [crank, head], [seat, head]):
        pen.line(path, 0.06, paint)
    pen.line([(0.6, radius), head, (0.38, 1.0)], 0.06, paint)
    pen.disc(*crank, 0.1, "#6e7276")
    pen.line([(-0.38, 0.93), (-0.08, 0.93)], 0.09, "#2a2522", 0.6)
    pen.line([(0.38, 1.0), (0.56, 1.03), (0.52, 0.92)], 0.05, "#2b2b2e")


def _legs(pen: Pen, places: tuple[float, ...], top: float, width: float, color: np.ndarray) -> None:
    """Paint legs with feet; every second one is in the shade."""
    for number, x in enumerate(places):
        step = pen.uniform(-0.08, 0.08)
        tone = 0.75 if number % 2 else 1.0
        pen.line([(x, top), (x + 0.3 * step, top / 2), (x + step, 0)], width, color * tone, 0.65)
        pen.line([(x + step, 0.05), (x + step, 0)], 0.7 * width, color * 0.35)


def _cow(pen: Pen) -> None:
    coat = pen.choose("#efe9de", "#e6d6bd")
    patch = pen.choose("#26211f", "#6e3f22", "#8c5a33")
    _legs(pen, (-0.62, -0.48, 0.4, 0.54), 0.5, 0.17, coat)
    pen.line([(-0.78, 0.85), (-0.9, 0.6), (-0.88, 0.35)], 0.05, coat * 0.8)
    pen.disc(-0.32, 0.42, 0.14, "#dba9a0", 0.1)
    trunk = [(-0.85, 0.5), (-0.82, 0.95), (0.1, 0.93), (0.62, 1.0), (0.78, 0.7), (0.5, 0.45), (-0.2, 0.4)]
    pen.fill(trunk, coat, rounding=2)
    for x in (-0.58, 0.0, 0.42):
        y = pen.uniform(0.62, 0.8)
        size = pen.uniform(0.1, 0.2)
        outline = []
        for angle in np.arange(6):
            reach = size * pen.uniform(0.7, 1.3)
            outline.append((x + reach * np.cos(angle), y + 0.8 * size * np.sin(angle)))
        pen.fill(outline, patch, rounding=2, relief=0)
    head = [(0.55, 0.95), (0.75, 1.12), (0.95, 1.0), (1.12, 0.74), (1.02, 0.66), (0.72, 0.74)]
    pen.fill(head, coat * 0.95, 2)
    pen.disc(1.05, 0.74, 0.1, "#d9a39a", 0.08)
    pen.disc(0.66, 1.04, 0.12, patch, 0.06)
    pen.line([(0.76, 1.08), (0.8, 1.22), (0.92, 1.26)], 0.06, "#e8dcc0", 0.4)
    pen.disc(0.86, 0.97, 0.035, "#15120f", relief=0)


def _horse(pen: Pen) -> None:
    coat = pen.choose("#7b4a28", "#4a2d1c", "#a8713f", "#d8d2c8", "#2a2523")
    mane = coat * pen.uniform(0.3, 0.6)
    _legs(pen, (-0.55, -0.42, 0.32, 0.46), 0.62, 0.14, coat)
    pen.line([(-0.68, 0.92), (-0.88, 0.72), (-0.92, 0.3)], 0.15, mane, 0.4)
    trunk = [(-0.74, 0.62), (-0.7, 0.98), (-0.2, 0.9), (0.3, 0.96), (0.6, 0.85), (0.52, 0.56), (-0.1, 0.52)]
    pen.fill(trunk, coat, rounding=2)
    pen.fill([(0.24, 0.84), (0.5, 1.3), (0.72, 1.38), (0.76, 1.2), (0.62, 0.8), (0.44, 0.68)], coat, 2)
    pen.fill([(0.58, 1.38), (0.78, 1.4), (1.08, 1.08), (1.0, 0.98), (0.66, 1.16)], coat, 2)
    pen.line([(0.2, 0.92), (0.4, 1.22), (0.62, 1.4)], 0.13, mane, 0.6)
    pen.fill([(0.62, 1.36), (0.66, 1.52), (0.74, 1.38)], coat)
    pen.disc(0.8, 1.26, 0.03, "#100d0b", relief=0)


def _sheep(pen: Pen) -> None:
    wool = pen.choose("#ece6d8", "#d9cfba", "#c4b8a2")
    face = pen.choose("#2a2522", "#4b3a2d")
    _legs(pen, (-0.46, -0.32, 0.28, 0.42), 0.4, 0.12, face)
    pen.disc(0, 0.62, 0.68, wool, height=0.36)
    for angle in np.arange(0, 2 * np.pi, 0.52):
        pen.disc(0.6 * np.cos(angle), 0.62 + 0.29 * np.sin(angle), pen.uniform(0.15, 0.2), wool, relief=0.8)
    for _ in range(7):
        pen.disc(pen.uniform(-0.45, 0.45), pen.uniform(0.5, 0.8), 0.16, wool, relief=0.8)
    pen.fill([(0.52, 0.92), (0.72, 1.02), (0.88, 0.9), (0.96, 0.64), (0.84, 0.56), (0.6, 0.66)], face, 2)
    pen.disc(0.54, 0.86, 0.13, face * 0.8, 0.06)
    pen.disc(0.62, 0.98, 0.14, wool, 0.1)


def _camel(pen: Pen) -> None:
    coat = pen.choose("#b98a54", "#a8763f", "#cfa66f")
    _legs(pen, (-0.5, -0.38, 0.26, 0.4), 0.64, 0.13, coat)
    pen.line([(-0.66, 0.85), (-0.76, 0.6), (-0.74, 0.42)], 0.05, coat * 0.6)
    for x in (-0.1,) if pen.uniform(0, 1) < 0.5 else (-0.34, 0.12):
        pen.disc(x, 0.98, 0.22, coat * 0.93, pen.uniform(0.26, 0.36))
    pen.fill([(-0.7, 0.64), (-0.66, 0.96), (-0.1, 1.04), (0.42, 0.96), (0.52, 0.7), (0.0, 0.56)], coat, rounding=2)
    pen.line([(0.36, 0.8), (0.6, 0.72), (0.74, 0.9), (0.76, 1.2)], 0.22, coat, 0.6)
    pen.fill([(0.64, 1.2), (0.72, 1.34), (0.92, 1.3), (1.08, 1.16), (1.02, 1.08), (0.74, 1.1)], coat, 2)
    pen.disc(0.82, 1.24, 0.03, "#15100b", relief=0)


def _elephant(pen: Pen) -> None:
    skin = pen.choose("#7d7c80", "#8f8780", "#6a6d74")
    _legs(pen, (-0.6, -0.36, 0.2, 0.42), 0.55, 0.26, skin)
    pen.line([(-0.76, 0.9), (-0.86, 0.6), (-0.84, 0.45)], 0.05, skin * 0.8)
    body = [(-0.84, 0.42), (-0.8, 1.02), (-0.2, 1.2), (0.4, 1.1), (0.62, 0.8), (0.5, 0.4), (-0.2, 0.38)]
    pen.fill(body, skin, rounding=2)
    pen.disc(0.62, 1.0, 0.3, skin * 1.03, 0.32)
    curl = pen.uniform(0.9, 1.25)
    pen.line([(0.84, 0.96), (0.98, 0.66), (0.94, 0.36), (curl, 0.2)], 0.22, skin * 0.97, 0.5)
    pen.line([(0.8, 0.8), (0.96, 0.7), (1.1, 0.76)], 0.08, "#f1e8d2", 0.4)
    pen.fill([(0.3, 1.22), (0.14, 1.0), (0.26, 0.68), (0.5, 0.7), (0.6, 1.05), (0.5, 1.24)], skin * 0.82, 2)
    pen.disc(0.76, 1.06, 0.035, "#17151a", relief=0)


def _penguin(pen: Pen) -> None:
    back = pen.choose("#1c2028", "#2a2f3a", jitter=0.03)
    lean = pen.uniform(-0.06, 0.06)
    for x in (-0.16, 0.16):
        pen.disc(x, 0.04, 0.15, "#e08a1e", 0.06)
    for side in (-1, 1):
        tip = side * pen.uniform(0.42, 0.62)
        pen.line([(side * 0.28, 0.95), (side * 0.46, 0.7), (tip, 0.42)], 0.16, back, 0.5)
    pen.profile([(0.22, 0.04), (0.42, 0.3), (0.4, 0.8), (0.24, 1.08)], back, rounding=2)
    pen.disc(lean, 1.16, 0.23, back, 0.21)
    pen.profile([(0.16, 0.08), (0.3, 0.32), (0.27, 0.78), (0.13, 1.0)], "#f4f2ec", 2)
    pen.disc(lean + 0.08, 1.16, 0.12, "#f4f2ec", 0.1, relief=0)
    pen.fill([(lean + 0.16, 1.2), (lean + 0.42, 1.13), (lean + 0.16, 1.08)], "#e8941f")
    pen.disc(lean + 0.08, 1.2, 0.035, "#0c0c0e", relief=0)


def _igloo(pen: Pen) -> None:
    ice = pen.choose("#c9dcea", "#b7cfe2", "#d9e4ea")
    angle = np.linspace(0, np.pi, 24)
    height = pen.uniform(0.78, 0.95)
    pen.fill(np.stack([0.95 * np.cos(angle), height * np.sin(angle)], 1), ice, relief=0.8)
    for level in np.arange(0.2, 0.9, 0.22):
        reach = 0.95 * np.sqrt(max(0, 1 - level**2))
        pen.line([(-reach, level * height), (0, level * height + 0.03), (reach, level * height)], 0.025, ice * 0.72)
        for x in np.arange(-reach, reach, 0.3) + pen.uniform(0.05, 0.25):
            if x < reach - 0.05:
                pen.line([(x, level * height), (x * 0.92, (level + 0.2) * height)], 0.022, ice * 0.75)
    x = pen.uniform(0.2, 0.5)
    arch = np.stack([x + 0.34 * np.cos(angle), 0.46 * np.sin(angle)], 1)
    pen.fill(arch, ice * 0.93)
    pen.fill((arch - (x, 0)) * 0.66 + (x + 0.02, 0), "#1c2733", relief=0)


def _sled(pen: Pen) -> None:
    wood = pen.choose("#a4662f", "#8a4f24", "#b5321f")
    metal = pen.choose("#5b3a22", "#80858c")
    for x, y, tone in ((-0.66, 0.34, 0.7), (-0.2, 0.34, 0.75), (0.28, 0.34, 0.7)):
        pen.line([(x, y), (x - 0.03, 0.06)], 0.07, wood * tone)
    pen.line([(-0.95, 0.06), (0.5, 0.06), (0.82, 0.14), (0.98, 0.34), (0.94, 0.5), (0.82, 0.52)], 0.09, metal)
    if pen.uniform(0, 1) < 0.8:
        sack = [(-0.8, 0.36), (-0.86, 0.72), (-0.6, 0.98), (-0.28, 0.94), (-0.1, 0.62), (-0.16, 0.36)]
        pen.fill(sack, pen.choose("#7a5a3a", "#5d6b4a", "#a33227"), 2)
        pen.line([(-0.62, 0.94), (-0.42, 1.08)], 0.1, "#c9b48a")
        parcel = pen.choose("#c23a3a", "#2f7f8f", "#d9b23a")
        right = pen.uniform(0.3, 0.5)
        pen.box(-0.12, 0.36, right, pen.uniform(0.62, 0.84), parcel)
        pen.line([((right - 0.12) / 2, 0.37), ((right - 0.12) / 2, 0.7)], 0.06, "#f3e7b5")
    pen.fill([(-0.95, 0.32), (-0.95, 0.42), (0.74, 0.42), (0.86, 0.5), (0.9, 0.44), (0.76, 0.32)], wood)
    for x in (-0.5, 0.0, 0.5):
        pen.line([(x, 0.33), (x, 0.41)], 0.02, wood * 0.6)
    pen.line([(-0.95, 0.36), (-1.02, 0.9), (-1.08, 0.96)], 0.06, wood * 0.8)


def _sailboat(pen: Pen) -> None:
    hull = pen.choose("#f0eee8", "#7b3f24", "#1f3f78", "#a3242b")
    sail = pen.choose("#f6f2e6", "#e9d9b5", "#d8553a", "#3c7fb3")
    top = pen.uniform(1.3, 1.5)
    foot = pen.uniform(-0.02, 0.12)
    pen.line([(foot, 0.2), (foot, top)], 0.05, "#6f5138")
    main = [(foot - 0.04, 0.34), (foot - 0.05, top - 0.06), (foot - 0.4, 0.75), (foot - 0.72, 0.34)]
    jib = [(foot + 0.05, 0.36), (foot + 0.04, top - 0.16), (foot + 0.36, 0.66), (0.76, 0.36)]
    pen.fill(main, sail, relief=0.7)
    pen.fill(jib, sail * 0.92, relief=0.7)
    pen.fill([(-0.86, 0.28), (0.98, 0.3), (0.7, 0), (-0.66, 0)], hull, 1, relief=0.8)
    pen.line([(-0.84, 0.24), (0.9, 0.26)], 0.04, hull * 0.55)


def _ship(pen: Pen) -> None:
    hull = pen.choose("#23282f", "#8f1f22", "#1f3d66", "#e9e6de")
    deck = pen.choose("#f1eee6", "#e2d8c2")
    pen.line([(0.66, 0.4), (0.66, 0.95)], 0.03, "#50463c")
    for x in np.linspace(-0.4, 0.2, int(pen.rng.integers(1, 4))):
        funnel = np.array([(x - 0.1, 0.6), (x - 0.13, 1.05), (x + 0.09, 1.05), (x + 0.12, 0.6)])
        rim = "#1f1f22"
        pen.fill(funnel, pen.choose("#c93a2b", "#e0a530"))
        pen.box(x - 0.13, 0.95, x + 0.09, 1.06, rim, relief=0)
    pen.box(-0.72, 0.36, 0.5, 0.58, deck)
    pen.box(-0.56, 0.56, 0.3, 0.72, deck * 0.96)
    for x in np.arange(-0.62, 0.45, 0.17):
        pen.disc(x, 0.48, 0.045, "#33506a", relief=0)
    pen.fill([(-1.05, 0.38), (1.18, 0.44), (0.96, 0), (-0.92, 0)], hull, relief=0.8)
    pen.fill([(-0.95, 0.1), (1.03, 0.1), (0.96, 0), (-0.92, 0)], "#8c2a22", relief=0)
    pen.line([(-1.02, 0.33), (1.14, 0.37)], 0.03, "#f3f1ea")


def _house(pen: Pen) -> None:
    wall = pen.choose("#e5d3b0", "#d98f6a", "#c9d3d8", "#b5533c", "#efe9da")
    roof = pen.choose("#8c2f22", "#4a4f57", "#6f4a2d")
    eaves = pen.uniform(0.62, 0.76)
    top = pen.uniform(1.15, 1.35)
    pen.box(0.38, eaves, 0.54, top, "#8a4a3a")
    pen.box(-0.82, 0, 0.82, eaves, wall, relief=0.3, grain=0.05)
    low = eaves - 0.04
    pen.fill([(-0.96, low), (0, top), (0.96, low)], roof, relief=0.7)
    for share in (0.25, 0.5, 0.75):
        reach = 0.96 * (1 - share)
        y = low + share * (top - low)
        pen.line([(-reach, y), (reach, y)], 0.018, roof * 0.72)
    pen.box(-0.12, 0, 0.16, 0.46, pen.choose("#5a3420", "#2f5a3f", "#2c3f66"))
    for x in (-0.48, 0.5):
        pen.box(x - 0.16, 0.19, x + 0.16, 0.51, "#f2ede2", relief=0)
        pen.box(x - 0.13, 0.22, x + 0.13, 0.48, pen.choose("#3a5366", "#54707f", "#e8c86a"), relief=0.2)
        pen.line([(x, 0.22), (x, 0.48)], 0.025, "#f2ede2")


def _church(pen: Pen) -> None:
    wall = pen.choose("#d8d2c4", "#ece7da", "#b8a68a")
    roof = pen.choose("#5d3a2c", "#454d57", "#3f6357")
    top = pen.uniform(0.9, 1.05)
    pen.box(-0.35, 0, 0.95, 0.5, wall, relief=0.3, grain=0.05)
    pen.fill([(-0.4, 0.48), (-0.3, 0.84), (0.88, 0.84), (1.02, 0.48)], roof)
    pen.box(-0.8, 0, -0.28, top, wall * 0.96, relief=0.4, grain=0.05)
    pen.fill([(-0.88, top - 0.02), (-0.54, top + 0.52), (-0.2, top - 0.02)], roof, relief=0.8)
    pen.line([(-0.54, top + 0.5), (-0.54, top + 0.68)], 0.035, "#c9a53a")
    pen.line([(-0.61, top + 0.61), (-0.47, top + 0.61)], 0.035, "#c9a53a")
    pen.disc(-0.54, top - 0.2, 0.11, "#f3edd8", relief=0)
    arch = np.array([(-0.07, 0), (-0.07, 0.16), (0, 0.26), (0.07, 0.16), (0.07, 0)])
    for x in (-0.04, 0.3, 0.64):
        pen.fill(np.add(arch, (x, 0.14)), pen.choose("#3f4f6b", "#6b4a7a", "#2f6a78"), relief=0)
    pen.fill(arch * 1.5 + (-0.54, 0), "#4a2f1f", relief=0)


def _lighthouse(pen: Pen) -> None:
    stripe = pen.choose("#c0272d", "#23344f", "#2a2a2c")
    top = pen.uniform(1.25, 1.45)
    bands = int(pen.rng.integers(4, 7))
    levels = np.linspace(0, top, bands + 1)
    width = np.linspace(0.36, 0.2, bands + 1)
    pen.profile([(width[0], 0), (width[-1], top)], "#f3efe6", 0, relief=1)
    for i in range(0, bands, 2):
        pen.profile([(width[i], levels[i]), (width[i + 1], levels[i + 1])], stripe, 0, relief=1)
    pen.box(-0.3, top, 0.3, top + 0.05, "#2c2f33")
    pen.box(-0.15, top + 0.05, 0.15, top + 0.24, "#ffe58a", relief=0.2)
    pen.line([(0, top + 0.05), (0, top + 0.24)], 0.03, "#2c2f33")
    pen.fill([(-0.22, top + 0.24), (0, top + 0.42), (0.22, top + 0.24)], stripe)
    for level in (0.3, 0.62):
        pen.box(-0.05, level * top, 0.05, level * top + 0.12, "#2f3b46", relief=0)
    pen.box(-0.08, 0, 0.08, 0.22, "#5a3420", relief=0)


def _windmill(pen: Pen) -> None:
    wall = pen.choose("#e8dfc9", "#a8653f", "#8b8f94")
    turn = pen.uniform(0, np.pi / 2)
    pen.profile([(0.46, 0), (0.28, 0.92)], wall, 0, relief=0.9, grain=0.05)
    pen.profile([(0.34, 0.9), (0.26, 1.04), (0.08, 1.18)], pen.choose("#5a3a28", "#3c444d"), 1)
    pen.box(-0.1, 0, 0.1, 0.26, "#4d3220", relief=0)
    pen.box(-0.06, 0.48, 0.06, 0.62, "#33424d", relief=0)
    for angle in turn + np.arange(4) * np.pi / 2:
        cos = np.cos(angle)
        sin = np.sin(angle)
        turned = np.array([[cos, sin], [-sin, cos]])
        cloth = np.array([(0.16, 0.0), (0.16, 0.15), (0.78, 0.15), (0.78, 0.0)])
        pen.fill(cloth @ turned + (0, 0.98), "#efe6d0", relief=0)
        for x in (0.3, 0.46, 0.62):
            pen.line(np.array([(x, 0.0), (x, 0.15)]) @ turned + (0, 0.98), 0.025, "#8a6f52")
        pen.line(np.array([(0.0, 0.0), (0.8, 0.0)]) @ turned + (0, 0.98), 0.05, "#5b4230")
    pen.disc(0, 0.98, 0.06, "#3a2a1f", relief=0)


SKETCHES: dict[str, Callable[[Pen], None]] = {
    "car": _car,
    "van": _van,
    "bus": _bus,
    "truck": _truck,
    "tractor": _tractor,
    "motorcycle": _motorcycle,
    "bicycle": _bicycle,
    "cow": _cow,
    "horse": _horse,
    "sheep": _sheep,
    "camel": _camel,
    "elephant": _elephant,
    "sailboat": _sailboat,
    "ship": _ship,
    "house": _house,
    "church": _church,
    "lighthouse": _lighthouse,
    "windmill": _windmill,
    "penguin": _penguin,
    "igloo": _igloo,
    "sled": _sled,
    **HOUSEHOLD,
}
"""The function that sketches each thing, by name."""
