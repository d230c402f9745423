"""Find where images show a mark, by its appearance in a layer, whatever is predicted of them.

    found = find_alike(cut, [(image, mask)], images)
    found.places[0].index, found.places[0].box      # the image that is most like the mark, and where

The mean key under the mask is compared with those at other places of the images. This ranks; that an image holds the
mark, a person says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from edittools._progress import Progress
from edittools.classifiers import usual_batch_size
from edittools.cut import Cut, State
from edittools.images import Images, evenly_spaced, in_batches

STEPS = 4
"""A mark is looked for at places that are its height or width divided by this number apart."""

MOST_STEPS = 16
"""The largest number of steps along one side of an image."""

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

    @classmethod
    def square(cls, top: int, left: int, side: int) -> "Box":
        """Return a box that is as wide as it is high."""
        return cls(top, left, side, side)

    def of(self, pixels: Tensor) -> Tensor:
        """Return the part of images `(..., H, W)` or of masks that is in the box, as a view."""
        return pixels[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def mask(self, height: int, width: int) -> Tensor:
        """Return a mask `(height, width)` that is 1 in the box."""
        mask = torch.zeros(height, width)
        self.of(mask)[:] = 1
        return mask

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
class Match:
    """Where an image is most like a mark.

    Attributes:
        index: the index of the image.
        box: the place of the mark.
        likeness: the mean cosine of the key at this place and those of the examples, in [-1, 1]; keys are standardized.
    """

    index: int
    box: Box
    likeness: float


@dataclass(frozen=True, eq=False)
class Matches:
    """Images ranked by how much a part of them is like a mark.

    Attributes:
        places: one place of each image, the most similar one first.
        likeness_of_examples: how much each example is like the others, `(E,)`; NaN for a single one.
    """

    places: list[Match] = field(repr=False)
    likeness_of_examples: Tensor


def find_alike(
    cut: Cut, examples: Sequence[tuple[Tensor, Tensor]], images: Images, progress: Progress | None = None
) -> Matches:
    """Rank images by how much a part of them is like a mark.

    Args:
        cut: the classifier, cut at the layer whose keys are compared.
        examples: images `(3, H, W)` that show the mark, each with a mask `(H, W)` of 0 and 1 that is not empty.
        images: images `(N, 3, H, W)` of the same size, in which the mark is looked for.
    """
    size = usual_batch_size(cut.classifier)
    boxes, masks = moved([mask for _, mask in examples])
    weights = weights_of(cut, masks)
    sampled = in_batches(evenly_spaced(images, MOST_SAMPLED), size)
    ordinary = [mean_keys(cut, cut.prefix(batch), weights) for batch in sampled]
    # The keys at all places are standardized: else a few channels, large everywhere, would decide what is alike.
    spread, mean = torch.std_mean(torch.cat(ordinary).flatten(0, 1), dim=0)
    spread = spread.clamp_min(1e-12)
    of_examples = [mean_keys(cut, cut.prefix(image[None]), weights_of(cut, mask[None])) for image, mask in examples]
    directions = normalize((torch.cat(of_examples)[:, 0] - mean) / spread, dim=1)
    places: list[Match] = []
    for batch in in_batches(images, size, "looking for the mark", progress):
        keys = mean_keys(cut, cut.prefix(batch), weights)
        likeness = (normalize((keys - mean) / spread, dim=2) @ directions.T).mean(dim=2)
        most_alike, numbers = likeness.max(dim=1)
        for most, number in zip(most_alike.tolist(), numbers.tolist(), strict=True):
            places.append(Match(len(places), boxes[number], most))
    similarity = directions @ directions.T
    to_others = (similarity.sum(dim=1) - similarity.diagonal()) / (len(examples) - 1)
    return Matches(sorted(places, key=lambda place: place.likeness, reverse=True), to_others)


def moved(examples: Sequence[Tensor]) -> tuple[list[Box], Tensor]:
    """Move each different mask to places all over the image.

    Returns:
        The box around the mask at each of P places, and the masks `(P, H, W)`.
    """
    shapes: list[Tensor] = []
    for mask in examples:
        shape = Box.around(mask).of(mask)
        if not any(torch.equal(shape, other) for other in shapes):
            shapes.append(shape)
    height, width = examples[0].shape
    boxes = []
    masks = []
    for shape in shapes:
        tall, wide = shape.shape
        for top in _starts(tall, height):
            for left in _starts(wide, width):
                box = Box(top, left, tall, wide)
                moved = torch.zeros(height, width)
                box.of(moved)[:] = shape
                boxes.append(box)
                masks.append(moved)
    return boxes, torch.stack(masks)


def _starts(length: int, total: int) -> list[int]:
    """List the first rows, or columns, of the places of a mark of some length, evenly spaced."""
    last = total - length
    if not last:
        return [0]
    count = min(MOST_STEPS, -(-last * STEPS // length))
    return [round(last * step / count) for step in range(count + 1)]


def weights_of(cut: Cut, masks: Tensor) -> Tensor:
    """Return how much each position counts in the mean over each mask `(M, H, W)`; each row adds up to 1."""
    weights = cut.pool_mask(masks).flatten(1)
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)


def mean_keys(cut: Cut, state: State, weights: Tensor) -> Tensor:
    """Average the keys of images over masks.

    Args:
        state: the state of B images at the layer.
        weights: those of M masks, `(M, P)`, or of masks of each image, `(B, M, P)`, see `weights_of`.

    Returns:
        The means `(B, M, C)` on the CPU.
    """
    keys = cut.keys(state)
    positions = (keys if cut.is_linear else keys.movedim(1, -1)).flatten(1, -2)
    return (weights.to(positions) @ positions).float().cpu()
