"""What all baselines take, checked: class labels, kept states, the exemplars' keys at the mask.

All but fine-tuning are called in one way, `method(classifier, layer, exemplars, reference, *, keep=None, **settings)`,
and have settings to try beside them, `GRID`. The classifier is not changed. `layer` is a name, a module, or a `Cut` of
it, `exemplars` are one or several, whose labels are not used unless a method says so. `reference`, images or their
`SecondMoment`, says which keys are everyday ones. `keep` holds states at the layer (`cut.prefix(images)`) of images
whose reading must stay. A method gives an `Edit` with a `Record`, and refuses a `Cut` of another classifier.
"""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.cut import Cut, State, rows
from edittools.exemplars import Exemplar
from edittools.keys import LayerKeys
from edittools.moments import SecondMoment


def class_labels(exemplars: Sequence[Exemplar], classifier: Classifier, method: str) -> Tensor:
    """The labels `(B,)` of exemplars; `ValueError`, which names the method, for one without a label or of no class."""
    if any(exemplar.label is None for exemplar in exemplars):
        raise ValueError(f"an exemplar without a label: {method} needs the class of x', Exemplar(..., label=…)")
    last = len(classifier.classes) - 1
    for exemplar in exemplars:
        if not isinstance(exemplar.label, Integral) or not 0 <= exemplar.label <= last:
            raise ValueError(f"an exemplar with label {exemplar.label!r}: expected 0 to {last}, the index of a class")
    return torch.tensor([exemplar.label for exemplar in exemplars], device=classifier.device)


def kept_keys(cut: Cut, keep: Sequence[State] | None) -> Tensor | None:
    """The keys `(P, n)` in float64 of kept states, or None where nothing is kept.

    Raises `TypeError` for what is no sequence of states, `ValueError` for states at a layer of another width.
    """
    if keep is None or (isinstance(keep, Sequence) and not keep):
        return None
    if not isinstance(keep, Sequence) or not all(isinstance(state, State) for state in keep):
        raise TypeError("keep: expected a sequence of states at the layer, such as [cut.prefix(images)]")
    width = cut.weight.shape[1]
    for state in keep:
        keys = cut.keys(state)
        if keys.ndim < 2 or keys.shape[cut.channels] != width or (not cut.is_linear and keys.ndim != 4):
            raise ValueError(
                f"kept states with keys of shape {tuple(keys.shape)} for layer {cut.layer!r}: expected {width} "
                "channels; they are those of another layer"
            )
    return torch.cat([rows(cut.keys(state), cut.is_linear).double() for state in keep])


def with_kept(cut: Cut, moment: SecondMoment, keep: Sequence[State] | None) -> SecondMoment:
    """The second moment C of the reference keys plus that of the kept keys, scaled to the same trace.

    Without kept states it is the moment given. That and what `LayerKeys` give know their eigenvectors already.
    """
    if kept_keys(cut, keep) is None:
        return moment
    return (keep if isinstance(keep, LayerKeys) else LayerKeys(cut, keep)).beside(moment)


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
