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
    """One example of the rule to rewrite: what x' shows at the mask should be treated like what x shows there.

    Args:
        image: x, `(3, H, W)` float in [0, 1].
        changed: x', the changed image, of the same shape.
        mask: `(H, W)` of zeros and ones; it is 1 where x and x' differ.
        label: index of the class of both images. Only fine-tuning needs it; editing uses no labels.

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
        """Make an exemplar whose x' is the image with a texture pasted over what the mask covers.

        Args:
            image: x, `(3, H, W)` float in [0, 1].
            mask: `(H, W)` of zeros and ones; the texture is pasted where it is 1.
            texture: `(3, h, w)` float in [0, 1], of any size; it is resized to cover the image.
            label: index of the class of the image, for fine-tuning only.
            keep_shading: how much of the light and shadow under the mask is kept: 0 for none, 1 for all.

        Raises:
            ValueError: if the images or the mask are not valid, or do not fit.
        """
        changed = paste_texture(image, mask, texture, keep_shading)
        return cls(image, changed, mask, label)

    def sized(self, size: int) -> "Exemplar":
        """Resize the exemplar, such as to the input size of a classifier.

        Args:
            size: side of the square images and mask, in pixels. A pixel is in the mask if more than half of it was.

        Returns:
            The resized exemplar.

        Raises:
            ValueError: if no pixel is left in the mask at that size.
        """
        image, changed = resized(torch.stack([self.image, self.changed]), size)
        [[share]] = resized(self.mask[None, None], size)
        mask = (share > 0.5).float()
        return replace(self, image=image, changed=changed, mask=mask)


class ExemplarStates(list[Exemplar]):
    """A list of B exemplars, with their states at a layer.

    Attributes:
        cut: the classifier, cut at the layer.
        masks: the masks `(B, H, W)`.
        image: states of the images x at the layer.
        changed: states of the changed images x' at the layer.

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
        """Measure how much the layer's outputs on x' change at the masks.

        Args:
            delta_output: what is added to the outputs, of the shape of the layer's output on x'.

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
        exemplars: one or several, all of the same size; `ExemplarStates` of the same cut are returned as they are.

    Returns:
        The exemplars with their states at the layer.

    Raises:
        TypeError: if one of the exemplars is not an `Exemplar`.
        ValueError: if there is no exemplar, if exemplars have different sizes, if a mask covers no key of the layer, or
            if the cut is of another classifier.
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
        raise ValueError(f"exemplars have different sizes, {sorted(sizes)}; pass exemplars of the same size")
    cut = layer if isinstance(layer, Cut) else Cut(classifier, layer, exemplars[0].mask.shape)
    if cut.classifier is not classifier:
        raise ValueError(
            f"the cut at {cut.layer!r} is of another classifier, {cut.classifier}; pass a cut of this classifier"
        )
    return ExemplarStates(cut, exemplars)


def shading(image: Tensor, mask: Tensor) -> Tensor:
    """Estimate the light and shadow on what the mask covers.

    Only masked pixels are averaged, so the brightness of pixels outside of the mask has no influence.

    Args:
        image: `(3, H, W)` float in [0, 1].
        mask: `(H, W)` of zeros and ones.

    Returns:
        `(H, W)`: the blurred brightness relative to its mean at the mask; 1 outside of the mask.
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
    """Paste a texture over what the mask covers; pixels outside of the mask do not change.

    Args:
        image: `(3, H, W)` float in [0, 1].
        mask: `(H, W)` of zeros and ones; the texture is pasted where it is 1.
        texture_image: `(3, h, w)` float in [0, 1], of any size; or several textures `(S, 3, h, w)`. It is resized to
            cover the image.
        keep_shading: how much of the light and shadow under the mask is kept: 0 for none (the bare texture), 1 for all.

    Returns:
        The changed image `(3, H, W)`; with several textures, the image with each of them, `(S, 3, H, W)`.

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
