"""Correcting the logits alone: no weight changes, one number a class is added to the last layer's bias.

The least that an edit must beat: what x' is read as gets harder to say everywhere, or what x is read as easier.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edittools.baselines.head import find_head
from edittools.baselines.inputs import solver_precision
from edittools.checks import check_amount
from edittools.classifiers import Classifier
from edittools.cut import Cut, State, cut_at
from edittools.edits import Change, Edit, Record, edit_of
from edittools.exemplars import Exemplar, size_of
from edittools.keys import Reference, exemplars_at

RAISED = {"lowered": 0.0, "both": 0.5, "raised": 1.0}
"""Which classes move, and the part of the largest gap that the class of x is raised by."""
GRID = [{"classes": classes, "margin": margin} for classes in RAISED for margin in (0.1, 1.0)]
"""Settings to try."""


def correct_logits(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Reference | None = None,
    *,
    classes: str = "lowered",
    margin: float = 0.1,
) -> Edit:
    """Change the bias of the last linear layer so that x' is read as x is now.

    With z the logits of x' and t the class that x is read as, every other class c must end `margin` below t. The gap
    z_c + margin − z_t, where it is above 0, is closed by lowering c ("lowered"), by raising t ("raised"), or by raising
    t by half of the largest gap and lowering what is still above ("both"). Of several exemplars each class takes the
    largest raise and the largest lowering that one of them asks for. So x' may not be read as x where exemplars
    contradict each other; the loss of the `Record`, the share of exemplars whose x' is not, shows it.

    What all baselines take is said in `inputs`; the reference is not used, and the layer only says where states stand.

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
    started, state = time.perf_counter(), exemplars.changed
    name = find_head(classifier, cut.size)
    head = cut.model.get_submodule(name)
    if head.bias is None:
        raise ValueError(f"the last layer {name!r} has no bias: expected one, since nothing else is changed")
    logits, target = _logits(cut, state), _logits(cut, exemplars.image).argmax(dim=1)
    bias = _bias(logits, target, RAISED[classes], margin)
    wrong = [float((z.argmax(dim=1) != target).double().mean()) for z in (logits, logits + bias)]
    record = Record(f"logit correction ({classes})", *wrong, 1, time.perf_counter() - started)
    change = Change(bias.to(solver_precision(head.bias)))
    return edit_of(cut, {f"{name}.bias": change}, record)


@torch.no_grad()
def _logits(cut: Cut, state: State) -> Tensor:
    return cut.suffix(state).double()


def _bias(logits: Tensor, target: Tensor, raised: float, margin: float) -> Tensor:
    """The bias `(classes,)` for logits `(B, classes)` of x' and the classes `(B,)` of x."""
    gaps = (logits - logits.gather(1, target[:, None]) + margin).scatter(1, target[:, None], 0.0).clamp_min(0)
    raises = raised * gaps.max(dim=1, keepdim=True).values
    lowered = (gaps - raises).scatter(1, target[:, None], 0.0).clamp_min(0).max(dim=0).values
    return torch.zeros_like(gaps).scatter(1, target[:, None], raises).max(dim=0).values - lowered
