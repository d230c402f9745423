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

from edittools._graph import LINEAR, export_of
from edittools.baselines.inputs import Batches, class_labels, reference_batches, solver_precision
from edittools.checks import check_amount, one_of
from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.edits import Change, Edit, Record, edit_of
from edittools.exemplars import Exemplar, exemplars_at
from edittools.images import Images
from edittools.moments import Reference

RETRAININGS = [{"share": share, "ridge": ridge} for share in (0.1, 0.5) for ridge in (1e-3, 1e-2, 1e-1, 1.0)]
"""Settings of `retrain_head` to try."""

RAISED = {"lowered": 0.0, "both": 0.5, "raised": 1.0}
"""Which classes `correct_logits` moves, and the part of the largest gap that the class of x is raised by."""

CORRECTIONS = [{"classes": classes, "margin": margin} for classes in RAISED for margin in (0.1, 1.0)]
"""Settings of `correct_logits` to try."""


def find_head(classifier: Classifier, size: Sequence[int] | None = None) -> str:
    """Name the linear layer whose output is the logits, on images of `size` (H, W).

    Raises `ValueError` when there is none, or one that cannot be edited.
    """
    exported = export_of(classifier, size)
    weight = exported.logits.args[1] if exported.logits.target is LINEAR else None
    if weight is None or not str(weight.target).endswith(".weight"):
        raise ValueError(
            f"the logits of {exported.name} do not come straight from a linear layer: expected a model "
            "whose last step is one; this one has no head to change"
        )
    name = weight.target.removesuffix(".weight")
    exported.layer_node(name)
    return name


def retrain_head(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Images | Batches,
    *,
    share: float = 0.5,
    ridge: float = 1e-2,
) -> Edit:
    """Retrain the last linear layer, whose output is the logits, on the changed images x' with their labels.

    The loss is `share` times the mean cross-entropy on x', plus the rest times KL(original ‖ retrained) on the
    reference images, plus `ridge` / 2 times the squared change of weight and bias. It is convex, and minimised by
    L-BFGS in float64. The `layer` only says where states stand; see `inputs` for the rest.

    Args:
        reference: images that shall be read as now, or batches of them as (state at the layer, log-probabilities).
        share: of the exemplars in the loss, above 0 and up to 1.
        ridge: relative to the mean square of the features; above 0.

    Raises `ValueError` when the logits do not come straight from a linear layer, and for an exemplar without a label.
    """
    if not 0 < check_amount(share, "share") <= 1:
        raise ValueError(f"share {share!r}: expected a number above 0 and up to 1")
    if check_amount(ridge, "ridge", 0) == 0:
        raise ValueError(f"ridge {ridge!r}: expected a number above 0, or the head has no single best value")
    exemplars = exemplars_at(classifier, layer, exemplars)
    cut, name = exemplars.cut, find_head(classifier, exemplars.cut.size)
    labels, head = class_labels(exemplars, classifier, "retraining the head"), cut.model.get_submodule(name)
    states = [exemplars.changed, *(state for state, _ in reference_batches(cut, reference))]
    weight, shown = head.weight.detach().double(), len(labels)
    with torch.no_grad():
        features = torch.cat([cut.keys_at(state, name) for state in states]).double()
    scale = float(features.square().mean().clamp_min(torch.finfo(torch.float32).tiny))
    if head.bias is not None:
        weight = torch.cat([weight, head.bias.detach().double()[:, None]], dim=1)
        features = F.pad(features, (0, 1), value=1.0)
    axes = torch.linalg.qr(features.T).Q  # the best change lies in the span of the features
    logits, features = features @ weight.T, features @ axes
    before, change = logits[shown:].log_softmax(dim=1), axes.new_zeros(len(weight), axes.shape[1])

    def loss() -> Tensor:
        after = logits + features @ change.T
        wrong = F.cross_entropy(after[:shown], labels)
        moved = F.kl_div(after[shown:].log_softmax(dim=1), before, reduction="batchmean", log_target=True)
        return share * wrong + (1 - share) * moved + ridge * scale / 2 * change.square().sum()

    record = Record("head retraining", *_minimise(loss, change))
    change = (change.detach() @ axes.T).to(solver_precision(head.weight))
    parts = {f"{name}.weight": change[:, : head.in_features]}
    parts |= {} if head.bias is None else {f"{name}.bias": change[:, -1]}
    return edit_of(cut, {part: Change(moved) for part, moved in parts.items()}, record)


def _minimise(loss: Callable[[], Tensor], change: Tensor) -> tuple[float, float, int]:
    """Minimise a smooth, convex loss of `change` by L-BFGS: give both losses and the steps."""
    settings = {"tolerance_grad": 1e-9, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
    optimiser = torch.optim.LBFGS([change.requires_grad_()], max_iter=200, **settings)

    @torch.enable_grad()
    def closure() -> Tensor:
        value = loss()
        (change.grad,) = torch.autograd.grad(value, [change])
        return value.detach()

    before, after = float(optimiser.step(closure)), float(closure())
    return before, after, optimiser.state[change]["n_iter"]


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
    largest raise and the largest lowering that one of them asks for. The loss of the `Record` is the share of exemplars
    whose x' is not read as x. The reference is not used, and the `layer` only says where states stand.

    Raises `ValueError` when the logits do not come straight from a linear layer with a bias.
    """
    raised, margin = RAISED[one_of(classes, RAISED, "classes")], check_amount(margin, "margin", 0)
    exemplars = exemplars_at(classifier, layer, exemplars)
    cut, name = exemplars.cut, find_head(classifier, exemplars.cut.size)
    head = cut.model.get_submodule(name)
    if head.bias is None:
        raise ValueError(f"the last layer {name!r} has no bias: expected one, since nothing else is changed")
    with torch.no_grad():
        logits, target = cut.suffix(exemplars.changed).double(), cut.suffix(exemplars.image).argmax(dim=1)
    gaps = (logits - logits.gather(1, target[:, None]) + margin).scatter(1, target[:, None], 0.0).clamp_min(0)
    raises = raised * gaps.max(dim=1, keepdim=True).values
    lowered = (gaps - raises).scatter(1, target[:, None], 0.0).clamp_min(0).max(dim=0).values
    bias = torch.zeros_like(gaps).scatter(1, target[:, None], raises).max(dim=0).values - lowered
    wrong = [float((z.argmax(dim=1) != target).double().mean()) for z in (logits, logits + bias)]
    record = Record(f"logit correction ({classes})", *wrong, 1)
    return edit_of(cut, {f"{name}.bias": Change(bias.to(solver_precision(head.bias)))}, record)
