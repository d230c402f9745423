"""Change only the last layer: retrain it, or correct its bias.

`retrain_head` follows DFR (Kirichenko et al., "Last layer re-training is sufficient", arXiv 2204.02937): the features
do not change, and the layer that maps them to classes is fitted again. DFR fits a new layer and needs many labeled
images; here the fit starts from the present layer, since a few exemplars do not show all classes. `correct_logits` is
the simplest baseline: for every image, it makes the predicted class of x' less likely, or that of x more likely.
"""

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from edittools._checks import check_amount, one_of
from edittools.cut import Cut
from edittools.edits import Change, Edit, Record
from edittools.methods.inputs import class_labels
from edittools.moments import NoEditError
from edittools.site import Site, solver_precision

RETRAININGS = [{"share": share, "ridge": ridge} for share, ridge in product((0.1, 0.5), (1e-3, 1e-2, 1e-1, 1.0))]
"""Grid of settings of `retrain_head`."""

RAISED = {"lowered": 0.0, "both": 0.5, "raised": 1.0}
"""The part of a gap that `correct_logits` closes by raising the class of x, for each value of `classes`."""

CORRECTIONS = [{"classes": classes, "margin": margin} for classes, margin in product(RAISED, (0.1, 1.0))]
"""Grid of settings of `correct_logits`."""


def retrain_head(
    site: Site,
    *,
    share: float = 0.5,
    ridge: float = 1e-2,
) -> list[Edit]:
    """Retrain the head, the last linear layer, on the changed images x' with their labels.

    The loss is convex, and is minimized by L-BFGS in float64. With s the `share`, ρ the `ridge`, a the mean square of
    the features, Δ the change of weight and bias, and KL the divergence KL(original ‖ retrained), it is

        s · cross-entropy(x') + (1 − s) · KL(reference images) + ρ a / 2 · ‖Δ‖²

    Args:
        site: a layer before the head, or the head itself, which determines only where the states of the images are
            computed; exemplars with labels; and reference images, whose predictions should not change.
        share: weight of the exemplars in the loss, above 0 and up to 1.
        ridge: weight of the penalty on Δ, relative to the mean square of the features; above 0.

    Returns:
        One edit. The losses in its `Record` are those above.

    Raises:
        ValueError: if the logits are not the output of a linear layer, if an exemplar has no label, if there is no
            reference image, or if an argument has a value that is not allowed.
    """
    if not 0 < check_amount(share, "share") <= 1:
        raise ValueError(f"share={share!r} is out of range; pass a number above 0 and up to 1")
    if check_amount(ridge, "ridge", 0) == 0:
        raise ValueError(f"ridge={ridge!r} leaves the best head undetermined; pass a number above 0")
    cut = site.cut
    name = cut.head
    own_weight = cut.tensor(f"{name}.weight").detach()
    own_bias = _bias_of(cut, name)
    labels = class_labels(site, "retraining the head")
    exemplar_count = len(labels)
    all_states = [site.changed, *(state for state, _ in site.reference.predictions)]
    weight = own_weight.double()
    with torch.no_grad():
        features = torch.cat([cut.keys_at(state, name) for state in all_states]).double()
    scale = float(features.square().mean().clamp_min(torch.finfo(torch.float32).tiny))
    if own_bias is not None:  # the bias is the weight of a feature that is always 1
        weight = torch.cat([weight, own_bias.double()[:, None]], dim=1)
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
    change = (change.detach() @ axes.T).to(solver_precision(own_weight))
    changes = {f"{name}.weight": Change(change[:, : own_weight.shape[1]])}
    if own_bias is not None:
        changes[f"{name}.bias"] = Change(change[:, -1])
    return [site.edit(changes, Record("head retraining", loss_before, loss_after, steps))]


def _bias_of(cut: Cut, head: str) -> Tensor | None:
    """Return the bias of the head; None if it has none."""
    module = cut.model.get_submodule(head)
    return None if getattr(module, "bias", None) is None else cut.tensor(f"{head}.bias").detach()


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
    site: Site,
    *,
    classes: str = "lowered",
    margin: float = 0.1,
) -> list[Edit]:
    """Change the bias of the last linear layer, one number per class, so that x' is predicted as x is without the edit.

    With z the logits of x' and t the predicted class of x, the logit of every other class c must end at least `margin`
    below that of t. The gap of c is z_c + margin − z_t, or 0 if that is negative. With several exemplars, each class is
    raised by the largest amount that one of them requires, and lowered by the largest amount that one of them requires.

    Args:
        site: a layer before the head, or the head itself, which determines only where the states of the images are
            computed; and the exemplars.
        classes: how gaps are closed. "lowered" lowers the other classes. "raised" raises t. "both" raises t by half of
            the largest gap, and lowers the classes whose gap is not closed by that.
        margin: how far below t the logit of every other class must end; at least 0.

    Returns:
        One edit. The losses in its `Record` are the share of exemplars whose x' is not predicted as x.

    Raises:
        NoEditError: if the last layer has no bias.
        ValueError: if the logits are not the output of a linear layer, or if an argument has a value that is not
            allowed.
    """
    raised_part = RAISED[one_of(classes, RAISED, "classes")]
    margin = check_amount(margin, "margin", 0)
    cut = site.cut
    name = cut.head
    own_bias = _bias_of(cut, name)
    if own_bias is None:
        raise NoEditError(f"the last layer {name!r} has no bias to correct; use a head with a bias, or `retrain_head`")
    with torch.no_grad():
        logits = cut.logits(site.changed).double()
        target = cut.logits(site.image).argmax(dim=1)
    target_column = target[:, None]
    gaps = (logits - logits.gather(1, target_column) + margin).scatter(1, target_column, 0.0).clamp_min(0)
    raises = raised_part * gaps.max(dim=1, keepdim=True).values
    raised = torch.zeros_like(gaps).scatter(1, target_column, raises).max(dim=0).values
    lowered = (gaps - raises).scatter(1, target_column, 0.0).clamp_min(0).max(dim=0).values
    bias = raised - lowered
    wrong_before = _share_of_errors(logits, target)
    wrong_after = _share_of_errors(logits + bias, target)
    record = Record(f"logit correction ({classes})", wrong_before, wrong_after, 1)
    return [site.edit({f"{name}.bias": Change(bias.to(solver_precision(own_bias)))}, record)]


def _share_of_errors(logits: Tensor, target: Tensor) -> float:
    """Compute the share of images whose largest logit `(B, classes)` is not that of the target class `(B,)`."""
    return float((logits.argmax(dim=1) != target).double().mean())
