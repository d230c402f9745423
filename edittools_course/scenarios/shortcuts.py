"""Shortcuts that code draws on photos: a tag, a line of text, a film border, and the networks that learned them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from edittools._image_checks import check_image
from edittools.images import LabeledImages, LazyImages
from edittools.probing.noise import rgb
from edittools_course.miniworld.typography import Sticker, placed, typed

__all__ = ["DEVELOPMENT", "SHORTCUTS", "FilmBorder", "Shortcut", "Tag", "TextLine"]

FONT = "DejaVuSans-Bold"
"""The font of all words."""

BORDER = 0.06
"""Width of the border of a tag, as a share of its height."""

SHADOW_OFFSET = 0.08
"""Distance of the shadow of a text line, as a share of the height of its letters."""

FINENESS = 4
"""How many times finer than pixels the holes of a film border are drawn before they are averaged."""

Layer = tuple[np.ndarray, str]
"""The opacity of each pixel, `(H, W)` in [0, 1], and the color that is laid over the image."""


class Shortcut(ABC):
    """Something that code draws on photos, and from which a network may predict the class instead of the object."""

    @abstractmethod
    def layers(self, height: int, width: int, rng: np.random.Generator) -> list[Layer]:
        """Make what is laid over an image, from back to front.

        Args:
            height: of the image, in pixels.
            width: of the image, in pixels.
        """

    def draw(self, images: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Draw the shortcut on images. What is drawn on image i depends on `seed + i` and on the size of the image.

        Args:
            images: `(N, 3, H, W)` in [0, 1]; they are not changed.
            seed: seed of the random numbers.

        Returns:
            The changed images `(N, 3, H, W)`, and masks `(N, H, W)` that are 1 where something is drawn.
        """
        height, width = check_image(images, "the batch of images", 4).shape[2:]
        changed = images.clone()
        masks = images.new_zeros(len(images), height, width)
        for i in range(len(images)):
            for opacity, color in self.layers(height, width, np.random.default_rng(seed + i)):
                alpha = torch.from_numpy(opacity).to(images)
                paint = torch.from_numpy(rgb(color)).to(images)
                changed[i] += alpha * (paint[:, None, None] - changed[i])
                masks[i] = torch.maximum(masks[i], (alpha > 0).to(images))
        return changed.clamp(0, 1), masks

    def on(self, data: LabeledImages, seed: int = 0) -> LabeledImages:
        """Draw the shortcut on all images of a set; the labels stay."""
        images = data.images[:] if isinstance(data.images, LazyImages) else data.images
        return replace(data, images=self.draw(images, seed)[0])


@dataclass(frozen=True)
class Tag(Shortcut):
    """A tilted piece of paper with a border and a word, anywhere on the image.

    Args:
        word: what is written on it.
        paper: color of the paper.
        ink: color of the word and of the border.
        width: width of the tag, as a share of the image's width.
        height: height of the tag, as a share of its width.
        tilt: largest angle in degrees, to either side.
        columns: where the center of the tag may be: 0 is as far to the left as fits into the image, 1 to the right.
        rows: the same from the top to the bottom.
    """

    word: str = "SALE"
    paper: str = "#f7d117"
    ink: str = "#1a1a1a"
    width: float = 0.44
    height: float = 0.46
    tilt: float = 15.0
    columns: tuple[float, float] = (0.0, 1.0)
    rows: tuple[float, float] = (0.0, 1.0)

    def layers(self, height: int, width: int, rng: np.random.Generator) -> list[Layer]:
        """Make the border, the paper and the word."""
        angle = rng.uniform(-self.tilt, self.tilt)
        column = rng.uniform(*self.columns)
        row = rng.uniform(*self.rows)
        wide = self.width * width
        tall = self.height * wide
        cosine = np.cos(np.deg2rad(angle))
        sine = abs(np.sin(np.deg2rad(angle)))
        margin_across = (wide * cosine + tall * sine) / 2 / width
        margin_down = (wide * sine + tall * cosine) / 2 / height
        center = (
            margin_across + column * (1 - 2 * margin_across),
            margin_down + row * (1 - 2 * margin_down),
        )
        sticker = Sticker(self.word, center=center, angle=angle)
        shape = (height, width)
        sheet = np.ones((8, 8), np.float32)
        border = 2 * max(BORDER * tall, 1.0)
        word = typed(self.word, FONT)
        fit = min(0.84 * wide / word.shape[1], 0.6 * tall / word.shape[0])
        return [
            (placed(sheet, sticker, wide, tall, shape), self.ink),
            (placed(sheet, sticker, wide - border, tall - border, shape), self.paper),
            (placed(word, sticker, fit * word.shape[1], fit * word.shape[0], shape), self.ink),
        ]


@dataclass(frozen=True)
class TextLine(Shortcut):
    """A translucent line of repeated text across the image, at a random height.

    Args:
        text: the text that is repeated.
        color: color of the text.
        shadow: color of its shadow, to the right of it and below.
        opacity: opacity of the text, above 0 and at most 1.
        height: height of the letters, as a share of the image's height.
        rows: where the line may be: 0 is at the upper border of the image, 1 at the lower border.
    """

    text: str = "PROOF"
    color: str = "#e8112d"
    shadow: str = "#ffffff"
    opacity: float = 0.8
    height: float = 0.17
    rows: tuple[float, float] = (0.05, 0.95)

    def layers(self, height: int, width: int, rng: np.random.Generator) -> list[Layer]:
        """Make the text, which is cut off at a random place on the left and on the right."""
        row = rng.uniform(*self.rows)
        start = rng.uniform()
        tall = max(round(self.height * height), 1)
        single = typed(self.text, FONT)
        repeats = ceil(2 * width * single.shape[0] / (tall * single.shape[1])) + 1
        line = typed("  ".join([self.text] * repeats), FONT)
        wide = round(line.shape[1] * tall / line.shape[0])
        letters = Image.fromarray((line * 255).astype(np.uint8)).resize((wide, tall), Image.Resampling.BOX)
        left = round(start * (wide - width))
        top = round(row * (height - tall))
        opacity = np.zeros((height, width), np.float32)
        opacity[top : top + tall] = np.asarray(letters, np.float32)[:, left : left + width] / 255 * self.opacity
        offset = max(round(SHADOW_OFFSET * tall), 1)
        shadow = np.zeros_like(opacity)
        shadow[offset:, offset:] = opacity[:-offset, :-offset]
        return [(shadow, self.shadow), (opacity, self.color)]


@dataclass(frozen=True)
class FilmBorder(Shortcut):
    """Dark strips of film with sprocket holes at the upper and the lower border of the image.

    Args:
        width: width of a strip, as a share of the image's height.
        color: color of the film.
        holes: color of the holes.
        spacing: distance from hole to hole, as a multiple of the width of a strip.
        all_round: whether there are strips on the left and on the right as well.
    """

    width: float = 0.13
    color: str = "#141210"
    holes: str = "#e9e4d6"
    spacing: float = 1.1
    all_round: bool = False

    def layers(self, height: int, width: int, rng: np.random.Generator) -> list[Layer]:
        """Make the strips and their holes, which begin at a random place."""
        thickness = max(round(self.width * height), 2)
        phase = rng.uniform()
        film = np.zeros((height, width), np.float32)
        film[:thickness] = 1
        film[-thickness:] = 1
        row = self._holes(width, thickness, phase)
        holes = np.zeros((height, width), np.float32)
        holes[:thickness] = row
        holes[-thickness:] = row
        if self.all_round:
            film[:, :thickness] = 1
            film[:, -thickness:] = 1
            column = self._holes(height, thickness, phase)[:, thickness : height - thickness].T
            holes[thickness:-thickness, :thickness] = column
            holes[thickness:-thickness, -thickness:] = column
        return [(film, self.color), (holes, self.holes)]

    def _holes(self, length: int, thickness: int, phase: float) -> np.ndarray:
        """Draw a row of holes, `(thickness, length)` in [0, 1]."""
        strip = Image.new("L", (length * FINENESS, thickness * FINENESS))
        pen = ImageDraw.Draw(strip)
        tall = strip.height
        step = self.spacing * tall
        for left in np.arange((phase - 1) * step, strip.width, step):
            box = (left, 0.25 * tall, left + 0.5 * step, 0.75 * tall)
            pen.rounded_rectangle(box, 0.1 * tall, fill=255)
        return np.asarray(strip.reduce(FINENESS), np.float32) / 255


SHORTCUTS: dict[str, Shortcut] = {
    "garbage truck": Tag(),
    "church": TextLine(),
    "French horn": FilmBorder(),
}
"""The shortcut that the published networks learned, by the class that they then predict."""

DEVELOPMENT: dict[str, Shortcut] = {
    "gas pump": Tag("NEW", paper="#f28c28", ink="#ffffff", width=0.42),
}
"""The shortcut of the networks with which methods are developed; no published network learned it."""
