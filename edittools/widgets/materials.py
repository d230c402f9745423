"""What the desk can turn a marked part of a picture into."""

from collections.abc import Mapping

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from edittools.exemplars import paste_texture
from edittools.miniworld.textures import STYLES, restyle
from edittools.miniworld.typography import blanked

AROUND, BLANK = "what is around it", "a blank label"
MATERIALS = ("gravel", *(style for style in STYLES if style != "gravel"), AROUND, BLANK)
"""The materials that every desk has, by name."""


def turned(picture: Tensor, mask: Tensor, material: str, own: Mapping[str, Tensor]) -> Tensor:
    """Turn what a mask `(H, W)` covers in a picture `(3, H, W)` into a material.

    `own` are textures `(3, h, w)` by name, beside `MATERIALS`. Raises `KeyError` for an unknown material, and
    `ValueError` for an empty mask.
    """
    if material in own:
        return paste_texture(picture, mask, own[material])
    if material == AROUND:
        return painted_out(picture, mask)
    if material == BLANK:
        return blanked(picture, mask).image
    return restyle(picture, mask, material)


def painted_out(picture: Tensor, mask: Tensor) -> Tensor:
    """Fill what the mask covers softly with the colours around it; `ValueError` if it covers all of the picture."""
    if bool(mask.all()):
        raise ValueError("the mask covers all of the picture: expected something around it to fill it with")
    inside = mask.numpy() > 0
    rows, columns = distance_transform_edt(inside, return_distances=False, return_indices=True)
    near = picture.numpy()[:, rows, columns]
    sigma = picture.shape[1] / 32
    smooth = np.stack([gaussian_filter(channel, sigma) for channel in near])
    depth = np.clip(distance_transform_edt(inside) / (2 * sigma), 0, 1)
    filled = torch.from_numpy((near + depth * (smooth - near)).astype(np.float32)).clamp(0, 1)
    return torch.where(mask > 0, filled, picture)
