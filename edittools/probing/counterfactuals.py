"""Transform concepts of images to other materials: one concept at a time, the same area elsewhere as a control.

A *concept* is something that images show and that masks mark, such as the road. A *material* is a named set of textures
to which concepts are transformed, such as snow: cut from the images, or rendered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from edittools._checks import one_of
from edittools.exemplars import Exemplar, paste_texture
from edittools.images import LabeledImages

Transform = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function of an image `(3, H, W)`, a mask `(H, W)` and a texture `(3, h, w)`, or several `(S, 3, h, w)`.

It returns the image with what the mask covers transformed to the texture, or to each of several.
"""

LEAST_AREA = 0.02
"""Concepts that cover a smaller share of an image are not transformed."""


def control_mask(mask: Tensor, avoid: Tensor | None = None) -> Tensor | None:
    """Make the mask of a control: the same area as a concept, elsewhere in the image.

    It is one of the mirror images of the mask or its shifts by half an image, the one with the most free pixels. Pixels
    that are not free are moved to the nearest free ones.

    Args:
        avoid: mask `(H, W)` of other pixels that the control must not cover.

    Returns:
        The mask of the control, `(H, W)`, of the same area as `mask`; None if fewer pixels are free.
    """
    concept = mask.numpy() > 0
    blocked = concept if avoid is None else concept | (avoid.numpy() > 0)
    area = int(concept.sum())
    if (~blocked).sum() < area:
        return None
    placed = _best_placement(concept, blocked)
    if not placed.any():  # nothing of the shape fits: start from the pixel that is furthest from what is blocked
        placed.flat[distance_transform_edt(~blocked).argmax()] = True
    distance = np.where(blocked, np.inf, distance_transform_edt(~placed))
    nearest = np.argsort(distance, axis=None, kind="stable")
    control = np.zeros(concept.size, bool)
    control[nearest[:area]] = True
    return torch.from_numpy(control.reshape(concept.shape)).float()


def _best_placement(concept: NDArray, blocked: NDArray) -> NDArray:
    """Return the free pixels of the mirror image or shift of `concept` that has the most of them."""
    half_height = concept.shape[0] // 2
    half_width = concept.shape[1] // 2
    candidates = (
        concept[::-1],
        concept[:, ::-1],
        concept[::-1, ::-1],
        np.roll(concept, half_height, 0),
        np.roll(concept, half_width, 1),
        np.roll(concept, (half_height, half_width), (0, 1)),
    )
    return max((candidate & ~blocked for candidate in candidates), key=np.sum)


@dataclass(frozen=True, eq=False)
class Concepts:
    """Images, masks of their concepts, and the materials to which concepts are transformed.

    Args:
        data: N labeled images.
        masks: masks `(N, H, W)` of 0 and 1, by the name of the concept.
        materials: textures `(V, 3, h, w)`, V variants of each material, by the name of the material.
        objects: for each concept, the classes whose object it is, such as "jeep" for the concept "car". Controls in
            images of these classes do not cover the concept.
        groups: groups of concepts that can replace each other, such as grounds. Each concept of a group is transformed
            to the materials that have the names of the group's concepts, its own included. Without groups, each concept
            is transformed to every material.
        transform: the function that transforms concepts: `paste_texture` covers the concept with the texture;
            the `StyleTransfer` of the course changes its style.
        cut_variants: for each material, the number of the variant that was cut from each image, `(N,)`, -1 if none
            was. An image is not transformed to its own texture.

    Raises:
        ValueError: if the masks do not fit the images, or if there is no texture.
        TypeError: if `materials` is not a mapping.
        KeyError: if a concept of a group has no masks or no material.
    """

    data: LabeledImages
    masks: Mapping[str, Tensor]
    materials: Mapping[str, Tensor]
    objects: Mapping[str, Sequence[str]] = field(default_factory=dict)
    groups: Sequence[Sequence[str]] = ()
    transform: Transform = field(default=paste_texture, repr=False)
    cut_variants: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        expected = (len(self.data), *self.data.images[:1].shape[-2:])
        for concept, masks in self.masks.items():
            if tuple(masks.shape) != expected:
                raise ValueError(
                    f"the masks of {concept!r} have shape {tuple(masks.shape)}, but the images need {expected}; "
                    "pass one mask per image, of the size of the images"
                )
        if not isinstance(self.materials, Mapping):
            raise TypeError(
                f"materials={self.materials!r} is not a mapping; pass textures (V, 3, h, w) by name, such as "
                "style_textures()"
            )
        if not any(len(textures) for textures in self.materials.values()):
            raise ValueError(f"materials={self.materials!r} holds no texture; pass at least one")
        for concept in chain.from_iterable(self.groups):
            one_of(concept, self.masks, "concept", KeyError)
            one_of(concept, self.materials, "material", KeyError)

    def subset(self, indices: Sequence[int]) -> "Concepts":
        """Select the images at `indices`."""
        masks = {concept: mask[list(indices)] for concept, mask in self.masks.items()}
        cut_variants = {material: variants[list(indices)] for material, variants in self.cut_variants.items()}
        return replace(self, data=self.data.subset(indices), masks=masks, cut_variants=cut_variants)

    def turned(self, numbers: Sequence[int], concept: str, material: str, variants: int = 1) -> LabeledImages:
        """Transform a concept of several images to a material.

        Args:
            numbers: the numbers of the images.
            concept: the concept to transform.
            material: the material to transform it to.
            variants: number of variants of the material that are used for each image, in rotation: image i starts with
                variant i. The image's own texture is skipped.

        Returns:
            The transformed images with their labels, `variants` of them for each number.
        """
        textures = self.materials[material]
        sources = []
        transformed = []
        for number in numbers:
            image = self.data.images[number]
            mask = self.masks[concept][number]
            for variant in self._rotated(material, number, number)[:variants]:
                sources.append(number)
                transformed.append(self.transform(image, mask, textures[variant]))
        return replace(self.data.subset(sources), images=torch.stack(transformed))

    def textures(self, number: int = 0, per_image: int | None = None) -> list[tuple[str, int]]:
        """List the textures to which the concepts of an image are transformed, as pairs (material, variant).

        Args:
            number: the number of the image.
            per_image: number of variants of each material; None lists all variants. They are used in rotation, class by
                class, so that as many images of a class as possible have textures that no other image of it has.
        """
        start = int(self._places[number]) * (per_image or 0)
        listed = []
        for material in self.materials:
            listed += [(material, variant) for variant in sorted(self._rotated(material, number, start)[:per_image])]
        return listed

    @cached_property
    def _places(self) -> Tensor:
        """The place of each image, `(N,)`, if the images are sorted by their class."""
        return self.data.labels.argsort(stable=True).argsort()

    def _rotated(self, material: str, number: int, start: int) -> list[int]:
        """Return the variants of a material in rotation from `start` on, without the one that is cut from the image."""
        count = len(self.materials[material])
        cut = int(self.cut_variants[material][number]) if material in self.cut_variants else -1
        return [(start + step) % count for step in range(count) if (start + step) % count != cut]

    def counterfactual(
        self, index: int, concept: str, textures: Sequence[tuple[str, int]], control: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Transform a concept of one image to several textures, and the same area elsewhere as a control.

        Args:
            index: the number of the image.
            concept: the concept to transform.
            textures: S textures, as pairs (material, variant).
            control: whether to make the controls as well.

        Returns:
            The images with the transformed concept and the controls, both `(S, 3, H, W)`. The controls are None if
            `control` is False, or if there is no room for the area elsewhere.
        """
        image = self.data.images[index]
        mask = self.masks[concept][index]
        selected = torch.stack([self.materials[material][variant] for material, variant in textures])
        controlled = None
        if control:
            placed = control_mask(mask, self._objects_of(index, concept))
            if placed is not None:
                controlled = self.transform(image, placed, selected)
        return self.transform(image, mask, selected), controlled

    def _objects_of(self, index: int, concept: str) -> Tensor | None:
        """Return the mask `(H, W)` of the concepts, other than `concept`, that are the object of the image's class."""
        class_name = self.data.classes[int(self.data.labels[index])]
        object_masks = []
        for other, masks in self.masks.items():
            if other != concept and class_name in self.objects.get(other, ()):
                object_masks.append(masks[index])
        return sum(object_masks).clamp(max=1) if object_masks else None

    def exemplar(self, rule: Mapping[str, Any] | pd.DataFrame, variant: int = 0, place: int = 0) -> Exemplar:
        """Make an exemplar of a rule that `Probe.rules` lists; its label is the class of the rule.

        Args:
            rule: a row of the table of rules; or the table, whose first rule is used.
            variant: number of the variant of the rule's material to which the concept is transformed in x'.
            place: place of x in the rule's evidence, counted from 0.

        Returns:
            The exemplar.

        Raises:
            KeyError: if the rule's material is not among the materials.
            ValueError: if the table has no rule, or if the evidence has no image at `place`.
        """
        if isinstance(rule, pd.DataFrame):
            if rule.empty:
                raise ValueError(
                    "the table has 0 rules, so there is no exemplar to make; probe more images, or list suspicions, "
                    "which pass no test, by probe.rules(fdr=1, least_effect=0)"
                )
            rule = rule.iloc[0]
        evidence = rule["evidence"]
        concept = rule["concept"]
        material = one_of(rule["material"], self.materials, "material", KeyError)
        if place not in range(len(evidence)):
            raise ValueError(
                f"rule {rule['class']!r} on {concept!r} has {len(evidence)} images as evidence, none at place {place}; "
                "pass a lower place, or a rule with more correctly classified images"
            )
        number = evidence[place]
        changed, _ = self.counterfactual(number, concept, [(material, variant)], control=False)
        label = list(self.data.classes).index(rule["class"])
        return Exemplar(self.data.images[number], changed[0], self.masks[concept][number], label)


def shows(masks: Tensor) -> Tensor:
    """Return which masks `(N, H, W)` cover at least `LEAST_AREA` of their image, `(N,)` booleans."""
    return masks.mean(dim=(1, 2)) >= LEAST_AREA
