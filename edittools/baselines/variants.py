"""Variants of `rewrite`: along random directions, in the null space of the reference keys, and in closed form."""

from itertools import product

import torch

from edittools._checks import check_amount, check_number
from edittools.baselines.inputs import masked_keys, solver_precision
from edittools.edits import Change, Edit, Record
from edittools.moments import RankError, SecondMoment, directions
from edittools.rewriting import Problem, losses, pose, rewrite_at, solve_least_squares
from edittools.site import Site

NULL_SPACES = [{"share": share, "rank": rank} for share, rank in product((0.9, 0.99, 0.999), (None, 1, 3))]
"""Grid of settings of `rewrite_in_null_space`; a search skips ranks that exceed that of the keys at a small mask."""

WEIGHTS = [{"weight": weight} for weight in (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)]
"""Grid of settings of `rewrite_in_closed_form`. MEMIT's own λ, 15000, is 1.5e4 here for one key of average length."""


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
        identity = SecondMoment(torch.eye(len(basis), dtype=torch.float64, device=keys.device))
        basis = directions(keys @ basis.T, weights, rank, identity) @ basis
    return rewrite_at(
        site,
        rank=len(basis),
        basis=basis,
        objective="least_squares" if rank is None else "l1",
        reference_weight=0.0,
    )


def rewrite_in_closed_form(
    site: Site,
    *,
    weight: float = 1.0,
) -> list[Edit]:
    """Change the full weight in closed form, as MEMIT does (Meng et al., arXiv 2210.07229).

    The change is Δ = R K*ᵀ (K* K*ᵀ + λ C)⁻¹. The columns of K* are the keys of x' under the kernel's window, weighted
    by the mask; R is the difference there between `Problem.target_output` and the layer's output. For a convolution, C
    is block-diagonal, with one block for each offset of the kernel, since a `SecondMoment` does not contain the
    correlation of keys at neighboring positions. Low eigenvalues of C are raised, see `SecondMoment.whitener`.

    Args:
        site: the layer, its exemplars and the reference images.
        weight: λ in relative units: at 1, λ C has the same trace as K* K*ᵀ.

    Returns:
        One edit.

    Raises:
        ValueError: if there is no reference, or if an argument has a value that is not allowed.
    """
    weight = check_amount(weight, "weight", 0)
    cut = site.cut
    moment = site.reference.moment
    whitener = moment.whitener
    # In whitened keys λ C is the identity, so the solution is that of a ridge system. Its ridge is relative to the
    # trace of the whitened keys, λ to that of the keys.
    problem = pose(site, basis=whitener)
    keys_trace = _masked_trace(problem, cut.keys(problem.changed))
    whitened_trace = _masked_trace(problem, problem.projected_keys)
    mean_eigenvalue = float(moment.matrix.trace()) / len(moment.matrix)
    denominator = mean_eigenvalue * whitened_trace
    ridge = weight * keys_trace / denominator if denominator else weight
    coefficients = solve_least_squares(problem, ridge)
    delta = torch.einsum("or...,rn->on...", coefficients.double(), whitener.to(coefficients.device))
    loss_before, loss_after = losses(problem, "least_squares", coefficients)
    response = site.response(problem.delta_output(coefficients))
    record = Record("closed form", loss_before, loss_after, 1, response)
    change = Change(delta.to(solver_precision(cut.weight)))
    return [site.edit({f"{cut.layer}.weight": change}, record)]


def _masked_trace(problem: Problem, keys: torch.Tensor) -> float:
    """Compute the trace of K Kᵀ, where K are the keys under the kernel's window, weighted by the mask."""
    cut = problem.cut
    ones = torch.ones_like(cut.weight[:1], dtype=torch.float64)
    squares = cut.convolve(keys.double().square(), ones)
    return float((cut.pool_mask(problem.masks, "output") * squares.squeeze(cut.channels)).sum())
