"""A scenario: what a notebook or a benchmark works with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from torch import Tensor

from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.selection.splits import Splits


@dataclass(frozen=True)
class Scenario:
    """A classifier, exemplars, image sets, and what a notebook says about them.

    Args:
        classifier: the classifier to edit.
        exemplars: the exemplars, by name.
        splits: the image sets.
        several: exemplars that go into one edit together, by name.
        layers: names of the layers that a search tries, in the network's order; None for all of `candidate_layers`.
        tier: name of the tier.
        change: makes x' of an image `(3, H, W)` and a mask `(H, W)`.
        default: layer, exemplar and settings of an edit that was not tuned.
        expected: the least that the notebook claims, by name of the figure.
    """

    classifier: Classifier
    exemplars: Mapping[str, Exemplar] = field(repr=False)
    splits: Splits = field(repr=False)
    _: KW_ONLY
    several: Mapping[str, Sequence[Exemplar]] = field(default_factory=dict, repr=False)
    layers: tuple[str, ...] | None = None
    tier: str = ""
    change: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, repr=False)
    default: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, float] = field(default_factory=dict, repr=False)
