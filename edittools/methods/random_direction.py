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
    reference_weight: float | None = None,
    seed: int = 0,
) -> list[Edit]:
    """Rewrite along random orthonormal directions, as a control.

    Only the directions are random; Λ is solved for by least squares, as in `rewrite`. The directions depend only on the
    number of the layer's input channels, the rank, and the seed.

    Args:
        site: the layer and its exemplars; reference images are needed only for the penalty.
        rank: number of directions.
        reference_weight: λ, the weight of the penalty on changing the outputs for reference keys, as in `rewrite`.
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
    return rewrite_at(site, rank=rank, basis=basis, reference_weight=reference_weight)
