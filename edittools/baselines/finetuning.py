"""The baselines: fine-tuning on the changed image with its label (section 3 of the paper).

*Local* fine-tuning trains the weight of one layer, as an edit does; *global* fine-tuning trains that layer and all
after it: every parameter on which the layer's input does not depend. Beside what follows the layer these are its own
bias and the branches that run in parallel to it, such as the downsampling branch of its residual block. What the input
depends on stays, so it runs once. Both give an `Edit`, like rewriting.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edittools.baselines.inputs import class_labels, solver_precision
from edittools.checks import check_amount, check_number
from edittools.classifiers import Classifier
from edittools.cut import Cut, State, cut_at
from edittools.edits import Change, Edit, Record, edit_of
from edittools.exemplars import Exemplar, size_of
from edittools.images import Images, in_batches, pixels_of
from edittools.keys import exemplars_at

SCOPES = ("local", "global")
STEPS = 50
"""Steps of `finetune` where nothing else is said."""


def finetune(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    *,
    steps: int = STEPS,
    **settings: Any,
) -> Edit:
    """Fine-tune on the changed images x' for so many steps; labels and `settings` are as in `finetune_path`."""
    [edit] = finetune_path(classifier, layer, exemplars, (steps,), **settings)
    return edit


def finetune_path(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    steps: Sequence[int],
    *,
    scope: str = "local",
    rate: float = 1e-3,
    momentum: float = 0.0,
    locality: float = 0.0,
    reference: Images | Sequence[tuple[State, Tensor]] | None = None,
) -> Iterator[Edit]:
    """Fine-tune on the changed images x' with their labels, once, and give the edit after each of the rising `steps`.

    The loss is cross-entropy, batch norm is in eval mode. Each exemplar needs a `label`. Edits come one by one, so a
    caller who has seen enough can stop.

    Args:
        steps: numbers of full-batch steps.
        scope: "local" trains the layer, "global" all from it on, also what runs beside it (`Cut.later_parameters`).
        rate: learning rate of SGD.
        momentum: of SGD, in [0, 1).
        locality: weight of a term that keeps `reference` images as they are: KL(original ‖ fine-tuned).
        reference: images for the locality term, or batches of them as (state at the layer, original log-probabilities).

    Each `Edit` has a `Record` (loss: cross-entropy on x'). Raises `ValueError` for an unknown scope, an exemplar
    without a label or with one of no class, a locality without reference images, steps that do not rise, or a `Cut` of
    another classifier.
    """
    stops = _checked(scope, rate, momentum, locality, reference is not None, steps)
    cut = cut_at(classifier, layer, size_of(exemplars))
    exemplars, first = exemplars_at(cut, exemplars), None
    labels, state, parameters = class_labels(exemplars, classifier, "fine-tuning"), exemplars.changed, {}
    for name, parameter in _trained(cut, scope).items():
        parameters[name] = _precise(parameter.detach()).clone().requires_grad_()
    optimiser = torch.optim.SGD(parameters.values(), lr=rate, momentum=momentum)
    near = cycle(_batches(cut, reference)) if locality else None
    for step in range(stops[-1] + 1):
        with torch.enable_grad():
            loss = F.cross_entropy(forward(cut, state, parameters), labels)
        first = loss.item() if first is None else first
        if step in stops:  # not inside enable_grad: the caller would go on with gradients
            record = Record(f"{scope} fine-tuning", first, loss.item(), step)
            yield _as_edit(cut, parameters, record)
        if step == stops[-1]:
            return
        with torch.enable_grad():
            loss = loss + locality * _distance(cut, *next(near), parameters) if near else loss
        _descend(optimiser, list(parameters.values()), loss)


def _checked(scope: str, rate: float, momentum: float, locality: float, stays: bool, steps: Sequence[int]) -> list[int]:
    """Check the settings of `finetune_path`, and give the steps after which there is an edit."""
    if scope not in SCOPES:
        raise ValueError(f"scope {scope!r}: expected one of {', '.join(SCOPES)}")
    if locality and not stays:
        raise ValueError(f"locality={locality} without reference images: expected images whose predictions shall stay")
    check_amount(locality, "locality", 0), check_amount(rate, "rate", 0)
    if check_amount(momentum, "momentum", 0) >= 1:
        raise ValueError(f"momentum {momentum}: expected a number from 0 up and below 1")
    stops = [check_number(step, 0, "steps") for step in steps]
    if not stops or sorted(set(stops)) != stops:
        raise ValueError(f"steps {tuple(steps)!r}: expected one number of steps or more, each higher than the last")
    return stops


def forward(cut: Cut, state: State, parameters: dict[str, Tensor]) -> Tensor:
    """Compute the logits from the layer on, with `parameters` (by their name in the model) in place of its own."""
    own = {name: value.to(cut.model.get_parameter(name).dtype) for name, value in parameters.items()}
    return _precise(cut.logits_with(state, own))


def _trained(cut: Cut, scope: str) -> dict[str, nn.Parameter]:
    """The parameters to train, by their name in the model, the layer's own first."""
    own = {f"{cut.layer}.weight": cut.weight}
    if scope == "local":
        return own
    return own | ({} if cut.bias is None else {f"{cut.layer}.bias": cut.bias}) | cut.later_parameters


def _precise(value: Tensor) -> Tensor:
    """A tensor in float32 or better: small steps are lost to rounding in half precision, and so is a loss."""
    return value.to(solver_precision(value))


@torch.no_grad()
def _batches(cut: Cut, reference: Images | Sequence[tuple[State, Tensor]]) -> Sequence[tuple[State, Tensor]]:
    """The reference images in batches, as the state at the layer and the original log-probabilities."""
    images = pixels_of(reference)
    if not len(images):
        raise ValueError("0 images for the locality term: expected at least one whose prediction shall stay")
    if isinstance(images, list | tuple):
        return images
    states = map(cut.prefix, in_batches(images, 32))
    return [(state, cut.suffix(state).log_softmax(dim=1)) for state in states]


def _distance(cut: Cut, state: State, original: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """KL(original ‖ fine-tuned), the mean over a batch of reference images."""
    now = forward(cut, state, parameters).log_softmax(dim=1)
    return F.kl_div(now, original, reduction="batchmean", log_target=True)


def _descend(optimiser: torch.optim.Optimizer, parameters: Sequence[Tensor], loss: Tensor) -> None:
    """One step down the loss; a parameter that it does not depend on has a gradient of 0."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimiser.step()


def _as_edit(cut: Cut, parameters: dict[str, Tensor], record: Record) -> Edit:
    """The difference to the model's own parameters; of others than the layer's, what did not move is left out."""
    changes = {}
    for name, parameter in parameters.items():
        difference = (parameter - _precise(cut.model.get_parameter(name))).detach()
        if difference.any() or name.rpartition(".")[0] == cut.layer:
            changes[name] = Change(difference)
    return edit_of(cut, changes, record)
