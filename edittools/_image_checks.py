"""Checks of images and masks; errors say what was passed, and what to pass instead."""

import os
from typing import Any

import torch
from torch import Tensor


def check_image(image: Tensor, name: str = "image", dimensions: int = 3) -> Tensor:
    """Return an image, or a batch of images, if it is valid.

    Args:
        image: `(3, H, W)` in [0, 1], or a batch `(B, 3, H, W)` if `dimensions` is 4.
        name: what error messages call the image.
        dimensions: 3 for an image, 4 for a batch.

    Raises:
        ValueError: if it is not a tensor of floats of this shape and range.
    """
    shape = tuple(image.shape) if isinstance(image, Tensor) else ()
    if len(shape) != dimensions or shape[-3] != 3 or not image.is_floating_point():
        remedy = "of shape (3, H, W)" if dimensions == 3 else "of shape (B, 3, H, W); image[None] makes a batch"
        loading = ", such as load_image(path, classifier)" if isinstance(image, str | os.PathLike) else ""
        raise ValueError(f"{name} {described(image)}; pass a torch tensor of floats in [0, 1] {remedy}{loading}")
    low, high = image.aminmax() if image.numel() else (torch.zeros(()), torch.ones(()))
    if low.isnan():
        raise ValueError(f"{name} contains NaN; pass finite pixels in [0, 1]")
    if low < -1e-4 or high > 1 + 1e-4:  # resizing may overshoot by a rounding error
        raise ValueError(f"{name} has pixels from {low:.5g} to {high:.5g}; scale them to [0, 1], without normalization")
    return image


def check_mask(mask: Tensor, image: Tensor | None = None, allow_empty: bool = False) -> Tensor:
    """Return a mask as float if it is valid.

    Args:
        mask: `(H, W)` of zeros and ones, of any number type.
        image: the image `(…, H, W)` whose size the mask must have; None skips this check.
        allow_empty: accept a mask of zeros only.

    Raises:
        ValueError: if it is not such a tensor, if it does not fit the image, or if it is empty.
    """
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        loading = ", such as load_mask(path, classifier)" if isinstance(mask, str | os.PathLike) else ""
        raise ValueError(f"mask {described(mask)}; pass a torch tensor of shape (H, W) with zeros and ones{loading}")
    if image is not None and mask.shape != image.shape[-2:]:
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)} does not fit the image of shape {tuple(image.shape)}; load both with "
            "the same size, such as load_image(path, classifier) and load_mask(path, classifier)"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"the mask has the values {mask.unique()[:5].tolist()}…; pass zeros and ones only")
    if not allow_empty and not mask.any():
        raise ValueError("the mask is empty; set at least one pixel to 1, inside the crop that the classifier sees")
    return mask.float()


def described(value: Any) -> str:
    """Describe a value that is not the tensor that was needed."""
    if isinstance(value, Tensor):
        return f"has the shape {tuple(value.shape)} and the type {value.dtype}"
    if isinstance(value, str | os.PathLike):
        return f"is the path {os.fspath(value)!r}"
    return f"is a {type(value).__name__}"
