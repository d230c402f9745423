"""The part of a photo that a classifier sees, and masks that are transferred from one such part to another."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, TypeGuard

from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import center_crop, resize

from edittools._checks import check_number


class HasInputSize(Protocol):
    """Anything with the attributes `size` and `resize_to`, such as a `Classifier`; both are in pixels."""

    @property
    def size(self) -> int:
        """Side of the input."""

    @property
    def resize_to(self) -> int:
        """Short side of the photo before the crop."""


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
            resize_to: short side before the crop, in pixels; by default the classifier's, or `size * 8 / 7` (256
                for 224).

        Raises:
            ValueError: if `size` is not a whole number of at least 1, or if `resize_to` is smaller than `size`.
        """
        if _has_input_size(size):
            resize_to = size.resize_to if resize_to is None else resize_to
            size = size.size
        size = check_number(size, "size", 1)
        usual = round(size * 8 / 7)
        resize_to = check_number(usual if resize_to is None else resize_to, "resize_to", size)
        return cls(size, resize_to)

    def crop(self, photo: Image.Image, interpolation: Image.Resampling) -> Image.Image:
        """Resize a photo, or the mask of one, and keep its center."""
        resized_photo = resize(photo, self.resize_to, interpolation=interpolation)
        return center_crop(resized_photo, [self.size, self.size])

    def on_photo(self, values: Tensor, height: int, width: int) -> Tensor:
        """Lay values of the input's pixels over a photo.

        Args:
            values: `(size, size)`.
            height: height of the photo, in pixels.
            width: width of the photo, in pixels.

        Returns:
            The values `(height, width)`; they are 0 where the input does not show the photo.
        """
        sides = [self.resized_side_and_offset(side, min(height, width)) for side in (height, width)]
        (resized_height, top), (resized_width, left) = sides
        laid = values.new_zeros(resized_height, resized_width)
        laid[top : top + self.size, left : left + self.size] = values
        return interpolate(laid[None, None], (height, width), mode="bilinear")[0, 0]

    def resized_side_and_offset(self, side: int, short_side: int) -> tuple[int, int]:
        """Return the length of a side after `resize`, and where `center_crop` starts on it."""
        resized_side = int(self.resize_to * side / short_side)
        offset = round((resized_side - self.size) / 2)
        return resized_side, offset


def _has_input_size(thing: Any) -> TypeGuard[HasInputSize]:
    return isinstance(getattr(thing, "size", None), Integral) and isinstance(
        getattr(thing, "resize_to", None), Integral
    )
