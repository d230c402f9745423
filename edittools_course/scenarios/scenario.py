"""A scenario: what a notebook or a benchmark works with."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import Images, LabeledImages, LazyImages, check_images, pixels_of, stratified
from edittools.selection.scores import Candidate, Scores
from edittools.selection.splits import check_disjoint

EVALUATING = ("target_test", "clean_test", "retain_test", "same_class_test")
"""The splits that are used for evaluation only, as are those in `ScenarioSplits.extra`."""


@dataclass(frozen=True, eq=False)
class ScenarioSplits:
    """The image sets of a scenario; `check_disjoint` tells whether an image has two purposes.

    Args:
        reference: ordinary images, with or without labels. Some of them define C, others select an edit.
        target: images that show the concept. They select, or measure what was selected without labels.
        clean: images on which accuracy should not drop; `repair` measures on them, and on `retain`.
        retain: images that rely on the concept legitimately.
        target_test: images that show the concept; used for evaluation only, as are all following sets.
        clean_test: images on which accuracy is measured.
        retain_test: images that rely on the concept legitimately.
        same_class_test: images that show the concept, of the same class as the exemplars.
        extra: other sets, by name.

    Raises:
        TypeError: if a set is of another type.
        ValueError: if an extra set has the name of another split.
    """

    reference: Images = field(repr=False)
    target: LabeledImages = field(repr=False)
    clean: LabeledImages | None = field(default=None, repr=False)
    retain: LabeledImages | None = field(default=None, repr=False)
    target_test: LabeledImages | None = field(default=None, repr=False)
    clean_test: LabeledImages | None = field(default=None, repr=False)
    retain_test: LabeledImages | None = field(default=None, repr=False)
    same_class_test: LabeledImages | None = field(default=None, repr=False)
    extra: Mapping[str, LabeledImages] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        taken = [name for name in ("reference", "target", "clean", "retain", *EVALUATING) if name in self.extra]
        if taken:
            raise ValueError(f"The extra split {taken[0]!r} has the name of another split; give it another name")
        check_images(self.reference, "reference")
        for name, data in self.labeled.items():
            if not isinstance(data, LabeledImages):
                raise TypeError(
                    f"The split {name!r} is a {type(data).__name__}; pass LabeledImages(images, labels, classes)"
                )

    @property
    def images(self) -> Tensor | LazyImages:
        """The reference images without labels, which select an edit."""
        return pixels_of(self.reference)

    @property
    def labeled(self) -> dict[str, LabeledImages]:
        """The labeled splits by name: those used for evaluation come last."""
        sets = {name: getattr(self, name) for name in ("target", "retain", "clean", *EVALUATING)}
        return {**{name: data for name, data in sets.items() if data is not None}, **self.extra}

    @property
    def for_evaluation(self) -> dict[str, LabeledImages]:
        """The labeled splits that are used for evaluation only, by name."""
        return {name: data for name, data in self.labeled.items() if name in EVALUATING or name in self.extra}

    def check_disjoint(self, exemplars: Iterable[Exemplar] = ()) -> None:
        """Check that no image has two purposes.

        There are two exceptions: x of an exemplar may be a target image, and splits for evaluation may share images.

        Args:
            exemplars: all exemplars from which edits are made.

        Raises:
            ValueError: if two splits share an image, or if a split holds x or x' of an exemplar.
        """
        exemplars = list(exemplars)
        labeled = self.labeled
        sets = {"reference": self.reference, **labeled}
        pairs = [("reference", name) for name in labeled]
        if exemplars:
            sets["x"] = torch.stack([exemplar.image for exemplar in exemplars])
            sets["x'"] = torch.stack([exemplar.changed for exemplar in exemplars])
            pairs += [(shown, name) for shown in ("x", "x'") for name in labeled]
            pairs.remove(("x", "target"))
        evaluating = self.for_evaluation
        others = [name for name in labeled if name not in evaluating]
        pairs += combinations(others, 2)
        pairs += [(name, other) for name in others for other in evaluating]
        check_disjoint(sets, pairs)


@dataclass(frozen=True, eq=False)
class Scenario:
    """A classifier, exemplars, image sets, and what a notebook says about them.

    Args:
        classifier: the classifier to edit.
        exemplars: the exemplars, by name.
        splits: the image sets.
        several: exemplars that go into one edit together, by name.
        layers: names of the layers in which edits are tried; None for all of `candidate_layers`.
        tier: name of the tier.
        change: makes x' of an image `(3, H, W)` and a mask `(H, W)`.
        where: where marks are pasted on ordinary images: "anywhere", or "in place" for a material.
        default: layer, exemplar and settings of an edit that was not tuned.
        expected: the least that the notebook claims, by name of the figure.
    """

    classifier: Classifier
    exemplars: Mapping[str, Exemplar] = field(repr=False)
    splits: ScenarioSplits = field(repr=False)
    _: KW_ONLY
    several: Mapping[str, Sequence[Exemplar]] = field(default_factory=dict, repr=False)
    layers: tuple[str, ...] | None = None
    tier: str = ""
    change: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, repr=False)
    where: str = "anywhere"
    default: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, float] = field(default_factory=dict, repr=False)


def divided(data: LabeledImages, fraction: float) -> tuple[LabeledImages, LabeledImages]:
    """Divide images at random, class by class, into a set of about this share of them, and a set of the others."""
    is_first = stratified(data.labels, fraction)
    return data.subset(is_first), data.subset(~is_first)


def best_by_method(scores: Scores) -> dict[str, Candidate]:
    """Return the candidate of each method with the lowest objective, by the name of the method."""
    best: dict[str, Candidate] = {}
    for number in scores.objective().argsort(stable=True).tolist():
        candidate = scores.candidates[number]
        best.setdefault(candidate.params["method"], candidate)
    return best
