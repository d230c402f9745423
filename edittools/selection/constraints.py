"""Constraints on what an edit may cost on clean images, and on images that rely on the concept legitimately."""

from dataclasses import dataclass
from math import ceil

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
        from scipy.stats import beta

        if self.max_retain_broken >= 100:
            return retained
        for count in range(1, retained):
            if 100 * beta.ppf(CONFIDENCE, count + 1, retained - count) > self.max_retain_broken:
                return count - 1
        return 0

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
        if not allowed and retained < 99:
            text += f", but so few cannot show that no more than {self.max_retain_broken:g}% break"
        return text


class ConstraintCheck:
    """Measure what edits cost on the clean and the retained images.

    A measurement stops as soon as the edit violates a constraint. It is remembered, and repeated only for other
    constraints or if other edits are applied to the model.

    Args:
        clean: the cached clean images.
        retain: the cached retained images; None if there are none.
    """

    def __init__(self, clean: CachedActivations, retain: CachedActivations | None = None) -> None:
        self.clean = clean
        self.retain = retain
        self._measured: dict[tuple, tuple[Comparison, Comparison | None] | None] = {}

    def check_model(self) -> None:
        """Check that nothing but edits has changed the model, see `CachedActivations.check_model`."""
        self.clean.check_model()
        if self.retain is not None:
            self.retain.check_model()

    def measure(
        self, edit: Edit, constraints: Constraints, checked: bool = False
    ) -> tuple[Comparison, Comparison | None] | None:
        """Compare the clean and the retained images before and after an edit.

        Args:
            edit: the edit.
            constraints: what it may cost.
            checked: `check_model` was called a moment ago; do not compare the model's weights again.

        Returns:
            The comparison of the clean images, and that of the retained images (None if there are none). If the edit
            violates a constraint, None instead of both.
        """
        key = (edit, constraints, self.clean.applied)
        if key not in self._measured:
            self._measured[key] = self._measure(edit, constraints, checked)
        return self._measured[key]

    def unedited(self) -> tuple[Comparison, Comparison | None]:
        """Return what `measure` returns for an edit that changes nothing."""
        clean = self.clean.before
        if self.retain is None:
            return Comparison(clean, clean), None
        retain = self.retain.before
        return Comparison(clean, clean), Comparison(retain, retain)

    def _measure(
        self, edit: Edit, constraints: Constraints, checked: bool
    ) -> tuple[Comparison, Comparison | None] | None:
        retain = None
        if self.retain is not None:
            retain_before = self.retain.before
            allowed = constraints.may_break(len(retain_before))

            def breaks_too_many(after: Tensor) -> bool:
                broken = after & ~retain_before[: len(after)]
                return int(broken.sum()) > allowed

            retain = self.retain.compare(edit, breaks_too_many, checked)
            if retain is None:
                return None
        errors_before = int(self.clean.before.sum())
        images = len(self.clean.before)

        def costs_too_much(after: Tensor) -> bool:
            return 100 * (errors_before - int(after.sum())) / images < -constraints.max_accuracy_drop

        clean = self.clean.compare(edit, costs_too_much, checked)
        return None if clean is None else (clean, retain)
