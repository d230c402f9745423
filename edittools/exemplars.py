"""Exemplars: an image x, its changed version x', and the mask of the change (section 2.2 of the paper)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from edittools._checks import one_of
from edittools._image_checks import check_image, check_mask
from edittools._varied import laid_over
from edittools.classifiers import Classifier, check_size
from edittools.images import resized

PLACES = ("anywhere", "in place")
"""Where `Exemplar.hosts` pastes."""

EXPLAINED = 0.02
"""One color explains a mark if the root mean square of what is left is at most this much."""

OVERLAY_STEPS = 20
"""The number of alternating steps in which the color and the opacities of an overlay are found."""


@dataclass(frozen=True, eq=False)
class Exemplar:
    """One example of the rule to rewrite: the layer should treat x' at the mask as it treats x there.

    Args:
        image: x, `(3, H, W)` float in [0, 1].
        changed: x', the changed image, of the same shape.
        mask: `(H, W)` of zeros and ones; it is 1 where x and x' differ.
        label: index of the class of both images. Fine-tuning needs it; editing uses no labels.
        sources: names or digests of the images that x and x' came from, by whoever made the exemplar.

    Raises:
        ValueError: if the images or the mask are not valid, or do not have the same size.
    """

    image: Tensor
    changed: Tensor
    mask: Tensor
    label: int | None = None
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_image(self.image, "image x")
        check_image(self.changed, "changed image x'")
        if self.image.shape != self.changed.shape:
            raise ValueError(
                f"image x has shape {tuple(self.image.shape)}, but x' has shape {tuple(self.changed.shape)}; pass two "
                "images of the same size"
            )
        object.__setattr__(self, "mask", check_mask(self.mask, self.image))

    @property
    def covered(self) -> Tensor:
        """x with the masked area in one color, the mean of x, `(3, H, W)`."""
        mean = self.image.mean(dim=(1, 2), keepdim=True)
        return torch.where(self.mask > 0, mean, self.image)

    @classmethod
    def paste(
        cls, image: Tensor, mask: Tensor, texture: Tensor, label: int | None = None, keep_shading: float = 0.7
    ) -> "Exemplar":
        """Make an exemplar whose x' is the image with a texture pasted over the masked area.

        Args:
            image: x, `(3, H, W)` float in [0, 1].
            mask: `(H, W)` of zeros and ones; the texture is pasted where it is 1.
            texture: `(3, h, w)` float in [0, 1], of any size; it is resized to cover the image.
            label: index of the class of the image, see `Exemplar`.
            keep_shading: how much of the light and shadow under the mask is kept: 0 for none, 1 for all.

        Raises:
            ValueError: if the images or the mask are not valid, or do not fit.
        """
        changed = paste_texture(image, mask, texture, keep_shading)
        return cls(image, changed, mask, label)

    def hosts(self, images: Tensor, where: str = "anywhere", seed: int = 0, vary: bool = False) -> "Pairs":
        """Paste the mark, the masked area of x', on ordinary images: each host is a pair whose x is the image.

        Pixels are copied, unless one color, laid over x with an opacity for each pixel, explains x' (`overlay`): then
        it is laid over the images. Hosts serve for selection and for training. They show the same mark as the exemplar,
        so they do not tell how an edit does on new images with the concept.

        Args:
            images: `(N, 3, H, W)` float in [0, 1], of the exemplar's size.
            where: "anywhere" for a random place in each image, or "in place" for the place that the mask has in x'. A
                mask that spans the image, such as a frame, has only one place.
            seed: seed of the places, and of what varies.
            vary: whether each host shows the mark in its own light (0.8 to 1.2 times as bright) and, anywhere, in its
                own size (0.75 to 1.3 times) and tilt (at most 15 degrees), unless it is too large for the image then.

        Returns:
            N pairs, without labels.

        Raises:
            ValueError: if the images are not valid or of another size, or if there is no such place.
        """
        one_of(where, PLACES, "where")
        check_image(images, "the set of images", 4)
        if images.shape[1:] != self.changed.shape:
            raise ValueError(
                f"the images have shape {tuple(images.shape[1:])}, but x' has shape {tuple(self.changed.shape)}; pass "
                "images of the exemplar's size"
            )
        height, width = self.mask.shape
        rows = self.mask.any(dim=1).nonzero()[:, 0]
        columns = self.mask.any(dim=0).nonzero()[:, 0]
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        left, right = int(columns[0]), int(columns[-1]) + 1
        box = (slice(top, bottom), slice(left, right))
        overlay = self.overlay
        opacities = self.mask if overlay is None else overlay[1]
        colors = self.changed if overlay is None else overlay[0][:, None, None].expand_as(self.changed)
        opacity = opacities[box].to(images)
        paint = colors[:, *box].to(images)
        generator = torch.Generator().manual_seed(seed)
        changed = images.clone()
        masks = self.mask.new_zeros(len(images), height, width)
        for number, image in enumerate(images):
            if vary:
                mark = (colors.to(images), opacities.to(images), self.mask)
                changed[number], masks[number] = laid_over(image, *mark, where == "in place", generator)
                continue
            if where == "anywhere":
                top = int(torch.randint(height - opacity.shape[0] + 1, (1,), generator=generator))
                left = int(torch.randint(width - opacity.shape[1] + 1, (1,), generator=generator))
            place = (slice(top, top + opacity.shape[0]), slice(left, left + opacity.shape[1]))
            changed[number, :, *place] = torch.lerp(image[:, *place], paint, opacity.expand_as(paint))
            masks[number, *place] = self.mask[box]
        return Pairs(images, changed, masks, len(images) * (None,))

    @cached_property
    def overlay(self) -> tuple[Tensor, Tensor] | None:
        """The color `(3,)` and the opacities `(H, W)` that explain x' as one color laid over x; None if none does.

        They explain it if the root mean square of what is left at the mask is at most `EXPLAINED`, as for a watermark.
        """
        is_masked = self.mask > 0
        before = self.image[:, is_masked].double()
        after = self.changed[:, is_masked].double()
        color = after.mean(dim=1, keepdim=True)
        for _ in range(OVERLAY_STEPS):
            toward = color - before
            opacity = ((after - before) * toward).sum(dim=0) / toward.square().sum(dim=0).clamp_min(1e-6)
            opacity = opacity.clamp(0, 1)
            color = ((after - (1 - opacity) * before) * opacity).sum(dim=1, keepdim=True)
            color = (color / opacity.square().sum().clamp_min(1e-6)).clamp(0, 1)
        left = after - torch.lerp(before, color.expand_as(before), opacity)
        if float(left.square().mean().sqrt()) > EXPLAINED:
            return None
        opacities = torch.zeros_like(self.mask)
        opacities[is_masked] = opacity.to(opacities)
        return color[:, 0].to(self.image), opacities

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


@dataclass(frozen=True, eq=False)
class Pairs:
    """N pairs of an image x and its changed version x', as tensors.

    Attributes:
        images: the images x, `(N, 3, H, W)`.
        changed: the changed images x', of the same shape.
        masks: `(N, H, W)` of zeros and ones; 1 where x and x' differ.
        labels: index of the class of each pair; None where it is not known.
    """

    images: Tensor
    changed: Tensor
    masks: Tensor
    labels: tuple[int | None, ...]

    @classmethod
    def of(cls, exemplars: Sequence[Exemplar]) -> "Pairs":
        """Stack exemplars of one size, at least one."""
        return cls(
            torch.stack([exemplar.image for exemplar in exemplars]),
            torch.stack([exemplar.changed for exemplar in exemplars]),
            torch.stack([exemplar.mask for exemplar in exemplars]),
            tuple(exemplar.label for exemplar in exemplars),
        )

    @classmethod
    def joined(cls, parts: "Sequence[Pairs]") -> "Pairs":
        """Join pairs of one size, at least one part."""
        return cls(
            torch.cat([part.images for part in parts]),
            torch.cat([part.changed for part in parts]),
            torch.cat([part.masks for part in parts]),
            tuple(label for part in parts for label in part.labels),
        )

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> "Pairs":
        """Return the first pairs, at most `count`."""
        return Pairs(self.images[:count], self.changed[:count], self.masks[:count], self.labels[:count])


Exemplars = Exemplar | Sequence[Exemplar] | Mapping[str, Exemplar | Sequence[Exemplar]]
"""One exemplar, several, or a mapping from names; several exemplars under one name go into one edit."""


def check_exemplars(exemplars: Exemplar | Sequence[Exemplar], classifier: Classifier) -> list[Exemplar]:
    """List the exemplars of one edit.

    Args:
        exemplars: one or several, all of the same size.
        classifier: the classifier to edit.

    Raises:
        TypeError: if one of them is not an `Exemplar`.
        ValueError: if there is none, if they have different sizes, or if a label is not a class index.
    """
    listed = [exemplars] if isinstance(exemplars, Exemplar) else list(exemplars)
    if not listed:
        raise ValueError("no exemplar was given; pass at least one, Exemplar(image, changed, mask)")
    class_count = len(classifier.classes)
    for exemplar in listed:
        if not isinstance(exemplar, Exemplar):
            raise TypeError(f"{type(exemplar).__name__} is not an Exemplar; pass Exemplar(image, changed, mask)")
        if exemplar.label is not None and exemplar.label not in range(class_count):
            raise ValueError(
                f"an exemplar has label {exemplar.label!r}, but the classifier has {class_count} classes; "
                f"pass a class index from 0 to {class_count - 1}, such as label=classifier.index(name)"
            )
    sizes = {tuple(exemplar.mask.shape) for exemplar in listed}
    if len(sizes) > 1:
        raise ValueError(f"exemplars have different sizes, {sorted(sizes)}; pass exemplars of the same size")
    return listed


def named_exemplars(exemplars: Exemplars, classifier: Classifier) -> dict[str, list[Exemplar]]:
    """List the exemplars of each edit that is tried in a search, by name.

    Args:
        exemplars: in a mapping, the exemplars under one name go into one edit; otherwise each makes an edit of its own,
            and they are called "exemplar 1", "exemplar 2", and so on.
        classifier: the classifier to edit.

    Raises:
        TypeError: if one of them is not an `Exemplar`.
        ValueError: if there is none, if two names are equal as text, if one does not have the size of the classifier's
            images, or if a label is not a class index.
    """
    if not isinstance(exemplars, Mapping):
        sequence = [exemplars] if isinstance(exemplars, Exemplar) else list(exemplars)
        exemplars = {f"exemplar {number}": exemplar for number, exemplar in enumerate(sequence, start=1)}
    if not exemplars:
        raise ValueError("no exemplar was given; pass at least one, Exemplar(image, changed, mask)")
    names = [str(name) for name in exemplars]
    if len(set(names)) < len(names):
        raise ValueError(f"two exemplars have the same name among {names}; give each a name of its own")
    named = dict(zip(names, [check_exemplars(members, classifier) for members in exemplars.values()], strict=True))
    for name, members in named.items():
        check_size(name, members[0].image[None], classifier)
    return named


def all_exemplars(named: Mapping[str, Sequence[Exemplar]]) -> list[Exemplar]:
    """List the exemplars of all names."""
    return [exemplar for members in named.values() for exemplar in members]


def shading(image: Tensor, mask: Tensor) -> Tensor:
    """Estimate the light and shadow on the masked area.

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
    """Paste a texture over the masked area; pixels outside of the mask do not change.

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
    has_several_textures = isinstance(texture_image, Tensor) and texture_image.ndim == 4
    check_image(texture_image, "texture", 4 if has_several_textures else 3)
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
