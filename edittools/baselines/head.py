"""Retraining the last layer alone: DFR (Kirichenko et al., "Last layer re-training is sufficient", arXiv 2204.02937).

What the network has learned to see stays; how its classes are read off is fitted anew, by a softmax regression with a
ridge. Where DFR starts from zero on many labelled images, this starts from the head as it is, since a few exemplars do
not teach all classes.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edittools.baselines.inputs import class_labels, solver_precision
from edittools.checks import check_amount, check_number
from edittools.classifiers import Classifier
from edittools.cut import Cut, State, cut_at
from edittools.edits import Change, Edit, Record, edit_of
from edittools.exemplars import Exemplar, size_of
from edittools.graph import LINEAR, program_of
from edittools.images import Images, in_batches
from edittools.keys import exemplars_at
from edittools.moments import SecondMoment

GRID = [{"share": share, "ridge": ridge} for share in (0.1, 0.5) for ridge in (1e-3, 1e-2, 1e-1, 1.0)]
"""Settings to try."""


def retrain_head(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Images | Sequence[tuple[State, Tensor]],
    *,
    share: float = 0.5,
    ridge: float = 1e-2,
    steps: int = 200,
) -> Edit:
    """Retrain the last linear layer, whose output is the logits, on the changed images x' with their labels.

    The loss is `share` times the mean cross-entropy on x', plus the rest times KL(original ‖ retrained) on the
    reference images, plus `ridge` / 2 times the squared change of weight and bias. It is convex, and minimised by
    L-BFGS in float64.

    What all baselines take is said in `inputs`; exemplars need a `label`, and the layer only says where states stand.

    Args:
        reference: images that shall be read as now, or batches of them as (state at the layer, anything); no labels
            are used.
        share: of the exemplars in the loss, above 0 and up to 1.
        ridge: relative to the mean square of the features; above 0.
        steps: of L-BFGS, at most.

    Returns an `Edit` of the head's weight and, where there is one, its bias, with a `Record`. Raises `ValueError` when
    the logits do not come straight from a linear layer, and for an exemplar without a label or with one of no class;
    `TypeError` for a `SecondMoment`, which holds no images.
    """
    if not 0 < check_amount(share, "share") <= 1:
        raise ValueError(f"share {share!r}: expected a number above 0 and up to 1")
    if check_amount(ridge, "ridge", 0) == 0:
        raise ValueError(f"ridge {ridge!r}: expected a number above 0, or the head has no single best value")
    steps, cut = check_number(steps, 1, None, "steps"), cut_at(classifier, layer, size_of(exemplars))
    exemplars = exemplars_at(cut, exemplars)
    labels, started = class_labels(exemplars, classifier, "retraining the head"), time.perf_counter()
    state = exemplars.changed
    name = find_head(classifier, cut.size)
    head = cut.model.get_submodule(name)
    own, *rest = (_features(cut, name, states) for states in ([state], _states(cut, reference)))
    fit = _Regression.of(head, own, labels, rest, share, ridge)
    change, losses, taken, converged = fit.minimise(steps)
    parts = {f"{name}.weight": change[:, : head.in_features]}
    if head.bias is not None:
        parts[f"{name}.bias"] = change[:, -1]
    changes = {n: Change(part.to(solver_precision(head.weight))) for n, part in parts.items()}
    record = Record("head retraining", *losses, taken, time.perf_counter() - started, converged)
    return edit_of(cut, changes, record)


def find_head(classifier: Classifier, size: Sequence[int] | None = None) -> str:
    """Name the linear layer whose output is the logits, as found on images of `size` (H, W).

    Raises `ValueError` when there is none, or one that cannot be edited.
    """
    program = program_of(classifier, size)
    weight = program.logits.args[1] if program.logits.target is LINEAR else None
    if weight is None or not str(weight.target).endswith(".weight"):
        raise ValueError(
            f"the logits of {program.name} do not come straight from a linear layer: expected a model "
            "whose last step is one; this one has no head to change"
        )
    program.call_of(name := weight.target.removesuffix(".weight"))
    return name


def _states(cut: Cut, reference: Images | Sequence[tuple[State, Tensor]]) -> Iterator[State]:
    """The states of reference images at the cut, batch by batch."""
    if reference is None or isinstance(reference, SecondMoment):
        raise TypeError(
            f"reference is a {type(reference).__name__}: expected images, which the head is trained on: keys alone do "
            "not say how they are read"
        )
    if not len(reference):
        raise ValueError("no reference images: expected at least one")
    if isinstance(reference, list | tuple):
        return (state for state, _ in reference)
    return map(cut.prefix, in_batches(reference, 32))


@torch.no_grad()
def _features(cut: Cut, head: str, states: Sequence[State] | Iterator[State]) -> Tensor:
    """What goes into the head `(N, width)`, with a column of ones where the head has a bias, in float64."""
    features = torch.cat([cut.keys_at(state, head) for state in states]).double()
    return features if cut.model.get_submodule(head).bias is None else F.pad(features, (0, 1), value=1.0)


@dataclass(frozen=True)
class _Regression:
    """A softmax regression near the head as it is: each group of images as (features along `axes`, logits now).

    The best change lies in the span of the features, so it is sought along `axes` `(width [+ 1], r)`, an orthonormal
    basis of it: r is the number of images where they are few.
    """

    axes: Tensor
    labels: Tensor
    own: tuple[Tensor, Tensor]
    others: list[tuple[Tensor, Tensor]]
    share: float
    loading: float

    @classmethod
    def of(
        cls, head: nn.Linear, own: Tensor, labels: Tensor, others: Sequence[Tensor], share: float, ridge: float
    ) -> "_Regression":
        """State the regression for the features of x' and of each other group, see `_features`."""
        every = torch.cat([own, *others])
        axes = torch.linalg.qr(every.T).Q
        weight = head.weight.detach().double()
        if head.bias is not None:
            weight = torch.cat([weight, head.bias.detach().double()[:, None]], dim=1)
        own, *others = ((features @ axes, features @ weight.T) for features in (own, *others))
        square = float(every[:, : head.in_features].square().mean())
        return cls(axes, labels, own, others, share, ridge * max(square, torch.finfo(torch.float32).tiny))

    def loss(self, change: Tensor) -> Tensor:
        """The loss with the head changed by `(classes, r)` along the axes."""
        features, logits = self.own
        total = self.share * F.cross_entropy(logits + features @ change.T, self.labels)
        for features, logits in self.others:
            now, original = (logits + features @ change.T).log_softmax(dim=1), logits.log_softmax(dim=1)
            distance = F.kl_div(now, original, reduction="batchmean", log_target=True)
            total = total + (1 - self.share) / len(self.others) * distance
        return total + self.loading / 2 * change.square().sum()

    def minimise(self, steps: int) -> tuple[Tensor, tuple[float, float], int, bool]:
        """The best change of the head, the loss before and after, the steps taken, and whether the gradient is 0."""
        classes = self.own[1].shape[1]
        change = self.axes.new_zeros(classes, self.axes.shape[1]).requires_grad_()
        optimiser = torch.optim.LBFGS(
            [change], max_iter=steps, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = self.loss(change)
            loss.backward()
            return loss

        before = float(optimiser.step(closure).detach())
        with torch.enable_grad():
            after = float(closure().detach())
        taken, slope = optimiser.state[change]["n_iter"], float(change.grad.abs().max())
        return change.detach() @ self.axes.T, (before, after), taken, slope < 1e-6
