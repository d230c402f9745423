"""The baselines: fine-tuning on the changed image with its label (section 3 of the paper).

*Local* fine-tuning trains the weight of one layer, as an edit does; *global* fine-tuning trains that layer and all
after it: every parameter on which the layer's input does not depend. Beside what follows the layer these are its own
bias and the branches that run in parallel to it, such as the downsampling branch of its residual block. What the input
depends on stays, so it runs once.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edittools.baselines.inputs import Batches, class_labels, reference_batches, solver_precision
from edittools.checks import check_amount, check_number, one_of
from edittools.classifiers import Classifier
from edittools.cut import Cut, State
from edittools.edits import Change, Edit, Record, edit_of
from edittools.exemplars import Exemplar, exemplars_at
from edittools.images import Images

SCOPES = ("local", "global")


@torch.enable_grad()
def finetune(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Images | Batches | None = None,
    *,
    steps: int | Sequence[int] = 50,
    scope: str = "local",
    rate: float = 1e-3,
    momentum: float = 0.0,
    locality: float = 0.0,
) -> Edit | list[Edit]:
    """Fine-tune on the changed images x' with their labels: cross-entropy, with batch norm in eval mode.

    What all baselines take is said in `inputs`; each exemplar needs a `label`.

    Args:
        reference: images for the locality term, or batches of them as (state at the layer, original log-probabilities).
        steps: number of full-batch steps; several give a list with an edit for each, from one run.
        scope: "local" trains the layer, "global" all from it on, also what runs beside it (`Cut.later_parameters`).
        rate: learning rate of SGD.
        momentum: of SGD, in [0, 1).
        locality: weight of a term that keeps `reference` images as they are: KL(original ‖ fine-tuned).

    The loss of the `Record` is the cross-entropy on x'.
    """
    one_of(scope, SCOPES, "scope")
    if not (stops := [check_number(stop, 0, "steps") for stop in (steps if isinstance(steps, Sequence) else [steps])]):
        raise ValueError(f"steps {steps!r}: expected at least one number")
    locality = check_amount(locality, "locality", 0)
    if check_amount(momentum, "momentum", 0) >= 1:
        raise ValueError(f"momentum {momentum}: expected a number from 0 up and below 1")
    exemplars = exemplars_at(classifier, layer, exemplars)
    cut = exemplars.cut
    labels, state = class_labels(exemplars, classifier, "fine-tuning"), exemplars.changed
    trained = {f"{cut.layer}.weight": cut.weight}
    if scope == "global":
        if cut.bias is not None:
            trained[cut.bias_name] = cut.bias
        trained |= cut.later_parameters
    values = {name: _precise(parameter.detach()).clone().requires_grad_() for name, parameter in trained.items()}
    optimiser = torch.optim.SGD(values.values(), lr=check_amount(rate, "rate", 0), momentum=momentum)
    near = cycle(reference_batches(cut, reference)) if locality else None
    losses, edits = [], {}
    for step in range(max(stops) + 1):
        loss = F.cross_entropy(forward(cut, state, values), labels)
        losses.append(loss.item())
        if step in stops:
            edits[step] = _edit(cut, trained, values, Record(f"{scope} fine-tuning", losses[0], losses[-1], step))
        if step < max(stops):
            loss = loss + locality * _moved(cut, *next(near), values) if near else loss
            gradients = torch.autograd.grad(loss, list(values.values()), allow_unused=True, materialize_grads=True)
            for value, gradient in zip(values.values(), gradients, strict=True):
                value.grad = gradient
            optimiser.step()
    return [edits[stop] for stop in stops] if isinstance(steps, Sequence) else edits[steps]


def _edit(cut: Cut, trained: Mapping[str, Tensor], values: Mapping[str, Tensor], record: Record) -> Edit:
    """Make an edit of what has moved, and of the layer in any case."""
    changes = {name: Change((value - _precise(trained[name])).detach()) for name, value in values.items()}
    return edit_of(cut, {n: c for n, c in changes.items() if c.left.any() or n.rpartition(".")[0] == cut.layer}, record)


def forward(cut: Cut, state: State, parameters: Mapping[str, Tensor]) -> Tensor:
    """Compute the logits from the layer on, with `parameters` (by their name in the model) in place of its own."""
    own = {name: value.to(cut.model.get_parameter(name).dtype) for name, value in parameters.items()}
    return _precise(cut.logits(state, parameters=own))


def _moved(cut: Cut, state: State, original: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """Compute KL(original ‖ fine-tuned), the mean over a batch of reference images."""
    now = forward(cut, state, parameters).log_softmax(dim=1)
    return F.kl_div(now, original, reduction="batchmean", log_target=True)


def _precise(value: Tensor) -> Tensor:
    """Give a tensor in float32 or better; small steps are lost to rounding in half precision."""
    return value.to(solver_precision(value))
