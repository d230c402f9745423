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
        layers: names of the layers that may be edited, in the network's order.
        shortlist: the layers that are worth trying first; by default all of `layers`.
        several: exemplars that go into one edit together, by name.
        extra_exemplars: exemplars that are compared with the others, but are not searched, by name.
        tier: name of the tier.
        change: makes x' of an image `(3, H, W)` and a mask `(H, W)`.
        default: layer, exemplar and settings of an edit that was not tuned.
        expected: the least that the notebook claims, by name of the figure.
    """

    classifier: Classifier
    exemplars: Mapping[str, Exemplar] = field(repr=False)
    splits: Splits = field(repr=False)
    _: KW_ONLY
    layers: tuple[str, ...]
    shortlist: tuple[str, ...] = ()
    several: Mapping[str, Sequence[Exemplar]] = field(default_factory=dict, repr=False)
    extra_exemplars: Mapping[str, Exemplar] = field(default_factory=dict, repr=False)
    tier: str = ""
    change: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, repr=False)
    default: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.shortlist:
            object.__setattr__(self, "shortlist", self.layers)
