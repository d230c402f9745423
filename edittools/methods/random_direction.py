"""Rewrite along random directions, as a control."""

import torch

from edittools._checks import check_number
from edittools.edits import Edit
from edittools.rewriting import rewrite_at
from edittools.site import Site


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
        rank: number of directions.
        objective: as in `rewrite`.
        reference_weight: λ, as in `rewrite`.
        steps: as in `rewrite`.
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
