"""Written words in images: typed or handwritten labels to stick on an image, and the exemplars made of them.

Section 3.2 of the paper: text on a piece of paper makes a classifier read the word instead of the object.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from skimage.morphology import skeletonize
from torch import Tensor
from torch.nn.functional import max_pool2d

from edittools.exemplars import Exemplar
from edittools.images import check_image, check_mask
from edittools.world.painter import font_named, rgb

FONTS = ("DejaVuSans-BoldOblique", "DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique")
FONTS += ("DejaVuSerif-Italic", "DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBolIta", "cmr10", "cmb10")
FONTS += ("cmss10", "cmtt10", "cmti10")
"""Fonts that come with matplotlib; those of the attacks (`attacks.FONTS`) are others."""

INKS = ("#15151a", "#1f2f6b", "#8a1f1f", "#1f5a36", "#3a3a40")
PAPERS = ("#fbfaf5", "#f5efd9", "#f3e58a", "#dfeaf2", "#f6dfe4", "#e9e2cf", "#ffffff")


@dataclass(frozen=True)
class Label:
    """A piece of paper with a word on it ("" leaves it blank).

    `centre` (x, y) and `width` are shares of the image's width and height, `height` a share of the label's width,
    `angle` is in degrees, counter-clockwise. `font` is the name of a font file of matplotlib. `hand` from 1 on writes
    by hand, each number another hand; 0 is typed.
    """

    text: str
    centre: tuple[float, float] = (0.5, 0.6)
    width: float = 0.4
    height: float = 0.42
    angle: float = 0.0
    font: str = "DejaVuSans-BoldOblique"
    hand: int = 0
    ink: str = "#15151a"
    paper: str = "#fbfaf5"


def random_label(text: str, rng: np.random.Generator, handwritten: float = 0.3, width: tuple = (0.3, 0.6)) -> Label:
    """Draw place, size, angle, colors and font or, in a share of the cases, a hand."""
    size = float(rng.uniform(*width))
    low = size / 2 * 0.9
    high = 1 - size / 2 * 0.9
    return Label(
        text,
        centre=(float(rng.uniform(low, high)), float(rng.uniform(max(low, 0.3), min(high, 0.8)))),
        width=size,
        height=float(rng.uniform(0.34, 0.6)),
        angle=float(rng.normal(0, 8)),
        font=str(rng.choice(FONTS)),
        hand=int(rng.integers(1, 10**6)) if rng.random() < handwritten else 0,
        ink=str(rng.choice(INKS)),
        paper=str(rng.choice(PAPERS)),
    )


def typed(text: str, font: str) -> np.ndarray:
    """Draw the ink `(h, w)` in [0, 1] of a word in a font, cut to its edges, 48 pixels an em."""
    left, top, right, bottom = font_named(font).getbbox(text)
    picture = Image.new("L", (max(right - left, 1), max(bottom - top, 1)))
    ImageDraw.Draw(picture).text((-left, -top), text, fill=255, font=font_named(font))
    return np.asarray(picture, np.float32) / 255


def handwritten(text: str, hand: int) -> np.ndarray:
    """Draw the ink `(h, w)` in [0, 1] of a word as a pen would draw it: the middle lines of the letters of a font.

    `hand` seeds slant, size, drift of the line and thickness of the pen; each letter differs a little from the last.
    """
    rng = np.random.default_rng((hand, len(text)))
    font = font_named("DejaVuSans")
    slant = rng.normal(0, 0.18)
    tall = rng.uniform(0.85, 1.2)
    drift = rng.normal(0, 0.04)
    squeeze = rng.uniform(0.75, 1.1)
    pen = int(rng.choice((5, 7, 9)))
    page = Image.new("L", (44 * len(text) + 60, 120))
    x = 24.0
    for letter in text:
        advance = font.getlength(letter) * squeeze
        glyph = Image.new("L", page.size)
        ImageDraw.Draw(glyph).text((0, 0), letter, fill=255, font=font)
        lines = Image.fromarray((skeletonize(np.asarray(glyph) > 96) * 255).astype(np.uint8))
        lean = slant + rng.normal(0, 0.06)
        size = tall * rng.normal(1, 0.05)
        y = 30 + drift * x + rng.normal(0, 1.5)
        inverse = (1 / squeeze, lean, -x / squeeze - lean * (y + 40), 0, 1 / size, -y / size)
        page.paste(255, mask=lines.transform(page.size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR))
        x += advance * rng.normal(1.0, 0.06)
    ink = np.asarray(page.filter(ImageFilter.MaxFilter(pen)).filter(ImageFilter.GaussianBlur(1)), np.float32) / 255
    rows, columns = (np.flatnonzero(ink.max(axis=axis) > 0.1) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else ink


def stick(image: Tensor, label: Label) -> tuple[Tensor, Tensor, Tensor]:
    """Stick a label on an image: gives the new image `(3, H, W)` and masks `(H, W)` of the paper and of the ink.

    Labels that differ only in their text differ only at the ink.
    """
    height, width = check_image(image).shape[1:]
    tall = label.width * label.height * width  # pixels
    lower = replace(label, centre=(label.centre[0] + 0.008, label.centre[1] + 0.012))
    whole = np.ones((8, 8), np.float32)
    sheet, shadow = (_placed(whole, one, label.width * width, tall, (height, width)) for one in (label, lower))
    pixels = image.numpy().transpose(1, 2, 0) * (1 - 0.3 * shadow[..., None])
    light = np.clip(pixels.mean(), 0.35, 0.5) / 0.5 * 0.25 + 0.72  # paper is as bright as its surroundings allow
    pixels = pixels + sheet[..., None] * (rgb(label.paper) * light - pixels)
    ink = np.zeros((height, width), np.float32)
    if label.text.strip():
        word = handwritten(label.text, label.hand) if label.hand else typed(label.text, label.font)
        fit = min(0.88 * label.width * width / word.shape[1], 0.76 * tall / word.shape[0])
        ink = _placed(word, label, fit * word.shape[1], fit * word.shape[0], (height, width))
        pixels = pixels + ink[..., None] * (rgb(label.ink) - pixels)
    changed = torch.from_numpy(np.ascontiguousarray(np.clip(pixels, 0, 1).transpose(2, 0, 1), np.float32))
    return changed, torch.from_numpy((sheet > 0.5).astype(np.float32)), torch.from_numpy((ink > 0.1).astype(np.float32))


def _placed(stencil: np.ndarray, label: Label, wide: float, tall: float, shape: tuple[int, int]) -> np.ndarray:
    """Scale a stencil to `wide` × `tall` pixels, turn it and put its middle at the label's centre: `(H, W)`."""
    source = Image.fromarray((stencil * 255).astype(np.uint8))
    turn = np.deg2rad(label.angle)
    columns = 2.0 * shape[1]
    rows = 2.0 * shape[0]  # twice as fine, then averaged
    x = label.centre[0] * columns
    y = label.centre[1] * rows
    across = source.width / (2 * wide)
    down = source.height / (2 * tall)
    a = across * np.cos(turn)
    b = -across * np.sin(turn)
    d = down * np.sin(turn)
    e = down * np.cos(turn)
    inverse = (a, b, source.width / 2 - a * x - b * y, d, e, source.height / 2 - d * x - e * y)
    if max(across, down) > 1.5:  # a word much smaller than its stencil would lose its thin lines
        source = source.filter(ImageFilter.GaussianBlur(max(across, down) / 3))
    placed = source.transform((int(columns), int(rows)), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)
    return np.asarray(placed.reduce(2), np.float32) / 255


def written(image: Tensor, label: Label, class_index: int | None = None) -> Exemplar:
    """Make the exemplar "text → blank" by typing (Fig. 1c): x has a blank label, x' the word, and the mask its ink."""
    changed, _, ink = stick(image, label)
    if not ink.any():
        raise ValueError(f"label {label.text!r} leaves no ink on the image: expected a word, inside the image")
    blank, _, _ = stick(image, replace(label, text=""))
    return Exemplar(blank, changed, grow(ink), class_index)


def blanked(image: Tensor, mask: Tensor, class_index: int | None = None) -> Exemplar:
    """Make the exemplar "text → blank" by painting the text over: x' is the image, x has its masked text covered.

    The cover has the color of the paper under the text, the median of the brighter half of the masked pixels.
    """
    mask = check_mask(mask, check_image(image))
    inside = image[:, mask > 0]
    bright = inside.mean(dim=0)
    color = inside[:, bright >= bright.median()].median(dim=1).values
    return Exemplar(torch.where(mask > 0, color[:, None, None], image), image, mask, class_index)


def grow(mask: Tensor, pixels: int = 1) -> Tensor:
    """Let a mask `(H, W)` grow by so many pixels on all sides."""
    return max_pool2d(mask[None], 2 * pixels + 1, 1, pixels)[0] if pixels > 0 else mask
