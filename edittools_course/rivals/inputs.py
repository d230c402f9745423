"""Prepare the inputs of methods: class labels, and the exemplars' keys at the mask."""

import torch
from torch import Tensor

from edittools.cut import Cut, State, rows
from edittools.site import Site


def class_labels(site: Site) -> Tensor:
    """Return the labels of a site's exemplars, `(B,)`.

    Raises:
        ValueError: if an exemplar has no label.
    """
    for label in site.pairs.labels:
        if label is None:
            raise ValueError(
                "an exemplar has no label, but fine-tuning needs the class of x'; pass Exemplar(…, label=…)"
            )
    return torch.tensor(site.pairs.labels, device=site.cut.weight.device)


def masked_keys(cut: Cut, state: State, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the keys at the masks, with their weights.

    Args:
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
