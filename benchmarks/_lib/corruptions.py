"""Corrupted copies of images: six kinds, at three severities each."""

from math import ceil
from zlib import crc32

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

CORRUPTIONS = {
    "noise": (0.08, 0.18, 0.38),
    "blur": (0.01, 0.02, 0.03),
    "contrast": (0.4, 0.2, 0.05),
    "brightness": (0.1, 0.3, 0.5),
    "JPEG": (25, 15, 7),
    "pixelate": (0.6, 0.4, 0.25),
}
"""The strength of each kind at severities 1, 3 and 5 of ImageNet-C (Hendrycks and Dietterich, 2019).

Blur is relative to the image's height, and so lies between ImageNet-C and CIFAR-10-C.
"""


def corrupt(images: Tensor, name: str, strength: float) -> Tensor:
    """Corrupt images `(N, 3, H, W)` in [0, 1] by a kind of `CORRUPTIONS`."""
    size = list(images.shape[-2:])
    if name == "noise":
        generator = torch.Generator().manual_seed(crc32(b"noise 0"))
        shifted = images + strength * torch.randn(images.shape, generator=generator)
    elif name == "blur":
        sigma = strength * size[0]
        shifted = functional.gaussian_blur(images, 2 * ceil(3 * sigma) + 1, sigma)
    elif name == "contrast":
        middle = images.mean(dim=(2, 3), keepdim=True)
        shifted = middle + strength * (images - middle)
    elif name == "brightness":
        shifted = images + strength
    elif name == "JPEG":
        pixels = (images * 255).round().byte()
        shifted = torch.stack([functional.jpeg(picture, strength) for picture in pixels]).float() / 255
    else:
        fewer = [round(strength * side) for side in size]
        small = functional.resize(images, fewer, InterpolationMode.BILINEAR, antialias=True)
        shifted = functional.resize(small, size, InterpolationMode.NEAREST)
    return shifted.clamp(0, 1)
