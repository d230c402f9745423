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
    """One example of the rule to rewrite: what `changed` shows at the mask should be treated as what `image` shows.

    Args:
        image: x, `(3, H, W)` float in [0, 1].
        changed: x', of the same shape.
        mask: `(H, W)` of zeros and ones, where the two differ.
        label: the class of both images. Only fine-tuning needs it; editing uses no labels.

    Raises:
        ValueError: if the images or the mask are not valid, or do not have the same size.
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
                f"image x has shape {tuple(self.image.shape)}, but x' has shape {tuple(self.changed.shape)}; pass two "
                "images of the same size"
            )
        object.__setattr__(self, "mask", check_mask(self.mask, self.image))

    @classmethod
    def paste(
        cls, image: Tensor, mask: Tensor, texture: Tensor, label: int | None = None, keep_shading: float = 0.7
    ) -> "Exemplar":
        """Make x' by pasting a texture over what the mask covers.

        Args:
            image: x, `(3, H, W)` float in [0, 1].
            mask: `(H, W)` of zeros and ones.
            texture: `(3, h, w)`, of any size.
            label: the class of the image, for fine-tuning only.
            keep_shading: how much of the concept's light and shadow stays, see `paste_texture`.
        """
        changed = paste_texture(image, mask, texture, keep_shading)
        return cls(image, changed, mask, label)

    def sized(self, size: int) -> "Exemplar":
        """Resize the exemplar to `size × size` pixels, such as a classifier's input.

        Raises:
            ValueError: if nothing is left of the mask at that size.
        """
        image, changed = resized(torch.stack([self.image, self.changed]), size)
        [[share]] = resized(self.mask[None, None], size)
        mask = (share > 0.5).float()
        return replace(self, image=image, changed=changed, mask=mask)


class ExemplarStates(list[Exemplar]):
    """A list of B exemplars that were run up to a layer.

    Attributes:
        cut: the classifier, cut at the layer.
        masks: the masks `(B, H, W)`.
        image: state of x at the layer.
        changed: state of x' at the layer.

    Args:
        cut: the classifier, cut at the layer.
        exemplars: exemplars of one size.

    Raises:
        ValueError: if a mask covers no key of the layer.
    """

    def __init__(self, cut: Cut, exemplars: Sequence[Exemplar]) -> None:
        super().__init__(exemplars)
        self.cut = cut
        self.masks = torch.stack([exemplar.mask for exemplar in self])
        covered_keys = cut.pool_mask(self.masks).reshape(len(self), -1).sum(dim=1)
        for number, covered in enumerate(covered_keys):
            if covered == 0:
                raise ValueError(
                    f"the mask of exemplar {number} covers no key of layer {cut.layer!r}, since the model crops that "
                    "part of the image; mark something inside of the crop"
                )
        self.image = cut.prefix(torch.stack([exemplar.image for exemplar in self]))
        self.changed = cut.prefix(torch.stack([exemplar.changed for exemplar in self]))

    @torch.no_grad()
    def response(self, delta_output: Tensor) -> float:
        """Measure how far the layer's outputs on x' move at the masks.

        Args:
            delta_output: what is added to the outputs, of the shape of the layer's output.

        Returns:
            The root mean square over channels and masked positions.
        """
        weight = self.cut.pool_mask(self.masks.to(delta_output.device), "output")
        mean_square = delta_output.square().mean(dim=self.cut.channels)
        return float(((mean_square * weight).sum() / weight.sum()).sqrt())


def exemplars_at(
    classifier: Classifier, layer: str | nn.Module | Cut, exemplars: Exemplar | Sequence[Exemplar]
) -> ExemplarStates:
    """Run exemplars up to a layer.

    Args:
        classifier: the classifier.
        layer: name of the layer, its module, or a `Cut` of it.
        exemplars: one or several, of one size; `ExemplarStates` of the same cut are returned as they are.

    Raises:
        TypeError: if one of them is not an `Exemplar`.
        ValueError: if there is none, if they have different sizes, if a mask covers no key of the layer, or if the cut
            is of another classifier.
    """
    if isinstance(exemplars, ExemplarStates) and exemplars.cut is layer:
        return exemplars
    exemplars = [exemplars] if isinstance(exemplars, Exemplar) else list(exemplars)
    if not exemplars:
        raise ValueError("no exemplar was given; pass at least one Exemplar")
    for exemplar in exemplars:
        if not isinstance(exemplar, Exemplar):
            raise TypeError(f"{type(exemplar).__name__} is not an Exemplar; pass Exemplar(image, changed, mask)")
    sizes = {tuple(exemplar.mask.shape) for exemplar in exemplars}
    if len(sizes) > 1:
        raise ValueError(f"exemplars have different sizes, {sorted(sizes)}; pass exemplars of one size")
    cut = layer if isinstance(layer, Cut) else Cut(classifier, layer, exemplars[0].mask.shape)
    if cut.classifier is not classifier:
        raise ValueError(
            f"the cut at {cut.layer!r} is of another classifier, {cut.classifier}; pass a cut of this classifier"
        )
    return ExemplarStates(cut, exemplars)


def shading(image: Tensor, mask: Tensor) -> Tensor:
    """Estimate light and shadow on what the mask covers.

    Only masked pixels are averaged, so that their neighbors do not bleed in.

    Args:
        image: `(3, H, W)` float in [0, 1].
        mask: `(H, W)` of zeros and ones.

    Returns:
        `(H, W)`: blurred brightness relative to its mean at the mask; 1 outside of it.
    """
    from scipy.ndimage import gaussian_filter

    red, green, blue = image.unbind(-3)
    brightness = (0.299 * red + 0.587 * green + 0.114 * blue).numpy()
    inside = mask.numpy().astype(np.float64)
    sigma = image.shape[-2] / 32
    coverage = np.maximum(gaussian_filter(inside, sigma), 1e-6)
    blurred = gaussian_filter(brightness * inside, sigma) / coverage
    mean = (blurred * inside).sum() / max(inside.sum(), 1)
    relative = np.where(inside > 0, blurred / max(mean, 1e-3), 1.0)
    return torch.from_numpy(relative.astype(np.float32))


def paste_texture(image: Tensor, mask: Tensor, texture_image: Tensor, keep_shading: float = 0.7) -> Tensor:
    """Paste a texture over what the mask covers; pixels outside of the mask stay as they are.

    Args:
        image: `(3, H, W)` float in [0, 1].
        mask: `(H, W)` of zeros and ones.
        texture_image: `(3, h, w)`, or several textures `(S, 3, h, w)`. It is resized to cover the image.
        keep_shading: how much of the concept's light and shadow stays: 0 for none (the bare texture), 1 for all.

    Returns:
        `(3, H, W)`; with several textures `(S, 3, H, W)`, the image with each of them.

    Raises:
        ValueError: if the images or the mask are not valid, or do not fit.
    """
    from scipy.ndimage import distance_transform_edt

    check_image(image)
    check_image(texture_image, "texture", 4 if getattr(texture_image, "ndim", 3) == 4 else 3)
    mask = check_mask(mask, image)
    height, width = image.shape[1:]
    texture_height, texture_width = texture_image.shape[-2:]
    scale = max(height / texture_height, width / texture_width)
    size = [max(round(texture_height * scale), height), max(round(texture_width * scale), width)]
    textures = texture_image.reshape(-1, 3, texture_height, texture_width)
    cover = interpolate(textures, size, mode="bilinear", antialias=True)
    cover = cover[..., :height, :width].reshape(*texture_image.shape[:-2], height, width)
    shaded = cover * shading(image, mask).clamp(0.25, 1.9) ** keep_shading
    depth = distance_transform_edt(mask.numpy())
    alpha = np.clip(depth / (height / 128 + 0.5), 0, 1)  # the edge is soft, on the inside
    alpha = torch.from_numpy(alpha.astype(np.float32)) * mask
    return torch.where(mask > 0, image + alpha * (shaded.clamp(0, 1) - image), image)
