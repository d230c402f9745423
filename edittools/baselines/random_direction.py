"""The control: the same solve as `rewrite`, along random directions in place of those of the exemplar's keys."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.edits import Edit
from edittools.exemplars import Exemplar, exemplars_at
from edittools.moments import Reference
from edittools.rewriting import rewrite


def rewrite_at_random(
    classifier: Classifier,
    layer: str | nn.Module | Cut,
    exemplars: Exemplar | Sequence[Exemplar],
    reference: Reference | None = None,
    *,
    rank: int = 1,
    seed: int = 0,
    **settings: Any,
) -> Edit:
    """Rewrite along `rank` orthonormal directions that depend on the seed, the layer's width and the rank alone."""
    exemplars = exemplars_at(classifier, layer, exemplars)
    cut = exemplars.cut
    noise = torch.randn((rank, cut.weight.shape[1]), generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(noise.T).Q.T.to(cut.weight)
    return rewrite(classifier, cut, exemplars, reference, rank=rank, basis=basis, **settings)
