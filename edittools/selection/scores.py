"""The score table: what each candidate does to each image that selects. All that follows is a pure function of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from edittools._checks import check_amount
from edittools.edits import Edit

CLEAN_WEIGHT = 2.0
"""The weight of the images without the mark in the objective, see `docs/decisions.md`."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """An edit that may be selected.

    Attributes:
        edit: the edit with strength 1.
        params: how it was made: method, layer, exemplar, what it was solved with, settings, and strength.
        strength: factor α by which it is scaled.
    """

    edit: Edit
    params: Mapping[str, Any]
    strength: float = 1.0

    @property
    def scaled(self) -> Edit:
        """The edit, scaled by the strength."""
        return self.strength * self.edit

    def __str__(self) -> str:
        params = {name: value for name, value in self.params.items() if name != "method"}
        return ", ".join(f"{name} {'full' if value is None else value}" for name, value in params.items())


@dataclass(frozen=True, eq=False)
class Scores:
    """What C candidates do to the images that select: N with the mark, and M without it.

    Attributes:
        candidates: the candidates.
        marked: the loss of each image with the mark, `(C, N)`: the divergence of its prediction from the original
            prediction without the mark.
        clean: the divergence of each image without the mark from its original prediction, `(C, M)`.
        before: the losses of the images with the mark without an edit, `(N,)`.
        is_own: which images with the mark are of the mark's own class, `(N,)` booleans.
        is_counted: which images without the mark count, `(M,)` booleans; one that may show the mark does not.
        seconds: the CPU time that it took to make the candidates and to score them.
    """

    candidates: Sequence[Candidate]
    marked: Tensor
    clean: Tensor
    before: Tensor
    is_own: Tensor
    is_counted: Tensor
    seconds: float = nan

    def __len__(self) -> int:
        return len(self.candidates)

    def objective(self, clean_weight: float = CLEAN_WEIGHT) -> Tensor:
        """Compute the objective of each candidate, `(C,)`: lower is better.

        It is the mean loss of images with the mark, of the mark's own class and of all others apart, so that both count
        the same, plus `clean_weight` times the mean divergence of images without it.

        Args:
            clean_weight: the weight of the images without the mark.

        Raises:
            ValueError: if the weight is not a finite number of at least 0.
        """
        clean_weight = check_amount(clean_weight, "clean_weight", 0)
        return self._with_mark(self.marked) + clean_weight * _mean(self.clean, self.is_counted)

    def objective_before(self) -> float:
        """Compute the objective without an edit."""
        return float(self._with_mark(self.before[None]))

    def _with_mark(self, losses: Tensor) -> Tensor:
        """Compute the part of the objective that is about images with the mark, from their losses `(C, N)`."""
        return _mean(losses, ~self.is_own) + _mean(losses, self.is_own)

    def best(self, clean_weight: float = CLEAN_WEIGHT) -> Candidate:
        """Return the candidate with the lowest objective; see `objective` for the weight."""
        return self.candidates[int(self.objective(clean_weight).argmin())]

    def table(self) -> pd.DataFrame:
        """Tabulate the candidates, the best one first: how they were made, their losses, and their objective."""
        rows = [dict(candidate.params) for candidate in self.candidates]
        columns = {
            "marked": _mean(self.marked, ~self.is_own),
            "own class": _mean(self.marked, self.is_own),
            "clean": _mean(self.clean, self.is_counted),
            "objective": self.objective(),
        }
        values = {name: column.tolist() for name, column in columns.items()}
        return pd.DataFrame(rows).assign(**values).sort_values("objective", ignore_index=True)

    def joined(self, other: "Scores") -> "Scores":
        """Add the candidates of another score table of the same images."""
        candidates = [*self.candidates, *other.candidates]
        marked = torch.cat([self.marked, other.marked])
        clean = torch.cat([self.clean, other.clean])
        return replace(self, candidates=candidates, marked=marked, clean=clean)


def _mean(losses: Tensor, is_member: Tensor) -> Tensor:
    """Average the losses `(C, N)` over some of the images; 0 if there are none."""
    return losses[:, is_member].mean(dim=1) if is_member.any() else torch.zeros(len(losses))
