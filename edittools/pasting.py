"""Lay a texture over what a mask covers: how x' is made of x (section 2.2 of the paper)."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from edittools.images import check_image, check_mask


def luminance(image: Tensor) -> Tensor:
    """Compute the brightness `(..., H, W)` of an image `(..., 3, H, W)`, Rec. 601 weights."""
    red, green, blue = image.unbind(-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def shading(image: Tensor, mask: Tensor, blur: float = 1 / 32) -> Tensor:
    """Find light and shadow `(H, W)` on what the mask covers: blurred brightness relative to the mean, 1 outside.

    `blur` is in image heights; only masked pixels are averaged, so that neighbours do not bleed in.
    """
    from scipy.ndimage import gaussian_filter

    sigma, inside = blur * image.shape[-2], mask.numpy().astype(np.float64)
    near = np.maximum(gaussian_filter(inside, sigma), 1e-6)
    bright = gaussian_filter(luminance(image).numpy() * inside, sigma) / near
    level = (bright * inside).sum() / max(inside.sum(), 1)
    return torch.from_numpy(np.where(inside > 0, bright / max(level, 1e-3), 1.0).astype(np.float32))


def soft_mask(mask: Tensor, feather: float) -> Tensor:
    """Let a mask `(H, W)` rise from 0 to 1 over `feather` pixels inside its edge; it stays 0 outside."""
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(mask.numpy())
    return torch.from_numpy(np.clip(depth / (feather + 0.5), 0, 1).astype(np.float32)) * mask


def paste_texture(image: Tensor, mask: Tensor, texture_image: Tensor, keep_shading: float = 0.7) -> Tensor:
    """Lay a texture over what the mask covers: returns `(3, H, W)`, unchanged outside the mask.

    `texture_image` `(3, h, w)` is resized to cover the image; with several, `(S, 3, h, w)`, each is laid over the same
    image, which gives `(S, 3, H, W)`. `keep_shading` is how much of the light and shadow of the covered concept stays:
    0 none (the bare texture), 1 all.
    """
    check_image(texture_image, "texture", 4 if texture_image.ndim == 4 else 3)
    mask = check_mask(mask, check_image(image))
    height, width = image.shape[1:]
    tall, wide = texture_image.shape[-2:]
    scale = max(height / tall, width / wide)
    sides = [max(round(tall * scale), height), max(round(wide * scale), width)]
    cover = interpolate(texture_image.reshape(-1, 3, tall, wide), sides, mode="bilinear", antialias=True)
    cover = cover[..., :height, :width].reshape(*texture_image.shape[:-2], height, width)
    lit = cover * shading(image, mask).clamp(0.25, 1.9) ** keep_shading
    alpha = soft_mask(mask, height / 128)
    return torch.where(mask > 0, image + alpha * (lit.clamp(0, 1) - image), image)
