"""Correcting little: the last layer alone, trained anew, or only its bias.

`retrain_head` is DFR (Kirichenko et al., "Last layer re-training is sufficient", arXiv 2204.02937): what the network
has learned to see stays, how its classes are read off is fitted anew. Where DFR starts from zero on many labelled
images, this starts from the head as it is, since a few exemplars do not teach all classes. `correct_logits` is the
least that an edit must beat: what x' is read as gets harder to say everywhere, or what x is read as easier.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edittools.baselines.inputs import class_labels, solver_precision
from edittools.checks import check_amount
from edittools.classifiers import Classifier
from edittools.cut import Cut, State, cut_at
from edittools.edits import Change, Edit, Record, edit_of
from edittools.exemplars import Exemplar, size_of
from edittools.graph import LINEAR, program_of
from edittools.images import Images, in_batches
from edittools.keys import Reference, exemplars_at
from edittools.moments import SecondMoment

GRID = [{"share": share, "ridge": ridge} for share in (0.1, 0.5) for ridge in (1e-3, 1e-2, 1e-1, 1.0)]
"""Settings of `retrain_head` to try."""

RAISED = {"lowered": 0.0, "both": 0.5, "raised": 1.0}
"""Which classes `correct_logits` moves, and the part of the largest gap that the class of x is raised by."""

CORRECTIONS = [{"classes": classes, "margin": margin} for classes in RAISED for margin in (0.1, 1.0)]
"""Settings of `correct_logits` to try."""


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


def retrain_head(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Images | Sequence[tuple[State, Tensor]],
    *,
    share: float = 0.5,
    ridge: float = 1e-2,
) -> Edit:
    """Retrain the last linear layer, whose output is the logits, on the changed images x' with their labels.

    The loss is `share` times the mean cross-entropy on x', plus the rest times KL(original ‖ retrained) on the
    reference images, plus `ridge` / 2 times the squared change of weight and bias. It is convex, and minimised by
    L-BFGS in float64. What all baselines take is said in `inputs`; exemplars need a `label`, and the layer only says
    where states stand.

    Args:
        reference: images that shall be read as now, or batches of them as (state at the layer, anything); no labels
            are used.
        share: of the exemplars in the loss, above 0 and up to 1.
        ridge: relative to the mean square of the features; above 0.

    Returns an `Edit` of the head's weight and, where there is one, its bias, with a `Record`. Raises `ValueError` when
    the logits do not come straight from a linear layer, and for an exemplar without a label or with one of no class;
    `TypeError` for a `SecondMoment`, which holds no images.
    """
    if not 0 < check_amount(share, "share") <= 1:
        raise ValueError(f"share {share!r}: expected a number above 0 and up to 1")
    if check_amount(ridge, "ridge", 0) == 0:
        raise ValueError(f"ridge {ridge!r}: expected a number above 0, or the head has no single best value")
    cut = cut_at(classifier, layer, size_of(exemplars))
    exemplars = exemplars_at(cut, exemplars)
    labels = class_labels(exemplars, classifier, "retraining the head")
    name = find_head(classifier, cut.size)
    head, features = cut.model.get_submodule(name), _features(cut, name, exemplars.changed, reference)
    scale = float(features.square().mean().clamp_min(torch.finfo(torch.float32).tiny))
    weight, shown = head.weight.detach().double(), len(labels)
    if head.bias is not None:
        weight = torch.cat([weight, head.bias.detach().double()[:, None]], dim=1)
        features = F.pad(features, (0, 1), value=1.0)
    axes = torch.linalg.qr(features.T).Q  # the best change lies in the span of the features
    logits, features = features @ weight.T, features @ axes

    def loss(change: Tensor) -> Tensor:
        after = logits + features @ change.T
        wrong = F.cross_entropy(after[:shown], labels)
        now, before = (z[shown:].log_softmax(dim=1) for z in (after, logits))
        moved = F.kl_div(now, before, reduction="batchmean", log_target=True)
        return share * wrong + (1 - share) * moved + ridge * scale / 2 * change.square().sum()

    change, record = _minimised(loss, axes.new_zeros(len(weight), axes.shape[1]))
    change = (change @ axes.T).to(solver_precision(head.weight))
    parts = {f"{name}.weight": change[:, : head.in_features]}
    parts |= {} if head.bias is None else {f"{name}.bias": change[:, -1]}
    return edit_of(cut, {part: Change(moved) for part, moved in parts.items()}, record)


@torch.no_grad()
def _features(cut: Cut, head: str, shown: State, reference: Images | Sequence[tuple[State, Tensor]]) -> Tensor:
    """What goes into the head `(N, width)`, of x' first, then of the reference images, in float64."""
    if reference is None or isinstance(reference, SecondMoment):
        found = f"reference is a {type(reference).__name__}"
        raise TypeError(f"{found}: expected images, since keys alone do not say how they are read")
    if not len(reference):
        raise ValueError("no reference images: expected at least one")
    batched = isinstance(reference, list | tuple)
    states = [state for state, _ in reference] if batched else map(cut.prefix, in_batches(reference, 32))
    return torch.cat([cut.keys_at(state, head) for state in (shown, *states)]).double()


def _minimised(loss: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, Record]:
    """Minimise a smooth, convex loss by L-BFGS."""
    change = start.requires_grad_()
    optimiser = torch.optim.LBFGS(
        [change], max_iter=200, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    @torch.enable_grad()
    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(change)
        value.backward()
        return value

    before, after = optimiser.step(closure).item(), closure().item()
    return change.detach(), Record("head retraining", before, after, optimiser.state[change]["n_iter"])


def correct_logits(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Reference | None = None,
    *,
    classes: str = "lowered",
    margin: float = 0.1,
) -> Edit:
    """Change the bias of the last linear layer, one number a class, so that x' is read as x is now.

    With z the logits of x' and t the class that x is read as, every other class c must end `margin` below t. The gap
    z_c + margin − z_t, where it is above 0, is closed by lowering c ("lowered"), by raising t ("raised"), or by raising
    t by half of the largest gap and lowering what is still above ("both"). Of several exemplars each class takes the
    largest raise and the largest lowering that one of them asks for. So x' may not be read as x where exemplars
    contradict each other; the loss of the `Record`, the share of exemplars whose x' is not, shows it. The reference is
    not used, and the layer only says where states stand.

    Args:
        classes: "lowered", "raised" or "both".
        margin: in logits.

    Returns an `Edit` of the head's bias. Raises `ValueError` when the logits do not come straight from a linear layer
    with a bias, and for unknown `classes`.
    """
    if classes not in RAISED:
        raise ValueError(f"classes {classes!r}: expected one of {', '.join(RAISED)}")
    margin, cut = check_amount(margin, "margin", 0), cut_at(classifier, layer, size_of(exemplars))
    exemplars = exemplars_at(cut, exemplars)
    name = find_head(classifier, cut.size)
    head = cut.model.get_submodule(name)
    if head.bias is None:
        raise ValueError(f"the last layer {name!r} has no bias: expected one, since nothing else is changed")
    with torch.no_grad():
        logits, target = cut.suffix(exemplars.changed).double(), cut.suffix(exemplars.image).argmax(dim=1)
    gaps = (logits - logits.gather(1, target[:, None]) + margin).scatter(1, target[:, None], 0.0).clamp_min(0)
    raises = RAISED[classes] * gaps.max(dim=1, keepdim=True).values
    lowered = (gaps - raises).scatter(1, target[:, None], 0.0).clamp_min(0).max(dim=0).values
    bias = torch.zeros_like(gaps).scatter(1, target[:, None], raises).max(dim=0).values - lowered
    wrong = [float((z.argmax(dim=1) != target).double().mean()) for z in (logits, logits + bias)]
    record = Record(f"logit correction ({classes})", *wrong, 1)
    return edit_of(cut, {f"{name}.bias": Change(bias.to(solver_precision(head.bias)))}, record)
