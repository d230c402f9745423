"""Materials to probe with that are cut from the images themselves."""

from collections.abc import Mapping, Sequence

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from edittools.images import LabeledImages
from edittools.probing.counterfactuals import LEAST_AREA, Concepts

MOST_TEXTURES = 100
"""The largest number of textures of a concept that `with_materials` cuts."""


def cut_textures(data: LabeledImages, masks: Tensor, count: int) -> tuple[Tensor, list[int]]:
    """Cut textures of a concept from the images in which it covers the largest areas, one from each.

    Outside of the concept's mask, a texture is filled with the nearest pixels inside.

    Args:
        data: N images.
        masks: the masks of the concept, `(N, H, W)`.
        count: number of textures; at least this number of images show the concept.

    Returns:
        The textures `(count, 3, H, W)`, the one with the largest area first, and the numbers of their images.
    """
    areas = masks.flatten(1).mean(dim=1)
    donors = areas.argsort(descending=True, stable=True)[:count].tolist()
    textures = torch.stack([_continued(data.images[number], masks[number]) for number in donors])
    return textures, donors


def with_materials(
    data: LabeledImages,
    masks: Mapping[str, Tensor],
    giving: Sequence[str] = (),
    objects: Mapping[str, Sequence[str]] | None = None,
    groups: Sequence[Sequence[str]] = (),
) -> Concepts:
    """Make `Concepts` to probe whose materials are cut from the images themselves.

    For each concept, at most `MOST_TEXTURES` textures are cut, each from another image: those in which it covers the
    largest areas, and at least the share `LEAST_AREA`. No image is transformed to its own texture.

    Args:
        data: N images.
        masks: masks `(N, H, W)`, by concept.
        giving: concepts from which materials are cut; by default all. Those that a single image shows give none.
        objects: see `Concepts`.
        groups: see `Concepts`.

    Returns:
        The images with their masks, and the materials.

    Raises:
        ValueError: if the masks do not fit the images, or if too few images show a concept.
    """
    for concept, concept_masks in masks.items():
        if len(concept_masks) != len(data):
            raise ValueError(
                f"there are {len(concept_masks)} masks of {concept!r} for {len(data)} images; pass one mask per image"
            )
    materials = {}
    cut_variants = {}
    for concept in giving or masks:
        shown = int((masks[concept].flatten(1).mean(dim=1) >= LEAST_AREA).sum())
        if shown > 1:
            materials[concept], donors = cut_textures(data, masks[concept], min(shown, MOST_TEXTURES))
            cut_variants[concept] = torch.full((len(data),), -1)
            cut_variants[concept][donors] = torch.arange(len(donors))
    if not materials:
        raise ValueError(
            f"none of the concepts ({', '.join(masks) or 'no concept'}) covers {LEAST_AREA:.0%} or more of 2 of the "
            f"{len(data)} images; pass images that show one"
        )
    return Concepts(data, masks, materials, objects or {}, groups, cut_variants=cut_variants)


def _continued(image: Tensor, mask: Tensor) -> Tensor:
    """Fill the pixels of an image outside a mask with the nearest ones inside."""
    _, (rows, columns) = distance_transform_edt(mask.numpy() == 0, return_indices=True)
    return image[:, torch.from_numpy(rows), torch.from_numpy(columns)]
