"""Style transfer after Gatys et al. (2016): an image optimised until its filter responses correlate as the style's do.

Slower than laying a texture over a concept (`textures.restyle`), and able to take any picture as a style. The features
are those of a network, such as `zoo.imagenet.squeezenet_features`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edittools.images import check_image, check_mask
from edittools.pasting import luminance, soft_mask

Features = Callable[[Tensor], list[Tensor]]
CONTENT = 0.2
"""How much the image's light and shadow weigh against the style."""


def gram(maps: Tensor, weights: Tensor) -> Tensor:
    """The mean products of channels `(B, C, C)` of maps `(B, C, H, W)`, over positions weighted by `(B, H, W)`."""
    share = weights / weights.sum(dim=(1, 2), keepdim=True).clamp_min(1e-8)
    flat = maps.flatten(2)
    return (flat * share.flatten(1)[:, None]) @ flat.transpose(1, 2)  # einsum would hold all products at all positions


def transfer(image: Tensor, mask: Tensor, style: Tensor, features: Features, steps: int = 60) -> Tensor:
    """Carry a style to what the mask covers, by `steps` of L-BFGS on the pixels there; all others stay as they are.

    `image` `(3, H, W)` and `style` `(3, h, w)` are in [0, 1], `mask` is `(H, W)` of 0 and 1; `features` make a list of
    maps of images. Raises `ValueError` for misfits of shapes.
    """
    masks, images = check_mask(mask, check_image(image))[None], image[None]
    edge = soft_mask(mask, image.shape[1] / 128)
    start = F.interpolate(style[None], image.shape[1:], mode="bilinear", antialias=True).clamp(0, 1)
    with torch.no_grad():
        wanted = [gram(maps, torch.ones_like(maps[:, 0])) for maps in features(start)]
        light = _light(images, masks)
    pixels = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([pixels], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def mixed() -> Tensor:
        return images + edge * (pixels.clamp(0, 1) - images)

    @torch.enable_grad()
    def loss() -> Tensor:
        picture, distances = mixed(), []
        for maps, goal in zip(features(picture), wanted, strict=True):
            found = gram(maps, F.adaptive_avg_pool2d(masks[:, None], maps.shape[2:])[:, 0])
            distances.append((found - goal).square().sum() / goal.square().sum().clamp_min(1e-12))
        shade = (_light(picture, masks) - light).square().mean()
        outside = (pixels - pixels.clamp(0, 1)).square().sum()
        total = torch.stack(distances).mean() + CONTENT * 10 * shade + outside
        (pixels.grad,) = torch.autograd.grad(total, [pixels])
        return total

    optimiser.step(loss)
    return mixed().detach().clamp(0, 1)[0]


def _light(images: Tensor, masks: Tensor, blur: float = 1 / 16) -> Tensor:
    """Blurred brightness inside the mask, relative to its mean there: `(B, H, W)`."""
    size = max(3, round(blur * images.shape[-1])) // 2 * 2 + 1
    inside = F.avg_pool2d(masks, size, 1, size // 2).clamp_min(1e-3)
    blurred = F.avg_pool2d(luminance(images) * masks, size, 1, size // 2) / inside
    mean = (blurred * masks).sum(dim=(1, 2), keepdim=True) / masks.sum(dim=(1, 2), keepdim=True).clamp_min(1)
    return (blurred - mean) * masks
