"""Rewriting in the null space of everyday keys: AlphaEdit (Fang et al., arXiv 2410.02355).

The change may act only on directions that reference keys hardly fill; within them it is free.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edittools.baselines.inputs import masked_keys
from edittools.checks import check_amount
from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.edits import Edit
from edittools.exemplars import Exemplar, exemplars_at
from edittools.moments import RankError, Reference, SecondMoment, directions, reference_moment
from edittools.rewriting import rewrite

RANKS = {None: "least_squares", 1: "l1", 3: "l1"}
GRID = [{"share": s, "rank": r, "objective": o} for s in (0.9, 0.99, 0.999) for r, o in RANKS.items()]
"""Settings to try; a rank that the keys at a small mask do not span raises `RankError`."""


def rewrite_in_null_space(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Reference,
    *,
    share: float = 0.99,
    rank: int | None = None,
    **settings: Any,
) -> Edit:
    """Rewrite as `rewrite` does, along directions that hold little of the reference keys' energy, see `inputs`.

    The null space is spanned by the eigenvectors of C beyond the first ones that hold `share` of its trace.

    Args:
        share: of the energy that is out of reach, above 0 and below 1.
        rank: of the change: the top directions of the masked keys of x' within the null space; None takes all of it,
            as AlphaEdit does.
        **settings: of `rewrite`; `objective` is "least_squares" by default, as in AlphaEdit.

    Raises `RankError` when nothing is left beyond `share`, or a rank is more than the masked keys span there.
    """
    if not 0 < check_amount(share, "share") < 1:
        raise ValueError(f"share {share!r}: expected a number above 0 and below 1")
    exemplars = exemplars_at(classifier, layer, exemplars)
    cut = exemplars.cut
    moment = reference_moment(cut, reference)
    values, vectors = moment.eigen
    energy = values.flip(0).cumsum(dim=0)
    taken = int((energy < share * energy[-1]).sum()) + 1
    if taken >= len(values):
        raise RankError(f"share {share!r}: all {len(values)} directions are needed to hold it, expected a lower share")
    basis = vectors[:, : len(values) - taken].T.to(cut.weight.device)
    if rank is not None:
        keys, weights = masked_keys(cut, exemplars.changed, exemplars.masks)
        free = SecondMoment(torch.eye(len(basis), dtype=torch.float64, device=keys.device))
        basis = directions(keys @ basis.T, weights, rank, free) @ basis
    solve = {"objective": "least_squares", **settings, "rank": len(basis), "basis": basis}
    return rewrite(classifier, cut, exemplars, reference, **solve)
