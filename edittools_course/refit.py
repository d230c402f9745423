"""Fit a mask that was drawn on the input of one classifier to the input of another."""

import torch
from torch import Tensor

from edittools.geometry import HasInputSize, InputGeometry


def refit_mask(
    mask: Tensor,
    photo_size: tuple[int, int],
    drawn_on: HasInputSize,
    size: int | HasInputSize,
) -> Tensor:
    """Transfer a mask from the input of one classifier to that of another, for the same photo.

    A pixel of the result is 1 if at least half of its area is marked. Parts of the photo that the first classifier does
    not see count as unmarked.

    Args:
        mask: `(drawn_on.size, drawn_on.size)` of 0 and 1.
        photo_size: height and width of the upright photo (after its EXIF orientation was applied), in pixels.
        drawn_on: the classifier on whose input the mask was drawn, or its geometry.
        size: the other classifier, its geometry, or the side of its input in pixels, see `load_image`.

    Returns:
        The mask `(size, size)` float of 0 and 1.

    Raises:
        ValueError: if the mask does not have the size of the input that it was drawn on.
    """
    if tuple(mask.shape) != (drawn_on.size, drawn_on.size):
        raise ValueError(
            f"the mask has the shape {tuple(mask.shape)}, but it was drawn on an input of {drawn_on.size} pixels; "
            "pass the geometry that it was drawn on"
        )
    drawn = InputGeometry.of(drawn_on)
    wanted = InputGeometry.of(size)
    row_shares, column_shares = (_shares(wanted, drawn, side, min(photo_size)) for side in photo_size)
    marked_share = row_shares @ mask.double() @ column_shares.T
    return (marked_share >= 0.5 - 1e-9).float()


def _shares(wanted: InputGeometry, drawn: InputGeometry, side: int, short_side: int) -> Tensor:
    """Compute the share of each pixel of one input that lies in each pixel of another, along one side of the photo.

    Returns:
        The shares, `(wanted.size, drawn.size)` float64.
    """
    wanted_side, wanted_offset = wanted.resized_side_and_offset(side, short_side)
    drawn_side, drawn_offset = drawn.resized_side_and_offset(side, short_side)
    on_photo = (torch.arange(wanted.size + 1, dtype=torch.float64) + wanted_offset) * (side / wanted_side)
    borders = on_photo * (drawn_side / side) - drawn_offset
    starts = borders[:-1, None]
    ends = borders[1:, None]
    pixels = torch.arange(drawn.size, dtype=torch.float64)
    overlaps = torch.minimum(ends, pixels + 1) - torch.maximum(starts, pixels)
    return overlaps.clamp_min(0) / (ends - starts)
