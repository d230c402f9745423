"""Exemplars: an image x, its changed version x' and the mask of the change (section 2.2 of the paper)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edittools.checks import check_number
from edittools.images import check_image, check_mask, resized
from edittools.pasting import paste_texture


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

    def map(self, **changes: Tensor | int | None) -> "Exemplar":
        """Replace some parts."""
        return replace(self, **changes)

    def sized(self, size: int) -> "Exemplar":
        """Give it at another size, such as a classifier's; `ValueError` where nothing is left of the mask."""
        size = check_number(size, 1, None, "size")
        image, changed = resized(torch.stack([self.image, self.changed]), size)
        mask = (resized(self.mask[None, None], size)[0, 0] > 0.5).float()
        if not mask.any():
            raise ValueError(f"nothing is left of the mask at {size} × {size} pixels: expected a larger mask or size")
        return self.map(image=image, changed=changed, mask=mask)


def size_of(exemplars: Exemplar | Sequence[Exemplar]) -> torch.Size | None:
    """Give the size (H, W) of the first exemplar; None where there is none."""
    first = exemplars if isinstance(exemplars, Exemplar) else next(iter(exemplars), None)
    return first.image.shape[1:] if isinstance(first, Exemplar) else None
