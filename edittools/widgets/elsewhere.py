"""Find the images that hold a mark by their appearance, whatever is predicted of them.

    found = find_alike(cut, image, mask, images)
    found[0].index, found[0].box        # the image that is most like the mark, and where

The mean key under the mask is compared with those at other places of the images. This ranks; that an image holds the
mark, a person says.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from edittools._progress import Progress, bar_of
from edittools.classifiers import usual_batch_size
from edittools.cut import Cut
from edittools.images import evenly_spaced

STEPS = 4
"""A mark is looked for at places that are its height or width divided by this number apart."""

MOST_STEPS = 12
"""The largest number of places along one side of an image."""

MOST_SAMPLED = 64
"""The largest number of images from which the mean and the spread of the keys are computed."""


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels.

    Attributes:
        top: the first row.
        left: the first column.
        height: the number of rows.
        width: the number of columns.
    """

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def around(cls, mask: Tensor) -> "Box":
        """Return the smallest box around a mask `(H, W)` that is not empty."""
        rows = mask.any(dim=1).nonzero()[:, 0]
        columns = mask.any(dim=0).nonzero()[:, 0]
        top, left = int(rows[0]), int(columns[0])
        return cls(top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left)

    def of(self, pixels: Tensor) -> Tensor:
        """Return the part of an image `(3, H, W)` or of a mask `(H, W)` that is in the box, as a view."""
        return pixels[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def outlined_on(self, image: Tensor) -> Tensor:
        """Draw the outline of the box on an image `(3, H, W)`, in white next to black."""
        drawn = image.clone()
        _draw_border(self.of(drawn), 0.0)
        inside = Box(self.top + 1, self.left + 1, self.height - 2, self.width - 2)
        if min(inside.height, inside.width) > 0:
            _draw_border(inside.of(drawn), 1.0)
        return drawn


def _draw_border(pixels: Tensor, value: float) -> None:
    """Set the outermost pixels of a part of an image `(3, H, W)`."""
    pixels[:, [0, -1], :] = value
    pixels[:, :, [0, -1]] = value


@dataclass(frozen=True)
class Place:
    """Where an image is most like a mark.

    Attributes:
        index: the index of the image.
        box: the place of the mark.
        likeness: the cosine of the mark's mean key and that at this place, in [-1, 1]; both are standardized.
    """

    index: int
    box: Box
    likeness: float


@dataclass(frozen=True, eq=False)
class Sighting:
    """An image of a session that may hold a mark.

    Attributes:
        is_clean: whether it is one of the clean images.
        index: its index in its set.
        box: the place of the mark.
        image: the image `(3, H, W)`.
        name: its name.
        label: the index of its class; None if it has no label.
        logits: those of the image `(classes,)`, without an edit.
    """

    is_clean: bool
    index: int
    box: Box
    image: Tensor = field(repr=False)
    name: str
    label: int | None
    logits: Tensor = field(repr=False)


def find_alike(cut: Cut, image: Tensor, mask: Tensor, images: Tensor, progress: Progress | None = None) -> list[Place]:
    """Rank images by how much a part of them is like a mark.

    Args:
        cut: the classifier, cut at the layer whose keys are compared.
        image: the image `(3, H, W)` with the mark.
        mask: `(H, W)` of 0 and 1, not empty.
        images: images `(N, 3, H, W)` of the same size.
        progress: a class like `tqdm.tqdm`, for a bar.

    Returns:
        One place of each image, the most similar one first.
    """
    size = usual_batch_size(cut.classifier)
    boxes, masks = _moved(mask)
    weights = _weights_of(cut, masks)
    sampled = [_mean_keys(cut, batch, weights) for batch in evenly_spaced(images, MOST_SAMPLED).split(size)]
    spread, mean = torch.std_mean(torch.cat(sampled).flatten(0, 1), dim=0)
    spread = spread.clamp_min(1e-12)
    key_of_mark = _mean_keys(cut, image[None], _weights_of(cut, mask[None]))[0, 0]
    direction = normalize((key_of_mark - mean) / spread, dim=0)
    places = []
    with bar_of(progress, desc="looking for the mark", total=len(images), unit="image") as bar:
        for batch in images.split(size):
            keys = _mean_keys(cut, batch, weights)
            likeness, numbers = (normalize((keys - mean) / spread, dim=2) @ direction).max(dim=1)
            for most, number in zip(likeness.tolist(), numbers.tolist(), strict=True):
                places.append(Place(len(places), boxes[number], most))
            bar.update(len(batch))
    return sorted(places, key=lambda place: place.likeness, reverse=True)


def _moved(mask: Tensor) -> tuple[list[Box], Tensor]:
    """Move a mask to places all over the image.

    Returns:
        The box around the mask at each of P places, and the masks `(P, H, W)`.
    """
    own = Box.around(mask)
    height, width = mask.shape
    boxes = []
    for top in _starts(own.height, height):
        boxes += [Box(top, left, own.height, own.width) for left in _starts(own.width, width)]
    masks = torch.zeros(len(boxes), height, width)
    for moved, box in zip(masks, boxes, strict=True):
        box.of(moved)[:] = own.of(mask)
    return boxes, masks


def _starts(length: int, total: int) -> list[int]:
    """List the first rows, or columns, of the places of a mark of some length, evenly spaced."""
    last = total - length
    if not last:
        return [0]
    count = min(MOST_STEPS, -(-last * STEPS // length))
    return [round(last * step / count) for step in range(count + 1)]


def _weights_of(cut: Cut, masks: Tensor) -> Tensor:
    """Return how much each position counts in the mean over each mask `(P, H, W)`; each row adds up to 1."""
    weights = cut.pool_mask(masks).flatten(1)
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)


def _mean_keys(cut: Cut, images: Tensor, weights: Tensor) -> Tensor:
    """Average the keys of images over each place; return `(B, P, C)` on the CPU."""
    keys = cut.keys(cut.prefix(images))
    positions = (keys if cut.is_linear else keys.movedim(1, -1)).flatten(1, -2)
    return (weights.to(positions) @ positions).float().cpu()
