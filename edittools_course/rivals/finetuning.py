"""Fine-tune on the changed images with their labels (section 3 of the paper).

*Local* fine-tuning trains the weight of one layer, which is what an edit changes. *Global* fine-tuning trains every
parameter on which the layer's input does not depend: the layer's weight and bias, all later layers, and branches
parallel to the layer, such as the downsampling branch of its residual block. The parameters on which the layer's input
depends are not changed, so the images run through them only once.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edittools._checks import check_amount, check_number, one_of
from edittools.cut import Cut, State
from edittools.edits import Change, Edit, Record
from edittools.site import Site, solver_precision
from edittools_course.rivals.inputs import class_labels

SCOPES = ("local", "global")


@torch.enable_grad()
def finetune(
    site: Site,
    *,
    steps: int | Sequence[int] = 50,
    scope: str = "local",
    rate: float = 1e-3,
) -> list[Edit]:
    """Fine-tune on the changed images x' with their labels, by cross-entropy, with batch norm in eval mode.

    Args:
        site: the layer and its exemplars, each with a label.
        steps: number of SGD steps, each on all exemplars; or several such numbers, for one edit each from a single run.
        scope: "local" trains the weight of the layer; "global" also trains its bias and `Cut.later_parameters`.
        rate: learning rate of SGD.

    Returns:
        One edit per number of steps, in the same order. The losses in their `Record` are the cross-entropy on x'.

    Raises:
        ValueError: if an exemplar has no label, or if an argument has a value that is not allowed.
    """
    one_of(scope, SCOPES, "scope")
    stops = [check_number(stop, "steps", 0) for stop in (steps if isinstance(steps, Sequence) else [steps])]
    if not stops:
        raise ValueError(f"steps={steps!r} is empty; pass at least one number of steps")
    rate = check_amount(rate, "rate", 0)
    cut = site.cut
    labels = class_labels(site)
    originals = _trained_parameters(cut, scope)
    parameters = {
        name: _in_solver_precision(original.detach()).clone().requires_grad_() for name, original in originals.items()
    }
    optimizer = torch.optim.SGD(parameters.values(), lr=rate)
    edits = {}
    first_loss = None
    for step in range(max(stops) + 1):
        loss = F.cross_entropy(_logits(cut, site.changed, parameters), labels)
        if first_loss is None:
            first_loss = loss.item()
        if step in stops:
            record = Record(f"{scope} fine-tuning", first_loss, loss.item(), step)
            edits[step] = _edit(site, originals, parameters, record)
        if step < max(stops):
            _set_gradients(loss, parameters)
            optimizer.step()
    return [edits[stop] for stop in stops]


def _trained_parameters(cut: Cut, scope: str) -> dict[str, Tensor]:
    """Return the parameters that fine-tuning trains, by their name in the model."""
    trained = {f"{cut.layer}.weight": cut.weight}
    if scope == "global":
        if cut.bias is not None:
            trained[cut.bias_name] = cut.bias
        trained.update({name: cut.tensor(name) for name in cut.later_parameters})
    return trained


def _set_gradients(loss: Tensor, parameters: Mapping[str, Tensor]) -> None:
    """Set the gradients of parameters; they are 0 for parameters on which the loss does not depend."""
    tensors = list(parameters.values())
    gradients = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)
    for tensor, gradient in zip(tensors, gradients, strict=True):
        tensor.grad = gradient


def _edit(site: Site, originals: Mapping[str, Tensor], parameters: Mapping[str, Tensor], record: Record) -> Edit:
    """Make an edit of the parameters that have changed, and of the layer's own parameters in any case."""
    changes = {}
    for name, parameter in parameters.items():
        change = Change((parameter - _in_solver_precision(originals[name])).detach())
        module_name, _, _ = name.rpartition(".")
        if change.left.any() or module_name == site.cut.layer:
            changes[name] = change
    return site.edit(changes, record)


def _in_solver_precision(value: Tensor) -> Tensor:
    """Convert a tensor to float32 or better; in half precision, small steps would be rounded to 0."""
    return value.to(solver_precision(value))


def _logits(cut: Cut, state: State, parameters: Mapping[str, Tensor]) -> Tensor:
    """Compute the logits in float32 or better, with parameters that are rounded to the precision of the model's."""
    rounded = {name: value.to(cut.tensor(name).dtype) for name, value in parameters.items()}
    return _in_solver_precision(cut.logits(state, parameters=rounded))
