"""Style transfer after Gatys et al. (2016): an image optimised until its filter responses correlate as the style's do.

Slower than laying a texture over a concept (`textures.restyle`), and able to take any picture as a style. The features
are those of VGG19 where its weights are on this machine, and of one layer of random filters at six scales where not,
which carry a texture about as well (Ustyuzhaninov et al., 2016).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm.auto import tqdm

from edittools.caching import load_or_compute
from edittools.classifiers import IMAGENET_MEAN, IMAGENET_STD, architecture
from edittools.images import LabelledImages, check_image, digest_tensors, load_image
from edittools.pasting import luminance, soft_mask
from edittools.world.textures import texture

Features = Callable[[Tensor], list[Tensor]]
SCALES = (3, 5, 7, 11, 15, 23)
"""Sides of the random filters, in pixels."""


class RandomFilters(nn.Module):
    """One layer of random filters at several scales: images `(B, 3, H, W)` to a list of maps `(B, filters, H, W)`."""

    def __init__(self, filters: int = 48, scales: Sequence[int] = SCALES, seed: int = 0) -> None:
        """Draw the filters; each is scaled to unit norm and has zero mean, so that it answers to structure."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for scale in scales:
            weight = torch.randn(filters, 3, scale, scale, generator=generator)
            weight[filters // 8 :] -= weight[filters // 8 :].mean(dim=(2, 3), keepdim=True)  # the first see colour
            weight = weight / weight.flatten(1).norm(dim=1)[:, None, None, None]
            self.register_buffer(f"filters_{scale}", weight)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The rectified responses at every scale."""
        pads = [(weight, weight.shape[-1] // 2) for weight in self.buffers()]
        return [F.relu(F.conv2d(F.pad(images - 0.5, (p,) * 4, mode="reflect"), weight)) for weight, p in pads]


class VGG19Features(nn.Module):
    """The first convolutions of VGG19's five blocks, with ImageNet weights (downloaded when they are not here)."""

    def __init__(self, weights: bool = True) -> None:
        """Build the network up to `conv5_1`; without `weights` it is random."""
        super().__init__()
        from torchvision.models import VGG19_Weights
        from torchvision.models.feature_extraction import create_feature_extractor
        from torchvision.models.vgg import cfgs, make_layers

        layers = make_layers(cfgs["E"])[:30].eval()
        if weights:
            found = VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
            layers.load_state_dict({name: found[f"features.{name}"] for name in layers.state_dict()})
        self.blocks = create_feature_extractor(layers, ["1", "6", "11", "20", "29"]).requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The rectified responses of the five blocks."""
        mean, std = (images.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        return list(self.blocks((images - mean) / std).values())


def default_features() -> Features:
    """VGG19 where its weights are on this machine, random filters otherwise."""
    from torchvision.models import VGG19_Weights

    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(VGG19_Weights.IMAGENET1K_V1.url).name
    return VGG19Features() if file.exists() else RandomFilters()


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
    features: Features | None = None,
    steps: int = 60,
    content: float = 0.2,
    batch_size: int = 16,
    progress: bool = False,
) -> Tensor:
    """Carry a style to what the masks cover, by L-BFGS on the pixels there; all others stay as they are.

    `images` are `(N, 3, H, W)` in [0, 1], `masks` `(N, H, W)` of 0 and 1, `style` is a picture `(3, h, w)` in [0, 1] or
    one for each image. `features` make a list of maps of images (default: `default_features()`). `steps` of L-BFGS are
    taken for each batch; `content` weighs the light and shadow of the image, 0 lets them go. Raises `ValueError` for
    misfits of shapes.
    """
    if images.ndim != 4 or masks.shape != (len(images), *images.shape[2:]):
        raise ValueError(f"images {tuple(images.shape)}, masks {tuple(masks.shape)}: expected (N, 3, H, W), (N, H, W)")
    styles = style.expand(len(images), -1, -1, -1) if style.ndim == 3 else style
    if len(styles) != len(images):
        raise ValueError(f"{len(styles)} style pictures for {len(images)} images: expected one, or one each")
    styles = F.interpolate(styles, images.shape[2:], mode="bilinear", antialias=True).clamp(0, 1)
    features = default_features() if features is None else features
    starts = range(0, len(images), batch_size)
    with tqdm(total=len(starts) * steps, desc="style transfer", unit="step", disable=not progress, leave=False) as bar:
        parts = [slice(start, start + batch_size) for start in starts]
        done = [_transfer(images[p], masks[p], styles[p], features, steps, content, bar) for p in parts]
    return torch.cat(done) if done else images.clone()


def _transfer(
    images: Tensor, masks: Tensor, styles: Tensor, features: Features, steps: int, content: float, bar: tqdm
) -> Tensor:
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
        total = (torch.stack(distances).mean(dim=0) + content * 10 * shade).sum()
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


def gatys(images: LabelledImages, masks: Tensor, style: str, variants: Sequence[int]) -> LabelledImages:
    """Do what `textures.transformed` does, by style transfer from the same textures; slower, so the set is stored."""
    pictures = torch.stack([texture(style, variant, images.images.shape[-1]) for variant in variants])
    return stylised(images, masks, pictures)


def stylised(
    images: LabelledImages,
    masks: Tensor,
    pictures: Tensor,
    features: Features | None = None,
    steps: int = 60,
    cache: str | os.PathLike | None = None,
    progress: bool = False,
) -> LabelledImages:
    """Transfer `pictures` (one `(3, h, w)`, or one for each image) to what the masks cover; pixels of 8 bits.

    The set is stored below `cache` (default: the cache folder) under a hash of images, masks, pictures, features and
    steps, and read from there the next time, see `caching`. Features that are no module are not known by a hash, so
    what they make is not stored.
    """
    features = default_features() if features is None else features

    def compute() -> dict[str, Tensor]:
        made = transfer(images.images[:], masks, pictures, features, steps, progress=progress)
        return {"images": (made * 255).round().byte()}

    if isinstance(features, nn.Module):
        given = digest_tensors([images.images[:], masks, pictures, *features.state_dict().values()])
        pixels = load_or_compute("transformed", f"{given} {architecture(features)} {steps}", compute, cache)["images"]
    else:
        pixels = compute()["images"]
    return replace(images, images=pixels.float() / 255)


def style_images(source: str | os.PathLike, size: int = 256) -> Tensor:
    """Read style pictures `(N, 3, size, size)`: an image file, a folder of them, or one of the paper's `.pt` sets.

    A `.pt` file holds a tensor `(N, 3, H, W)` in [0, 1], alone or as `imgs`, and is read without executing anything.
    Raises `FileNotFoundError`, or `ValueError` when there is no picture in it.
    """
    path = Path(source)
    if path.suffix == ".pt":
        found = torch.load(path, weights_only=True, map_location="cpu")
        found = found.get("imgs") if isinstance(found, dict) else found
        if not isinstance(found, Tensor) or found.ndim != 4:
            raise ValueError(f"{str(path)!r} holds no tensor (N, 3, H, W) of style pictures, alone or as 'imgs'")
        pictures = list(F.interpolate(found.float(), (size, size), mode="bilinear", antialias=True).clamp(0, 1))
    else:
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in IMG_EXTENSIONS) if path.is_dir() else [path]
        pictures = [load_image(file, size, size) for file in files]
    if not pictures:
        raise ValueError(f"no pictures in {str(path)!r}: expected at least one")
    return torch.stack([check_image(picture, "style picture") for picture in pictures])
