"""Pictures of a report: images as data URIs, and edit maps laid over them."""

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edittools.images import resized

SMALL = 96
"""Images at most this many pixels wide are encoded as PNG, which is exact; larger ones as JPEG."""

GLOW = ((0.0, (0, 0, 4)), (0.25, (87, 16, 110)), (0.5, (188, 55, 84)), (0.75, (249, 142, 9)), (1.0, (252, 255, 164)))
"""Colors of an edit map, from dark for 0 to bright for the largest strength: pairs of a strength and a color."""


def data_uri(image: Tensor, side: int = 160) -> str:
    """Encode a square image as a data URI.

    Args:
        image: `(3, S, S)` in [0, 1].
        side: the side of the encoded image, in pixels; only larger images are resized.
    """
    image = image.detach().float().cpu().clamp(0, 1)
    if image.shape[-1] > side:
        image = resized(image[None], side)[0]
    pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    picture = Image.fromarray(pixels)
    file = io.BytesIO()
    if picture.width <= SMALL:
        picture.save(file, format="PNG", optimize=True)
        kind = "png"
    else:
        picture.save(file, format="JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def shade(image: Tensor, strength: Tensor) -> Tensor:
    """Lay an edit map over the gray version of an image.

    Args:
        image: `(3, H, W)` in [0, 1].
        strength: the map, `(H, W)`; 0 is dark, and 1 and above are brightest.

    Returns:
        The colored image, `(3, H, W)` in [0, 1].
    """
    level = strength.detach().float().cpu().clamp(0, 1).numpy()
    stops = [stop for stop, _ in GLOW]
    channels = [np.interp(level, stops, [color[i] / 255 for _, color in GLOW]) for i in range(3)]
    glow = torch.from_numpy(np.stack(channels)).float()
    gray = image.detach().float().cpu().mean(dim=0, keepdim=True).expand(3, -1, -1)
    return (0.35 * gray + 0.75 * glow).clamp(0, 1)
