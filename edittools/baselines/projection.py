"""Concept projection: take the direction that tells x' from x out of what the layer reads.

Three ways to find it: the difference of means, the fast concept vector; a linear probe, as in P-ClArC (Anders et al.,
"Finding and removing Clever Hans", arXiv 1912.11425); and LEACE (Belrose et al., arXiv 2306.03819), the erasure that
moves the other keys least.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edittools.baselines.inputs import masked_keys, solver_precision
from edittools.checks import check_amount, one_of
from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.edits import Change, Edit, Record, edit_of
from edittools.exemplars import Exemplar, exemplars_at
from edittools.moments import RankError, Reference, reference_moment

DIRECTIONS = ("mean", "probe", "leace")
PROJECTIONS = [{"direction": "mean"}]
PROJECTIONS += [{"direction": "probe", "ridge": ridge} for ridge in (1e-2, 1.0)]
PROJECTIONS += [{"direction": "leace", "ridge": ridge} for ridge in (1e-3, 1e-1)]
"""Settings to try."""


def project_concept(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Reference | None,
    *,
    direction: str = "mean",
    ridge: float = 1e-2,
) -> Edit:
    """Make the layer blind to the direction v that tells the masked keys of x' from those of x, see `inputs`.

    Each key k is replaced by k − P(k − μ), with P = v uᵀ, uᵀv = 1 and μ the mean masked key of x: W' = W(I − P) and
    b' = b + W P μ, summed over the kernel. What a key has along v is then read as in x. A layer without a bias gets W'
    alone, so its readings of x move by −W P μ. All offsets of a kernel share P. Padding counts as a key of zeros.

    Args:
        reference: only "leace" needs it; the others take None.
        direction: "mean": v = μ' − μ, with μ' the mean masked key of x'. "probe": v is the weight of a ridge regression
            from masked keys to x' or x. "leace": v = μ' − μ and u = M⁻¹v up to scale, with M the second moments of the
            reference keys and of the exemplars' masked keys, each scaled to a mean eigenvalue of 1. Else u is v.
        ridge: added to the diagonal of the probe's system and of M, relative to its mean eigenvalue.

    The loss of the `Record` is the distance of μ' from μ, before and after. Raises `RankError` where there is none.
    """
    one_of(direction, DIRECTIONS, "direction")
    ridge, exemplars = check_amount(ridge, "ridge", 0), exemplars_at(classifier, layer, exemplars)
    cut = exemplars.cut
    moment = reference_moment(cut, reference) if direction == "leace" else None
    plain, weights = masked_keys(cut, exemplars.image, exemplars.masks)
    other, _ = masked_keys(cut, exemplars.changed, exemplars.masks)
    centre, gap = weights @ plain, weights @ (other - plain)
    if not gap.any():
        raise RankError(f"x and x' have the same mean key at the mask, at layer {cut.layer!r}: nothing to project")
    axis, reader = gap, gap
    both, halves = torch.cat([plain, other]), torch.cat([weights, weights]) / 2
    if direction == "probe":
        spread = _loaded(_spread(both - halves @ both, halves), ridge)
        axis = reader = torch.linalg.solve(spread, gap)
    elif direction == "leace":
        origin = torch.zeros_like(centre) if cut.bias is None else centre
        spared = (moment.matrix.to(gap), _spread(both - origin, halves))
        reader = torch.linalg.solve(sum(_loaded(part, ridge) for part in spared), axis)
    reader = reader / (reader @ axis)
    precision, seen = solver_precision(cut.weight), torch.einsum("on...,n->o...", cut.weight.detach().double(), axis)
    change, keys = Change(-seen[:, None].to(precision), reader[None].to(precision)), cut.keys(exemplars.changed)
    response = exemplars.response(change.added(cut, keys))
    changes = {f"{cut.layer}.weight": change}
    if cut.bias is not None:
        total = seen.reshape(len(seen), -1).sum(dim=1)
        changes[cut.bias_name] = Change((total * (reader @ centre)).to(precision))
    apart = [float(difference.norm()) for difference in (gap, gap - axis * (reader @ gap))]
    record = Record(f"concept projection ({direction})", *apart, 1, response)
    return edit_of(cut, changes, record)


def _spread(keys: Tensor, weights: Tensor) -> Tensor:
    """Compute the weighted second moment of keys `(P, n)`."""
    return keys.T @ (keys * weights[:, None])


def _loaded(matrix: Tensor, ridge: float) -> Tensor:
    """Scale a matrix to a mean eigenvalue of 1, and add `ridge` to the diagonal; it is never singular."""
    matrix = matrix * (len(matrix) / matrix.trace().clamp_min(torch.finfo(matrix.dtype).tiny))
    return matrix + max(ridge, 1e-10) * torch.eye(len(matrix)).to(matrix)
