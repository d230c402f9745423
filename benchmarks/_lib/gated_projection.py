"""Gated projection (R-ClArC, arXiv 2404.09601): concept projection only at keys where a linear probe sees the concept.

The probe is the projection's own. The weights do not change: the code must run with the model.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from edittools.baselines.projection import PROJECTIONS, project_concept
from edittools.classifiers import Classifier
from edittools.cut import Cut, rows
from edittools.edits import Change, Edit
from edittools.images import evenly_spaced, in_batches
from edittools.site import LayerReference, Site

GATED_PROJECTIONS = [setting for setting in PROJECTIONS if setting["direction"] != "probe"]
"""Settings to try: along these directions the mean key of x' lies 1 beyond that of x, so halfway is 0.5."""
MOST_REFERENCE = 64
"""The largest number of reference images whose mean key is the usual one; they are evenly spaced."""


@dataclass(frozen=True)
class GatedProjection(Change):
    """A projection of those keys that lie more than halfway from the `usual` key to one with the concept added."""

    usual: float = 0.0

    def added(self, cut: Cut, keys: Tensor) -> Tensor:
        """Compute what it adds to the layer's output."""
        beyond = cut.project(keys, self.right) - self.usual
        return cut.convolve(torch.where(beyond > 0.5, beyond, 0.0), self.left.to(cut.weight))

    def delta(self) -> Tensor:
        """Refuse to be applied to weights."""
        raise TypeError(
            "A gated projection depends on the image and cannot be applied to weights; use with_gated_projection"
        )


def project_where_shown(site: Site, direction: str = "mean", ridge: float = 1e-2) -> list[Edit]:
    """Project the concept out of the keys that show it, which are more than halfway from the `usual_key`."""
    [projection] = project_concept(site, direction=direction, ridge=ridge)
    cut = site.cut
    name = f"{cut.layer}.weight"
    change = projection.changes[name]
    [direction] = change.right.double()
    usual = float(direction @ usual_key(site.reference).to(direction))
    return [replace(projection, changes={name: GatedProjection(change.left, change.right, usual)})]


@lru_cache(maxsize=1)
@torch.no_grad()
def usual_key(reference: LayerReference) -> Tensor:
    """Compute the mean key of at most `MOST_REFERENCE` reference images, `(n,)` in float64.

    A search tries several settings at the same layer, one after the other, so the latest key is kept.
    """
    cut = reference.cut
    keys = []
    for batch in in_batches(evenly_spaced(reference.images, MOST_REFERENCE), 16):
        keys.append(rows(cut.keys(cut.prefix(batch)), cut.is_linear).double())
    return torch.cat(keys).mean(dim=0)


class _GatedLayer(nn.Module):
    """A layer with what is added to its output."""

    def __init__(self, layer: nn.Module, added: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.added = layer, added

    def forward(self, keys: Tensor) -> Tensor:
        return self.layer(keys) + self.added(keys)


def with_gated_projection(edit: Edit, cut: Cut) -> Classifier:
    """Copy the classifier that is cut, with a gated projection in its layer."""
    copied = deepcopy(cut.classifier)
    projection = edit.changes[f"{cut.layer}.weight"]
    layer = _GatedLayer(copied.model.get_submodule(cut.layer), lambda keys: projection.added(cut, keys))
    copied.model.set_submodule(cut.layer, layer)
    return copied
