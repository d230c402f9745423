"""Nested cross-validation of a choice: every image is reported once, by an edit that was chosen without it.

    tried = sweep_once(trials, images, outer_folds(images.labels))     # each trial runs once, over all images
    nested = choose_nested(tried, budget_images, kept_images)
    nested.reported                                                    # every image, before and after

For each fold the rule of choice is `select`'s, on the images of the other folds.
"""

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from edittools.checks import check_number
from edittools.choosing.choice import BUDGET, Choice, select
from edittools.choosing.states import CachedStates
from edittools.choosing.trials import Trial, table_of
from edittools.metrics import Comparison, errors

FOLDS = 5


def outer_folds(labels: Tensor, count: int = FOLDS, seed: int = 0) -> Tensor:
    """The number of each image's fold, `(N,)` from 0 to `count` − 1, dealt at random, class by class.

    Folds differ by at most one image, in all and of each class. Raises `ValueError` for fewer than two folds, and for
    more folds than images.
    """
    count = check_number(count, 2, len(labels), "folds")
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    order = shuffled[labels[shuffled].argsort(stable=True)]
    folds = torch.empty(len(labels), dtype=torch.long)
    folds[order] = torch.arange(len(labels)) % count
    return folds


@dataclass(frozen=True, eq=False)
class TriedOnce:
    """What T trials did to each of N images, and the fold that each image belongs to.

    `table` has a row for each trial: its settings and its `edit`. `before` `(N,)` and `after` `(T, N)` say which images
    are misread, `losses` `(T, N)` are cross-entropies, `folds` `(N,)` numbers. Running all that took `seconds`.
    """

    table: pd.DataFrame
    before: Tensor = field(repr=False)
    after: Tensor = field(repr=False)
    losses: Tensor = field(repr=False)
    folds: Tensor = field(repr=False)
    seconds: float = float("nan")

    def without(self, fold: int) -> pd.DataFrame:
        """The table that `sweep` would give of the images of all other folds."""
        inner = self.folds != fold
        before, after = self.before[inner], self.after[:, inner]
        corrected, broken = (before & ~after).sum(dim=1), (~before & after).sum(dim=1)
        counts = {"corrected": corrected, "broken": broken, "net": corrected - broken}
        loss = self.losses[:, inner].mean(dim=1)
        return self.table.assign(**{name: count.numpy() for name, count in counts.items()}, loss=loss.numpy())


@dataclass(frozen=True, eq=False)
class NestedChoice:
    """The choice that was made without each fold, and every image before and after the edit chosen without it."""

    choices: tuple[Choice, ...]
    reported: Comparison = field(repr=False)
    trials: int = 0
    seconds: float = float("nan")

    @property
    def different(self) -> int:
        """How many different settings were chosen."""
        return len({repr(sorted(choice.settings.items())) for choice in self.choices})


def sweep_once(trials: Iterable[Trial], images: CachedStates, folds: Tensor, progress: bool = False) -> TriedOnce:
    """Run each edit once over all images, `folds` says to which fold each belongs.

    An edit that corrects no more than it breaks, whatever fold is left out, cannot be chosen: in its place the table
    holds one that changes nothing, so that fine-tuned weights do not fill the memory. Raises `ValueError` without a
    trial.
    """
    started, rows, after, losses, nothing = time.perf_counter(), [], [], [], None
    total = len(trials) if hasattr(trials, "__len__") else None
    for settings, edit in tqdm(trials, "trials", total, unit="trial", disable=not progress, leave=False):
        logits = images.logits(edit)
        after.append(errors(logits, images.labels))
        losses.append(F.cross_entropy(logits, images.labels, reduction="none").nan_to_num(nan=float("inf")))
        nothing = 0 * edit if nothing is None else nothing
        rows.append({**settings, "edit": edit if _may_be_chosen(images.before, after[-1], folds) else nothing})
    if not rows:
        raise ValueError("no trials: expected at least one")
    seconds = time.perf_counter() - started
    return TriedOnce(table_of(rows), images.before, torch.stack(after), torch.stack(losses), folds, seconds)


def _may_be_chosen(before: Tensor, after: Tensor, folds: Tensor) -> bool:
    """Whether an edit corrects more than it breaks on the images of all folds but one."""
    gain = before.int() - after.int()
    return any(int(gain[folds != fold].sum()) > 0 for fold in folds.unique().tolist())


def choose_nested(
    tried: TriedOnce,
    budget_images: CachedStates,
    kept_images: CachedStates | None = None,
    budget: float = BUDGET,
    rank_by: str = "loss",
) -> NestedChoice:
    """For each fold, `select` on the images of the others, and read what the chosen edit does to the fold.

    Where no trial can be chosen without a fold, its images are reported as they were before.
    """
    started, choices, after = time.perf_counter(), [], tried.before.clone()
    budget_images, kept_images = _remembering(budget_images), kept_images and _remembering(kept_images)
    for fold in tried.folds.unique().tolist():
        table, here = tried.without(fold), tried.folds == fold
        choice = select(table, budget_images, budget, kept_images, rank_by)
        choices.append(replace(choice, table=table))
        if choice.found:
            row = next(i for i, edit in enumerate(table.edit) if edit is choice.edit)
            after[here] = tried.after[row, here]
    seconds = tried.seconds + time.perf_counter() - started
    return NestedChoice(tuple(choices), Comparison(tried.before, after), len(tried.table), seconds)


def _remembering(states: CachedStates) -> CachedStates:
    """The same images, on which each edit runs once: the folds ask for the same ones again."""
    states = copy.copy(states)
    states.within, states.sparing = cache(states.within), cache(states.sparing)
    return states
