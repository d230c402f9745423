"""Images, masks and labeled sets of images, loaded and checked for a classifier.

An image is a tensor `(3, H, W)` float32 in [0, 1]; a mask is a tensor `(H, W)` float32 of zeros and ones.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral
from typing import Any, Protocol, Self

import numpy as np
import torch
from PIL import ExifTags, Image, ImageChops, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader
from torchvision.transforms.functional import center_crop, resize
from tqdm.auto import tqdm

from edittools._caching import atomic_path
from edittools._checks import check_number

MOST_COLOR = 32
"""By how much a channel of a gray mask may differ from its gray, of 255: the compression of a JPEG colors grays."""

# --- from a photo to an input -----------------------------------------------------------------------------------------


class HasInputSize(Protocol):
    """Anything with the attributes `size` and `resize_to`, such as a `Classifier`; both are in pixels."""

    size: int
    resize_to: int


@dataclass(frozen=True)
class InputGeometry:
    """The part of a photo that a classifier sees.

    The photo's short side is resized to `resize_to` pixels, and its center of `size × size` pixels is kept. Every photo
    and every mask goes through this class, so a mask that fits the photo also fits the classifier's input.

    Args:
        size: side of the input, in pixels.
        resize_to: short side of the photo before the crop, in pixels.
    """

    size: int
    resize_to: int

    @classmethod
    def of(cls, size: int | HasInputSize, resize_to: int | None = None) -> "InputGeometry":
        """Make the geometry of a classifier, or of numbers.

        Args:
            size: a classifier or anything else with the whole numbers `.size` and `.resize_to`; or the side of the
                input, in pixels.
            resize_to: short side before the crop, in pixels; by default that of the classifier, or `size * 8 / 7` (256
                for 224).

        Raises:
            ValueError: if `size` is not a whole number of at least 1, or if `resize_to` is smaller than `size`.
        """
        if _has_input_size(size):
            resize_to = size.resize_to if resize_to is None else resize_to
            size = size.size
        size = check_number(size, 1, "size")
        usual = round(size * 8 / 7)
        resize_to = check_number(usual if resize_to is None else resize_to, size, "resize_to")
        return cls(size, resize_to)

    def crop(self, photo: Image.Image, interpolation: Image.Resampling) -> Image.Image:
        """Resize a photo, or the mask of one, and keep its center."""
        resized_photo = resize(photo, self.resize_to, interpolation=interpolation)
        return center_crop(resized_photo, [self.size, self.size])

    def to_photo(self, positions: Tensor, side: int, short_side: int) -> Tensor:
        """Map positions along one side of the input to positions along the same side of the photo.

        Args:
            positions: distances from the left or upper border of the input, in pixels.
            side: length of this side of the photo, in pixels.
            short_side: length of the photo's short side, in pixels.

        Returns:
            Distances from the left or upper border of the photo, in pixels.
        """
        resized_side, offset = self._resized_side_and_offset(side, short_side)
        return (positions + offset) * (side / resized_side)

    def from_photo(self, positions: Tensor, side: int, short_side: int) -> Tensor:
        """Map positions along one side of the photo to positions in the input; the inverse of `to_photo`."""
        resized_side, offset = self._resized_side_and_offset(side, short_side)
        return positions * (resized_side / side) - offset

    def _resized_side_and_offset(self, side: int, short_side: int) -> tuple[int, int]:
        """Return the length of a side after `resize`, and where `center_crop` starts on it."""
        resized_side = int(self.resize_to * side / short_side)
        offset = round((resized_side - self.size) / 2)
        return resized_side, offset


def _has_input_size(thing: Any) -> bool:
    return isinstance(getattr(thing, "size", None), Integral) and isinstance(
        getattr(thing, "resize_to", None), Integral
    )


def _load_rgb(path: str | os.PathLike, background: str) -> Image.Image:
    """Load an image file upright as 8-bit RGB, laid over the color `background` where it is transparent."""
    try:
        with Image.open(path) as photo:
            photo.load()
            photo = ImageOps.exif_transpose(photo)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{os.fspath(path)!r} is not a readable image: {error}") from error
    if photo.mode.startswith(("I", "F")):
        raise ValueError(f"{os.fspath(path)!r} has pixels of mode {photo.mode!r}; save it with 8 bits per channel")
    if photo.mode in ("RGB", "L") and "transparency" not in photo.info:
        return photo.convert("RGB")
    layer = photo.convert("RGBA")
    opaque = Image.alpha_composite(Image.new("RGBA", layer.size, background), layer)
    return opaque.convert("RGB")


def _cropped(photo: Image.Image, size: int | HasInputSize | None) -> Image.Image:
    """Resize and crop a photo, or the mask of one, to the input of that size; without a size, return it unchanged."""
    return photo if size is None else InputGeometry.of(size).crop(photo, Image.Resampling.BICUBIC)


def load_image(path: str | os.PathLike, size: int | HasInputSize | None = None) -> Tensor:
    """Load a photo as `(3, H, W)` float in [0, 1], upright and in RGB; transparent parts become white.

    Args:
        path: an image file.
        size: a classifier, an `InputGeometry(size, resize_to)`, or the side of the input in pixels. The photo's short
            side is then resized to `resize_to` pixels (bicubic), for a number to `size * 8 / 7` (256 for 224), and its
            center of `size × size` pixels is kept. By default the photo keeps its own size.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a readable image of 8 bits per channel, or if a size is not valid.
    """
    photo = _cropped(_load_rgb(path, "white"), size)
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255


def photo_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return the height and width in pixels of a photo as it stands upright, without decoding it.

    Args:
        path: an image file. Its EXIF orientation is applied.

    Raises:
        FileNotFoundError: if there is no such file.
        PIL.UnidentifiedImageError: if it is not an image file.
    """
    with Image.open(path) as photo:
        width, height = photo.size
        is_turned = photo.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (width, height) if is_turned else (height, width)


def load_mask(path: str | os.PathLike, size: int | HasInputSize | None = None) -> Tensor:
    """Load a mask as `(H, W)` float of 0 and 1, which is 1 where the file is white.

    A pixel of the mask is 1 if it is brighter than half; transparent parts of the file count as black. If no pixel is
    that bright and all pixels that are not black have one color, these are marked, as in a file of 0 and 1; in a
    drawing in black on a transparent ground, the drawing is marked. There are two kinds of mask files, which the file
    itself does not distinguish:

    - A mask that was drawn on the whole photo, at the photo's own size: pass a `size`. The mask is then resized and
      cropped as `load_image` does with the photo, so it still marks the same objects.
    - A mask that was drawn on the classifier's input, as in the `MaskEditor` on an image that `load_image` has cropped:
      load it without a `size`.

    Args:
        path: an image file.
        size: a classifier, its geometry, or the side of its input in pixels, see `load_image`. By default the mask
            keeps its own size.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a readable image of 8 bits per channel, if it has several colors or only dark
            grays, as a file of class indices has, or if a size is not valid.
    """
    grays = _cropped(_load_grays(path), size)
    return (torch.from_numpy(np.array(grays)) > 127).float()


def _load_grays(path: str | os.PathLike) -> Image.Image:
    """Load a mask file as 8-bit grays that are bright where the mask is, see `load_mask`."""
    photo = _load_rgb(path, "black")
    grays = photo.convert("L")
    shades = [shade for shade, count in enumerate(grays.histogram()) if count and shade > 0]
    if not shades:
        drawing = ImageOps.invert(_load_rgb(path, "white").convert("L"))
        is_opaque = drawing.getextrema() == (255, 255)
        return grays if is_opaque else drawing
    color = ImageChops.difference(photo, grays.convert("RGB"))
    is_colored = max(highest for _, highest in color.getextrema()) > MOST_COLOR
    if is_colored and photo.getcolors(2) is None:
        raise ValueError(f"{os.fspath(path)!r} has several colors; save one mask per concept, white on black")
    if shades[-1] > 127:
        return grays
    if len(shades) > 1:
        raise ValueError(
            f"{os.fspath(path)!r} has {len(shades)} shades of gray, of which the brightest is {shades[-1]} of 255; "
            "save one mask per concept, white on black"
        )
    return grays.point(lambda shade: 255 if shade else 0)


def _as_grays(mask: Tensor) -> Image.Image:
    """Check a mask, which may be empty, and convert it to an image of the grays 0 and 255."""
    pixels = (check_mask(mask, allow_empty=True) * 255).byte().cpu().numpy()
    return Image.fromarray(pixels)


def fit_mask(mask: Tensor, size: int | HasInputSize) -> Tensor:
    """Resize and crop a mask that was drawn on a whole photo to the part of the photo that a classifier sees.

    Args:
        mask: `(H, W)` of 0 and 1, of the size of the upright photo (after its EXIF orientation was applied).
        size: a classifier, its geometry, or the side of its input in pixels, see `load_image`.

    Returns:
        The mask `(size, size)` float of 0 and 1, the same that `load_mask` loads from a file.

    Raises:
        ValueError: if the mask or a size is not valid.
    """
    grays = _cropped(_as_grays(mask), size)
    return (torch.from_numpy(np.array(grays)) > 127).float()


def refit_mask(
    mask: Tensor,
    photo_size: tuple[int, int],
    drawn_on: HasInputSize,
    size: int | HasInputSize,
) -> Tensor:
    """Transfer a mask from the input of one classifier to that of another, for the same photo.

    A pixel of the result is 1 if at least half of its area is marked. Parts of the photo that the first classifier does
    not see count as unmarked.

    Args:
        mask: `(drawn_on.size, drawn_on.size)` of 0 and 1.
        photo_size: height and width of the upright photo (after its EXIF orientation was applied), in pixels.
        drawn_on: the classifier on whose input the mask was drawn, or its geometry.
        size: the other classifier, its geometry, or the side of its input in pixels, see `load_image`.

    Returns:
        The mask `(size, size)` float of 0 and 1.

    Raises:
        ValueError: if the mask does not have the size of the input that it was drawn on.
    """
    if tuple(mask.shape) != (drawn_on.size, drawn_on.size):
        raise ValueError(
            f"the mask has the shape {tuple(mask.shape)}, but it was drawn on an input of {drawn_on.size} pixels; "
            "pass the geometry that it was drawn on"
        )
    drawn = InputGeometry.of(drawn_on)
    wanted = InputGeometry.of(size)
    row_shares, column_shares = (_shares(wanted, drawn, side, min(photo_size)) for side in photo_size)
    marked_share = row_shares @ mask.double() @ column_shares.T
    return (marked_share >= 0.5 - 1e-9).float()


def _shares(wanted: InputGeometry, drawn: InputGeometry, side: int, short_side: int) -> Tensor:
    """Compute the share of each pixel of one input that lies in each pixel of another, along one side of the photo.

    Returns:
        The shares, `(wanted.size, drawn.size)` float64.
    """
    borders = torch.arange(wanted.size + 1, dtype=torch.float64)
    borders = drawn.from_photo(wanted.to_photo(borders, side, short_side), side, short_side)
    starts = borders[:-1, None]
    ends = borders[1:, None]
    pixels = torch.arange(drawn.size, dtype=torch.float64)
    overlaps = torch.minimum(ends, pixels + 1) - torch.maximum(starts, pixels)
    return overlaps.clamp_min(0) / (ends - starts)


def save_mask(path: str | os.PathLike, mask: Tensor) -> None:
    """Write a mask `(H, W)` of 0 and 1 as an 8-bit gray PNG, in one step."""
    grays = _as_grays(mask)
    with atomic_path(path) as temporary:
        grays.save(temporary, format="PNG", optimize=True)


# --- checks -----------------------------------------------------------------------------------------------------------


def check_image(image: Tensor, name: str = "image", dimensions: int = 3) -> Tensor:
    """Return an image, or a batch of images, if it is valid.

    Args:
        image: `(3, H, W)` in [0, 1], or a batch `(B, 3, H, W)` if `dimensions` is 4.
        name: what error messages call the image.
        dimensions: 3 for an image, 4 for a batch.

    Raises:
        ValueError: if it is not a tensor of floats of this shape and range.
    """
    shape = tuple(image.shape) if isinstance(image, Tensor) else ()
    if len(shape) != dimensions or shape[-3] != 3 or not image.is_floating_point():
        remedy = "of shape (3, H, W)" if dimensions == 3 else "of shape (B, 3, H, W); image[None] makes a batch"
        loading = ", such as load_image(path, classifier)" if isinstance(image, str | os.PathLike) else ""
        raise ValueError(f"{name} {_describe(image)}; pass a torch tensor of floats in [0, 1] {remedy}{loading}")
    low, high = image.aminmax() if image.numel() else (torch.zeros(()), torch.ones(()))
    if low.isnan():
        raise ValueError(f"{name} contains NaN; pass finite pixels in [0, 1]")
    if low < -1e-4 or high > 1 + 1e-4:  # resizing may overshoot by a rounding error
        raise ValueError(f"{name} has pixels from {low:.5g} to {high:.5g}; scale them to [0, 1], without normalization")
    return image


def check_mask(mask: Tensor, image: Tensor | None = None, allow_empty: bool = False) -> Tensor:
    """Return a mask as float if it is valid.

    Args:
        mask: `(H, W)` of zeros and ones, of any number type.
        image: the image `(…, H, W)` whose size the mask must have; None skips this check.
        allow_empty: accept a mask of zeros only.

    Raises:
        ValueError: if it is not such a tensor, if it does not fit the image, or if it is empty.
    """
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        loading = ", such as load_mask(path, classifier)" if isinstance(mask, str | os.PathLike) else ""
        raise ValueError(f"mask {_describe(mask)}; pass a torch tensor of shape (H, W) with zeros and ones{loading}")
    if image is not None and mask.shape != image.shape[-2:]:
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)} does not fit the image of shape {tuple(image.shape)}; load both with "
            "the same size, such as load_image(path, classifier) and load_mask(path, classifier)"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"the mask has the values {mask.unique()[:5].tolist()}…; pass zeros and ones only")
    if not allow_empty and not mask.any():
        raise ValueError("the mask is empty; set at least one pixel to 1")
    return mask.float()


def check_mask_names(names: Sequence[str]) -> None:
    """Raise `ValueError` for names of masks that cannot be used."""
    is_valid = all(isinstance(name, str) and name.strip() for name in names)
    if not is_valid or len(set(names)) < len(names):
        raise ValueError(f"mask names {list(names)} cannot be used; pass different names, none of them empty")


def _describe(value: Any) -> str:
    """Describe a value that is not the tensor that was needed."""
    if isinstance(value, Tensor):
        return f"has the shape {tuple(value.shape)} and the type {value.dtype}"
    if isinstance(value, str | os.PathLike):
        return f"is the path {os.fspath(value)!r}"
    return f"is a {type(value).__name__}"


# --- sets of images ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LazyImages(Sequence):
    """Image files that are loaded when they are indexed, with any index that selects images from a tensor.

    Args:
        paths: the image files.
        size: a classifier, its geometry, or the side of its input in pixels, see `load_image`.

    Raises:
        ValueError: if a size is not valid.
    """

    paths: Sequence[str | os.PathLike] = field(repr=False)
    size: int | HasInputSize

    def __post_init__(self) -> None:
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


@dataclass(frozen=True)
class LabelledImages:
    """Images with a label each.

    Args:
        images: `(N, 3, H, W)` float in [0, 1], or `LazyImages`.
        labels: `(N,)` whole numbers, indices into `classes`.
        classes: names of the classes. A name that occurs more than once gets its number, see `numbered`.
        names: a name for each image, such as the path of its file; may be empty.

    Raises:
        ValueError: if an argument has another type or shape, or if a label is not an index into `classes`.
    """

    images: Tensor | LazyImages
    labels: Tensor
    classes: Sequence[str] = field(repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        shape = tuple(images.shape) if isinstance(images, Tensor) else ()
        if not isinstance(images, LazyImages) and (len(shape) != 4 or shape[1] != 3):
            raise ValueError(f"images {_describe(images)}; pass a torch tensor of shape (N, 3, H, W) or LazyImages")
        count = len(images)
        is_whole = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.dtype != torch.bool
        if not is_whole or labels.shape != (count,):
            raise ValueError(f"labels {_describe(labels)}; pass a torch tensor of shape ({count},) with whole numbers")
        if self.names and len(self.names) != count:
            raise ValueError(f"{len(self.names)} names were given for {count} images; pass one name per image")
        if count and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise ValueError(
                f"labels range from {labels.min()} to {labels.max()}, but {len(self.classes)} class names were given; "
                f"pass labels from 0 to {len(self.classes) - 1}"
            )
        object.__setattr__(self, "classes", numbered(self.classes))

    @classmethod
    def unlabeled(cls, images: Tensor | LazyImages, classes: Sequence[str]) -> "LabelledImages":
        """Label all images with the first class, for functions that need a set with labels but do not use them."""
        return cls(images, torch.zeros(len(images), dtype=torch.long), classes)

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

    def split(self, fraction: float) -> tuple["LabelledImages", "LabelledImages"]:
        """Split the images at random into two sets, stratified by class.

        Args:
            fraction: share of the images in the first set, above 0 and below 1.

        Returns:
            A set of about this share of the images, and a set of the others.

        Raises:
            ValueError: if `fraction` is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"the split fraction is {fraction}; pass a number between 0 and 1")
        selected = stratified(self.labels, fraction, 0)
        return self.subset(selected), self.subset(~selected)


def numbered(names: Sequence[str]) -> Sequence[str]:
    """Add the index to each name that occurs more than once, such as "crane (134)" for one of ImageNet's two cranes."""
    counts = Counter(names)
    if len(counts) == len(names):
        return names
    return tuple(f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names))


Images = LabelledImages | Tensor | LazyImages
"""A set of images, with or without labels."""


def check_images(images: Any, name: str = "the set of images") -> Images:
    """Return a set of images if it has a type that can be used; its pixels are checked when they are used.

    Args:
        images: the images.
        name: what the error message calls the images.

    Raises:
        TypeError: if they have another type, such as a list or a `DataLoader`.
    """
    if not isinstance(images, Images):
        raise TypeError(f"{name} {_describe(images)}; {how_to_pass_images(images)}")
    return images


def how_to_pass_images(images: Any) -> str:
    """Describe how to pass images that were passed in another type, such as a list or a `DataLoader`."""
    remedy = "pass a tensor (N, 3, H, W), LazyImages(paths, classifier) or LabelledImages(images, labels, classes)"
    if isinstance(images, list | tuple):
        return f"{remedy}; torch.stack makes a tensor of a list of images"
    if isinstance(images, DataLoader):
        return f"{remedy}; torch.cat([batch for batch, labels in loader]) makes a tensor of a DataLoader's images"
    return remedy


def pixels_of(images: Images) -> Tensor | LazyImages:
    """Return the images `(N, 3, H, W)` of a set, without labels.

    Raises:
        TypeError: if they are neither a tensor nor `LazyImages` nor `LabelledImages`.
    """
    check_images(images)
    return images.images if isinstance(images, LabelledImages) else images


def in_batches(images: Images, size: int = 64, bar: str = "", progress: bool = False) -> Iterator[Tensor]:
    """Yield a set of images in batches `(B, 3, H, W)`, in order.

    Args:
        images: `(N, 3, H, W)`, with or without labels.
        size: images per batch.
        bar: name of the progress bar.
        progress: show the progress bar.

    Raises:
        ValueError: if `size` is not a whole number of at least 1.
    """
    pixels = pixels_of(images)
    size = check_number(size, 1, "batch size")
    starts = range(0, len(pixels), size)
    for start in tqdm(starts, bar, unit="batch", disable=not progress, leave=False):
        yield pixels[start : start + size]


def size_of(images: Images) -> tuple[int, int] | None:
    """Return the height and width of the images of a set, those of the first one; None if there is no image.

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


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Select about the same fraction of the images of each class at random.

    The rounding error of one class is carried over to the next, so the fraction of all images is right as well.

    Args:
        labels: class of each image, `(N,)`.
        fraction: share of the images that is selected.
        seed: seed of the random numbers.

    Returns:
        Which images are selected, `(N,)` booleans.
    """
    generator = torch.Generator().manual_seed(seed)
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
