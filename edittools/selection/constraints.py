"""Constraints: what a selected edit may cost on the clean and on the retained images, and what an edit costs there."""

from dataclasses import dataclass
from math import ceil, log

from torch import Tensor

from edittools._checks import check_amount
from edittools.edits import Edit
from edittools.metrics import Comparison
from edittools.selection.activations import CachedActivations

CONFIDENCE = 0.95
"""Confidence with which at most `max_retain_broken` percent of the retained images are broken."""


@dataclass(frozen=True)
class Constraints:
    """What a selected edit may cost.

    Args:
        max_accuracy_drop: points of accuracy that an edit may lose on the clean images (section 4.2 of the paper).
        max_retain_broken: percent of the retained images that an edit may break. It limits the upper end of a one-sided
            95% interval of this percentage (Clopper and Pearson).

    Raises:
        ValueError: if one of the two is not a finite number of at least 0.
    """

    max_accuracy_drop: float = 0.25
    max_retain_broken: float = 3.0

    def __post_init__(self) -> None:
        check_amount(self.max_accuracy_drop, "max_accuracy_drop", 0)
        check_amount(self.max_retain_broken, "max_retain_broken", 0)

    @property
    def clean_images_needed(self) -> int:
        """The smallest number of clean images of which one is at most `max_accuracy_drop` points; 0 if that is 0."""
        return ceil(100 / self.max_accuracy_drop - 1e-9) if self.max_accuracy_drop else 0

    @property
    def retained_images_needed(self) -> int:
        """The smallest number of retained images that can show that at most `max_retain_broken` percent are broken.

        It is 0 if the limit is 0 or 100%.
        """
        if self.max_retain_broken == 0 or self.max_retain_broken >= 100:
            return 0
        return ceil(log(1 - CONFIDENCE) / log(1 - self.max_retain_broken / 100))

    def may_lose(self, clean: int) -> int:
        """Return by how many images an edit may lower the number of correct clean images.

        Args:
            clean: number of clean images.
        """
        return int(self.max_accuracy_drop * clean / 100 + 1e-9)

    def may_break(self, retained: int) -> int:
        """Return how many retained images an edit may break.

        Fewer than 99 images cannot show that an edit breaks at most 3%; then it may break none.

        Args:
            retained: number of retained images.
        """
        from scipy.stats import binom

        if self.max_retain_broken >= 100:
            return retained
        fewest_plausible = int(binom.ppf(1 - CONFIDENCE, retained, self.max_retain_broken / 100))  # at the limit
        return max(fewest_plausible - 1, 0)

    def describe(self, clean: int, retained: int | None = None) -> str:
        """Describe how many of these images an edit may lose or break, and whether they are too few.

        Args:
            clean: number of clean images.
            retained: number of retained images; None if there are none.
        """
        text = (
            f"at most {self.max_accuracy_drop:.3g} points of accuracy on {clean:,} clean images: one is "
            f"{100 / max(clean, 1):.2f} points, {self.may_lose(clean) or 'none'} may be lost"
        )
        if clean < self.clean_images_needed:
            text += f"; with fewer than {self.clean_images_needed} the constraint is coarse"
        if retained is None:
            return text
        allowed = self.may_break(retained)
        text += f"; {allowed or 'none'} of {retained:,} retained images may break"
        if retained < self.retained_images_needed:
            text += f", but so few cannot show that no more than {self.max_retain_broken:g}% break"
        return text


class ConstraintCheck:
    """Measure what edits cost on the clean and the retained images.

    A measurement stops as soon as the edit violates a constraint. It is remembered.

    Args:
        clean: the cached clean images.
        retain: the cached retained images; None if there are none.
    """

    def __init__(self, clean: CachedActivations, retain: CachedActivations | None = None) -> None:
        self.clean = clean
        self.retain = retain
        self._measured: dict[tuple, tuple[Comparison, Comparison | None] | None] = {}

    def measure(
        self, edit: Edit, strength: float, constraints: Constraints
    ) -> tuple[Comparison, Comparison | None] | None:
        """Compare the clean and the retained images before and after an edit.

        Args:
            edit: the edit.
            strength: factor α by which it is scaled.
            constraints: what it may cost.

        Returns:
            The comparison of the clean images, and that of the retained images (None if there are none). If the edit
            violates a constraint, None instead of both.
        """
        key = (edit, strength, constraints)
        if key not in self._measured:
            self._measured[key] = self._measure(edit, strength, constraints)
        return self._measured[key]

    def unedited(self) -> tuple[Comparison, Comparison | None]:
        """Return what `measure` returns for an edit that changes nothing."""
        clean = self.clean.before
        if self.retain is None:
            return Comparison(clean, clean), None
        retain = self.retain.before
        return Comparison(clean, clean), Comparison(retain, retain)

    def _measure(
        self, edit: Edit, strength: float, constraints: Constraints
    ) -> tuple[Comparison, Comparison | None] | None:
        retain = None
        if self.retain is not None:
            allowed = constraints.may_break(len(self.retain.before))

            def breaks_too_many(before: Tensor, after: Tensor) -> bool:
                return int((after & ~before).sum()) > allowed

            retain = self.retain.compare(edit, strength, breaks_too_many)
            if retain is None:
                return None
        errors_before = int(self.clean.before.sum())
        images = len(self.clean.before)

        def costs_too_much(before: Tensor, after: Tensor) -> bool:
            """Return whether the images so far hold more errors than all images may have."""
            return 100 * (errors_before - int(after.sum())) / images < -constraints.max_accuracy_drop

        clean = self.clean.compare(edit, strength, costs_too_much)
        return None if clean is None else (clean, retain)
