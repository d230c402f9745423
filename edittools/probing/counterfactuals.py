"""One counterfactual: a concept of an image is transformed, beside a control of the same size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, check_mask
from edittools.pasting import paste_texture

LEAST_AREA = 0.02
"""Concepts that cover less than this share of an image are not transformed."""


def control_mask(mask: Tensor, avoid: Tensor | None = None) -> Tensor | None:
    """A mask `(H, W)` of the shape and area of `mask` where neither it nor `avoid` is; None where it does not fit.

    Of the mask turned over or moved by half an image the version with most free pixels is taken; what falls on the
    mask or on `avoid` goes to the nearest free pixels instead.
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


def turned(data: LabelledImages, masks: Tensor, textures: Sequence[Tensor]) -> LabelledImages:
    """Turn what `masks` `(N, H, W)` cover to a material, image i to `textures[i]` `(3, h, w)`; labels stay."""
    pictures = [paste_texture(data.images[i], masks[i], texture) for i, texture in enumerate(textures)]
    return replace(data, images=torch.stack(pictures))


@dataclass(frozen=True)
class Counterfactual:
    """An image with the concept under a `mask` `(H, W)` transformed, and the same area elsewhere, in several textures.

    `changed` and `control` are `(S, 3, H, W)`; `control` is None when none is wanted or the area does not fit there.
    """

    changed: Tensor
    mask: Tensor
    control: Tensor | None


@dataclass(frozen=True)
class Concepts:
    """Images with the masks of their concepts, and the styles that a concept is turned to.

    `masks` are `(N, H, W)` of 0 and 1 by concept, all zero where it is not seen. `styles` are textures `(V, 3, h, w)`
    by name, such as `world.style_textures()` or `materials`: V variants each. `objects` names, by concept, the classes
    whose object it is, such as "jeep" for cars: controls in their images avoid it. Raises `ValueError` when masks do
    not fit the images or there is no texture, `TypeError` for styles that are no textures.
    """

    data: LabelledImages
    masks: Mapping[str, Tensor]
    styles: Mapping[str, Tensor]
    objects: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fit = (len(self.data), *self.data.images[:1].shape[-2:])
        for concept, mask in self.masks.items():
            if tuple(mask.shape) != fit:
                raise ValueError(f"masks of {concept!r} of shape {tuple(mask.shape)}: expected {fit}, one an image")
        if not isinstance(self.styles, Mapping):
            raise TypeError(f"styles {self.styles!r}: expected textures (V, 3, h, w) by name, such as style_textures()")
        if not any(len(textures) for textures in self.styles.values()):
            raise ValueError(f"styles {self.styles!r}: expected at least one texture")

    def subset(self, indices: Sequence[int]) -> "Concepts":
        """The images at `indices`."""
        masks = {concept: mask[list(indices)] for concept, mask in self.masks.items()}
        return replace(self, data=self.data.subset(indices), masks=masks)

    def is_object(self, concept: str, name: str) -> bool:
        """Say whether `concept` is the object of the class `name`."""
        return name in self.objects.get(concept, ())

    def textures(
        self, number: int = 0, per_image: int | None = None, only: Sequence[str] | None = None
    ) -> list[tuple[str, int]]:
        """The textures (style, variant) of image `number`: all, or `per_image` variants of each style in rotation."""
        counts = {style: len(variants) for style, variants in self.styles.items() if only is None or style in only}
        pairs = [(style, variant) for style, count in counts.items() for variant in range(count)]
        return [(s, v) for s, v in pairs if per_image is None or (v - number) % counts[s] < per_image]

    def counterfactual(
        self, index: int, concept: str, textures: Sequence[tuple[str, int]] | None = None, control: bool = True
    ) -> Counterfactual:
        """Transform a concept of one image, in all textures or in those given as (style, variant)."""
        mask = check_mask(self.masks[concept][index])
        name = self.data.classes[int(self.data.labels[index])]
        avoided = [self.masks[c][index] for c in self.masks if c != concept and self.is_object(c, name)]
        chosen = torch.stack([self.styles[style][variant] for style, variant in textures or self.textures()])
        image = self.data.images[index]
        elsewhere = control_mask(mask, sum(avoided).clamp(max=1) if avoided else None) if control else None
        beside = None if elsewhere is None else paste_texture(image, elsewhere, chosen)
        return Counterfactual(paste_texture(image, mask, chosen), mask, beside)

    def exemplar(self, rule: pd.Series, variant: int = 0, place: int = 0) -> Exemplar:
        """The exemplar that `rewrite` needs to weaken a row of `rules`: the changed concept shall be read as it was.

        x is the image of the rule's `evidence` at `place`, x' the same with the concept turned to a variant of the
        rule's `style`. Raises `ValueError` for evidence that the rule has not or a variant that the style has not,
        `KeyError` for a style that is not among these.
        """
        evidence, style = rule["evidence"], rule["style"]
        if place not in range(len(evidence)):
            raise ValueError(
                f"rule {rule['class']!r} on {rule['concept']!r} has {len(evidence)} images as evidence, none at place "
                f"{place!r}: expected one that was read rightly before, see the column 'evidence' of the rules"
            )
        if style not in self.styles:
            raise KeyError(f"no style {style!r} in {', '.join(self.styles)}: expected a rule of the same probe")
        if variant not in range(len(self.styles[style])):
            raise ValueError(f"variant {variant!r} of style {style!r}: expected 0 to {len(self.styles[style]) - 1}")
        case = self.counterfactual(evidence[place], rule["concept"], [(style, variant)], control=False)
        label = list(self.data.classes).index(rule["class"])
        return Exemplar(self.data.images[evidence[place]], case.changed[0], case.mask, label)


def materials(
    data: LabelledImages, masks: Mapping[str, Tensor], concepts: Sequence[str], variants: int = 2
) -> dict[str, Tensor]:
    """Textures `(variants, 3, H, W)` by concept, cut from the images where each concept covers most.

    Beyond the concept's mask each is continued by the nearest pixels. A concept that is turned to such a material stays
    a thing that the classifier knows, which a fancy style is not. Raises `ValueError` for a concept that is seen in
    fewer images.
    """
    found = {}
    for concept in concepts:
        areas = masks[concept].flatten(1).mean(dim=1)
        if int((areas > 0).sum()) < variants:
            raise ValueError(f"{concept!r} is seen in {int((areas > 0).sum())} images: expected at least {variants}")
        chosen = areas.argsort(descending=True, stable=True)[:variants].tolist()
        found[concept] = torch.stack([_continued(data.images[i], masks[concept][i]) for i in chosen])
    return found


def _continued(image: Tensor, mask: Tensor) -> Tensor:
    _, (rows, columns) = distance_transform_edt(mask.numpy() == 0, return_indices=True)
    return image[:, torch.from_numpy(rows), torch.from_numpy(columns)]
