"""The paper's style pictures as styles of a suite, beside the drawn textures (tier lite)."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from edittools.world import textures
from edittools.zoo.downloads import photo

PICTURES = {
    "graffiti (picture)": "graffiti",
    "snow (picture)": "snowy_ground",
    "floral (picture)": "colorful_flowers",
    "black and white (picture)": "black_and_white",
}
"""The paper's sets of style pictures by the name of the style; the drawn style has the name without "(picture)"."""


def material(style: str, variant: int = 0, size: int = 224) -> Tensor:
    """What a style looks like, `(3, size, size)` in [0, 1]: one of the paper's pictures, or a drawn texture.

    A set has five pictures, so the last two of a style's six variants share one. Raises as `textures.texture` does for
    an unknown style or variant, and `FileNotFoundError` for pictures that cannot be had.
    """
    if style not in PICTURES:
        return textures.texture(style, variant, size)
    if not 0 <= variant < textures.VARIANTS:
        raise ValueError(f"variant {variant} of style {style!r}: expected 0 to {textures.VARIANTS - 1}")
    pictures = _pictures(PICTURES[style], size)
    return pictures[min(variant, len(pictures) - 1)].clone()


@lru_cache(maxsize=8)
def _pictures(name: str, size: int) -> Tensor:
    found = torch.load(photo(f"editing-classifiers/styles/{name}.pt"), weights_only=True, map_location="cpu")["imgs"]
    return interpolate(found.float(), (size, size), mode="bilinear", antialias=True).clamp(0, 1)
