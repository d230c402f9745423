"""Rewriting all of a weight in closed form: MEMIT (Meng et al., "Mass-editing memory", arXiv 2210.07229)."""

from collections.abc import Sequence

import torch
from torch import nn

from edittools.baselines.inputs import solver_precision
from edittools.checks import check_amount
from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.edits import Change, Edit, Record, edit_of
from edittools.exemplars import Exemplar, exemplars_at
from edittools.moments import Reference, reference_moment
from edittools.rewriting import fits, pose, solve_least_squares

GRID = [{"weight": weight} for weight in (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)]
"""Settings to try. MEMIT's own λ, 15000, is 1.5e4 here for one key as long as everyday ones."""


def rewrite_in_closed_form(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Reference,
    *,
    weight: float = 1.0,
) -> Edit:
    """Change all of W at once: Δ = R K*ᵀ (K*K*ᵀ + λ C)⁻¹, the change that moves everyday keys least.

    K* are the keys of x' under the kernel's window, weighted by the mask; R is what the layer's output lacks there for
    the pre-activation of x (`Problem.target_output`). In a convolution C stands once for each offset of the kernel, on
    the diagonal: how keys of neighbouring positions go together is left out, since a `SecondMoment` does not hold it.
    Low eigenvalues of C are raised, see `SecondMoment.whitener`; what all baselines take is said in `inputs`.

    Args:
        weight: λ, relative: 1 gives λ C the trace of K*K*ᵀ.
    """
    relative, exemplars = check_amount(weight, "weight", 0), exemplars_at(classifier, layer, exemplars)
    cut, moment = exemplars.cut, reference_moment(exemplars.cut, reference)
    whitener = moment.whitener
    # In whitened keys λ C is the identity: that is solved, in the smaller dimension, with its ridge relative to their
    # trace in place of that of the plain keys.
    problem, ones = pose(cut, exemplars, basis=whitener), torch.ones_like(cut.weight[:1], dtype=torch.float64)
    pair = (cut.keys(problem.changed), problem.coordinates)
    squares = [cut.convolve(keys.double().square(), ones) for keys in pair]
    plain, white = (float((cut.shares(problem.share, one) * one.squeeze(cut.channels)).sum()) for one in squares)
    mean = float(moment.matrix.trace()) / len(moment.matrix)
    unknown = solve_least_squares(problem, relative * plain / (mean * white) if mean * white else relative)
    delta = torch.einsum("or...,rn->on...", unknown.double(), whitener.to(unknown.device))
    change = Change(delta.to(solver_precision(cut.weight)))
    response = exemplars.response(problem.shift(unknown))
    record = Record("closed form", *fits(problem, "least_squares", unknown), 1, response)
    return edit_of(cut, {f"{cut.layer}.weight": change}, record)
