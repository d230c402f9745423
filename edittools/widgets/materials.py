"""The materials that the desk can replace the marked part of an image by."""

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from edittools._image_checks import check_image, check_mask
from edittools.probing.textures import STYLES, restyle

SURROUNDINGS = "what is around it"
"""The material that continues the surroundings of the mask."""

BLANK_STICKER = "a blank sticker"
"""The material that covers the mask with a blank sticker."""

MATERIALS = (SURROUNDINGS, BLANK_STICKER, *sorted(STYLES))
"""The names of the materials, the first of which is used until another one is selected."""


def replace_by_material(image: Tensor, mask: Tensor, material: str) -> Tensor:
    """Replace the masked part of an image by a material.

    Args:
        image: `(3, H, W)`.
        mask: `(H, W)` of 0 and 1.
        material: one of `MATERIALS`.

    Returns:
        The changed image `(3, H, W)`.

    Raises:
        KeyError: if there is no such material.
        ValueError: if the mask is empty, or if it covers the whole image and the material is `SURROUNDINGS`.
    """
    if material == SURROUNDINGS:
        return inpaint(image, mask)
    if material == BLANK_STICKER:
        return covered(image, mask)
    return restyle(image, mask, material)


def covered(image: Tensor, mask: Tensor) -> Tensor:
    """Cover the masked part of an image, such as a text, with the color of the paper under it.

    It is the median of the brighter half of the masked pixels.

    Args:
        image: `(3, H, W)`.
        mask: `(H, W)` of 0 and 1.

    Raises:
        ValueError: if the image or the mask is not valid.
    """
    mask = check_mask(mask, check_image(image))
    inside = image[:, mask > 0]
    bright = inside.mean(dim=0)
    color = inside[:, bright >= bright.median()].median(dim=1).values
    return torch.where(mask > 0, color[:, None, None], image)


def inpaint(image: Tensor, mask: Tensor) -> Tensor:
    """Fill the masked part of an image softly with the colors around it.

    Each masked pixel takes the color of the nearest pixel outside the mask; the deeper it lies inside the mask, the
    more this color is smoothed.

    Args:
        image: `(3, H, W)`.
        mask: `(H, W)` of 0 and 1.

    Raises:
        ValueError: if the mask covers the whole image.
    """
    if bool(mask.all()):
        raise ValueError("the mask covers the whole image; leave a part of the image unmarked")
    inside = mask.numpy() > 0
    rows, columns = distance_transform_edt(inside, return_distances=False, return_indices=True)
    nearest = image.numpy()[:, rows, columns]
    sigma = image.shape[1] / 32
    smooth = np.stack([gaussian_filter(channel, sigma) for channel in nearest])
    depth = np.clip(distance_transform_edt(inside) / (2 * sigma), 0, 1)
    filled = nearest + depth * (smooth - nearest)
    filled = torch.from_numpy(filled.astype(np.float32)).clamp(0, 1)
    return torch.where(mask > 0, filled, image)
