"""What an edit is chosen and reported on: a classifier, exemplars, and sets of images with one duty each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from torch import Tensor

from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import Images, LabelledImages


@dataclass(frozen=True)
class Scenario:
    """A classifier, exemplars by name, and sets of images, each image with one duty.

    `reference` images need no labels and say which keys are everyday ones: an edit spares them. `validation` images
    show the concept and choose; everyday `budget` images must stay accurate; `keep` images rightly rely on the concept
    and must be read as they are now. Read once are `test` (with the concept), `clean` (everyday), `keep_report` (other
    exceptions), `own` (the concept and the exemplars' own class) and `more`, by name. `several` are exemplars that go
    into one edit. `layers` may be edited, the `shortlist` (default: all) is worth trying first.

    A story also has a `tier`, a `change(image, mask)` that makes x' of a picture and a mask, the `default` settings of
    an edit that nobody tuned, and `expected`, the least that it claims.
    """

    classifier: Classifier
    exemplars: Mapping[str, Exemplar] = field(repr=False)
    _: KW_ONLY
    reference: Images = field(repr=False)
    validation: LabelledImages = field(repr=False)
    budget: LabelledImages = field(repr=False)
    test: LabelledImages | None = field(default=None, repr=False)
    clean: LabelledImages | None = field(default=None, repr=False)
    keep: LabelledImages | None = field(default=None, repr=False)
    keep_report: LabelledImages | None = field(default=None, repr=False)
    own: LabelledImages | None = field(default=None, repr=False)
    more: Mapping[str, LabelledImages] = field(default_factory=dict, repr=False)
    several: Mapping[str, Sequence[Exemplar]] = field(default_factory=dict, repr=False)
    layers: tuple[str, ...]
    shortlist: tuple[str, ...] = ()
    tier: str = ""
    change: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, repr=False)
    default: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, float] = field(default_factory=dict, repr=False)

    @property
    def sets(self) -> dict[str, LabelledImages]:
        """All labelled sets by name: what chooses first, then what is reported."""
        names = ("validation", "budget", "test", "clean", "keep_report", "own")
        return {name: data for name in names if (data := getattr(self, name)) is not None} | dict(self.more)
