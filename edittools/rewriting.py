"""Rewriting a rule: eq. (1) of the paper, solved for Λ alone.

The layer maps the keys of x' at the mask to the values of x, by W' = W + Λ Dᵀ with D the directions of the keys. Only
Λ, `(out, rank, kh, kw)`, is unknown: the keys are convolved with W once and projected on D once, so a step touches
`rank` channels in place of all of them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from edittools._inference import without_autocast
from edittools.checks import check_amount, check_number, one_of
from edittools.classifiers import Classifier
from edittools.cut import Cut, State, rows
from edittools.edits import Change, Edit, Record, edit_of
from edittools.exemplars import Exemplar, exemplars_at
from edittools.images import Images, spread
from edittools.moments import Reference, SecondMoment, directions, keys_of, reference_moment

OBJECTIVES = ("l1", "least_squares")
SAMPLE = 64
"""So many reference images say how far an edit moves what a kernel sees of them."""


@dataclass(frozen=True)
class Problem:
    """What a solver needs: x' and x at the layer, and the keys of x' seen along the directions.

    `basis` is D `(rank, in)`, or None for all of the keys' space, `coordinates` the keys of x' along it, `start` what
    the unedited layer makes of them, `target` the value of x, `share` `(B, H, W)` the mask (all ones when the whole
    image is constrained), `elsewhere` `(rank * kh * kw,) * 2` the second moment of everyday keys under the kernel's
    window, times λ. In float32 or better.
    """

    cut: Cut
    image: State
    changed: State
    basis: Tensor | None
    coordinates: Tensor
    start: Tensor
    target: Tensor
    share: Tensor
    elsewhere: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """Give the shape of Λ."""
        weight = self.cut.weight
        rank = weight.shape[1] if self.basis is None else len(self.basis)
        return torch.Size((weight.shape[0], rank, *weight.shape[2:]))

    def shift(self, unknown: Tensor) -> Tensor:
        """Compute what Λ adds to the layer's output on x'."""
        return self.cut.convolve(self.coordinates, unknown)

    def objective(self, unknown: Tensor) -> Tensor:
        """Return the objective of eq. (1) and, in its unit, the cost of moving everyday outputs."""
        fit = self.l1(unknown)
        return fit if self.elsewhere is None else fit + self._unit * quadratic(unknown, self.elsewhere)

    @cached_property
    @torch.no_grad()
    def _unit(self) -> float:
        """Divide the loss without an edit by the mean square by which outputs at the mask must move."""
        nothing, (_, share) = torch.zeros(self.shape).to(self.start), self.system
        wanted = float((self.missing(nothing).square() * share[:, None]).sum() / share.sum())
        return float(self.l1(nothing)) / max(wanted, 1e-30)

    @cached_property
    def system(self) -> tuple[Tensor, Tensor]:
        """The keys under the kernel's window, `(positions, rank * kh * kw)`, and each position's share of the mask."""
        share = self.cut.pool_mask(self.share, "output")
        return self.cut.unfold(self.coordinates), share.flatten().double()

    @cached_property
    @torch.no_grad()
    def target_output(self) -> Tensor:
        """What the layer's output on x' must be for the pre-activation, after norm and skip, to equal that of x.

        Up to the activation every channel is scaled and shifted only, so two evaluations tell both. A channel whose
        scale is nearly 0 cannot be steered and keeps its output.
        """
        cut, start = self.cut, self.start
        wanted = cut.pre_activation(self.image, cut.output(self.image))
        offset = cut.pre_activation(self.changed, torch.zeros_like(start))
        scale = cut.pre_activation(self.changed, torch.ones_like(start)) - offset
        steerable = scale.abs() > 1e-3 * scale.abs().max()
        return torch.where(steerable, (wanted - offset) / torch.where(steerable, scale, 1), start)

    @torch.no_grad()
    def windows(self, sample: Sequence[Tensor]) -> Tensor:
        """Return the mean of w wᵀ over a sample of keys, w what the kernel sees of them: see `quadratic`."""
        wide = {rows(keys, self.cut.is_linear).shape[1] for keys in sample}
        if wide != {width := self.cut.weight.shape[1]}:
            raise ValueError(f"a sample of keys of {wide} channels for {self.cut.layer!r}: expected {width}, its keys'")
        seen = [self.cut.unfold(self.cut.project(keys, self.basis)) for keys in sample]
        return sum(one.T @ one for one in seen) / sum(map(len, seen))

    def missing(self, unknown: Tensor) -> Tensor:
        """Compute what the layer's output on x' with Λ lacks of its target, `(positions, out)`."""
        return rows(self.target_output - self.start - self.shift(unknown), self.cut.is_linear).double()

    def l1(self, unknown: Tensor) -> Tensor:
        """Return the objective of eq. (1): mean distance of values, weighted by the square root of the pooled mask."""
        value = self.cut.value(self.changed, self.start + self.shift(unknown))
        distance = (value - self.target).abs().mean(dim=self.cut.channels)
        weight = self.cut.pool_mask(self.share, "value").sqrt()
        return (distance * weight).sum() / weight.sum()


def pose(
    cut: Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    rank: int | None = 1,
    masked: bool = True,
    moment: SecondMoment | None = None,
    basis: Tensor | None = None,
) -> Problem:
    """State eq. (1) for exemplars; the directions come from the masked keys of x'."""
    width = cut.weight.shape[1]
    if basis is not None and (basis.ndim != 2 or basis.shape[1] != width or not basis.isfinite().all()):
        raise ValueError(f"basis of shape {tuple(basis.shape)}: expected (rank, {width}) without NaN")
    given = exemplars_at(cut.classifier, cut, exemplars)
    precision = torch.promote_types(cut.weight.dtype, torch.float32)  # half precision has no room for a solver
    states = given.image, given.changed
    before, after = (tuple(t.to(precision) if t.is_floating_point() else t for t in state) for state in states)
    keys = cut.keys(after)
    masks = given.masks.to(keys.device)
    if basis is None and rank is not None:
        weights = cut.pool_mask(masks).flatten()
        basis = directions(rows(keys, cut.is_linear)[weights > 0], weights[weights > 0], rank, moment)
    basis = basis if basis is None else basis.to(keys)
    with torch.no_grad():
        coordinates = cut.project(keys, basis)
        share = masks if masked else torch.ones_like(masks)
        return Problem(cut, before, after, basis, coordinates, cut.output(after), cut.value(before), share)


def quadratic(unknown: Tensor, matrix: Tensor) -> Tensor:
    """Compute the trace of Λ M Λᵀ, for Λ `(out, rank, kh, kw)` and M `(rank * kh * kw,) * 2`."""
    flat = unknown.flatten(1)
    return ((flat @ matrix.to(flat)) * flat).sum()


def solve_least_squares(problem: Problem, ridge: float = 1e-3) -> Tensor:
    """Solve for Λ exactly on the pre-activation: one ridge system, shared by all output channels.

    `ridge` is relative to the mean diagonal of the system.
    """
    design, share = problem.system
    weight, size = share.sqrt()[:, None], design.shape[1]
    design, wanted = design * weight, problem.missing(torch.zeros(problem.shape).to(problem.start)) * weight
    loading = ridge * design.square().sum() / size + torch.finfo(torch.float32).tiny
    if len(design) < size and problem.elsewhere is None:  # the same by way of the smaller system
        gram = design @ design.T
        solution = design.T @ torch.linalg.solve(gram + loading * torch.eye(len(gram)).to(gram), wanted)
    else:
        gram = design.T @ design
        if problem.elsewhere is not None:
            gram = gram + share.sum() * problem.elsewhere.to(gram)
        solution = torch.linalg.solve(gram + loading * torch.eye(len(gram)).to(gram), design.T @ wanted)
    return solution.T.reshape(problem.shape).to(problem.start.dtype)


def solve_l1(problem: Problem, steps: int = 200) -> tuple[Tensor, int]:
    """Minimise the objective over Λ by Adam, from the better of 0 and the least-squares solution.

    A step is a quarter of how far a channel's output at the mask is from its target, over the norm of the keys there.
    There are two rounds, of a third and of two thirds of `steps`; each measures that anew, and its rate falls along a
    cosine. Where the first gains less than 1 % the second takes steps of a tenth. Gives the best Λ met and the steps
    taken.
    """
    squares, rate, taken = solve_least_squares(problem), 0.25, 0
    with torch.no_grad():
        best = min(torch.zeros_like(squares), squares, key=lambda candidate: float(problem.objective(candidate)))
        loss = float(problem.objective(best))
    for length in (steps // 3, steps - steps // 3):
        if loss > 0:
            best, lowest = _descend(problem, best, length, rate)
            rate = rate / 10 if lowest >= 0.99 * loss else rate
            taken, loss = taken + length, lowest
    return best, taken


def _descend(problem: Problem, best: Tensor, steps: int, rate: float) -> tuple[Tensor, float]:
    """Take one round of `solve_l1` from Λ `best`; give the best Λ met, and its loss."""
    lowest, (axes, unit) = float("inf"), _metric(problem, best)
    unknown = (best.flatten(1) @ axes / unit).requires_grad_()
    optimiser = torch.optim.Adam([unknown], lr=rate, eps=1e-12)  # gradients of a loss over many channels are small
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    for step in range(steps + 1):
        with torch.enable_grad():
            now = (unknown * unit @ axes.T).reshape(problem.shape)
            loss = problem.objective(now)
            (unknown.grad,) = torch.autograd.grad(loss, [unknown])
        if loss.item() < lowest:
            lowest, best = loss.item(), now.detach()
        if step < steps:
            optimiser.step()
            schedule.step()
    return best, lowest


@torch.no_grad()
def _metric(problem: Problem, unknown: Tensor) -> tuple[Tensor, Tensor]:
    """Give the axes of the keys at the mask `(rank * kh * kw,) * 2`, and the size of a step in Λ `(out, 1)`.

    That is how far each channel's output is from its target, over the norm of the keys (root mean squares); a channel
    that is nearer than the mean counts as the mean. Without that, or in steps that see the keys whitened, the loss
    falls faster, and edits of the same cost elsewhere correct less. The keys of the whole space keep their axes.
    """
    design, share = problem.system
    design = design * share.sqrt()[:, None]
    squares = (problem.missing(unknown).square() * share[:, None]).sum(dim=0)
    squares = squares.clamp_min(squares.mean()) / design.square().sum().clamp_min(torch.finfo(torch.float32).tiny)
    axes = torch.eye(design.shape[1]).to(design) if problem.basis is None else torch.linalg.eigh(design.T @ design)[1]
    return axes.to(unknown.dtype), squares.sqrt().clamp_min(1e-12)[:, None].to(unknown.dtype)


@without_autocast()
def rewrite(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Reference | None = None,
    *,
    rank: int | None = 1,
    masked: bool = True,
    objective: str = "l1",
    basis: Tensor | None = None,
    reference_weight: float = 0.0,
    steps: int = 200,
) -> Edit:
    """Rewrite the rule that the exemplars show, in one layer (eq. 1 and section 2.2 of the paper).

    Args:
        classifier: the classifier; it is not changed.
        layer: name, module, or a `Cut` of it.
        exemplars: one or several; no labels are used.
        reference: images whose keys shall move least, or their `SecondMoment`; not needed with `rank=None`.
        rank: of the change; None lifts the low-rank restriction ('-proj' in the paper's ablation).
        masked: constrain the values at the mask; False constrains those of the whole image ('-mask').
        objective: "l1", the paper's, or "least_squares" on the pre-activation, exact and in one solve.
        basis: D `(rank, in)`, orthonormal rows, to edit along in place of those found from the keys (for controls).
        reference_weight: λ, the cost of moving outputs of reference keys; 0, as in the paper, is none. At 1, moving
            them as far as is missing at the mask (mean squares) costs as much as leaving the mask unedited. They move
            far less than that, so 10 to 100 are worth trying. It needs images; a sample of 64 is used.
        steps: of the optimiser, with "l1".

    Warns where nothing is missing at the mask. Raises `ValueError` for a mask that covers no key, a rank that is too
    high, and other arguments that are none of the above.
    """
    exact = one_of(objective, OBJECTIVES, "objective") == "least_squares"
    steps, weight = check_number(steps, 0, "steps"), check_amount(reference_weight, "reference_weight", 0)
    if weight and not (isinstance(reference, Images) or getattr(reference, "sample", ())):
        raise ValueError(f"reference_weight {weight} without images: expected those whose outputs shall stay")
    shown = exemplars_at(classifier, layer, exemplars)
    cut = shown.cut
    needed = isinstance(reference, SecondMoment) or (rank is not None and basis is None)
    moment = reference_moment(cut, reference) if needed else None
    problem = pose(cut, shown, rank, masked, moment, basis)
    if weight:
        sample = reference.sample if isinstance(reference, SecondMoment) else keys_of(cut, spread(reference, SAMPLE))
        problem = replace(problem, elsewhere=weight * problem.windows(sample).cpu())
    unknown, taken = (solve_least_squares(problem), 1) if exact else solve_l1(problem, steps)
    fitted = fits(problem, objective, unknown)
    if fitted[0] <= 1e-9 * float(problem.start.square().mean()):
        warnings.warn(
            f"nothing is missing at the mask in {cut.layer!r}: x and x' are alike there (try another layer), or what "
            "follows scales no channel, as a batch norm without running statistics; the edit changes nothing",
            stacklevel=2,
        )
    change = Change(unknown.detach(), problem.basis)
    record = Record(objective, *fitted, taken, shown.response(problem.shift(change.left)))
    return edit_of(cut, {f"{cut.layer}.weight": change}, record)


@torch.no_grad()
def fits(problem: Problem, objective: str, unknown: Tensor) -> tuple[float, float]:
    """Measure how far the layer's values of x' are from those of x, without Λ and with `unknown` as Λ."""
    pair = torch.zeros_like(unknown), unknown
    if objective == "l1":
        return tuple(float(problem.l1(one)) for one in pair)
    _, share = problem.system
    return tuple(float(problem.missing(one).square().mean(dim=1) @ share / share.sum()) for one in pair)
