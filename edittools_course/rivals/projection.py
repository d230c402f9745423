"""Project a concept out of a layer's keys: remove the direction that separates the keys of x' from those of x.

There are three ways to find the direction: the difference of means, as in a fast concept activation vector; a linear
probe, as in P-ClArC (Anders et al., "Finding and removing Clever Hans", arXiv 1912.11425); and LEACE (Belrose et al.,
arXiv 2306.03819), the erasure that changes the keys least.
"""

from typing import Any

import torch
from torch import Tensor

from edittools._checks import check_amount, one_of
from edittools.edits import Change, Edit, Record
from edittools.moments import NoEditError, SecondMoment
from edittools.site import Site, solver_precision
from edittools_course.rivals.inputs import masked_keys

DIRECTIONS = ("mean", "probe", "leace")
PROJECTIONS: list[dict[str, Any]] = [
    {"direction": "mean"},
    {"direction": "probe", "ridge": 1e-2},
    {"direction": "probe", "ridge": 1.0},
    {"direction": "leace", "ridge": 1e-3},
    {"direction": "leace", "ridge": 1e-1},
]
"""Grid of settings of `project_concept`."""


def project_concept(
    site: Site,
    *,
    direction: str = "mean",
    ridge: float = 1e-2,
) -> list[Edit]:
    """Make the layer ignore the direction v that separates the masked keys of x' from those of x.

    Each key k is replaced by k − P(k − μ), with P = v uᵀ, uᵀv = 1 and μ the mean masked key of x:

        W' = W(I − P),   b' = b + W P μ (summed over the kernel)

    So the part of each key along v becomes that of μ. For a layer without a bias, only the weight changes, which shifts
    all outputs by −W P μ in comparison. All offsets of a kernel have the same P. Padding counts as keys of zeros.

    Args:
        site: the layer and its exemplars; reference images are needed only for "leace".
        direction: how v and u are computed, with μ' the mean masked key of x':
            "mean": v = u = μ' − μ, up to scale.
            "probe": v = u is the weight of a ridge regression that predicts whether a masked key is from x' or x.
            "leace": v = μ' − μ and u = M⁻¹v, up to scale. M is the sum of the second moments of the reference keys and
            of the exemplars' masked keys, each scaled to a mean eigenvalue of 1.
        ridge: is added to the diagonal of the probe's system and of both parts of M, relative to their mean eigenvalue.
            Not used for "mean".

    Returns:
        One edit. The losses in its `Record` are the distance between μ' and μ, before and after the projection.

    Raises:
        NoEditError: if this distance is 0 before the projection.
        ValueError: if "leace" has no reference, or if an argument has a value that is not allowed.
    """
    one_of(direction, DIRECTIONS, "direction")
    ridge = check_amount(ridge, "ridge", 0)
    cut = site.cut
    keys, weights = masked_keys(cut, site.image, site.masks)
    changed_keys, _ = masked_keys(cut, site.changed, site.masks)
    mean = weights @ keys
    gap = weights @ (changed_keys - keys)
    if not gap.any():
        raise NoEditError(
            f"x and x' have the same mean key at the mask, at layer {cut.layer!r}, so there is no direction to project "
            "out; use another layer or mask"
        )
    all_keys = torch.cat([keys, changed_keys])
    all_weights = torch.cat([weights, weights]) / 2
    removed = gap  # v
    reader = gap  # u
    if direction == "probe":
        removed = reader = _probe_direction(all_keys, all_weights, gap, ridge)
    elif direction == "leace":
        origin = torch.zeros_like(mean) if cut.bias is None else mean
        reader = _leace_reader(all_keys - origin, all_weights, gap, site.reference.moment, ridge)
    reader = reader / (reader @ removed)
    precision = solver_precision(cut.weight)
    removed_output = torch.einsum("on...,n->o...", cut.weight.detach().double(), removed)  # W v, (out, kh, kw)
    change = Change(-removed_output[:, None].to(precision), reader[None].to(precision))
    changes = {f"{cut.layer}.weight": change}
    if cut.bias is not None:
        kernel_sum = removed_output.reshape(len(removed_output), -1).sum(dim=1)
        changes[cut.bias_name] = Change((kernel_sum * (reader @ mean)).to(precision))
    distance_before = float(gap.norm())
    distance_after = float((gap - removed * (reader @ gap)).norm())
    response = site.response(change.added(cut, cut.keys(site.changed)))
    record = Record(f"concept projection ({direction})", distance_before, distance_after, 1, response)
    return [site.edit(changes, record)]


def _probe_direction(keys: Tensor, weights: Tensor, gap: Tensor, ridge: float) -> Tensor:
    """Compute the weight `(n,)` of a ridge regression that predicts whether keys `(P, n)` are from x' or x."""
    centered = keys - weights @ keys
    covariance = _weighted_moment(centered, weights)
    return torch.linalg.solve(_scaled_with_ridge(covariance, ridge), gap)


def _leace_reader(keys: Tensor, weights: Tensor, gap: Tensor, moment: SecondMoment, ridge: float) -> Tensor:
    """Compute u = M⁻¹v, `(n,)`, of LEACE, from the exemplars' keys `(P, n)` and the moment of the reference keys."""
    reference_part = _scaled_with_ridge(moment.matrix.to(gap), ridge)
    exemplar_part = _scaled_with_ridge(_weighted_moment(keys, weights), ridge)
    return torch.linalg.solve(reference_part + exemplar_part, gap)


def _weighted_moment(keys: Tensor, weights: Tensor) -> Tensor:
    """Compute the weighted second moment of keys `(P, n)`."""
    return keys.T @ (keys * weights[:, None])


def _scaled_with_ridge(matrix: Tensor, ridge: float) -> Tensor:
    """Scale a matrix to a mean eigenvalue of 1, and add `ridge`, but at least 1e-10, to its diagonal."""
    matrix = matrix * (len(matrix) / matrix.trace().clamp_min(torch.finfo(matrix.dtype).tiny))
    return matrix + max(ridge, 1e-10) * torch.eye(len(matrix)).to(matrix)
