"""Images, masks and labelled sets of images: what goes into a classifier.

An image is a tensor `(3, H, W)` float32 in [0, 1]; a mask is `(H, W)` float32 of zeros and ones.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import center_crop, resize
from tqdm.auto import tqdm

from edittools.caching import atomic_path
from edittools.checks import check_number


def _as_rgb(path: str | os.PathLike, behind: str) -> Image.Image:
    """Read an image file upright as 8-bit RGB; what is transparent shows the colour `behind`."""
    try:
        with Image.open(path) as picture:
            picture.load()
            picture = ImageOps.exif_transpose(picture)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{os.fspath(path)!r} is not a readable image: {error}") from error
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"{os.fspath(path)!r} holds pixels of kind {picture.mode!r}: expected 8 bits a channel")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, behind), layer).convert("RGB")


def load_image(path: str | os.PathLike, size: int | None = None, resize_to: int | None = None) -> Tensor:
    """Load a photograph as a `(3, H, W)` float tensor in [0, 1], upright, in RGB, what is transparent white.

    With `size`, the short side is resized to `resize_to` (default `size * 8 / 7`, the usual 256 for 224; bicubic)
    and the centre `size × size` pixels are kept. Raises `FileNotFoundError`, or `ValueError` for a broken file.
    """
    if size is not None:
        usual = round(check_number(size, 1, "size") * 8 / 7)
        resize_to = check_number(resize_to or usual, size, "resize_to")
    picture = _as_rgb(path, "white")
    if size is not None:
        picture = center_crop(resize(picture, resize_to, interpolation=Image.BICUBIC), [size, size])
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def load_mask(path: str | os.PathLike) -> Tensor:
    """Load a mask as `(H, W)` float of 0 and 1: a pixel belongs to it when it is brighter than half, and opaque."""
    return (torch.from_numpy(np.array(_as_rgb(path, "black").convert("L"))) > 127).float()


def save_mask(path: str | os.PathLike, mask: Tensor) -> None:
    """Write a `(H, W)` mask of 0 and 1 as an 8-bit grey PNG, in one step."""
    pixels = (check_mask(mask, allow_empty=True) * 255).byte().cpu().numpy()
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", optimize=True)


def check_image(image: Tensor, name: str = "image", dimensions: int = 3) -> Tensor:
    """Return an image `(3, H, W)`, or a batch of 4 `dimensions`, if it holds floats in [0, 1]; raise if not."""
    shape = tuple(image.shape) if isinstance(image, Tensor) else ()
    if len(shape) != dimensions or shape[-3] != 3 or not image.is_floating_point():
        wanted = "(3, H, W)" if dimensions == 3 else "(B, 3, H, W); image[None] makes a batch"
        raise ValueError(f"{name} {_said(image)}: expected floats in [0, 1], a torch tensor {wanted}")
    low, high = image.aminmax() if image.numel() else (0.0, 1.0)
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # refuses NaN as well; resizing may overshoot by a rounding error
        raise ValueError(f"{name} has pixels from {low:.5g} to {high:.5g}: expected [0, 1], before any normalisation")
    return image


def check_mask(mask: Tensor, image: Tensor | None = None, allow_empty: bool = False) -> Tensor:
    """Return a mask as float if it is `(H, W)` of zeros and ones, not empty, and fits `image`; raise if not."""
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        raise ValueError(f"mask {_said(mask)}: expected 0 and 1, a torch tensor (H, W)")
    if image is not None and mask.shape != image.shape[-2:]:
        shape, whole = tuple(mask.shape), tuple(image.shape)
        raise ValueError(f"mask of shape {shape} does not fit the image {whole}: expected {whole[-2:]}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"mask with the values {mask.unique()[:5].tolist()}…: expected 0 and 1 only")
    if not allow_empty and not mask.any():
        raise ValueError("the mask is empty: expected at least one pixel set to 1")
    return mask.float()


def _said(given: Any) -> str:
    """Describe what was given in place of a tensor of another kind."""
    if isinstance(given, Tensor):
        return f"of shape {tuple(given.shape)}, {given.dtype}"
    return f"is a {type(given).__name__}"


@dataclass(frozen=True, eq=False)
class LazyImages(Sequence):
    """Image files that are read when they are asked for, by any index of images that a tensor takes."""

    paths: Sequence[str | os.PathLike] = field(repr=False)
    size: int
    resize_to: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | slice | Sequence[int] | Sequence[bool] | Tensor) -> Tensor:
        """Read one image `(3, size, size)` for a whole number, else a batch; pixels are had as `images[number][…]`."""
        places = torch.arange(len(self))[index].tolist()
        if isinstance(places, int):
            return load_image(self.paths[places], self.size, self.resize_to)
        return torch.stack([self[i] for i in places]) if places else torch.zeros(0, 3, self.size, self.size)


@dataclass(frozen=True)
class LabelledImages:
    """Images with the class each one shows.

    `images` is `(N, 3, H, W)` float in [0, 1] (or `LazyImages`), `labels` is `(N,)` int64 into `classes`, `names`
    (optional) says where each comes from. Class names that are there twice get their numbers, see `numbered`. Raises
    `ValueError` for anything else.
    """

    images: Tensor | LazyImages
    labels: Tensor
    classes: Sequence[str] = field(repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        shape = tuple(images.shape) if isinstance(images, Tensor) else ()
        if not isinstance(images, LazyImages) and (len(shape) != 4 or shape[1] != 3):
            raise ValueError(f"images {_said(images)}: expected a torch tensor (N, 3, H, W) or LazyImages")
        count, whole = len(images), isinstance(labels, Tensor) and not labels.is_floating_point()
        if not whole or labels.dtype == torch.bool or labels.shape != (count,):
            raise ValueError(f"labels {_said(labels)}: expected {count} whole numbers, a torch tensor ({count},)")
        if self.names and len(self.names) != count:
            raise ValueError(f"{count} images with {len(self.names)} names: expected one each")
        if count and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise ValueError(f"labels from {labels.min()} to {labels.max()}: expected 0 to {len(self.classes) - 1}")
        object.__setattr__(self, "classes", numbered(self.classes))

    @classmethod
    def unlabelled(cls, images: Tensor | LazyImages, classes: Sequence[str]) -> "LabelledImages":
        """Give images the first class, where no label is read."""
        return cls(images, torch.zeros(len(images), dtype=torch.long), classes)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor | Sequence[int]) -> "LabelledImages":
        """Keep the images at `indices`, whole numbers or booleans, in that order."""
        indices = torch.arange(len(self))[indices if len(indices) else slice(0)]
        if isinstance(self.images, LazyImages):
            images = replace(self.images, paths=[self.images.paths[i] for i in indices])
        else:
            images = self.images[indices]
        names = tuple(self.names[i] for i in indices) if self.names else ()
        return replace(self, images=images, labels=self.labels[indices], names=names)

    def split(self, fraction: float, seed: int = 0) -> tuple["LabelledImages", "LabelledImages"]:
        """Split at random into about `fraction` and the rest, class by class (stratified); the seed reproduces it."""
        if not 0 < fraction < 1:
            raise ValueError(f"split fraction {fraction}: expected a number between 0 and 1")
        chosen = stratified(self.labels, fraction, seed)
        return self.subset(chosen), self.subset(~chosen)


def numbered(names: Sequence[str]) -> Sequence[str]:
    """Add their number to names that are there more than once, such as "crane (134)" of ImageNet's two cranes."""
    seen = Counter(names)
    if len(seen) == len(names):
        return names
    return tuple(f"{name} ({i})" if seen[name] > 1 else name for i, name in enumerate(names))


Images = LabelledImages | Tensor | LazyImages
"""Images with labels, or without."""


def pixels_of(images: Images) -> Tensor | LazyImages:
    """Take the images `(N, 3, H, W)` alone, without labels."""
    return images.images if isinstance(images, LabelledImages) else images


def in_batches(images: Images, size: int = 64, bar: str = "", progress: bool = False) -> Iterator[Tensor]:
    """Yield images `(B, 3, H, W)` in order, `size` at a time, under a progress `bar` of that name when asked for."""
    pixels, size = pixels_of(images), check_number(size, 1, "batch size")
    for start in tqdm(range(0, len(pixels), size), bar, unit="batch", disable=not progress, leave=False):
        yield pixels[start : start + size]


def spread(images: Images, count: int) -> Tensor:
    """Take at most `count` of the images, at even steps; shuffle images whose classes come in turn first."""
    pixels = pixels_of(images)
    return pixels[:: -(-len(pixels) // count)]


def resized(images: Tensor, size: int) -> Tensor:
    """Resize images `(N, C, H, W)` to a classifier's `size`; those that have it come back as they are."""
    if images.shape[-2:] == (size, size):
        return images
    return interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Choose about `fraction` of each label at random: a `(N,)` boolean tensor; rounding is settled over all labels."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    owed = 0.0
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        owed += fraction * len(members)
        take = min(round(owed), len(members))
        owed -= take
        chosen[members[torch.randperm(len(members), generator=generator)[:take]]] = True
    return chosen
