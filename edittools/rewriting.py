"""Rewriting a rule: eq. (1) of the paper, solved for Λ alone.

The layer maps the keys of x' at the mask to the values of x, by W' = W + Λ Dᵀ with D the directions of the keys. Only
Λ, `(out, rank, kh, kw)`, is unknown: the keys are convolved with W once and projected on D once, so a step touches
`rank` channels in place of all of them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edittools.checks import check_amount, check_number
from edittools.cut import Cut, State, as_channels_first, mask_at
from edittools.edits import Change, Edit, Record, unedited_fingerprint, without_bias
from edittools.exemplars import Exemplar, stack
from edittools.images import LabelledImages
from edittools.models import Classifier
from edittools.moments import SecondMoment, directions, second_moments

OBJECTIVES = ("l1", "least_squares")


@dataclass(frozen=True)
class Problem:
    """What a solver needs: x' and x at the layer, and the keys of x' seen along the directions.

    `basis` is D `(rank, in)`, or None for all of the keys' space; `coordinates` are the keys of x' along it; `start` is
    what the unedited layer makes of them; `target` is the value of x; `share` `(B, H, W)` is the mask at image size,
    all ones when the whole image is constrained.
    """

    cut: Cut
    image: State
    changed: State
    basis: Tensor | None
    coordinates: Tensor
    start: Tensor
    target: Tensor
    share: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of Λ."""
        weight = self.cut.weight
        rank = weight.shape[1] if self.basis is None else len(self.basis)
        return (weight.shape[0], rank, *weight.shape[2:])

    def shift(self, unknown: Tensor) -> Tensor:
        """What Λ adds to the layer's output on x'."""
        return torch.func.functional_call(self.cut.module, without_bias(self.cut.module, unknown), (self.coordinates,))

    def l1(self, unknown: Tensor) -> Tensor:
        """The objective of eq. (1): mean distance of values, weighted by the square root of the pooled mask."""
        value = self.cut.value(self.changed, self.start + self.shift(unknown))
        distance = as_channels_first(value - self.target, self.cut.is_linear).abs().mean(dim=1)
        weight = mask_at(self.share, distance[:, None]).sqrt()
        return (distance * weight).sum() / weight.sum()


def pose(
    cut: Cut,
    images: Tensor,
    changed: Tensor,
    masks: Tensor,
    rank: int | None = 1,
    masked: bool = True,
    moment: SecondMoment | None = None,
    basis: Tensor | None = None,
) -> Problem:
    """State eq. (1) for stacked exemplars; the directions come from the masked keys of x', whatever is constrained."""
    before, after = cut.prefix(images), cut.prefix(changed)
    keys = cut.keys(after)
    masks = masks.to(keys.device)
    if basis is None and rank is not None:
        rows = as_channels_first(keys, cut.is_linear)
        weights = mask_at(masks, rows).flatten()
        basis = directions(rows.movedim(1, -1).flatten(0, -2)[weights > 0], weights[weights > 0], rank, moment)
    with torch.no_grad():
        coordinates = keys if basis is None else _project(keys, basis, cut.is_linear)
        share = masks if masked else torch.ones_like(masks)
        return Problem(cut, before, after, basis, coordinates, cut.output(after), cut.block(before), share)


def _project(keys: Tensor, basis: Tensor, linear: bool) -> Tensor:
    return keys @ basis.T if linear else torch.einsum("rn,bnhw->brhw", basis, keys)


def solve_least_squares(problem: Problem, ridge: float = 1e-3) -> Tensor:
    """Solve for Λ exactly on the pre-activation: one ridge system, shared by all output channels.

    The target is what the layer's output on x' would have to be for the pre-activation (after batch norm and the
    residual sum) to equal that of x. `ridge` is relative to the mean diagonal of the system.
    """
    cut, shape = problem.cut, problem.shape
    size = shape[1] * problem.start.new_ones(shape[2:]).numel()
    probes = torch.eye(size, dtype=problem.start.dtype, device=problem.start.device).reshape(size, *shape[1:])
    design = _rows(problem.shift(probes), cut)  # (positions, rank * kh * kw): the keys under the kernel's window
    wanted = _rows(preactivation_target(problem) - problem.start, cut)
    output = as_channels_first(problem.start, cut.is_linear)
    weight = mask_at(problem.share, output).flatten().double().sqrt()[:, None]
    design, wanted = design * weight, wanted * weight
    loading = ridge * design.square().sum() / size + torch.finfo(torch.float32).tiny
    if len(design) < size:  # fewer positions than unknowns: the same solution by way of the smaller system
        gram = design @ design.T
        solution = design.T @ torch.linalg.solve(gram + loading * torch.eye(len(gram)).to(gram), wanted)
    else:
        gram = design.T @ design
        solution = torch.linalg.solve(gram + loading * torch.eye(len(gram)).to(gram), design.T @ wanted)
    return solution.T.reshape(shape).to(problem.start.dtype)


def _rows(tensor: Tensor, cut: Cut) -> Tensor:
    return as_channels_first(tensor, cut.is_linear).movedim(1, -1).flatten(0, -2).double()


@torch.no_grad()
def preactivation_target(problem: Problem) -> Tensor:
    """What the layer's output on x' must be for the pre-activation to equal that of x.

    Up to the activation every channel is scaled and shifted only, so two evaluations tell both. A channel whose scale
    is nearly 0 cannot be steered and keeps its output.
    """
    cut, start = problem.cut, problem.start
    wanted = cut.affine(problem.image, cut.output(problem.image))
    offset = cut.affine(problem.changed, torch.zeros_like(start))
    scale = cut.affine(problem.changed, torch.ones_like(start)) - offset
    steerable = scale.abs() > 1e-3 * scale.abs().max()
    return torch.where(steerable, (wanted - offset) / torch.where(steerable, scale, 1), start)


def solve_l1(problem: Problem, steps: int = 200, rate: float = 0.02) -> tuple[Tensor, int]:
    """Minimise the L1 distance of values over Λ by Adam, from the better of 0 and the least-squares solution.

    The step length is `rate` times the largest entry of that solution and falls along a cosine. Gives the best Λ met,
    and the number of steps.
    """
    squares = solve_least_squares(problem)
    with torch.no_grad():
        best = min(torch.zeros_like(squares), squares, key=lambda candidate: float(problem.l1(candidate)))
        lowest = float(problem.l1(best))
    scale = squares.abs().max().clamp_min(1e-12)
    unknown = (best / scale).requires_grad_()
    optimiser = torch.optim.Adam([unknown], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        with torch.enable_grad():
            loss = problem.l1(unknown * scale)
            (unknown.grad,) = torch.autograd.grad(loss, [unknown])
        if loss.item() < lowest:
            lowest, best = loss.item(), (unknown * scale).detach()
        optimiser.step()
        schedule.step()
    return best, steps


def rewrite(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: LabelledImages | Tensor | SecondMoment | None = None,
    *,
    rank: int | None = 1,
    masked: bool = True,
    objective: str = "l1",
    basis: Tensor | None = None,
    steps: int = 200,
    ridge: float = 1e-3,
    cache: str | None = None,
    progress: bool = False,
) -> Edit:
    """Rewrite the rule that the exemplars show, in one layer (eq. 1 and section 2.2 of the paper).

    Args:
        classifier: the classifier; it is not changed.
        layer: name, module, or a `Cut` of it (which saves tracing it again).
        exemplars: one or several; no labels are used.
        reference: images whose keys shall move least, or their `SecondMoment`; not needed with `rank=None`.
        rank: of the change; None lifts the low-rank restriction ('-proj' in the paper's ablation).
        masked: constrain the values at the mask; False constrains those of the whole image ('-mask').
        objective: "l1", the paper's, or "least_squares" on the pre-activation, exact and in one solve.
        basis: D `(rank, in)`, orthonormal rows, to edit along in place of those found from the keys (for controls).
        steps: of the optimiser, with "l1".
        ridge: with "least_squares", relative to the mean diagonal of the system.
        cache: folder for second moments, see `second_moments`.
        progress: show a progress bar while second moments are measured.

    Returns an `Edit` with a `Record`. Raises `ValueError` for a mask that covers no key, a rank that is too high or an
    unknown objective; see `Cut` and `Exemplar` for what they refuse.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r}: expected one of {', '.join(OBJECTIVES)}")
    steps, ridge = check_number(steps, 0, None, "steps"), check_amount(ridge, "ridge", 0)
    cut = layer if isinstance(layer, Cut) else Cut(classifier, layer)
    images, changed, masks = stack(exemplars)
    width, moment = cut.weight.shape[1], reference
    if basis is not None and (basis.ndim != 2 or basis.shape[1] != width or not basis.isfinite().all()):
        raise ValueError(f"basis of shape {tuple(basis.shape)}: expected (rank, {width}) without NaN")
    if isinstance(reference, SecondMoment) and len(reference.matrix) != width:
        raise ValueError(
            f"a second moment of {len(reference.matrix)} channels for layer {cut.layer!r}: expected {width}, its keys'"
        )
    if rank is not None and basis is None and not isinstance(reference, SecondMoment):
        if reference is None:
            raise ValueError("no reference images: expected images whose keys the edit shall spare, or a SecondMoment")
        moment = second_moments(classifier, [cut.layer], reference, progress=progress, cache=cache)[cut.layer]
    started = time.perf_counter()
    problem = pose(cut, images, changed, masks, rank, masked, moment, basis)
    if objective == "l1":
        unknown, taken = solve_l1(problem, steps)
    else:
        unknown, taken = solve_least_squares(problem, ridge), 1
    seconds = time.perf_counter() - started
    return _as_edit(problem, unknown, moment, masks, objective, taken, seconds)


@torch.no_grad()
def _as_edit(
    problem: Problem,
    unknown: Tensor,
    moment: SecondMoment | None,
    masks: Tensor,
    objective: str,
    steps: int,
    seconds: float,
) -> Edit:
    """Wrap a solution with what is worth knowing about it."""
    cut, keys = problem.cut, problem.cut.keys(problem.changed)
    before, after = (float(_loss(problem, objective, x)) for x in (torch.zeros_like(unknown), unknown))
    moved = as_channels_first(problem.shift(unknown), cut.is_linear).square().mean(dim=1)
    weight = mask_at(masks.to(moved.device), moved[:, None])
    strength = float(((moved * weight).sum() / weight.sum()).sqrt())
    rows = as_channels_first(keys, cut.is_linear)
    at_mask = mask_at(masks.to(rows.device), rows).flatten() > 0
    leverage = float("nan")
    if isinstance(moment, SecondMoment):
        leverage = float(moment.leverage(rows.movedim(1, -1).flatten(0, -2)[at_mask]).mean())
    change = Change(unknown.detach(), problem.basis, leverage, strength)
    record = Record(objective, before, after, steps, seconds)
    return Edit({f"{cut.layer}.weight": change}, unedited_fingerprint(cut.model), record)


def _loss(problem: Problem, objective: str, unknown: Tensor) -> Tensor:
    if objective == "l1":
        return problem.l1(unknown)
    error = as_channels_first(
        problem.start + problem.shift(unknown) - preactivation_target(problem), problem.cut.is_linear
    )
    error = error.square().mean(dim=1)
    weight = mask_at(problem.share, error[:, None])
    return (error * weight).sum() / weight.sum()
