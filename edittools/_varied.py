"""Vary a mark from host to host: its light, and its size and tilt if it is small enough to fit whatever they are.

A mark that spans the image, such as a frame or a line of text, has its size from the image.
"""

from math import cos, radians, sin

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

LIGHT = (0.8, 1.2)
"""The range of the factor by which the brightness of a mark varies."""

SCALE = (0.75, 1.3)
"""The range of the factor by which its size varies."""

TILT = 15.0
"""The largest angle by which it is tilted, in degrees to either side."""

LEAST_COVER = 0.5
"""A pixel is in the mask if at least this much of it is covered by the mark, as a share of the most covered pixel."""


def laid_over(
    image: Tensor, paint: Tensor, opacity: Tensor, mask: Tensor, in_place: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Lay a mark over an image, with a light, a place, a size, and a tilt that are drawn at random.

    Args:
        image: `(3, H, W)` in [0, 1]; it is not changed.
        paint: the colors of the mark, `(3, H, W)`; they count where it is not transparent.
        opacity: its opacities, `(H, W)`; 0 outside of the mask.
        mask: `(H, W)` of zeros and ones, where the mark is.
        in_place: whether it stays where it is, in its size and tilt.
        generator: draws the random numbers.

    Returns:
        The changed image `(3, H, W)`, and the mask of the mark on it: no other pixel is changed.
    """
    height, width = mask.shape
    places = mask.nonzero()
    first, last = places.min(dim=0).values, places.max(dim=0).values + 1
    tall, wide = (last - first).tolist()
    middle = ((first + last) / 2).tolist()
    center = middle
    light = _uniform(*LIGHT, generator)
    scale, tilt = 1.0, 0.0
    if not in_place:
        largest_down, largest_across = _reach(tall, wide, SCALE[1], radians(TILT))
        if 2 * largest_down <= height and 2 * largest_across <= width:
            scale = _uniform(*SCALE, generator)
            tilt = radians(_uniform(-TILT, TILT, generator))
        down, across = _reach(tall, wide, scale, tilt)
        center = [_uniform(down, height - down, generator), _uniform(across, width - across, generator)]
    premultiplied = torch.stack([*(paint * opacity), opacity, mask])
    *colors, opacity, cover = _moved(premultiplied, middle, center, scale, tilt)
    is_covered = cover >= LEAST_COVER * cover.max()
    color = light * torch.stack(colors) / opacity.clamp_min(1e-6)
    opacity = torch.where(is_covered, opacity, 0.0)
    return torch.lerp(image, color.clamp(0, 1), opacity.expand_as(image)), is_covered.to(mask)


def _reach(tall: int, wide: int, scale: float, tilt: float) -> tuple[float, float]:
    """Return how far a scaled and tilted box reaches from its middle, down and across."""
    down = tall * cos(tilt) + wide * abs(sin(tilt))
    across = wide * cos(tilt) + tall * abs(sin(tilt))
    return scale * down / 2, scale * across / 2


def _moved(layers: Tensor, middle: list[float], center: list[float], scale: float, tilt: float) -> Tensor:
    """Scale and tilt layers `(C, H, W)` about a point, and move this point to a center: rows and columns in pixels."""
    height, width = layers.shape[1:]
    rows = torch.arange(height)[:, None] + 0.5 - center[0]
    columns = torch.arange(width) + 0.5 - center[1]
    source_rows = (cos(tilt) * rows - sin(tilt) * columns) / scale + middle[0]
    source_columns = (sin(tilt) * rows + cos(tilt) * columns) / scale + middle[1]
    grid = torch.stack([2 * source_columns / width - 1, 2 * source_rows / height - 1], dim=2)
    [moved] = grid_sample(layers[None], grid[None].to(layers), align_corners=False)
    return moved


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Draw a number between two others."""
    return low + (high - low) * float(torch.rand(1, generator=generator))
