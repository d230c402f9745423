"""Shifted images: common corruptions at five severities, and how often a classifier errs on them, edited or not.

The kinds and their strengths are those of ImageNet-C (Hendrycks and Dietterich, 2019), but for blur, which is relative
to the image's height and so lies between ImageNet-C and CIFAR-10-C.
"""

from collections.abc import Mapping, Sequence
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

CORRUPTIONS: dict[str, tuple[float, ...]] = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "blur": (0.01, 0.015, 0.02, 0.025, 0.03),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "JPEG": (25, 18, 15, 10, 7),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
}
"""The strength of each kind by severity."""


def corrupt(images: Tensor, name: str, severity: int) -> Tensor:
    """Corrupt images `(N, 3, H, W)` in [0, 1] by a kind of `CORRUPTIONS` at a severity of 1 to 5.

    Raises `KeyError` for an unknown kind and `ValueError` for another severity.
    """
    if name not in CORRUPTIONS:
        raise KeyError(f"no corruption {name!r}: expected one of {', '.join(CORRUPTIONS)}")
    strength, size = CORRUPTIONS[name][check_number(severity, 1, 5, "severity") - 1], list(images.shape[-2:])
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


def corrupted_errors(
    cuts: Mapping[str, Cut],
    edits: Mapping[str, Edit],
    data: LabelledImages,
    severities: Sequence[int] = (1, 3, 5),
    progress: bool = False,
) -> pd.DataFrame:
    """Tabulate error rates on corrupted images: a row for each corruption and severity, a column for each edit.

    `cuts` come from one `cut_all` and hold the layers that the edits change; each corrupted set is run up to them once.
    """
    clean, rows = data.images[: len(data)], {}
    for name, severity in tqdm([*product(CORRUPTIONS, severities)], "corruptions", disable=not progress, leave=False):
        kept = CachedStates(cuts, LabelledImages(corrupt(clean, name, severity), data.labels, data.classes))
        rates = {label: float(kept.compare(edit).after.float().mean()) for label, edit in edits.items()}
        rows[name, severity] = {"before": float(kept.before.float().mean()), **rates}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["corruption", "severity"])
