"""Tensors as the pixels, files and texts that widgets show, and the picture that a saved notebook keeps of a widget."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from edittools.images import check_image


class Pictured:
    """Keep a picture of a widget, its `figure()`, in the saved notebook, for viewers that run no widgets."""

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict]:
        bundle, file = super()._repr_mimebundle_(**kwargs), io.BytesIO()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        self.figure().savefig(file, format="png", bbox_inches="tight")
        return data | {"image/png": base64.b64encode(file.getvalue()).decode()}, metadata


def to_pixels(image: Tensor, name: str = "image") -> NDArray[np.uint8]:
    """Turn a `(3, H, W)` image in [0, 1] into `(H, W, 3)` 8-bit pixels."""
    return (check_image(image, name).detach().cpu().permute(1, 2, 0) * 255).round().byte().numpy()


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """Write `(H, W, 3)` 8-bit pixels as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def plain_text(text: str) -> str:
    """Keep a label from reading dollar signs as mathematics."""
    return text.replace("$", r"\$")
