"""The methods: functions `edits(site, **settings)` that return a list of edits, and the one table of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from edittools._checks import check_amount, check_number
from edittools.edits import Edit
from edittools.rewriting import rewrite_at
from edittools.site import Site

__all__ = ["EDIT", "METHODS", "RANDOM", "Method", "rewrite_at_random"]

EDIT = "edit"
"""The name of the method that rewrites a layer, as the paper does."""

RANDOM = "random direction"
"""The name of the control."""


@dataclass(frozen=True, eq=False)
class Method:
    """A way to make edits of a layer, with the settings that a search tries.

    Attributes:
        name: its name in tables.
        edits: a function `edits(site, **settings)` that returns a list of edits.
        settings: dictionaries of keyword arguments of `edits`, all of which are tried.
        strengths: factors α by which each edit is scaled.
    """

    name: str
    edits: Callable[..., list[Edit]]
    settings: Sequence[Mapping[str, Any]] = ({},)
    strengths: Sequence[float] = (0.5, 1.0)

    def trying(
        self, settings: Sequence[Mapping[str, Any]] | None = None, strengths: Sequence[float] | None = None
    ) -> "Method":
        """Return the method with other settings and strengths to try; by default, its own.

        Args:
            settings: see the attributes.
            strengths: see the attributes.

        Raises:
            TypeError: if the settings are a single dictionary.
            ValueError: if a strength is not a finite number, or if there is none.
        """
        if isinstance(settings, Mapping):
            raise TypeError(f"The settings {settings!r} are a single dictionary; pass a list of dictionaries")
        tried = self.settings if settings is None else list(settings)
        scales = self.strengths if strengths is None else [check_amount(value, "strength") for value in strengths]
        if not scales:
            raise ValueError(f"strengths={strengths!r} has no strength; pass at least one factor, such as (0.5, 1.0)")
        return replace(self, settings=tried, strengths=scales)


def rewrite_at_random(
    site: Site,
    *,
    rank: int = 1,
    objective: str = "least_squares",
    reference_weight: float | None = None,
    steps: int = 200,
    seed: int = 0,
) -> list[Edit]:
    """Rewrite along random orthonormal directions, as a control.

    Only the directions are random; Λ is solved for as in `rewrite`, whose settings it takes, so that the control can be
    tuned as well as the edit. The directions depend only on the number of the layer's input channels, the rank, and the
    seed.

    Args:
        site: the layer and its exemplars; reference images are needed only for the penalty.
        rank: number of directions; `objective`, `reference_weight`, and `steps` are those of `rewrite`.
        seed: seed of the random directions.

    Returns:
        One edit.

    Raises:
        ValueError: as in `rewrite`.
    """
    weight = site.cut.weight
    shape = (check_number(rank, "rank", 1), weight.shape[1])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(noise.T).Q.T.to(weight)
    return rewrite_at(site, rank=rank, objective=objective, basis=basis, reference_weight=reference_weight, steps=steps)


METHODS = {
    method.name: method
    for method in (
        Method(EDIT, rewrite_at),
        Method(RANDOM, rewrite_at_random),
    )
}
"""The method and its control by name. A method of your own is another `Method`: pass it where methods are tried."""
