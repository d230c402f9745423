"""Write words into images: put typed or handwritten stickers on an image, and make exemplars of them.

In section 3.2 of the paper, text on a piece of paper makes a classifier predict the word instead of the object.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from skimage.morphology import skeletonize
from torch import Tensor
from torch.nn.functional import max_pool2d

from edittools._image_checks import check_image
from edittools.exemplars import Exemplar
from edittools.probing.noise import rgb
from edittools.widgets.materials import covered
from edittools_course.miniworld.painter import font_named

FONTS = (
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBolIta",
    "cmr10",
    "cmb10",
    "cmss10",
    "cmtt10",
    "cmti10",
)
"""Fonts that come with matplotlib; the attacks use others (`attacks.FONTS`)."""

INKS = ("#15151a", "#1f2f6b", "#8a1f1f", "#1f5a36", "#3a3a40")
PAPERS = ("#fbfaf5", "#f5efd9", "#f3e58a", "#dfeaf2", "#f6dfe4", "#e9e2cf", "#ffffff")


@dataclass(frozen=True)
class Sticker:
    """A piece of paper with a word on it.

    Args:
        text: the word; "" leaves the sticker blank.
        center: center (x, y), as shares of the image's width and height.
        width: width, as a share of the image's width.
        height: height, as a share of the sticker's width.
        angle: angle in degrees, counterclockwise.
        font: name of a font file of matplotlib.
        hand: number of a handwriting, from 1; 0 is typed.
        ink: color of the word.
        paper: color of the sticker.
    """

    text: str
    center: tuple[float, float] = (0.5, 0.6)
    width: float = 0.4
    height: float = 0.42
    angle: float = 0.0
    font: str = "DejaVuSans-BoldOblique"
    hand: int = 0
    ink: str = "#15151a"
    paper: str = "#fbfaf5"


def random_sticker(text: str, rng: np.random.Generator, handwritten: float = 0.3, width: tuple = (0.3, 0.6)) -> Sticker:
    """Make a random sticker.

    Args:
        text: the word.
        handwritten: probability that it is written by hand.
        width: range of the width.
    """
    size = float(rng.uniform(*width))
    low = size / 2 * 0.9
    high = 1 - size / 2 * 0.9
    return Sticker(
        text,
        center=(float(rng.uniform(low, high)), float(rng.uniform(max(low, 0.3), min(high, 0.8)))),
        width=size,
        height=float(rng.uniform(0.34, 0.6)),
        angle=float(rng.normal(0, 8)),
        font=str(rng.choice(FONTS)),
        hand=int(rng.integers(1, 10**6)) if rng.random() < handwritten else 0,
        ink=str(rng.choice(INKS)),
        paper=str(rng.choice(PAPERS)),
    )


def typed(text: str, font: str) -> np.ndarray:
    """Render the ink of a word in a font, cropped to its edges, at 48 pixels per em.

    Returns:
        The ink, `(h, w)` in [0, 1].
    """
    typeface = font_named(font)
    left, top, right, bottom = typeface.getbbox(text)
    page = Image.new("L", (max(right - left, 1), max(bottom - top, 1)))
    ImageDraw.Draw(page).text((-left, -top), text, fill=255, font=typeface)
    return np.asarray(page, np.float32) / 255


def handwritten(text: str, hand: int) -> np.ndarray:
    """Render the ink of a word as a pen would write it, along the center lines of the letters of a font.

    Args:
        text: the word.
        hand: seed of the slant, the size, the drift of the line and the thickness of the pen. Each letter differs a
            little from the last.

    Returns:
        The ink, `(h, w)` in [0, 1].
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
    strokes = page.filter(ImageFilter.MaxFilter(pen)).filter(ImageFilter.GaussianBlur(1))
    ink = np.asarray(strokes, np.float32) / 255
    rows = np.flatnonzero(ink.max(axis=1) > 0.1)
    columns = np.flatnonzero(ink.max(axis=0) > 0.1)
    if not len(rows):
        return ink
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def stick(image: Tensor, sticker: Sticker) -> tuple[Tensor, Tensor, Tensor]:
    """Put a sticker on an image. Stickers that differ only in their text give images that differ only at the ink.

    Args:
        image: image `(3, H, W)` in [0, 1].
        sticker: the sticker.

    Returns:
        The new image, `(3, H, W)`, and masks `(H, W)` of the paper and of the ink.
    """
    height, width = check_image(image).shape[1:]
    shape = (height, width)
    sticker_width = sticker.width * width  # in pixels
    sticker_height = sticker.width * sticker.height * width
    shadow_sticker = replace(sticker, center=(sticker.center[0] + 0.008, sticker.center[1] + 0.012))
    whole = np.ones((8, 8), np.float32)
    sheet = placed(whole, sticker, sticker_width, sticker_height, shape)
    shadow = placed(whole, shadow_sticker, sticker_width, sticker_height, shape)
    pixels = image.numpy().transpose(1, 2, 0) * (1 - 0.3 * shadow[..., None])
    light = np.clip(pixels.mean(), 0.35, 0.5) / 0.5 * 0.25 + 0.72  # paper is as bright as its surroundings allow
    pixels = pixels + sheet[..., None] * (rgb(sticker.paper) * light - pixels)
    ink = np.zeros((height, width), np.float32)
    if sticker.text.strip():
        word = handwritten(sticker.text, sticker.hand) if sticker.hand else typed(sticker.text, sticker.font)
        fit = min(0.88 * sticker.width * width / word.shape[1], 0.76 * sticker_height / word.shape[0])
        ink = placed(word, sticker, fit * word.shape[1], fit * word.shape[0], shape)
        pixels = pixels + ink[..., None] * (rgb(sticker.ink) - pixels)
    changed = np.ascontiguousarray(np.clip(pixels, 0, 1).transpose(2, 0, 1), np.float32)
    paper_mask = (sheet > 0.5).astype(np.float32)
    ink_mask = (ink > 0.1).astype(np.float32)
    return torch.from_numpy(changed), torch.from_numpy(paper_mask), torch.from_numpy(ink_mask)


def placed(stencil: np.ndarray, sticker: Sticker, wide: float, tall: float, shape: tuple[int, int]) -> np.ndarray:
    """Scale a stencil to `wide` × `tall` pixels, rotate it, and move its middle to the center of a sticker.

    Returns:
        The stencil in an image of the `shape`, `(H, W)` in [0, 1].
    """
    source = Image.fromarray((stencil * 255).astype(np.uint8))
    turn = np.deg2rad(sticker.angle)
    columns = 2.0 * shape[1]  # twice as fine, then averaged
    rows = 2.0 * shape[0]
    x = sticker.center[0] * columns
    y = sticker.center[1] * rows
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


def written(image: Tensor, sticker: Sticker, class_index: int | None = None) -> Exemplar:
    """Make the exemplar "text → blank" by adding text (Fig. 1c).

    Args:
        image: image `(3, H, W)` without the sticker.
        sticker: the sticker with the word.
        class_index: the class of the image.

    Returns:
        An exemplar: x has the blank sticker, x' the word, and the mask covers its ink.

    Raises:
        ValueError: if the sticker leaves no ink on the image.
    """
    changed, _, ink = stick(image, sticker)
    if not ink.any():
        raise ValueError(
            f"sticker {sticker.text!r} leaves no ink on the image; pass a word, with a sticker inside the image"
        )
    blank, _, _ = stick(image, replace(sticker, text=""))
    return Exemplar(blank, changed, grow(ink), class_index)


def blanked(image: Tensor, mask: Tensor, class_index: int | None = None) -> Exemplar:
    """Make the exemplar "text → blank" by covering the text.

    The cover has the color of the paper under the text: the median of the brighter half of the masked pixels.

    Args:
        image: image `(3, H, W)` with the text.
        mask: mask `(H, W)` of the text.
        class_index: the class of the image.

    Returns:
        An exemplar: x' is the image, and x has its text covered.
    """
    return Exemplar(covered(image, mask), image, mask, class_index)


def grow(mask: Tensor, pixels: int = 1) -> Tensor:
    """Grow a mask `(H, W)` by a number of pixels on all sides."""
    return max_pool2d(mask[None], 2 * pixels + 1, 1, pixels)[0] if pixels > 0 else mask
