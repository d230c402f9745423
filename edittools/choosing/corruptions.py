"""Shifted images: common corruptions at five severities, and how often a classifier errs on them, edited or not.

The kinds and their strengths are those of ImageNet-C (Hendrycks and Dietterich, 2019), but for blur, which is relative
to the image's height and so lies between ImageNet-C and CIFAR-10-C.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import ceil
from zlib import crc32

import pandas as pd
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional
from tqdm.auto import tqdm

from edittools.checks import check_number
from edittools.choosing.states import CachedStates
from edittools.cut import Cut
from edittools.edits import Edit
from edittools.images import LabelledImages
from edittools.metrics import errors

SEVERITIES = (1, 2, 3, 4, 5)


def _noise(images: Tensor, sigma: float, seed: int) -> Tensor:
    return images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))


def _blur(images: Tensor, sigma: float, seed: int) -> Tensor:
    sigma = sigma * images.shape[-2]
    return functional.gaussian_blur(images, 2 * ceil(3 * sigma) + 1, sigma)


def _contrast(images: Tensor, factor: float, seed: int) -> Tensor:
    middle = images.mean(dim=(2, 3), keepdim=True)
    return middle + factor * (images - middle)


def _brightness(images: Tensor, added: float, seed: int) -> Tensor:
    return images + added


def _jpeg(images: Tensor, quality: int, seed: int) -> Tensor:
    pixels = (images * 255).round().byte()
    return torch.stack([functional.jpeg(picture, quality) for picture in pixels]).float() / 255


def _pixelate(images: Tensor, share: float, seed: int) -> Tensor:
    size = list(images.shape[-2:])
    fewer = [round(share * side) for side in size]
    small = functional.resize(images, fewer, InterpolationMode.BILINEAR, antialias=True)
    return functional.resize(small, size, InterpolationMode.NEAREST)


CORRUPTIONS: dict[str, tuple[Callable[[Tensor, float, int], Tensor], tuple[float, ...]]] = {
    "noise": (_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "blur": (_blur, (0.01, 0.015, 0.02, 0.025, 0.03)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "JPEG": (_jpeg, (25, 18, 15, 10, 7)),
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
}


def corrupt(images: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """Corrupt images `(N, 3, H, W)` in [0, 1] by a kind of `CORRUPTIONS` at a severity of 1 to 5; the seed is of noise.

    Raises `KeyError` for an unknown kind and `ValueError` for another severity.
    """
    if name not in CORRUPTIONS:
        raise KeyError(f"no corruption {name!r}: expected one of {', '.join(CORRUPTIONS)}")
    apply, strengths = CORRUPTIONS[name]
    strength = strengths[check_number(severity, 1, 5, "severity") - 1]
    return apply(images, strength, crc32(f"{name} {seed}".encode())).clamp(0, 1)


def corrupted_errors(
    cuts: Mapping[str, Cut],
    edits: Mapping[str, Edit],
    data: LabelledImages,
    severities: Sequence[int] = (1, 3, 5),
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Error rates on corrupted images: one row a corruption and severity, columns `before` and each of `edits`.

    `cuts` come from one `cut_all` and hold the layers that the edits change; each corrupted set is run up to them once.
    """
    clean, rows = data.images[: len(data)], {}
    kinds = list(product(CORRUPTIONS, severities))
    for name, severity in tqdm(kinds, "corruptions", disable=not progress, leave=False):
        shifted = LabelledImages(corrupt(clean, name, severity, seed), data.labels, data.classes)
        kept = CachedStates(cuts, shifted)
        rates = {label: float(errors(kept.logits(edit), kept.labels).float().mean()) for label, edit in edits.items()}
        rows[name, severity] = {"before": float(kept.before.float().mean()), **rates}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["corruption", "severity"])
