"""Stickers on photos of skin: their outlines and colors, how they are pasted on other photos, and what fills them.

A `Fold` collects the photos that a network is evaluated on, with stickers and with their outlines filled.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor

from _lib.skin_photos import ADULT, BENIGN, MELANOMA, SIZE, labels_of, photos, pixels_of, roles

FAR_IN_COLOR = 18.0
"""A pixel belongs to a sticker if its chroma differs from that of the skin by more than this, in units of CIELAB."""

LEAST_AREA, LARGEST_AREA = 0.02, 0.3
"""The least and the largest share of the photo that a sticker has."""

DRAWS = 3
"""The number of stickers that are pasted on each melanoma."""

ADULTS = 120
"""The largest number of photos of benign lesions of adults on which a sticker is pasted."""

MARGIN = 2
"""The number of pixels by which an outline is opened first, and grown at the end."""

GRAY = 10.0
"""A sticker whose chroma is smaller than this is gray."""

COLORS = {
    "red": (330, 30),
    "orange": (30, 80),
    "yellow": (80, 120),
    "green": (120, 175),
    "teal": (175, 225),
    "blue": (225, 285),
    "lilac": (285, 330),
}
"""The hues of each color, in degrees of CIELAB."""

UNSEEN_COLOR = (55.0, 52.0, -44.0)
"""A saturated purple, which no sticker has, in CIELAB."""


class Sticker(NamedTuple):
    """A sticker on a photo.

    Attributes:
        image: the name of the photo.
        pixels: the photo, `(3, H, W)`.
        mask: where the sticker is, `(H, W)` of zeros and ones.
        color: one of `COLORS`, or "gray".
    """

    image: str
    pixels: Tensor
    mask: Tensor
    color: str


# --- outlines ---------------------------------------------------------------------------------------------------------


def outlined(image: Tensor) -> Tensor | None:
    """Outline the largest part at the border of a photo `(3, H, W)` whose color is far from that of the skin.

    Returns:
        The mask `(H, W)` of zeros and ones; None if there is no such part.
    """
    lab = rgb2lab(image.permute(1, 2, 0).numpy())
    skin = np.median(lab.reshape(-1, 3), axis=0)
    is_far = np.linalg.norm((lab - skin)[..., 1:], axis=2) > FAR_IN_COLOR
    parts, count = ndimage.label(ndimage.binary_opening(is_far, iterations=MARGIN))
    best = None
    for number in range(1, count + 1):
        part = parts == number
        touches_border = part[[0, -1]].any() or part[:, [0, -1]].any()
        if not touches_border or not LEAST_AREA < part.mean() < LARGEST_AREA:
            continue
        if best is None or part.sum() > best.sum():
            best = part
    if best is None:
        return None
    grown = ndimage.binary_fill_holes(ndimage.binary_dilation(best, iterations=MARGIN))
    return torch.from_numpy(grown).float()


@cache
def _ellipses() -> pd.DataFrame:
    """Read the ellipses that were drawn by hand around stickers that the color threshold misses."""
    return pd.read_csv(Path(__file__).parent / "skin_outlines.csv", index_col="image")


def _by_hand(name: str) -> Tensor:
    """Return the mask of a sticker that was outlined by hand."""
    ellipse = _ellipses().loc[name]
    rows = torch.arange(SIZE)[:, None]
    columns = torch.arange(SIZE)[None]
    across = (columns - ellipse.center_x) / ellipse.radius_x
    down = (rows - ellipse.center_y) / ellipse.radius_y
    return (across.square() + down.square() <= 1).float()


def _color(image: Tensor, mask: Tensor) -> str:
    """Name the color of a masked area by the median of its inside."""
    inside = ndimage.binary_erosion(mask.numpy() > 0, iterations=2 * MARGIN, border_value=1)
    _, a, b = np.median(rgb2lab(image.permute(1, 2, 0).numpy())[inside], axis=0)
    if np.hypot(a, b) < GRAY:
        return "gray"
    hue = np.degrees(np.arctan2(b, a)) % 360
    return next(name for name, (low, high) in COLORS.items() if (hue - low) % 360 < (high - low) % 360)


def stickers_of(names: Sequence[str]) -> list[Sticker]:
    """Outline the stickers of photos; those whose outline is not known, such as of gauze, are left out."""
    stickers = []
    for name, image in zip(names, pixels_of(names), strict=True):
        mask = _by_hand(name) if name in _ellipses().index else outlined(image)
        if mask is not None:
            stickers.append(Sticker(name, image, mask, _color(image, mask)))
    return stickers


# --- pasting and filling ----------------------------------------------------------------------------------------------


def pasted(images: Tensor, stickers: Sequence[Sticker], fill: Callable[[Tensor, Sticker], Tensor]) -> Tensor:
    """Paste on each of N photos what a fill makes of its sticker's area.

    Args:
        images: `(N, 3, H, W)`.
        stickers: the sticker of each photo.
        fill: returns what is shown there, `(3, H, W)` or `(3, 1, 1)`, one of `FILLS`.
    """
    pairs = zip(images, stickers, strict=True)
    return torch.stack([torch.where(one.mask > 0, fill(image, one), image) for image, one in pairs])


def the_sticker(_: Tensor, sticker: Sticker) -> Tensor:
    """Show the sticker."""
    return sticker.pixels


def own_skin(image: Tensor, sticker: Sticker) -> Tensor:
    """Show the color of the photo's own skin: the median of its brighter half, outside of the area."""
    return own_skin_at(image, sticker.mask)


def skin_of_donor(_: Tensor, sticker: Sticker) -> Tensor:
    """Show the color of the skin of the photo that the sticker is from."""
    return own_skin_at(sticker.pixels, sticker.mask)


def own_skin_at(image: Tensor, mask: Tensor) -> Tensor:
    """Return the median color `(3, 1, 1)` of the brighter half of a photo: neither the lesion nor dark corners."""
    shown = image[:, mask == 0]
    brightness = shown.mean(dim=0)
    return shown[:, brightness >= brightness.median()].median(dim=1).values[:, None, None]


def gray(image: Tensor, _: Sticker) -> Tensor:
    """Show gray."""
    return torch.full_like(image[:, :1, :1], 0.5)


def mean_color(image: Tensor, _: Sticker) -> Tensor:
    """Show the mean color of the photo."""
    return image.mean(dim=(1, 2), keepdim=True)


def unseen_color(image: Tensor, _: Sticker) -> Tensor:
    """Show a color that no sticker has."""
    color = lab2rgb(np.array(UNSEEN_COLOR)[None, None])[0, 0]
    return torch.from_numpy(color).to(image)[:, None, None]


SKIN = "own skin"
"""The name of the fill that says what removing a sticker corrects."""

FILLS: Mapping[str, Callable[[Tensor, Sticker], Tensor]] = {
    SKIN: own_skin,
    "skin of the sticker's photo": skin_of_donor,
    "mean color": mean_color,
    "gray": gray,
    "a color that no sticker has": unseen_color,
}
"""What fills the outline of a sticker, by name."""


# --- the photos of a fold ---------------------------------------------------------------------------------------------

DEVELOPMENT = "development"
CLEAN = "photos without a sticker"
STUCK = "melanomas with a sticker"
FILLED = "melanomas with the outline filled"
BENIGN_STUCK = "benign photos of adults with a pasted sticker"
REAL = "benign sticker photos"
REAL_FILLED = "benign sticker photos with the sticker filled"
"""The sets of photos."""


class Fold(NamedTuple):
    """What the networks are evaluated on that were not trained on a fold, and what sets their thresholds.

    Attributes:
        development: the photos that set thresholds.
        development_is_benign: which of them show benign lesions, `(D,)` booleans.
        names: the photos without a sticker.
        is_melanoma: which of them are melanomas, `(N,)` booleans.
        stickers: the stickers.
        drawn: which stickers are pasted on each melanoma, `(M, DRAWS)` indices.
        adults: which photos of `names` get one of the stickers as well: benign lesions of adults, `(A,)` indices.
        drawn_on_adults: the sticker of each of these, `(A,)` indices.
        real: the benign photos with a sticker.
    """

    development: list[str]
    development_is_benign: np.ndarray
    names: list[str]
    is_melanoma: np.ndarray
    stickers: list[Sticker]
    drawn: np.ndarray
    adults: np.ndarray
    drawn_on_adults: np.ndarray
    real: list[str]

    @classmethod
    def of(cls, members: Sequence[str], seed: int) -> "Fold":
        """Divide the photos of a fold, and draw which sticker is pasted on which photo."""
        table = photos()
        random = np.random.default_rng(seed)
        names = [name for name in members if table.sticker[name] == 0]
        with_sticker = [name for name in members if table.sticker[name] == 1]
        is_melanoma = table.melanoma[names].to_numpy() == MELANOMA
        is_adult = (table.age[names].to_numpy() >= ADULT) & ~is_melanoma
        stickers = stickers_of(with_sticker)
        drawn = [random.choice(len(stickers), DRAWS, replace=False) for _ in range(is_melanoma.sum())]
        adults = random.permutation(is_adult.nonzero()[0])[:ADULTS]
        return cls(
            development=roles().development,
            development_is_benign=labels_of(roles().development).numpy() == BENIGN,
            names=names,
            is_melanoma=is_melanoma,
            stickers=stickers,
            drawn=np.stack(drawn),
            adults=adults,
            drawn_on_adults=random.integers(len(stickers), size=len(adults)),
            real=[name for name in with_sticker if table.melanoma[name] == BENIGN],
        )

    def sets(self) -> dict[str, Callable[[], Tensor]]:
        """Return what makes the photos `(N, 3, H, W)` of each set on which methods are evaluated."""
        outlined_ones = [sticker for sticker in self.stickers if sticker.image in self.real]
        on_adults = [self.stickers[number] for number in self.drawn_on_adults]
        return {
            DEVELOPMENT: lambda: pixels_of(self.development),
            CLEAN: lambda: pixels_of(self.names),
            STUCK: lambda: self._on_melanomas(the_sticker),
            BENIGN_STUCK: lambda: pasted(pixels_of([self.names[i] for i in self.adults]), on_adults, the_sticker),
            REAL: lambda: pixels_of(self.real),
            REAL_FILLED: lambda: pasted(torch.stack([one.pixels for one in outlined_ones]), outlined_ones, own_skin),
        }

    def filled_sets(self, fills: Iterable[str]) -> dict[str, Callable[[], Tensor]]:
        """Return what makes the photos on which only the networks themselves are evaluated, by `filled`."""
        return {filled(name): lambda fill=FILLS[name]: self._on_melanomas(fill) for name in fills}

    def _on_melanomas(self, fill: Callable[[Tensor, Sticker], Tensor]) -> Tensor:
        """Paste on each melanoma what a fill makes of each of its stickers, `(M * DRAWS, 3, H, W)`."""
        melanomas = [name for name, is_one in zip(self.names, self.is_melanoma, strict=True) if is_one]
        images = pixels_of(melanomas).repeat_interleave(DRAWS, dim=0)
        return pasted(images, [self.stickers[number] for number in self.drawn.flatten()], fill)


def filled(fill: str) -> str:
    """Name the set of melanomas on which a fill, one of `FILLS`, takes the place of the sticker."""
    return f"{FILLED}: {fill}"
