"""Rewrite a rule of a classifier in one layer: eq. (1) of the paper, with Λ as the only unknown.

Eq. (1) asks for the change of the layer's weight that maps the keys k* of x' at the mask to the values v* of x:

    min over Λ of Σ_ij ‖v*_ij − f(k*_ij; W')‖,   with W' = W + Λ Dᵀ

The columns of D are an orthonormal basis of the directions C⁻¹d, for the top keys d at the mask. Λ has the shape
`(out, rank, kh, kw)`. So the keys are convolved with W once and projected on D once, and a step of the solver convolves
`rank` channels instead of all input channels. At full rank, all directions are free: D is the identity or,
with a penalty, C^(-1/2), which whitens the keys.

`rewrite` prepares the site (`site.prepare`), and `rewrite_at` does the rest: find the directions (`edit_directions`),
pose the problem (`pose`), solve it for Λ (`solve`), and return Λ and Dᵀ as an `Edit`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from edittools._checks import check_amount, check_number, one_of, warn
from edittools._inference import without_autocast
from edittools.classifiers import Classifier
from edittools.cut import Cut, State, rows
from edittools.edits import Change, Edit, Record
from edittools.exemplars import Exemplar
from edittools.images import Images
from edittools.moments import FEW_IMAGES, Reference, directions
from edittools.site import Site, prepare, solver_precision

EDIT, RANDOM = "edit", "random direction"
"""The names of `rewrite_at`, and of `rewrite_at_random`, its control, in tables."""

OBJECTIVES = ("l1", "least_squares")
_NO_DIFFERENCE = 1e-9
"""A loss of at most this share of the layer's outputs is that of rounding: x and x' are alike at the mask."""

LEAST_SHARE = 1e-3
"""Before the correlation of offsets is inverted, its eigenvalues are raised to at least this share of the largest."""

REFERENCE_WEIGHT = 10.0
"""The recommended λ, see `docs/decisions.md`."""

RIDGE = 1e-3
"""The ridge of `solve_least_squares`, relative to the mean of the diagonal of XᵀX."""


@dataclass(frozen=True, eq=False)
class Problem:
    """State eq. (1) at one layer, as a solver needs it. All tensors are in float32 or better.

    Args:
        cut: the classifier, cut at the layer.
        image: state of x at the layer.
        changed: state of x' at the layer.
        basis: D transposed, `(rank, in)`: the directions of the edit; at full rank with a penalty C^(-1/2), with which
            keys are whitened; None edits along all directions.
        projected_keys: keys of x', projected on `basis`: `(B, rank, h, w)`.
        base_output: output of the unedited layer on x'.
        target_value: value of x, v* in eq. (1).
        masks: `(B, H, W)`; all ones if the values of the whole image are constrained.
        reference_weight: λ, the weight of the penalty on changing the outputs for reference keys; 0 for no penalty.
        moment: the second moment of the reference keys, projected on `basis`, `(rank, rank)`; None without a penalty,
            and for whitened keys, of which it is the identity.
        offsets: the correlation of reference keys at the offsets of the kernel, `(kh * kw, kh * kw)`, see
            `SecondMoment`; None without a penalty.
    """

    cut: Cut
    image: State
    changed: State
    basis: Tensor | None
    projected_keys: Tensor
    base_output: Tensor
    target_value: Tensor
    masks: Tensor
    reference_weight: float = 0.0
    moment: Tensor | None = None
    offsets: Tensor | None = None

    @property
    def is_whitened(self) -> bool:
        """Whether the keys are whitened: at full rank, with a penalty."""
        return bool(self.reference_weight) and self.moment is None

    @property
    def coefficients_shape(self) -> torch.Size:
        """Return the shape of Λ, `(out, rank, kh, kw)`."""
        weight = self.cut.weight
        rank = weight.shape[1] if self.basis is None else len(self.basis)
        return torch.Size((weight.shape[0], rank, *weight.shape[2:]))

    def delta_output(self, coefficients: Tensor) -> Tensor:
        """Compute what Λ, the `coefficients`, adds to the layer's output on x'."""
        return self.cut.convolve(self.projected_keys, coefficients)

    def l1(self, coefficients: Tensor) -> Tensor:
        """Compute the objective of eq. (1), with the L1 norm, which the equation leaves open.

        It is the mean absolute difference between the values of x' under Λ and those of x. Each position has the
        square root of the pooled mask as its weight, so that positions that the mask covers in part still count.
        """
        value = self.cut.value(self.changed, self.base_output + self.delta_output(coefficients))
        distance = (value - self.target_value).abs().mean(dim=self.cut.channels)
        return (distance * self._value_weight).sum() / self._value_weight.sum()

    @cached_property
    def _value_weight(self) -> Tensor:
        """The weight of each position of the value: the square root of the pooled mask."""
        return self.cut.pool_mask(self.masks, "value").sqrt()

    def objective(self, coefficients: Tensor) -> Tensor:
        """Compute what `solve_l1` minimizes: `l1` plus the penalty on reference outputs, in the unit of `l1`."""
        fit = self.l1(coefficients)
        if not self.reference_weight:
            return fit
        return fit + self._penalty_unit * self.reference_weight * self.reference_change(coefficients)

    def reference_change(self, coefficients: Tensor) -> Tensor:
        """Compute the mean square change of the layer's outputs for reference keys under Λ, summed over channels.

        The second moment of the keys that the kernel sees at once is taken as a Kronecker product M ⊗ O, of M at one
        position (`moment`) and O of the offsets. Its quadratic form is summed over the output channels.
        """
        flat = coefficients.reshape(*coefficients.shape[:2], -1)  # a linear layer has no offsets
        weighted = flat @ self.offsets.to(flat)
        if self.moment is not None:
            weighted = torch.einsum("rs,osk->ork", self.moment.to(flat), weighted)
        return (flat * weighted).sum()

    @cached_property
    def offset_whitener(self) -> Tensor:
        """The matrix O^(-1/2), with low eigenvalues raised (`LEAST_SHARE`), `(kh * kw, kh * kw)` float64."""
        values, vectors = torch.linalg.eigh(self.offsets)
        return vectors * values.clamp_min(LEAST_SHARE * values[-1]).rsqrt() @ vectors.T

    @cached_property
    @torch.no_grad()
    def _penalty_unit(self) -> float:
        """Return the factor that converts a squared change of outputs into the unit of `l1`.

        The unit is the loss without an edit, divided by the squared residual at the mask: a mean over positions and,
        as in `reference_change`, a sum over channels.
        """
        unedited = torch.zeros(self.coefficients_shape).to(self.base_output)
        _, share = self.system
        mean_square = float((self.unedited_residual.square() * share[:, None]).sum() / share.sum())
        return float(self.l1(unedited)) / max(mean_square, 1e-30)

    @cached_property
    def system(self) -> tuple[Tensor, Tensor]:
        """The projected keys under the kernel's window, `(positions, rank * kh * kw)`, and the mask's share of each."""
        share = self.cut.pool_mask(self.masks, "output")
        return self.cut.unfold(self.projected_keys), share.flatten().double()

    @cached_property
    @torch.no_grad()
    def target_output(self) -> Tensor:
        """The output of the layer on x' for which the pre-activation, after norm and skip, equals that of x.

        From the output to the pre-activation each channel is only scaled and shifted, so two evaluations determine
        both numbers. A channel whose scale is almost 0 cannot be steered; its target is its own output.
        """
        wanted = self.cut.pre_activation(self.image, self.cut.output(self.image))
        offset = self.cut.pre_activation(self.changed, torch.zeros_like(self.base_output))
        scale = self.cut.pre_activation(self.changed, torch.ones_like(self.base_output)) - offset
        steerable = scale.abs() > 1e-3 * scale.abs().max()
        steered = (wanted - offset) / torch.where(steerable, scale, 1)
        return torch.where(steerable, steered, self.base_output)

    @cached_property
    @torch.no_grad()
    def unedited_residual(self) -> Tensor:
        """`target_output` minus the layer's output on x' without an edit: `(positions, out)` in float64."""
        return rows(self.target_output - self.base_output, self.cut.is_linear).double()

    def residual(self, coefficients: Tensor) -> Tensor:
        """Compute `target_output` minus the layer's output on x' under Λ: `(positions, out)` in float64."""
        difference = self.target_output - self.base_output - self.delta_output(coefficients)
        return rows(difference, self.cut.is_linear).double()


def edit_directions(site: Site, rank: int | None) -> Tensor | None:
    """Find D of eq. (1), transposed: the directions along which to edit, from the keys of x' at the mask.

    Args:
        site: the layer, its exemplars, and the reference images.
        rank: the number of directions; None for full rank.

    Returns:
        The directions `(rank, in)`, which are orthonormal; None at full rank.

    Raises:
        ValueError: if there are no reference images.
        NoEditError: if `rank` exceeds the number of independent keys at the mask.
    """
    if rank is None:
        return None
    keys = site.cut.keys(_in_solver_precision(site.changed, site.cut))
    weights = site.cut.pool_mask(site.masks.to(keys.device)).flatten()
    is_masked = weights > 0
    masked_keys = rows(keys, site.cut.is_linear)[is_masked]
    return directions(masked_keys, weights[is_masked], rank, site.reference.moment.whitener)


@torch.no_grad()
def pose(site: Site, basis: Tensor | None = None, masked: bool = True, reference_weight: float = 0.0) -> Problem:
    """State eq. (1) at a site.

    Args:
        site: the layer, its exemplars, and the reference images.
        basis: the directions of the edit, `(rank, in)`; None for full rank.
        masked: as in `rewrite`.
        reference_weight: λ; by default, there is no penalty.

    Raises:
        ValueError: if there is a penalty and there are no reference images.
    """
    cut = site.cut
    image = _in_solver_precision(site.image, cut)
    changed = _in_solver_precision(site.changed, cut)
    keys = cut.keys(changed)
    masks = site.masks.to(keys.device)
    if basis is not None:
        basis = basis.to(keys)
    moment = None
    offsets = None
    if reference_weight:
        reference = site.reference.moment
        offsets = reference.offsets
        if basis is None:
            # At full rank, keys are whitened instead: their second moment is then the identity, so that the penalty
            # is λ on the diagonal, and no matrix over all pairs of channels and offsets is formed.
            basis = reference.whitener.to(keys)
        else:
            # Along a few directions, an edit sees reference keys only as projected on them.
            projected = basis.double()
            moment = projected @ reference.matrix.to(projected) @ projected.T
    # Without a penalty, the basis stays what it is: at full rank none, since nothing says which keys are typical.
    return Problem(
        cut=cut,
        image=image,
        changed=changed,
        basis=basis,
        projected_keys=cut.project(keys, basis),
        base_output=cut.output(changed),
        target_value=cut.value(image),
        masks=masks if masked else torch.ones_like(masks),
        reference_weight=reference_weight,
        moment=moment,
        offsets=offsets,
    )


def _reference_weight(site: Site, reference_weight: float | None) -> float:
    """Return λ; None gives the recommended value if there is a reference, and 0 otherwise."""
    if reference_weight is None:
        return REFERENCE_WEIGHT if site.reference.is_given else 0.0
    reference_weight = check_amount(reference_weight, "reference_weight", 0)
    if reference_weight and not site.reference.is_given:
        raise ValueError(
            f"reference_weight={reference_weight} without reference images; pass images whose outputs should change "
            "least as reference=, or their SecondMoment"
        )
    return reference_weight


def _in_solver_precision(state: State, cut: Cut) -> State:
    """Convert a state to float32 or better; half precision is too coarse for a solver."""
    precision = solver_precision(cut.weight)
    return tuple(tensor.to(precision) if tensor.is_floating_point() else tensor for tensor in state)


def solve_least_squares(problem: Problem) -> Tensor:
    """Solve for Λ exactly, on the pre-activation: one ridge system that all output channels share.

    With X the projected keys under the kernel's window and R the residual of the unedited layer, both with rows
    weighted by the square root of the mask's share, s the sum of the shares, and M ⊗ O the second moment of the
    projected reference keys under the window, see `Problem.reference_change`:

        Λᵀ = (XᵀX + s λ M ⊗ O + ε I)⁻¹ XᵀR

    ε is `RIDGE` times the mean of the diagonal of XᵀX. At full rank the keys under the window are whitened, so M ⊗ O is
    the identity. This is the objective of MEMIT (Meng et al., arXiv 2210.07229), and with fewer positions than
    unknowns, a system of the size of the positions gives the same solution.

    Returns:
        Λ, `(out, rank, kh, kw)`.
    """
    design, share = problem.system
    weight = share.sqrt()[:, None]
    design = design * weight
    if problem.is_whitened:
        design = (design.unflatten(1, (-1, len(problem.offsets))) @ problem.offset_whitener.to(design)).flatten(1)
    residual = problem.unedited_residual * weight
    unknowns = design.shape[1]
    damping = RIDGE * design.square().sum() / unknowns + torch.finfo(torch.float32).tiny
    if problem.is_whitened:
        damping = damping + share.sum() * problem.reference_weight
    is_shown = share > 0
    positions = int(is_shown.sum())
    if positions < unknowns and problem.moment is None:
        design = design[is_shown]
        gram = design @ design.T
        solution = design.T @ torch.linalg.solve(gram + damping * torch.eye(positions).to(gram), residual[is_shown])
    else:
        gram = design.T @ design
        if problem.moment is not None:
            penalty = torch.kron(problem.moment.to(gram), problem.offsets.to(gram))
            gram = gram + share.sum() * problem.reference_weight * penalty
        solution = torch.linalg.solve(gram + damping * torch.eye(unknowns).to(gram), design.T @ residual)
    coefficients = solution.T
    if problem.is_whitened:
        by_offset = coefficients.unflatten(1, (-1, len(problem.offsets)))
        coefficients = by_offset @ problem.offset_whitener.to(by_offset)
    return coefficients.reshape(problem.coefficients_shape).to(problem.base_output.dtype)


def solve_l1(problem: Problem, steps: int = 200) -> tuple[Tensor, int]:
    """Minimize `Problem.objective` over Λ by Adam.

    It starts from Λ = 0 or from the least-squares solution, whichever has the lower objective. There are two rounds, of
    one third and of two thirds of the steps. Each round determines the size of a step again (`_preconditioner`) and
    lowers its learning rate along a cosine. The learning rate starts at 0.25; in the second round, it starts at a tenth
    of that if the first round has lowered the objective by at most 1%.

    Args:
        steps: number of steps of Adam in both rounds together.

    Returns:
        The best Λ of all steps, `(out, rank, kh, kw)`, and the number of steps that were taken, which is 0 if the
        objective is 0 from the start.
    """
    least_squares = solve_least_squares(problem)
    best = torch.zeros_like(least_squares)
    with torch.no_grad():
        loss = float(problem.objective(best))
        least_squares_loss = float(problem.objective(least_squares))
    if least_squares_loss < loss:
        best = least_squares
        loss = least_squares_loss
    rate = 0.25
    taken = 0
    for round_steps in (steps // 3, steps - steps // 3):
        if loss > 0:
            best, lowest = _adam_round(problem, best, round_steps, rate)
            if lowest >= 0.99 * loss:
                rate = rate / 10
            loss = lowest
            taken += round_steps
    return best, taken


def _adam_round(problem: Problem, start: Tensor, steps: int, rate: float) -> tuple[Tensor, float]:
    """Take one round of `solve_l1` from Λ `start`; return the best Λ of its steps, and the loss there."""
    axes, step_size = _preconditioner(problem, start)
    scaled = (start.flatten(1) @ axes / step_size).requires_grad_()
    optimizer = torch.optim.Adam([scaled], lr=rate, eps=1e-12)  # gradients of a loss over many channels are small
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    best = start
    lowest = float("inf")
    for step in range(steps + 1):
        with torch.enable_grad():
            coefficients = ((scaled * step_size) @ axes.T).reshape(problem.coefficients_shape)
            loss = problem.objective(coefficients)
            (scaled.grad,) = torch.autograd.grad(loss, [scaled])
        if loss.item() < lowest:
            lowest = loss.item()
            best = coefficients.detach()
        if step < steps:
            optimizer.step()
            schedule.step()
    return best, lowest


@torch.no_grad()
def _preconditioner(problem: Problem, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the coordinates in which Adam takes its steps from Λ.

    The axes are the principal axes of the projected keys at the mask; without a basis, Λ keeps its own axes. The step
    size of an output channel is the root mean square of its residual at the mask, but at least that of the average
    channel, divided by the root mean square of the keys' norm there. With one step size for all channels, or with
    whitened keys, the loss falls faster, but edits of the same cost on other images corrected less when both were
    tried on MiniWorld.

    Returns:
        The axes, `(rank * kh * kw, rank * kh * kw)`, and the size of a step for each output channel, `(out, 1)`.
    """
    design, share = problem.system
    design = design * share.sqrt()[:, None]
    tiny = torch.finfo(torch.float32).tiny
    squares = (problem.residual(coefficients).square() * share[:, None]).sum(dim=0)
    squares = squares.clamp_min(squares.mean()) / design.square().sum().clamp_min(tiny)
    scale = squares.sqrt().clamp_min(1e-12)[:, None]
    if problem.basis is None or problem.is_whitened:
        axes = torch.eye(design.shape[1]).to(design)
    else:
        _, axes = torch.linalg.eigh(design.T @ design)
    return axes.to(coefficients.dtype), scale.to(coefficients.dtype)


@without_autocast()
def rewrite(
    classifier: Classifier,
    layer: str | nn.Module,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Reference | None = None,
    *,
    rank: int | None = 1,
    masked: bool = True,
    objective: str = "least_squares",
    reference_weight: float | None = None,
    steps: int = 200,
) -> Edit:
    """Rewrite the rule that the exemplars show, in one layer (eq. 1 and section 2.2 of the paper).

    The defaults are the recommended settings. The paper's setting is `objective="l1", reference_weight=0.0`. It takes
    longer, and breaks more images that the edit should not change; on typographic attacks, it also corrects more
    errors. To select the layer, the rank, and the strength, see `edittools.select_edit`.

    Examples:
        >>> edit = rewrite(classifier, "features.10", exemplar, images)  # images (N, 3, H, W) in [0, 1], at least 50
        >>> with edit.applied(classifier):
        ...     logits = classifier(other_images)

    Args:
        classifier: the classifier; it is not changed.
        layer: name of the layer, or the module.
        exemplars: one or several; their labels are not used.
        reference: ordinary images, whose keys define C, or their `SecondMoment`. The edit changes the layer's outputs
            for such keys as little as it can. Not needed with `rank=None`, unless a `reference_weight` is given.
        rank: rank of the change; None for full rank, without the low-rank restriction ("-proj" in the paper's
            ablation). With a penalty, full rank is the objective of MEMIT.
        masked: constrain the values at the mask; False constrains those of the whole image ("-mask" in the paper).
        objective: "least_squares" on the pre-activation, which is exact and takes one solve, or "l1", as
            in the paper's code.
        reference_weight: λ, the weight of a penalty on changing the outputs for reference keys; 0, as in the paper, for
            no penalty. Its unit: at λ = 1, changing these outputs by as much as the outputs at the mask are from their
            target (in mean squares over positions) costs as much as leaving the outputs at the mask unedited. An edit
            changes them far less, so values from 10 to 100 are worth trying. None uses the recommended
            value, 10 (`REFERENCE_WEIGHT`), if there is a reference, and 0 otherwise.
        steps: number of steps of Adam, for "l1" only. It starts from Λ = 0 or from the least-squares solution,
            whichever has the lower objective.

    Returns:
        The edit, with a `Record` of its loss before and after.

    Raises:
        KeyError: if the model has no layer of that name.
        ValueError: if the layer cannot be edited, or an argument has a value that is not allowed.
        NoEditError: if `rank` exceeds the number of independent keys at the mask.

    Warns:
        UserWarning: if x and x' do not differ at the mask, so that there is nothing to edit, or if fewer than 50
            reference images are given.
    """
    site = prepare(classifier, layer, exemplars, reference)
    if isinstance(reference, Images) and 0 < len(reference) < FEW_IMAGES:
        warn(
            f"{len(reference)} reference images say little about which keys are typical; pass at least {FEW_IMAGES}, "
            "better hundreds"
        )
    [edit] = rewrite_at(
        site, rank=rank, masked=masked, objective=objective, reference_weight=reference_weight, steps=steps
    )
    output = site.cut.output(_in_solver_precision(site.changed, site.cut))
    magnitude = output.abs() if objective == "l1" else output.square()
    if edit.record.loss_before <= _NO_DIFFERENCE * float(magnitude.mean()):
        warn(
            f"x and x' do not differ at the mask in layer {site.cut.layer!r}, or no channel there is scaled on the way "
            "to the value, as by a batch norm without running statistics; the edit changes nothing. Try another layer"
        )
    return edit


@without_autocast()
def rewrite_at(
    site: Site,
    *,
    rank: int | None = 1,
    masked: bool = True,
    objective: str = "least_squares",
    basis: Tensor | None = None,
    reference_weight: float | None = None,
    steps: int = 200,
) -> list[Edit]:
    """Rewrite the rule that a site's exemplars show: `rewrite` as a method of a search.

    Args:
        site: the layer, its exemplars, and the reference images.
        rank: as in `rewrite`; likewise `masked`, `objective`, `reference_weight`, and `steps`.
        basis: directions `(rank, in)`, instead of those found from the keys (for controls). The rows should be
            orthonormal: the ridge and the steps of the solver depend on their scale.

    Returns:
        One edit.
    """
    one_of(objective, OBJECTIVES, "objective")
    steps = check_number(steps, "steps", 0)
    reference_weight = _reference_weight(site, reference_weight)
    if basis is None:
        basis = edit_directions(site, rank)
    problem = pose(site, basis, masked, reference_weight)
    coefficients, taken = solve(problem, objective, steps)
    return [_edit_of(coefficients, problem, site, objective, taken)]


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
        rank: number of directions; `objective`, `reference_weight`, and `steps` are those of `rewrite`.
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


def solve(problem: Problem, objective: str, steps: int = 200) -> tuple[Tensor, int]:
    """Solve a problem for Λ with the solver of an objective; return Λ and the number of steps that were taken."""
    if objective == "least_squares":
        return solve_least_squares(problem), 1
    return solve_l1(problem, steps)


def _edit_of(coefficients: Tensor, problem: Problem, site: Site, objective: str, taken: int) -> Edit:
    """Make the edit of Λ, the `coefficients`, and measure it."""
    loss_before, loss_after = losses(problem, objective, coefficients)
    coefficients = coefficients.detach()
    response = site.response(problem.delta_output(coefficients))
    change = Change(coefficients, problem.basis)
    if problem.is_whitened:
        change = Change(change.delta())  # smaller than its two factors
    record = Record(objective, loss_before, loss_after, taken, response)
    return site.edit({f"{site.cut.layer}.weight": change}, record)


@torch.no_grad()
def losses(problem: Problem, objective: str, coefficients: Tensor) -> tuple[float, float]:
    """Measure the loss without an edit and with Λ.

    Args:
        objective: "l1" measures `Problem.l1`, "least_squares" the mean square of `Problem.residual` at the mask.

    Returns:
        Both losses, without the penalty on reference outputs.
    """
    if objective == "l1":
        unedited = torch.zeros_like(coefficients)
        return float(problem.l1(unedited)), float(problem.l1(coefficients))
    _, share = problem.system
    before = problem.unedited_residual.square().mean(dim=1) @ share / share.sum()
    after = problem.residual(coefficients).square().mean(dim=1) @ share / share.sum()
    return float(before), float(after)
