"""Variants of `rewrite`: along random directions, in the null space of everyday keys, and all of a weight at once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edittools.baselines.inputs import masked_keys, solver_precision
from edittools.checks import check_amount, check_number
from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.edits import Change, Edit, Record, edit_of
from edittools.exemplars import Exemplar, exemplars_at
from edittools.moments import RankError, Reference, SecondMoment, directions, reference_moment
from edittools.rewriting import fits, pose, rewrite, solve_least_squares

NULL_SPACES = [{"share": share, "rank": rank} for share in (0.9, 0.99, 0.999) for rank in (None, 1, 3)]
"""Settings to try; a rank that the keys at a small mask do not span raises `RankError`."""

WEIGHTS = [{"weight": weight} for weight in (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)]
"""Settings to try. MEMIT's own λ, 15000, is 1.5e4 here for one key as long as everyday ones."""


def rewrite_at_random(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Reference | None = None,
    *,
    rank: int = 1,
    **settings: Any,
) -> Edit:
    """Rewrite along `rank` orthonormal directions that depend on the layer's width and the rank alone: the control."""
    exemplars = exemplars_at(classifier, layer, exemplars)
    cut = exemplars.cut
    shape = check_number(rank, 1, "rank"), cut.weight.shape[1]
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(noise.T).Q.T.to(cut.weight)
    return rewrite(classifier, cut, exemplars, reference, rank=rank, basis=basis, **settings)


def rewrite_in_null_space(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Reference,
    *,
    share: float = 0.99,
    rank: int | None = None,
) -> Edit:
    """Rewrite along directions that hold little of the reference keys' energy: AlphaEdit (Fang et al., 2410.02355).

    The null space is spanned by the eigenvectors of C beyond the first ones that hold `share` of its trace; within it
    the change is free. See `inputs` for the rest.

    Args:
        share: of the energy that is out of reach, above 0 and below 1.
        rank: of the change: the top directions of the masked keys of x' within the null space, by the paper's L1; None
            takes all of it by least squares, as AlphaEdit does.

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
    objective = "least_squares" if rank is None else "l1"
    return rewrite(classifier, cut, exemplars, reference, rank=len(basis), basis=basis, objective=objective)


def rewrite_in_closed_form(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Reference,
    *,
    weight: float = 1.0,
) -> Edit:
    """Change all of W at once: Δ = R K*ᵀ (K*K*ᵀ + λ C)⁻¹, as MEMIT (Meng et al., arXiv 2210.07229).

    K* are the keys of x' under the kernel's window, weighted by the mask; R is what the layer's output lacks there for
    the pre-activation of x (`Problem.target_output`). In a convolution C stands once for each offset of the kernel, on
    the diagonal: how keys of neighbouring positions go together is left out, since a `SecondMoment` does not hold it.
    Low eigenvalues of C are raised, see `SecondMoment.whitener`; what all baselines take is said in `inputs`.

    Args:
        weight: λ, relative: 1 gives λ C the trace of K*K*ᵀ.
    """
    relative, exemplars = check_amount(weight, "weight", 0), exemplars_at(classifier, layer, exemplars)
    cut = exemplars.cut
    moment = reference_moment(cut, reference)
    whitener = moment.whitener
    # In whitened keys λ C is the identity: that is solved, in the smaller dimension, with its ridge relative to their
    # trace in place of that of the plain keys.
    problem, ones = pose(cut, exemplars, basis=whitener), torch.ones_like(cut.weight[:1], dtype=torch.float64)
    pair = (cut.keys(problem.changed), problem.projected_keys)
    squares = [cut.convolve(keys.double().square(), ones) for keys in pair]
    plain, white = (float((cut.shares(problem.share, one) * one.squeeze(cut.channels)).sum()) for one in squares)
    mean = float(moment.matrix.trace()) / len(moment.matrix)
    unknown = solve_least_squares(problem, relative * plain / (mean * white) if mean * white else relative)
    delta = torch.einsum("or...,rn->on...", unknown.double(), whitener.to(unknown.device))
    change = Change(delta.to(solver_precision(cut.weight)))
    response = exemplars.response(problem.delta_output(unknown))
    record = Record("closed form", *fits(problem, "least_squares", unknown), 1, response)
    return edit_of(cut, {f"{cut.layer}.weight": change}, record)
