"""Rewriting all of a weight in closed form: MEMIT (Meng et al., "Mass-editing memory", arXiv 2210.07229)."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edittools.baselines.inputs import solver_precision, with_kept
from edittools.checks import check_amount
from edittools.classifiers import Classifier
from edittools.cut import Cut, State, cut_at
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.keys import ExemplarStates, Reference, exemplars_at, reference_moment
from edittools.rewriting import rewrite

GRID = [{"weight": weight} for weight in (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)]
"""Settings to try. MEMIT's own λ, 15000, is 1.5e4 here for one key as long as everyday ones."""


def rewrite_in_closed_form(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Reference,
    *,
    keep: Sequence[State] | None = None,
    weight: float = 1.0,
    masked: bool = True,
) -> Edit:
    """Change all of W at once: Δ = R K*ᵀ (K*K*ᵀ + λ C)⁻¹, the change that moves everyday keys least.

    K* are the keys of x' under the kernel's window, weighted by the mask; R is what the layer's output lacks there for
    the pre-activation of x (`preactivation_target`). In a convolution C stands once for each offset of the kernel, on
    the diagonal: how keys of neighbouring positions go together is left out, since a `SecondMoment` does not hold it.

    The second moment of kept keys, scaled to C's trace, is added to C; low eigenvalues are raised, see
    `SecondMoment.clamp`. What all baselines take is said in `inputs`.

    Args:
        weight: λ, relative: 1 gives λ C (without what is kept) the trace of K*K*ᵀ.
        masked: constrain the output at the mask; False constrains that of the whole image.

    Returns an `Edit` of the whole weight; the loss of its `Record` is that of `rewrite` with "least_squares". Raises
    `ValueError` for a negative weight, or what `rewrite` refuses.
    """
    relative, cut = check_amount(weight, "weight", 0), cut_at(classifier, layer)
    moment, exemplars = reference_moment(cut, reference, cache=""), exemplars_at(cut, exemplars)
    started = time.perf_counter()
    whitener = with_kept(cut, moment, keep).whitener
    plain, white = _traces(cut, exemplars, masked, whitener)
    # In whitened keys λ C is the identity: `rewrite` solves that, in the smaller dimension, and counts its ridge
    # relative to their trace in place of that of the plain keys.
    mean = float(moment.matrix.trace()) / len(moment.matrix)
    ridge = relative * plain / (mean * white) if mean * white else relative
    settings = {"masked": masked, "objective": "least_squares", "ridge": ridge}
    edit = rewrite(classifier, cut, exemplars, moment, rank=len(whitener), basis=whitener, **settings)
    [(name, change)] = edit.changes.items()
    delta = torch.einsum("or...,rn->on...", change.left.double(), whitener.to(change.left.device))
    change = replace(change, left=delta.to(solver_precision(cut.weight)), right=None)
    record = replace(edit.record, objective="closed form", seconds=time.perf_counter() - started)
    return replace(edit, changes={name: change}, record=record)


@torch.no_grad()
def _traces(cut: Cut, exemplars: ExemplarStates, masked: bool, whitener: Tensor) -> tuple[float, float]:
    """The trace of K*K*ᵀ, of the plain and of the whitened keys of x' under the kernel's window."""
    keys, masks = cut.keys(exemplars.changed).double(), exemplars.masks
    masks = masks if masked else torch.ones_like(masks)
    white = cut.along(keys, whitener)
    ones = torch.ones_like(cut.weight[:1], dtype=torch.float64)
    sums = [cut.convolve(k.square(), ones) for k in (keys, white)]
    shares = cut.shares(masks.to(keys.device), sums[0]).flatten()
    return tuple(float(total.flatten() @ shares.double()) for total in sums)
