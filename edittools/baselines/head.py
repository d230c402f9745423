"""Change only the last layer: retrain it, or correct its bias.

`retrain_head` follows DFR (Kirichenko et al., "Last layer re-training is sufficient", arXiv 2204.02937): the features
do not change, and the layer that maps them to classes is fitted again. DFR fits a new layer and needs many labeled
images; here the fit starts from the present layer, since a few exemplars do not show all classes. `correct_logits` is
the simplest baseline: for every image, it makes the predicted class of x' less likely, or that of x more likely.
"""

from collections.abc import Callable, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edittools._checks import check_amount, one_of
from edittools._graph import LINEAR, export_of
from edittools.baselines.inputs import Batches, class_labels, reference_batches, solver_precision
from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.edits import Change, Edit, Record, edit_of
from edittools.exemplars import Exemplar, exemplars_at
from edittools.images import Images
from edittools.moments import Reference

RETRAININGS = [{"share": share, "ridge": ridge} for share, ridge in product((0.1, 0.5), (1e-3, 1e-2, 1e-1, 1.0))]
"""Grid of settings of `retrain_head`."""

RAISED = {"lowered": 0.0, "both": 0.5, "raised": 1.0}
"""The part of a gap that `correct_logits` closes by raising the class of x, for each value of `classes`."""

CORRECTIONS = [{"classes": classes, "margin": margin} for classes, margin in product(RAISED, (0.1, 1.0))]
"""Grid of settings of `correct_logits`."""


def find_head(classifier: Classifier, size: Sequence[int] | None = None) -> str:
    """Return the name of the head: the linear layer whose output is the logits.

    Args:
        classifier: the classifier.
        size: size (H, W) of the images in pixels; by default that of the classifier.

    Raises:
        ValueError: if the logits are not the output of a linear layer, or if this layer cannot be edited.
    """
    exported = export_of(classifier, size)
    weight = exported.logits.args[1] if exported.logits.target is LINEAR else None
    if weight is None or not str(weight.target).endswith(".weight"):
        raise ValueError(
            f"the logits of {exported.name} are not the output of a linear layer, so there is no head to change; "
            "use a model whose last step is a linear layer"
        )
    name = weight.target.removesuffix(".weight")
    exported.layer_node(name)  # refuses a layer that cannot be edited
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
    """Retrain the head, the last linear layer, on the changed images x' with their labels.

    The loss is convex, and is minimized by L-BFGS in float64. With s the `share`, ρ the `ridge`, a the mean square of
    the features, Δ the change of weight and bias, and KL the divergence KL(original ‖ retrained), it is

        s · cross-entropy(x') + (1 − s) · KL(reference images) + ρ a / 2 · ‖Δ‖²

    Args:
        classifier: the classifier; it is not changed.
        layer: a layer before the head, or the head itself. It determines only where the states of the images are
            computed.
        exemplars: one or several, each with a label.
        reference: images whose predictions should not change, or batches of them as (state at the layer, original
            log-probabilities).
        share: weight of the exemplars in the loss, above 0 and up to 1.
        ridge: weight of the penalty on Δ, relative to the mean square of the features; above 0.

    Returns:
        The edit. The losses in its `Record` are those above.

    Raises:
        ValueError: if the logits are not the output of a linear layer, if an exemplar has no label, if there is no
            reference image, or if an argument has a value that is not allowed.
    """
    if not 0 < check_amount(share, "share") <= 1:
        raise ValueError(f"share={share!r} is out of range; pass a number above 0 and up to 1")
    if check_amount(ridge, "ridge", 0) == 0:
        raise ValueError(f"ridge={ridge!r} leaves the best head undetermined; pass a number above 0")
    states = exemplars_at(classifier, layer, exemplars)
    cut = states.cut
    name = find_head(classifier, cut.size)
    head = cut.model.get_submodule(name)
    labels = class_labels(states, classifier, "retraining the head")
    exemplar_count = len(labels)
    all_states = [states.changed]
    all_states += [state for state, _ in reference_batches(cut, reference)]
    weight = head.weight.detach().double()
    with torch.no_grad():
        features = torch.cat([cut.keys_at(state, name) for state in all_states]).double()
    scale = float(features.square().mean().clamp_min(torch.finfo(torch.float32).tiny))
    if head.bias is not None:  # the bias is the weight of a feature that is always 1
        weight = torch.cat([weight, head.bias.detach().double()[:, None]], dim=1)
        features = F.pad(features, (0, 1), value=1.0)
    axes = torch.linalg.qr(features.T).Q  # the best change lies in the span of the features
    logits = features @ weight.T
    projected_features = features @ axes
    original = logits[exemplar_count:].log_softmax(dim=1)
    change = axes.new_zeros(len(weight), axes.shape[1])

    def loss() -> Tensor:
        retrained = logits + projected_features @ change.T
        cross_entropy = F.cross_entropy(retrained[:exemplar_count], labels)
        retrained_reference = retrained[exemplar_count:].log_softmax(dim=1)
        divergence = F.kl_div(retrained_reference, original, reduction="batchmean", log_target=True)
        return share * cross_entropy + (1 - share) * divergence + ridge * scale / 2 * change.square().sum()

    loss_before, loss_after, steps = _minimize(loss, change)
    change = (change.detach() @ axes.T).to(solver_precision(head.weight))
    changes = {f"{name}.weight": Change(change[:, : head.in_features])}
    if head.bias is not None:
        changes[f"{name}.bias"] = Change(change[:, -1])
    return edit_of(cut, changes, Record("head retraining", loss_before, loss_after, steps))


def _minimize(loss: Callable[[], Tensor], change: Tensor) -> tuple[float, float, int]:
    """Minimize a smooth, convex loss of `change` by L-BFGS, in place.

    Returns:
        The losses before and after, and the number of steps.
    """
    change.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [change], max_iter=200, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    @torch.enable_grad()
    def closure() -> Tensor:
        value = loss()
        (change.grad,) = torch.autograd.grad(value, [change])
        return value.detach()

    loss_before = float(optimizer.step(closure))
    loss_after = float(closure())
    return loss_before, loss_after, optimizer.state[change]["n_iter"]


def correct_logits(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Reference | None = None,
    *,
    classes: str = "lowered",
    margin: float = 0.1,
) -> Edit:
    """Change the bias of the last linear layer, one number per class, so that x' is predicted as x is without the edit.

    With z the logits of x' and t the predicted class of x, the logit of every other class c must end at least `margin`
    below that of t. The gap of c is z_c + margin − z_t, or 0 if that is negative. With several exemplars, each class is
    raised by the largest amount that one of them requires, and lowered by the largest amount that one of them requires.

    Args:
        classifier: the classifier; it is not changed.
        layer: a layer before the head, or the head itself. It determines only where the states of the images are
            computed.
        exemplars: one or several; their labels are not used.
        reference: not used.
        classes: how gaps are closed. "lowered" lowers the other classes. "raised" raises t. "both" raises t by half of
            the largest gap, and lowers the classes whose gap is not closed by that.
        margin: how far below t the logit of every other class must end; at least 0.

    Returns:
        The edit. The losses in its `Record` are the share of exemplars whose x' is not predicted as x.

    Raises:
        ValueError: if the logits are not the output of a linear layer with a bias, or if an argument has a value that
            is not allowed.
    """
    raised_part = RAISED[one_of(classes, RAISED, "classes")]
    margin = check_amount(margin, "margin", 0)
    states = exemplars_at(classifier, layer, exemplars)
    cut = states.cut
    name = find_head(classifier, cut.size)
    head = cut.model.get_submodule(name)
    if head.bias is None:
        raise ValueError(f"the last layer {name!r} has no bias to correct; use a head with a bias, or `retrain_head`")
    with torch.no_grad():
        logits = cut.suffix(states.changed).double()
        target = cut.suffix(states.image).argmax(dim=1)
    target_column = target[:, None]
    gaps = (logits - logits.gather(1, target_column) + margin).scatter(1, target_column, 0.0).clamp_min(0)
    raises = raised_part * gaps.max(dim=1, keepdim=True).values
    raised = torch.zeros_like(gaps).scatter(1, target_column, raises).max(dim=0).values
    lowered = (gaps - raises).scatter(1, target_column, 0.0).clamp_min(0).max(dim=0).values
    bias = raised - lowered
    wrong_before = _share_of_errors(logits, target)
    wrong_after = _share_of_errors(logits + bias, target)
    record = Record(f"logit correction ({classes})", wrong_before, wrong_after, 1)
    return edit_of(cut, {f"{name}.bias": Change(bias.to(solver_precision(head.bias)))}, record)


def _share_of_errors(logits: Tensor, target: Tensor) -> float:
    """Compute the share of images whose largest logit `(B, classes)` is not that of the target class `(B,)`."""
    return float((logits.argmax(dim=1) != target).double().mean())
