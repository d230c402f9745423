"""One counterfactual: a concept of an image is transformed, beside a control of the same size."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, check_mask
from edittools.pasting import paste_texture

Own = Mapping[str, Sequence[str]]
Styles = Mapping[str, Tensor]

LEAST_AREA = 0.02
"""Concepts that cover less than this share of an image are not transformed."""


def control_mask(mask: Tensor, avoid: Tensor | None = None) -> Tensor | None:
    """Place the shape of `mask` where neither it nor `avoid` is: a mask `(H, W)` of the same area, or None if too big.

    Of the mask turned over or moved by half an image the version with most free pixels is taken; what falls on the
    mask or on `avoid` goes to the nearest free pixels instead.
    """
    taken = mask.numpy() > 0
    blocked = taken if avoid is None else taken | (avoid.numpy() > 0)
    area = int(taken.sum())
    if (~blocked).sum() < area:
        return None
    placed = max((version & ~blocked for version in _versions(taken)), key=np.sum)
    if not placed.any():  # nothing of the shape fits: start from the pixel that is furthest from what is blocked
        placed.flat[distance_transform_edt(~blocked).argmax()] = True
    order = np.argsort(np.where(blocked, np.inf, distance_transform_edt(~placed)), axis=None, kind="stable")
    placed = np.zeros(taken.size, bool)
    placed[order[:area]] = True
    return torch.from_numpy(placed.reshape(taken.shape)).float()


def _versions(mask: NDArray[np.bool_]) -> Iterable[NDArray[np.bool_]]:
    half = [side // 2 for side in mask.shape]
    yield from (mask[::-1], mask[:, ::-1], mask[::-1, ::-1])
    yield from (np.roll(mask, half[0], 0), np.roll(mask, half[1], 1), np.roll(mask, half, (0, 1)))


@dataclass(frozen=True)
class Counterfactual:
    """An image with a concept transformed, and the same area elsewhere, each in several textures.

    `changed` and `control` are `(S, 3, H, W)`, `mask` and `elsewhere` `(H, W)` say where; `control` and `elsewhere` are
    None when no control is wanted or the same area does not fit elsewhere.
    """

    changed: Tensor
    mask: Tensor
    control: Tensor | None
    elsewhere: Tensor | None


@dataclass(frozen=True)
class Concepts:
    """Images with the masks of their concepts, and the textures that the concepts are turned to.

    `masks` are `(N, H, W)` of 0 and 1 by concept, all zero where it is not seen. `own` names, by concept, the classes
    whose own object it is: their images' controls avoid it. `styles` are
    textures `(V, 3, h, w)` by name, such as `world.style_textures()`. Raises `ValueError` when masks do not fit the
    images, `TypeError` for styles that are no textures.
    """

    data: LabelledImages
    masks: Mapping[str, Tensor]
    own: Own
    textures: Mapping[tuple[str, int], Tensor]

    @classmethod
    def of(
        cls,
        data: LabelledImages,
        masks: Mapping[str, Tensor],
        styles: Styles,
        own: Own | None = None,
    ) -> "Concepts":
        """Check the masks and make the textures."""
        size = tuple(data.images[:1].shape[-2:])
        for concept, mask in masks.items():
            if tuple(mask.shape) != (len(data), *size):
                raise ValueError(
                    f"masks of {concept!r} of shape {tuple(mask.shape)}: expected {(len(data), *size)}, one an image"
                )
        if not isinstance(styles, Mapping):
            raise TypeError(f"styles {styles!r}: expected textures (V, 3, h, w) by name, such as style_textures()")
        made = {(style, v): pictures[v] for style, pictures in styles.items() for v in range(len(pictures))}
        if not made:
            raise ValueError(f"styles {styles!r}: expected at least one texture")
        return cls(data, masks, own or {}, made)

    def subset(self, indices: Sequence[int]) -> "Concepts":
        """Keep the images at `indices`."""
        masks = {concept: mask[list(indices)] for concept, mask in self.masks.items()}
        return Concepts(self.data.subset(indices), masks, self.own, self.textures)

    def owns(self, concept: str, name: str) -> bool:
        """Say whether `concept` is the own object of the class `name`."""
        return name in self.own.get(concept, ())

    def keys(self, number: int, looks: int | None) -> list[tuple[str, int]]:
        """The textures (style, variant) of image `number`: all, or `looks` variants of each style in rotation."""
        counts = pd.Series([style for style, _ in self.textures]).value_counts()
        return [
            (style, variant)
            for style, variant in self.textures
            if looks is None or (variant - number) % counts[style] < looks
        ]

    def counterfactual(
        self, index: int, concept: str, keys: Sequence[tuple[str, int]] | None = None, control: bool = True
    ) -> Counterfactual:
        """Transform a concept of one image, in all textures or in those of the `keys` (style, variant)."""
        mask = check_mask(self.masks[concept][index])
        name = self.data.classes[int(self.data.labels[index])]
        mine = [other for other in self.masks if other != concept and self.owns(other, name)]
        avoid = sum(self.masks[other][index] for other in mine).clamp(max=1) if mine else None
        textures = torch.stack([self.textures[key] for key in keys or self.textures])
        image, elsewhere = self.data.images[index], control_mask(mask, avoid) if control else None
        beside = None if elsewhere is None else paste_texture(image, elsewhere, textures)
        return Counterfactual(paste_texture(image, mask, textures), mask, beside, elsewhere)

    def views(self, table: pd.DataFrame, row: pd.Series) -> "list[View]":
        """Show one row of a probe: the original, the concept transformed, and the control.

        The control is the one elsewhere; where there is none, the one in place (the concept turned to another look of
        itself, if the table has it); where there is neither, two views come back.
        """
        index, concept, key = int(row["image"]), row["concept"], (row["style"], int(row["variant"]))
        has_control = pd.notna(row["p_control"])
        case = self.counterfactual(index, concept, [key], has_control)
        found = [
            View("original", self.data.images[index], row["before"], row["p_before"]),
            View(f"{concept} → {row['style']}", case.changed[0], row["after"], row["p_after"]),
        ]
        if has_control:
            return [*found, View(f"elsewhere → {row['style']}", case.control[0], row["control"], row["p_control"])]
        same = ["classifier", "image", "class", "concept"]
        itself = table[(table[same] == row[same]).all(axis=1) & (table["style"] == concept)]
        for _, other in itself.head(1).iterrows():
            picture = self.counterfactual(index, concept, [(concept, int(other["variant"]))], False).changed[0]
            found.append(View(f"another {concept}", picture, other["after"], other["p_after"]))
        return found


def materials(
    data: LabelledImages, masks: Mapping[str, Tensor], concepts: Sequence[str], count: int = 2
) -> dict[str, Tensor]:
    """Cut textures from images: how each concept looks in the `count` images where it covers most.

    Gives `(count, 3, H, W)` by concept; beyond the concept's mask each is continued by the nearest pixels. A concept
    that is turned to such a material stays a thing that the classifier knows, which a fancy style is not. Raises
    `ValueError` for a concept that is seen in fewer images.
    """
    found = {}
    for concept in concepts:
        areas = masks[concept].flatten(1).mean(dim=1)
        if int((areas > 0).sum()) < count:
            raise ValueError(f"{concept!r} is seen in {int((areas > 0).sum())} images: expected at least {count}")
        chosen = areas.argsort(descending=True, stable=True)[:count].tolist()
        found[concept] = torch.stack([_continued(data.images[i], masks[concept][i]) for i in chosen])
    return found


def _continued(image: Tensor, mask: Tensor) -> Tensor:
    _, (rows, columns) = distance_transform_edt(mask.numpy() == 0, return_indices=True)
    return image[:, torch.from_numpy(rows), torch.from_numpy(columns)]


@dataclass(frozen=True)
class View:
    """A picture `(3, H, W)` of a probe: what it is, what it is read as, and the probability of the right class."""

    title: str
    image: Tensor
    read: str
    chance: float


def exemplar_for(
    rule: pd.Series,
    data: LabelledImages,
    masks: Mapping[str, Tensor],
    styles: Styles,
    variant: int = 0,
    rank: int = 0,
) -> Exemplar:
    """Turn a row of `rules` into what `rewrite` needs: the concept in the style that hurts shall be read as it was.

    x is the image of the rule's `evidence` at place `rank`, x' the same with the concept turned to the rule's `style`.
    `styles` are those of the probe: of a rule of `probe_swaps`, `materials(donors, donor_masks, [rule["style"]])`.
    Raises `ValueError` for evidence that the rule has not or a variant that the style has not, `KeyError` for a style
    that is not given.
    """
    evidence, style = rule["evidence"], rule["style"]
    if rank not in range(len(evidence)):
        raise ValueError(
            f"rule {rule['class']!r} on {rule['concept']!r} has {len(evidence)} images as evidence, none at place "
            f"{rank!r}: expected one that was read rightly before, see the column 'evidence' of rules(table)"
        )
    if style not in styles:
        raise KeyError(
            f"no style {style!r} in {', '.join(styles)}: expected those that were probed; a rule of probe_swaps needs "
            f"styles=materials(donors, donor_masks, [{style!r}])"
        )
    concepts = Concepts.of(data, masks, {style: styles[style]})
    if (style, variant) not in concepts.textures:
        raise ValueError(f"variant {variant!r} of style {style!r}: expected 0 to {len(concepts.textures) - 1}")
    image, mask = data.images[evidence[rank]], check_mask(masks[rule["concept"]][evidence[rank]])
    changed = paste_texture(image, mask, concepts.textures[style, variant])
    return Exemplar(image, changed, mask, list(data.classes).index(rule["class"]))
