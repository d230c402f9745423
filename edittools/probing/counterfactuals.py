"""Concepts of images, turned to other materials: one at a time, beside a control, or many at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from edittools.caching import digest_tensors
from edittools.checks import one_of
from edittools.exemplars import Exemplar, paste_texture
from edittools.images import LabelledImages

LEAST_AREA = 0.02
"""Concepts that cover less than this share of an image are not transformed."""


def control_mask(mask: Tensor, avoid: Tensor | None = None) -> Tensor | None:
    """Place a mask `(H, W)` of the area of `mask` where neither it nor `avoid` is; None where it does not fit.

    It is the mask turned over or moved by half an image; what is not free there goes to the nearest free pixels.
    """
    taken = mask.numpy() > 0
    blocked = taken if avoid is None else taken | (avoid.numpy() > 0)
    area = int(taken.sum())
    if (~blocked).sum() < area:
        return None
    half = [side // 2 for side in taken.shape]
    turned = (taken[::-1], taken[:, ::-1], taken[::-1, ::-1])
    moved = (np.roll(taken, half[0], 0), np.roll(taken, half[1], 1), np.roll(taken, half, (0, 1)))
    placed = max((version & ~blocked for version in (*turned, *moved)), key=np.sum)
    if not placed.any():  # nothing of the shape fits: start from the pixel that is furthest from what is blocked
        placed.flat[distance_transform_edt(~blocked).argmax()] = True
    order = np.argsort(np.where(blocked, np.inf, distance_transform_edt(~placed)), axis=None, kind="stable")
    placed = np.zeros(taken.size, bool)
    placed[order[:area]] = True
    return torch.from_numpy(placed.reshape(taken.shape)).float()


@dataclass(frozen=True)
class Concepts:
    """Images with the masks of their concepts, and the styles that a concept is turned to.

    `masks` are `(N, H, W)` of 0 and 1 by concept. `styles` are textures `(V, 3, h, w)` by name, such as `materials`: V
    variants each. `objects` names, by concept, the classes whose object it is, such as "jeep" for cars: controls in
    their images avoid it. `groups` are concepts that may stand in for each other, such as grounds: each is turned to
    the styles named as its group is, so to itself as well; without groups to every style.
    """

    data: LabelledImages
    masks: Mapping[str, Tensor]
    styles: Mapping[str, Tensor]
    objects: Mapping[str, Sequence[str]] = field(default_factory=dict)
    groups: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        fit = (len(self.data), *self.data.images[:1].shape[-2:])
        for concept, mask in self.masks.items():
            if tuple(mask.shape) != fit:
                raise ValueError(f"masks of {concept!r} of shape {tuple(mask.shape)}: expected {fit}, one an image")
        if not isinstance(self.styles, Mapping):
            raise TypeError(f"styles {self.styles!r}: expected textures (V, 3, h, w) by name, such as style_textures()")
        if not any(len(textures) for textures in self.styles.values()):
            raise ValueError(f"styles {self.styles!r}: expected at least one texture")
        for concept in chain.from_iterable(self.groups):
            one_of(concept, self.masks, "concept", KeyError)
            one_of(concept, self.styles, "style", KeyError)

    def digest(self) -> str:
        """Say what is here, by contents: finished work is known by it."""
        tensors = [*self.data.images, self.data.labels, *self.masks.values(), *self.styles.values()]
        names = f"{list(self.masks)} {list(self.styles)} {dict(self.objects)} {self.groups} {self.data.classes}"
        return f"{digest_tensors(tensors)[:12]} {names}"

    def subset(self, indices: Sequence[int]) -> "Concepts":
        """Keep the images at `indices`."""
        masks = {concept: mask[list(indices)] for concept, mask in self.masks.items()}
        return replace(self, data=self.data.subset(indices), masks=masks)

    def parted(self, concept: str, style: str) -> "tuple[Concepts, Concepts]":
        """Keep one concept, and of a style half of the variants, to choose an edit, and the other half, to report."""
        one_of(concept, self.masks, "concept", KeyError)
        one_of(style, self.styles, "style", KeyError)
        control = {concept: self.styles[concept]} if concept in self.styles else {}  # in place, whole in both halves
        first, second = self.styles[style].tensor_split([(len(self.styles[style]) + 1) // 2])
        one = replace(self, masks={concept: self.masks[concept]}, groups=())
        return replace(one, styles={**control, style: first}), replace(one, styles={**control, style: second})

    def turned(self, numbers: Sequence[int], concept: str, style: str, variants: int = 1) -> LabelledImages:
        """Turn a concept of the images `numbers` to a style, each in so many of its variants, in rotation."""
        textures = self.styles[style]
        places = [(i, (i + v) % len(textures)) for i in numbers for v in range(variants)]
        pictures = [paste_texture(self.data.images[i], self.masks[concept][i], textures[v]) for i, v in places]
        return replace(self.data.subset([i for i, _ in places]), images=torch.stack(pictures))

    def textures(self, number: int = 0, per_image: int | None = None) -> list[tuple[str, int]]:
        """List textures (style, variant) for image `number`: all, or `per_image` variants of each style in rotation."""
        counts = {style: len(variants) for style, variants in self.styles.items()}
        pairs = [(style, variant) for style, count in counts.items() for variant in range(count)]
        return [(s, v) for s, v in pairs if per_image is None or (v - number) % counts[s] < per_image]

    def counterfactual(
        self, index: int, concept: str, textures: Sequence[tuple[str, int]], control: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Transform a concept of one image in textures given as (style, variant), and the same area elsewhere.

        Returns both as `(S, 3, H, W)`, the second None where it does not fit or no `control` is wanted.
        """
        mask = self.masks[concept][index]
        name = self.data.classes[int(self.data.labels[index])]
        avoided = [self.masks[c][index] for c in self.masks if c != concept and name in self.objects.get(c, ())]
        chosen = torch.stack([self.styles[style][variant] for style, variant in textures])
        image = self.data.images[index]
        elsewhere = control_mask(mask, sum(avoided).clamp(max=1) if avoided else None) if control else None
        beside = None if elsewhere is None else paste_texture(image, elsewhere, chosen)
        return paste_texture(image, mask, chosen), beside

    def exemplar(self, rule: Mapping[str, Any], variant: int = 0, place: int = 0) -> Exemplar:
        """Make an exemplar of a row of `rules`: x is its `evidence` at `place`, x' that in a variant of its `style`."""
        evidence, concept = rule["evidence"], rule["concept"]
        style = one_of(rule["style"], self.styles, "style", KeyError)
        if place not in range(len(evidence)):
            said = f"rule {rule['class']!r} on {concept!r} has {len(evidence)} images as evidence"
            raise ValueError(f"{said}, none at place {place}: expected one that was read rightly before")
        number = evidence[place]
        changed, _ = self.counterfactual(number, concept, [(style, variant)], control=False)
        label = list(self.data.classes).index(rule["class"])
        return Exemplar(self.data.images[number], changed[0], self.masks[concept][number], label)


def materials(data: LabelledImages, masks: Mapping[str, Tensor], variants: int = 2) -> dict[str, Tensor]:
    """Cut textures `(variants, 3, H, W)` by concept from the images where each covers most.

    Beyond the concept's mask each is continued by the nearest pixels. Concepts seen in fewer images give none.
    """
    found = {}
    for concept, mask in masks.items():
        areas = mask.flatten(1).mean(dim=1)
        if int((areas > 0).sum()) >= variants:
            chosen = areas.argsort(descending=True, stable=True)[:variants].tolist()
            found[concept] = torch.stack([_continued(data.images[i], mask[i]) for i in chosen])
    return found


def with_materials(
    data: LabelledImages, masks: Mapping[str, Tensor], giving: Sequence[str] = (), variants: int = 2, **options: Any
) -> Concepts:
    """Make concepts to probe, whose styles are materials cut from the images themselves.

    Of each concept `giving` one (default: all) so many images, those that show most of it, give the materials and are
    not probed. `options` are other fields of `Concepts`. Raises `ValueError` where no image is left to probe, and
    where no concept is seen often enough.
    """
    for name, mask in masks.items():
        if len(mask) != len(data):
            raise ValueError(f"{len(mask)} masks of {name!r} for {len(data)} images: expected one an image")
    most = (masks[c].flatten(1).mean(dim=1).argsort(descending=True, stable=True) for c in giving or masks)
    donors = sorted({i for order in most for i in order[:variants].tolist()})
    probed = sorted(set(range(len(data))) - set(donors))
    if not probed:
        raise ValueError(f"all {len(data)} images give a material: expected more images, or fewer variants")
    some, given = ({name: mask[numbers] for name, mask in masks.items()} for numbers in (probed, donors))
    styles = materials(data.subset(donors), given, variants)
    if not styles:
        seen = ", ".join(masks) or "nothing"
        raise ValueError(f"{seen} seen in {len(data)} images: expected a concept in {variants} of them, as materials")
    return Concepts(data.subset(probed), some, styles, **options)


def _continued(image: Tensor, mask: Tensor) -> Tensor:
    _, (rows, columns) = distance_transform_edt(mask.numpy() == 0, return_indices=True)
    return image[:, torch.from_numpy(rows), torch.from_numpy(columns)]
