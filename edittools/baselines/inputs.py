"""What all baselines take, checked: class labels, the exemplars' keys at the mask.

All but fine-tuning are called in one way, `method(classifier, layer, exemplars, reference, **settings)`, and have
settings to try beside them, `GRID`. The classifier is not changed. `layer` is a name, a module, or a `Cut` of it,
`exemplars` are one or several, whose labels are not used unless a method says so. `reference`, images or their
`SecondMoment`, says which keys are everyday ones. A method gives an `Edit` with a `Record`, and refuses a `Cut` of
another classifier.
"""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.cut import Cut, State, rows
from edittools.exemplars import Exemplar


def class_labels(exemplars: Sequence[Exemplar], classifier: Classifier, method: str) -> Tensor:
    """The labels `(B,)` of exemplars; `ValueError`, which names the method, for one without a label or of no class."""
    if any(exemplar.label is None for exemplar in exemplars):
        raise ValueError(f"an exemplar without a label: {method} needs the class of x', Exemplar(..., label=…)")
    last = len(classifier.classes) - 1
    for exemplar in exemplars:
        if not isinstance(exemplar.label, Integral) or not 0 <= exemplar.label <= last:
            raise ValueError(f"an exemplar with label {exemplar.label!r}: expected 0 to {last}, the index of a class")
    return torch.tensor([exemplar.label for exemplar in exemplars], device=classifier.device)


def masked_keys(cut: Cut, state: State, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The keys at masks `(B, H, W)`: `(P, n)` and their weights `(P,)`, which add up to 1, both in float64.

    A weight is the share of the position that the mask covers.
    """
    keys = cut.keys(state)
    weights = cut.shares(masks.to(keys.device), keys).flatten().double()
    chosen = weights > 0
    return rows(keys, cut.is_linear)[chosen].double(), weights[chosen] / weights.sum()


def solver_precision(tensor: Tensor) -> torch.dtype:
    """The precision that changes are kept in: float32, or better where the weights are."""
    return torch.promote_types(tensor.dtype, torch.float32)
