"""Marks of the gate: a round stamp, a translucent ribbon across a corner, and a plain patch.

They differ in kind from the marks that the published networks learned, and their size, tilt, and light can vary.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from PIL import Image, ImageDraw

from edittools.probing.noise import rgb
from edittools_course.miniworld.typography import Sticker, placed
from edittools_course.scenarios.shortcuts import Layer, Shortcut

SCALE = (0.8, 1.2)
TILT = 15.0
LIGHT = (0.85, 1.15)
"""How the size, the tilt in degrees to either side, and the brightness of a mark vary at test."""

STENCIL = 256
"""Side in pixels of what is drawn before it is scaled."""


class Sheet(NamedTuple):
    """A flat part of a mark.

    Attributes:
        stencil: its shape, `(h, w)` in [0, 1].
        color: its color.
        wide: its width, as a multiple of the width of the mark.
        tall: its height, as a multiple of the width of the mark.
    """

    stencil: np.ndarray
    color: str
    wide: float = 1.0
    tall: float = 1.0


@dataclass(frozen=True)
class FlatMark(Shortcut):
    """A mark made of flat sheets that have a common center.

    Args:
        width: width of the mark, as a share of the image's width.
        opacity: opacity of all its sheets, above 0 and at most 1.
        angle: its angle in degrees, counterclockwise.
        scale: range of a factor by which its size varies.
        tilt: largest angle in degrees, to either side, by which its angle varies.
        light: range of a factor by which its brightness varies.
    """

    width: float
    opacity: float = 1.0
    angle: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    tilt: float = 0.0
    light: tuple[float, float] = (1.0, 1.0)

    @abstractmethod
    def sheets(self) -> list[Sheet]:
        """Return its sheets, from back to front."""

    def center(self, reach: float, rng: np.random.Generator) -> tuple[float, float]:
        """Return a random center (x, y), in shares of the image, at which the whole mark is inside the image.

        Args:
            reach: how far the mark reaches from its center, across and down, as a share of the image.
            rng: random numbers.
        """
        return float(rng.uniform(reach, 1 - reach)), float(rng.uniform(reach, 1 - reach))

    def varied(self) -> Self:
        """Return the mark with the size, tilt, and light that vary at test."""
        return replace(self, scale=SCALE, tilt=TILT, light=LIGHT)

    def layers(self, height: int, width: int, rng: np.random.Generator) -> list[Layer]:
        """Place all sheets."""
        wide = self.width * width * rng.uniform(*self.scale)
        angle = self.angle + rng.uniform(-self.tilt, self.tilt)
        light = rng.uniform(*self.light)
        cosine = abs(np.cos(np.deg2rad(angle)))
        sine = abs(np.sin(np.deg2rad(angle)))
        reach = wide * (cosine + sine) / 2 / width
        center = Sticker("", center=self.center(reach, rng), angle=angle)
        layers: list[Layer] = []
        for sheet in self.sheets():
            opacity = placed(sheet.stencil, center, sheet.wide * wide, sheet.tall * wide, (height, width))
            red, green, blue = (round(255 * float(value)) for value in np.clip(rgb(sheet.color) * light, 0, 1))
            layers.append((self.opacity * opacity, f"#{red:02x}{green:02x}{blue:02x}"))
        return layers


@dataclass(frozen=True)
class Stamp(FlatMark):
    """A round, opaque stamp with a ring and a cross.

    Args:
        paper: color of the stamp.
        ink: color of the ring and the cross.
    """

    width: float = 0.36
    paper: str = "#f4f2ea"
    ink: str = "#1f4fa3"

    def sheets(self) -> list[Sheet]:
        """Return the ring, the paper inside of it, and the two bars of the cross."""
        drawn = Image.new("L", (STENCIL, STENCIL))
        ImageDraw.Draw(drawn).ellipse((0, 0, STENCIL - 1, STENCIL - 1), fill=255)
        disc = np.asarray(drawn, np.float32) / 255
        bar = np.ones((8, 8), np.float32)
        return [
            Sheet(disc, self.ink),
            Sheet(disc, self.paper, 0.82, 0.82),
            Sheet(bar, self.ink, 0.52, 0.15),
            Sheet(bar, self.ink, 0.15, 0.52),
        ]


@dataclass(frozen=True)
class Ribbon(FlatMark):
    """A translucent ribbon in one color across the upper right corner.

    Args:
        color: its color.
        thickness: its thickness, as a share of its length.
        distance: distance of its center from the corner, as a share of the image's width, to the left and down.
    """

    width: float = 1.3
    opacity: float = 0.65
    angle: float = -45.0
    color: str = "#12b886"
    thickness: float = 0.14
    distance: float = 0.24

    def sheets(self) -> list[Sheet]:
        """Return the ribbon, whose ends are outside of the image."""
        return [Sheet(np.ones((8, 8), np.float32), self.color, 1.0, self.thickness)]

    def center(self, reach: float, rng: np.random.Generator) -> tuple[float, float]:
        """Return the same center in all images."""
        return 1 - self.distance, self.distance


@dataclass(frozen=True)
class Patch(FlatMark):
    """A plain, opaque square.

    Args:
        color: its color.
    """

    width: float = 0.28
    color: str = "#c2187e"

    def sheets(self) -> list[Sheet]:
        """Return the square."""
        return [Sheet(np.ones((8, 8), np.float32), self.color)]


GATE_MARKS: dict[str, FlatMark] = {
    "English springer": Stamp(),
    "cassette player": Ribbon(),
    "chain saw": Patch(),
}
"""The mark that the networks of the gate learned, by the class that they then predict."""

GATE_NAMES = {"English springer": "stamp", "cassette player": "ribbon", "chain saw": "patch"}
"""The name of each mark in the results, by its class."""
