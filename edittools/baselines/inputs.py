"""What all baselines take, checked: class labels, the exemplars' keys at the mask, reference images in batches.

All are called in one way, `method(classifier, layer, exemplars, reference, **settings)`, and give an `Edit` with a
`Record`; the classifier is not changed. `layer` is a name, a module, or a `Cut` of it, `exemplars` are one or several,
whose labels are not used unless a method says so. `reference`, images or their `SecondMoment`, says which keys are
everyday ones.
"""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.cut import Cut, State, rows
from edittools.exemplars import Exemplar
from edittools.images import Images, in_batches

Batches = Sequence[tuple[State, Tensor]]
"""Images in batches: their state at a layer, and their log-probabilities."""


def class_labels(exemplars: Sequence[Exemplar], classifier: Classifier, method: str) -> Tensor:
    """Return the labels `(B,)` of exemplars; raise `ValueError`, which names the method, where one has no class."""
    if any(exemplar.label is None for exemplar in exemplars):
        raise ValueError(f"an exemplar without a label: {method} needs the class of x', Exemplar(..., label=…)")
    last = len(classifier.classes) - 1
    for exemplar in exemplars:
        if not isinstance(exemplar.label, Integral) or not 0 <= exemplar.label <= last:
            raise ValueError(f"an exemplar with label {exemplar.label!r}: expected 0 to {last}, the index of a class")
    return torch.tensor([exemplar.label for exemplar in exemplars], device=classifier.device)


def masked_keys(cut: Cut, state: State, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the keys at masks `(B, H, W)`, `(P, n)`, and their weights `(P,)`, which add up to 1, in float64.

    A weight is the share of the position that the mask covers.
    """
    keys = cut.keys(state)
    weights = cut.pool_mask(masks.to(keys.device)).flatten().double()
    chosen = weights > 0
    return rows(keys, cut.is_linear)[chosen].double(), weights[chosen] / weights.sum()


@torch.no_grad()
def reference_batches(cut: Cut, reference: Images | Batches) -> Batches:
    """Run reference images up to a layer, and read them; what has been run comes back as it is."""
    if not isinstance(reference, Images | list | tuple | None):
        kind = type(reference).__name__
        raise TypeError(f"reference is a {kind}: expected images, since keys alone do not say how they are read")
    if reference is None or not len(reference):
        raise ValueError("no reference images: expected at least one whose prediction shall stay")
    if isinstance(reference, list | tuple):
        return reference
    states = map(cut.prefix, in_batches(reference, 16))
    return [(state, cut.suffix(state).log_softmax(dim=1)) for state in states]


def solver_precision(tensor: Tensor) -> torch.dtype:
    """Return the precision that changes are kept in: float32, or better where the weights are."""
    return torch.promote_types(tensor.dtype, torch.float32)
