"""Constraints: what an edit may cost on clean, retained, and own-class images, and what an edit costs there."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil

import torch
from torch import Tensor

from edittools._checks import check_amount
from edittools.activations import COMPARED_FIRST, CachedActivations
from edittools.edits import Edit
from edittools.metrics import Comparison, label_margins

COST_SPLITS = ("retain", "own_class", "clean")
"""The splits on which an edit may cost something, in the order in which they are measured."""

FEWEST_COMPARED = 20
"""With fewer own-class images, or fewer clean images of this class, the cost on the own class is not measured."""


@dataclass(frozen=True)
class Constraints:
    """What an edit may cost.

    Args:
        max_accuracy_drop: points of accuracy that an edit may lose on the clean images (section 4.2 of the paper).
        max_retain_broken: percent of the retained images that an edit may break, of those that were correct before.
        max_own_drop: by how many points the accuracy on images of the concept's own class may be lower with the concept
            than without it.

    Raises:
        ValueError: if one of them is not a finite number of at least 0.
    """

    max_accuracy_drop: float = 0.25
    max_retain_broken: float = 3.0
    max_own_drop: float = 3.0

    def __post_init__(self) -> None:
        check_amount(self.max_accuracy_drop, "max_accuracy_drop", 0)
        check_amount(self.max_retain_broken, "max_retain_broken", 0)
        check_amount(self.max_own_drop, "max_own_drop", 0)

    @property
    def halved(self) -> "Constraints":
        """Half of what is allowed: what `repair` asks of a selection, since the best of hundreds lies at its limit."""
        return Constraints(self.max_accuracy_drop / 2, self.max_retain_broken / 2, self.max_own_drop / 2)

    @property
    def clean_images_needed(self) -> int:
        """The smallest number of clean images of which one is at most `max_accuracy_drop` points; 0 if that is 0."""
        return ceil(100 / self.max_accuracy_drop - 1e-9) if self.max_accuracy_drop else 0

    def may_lose(self, clean: int) -> int:
        """Return by how many images an edit may lower the number of correct clean images.

        Args:
            clean: number of clean images.
        """
        return _part_of(clean, self.max_accuracy_drop)

    def may_break(self, correct: int) -> int:
        """Return how many retained images an edit may break.

        Args:
            correct: number of retained images that are correct without an edit.
        """
        return _part_of(correct, self.max_retain_broken)

    def most_wrong(self, split: str, before: Tensor, accuracy_without_concept: float = 1.0) -> int:
        """Return how many images of a split may be misclassified with an edit; of retained images, how many may break.

        Args:
            split: one of `COST_SPLITS`.
            before: which of its images are misclassified without an edit, `(N,)` booleans.
            accuracy_without_concept: for the own class, its accuracy on images without the concept, in [0, 1].
        """
        images = len(before)
        errors = int(before.sum())
        if split == "clean":
            return errors + self.may_lose(images)
        if split == "retain":
            return self.may_break(images - errors)
        return _part_of(images, 100 * (1 - accuracy_without_concept) + self.max_own_drop)

    def describe(self, clean: int, retained: int | None = None) -> str:
        """Describe how many of these images an edit may lose or break, and whether they are too few.

        Args:
            clean: number of clean images.
            retained: number of retained images that are correct without an edit; None if there are none.
        """
        text = (
            f"at most {self.max_accuracy_drop:.3g} points of accuracy on {clean:,} clean images: one is "
            f"{100 / max(clean, 1):.2f} points, {self.may_lose(clean) or 'none'} may be lost"
        )
        if clean < self.clean_images_needed:
            text += f"; with fewer than {self.clean_images_needed} the constraint is coarse"
        if retained is None:
            return text
        return f"{text}; {self.may_break(retained) or 'none'} of {retained:,} correct retained images may break"


def _part_of(images: int, percent: float) -> int:
    """Return the largest number of images that is at most a percentage of them."""
    return int(percent * images / 100 + 1e-9)


@dataclass(frozen=True)
class Costs:
    """What an edit does to the images of the splits on which it may cost something.

    Attributes:
        comparisons: comparison of the images of each split, by its name.
        is_within: whether the edit satisfies the constraints, without an edit's fold: of all images, and then of those
            outside of each fold, `(1 + folds,)` booleans.
    """

    comparisons: Mapping[str, Comparison]
    is_within: Tensor

    def satisfies(self, without: int | None = None) -> bool:
        """Return whether the edit satisfies the constraints on all images, or on those outside of a fold."""
        return bool(self.is_within[0 if without is None else 1 + without])


class ConstraintCheck:
    """Measure what edits cost.

    A measurement stops as soon as the edit violates a constraint on all images and outside of each fold. It is
    remembered.

    Args:
        activations: the cached activations of the splits, by name.
        folds: number of each image's fold, `(N,)`, by the name of the split, see `Splits`.
        accuracy_without_concept: the accuracy on images of the concept's own class without the concept, in [0, 1]; None
            if it is not known, so that there is no constraint on that class.
    """

    def __init__(
        self,
        activations: Mapping[str, CachedActivations],
        folds: Mapping[str, Tensor] | None = None,
        accuracy_without_concept: float | None = None,
    ) -> None:
        self.splits = {name: activations[name] for name in COST_SPLITS if name in activations}
        self.folds = folds or {}
        self.accuracy_without_concept = accuracy_without_concept
        self._measured: dict[tuple, Costs | None] = {}
        self._screened: dict[tuple, Tensor] = {}
        self._limits: dict[Constraints, dict[str, Tensor]] = {}

    @cached_property
    def parts(self) -> dict[str, Tensor]:
        """Which images of each split are all of them, and outside of each fold, `(1 + folds, N)` booleans."""
        count = len(self.folds["target"].unique()) if self.folds else 0
        parts = {}
        for name, cached in self.splits.items():
            everything = torch.ones(1, len(cached.before), dtype=torch.bool)
            folds = self.folds.get(name, torch.full_like(cached.labels, -1))
            outside = folds != torch.arange(count)[:, None]
            parts[name] = torch.cat([everything, outside])
        return parts

    @cached_property
    def screened(self) -> dict[str, Tensor]:
        """Which images of each part of a split are compared first, `(1 + folds, N)` booleans, see `screen`.

        They are those nearest to the decision boundary, `COMPARED_FIRST` of the images of the part, so that they do not
        depend on images outside of it.
        """
        screened = {}
        for name, cached in self.splits.items():
            margins = label_margins(cached.original, cached.labels).abs()
            is_screened = torch.zeros_like(self.parts[name])
            for number, part in enumerate(self.parts[name]):
                members = part.nonzero()[:, 0]
                most = ceil(COMPARED_FIRST * len(members))
                is_screened[number, members[margins[members].argsort(stable=True)[:most]]] = True
            screened[name] = is_screened
        return screened

    def measure(self, edit: Edit, strength: float, constraints: Constraints) -> Costs | None:
        """Compare the images before and after an edit.

        Args:
            edit: the edit.
            strength: factor α by which it is scaled.
            constraints: what it may cost.

        Returns:
            The costs. None if the edit violates a constraint on all images, and outside of each fold.
        """
        key = (edit, strength, constraints)
        if key not in self._measured:
            self._measured[key] = self._measure(edit, strength, constraints)
        return self._measured[key]

    def screen(self, edit: Edit, strength: float, constraints: Constraints, without: int | None) -> bool:
        """Tell whether an edit seems to satisfy the constraints: on the images of each split that it breaks first.

        Args:
            edit: the edit.
            strength: factor α by which it is scaled.
            constraints: what it may cost.
            without: number of a fold whose images do not count; by default, all images do.
        """
        key = (edit, strength, constraints)
        if key not in self._screened:
            is_within = torch.ones(len(next(iter(self.parts.values()))), dtype=torch.bool)
            for name, cached in self.splits.items():
                if is_within.any():
                    is_screened = self.screened[name]
                    count = int(is_screened.any(dim=0)[cached.order].nonzero().max()) + 1
                    stop = partial(self._violates_all_screened, name, constraints, is_within)
                    after = cached.wrong_among_first(count, edit, strength, stop)
                    wrong = torch.where(is_screened, after, cached.before)
                    is_within = is_within & ~self._violates(name, constraints, wrong)
            self._screened[key] = is_within
        return bool(self._screened[key][0 if without is None else 1 + without])

    def unedited(self) -> dict[str, Comparison]:
        """Return the comparisons for an edit that changes nothing, by the name of the split."""
        return {name: Comparison(cached.before, cached.before) for name, cached in self.splits.items()}

    def _measure(self, edit: Edit, strength: float, constraints: Constraints) -> Costs | None:
        is_within = torch.ones(len(next(iter(self.parts.values()))), dtype=torch.bool)
        comparisons = {}
        for name, cached in self.splits.items():
            stop = partial(self._violates_all, name, constraints, is_within)
            comparison = cached.compare(edit, strength, stop)
            if comparison is None:
                return None
            comparisons[name] = comparison
            is_within = is_within & ~self._violates(name, constraints, comparison.after)
        return Costs(comparisons, is_within)

    def _violates_all(self, name: str, constraints: Constraints, is_within: Tensor, wrong: Tensor) -> bool:
        """Return whether no part is left that satisfied the constraints so far, and does so on this split."""
        return not bool((is_within & ~self._violates(name, constraints, wrong)).any())

    def _violates_all_screened(self, name: str, constraints: Constraints, is_within: Tensor, wrong: Tensor) -> bool:
        """Return whether no part is left that satisfied the constraints so far, and may do so on this split."""
        return self._violates_all(name, constraints, is_within, wrong & self.screened[name])

    def _violates(self, name: str, constraints: Constraints, wrong: Tensor) -> Tensor:
        """Tell in which parts of a split too many images are misclassified with an edit, `(1 + folds,)` booleans.

        Args:
            name: the name of the split.
            constraints: what the edit may cost.
            wrong: which images are misclassified with it, `(N,)` booleans, or `(1 + folds, N)` for each part.
        """
        if name == "own_class" and self.accuracy_without_concept is None:
            return torch.zeros(len(self.parts[name]), dtype=torch.bool)
        counted = wrong & ~self.splits[name].before if name == "retain" else wrong
        return (self.parts[name] & counted).sum(dim=1) > self._most_wrong(constraints)[name]

    def _most_wrong(self, constraints: Constraints) -> dict[str, Tensor]:
        """Return how many images may be misclassified in each part of each split, `(1 + folds,)` by name."""
        if constraints not in self._limits:
            accuracy = 1.0 if self.accuracy_without_concept is None else self.accuracy_without_concept
            limits = {}
            for name, cached in self.splits.items():
                parts = self.parts[name]
                limits[name] = torch.tensor(
                    [constraints.most_wrong(name, cached.before[part], accuracy) for part in parts]
                )
            self._limits[constraints] = limits
        return self._limits[constraints]
