"""Change only the last layer: retrain it.

`retrain_head` follows DFR (Kirichenko et al., "Last layer re-training is sufficient", arXiv 2204.02937): the features
do not change, and the layer that maps them to classes is fitted again. DFR fits a new layer and needs many labeled
images; here the fit starts from the present layer, since a few exemplars do not show all classes.
"""

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from edittools._checks import check_amount
from edittools.cut import Cut
from edittools.edits import Change, Edit, Record
from edittools.methods.inputs import class_labels
from edittools.site import Site, solver_precision

RETRAININGS = [{"share": share, "ridge": ridge} for share, ridge in product((0.1, 0.5), (1e-3, 1e-2, 1e-1, 1.0))]
"""Grid of settings of `retrain_head`."""


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
