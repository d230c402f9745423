"""The baselines: fine-tuning on the changed image with its label (section 3 of the paper).

*Local* fine-tuning trains the weight of one layer, as an edit does; *global* fine-tuning trains that layer and all
after it: every parameter on which the layer's input does not depend. Beside what follows the layer these are its own
bias and the branches that run in parallel to it, such as the downsampling branch of its residual block. What the input
depends on stays, so it runs once. Both give an `Edit`, like rewriting.
"""

import time
from collections.abc import Iterator, Sequence
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from edittools.checks import check_amount, check_number
from edittools.classifiers import Classifier
from edittools.cut import Cut, State, cut_at
from edittools.edits import Change, Edit, Record, unedited_fingerprint
from edittools.exemplars import Exemplar, stack
from edittools.graph import evaluating
from edittools.images import LabelledImages

SCOPES = ("local", "global")


def finetune(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    *,
    scope: str = "local",
    rate: float = 1e-3,
    steps: int = 50,
    locality: float = 0.0,
    reference: LabelledImages | Tensor | Sequence[tuple[State, Tensor]] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> Edit:
    """Fine-tune on the changed images x' with their labels: cross-entropy, SGD, batch norm in eval mode.

    Args:
        classifier: the classifier; it is not changed.
        layer: the layer trained ("local"), or from which on all is trained ("global").
        exemplars: one or several, each with its `label`.
        scope: "local" or "global"; global includes what runs beside the layer, see `Cut.later_parameters`.
        rate: learning rate of SGD (no momentum).
        steps: number of full-batch steps.
        locality: weight of a term that keeps `reference` images as they are: KL(original ‖ fine-tuned).
        reference: images for the locality term, or batches of them as (state at the layer, original log-probabilities).
        batch_size: of the locality term.
        seed: of the order of the reference images.
        progress: show a progress bar.

    Returns an `Edit` with a `Record` (loss: cross-entropy on x'). Raises `ValueError` for an unknown scope, an exemplar
    without a label or with one of no class, a locality without reference images, or a `Cut` of another classifier.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope {scope!r}: expected one of {', '.join(SCOPES)}")
    if locality and reference is None:
        raise ValueError(f"locality={locality} without reference images: expected images whose predictions shall stay")
    check_number(steps, 0, None, "steps"), check_amount(rate, "rate", 0), check_amount(locality, "locality", 0)
    cut = cut_at(classifier, layer)
    _, changed, _ = stack(exemplars)
    labels = _labels(exemplars, classifier)
    started = time.perf_counter()
    state = cut.prefix(changed)
    names, parameters = _trainable(cut, scope)
    kept = _kept(cut, reference, batch_size, seed) if locality else None
    optimiser = torch.optim.SGD(parameters.values(), lr=rate)
    losses = []
    for _ in tqdm(range(steps), desc=f"{scope} fine-tuning", unit="step", disable=not progress, leave=False):
        with torch.enable_grad():
            loss = F.cross_entropy(forward(cut, state, parameters), labels)
            losses.append(loss.item())
            if kept is not None:
                loss = loss + locality * _distance(cut, *next(kept), parameters)
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
    with torch.no_grad():
        losses.append(F.cross_entropy(forward(cut, state, parameters), labels).item())
    record = Record(f"{scope} fine-tuning", losses[0], losses[-1], steps, time.perf_counter() - started)
    return _as_edit(cut, names, parameters, record)


def _labels(exemplars: Exemplar | Sequence[Exemplar], classifier: Classifier) -> Tensor:
    exemplars = [exemplars] if isinstance(exemplars, Exemplar) else exemplars
    if any(exemplar.label is None for exemplar in exemplars):
        raise ValueError("an exemplar without a label: fine-tuning needs the class of x', Exemplar(..., label=…)")
    last = len(classifier.classes) - 1
    for exemplar in exemplars:
        if not isinstance(exemplar.label, Integral) or not 0 <= exemplar.label <= last:
            raise ValueError(f"an exemplar with label {exemplar.label!r}: expected 0 to {last}, the index of a class")
    return torch.tensor([exemplar.label for exemplar in exemplars], device=classifier.device)


def _trainable(cut: Cut, scope: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Copies of the parameters to train: by their name in the model, and which of them belong to the layer."""
    own = {f"{cut.layer}.weight": "weight"}
    if scope == "global" and cut.module.bias is not None:
        own[f"{cut.layer}.bias"] = "bias"
    found = {name: cut.model.get_parameter(name) for name in own}
    if scope == "global":
        found |= cut.later_parameters
    return own, {name: parameter.detach().clone().requires_grad_() for name, parameter in found.items()}


def forward(cut: Cut, state: State, parameters: dict[str, Tensor]) -> Tensor:
    """The logits from the layer on, with `parameters` (by their name in the model) in place of its own."""
    prefix = f"{cut.layer}."
    own = {n.removeprefix(prefix): p for n, p in parameters.items() if n in (f"{prefix}weight", f"{prefix}bias")}
    rest = {name: parameter for name, parameter in parameters.items() if not name.startswith(prefix)}
    with evaluating(cut.model):
        output = torch.func.functional_call(cut.module, own, (cut.keys(state),))
        logits = torch.func.functional_call(cut.rest, rest, (output, *state.alive))
    return logits.to(torch.promote_types(logits.dtype, torch.float32))  # half precision would round the loss


def _kept(
    cut: Cut, reference: LabelledImages | Tensor | Sequence[tuple[State, Tensor]], size: int, seed: int
) -> Iterator[tuple[State, Tensor]]:
    """Endless batches of reference images, as the state at the layer and the original log-probabilities."""
    images = reference.images if isinstance(reference, LabelledImages) else reference
    generator = torch.Generator().manual_seed(seed)
    while True:
        if isinstance(images, list | tuple):
            yield from (images[i] for i in torch.randperm(len(images), generator=generator).tolist())
            continue
        for chosen in torch.randperm(len(images), generator=generator).split(size):
            state = cut.prefix(images[chosen])
            with torch.no_grad():  # not around the yield: the caller would lose its gradients
                original = cut.suffix(state).log_softmax(dim=1)
            yield state, original


def _distance(cut: Cut, state: State, original: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """KL(original ‖ fine-tuned), the mean over a batch of reference images."""
    now = forward(cut, state, parameters).log_softmax(dim=1)
    return F.kl_div(now, original, reduction="batchmean", log_target=True)


def _as_edit(cut: Cut, names: dict[str, str], parameters: dict[str, Tensor], record: Record) -> Edit:
    """The difference to the model's own parameters; what did not move is left out."""
    changes = {}
    for name, parameter in parameters.items():
        difference = (parameter - cut.model.get_parameter(name)).detach()
        if difference.any() or name in names:
            changes[name] = Change(difference)
    return Edit(changes, unedited_fingerprint(cut.model), record)
