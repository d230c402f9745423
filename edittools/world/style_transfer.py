"""Style transfer after Gatys et al. (2016): an image optimised until its filter responses correlate as the style's do.

Slower than laying a texture over a concept (`textures.restyle`), and able to take any picture as a style. The features
are those of a network, such as `zoo.imagenet.squeezenet_features`.
"""

import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from edittools.pasting import luminance, soft_mask

Features = Callable[[Tensor], list[Tensor]]
CONTENT = 0.2
"""How much the image's light and shadow weigh against the style."""


def gram(maps: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean products of channels `(B, C, C)` of maps `(B, C, H, W)`, over positions weighted by `(B, H, W)`."""
    weights = torch.ones_like(maps[:, 0]) if weights is None else weights
    share = weights / weights.sum(dim=(1, 2), keepdim=True).clamp_min(1e-8)
    flat = maps.flatten(2)
    return (flat * share.flatten(1)[:, None]) @ flat.transpose(1, 2)  # einsum would hold all products at all positions


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance relative to what is wanted, for each image: `(B,)`."""
    return (found - wanted).square().sum(dim=(1, 2)) / wanted.square().sum(dim=(1, 2)).clamp_min(1e-12)


def transfer(
    images: Tensor,
    masks: Tensor,
    style: Tensor,
    features: Features,
    steps: int = 60,
    progress: bool = False,
) -> Tensor:
    """Carry a style to what the masks cover, by L-BFGS on the pixels there; all others stay as they are.

    `images` are `(N, 3, H, W)` in [0, 1], `masks` `(N, H, W)` of 0 and 1, `style` is a picture `(3, h, w)` in [0, 1] or
    one for each image. `features` make a list of maps of images. `steps` of L-BFGS are taken for each batch. Raises
    `ValueError` for misfits of shapes.
    """
    if images.ndim != 4 or masks.shape != (len(images), *images.shape[2:]):
        raise ValueError(f"images {tuple(images.shape)}, masks {tuple(masks.shape)}: expected (N, 3, H, W), (N, H, W)")
    styles = style.expand(len(images), -1, -1, -1) if style.ndim == 3 else style
    if len(styles) != len(images):
        raise ValueError(f"{len(styles)} style pictures for {len(images)} images: expected one, or one each")
    styles = F.interpolate(styles, images.shape[2:], mode="bilinear", antialias=True).clamp(0, 1)
    parts = [slice(start, start + 16) for start in range(0, len(images), 16)]
    with tqdm(total=len(parts) * steps, desc="style transfer", unit="step", disable=not progress, leave=False) as bar:
        done = [_transfer(images[p], masks[p], styles[p], features, steps, bar) for p in parts]
    return torch.cat(done) if done else images.clone()


def _transfer(images: Tensor, masks: Tensor, styles: Tensor, features: Features, steps: int, bar: tqdm) -> Tensor:
    edge = torch.stack([soft_mask(mask, images.shape[2] / 128) for mask in masks])[:, None]
    with torch.no_grad():
        wanted = [gram(maps) for maps in features(styles)]
        light = _light(images, masks)
    pixels = styles.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([pixels], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def mixed() -> Tensor:
        return images + edge * (pixels.clamp(0, 1) - images)

    @torch.enable_grad()
    def loss() -> Tensor:
        picture = mixed()
        found = features(picture)
        pooled = [F.adaptive_avg_pool2d(masks[:, None], maps.shape[2:])[:, 0] for maps in found]
        distances = [_distance(gram(m, p), w) for m, p, w in zip(found, pooled, wanted, strict=True)]
        shade = (_light(picture, masks) - light).square().mean(dim=(1, 2))
        total = (torch.stack(distances).mean(dim=0) + CONTENT * 10 * shade).sum()
        total = total + (pixels - pixels.clamp(0, 1)).square().sum()
        (pixels.grad,) = torch.autograd.grad(total, [pixels])
        bar.update()
        return total

    optimiser.step(loss)
    return mixed().detach().clamp(0, 1)


def _light(images: Tensor, masks: Tensor, blur: float = 1 / 16) -> Tensor:
    """Blurred brightness inside the mask, relative to its mean there: `(B, H, W)`."""
    size = max(3, round(blur * images.shape[-1])) // 2 * 2 + 1
    inside = F.avg_pool2d(masks, size, 1, size // 2).clamp_min(1e-3)
    blurred = F.avg_pool2d(luminance(images) * masks, size, 1, size // 2) / inside
    mean = (blurred * masks).sum(dim=(1, 2), keepdim=True) / masks.sum(dim=(1, 2), keepdim=True).clamp_min(1)
    return (blurred - mean) * masks


def style_images(path: str | os.PathLike, size: int = 256) -> Tensor:
    """Read one of the paper's sets of style pictures, `(N, 3, size, size)` in [0, 1], without executing anything.

    A set is a `.pt` file that holds a tensor `(N, 3, H, W)`, alone or as `imgs`; raises `ValueError` for another.
    """
    found = torch.load(path, weights_only=True, map_location="cpu")
    found = found.get("imgs") if isinstance(found, dict) else found
    if not isinstance(found, Tensor) or found.ndim != 4:
        raise ValueError(f"{os.fspath(path)!r} holds no tensor (N, 3, H, W) of style pictures, alone or as 'imgs'")
    return F.interpolate(found.float(), (size, size), mode="bilinear", antialias=True).clamp(0, 1)
