"""Restyle concepts by style transfer (Gatys et al. 2016), step 2 of section 4.1 of the paper.

    restyle = StyleTransfer(load_classifier("squeezenet1_1"))
    changed = restyle(image, mask, style_image)                         # only the concept changes
    concepts = Concepts(data, masks, styles, transform=restyle)         # wherever a concept is transformed

`exemplars.paste_texture` covers a concept with a material; `StyleTransfer` keeps the content of the concept and gives
it the look of a style image.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edittools._checks import check_amount, check_number
from edittools._image_checks import check_image, check_mask
from edittools._inference import eval_copy, without_autocast
from edittools._storage import digest_tensors
from edittools.classifiers import Classifier, check_classifier, fingerprint
from edittools.exemplars import paste_texture
from edittools_course.caching import load_or_compute

MOST_STYLE_LAYERS = 4
"""The largest number of layers that are compared."""

_COLOR_FLOOR = 1e-4
"""Is added to the variances of the image's colors, so that an image of one color can be recolored."""


@dataclass(frozen=True)
class StyleTransfer:
    """Give concepts the look of style images, by a descent on their pixels.

    The style of an image is the Gram matrices of its features in several layers. The pixels of the concept start from
    its own, with the mean and the covariance of the style image's colors. From there on L-BFGS lowers the sum of

    - the style loss: how far the concept's Gram matrices are from those of the style image, in the last module at each
      of the first four resolutions (for VGG16 the activations before the first four poolings);
    - the content loss, times `content_weight`: how far the features of the last of these modules are from those at the
      start.

    Losses are relative to the squared norm of their targets, so that one setting serves any classifier. They are
    computed at the mask only. Results are kept in the cache folder.

    Args:
        classifier: a convolutional classifier, whose features are compared.
        content_weight: weight of the content loss.
        steps: number of times that the losses are computed for an image.

    Raises:
        TypeError: if `classifier` is not a `Classifier`.
        ValueError: if a number is not allowed.
    """

    classifier: Classifier = field(repr=False)
    content_weight: float = 0.1
    steps: int = 60

    def __post_init__(self) -> None:
        check_classifier(self.classifier)
        check_amount(self.content_weight, "content_weight", 0)
        check_number(self.steps, "steps", 1)

    @property
    def cache_key(self) -> str:
        """Identify what the results depend on, besides the images: the classifier and all settings."""
        return f"style transfer {fingerprint(self.classifier)} {self.content_weight} {self.steps}"

    def __call__(self, image: Tensor, mask: Tensor, style_images: Tensor) -> Tensor:
        """Restyle what the mask covers; pixels outside of the mask stay as they are.

        Args:
            image: `(3, H, W)` float in [0, 1].
            mask: `(H, W)` of zeros and ones.
            style_images: `(3, h, w)`, or several `(S, 3, h, w)`. They are resized to the image's size.

        Returns:
            `(3, H, W)`; with several style images `(S, 3, H, W)`, the image in each style. Restyled pixels have 8 bits.

        Raises:
            ValueError: if the images or the mask are not valid, or the classifier has too few convolutional maps.
        """
        check_image(image)
        mask = check_mask(mask, image)
        check_image(style_images, "style image", 4 if style_images.ndim == 4 else 3)
        styles = style_images.reshape(-1, *style_images.shape[-3:])
        settings = self.cache_key
        restyled = []
        for style in styles:
            pixels = self._pixels(image, mask, style, settings)
            restyled.append(paste_texture(image, mask, pixels, keep_shading=0))
        return torch.stack(restyled).reshape(*style_images.shape[:-3], *image.shape)

    def _pixels(self, image: Tensor, mask: Tensor, style: Tensor, settings: str) -> Tensor:
        """Restyle an image `(3, H, W)` to one style, in 256 levels; the pixels outside of the mask stay."""

        def compute() -> dict[str, Tensor]:
            restyled = self._descend(_Features(self.classifier), image, mask, style)
            at_mask = restyled.cpu()[:, mask > 0]
            return {"pixels": (at_mask * 255).round().byte().contiguous()}

        content = f"{settings} {digest_tensors([image, mask, style])}"
        tensors = load_or_compute("style_transfer", content, compute)
        restyled = image.clone()
        restyled[:, mask > 0] = tensors["pixels"].to(image.dtype) / 255
        return restyled

    @without_autocast()
    def _descend(self, features: "_Features", image: Tensor, mask: Tensor, style: Tensor) -> Tensor:
        """Minimize the losses over the pixels at the mask; return the image `(3, H, W)`."""
        objective = self._objective(features, image, mask, style)
        image = image[None].to(features.device)
        mask = mask.to(features.device)
        pixels = objective.start.clone(memory_format=torch.contiguous_format).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [pixels],
            max_iter=self.steps,
            max_eval=self.steps,
            history_size=20,
            line_search_fn="strong_wolfe",
            tolerance_change=0,
            tolerance_grad=0,
        )

        @torch.enable_grad()
        def loss() -> Tensor:
            inside = pixels.clamp(0, 1)
            losses = objective(image + mask * (inside - image))
            outside_of_range = (pixels - inside).square().sum()
            total = losses["style"] + self.content_weight * losses["content"] + outside_of_range
            (gradient,) = torch.autograd.grad(total, [pixels])
            pixels.grad = gradient.contiguous()
            return total.detach()

        optimizer.step(loss)
        return pixels.detach().clamp(0, 1)[0]

    @torch.no_grad()
    def _objective(self, features: "_Features", image: Tensor, mask: Tensor, style: Tensor) -> "_Objective":
        """Compute what the descent aims at."""
        device = features.device
        image = image[None].to(device)
        mask = check_mask(mask, image).to(device)
        style = F.interpolate(style[None].to(device), image.shape[2:], mode="bilinear", antialias=True).clamp(0, 1)
        start = image + mask * (recolored(image[0], mask, style[0])[None] - image)
        style_layers = features.compared_layers(image)
        content_layer = style_layers[-1]
        style_maps = features(style, style_layers)
        return _Objective(
            features,
            mask[None, None],
            start,
            {layer: gram(maps) for layer, maps in style_maps.items()},
            content_layer,
            features(start, [content_layer])[content_layer],
        )


def gram(maps: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the Gram matrices of feature maps: the mean products of two channels.

    Args:
        maps: `(B, C, H, W)`.
        mask: `(1, 1, h, w)`; it is pooled to the maps' size, and positions count as far as it covers them.

    Returns:
        `(B, C, C)`.
    """
    flat = maps.flatten(2)
    if mask is None:
        return flat @ flat.transpose(1, 2) / flat.shape[2]
    share = F.adaptive_avg_pool2d(mask, maps.shape[2:]).flatten(2)
    return (flat * (share / share.sum())) @ flat.transpose(1, 2)


def recolored(image: Tensor, mask: Tensor, style_image: Tensor) -> Tensor:
    """Change the colors at the mask linearly, so that their mean and covariance are those of a style image.

    Among all linear maps that do so, this one moves the colors least (the optimal transport between two normal
    distributions).

    Args:
        image: `(3, H, W)` float in [0, 1].
        mask: `(H, W)` of zeros and ones.
        style_image: `(3, h, w)` float in [0, 1].

    Returns:
        `(3, H, W)`, clipped to [0, 1].
    """
    mean, covariance = _color_moments(image.flatten(1), mask.flatten())
    style_mean, style_covariance = _color_moments(style_image.flatten(1))
    covariance = covariance + _COLOR_FLOOR * torch.eye(3).to(covariance)
    root = _matrix_power(covariance, 0.5)
    inverse_root = _matrix_power(covariance, -0.5)
    mapping = inverse_root @ _matrix_power(root @ style_covariance @ root, 0.5) @ inverse_root
    moved = mapping @ (image.flatten(1).double() - mean) + style_mean
    return moved.view_as(image).to(image.dtype).clamp(0, 1)


def _color_moments(colors: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute the mean `(3, 1)` and covariance `(3, 3)` of colors `(3, P)`, float64."""
    colors = colors.double()
    weights = torch.ones_like(colors[0]) if weights is None else weights.double()
    shares = weights / weights.sum()
    mean = (colors * shares).sum(dim=1, keepdim=True)
    centered = colors - mean
    return mean, (centered * shares) @ centered.T


def _matrix_power(matrix: Tensor, exponent: float) -> Tensor:
    """Raise a symmetric positive definite matrix to a power."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp_min(0) ** exponent) @ vectors.T


def _relative(difference: Tensor, target: Tensor) -> Tensor:
    """Return a squared norm as a share of another."""
    return difference.square().sum() / target.square().sum().clamp_min(1e-12)


@dataclass(frozen=True, eq=False)
class _Objective:
    """The losses of an image: what it is compared with, at the mask `(1, 1, H, W)`."""

    features: "_Features"
    mask: Tensor
    start: Tensor
    style_grams: Mapping[str, Tensor]
    content_layer: str
    content_maps: Tensor

    def __call__(self, changed: Tensor) -> dict[str, Tensor]:
        """Compute the losses of a changed image `(1, 3, H, W)`."""
        maps = self.features(changed, [*self.style_grams, self.content_layer])
        style_losses = []
        for layer, target in self.style_grams.items():
            style_losses.append(_relative(gram(maps[layer], self.mask) - target, target))
        share = F.adaptive_avg_pool2d(self.mask, self.content_maps.shape[2:]).sqrt()
        moved = maps[self.content_layer] - self.content_maps
        return {
            "style": torch.stack(style_losses).mean(),
            "content": _relative(share * moved, share * self.content_maps),
        }


class _AllSeenError(Exception):
    """Ends a forward pass behind the last layer that is needed."""


class _Features:
    """The outputs of a classifier's modules, computed by a copy that shares its parameters."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.device = classifier.device
        self._model = eval_copy(classifier.model)

    def __call__(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Compute the outputs `(B, C, h, w)` of layers for images `(B, 3, H, W)`; what follows them is not run."""
        maps: dict[str, Tensor] = {}
        wanted = set(layers)

        def keep(layer: str, output: Any) -> None:
            if layer not in maps:  # a module may be called more than once
                maps[layer] = output.clone()  # the next module may write into it
            if maps.keys() == wanted:
                raise _AllSeenError

        with self._hooks(wanted, keep), suppress(_AllSeenError):
            self._model(self.classifier.normalize(images))
        return maps

    def compared_layers(self, images: Tensor) -> tuple[str, ...]:
        """Name one module at each of the first resolutions of feature maps: of the outermost modules, the last.

        The last resolution, behind which a classifier only pools, is left out.

        Raises:
            ValueError: if there are feature maps of fewer than two resolutions.
        """
        height, width = images.shape[2:]
        layers_at: dict[tuple[int, ...], list[str]] = {}

        def keep(layer: str, output: Any) -> None:
            if not _is_map(output):
                return
            size = tuple(output.shape[2:])
            if round(height / size[0]) == round(width / size[1]):  # otherwise they are no rows and columns
                layers_at.setdefault(size, []).append(layer)

        with self._hooks([name for name, _ in self._model.named_modules() if name], keep):
            self._model(self.classifier.normalize(images))
        if len(layers_at) < 2:
            raise ValueError(
                f"{type(self.classifier.model).__name__} has maps (B, C, h, w) of {len(layers_at)} resolution(s); "
                "use a convolutional classifier such as 'squeezenet1_1'"
            )
        *earlier, _ = sorted(layers_at, reverse=True)
        selected = []
        for size in earlier[:MOST_STYLE_LAYERS]:
            depth = min(layer.count(".") for layer in layers_at[size])
            outermost = [layer for layer in layers_at[size] if layer.count(".") == depth]
            selected.append(outermost[-1])
        return tuple(selected)

    def _hooks(self, layers: Collection[str], keep: Callable[[str, Any], None]) -> ExitStack:
        """Call `keep` with the name and the output of each of the layers, in a forward pass inside this context."""

        def hook_of(layer: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                keep(layer, output)

            return hook

        stack = ExitStack()
        for layer in layers:
            stack.callback(self._model.get_submodule(layer).register_forward_hook(hook_of(layer)).remove)
        return stack


def _is_map(output: Any) -> bool:
    """Tell whether a module's output is a feature map of more than one position, `(B, C, h, w)`."""
    return isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1
