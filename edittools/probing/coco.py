"""Masks in COCO's formats: polygons and run lengths."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edittools._checks import extra


def decode_segmentation(segmentation: Any, shape: tuple[int, int]) -> Tensor:
    """Decode the segmentation of a COCO annotation.

    Args:
        segmentation: a list of polygons, or run lengths, compressed or not.
        shape: height and width of the image, in pixels.

    Returns:
        The mask `(H, W)` of 0 and 1.

    Raises:
        ModuleNotFoundError: if pycocotools is not installed.
        ValueError: if it is neither, or of another size.
    """
    with extra("probing", "notebooks"):
        from pycocotools import mask as coco
    try:
        if not isinstance(segmentation, Mapping) or isinstance(segmentation["counts"], list):
            segmentation = coco.frPyObjects(segmentation, *shape)
        if isinstance(segmentation, list):
            segmentation = coco.merge(segmentation)
        mask = coco.decode(segmentation)
    except Exception as error:  # pycocotools fails in any way
        raise ValueError(
            f"segmentation {str(segmentation)[:60]!r}… is not a COCO mask; pass run lengths {{'size': …, 'counts': …}} "
            "or polygons"
        ) from error
    if mask.shape != shape:
        raise ValueError(f"segmentation of size {list(mask.shape)} does not fit the image; pass one of {list(shape)}")
    return torch.from_numpy(np.ascontiguousarray(mask)).float()
