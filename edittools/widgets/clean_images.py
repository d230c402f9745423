"""The clean images of a session, of which those that show the mark are taken out."""

from collections.abc import Collection, Sequence

from torch import Tensor

from edittools.images import LabelledImages
from edittools.scenes import first_of_each, scenes_of
from edittools.selection.splits import split_ordinary
from edittools.widgets.image_sets import with_names

LEAST_CLEAN = 3
"""The smallest number of clean images that an edit can be selected with."""


class CleanImages:
    """Clean images: some select an edit and define C, and accuracy is measured on the others.

    Args:
        data: the clean images; for those without a label of their own, the prediction.
        is_labeled: whether each has a label of its own, `(N,)` booleans.

    Attributes:
        data: all of them, with names, also those that were taken out.
        is_labeled: whether each of these has a label of its own.
        left: the indices of those that were not taken out.
        current: those that were not taken out.
        reference: those of them that select an edit and define C: half of the scenes, at most 300.
        reference_scenes: the number of scenes that these show.
        measured: the others, on which accuracy is measured; None if there are none.
    """

    def __init__(self, data: LabelledImages, is_labeled: Tensor) -> None:
        self.data = with_names(data)
        self.is_labeled = is_labeled
        self._divide(range(len(data)), self.data)

    def take_out(self, indices: Collection[int]) -> LabelledImages:
        """Take images out, and return them.

        Args:
            indices: their indices, none of which was taken out before.

        Raises:
            ValueError: if too few would be left.
        """
        left = [index for index in self.left if index not in indices]
        if len(left) < LEAST_CLEAN:
            raise ValueError(
                f"{len(indices)} of {len(self.left)} clean images would no longer be clean images; leave at least "
                f"{LEAST_CLEAN}, or start with more clean images"
            )
        self._divide(left, self.data.subset(left))
        return self.data.subset(list(indices))

    def _divide(self, left: Sequence[int], current: LabelledImages) -> None:
        """Divide the images that are left."""
        self.left = list(left)
        self.current = current
        self.reference, measured = split_ordinary(current)
        self.reference_scenes = int(first_of_each(scenes_of(self.reference)).sum())
        self.measured = measured if len(measured) else None

    @property
    def note(self) -> str:
        """How they are divided, in a sentence."""
        measured = len(self.current) - len(self.reference)
        return (
            f"Of {len(self.current)} clean images, {len(self.reference)} select an edit; accuracy is measured on the "
            f"other {measured}."
        )
