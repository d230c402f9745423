"""The rule of choice: the best trial on validation images within an accuracy budget and a bound on kept images."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from edittools.edits import Edit
from edittools.images import stratified
from edittools.metrics import Comparison
from edittools.selection.activations import CachedStates
from edittools.selection.trials import MEASURED, counted

BUDGET = 0.25
"""Points of accuracy that a chosen edit may cost on the budget images (section 4.2)."""

FEW = 400
"""With fewer budget images, one image is more than `BUDGET` points."""

KEEP = 3.0
"""Points of the kept images that a chosen edit may break, at most, with 95 % confidence."""

FOLDS = 5
"""Parts of the images for cross-validation."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The trial that was chosen: its edit, settings, and what it did to the validation and the budget images.

    `validation` holds `corrected`, `broken` and `loss`. `budget` compares the budget images before and after, `kept`
    the kept ones that bound the choice. `table` has one row for each of the `trials`. Where no trial with a net gain
    kept the bounds, the edit is scaled by 0 and there are no settings.

    By cross-validation `held_out` compares each validation image with the edit chosen without it, see `folds`.
    """

    edit: Edit
    settings: Mapping[str, Any]
    validation: Mapping[str, float]
    budget: Comparison = field(repr=False)
    kept: Comparison | None = field(repr=False)
    table: pd.DataFrame = field(repr=False)
    trials: int
    seconds: float = float("nan")
    held_out: Comparison | None = field(default=None, repr=False)
    folds: "tuple[Choice, ...]" = field(default=(), repr=False)

    @property
    def found(self) -> bool:
        """Whether any trial helped within the bounds."""
        return bool(self.settings)

    @property
    def edges(self) -> tuple[str, ...]:
        """Name the settings whose value is the least or the largest that was tried; 0 and rank 1 have none below."""
        found = []
        for name in self.table.columns.intersection(list(self.settings), sort=False):
            value, tried = self.settings[name], pd.to_numeric(self.table[name], errors="coerce").dropna()
            outermost = tried.nunique() > 1 and value in (tried.min(), tried.max())
            if outermost and value and (name, value) != ("rank", 1) and name != "masked":
                found.append(name)
        return tuple(found)

    @property
    def accuracy_change(self) -> float:
        """The accuracy change on the budget images, in points."""
        return self.budget.accuracy_change

    def __str__(self) -> str:
        if not self.found:
            return "nothing"
        in_order = sorted(self.settings.items(), key=lambda setting: isinstance(setting[1], int | float))
        said = ", ".join(filter(None, (_said(name, value) for name, value in in_order)))
        return said + (f" (edge of the grid: {', '.join(self.edges)})" if self.edges else "")


def _said(name: str, value: Any) -> str:
    """Say one setting in words."""
    if name == "masked":
        return "mask" if value else "no mask"
    if value is None:
        return f"full {name}"
    return value if isinstance(value, str) else f"{'α' if name == 'strength' else name} {value:g}"


class Bounds:
    """What a selected edit may cost: points of accuracy on budget images, and `most_broken` of the kept images.

    Each edit is measured once for a budget under the same applied edits, however often it is asked for.
    """

    def __init__(self, budget_images: CachedStates, kept_images: CachedStates | None = None) -> None:
        self.budget_images = budget_images
        self.kept_images = kept_images
        self._measured: dict[tuple, tuple[Comparison, Comparison | None] | None] = {}

    def measure(self, edit: Edit, budget: float) -> tuple[Comparison, Comparison | None] | None:
        """Compare the budget and the kept images before and after an edit; None if it costs more than it may."""
        key = (edit, budget, self.budget_images.applied)
        if key not in self._measured:
            self._measured[key] = self._measure(edit, budget)
        return self._measured[key]

    def _measure(self, edit: Edit, budget: float) -> tuple[Comparison, Comparison | None] | None:
        kept = None
        if self.kept_images is not None:
            kept_before = self.kept_images.before
            most = most_broken(len(kept_before))

            def breaks_too_many(after: Tensor) -> bool:
                broken = after & ~kept_before[: len(after)]
                return int(broken.sum()) > most

            kept = self.kept_images.compare(edit, breaks_too_many)
            if kept is None:
                return None
        errors_before = int(self.budget_images.before.sum())
        images = len(self.budget_images.before)

        def costs_too_much(after: Tensor) -> bool:
            return 100 * (errors_before - int(after.sum())) / images < -budget

        compared = self.budget_images.compare(edit, costs_too_much)
        return None if compared is None else (compared, kept)

    def choose(self, table: pd.DataFrame, budget: float = BUDGET) -> Choice:
        """Choose the trial of lowest loss in a table of `sweep` that has a net gain and costs at most `budget` points.

        The loss ranks, not the count of corrections, which many trials share: the most fortunate of hundreds is not the
        best. Where no such trial keeps the bounds, the choice is the edit that changes nothing.
        """
        if table.empty:
            raise ValueError(
                "no trial: expected settings and strengths, and a rank that the keys at the mask span in some layer"
            )
        order = table.sort_values("loss", kind="stable")
        for _, row in order[order.net > 0].iterrows():
            if measured := self.measure(row.edit, budget):
                tried = row.drop(row.index.intersection(MEASURED)).to_dict()
                settings = {name: value for name, value in tried.items() if value == value}  # NaN: another trial's
                figures = row[["corrected", "broken", "loss"]].to_dict()
                return Choice(row.edit, settings, figures, *measured, table, len(table))
        figures = {"corrected": 0, "broken": 0, "loss": float("nan")}
        nothing = 0 * order.edit.iloc[0]
        budget_images = _unchanged(self.budget_images)
        kept_images = None if self.kept_images is None else _unchanged(self.kept_images)
        return Choice(nothing, {}, figures, budget_images, kept_images, table, len(table))


def _unchanged(images: CachedStates) -> Comparison:
    """Compare images with themselves."""
    before = images.before
    return Comparison(before, before)


def cross_validated(
    table: pd.DataFrame, before: Tensor, folds: Tensor, bounds: Bounds, budget: float = BUDGET
) -> Choice:
    """Choose on all validation images, and for each fold of them on the others, which alone read it.

    `before` `(N,)` says which images are misread unedited, `folds` `(N,)` numbers the fold of each. Where no trial can
    be chosen without a fold, its images are held out as they were.
    """
    after, choices = before.clone(), []
    for fold in folds.unique().tolist():
        here = folds == fold
        choices.append(choice := bounds.choose(counted(table, before, ~here), budget))
        if choice.found:
            wrong = next(wrong for edit, wrong in zip(table.edit, table.wrong, strict=True) if edit is choice.edit)
            after[here] = wrong[here]
    return replace(bounds.choose(table, budget), held_out=Comparison(before, after), folds=tuple(choices))


def folds_of(labels: Tensor) -> Tensor:
    """Part images into folds at random, class by class: the number of each image's fold, `(N,)`."""
    folds, count = torch.full((len(labels),), -1), min(FOLDS, len(labels))
    for number in range(count - 1):
        left = (folds < 0).nonzero()[:, 0]
        folds[left[stratified(labels[left], 1 / (count - number), seed=0)]] = number
    return torch.where(folds < 0, count - 1, folds)


def most_broken(images: int) -> int:
    """Return how many kept images an edit may break: at 95 % confidence no more than `KEEP` in a hundred.

    The limit is Clopper and Pearson's, one-sided. Fewer than 99 images cannot show 3 points: there it is none.
    """
    from scipy.stats import beta

    counts = range(1, images)
    return next((count - 1 for count in counts if 100 * beta.ppf(0.95, count + 1, images - count) > KEEP), 0)


def about_budget(images: int, kept: int | None = None) -> str:
    """Say how fine the budget is on so many images, how many kept ones may break, and when either are too few."""
    coarse = f"; fewer than {FEW}, so it is coarse" if images < FEW else ""
    allowed = int(BUDGET * images / 100 + 1e-9)
    said = f"budget of {BUDGET:g} points on {images:,} images: one is {100 / max(images, 1):.2f} points, "
    said += f"{allowed or 'none'} may be lost{coarse}"
    if kept is None:
        return said
    few = "" if kept >= 99 else f", and so few cannot show that no more than {KEEP:g} in a hundred break"
    return f"{said}; {kept:,} kept images: {most_broken(kept) or 'none'} may break{few}"
