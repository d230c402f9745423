"""Sets of images: tensors or files, with or without labels; their batches, and samples of them.

An image is a tensor `(3, H, W)` float32 in [0, 1]; a mask is a tensor `(H, W)` float32 of zeros and ones.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader

from edittools._checks import check_number
from edittools._image_checks import check_image, described
from edittools._paths import image_files
from edittools._progress import Progress, bar_of
from edittools.geometry import HasInputSize, InputGeometry
from edittools.image_files import load_image


@dataclass(frozen=True, eq=False)
class LazyImages(Sequence):
    """Image files that are loaded when they are indexed, with any index that selects images from a tensor.

    Args:
        paths: a folder of images, with any subfolders, or the image files.
        size: a classifier, its geometry, or the side of its input in pixels, see `load_image`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the folder contains no image, or if a size is not valid.
    """

    paths: str | os.PathLike | Sequence[str | os.PathLike] = field(repr=False)
    size: int | HasInputSize

    def __post_init__(self) -> None:
        if isinstance(self.paths, str | os.PathLike):
            object.__setattr__(self, "paths", image_files(self.paths))
        object.__setattr__(self, "size", InputGeometry.of(self.size))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | slice | Sequence[int] | Sequence[bool] | Tensor) -> Tensor:
        """Load one image `(3, size, size)` for a whole number, or a batch `(B, 3, size, size)` for any other index.

        The index is that of the images only; index their pixels in a second step, `images[number][…]`.
        """
        places = torch.arange(len(self))[index].tolist()
        if isinstance(places, int):
            return load_image(self.paths[places], self.size)
        if not places:
            return torch.zeros(0, 3, self.size.size, self.size.size)
        return torch.stack([self[place] for place in places])


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images with a label each.

    Args:
        images: `(N, 3, H, W)` float in [0, 1], or `LazyImages`.
        labels: `(N,)` whole numbers of any type, indices into `classes`; they are kept as int64.
        classes: names of the classes. A name that occurs more than once gets its number, see `numbered`.
        names: a name for each image, such as the path of its file; may be empty.
        is_labeled: whether the label of each image was given, `(N,)` booleans; others are predictions, or of no
            meaning. By default, all were given.

    Raises:
        ValueError: if an argument has another type or shape, or if a label is not an index into `classes`.
    """

    images: Tensor | LazyImages
    labels: Tensor
    classes: Sequence[str] = field(repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)
    is_labeled: Tensor = field(default=None, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        shape = tuple(images.shape) if isinstance(images, Tensor) else ()
        if not isinstance(images, LazyImages) and (len(shape) != 4 or shape[1] != 3):
            raise ValueError(f"images {described(images)}; pass a torch tensor of shape (N, 3, H, W) or LazyImages")
        count = len(images)
        is_whole = isinstance(labels, Tensor) and torch.can_cast(labels.dtype, torch.int64)
        if not is_whole or labels.dtype == torch.bool or labels.shape != (count,):
            raise ValueError(f"labels {described(labels)}; pass a torch tensor of shape ({count},) with whole numbers")
        labels = labels.long()
        if self.names and len(self.names) != count:
            raise ValueError(f"{len(self.names)} names were given for {count} images; pass one name per image")
        if count and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise ValueError(
                f"labels range from {labels.min()} to {labels.max()}, but {len(self.classes)} class names were given; "
                f"pass labels from 0 to {len(self.classes) - 1}"
            )
        is_labeled = torch.ones(count, dtype=torch.bool) if self.is_labeled is None else self.is_labeled
        if not isinstance(is_labeled, Tensor) or is_labeled.dtype != torch.bool or is_labeled.shape != (count,):
            raise ValueError(f"is_labeled {described(is_labeled)}; pass a torch tensor of shape ({count},) of booleans")
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "classes", numbered(self.classes))
        object.__setattr__(self, "is_labeled", is_labeled)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor | Sequence[int]) -> Self:
        """Return the images at `indices`: whole numbers, whose order is kept, or one boolean per image.

        Further tensors of a subclass, which have one entry per image, are indexed in the same way.
        """
        places = torch.arange(len(self))
        indices = places[torch.as_tensor(indices)] if len(indices) else places[:0]
        selected = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, Tensor):
                selected[part.name] = value[indices]
        if isinstance(self.images, LazyImages):
            selected["images"] = replace(self.images, paths=[self.images.paths[i] for i in indices])
        names = tuple(self.names[i] for i in indices) if self.names else ()
        return replace(self, **selected, names=names)


def numbered(names: Sequence[str]) -> Sequence[str]:
    """Add the index to each name that occurs more than once, such as "crane (134)" for one of ImageNet's two cranes."""
    counts = Counter(names)
    if len(counts) == len(names):
        return names
    return tuple(f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names))


Images = LabeledImages | Tensor | LazyImages
"""A set of images, with or without labels."""


def check_images(images: Any, name: str = "the set of images") -> Images:
    """Return a set of images if it has a type that can be used; its pixels are checked when they are used.

    Args:
        name: name of the images, used in error messages.

    Raises:
        TypeError: if they have another type, such as a list or a `DataLoader`.
    """
    if not isinstance(images, Images):
        raise TypeError(f"{name} {described(images)}; {how_to_pass_images(images)}")
    return images


def how_to_pass_images(images: Any) -> str:
    """Describe how to pass images that were passed in another type, such as a list or a `DataLoader`."""
    remedy = "pass a tensor (N, 3, H, W), LazyImages(paths, classifier) or LabeledImages(images, labels, classes)"
    if isinstance(images, list | tuple):
        return f"{remedy}; torch.stack makes a tensor of a list of images"
    if isinstance(images, DataLoader):
        return f"{remedy}; torch.cat([batch for batch, labels in loader]) makes a tensor of a DataLoader's images"
    return remedy


def pixels_of(images: Images) -> Tensor | LazyImages:
    """Return the images `(N, 3, H, W)` of a set, without labels.

    Raises:
        TypeError: if they are neither a tensor nor `LazyImages` nor `LabeledImages`.
    """
    check_images(images)
    return images.images if isinstance(images, LabeledImages) else images


def in_batches(images: Images, size: int = 64, bar: str = "", progress: Progress | None = None) -> Iterator[Tensor]:
    """Yield a set of images in batches `(B, 3, H, W)`, in order.

    Args:
        images: `(N, 3, H, W)`, with or without labels.
        size: images per batch.
        bar: name of the progress bar.

    Raises:
        ValueError: if `size` is not a whole number of at least 1.
    """
    pixels = pixels_of(images)
    for batch in batches_of(len(pixels), size, bar, progress):
        yield pixels[batch]


def batches_of(count: int, size: int = 64, bar: str = "", progress: Progress | None = None) -> Iterator[slice]:
    """Divide the numbers of `count` images into batches, in order; the arguments are those of `in_batches`."""
    size = check_number(size, "batch size", 1)
    with bar_of(progress, total=count, desc=bar, unit="image") as shown:
        for start in range(0, count, size):
            stop = min(start + size, count)
            yield slice(start, stop)
            shown.update(stop - start)


def size_of(images: Images) -> tuple[int, int] | None:
    """Return the height and width of the images of a set, which the first image has; None if there is no image.

    Raises:
        ValueError: if it is not a set of images `(N, 3, H, W)`.
    """
    pixels = pixels_of(images)
    if not len(pixels):
        return None
    is_batch = not isinstance(pixels, Tensor) or pixels.ndim == 4
    first = check_image(pixels[:1] if is_batch else pixels, "the set of images", 4)
    return first.shape[2], first.shape[3]


def evenly_spaced(images: Images, count: int) -> Tensor:
    """Return at most `count` of the images, at even steps; shuffle them first if their classes come in turn."""
    pixels = pixels_of(images)
    step = -(-len(pixels) // count)
    return pixels[::step]


def resized(images: Tensor, size: int) -> Tensor:
    """Resize images `(N, C, H, W)` to `(N, C, size, size)`; images of that size are returned unchanged."""
    if images.shape[-2:] == (size, size):
        return images
    return interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)


def stratified(labels: Tensor, fraction: float) -> Tensor:
    """Select about the same fraction of the images of each class at random, the same ones in each call.

    The rounding error of one class is carried over to the next, so the fraction of all images is right as well.

    Args:
        labels: class of each image, `(N,)`.
        fraction: share of the images that is selected.

    Returns:
        Which images are selected, `(N,)` booleans.
    """
    generator = torch.Generator().manual_seed(0)
    selected = torch.zeros(len(labels), dtype=torch.bool)
    remainder = 0.0
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        remainder += fraction * len(members)
        count = min(round(remainder), len(members))
        remainder -= count
        order = torch.randperm(len(members), generator=generator)
        selected[members[order[:count]]] = True
    return selected
