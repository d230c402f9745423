"""Exemplars: an image x, its changed version x' and the mask of the change (section 2.2 of the paper)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.images import check_image, check_mask, resized


@dataclass(frozen=True)
class Exemplar:
    """One example of the rule to rewrite: what stands in `changed` at `mask` shall be read as what stands in `image`.

    `image` (x) and `changed` (x') are `(3, H, W)` in [0, 1], `mask` is `(H, W)` of 0 and 1. `label`, the class of
    both, is needed by fine-tuning only: editing uses no labels. Raises `ValueError` when they do not fit each other.
    """

    image: Tensor
    changed: Tensor
    mask: Tensor
    label: int | None = None

    def __post_init__(self) -> None:
        check_image(self.image, "image x")
        check_image(self.changed, "changed image x'")
        if self.image.shape != self.changed.shape:
            raise ValueError(
                f"image x of shape {tuple(self.image.shape)}, x' of {tuple(self.changed.shape)}: expected the same"
            )
        object.__setattr__(self, "mask", check_mask(self.mask, self.image))

    @classmethod
    def paste(
        cls, image: Tensor, mask: Tensor, texture: Tensor, label: int | None = None, keep_shading: float = 0.7
    ) -> "Exemplar":
        """Make x' by laying `texture` `(3, h, w)` over `image` at `mask`, see `paste_texture`."""
        return cls(image, paste_texture(image, mask, texture, keep_shading), mask, label)

    def sized(self, size: int) -> "Exemplar":
        """Give it at another size, such as a classifier's; `ValueError` where nothing is left of the mask."""
        image, changed = resized(torch.stack([self.image, self.changed]), size)
        mask = (resized(self.mask[None, None], size)[0, 0] > 0.5).float()
        return replace(self, image=image, changed=changed, mask=mask)


class ExemplarStates(list[Exemplar]):
    """Exemplars at a layer: a list, their `masks` `(B, H, W)`, and the states of x (`image`) and x' (`changed`)."""

    def __init__(self, cut: Cut, exemplars: Sequence[Exemplar]) -> None:
        super().__init__(exemplars)
        self.cut = cut
        self.masks = torch.stack([exemplar.mask for exemplar in self])
        for number, share in enumerate(cut.pool_mask(self.masks).reshape(len(self), -1).sum(dim=1)):
            if share == 0:
                raise ValueError(
                    f"the mask of exemplar {number} covers no key of layer {cut.layer!r}: the model crops that part of "
                    "the image away; mark what is inside of the crop"
                )
        self.image = cut.prefix(torch.stack([exemplar.image for exemplar in self]))
        self.changed = cut.prefix(torch.stack([exemplar.changed for exemplar in self]))

    @torch.no_grad()
    def response(self, moved: Tensor) -> float:
        """Measure how far the layer's outputs `moved` at the masks: the root mean square over channels."""
        weight = self.cut.pool_mask(self.masks.to(moved.device), "output")
        return float(((moved.square().mean(dim=self.cut.channels) * weight).sum() / weight.sum()).sqrt())


def exemplars_at(
    classifier: Classifier, layer: str | nn.Module | Cut, exemplars: Exemplar | Sequence[Exemplar]
) -> ExemplarStates:
    """Take exemplars to a layer: a name, a module or a `Cut`; those that are there already come back as they are."""
    if isinstance(exemplars, ExemplarStates) and exemplars.cut is layer:
        return exemplars
    given = [exemplars] if isinstance(exemplars, Exemplar) else list(exemplars)
    if not given:
        raise ValueError("no exemplar: expected at least one")
    for exemplar in given:
        if not isinstance(exemplar, Exemplar):
            raise TypeError(f"{type(exemplar).__name__} is no Exemplar: expected Exemplar(image, changed, mask)")
    if len(sizes := {tuple(exemplar.mask.shape) for exemplar in given}) > 1:
        raise ValueError(f"exemplars of different sizes {sorted(sizes)}: expected one size")
    cut = layer if isinstance(layer, Cut) else Cut(classifier, layer, given[0].mask.shape)
    if cut.classifier is not classifier:
        raise ValueError(
            f"a cut of {cut.classifier} at {cut.layer!r} for another classifier: expected one of the latter"
        )
    return ExemplarStates(cut, given)


def shading(image: Tensor, mask: Tensor) -> Tensor:
    """Find light and shadow `(H, W)` on what the mask covers: blurred brightness relative to the mean, 1 outside.

    Only masked pixels are averaged, so that neighbours do not bleed in.
    """
    from scipy.ndimage import gaussian_filter

    red, green, blue = image.unbind(-3)
    sigma, inside = image.shape[-2] / 32, mask.numpy().astype(np.float64)
    near = np.maximum(gaussian_filter(inside, sigma), 1e-6)
    bright = gaussian_filter((0.299 * red + 0.587 * green + 0.114 * blue).numpy() * inside, sigma) / near
    level = (bright * inside).sum() / max(inside.sum(), 1)
    return torch.from_numpy(np.where(inside > 0, bright / max(level, 1e-3), 1.0).astype(np.float32))


def paste_texture(image: Tensor, mask: Tensor, texture_image: Tensor, keep_shading: float = 0.7) -> Tensor:
    """Lay a texture over what the mask covers: returns `(3, H, W)`, unchanged outside the mask.

    `texture_image` `(3, h, w)` is resized to cover the image; with several, `(S, 3, h, w)`, each is laid over the same
    image, which gives `(S, 3, H, W)`. `keep_shading` is how much of the light and shadow of the covered concept stays:
    0 none (the bare texture), 1 all.
    """
    from scipy.ndimage import distance_transform_edt

    check_image(texture_image, "texture", 4 if texture_image.ndim == 4 else 3)
    mask = check_mask(mask, check_image(image))
    height, width = image.shape[1:]
    tall, wide = texture_image.shape[-2:]
    scale = max(height / tall, width / wide)
    sides = [max(round(tall * scale), height), max(round(wide * scale), width)]
    cover = interpolate(texture_image.reshape(-1, 3, tall, wide), sides, mode="bilinear", antialias=True)
    cover = cover[..., :height, :width].reshape(*texture_image.shape[:-2], height, width)
    lit = cover * shading(image, mask).clamp(0.25, 1.9) ** keep_shading
    depth = distance_transform_edt(mask.numpy())  # the edge is soft inside
    alpha = torch.from_numpy(np.clip(depth / (height / 128 + 0.5), 0, 1).astype(np.float32)) * mask
    return torch.where(mask > 0, image + alpha * (lit.clamp(0, 1) - image), image)
