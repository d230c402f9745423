"""Variants of `rewrite`: along random directions, and in the null space of the reference keys."""

from itertools import product

import torch

from edittools._checks import check_amount, check_number
from edittools.baselines.inputs import masked_keys
from edittools.edits import Edit
from edittools.moments import RankError, directions
from edittools.rewriting import rewrite_at
from edittools.site import Site

NULL_SPACES = [{"share": share, "rank": rank} for share, rank in product((0.9, 0.99, 0.999), (None, 1, 3))]
"""Grid of settings of `rewrite_in_null_space`; a search skips ranks that exceed that of the keys at a small mask."""


def rewrite_at_random(
    site: Site,
    *,
    rank: int = 1,
    masked: bool = True,
    objective: str = "least_squares",
    reference_weight: float | None = None,
    steps: int = 200,
    seed: int = 0,
) -> list[Edit]:
    """Rewrite along random orthonormal directions, as a control.

    Only the directions are random; Λ is solved for, as in `rewrite`. The directions depend only on the number of the
    layer's input channels, the rank and the seed.

    Args:
        site: the layer and its exemplars; reference images are needed for the penalty only.
        rank: number of directions.
        masked: as in `rewrite`.
        objective: "least_squares" or "l1", as in `rewrite`.
        reference_weight: λ, the weight of the penalty on changing the outputs for reference keys, as in `rewrite`.
        steps: number of steps of Adam, for "l1" only, as in `rewrite`.
        seed: seed of the random directions.

    Returns:
        One edit.

    Raises:
        ValueError: as in `rewrite`.
    """
    weight = site.cut.weight
    shape = (check_number(rank, 1, "rank"), weight.shape[1])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(noise.T).Q.T.to(weight)
    return rewrite_at(
        site,
        rank=rank,
        masked=masked,
        objective=objective,
        basis=basis,
        reference_weight=reference_weight,
        steps=steps,
    )


def rewrite_in_null_space(
    site: Site,
    *,
    share: float = 0.99,
    rank: int | None = None,
) -> list[Edit]:
    """Rewrite in the null space of the reference keys: AlphaEdit (Fang et al., arXiv 2410.02355).

    The top eigenvectors of C that hold `share` of its trace are excluded. The others span the null space, in which
    reference keys have little energy. There is no other penalty on changing the outputs for reference keys.

    Args:
        site: the layer, its exemplars and the reference images.
        share: share of the trace of C that is excluded, above 0 and below 1.
        rank: rank of the change. Its directions are the top ones of the masked keys of x' within the null space, and
            the objective is the L1 norm of the paper. None uses the whole null space and least squares, as AlphaEdit
            does.

    Returns:
        One edit.

    Raises:
        RankError: if no direction is left in the null space, or if `rank` exceeds the number of independent masked keys
            in it.
        ValueError: if `share` is not between 0 and 1, or as in `rewrite`.
    """
    if not 0 < check_amount(share, "share") < 1:
        raise ValueError(f"share={share!r} is out of range; pass a number above 0 and below 1")
    cut = site.cut
    values, vectors = site.reference.moment.eigen  # from low to high
    energy = values.flip(0).cumsum(dim=0)
    excluded = int((energy < share * energy[-1]).sum()) + 1
    if excluded >= len(values):
        raise RankError(f"share={share!r} needs all {len(values)} directions, which leaves none; pass a lower share")
    basis = vectors[:, : len(values) - excluded].T.to(cut.weight.device)
    if rank is not None:
        keys, weights = masked_keys(cut, site.changed, site.masks)
        identity = torch.eye(len(basis), dtype=torch.float64)
        basis = directions(keys @ basis.T, weights, rank, identity) @ basis
    return rewrite_at(
        site,
        rank=len(basis),
        basis=basis,
        objective="least_squares" if rank is None else "l1",
        reference_weight=0.0,
    )
