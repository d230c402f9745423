"""Prepare the inputs of baselines: class labels, the exemplars' keys at the mask, and batches of reference images.

Every baseline is called as `method(classifier, layer, exemplars, reference, **settings)` and returns an `Edit` with a
`Record`; the classifier is not changed. The first arguments are:

    classifier: the classifier.
    layer: name of the layer, its module, or a `Cut` of it.
    exemplars: one or several; their labels are not used unless the method's docstring says so.
    reference: reference images, or their `SecondMoment`, which define which keys are typical.
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
"""Batches of images: for each, the state at a layer and the original log-probabilities `(B, classes)`."""


def class_labels(exemplars: Sequence[Exemplar], classifier: Classifier, method: str) -> Tensor:
    """Return the labels of exemplars, `(B,)`.

    Args:
        exemplars: the exemplars.
        classifier: the classifier whose class indices the labels must be.
        method: name of the method that needs labels, used in error messages.

    Raises:
        ValueError: if an exemplar has no label, or if its label is not a class index.
    """
    class_count = len(classifier.classes)
    for exemplar in exemplars:
        if exemplar.label is None:
            raise ValueError(f"an exemplar has no label, but {method} needs the class of x'; pass Exemplar(…, label=…)")
        if not isinstance(exemplar.label, Integral) or not 0 <= exemplar.label < class_count:
            raise ValueError(
                f"an exemplar has label {exemplar.label!r}, but the classifier has {class_count} classes; "
                f"pass a class index from 0 to {class_count - 1}"
            )
    return torch.tensor([exemplar.label for exemplar in exemplars], device=classifier.device)


def masked_keys(cut: Cut, state: State, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the keys at the masks, with their weights.

    Args:
        cut: the classifier, cut at a layer.
        state: state of B images at the layer.
        masks: masks of image size, `(B, H, W)`.

    Returns:
        The keys `(P, n)` at the P positions that a mask covers at least in part, and their weights `(P,)`, in float64.
        A weight is the share of the position that the mask covers; the weights are scaled to add up to 1.
    """
    keys = cut.keys(state)
    weights = cut.pool_mask(masks.to(keys.device)).flatten().double()
    is_masked = weights > 0
    return rows(keys, cut.is_linear)[is_masked].double(), weights[is_masked] / weights.sum()


@torch.no_grad()
def reference_batches(cut: Cut, reference: Images | Batches) -> Batches:
    """Run reference images up to a layer, and compute the predictions; such batches are returned as they are.

    Args:
        cut: the classifier, cut at the layer.
        reference: reference images, or batches that this function has returned.

    Returns:
        For each batch, the state at the layer and the log-probabilities `(B, classes)`.

    Raises:
        TypeError: if `reference` is not a set of images, such as a `SecondMoment`.
        ValueError: if there is no image.
    """
    if not isinstance(reference, Images | list | tuple | None):
        raise TypeError(
            f"reference is a {type(reference).__name__}, but the predictions on reference images are needed; "
            "pass images"
        )
    if reference is None or not len(reference):
        value = "None" if reference is None else f"an empty {type(reference).__name__}"
        raise ValueError(f"reference is {value}; pass at least one image whose prediction should not change")
    if isinstance(reference, list | tuple):
        return reference
    states = map(cut.prefix, in_batches(reference, 16))
    return [(state, cut.suffix(state).log_softmax(dim=1)) for state in states]


def solver_precision(tensor: Tensor) -> torch.dtype:
    """Return the precision in which changes are computed: float32, or that of the tensor if it is higher."""
    return torch.promote_types(tensor.dtype, torch.float32)
