"""Which predictions a repair corrects: those that a concept misleads, or those that fail without it.

A class relies on a concept. If the concept misleads, photos of other classes that show it are predicted as the class;
x' is then a photo with the concept. If the class may rely on it, photos of the class fail without it; x' is then a
photo in which the concept is replaced. Where the errors are tells which is the case.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.metrics import predict, predicted_classes
from edittools.probing.counterfactuals import ALL_CLASSES, Concepts, shows
from edittools.probing.effects import Probe
from edittools.selection.verdict import SIGNIFICANCE

MISLEADS = "misleads"
MISSED = "missed"

DIRECTIONS = (MISLEADS, MISSED)
"""What is to be corrected: photos of other classes with the concept, or photos of the class without it."""

LEAST_ERRORS = 6
"""With fewer errors on one side, no direction is decided."""


@dataclass(frozen=True)
class Errors:
    """On which side the errors are.

    Attributes:
        pulled_in: the number of photos of other classes that show the concept and are predicted as the class, and no
            longer once it is replaced.
        missed: the number of photos of the class without the concept that are misclassified, beyond those that would be
            if they failed as often as photos of the class with the concept.
    """

    pulled_in: int
    missed: int

    @property
    def p(self) -> float:
        """P-value of the two-sided sign test that errors are as often on one side as on the other."""
        from scipy.stats import binomtest

        total = self.pulled_in + self.missed
        return float(binomtest(self.pulled_in, total).pvalue) if total else 1.0

    @property
    def direction(self) -> str | None:
        """The side of the errors, one of `DIRECTIONS`; None if there are too few, or as many on the other side."""
        if max(self.pulled_in, self.missed) < LEAST_ERRORS or self.p > SIGNIFICANCE:
            return None
        return MISLEADS if self.pulled_in > self.missed else MISSED

    def describe(self, rule: Mapping[str, Any]) -> str:
        """Say how many errors are on each side, as a clause without a period."""
        name = repr(rule["class"])
        concept = repr(rule["concept"])
        return (
            f"{self.pulled_in} photos of other classes are predicted as {name} because of {concept}, and {self.missed} "
            f"photos of {name} fail without {concept}, beyond those that fail with it as well (p {self.p:.2g})"
        )


def count_errors(
    classifier: Classifier, probed: Probe, concepts: Concepts, rule: Mapping[str, Any], is_labeled: Tensor
) -> Errors:
    """Count the errors that a rule explains, in photos whose labels are given.

    Args:
        concepts: what was probed.
        rule: a row of `Probe.rules`. A rule of all classes has no other classes, so nothing is counted.
        is_labeled: whether the label of each photo is given, and not a prediction, `(N,)`.
    """
    data = concepts.data
    if rule["class"] == ALL_CLASSES:
        return Errors(0, 0)
    label = list(data.classes).index(rule["class"])
    predicted = predicted_classes(predict(classifier, data))
    shows_concept = shows(concepts.masks[rule["concept"]])
    is_own = is_labeled & (data.labels == label)
    is_pulled = is_labeled & (data.labels != label) & (predicted == label) & shows_concept
    is_changed = _changed_by_replacement(probed, rule, len(data))
    fails = predicted != label
    with_concept = int((is_own & shows_concept).sum())
    without = int((is_own & ~shows_concept).sum())
    failed_with = int((is_own & shows_concept & fails).sum())
    failed_without = int((is_own & ~shows_concept & fails).sum())
    expected = without * failed_with / with_concept if with_concept else failed_without
    return Errors(int((is_pulled & is_changed).sum()), max(0, int(failed_without - expected)))


def _changed_by_replacement(probed: Probe, rule: Mapping[str, Any], count: int) -> Tensor:
    """Tell which photos are no longer predicted as the class of a rule once its concept is replaced, `(N,)` booleans.

    That is, in at least half of the textures of the rule's material.
    """
    table = probed.table
    rows = table[(table["concept"] == rule["concept"]) & (table["material"] == rule["material"])]
    shares = (rows["after"] != rule["class"]).groupby(rows["image"]).mean()
    is_changed = torch.zeros(count, dtype=torch.bool)
    for number, share in shares.items():
        is_changed[int(number)] = share >= 0.5
    return is_changed


def ask_for_direction(errors: Errors, rule: Mapping[str, Any]) -> str:
    """Say that no direction is decided, and how to pass one."""
    concept = rule["concept"]
    if rule["class"] == ALL_CLASSES:
        reason = "A rule of all classes does not tell which predictions to correct"
    else:
        reason = f"Too few errors tell which predictions to correct: {errors.describe(rule)}"
    return (
        f"{reason}. If {concept!r} itself misleads, as a tag does, pass --concept-misleads (direction='misleads'); if "
        "predictions may rely on it, and fail without it, pass --concept-is-missed (direction='missed')."
    )


def misled_photos(classifier: Classifier, concepts: Concepts, rule: Mapping[str, Any], is_labeled: Tensor) -> list[int]:
    """List the photos of other classes that show the concept of a rule, and are predicted as its class."""
    data = concepts.data
    predicted = predicted_classes(predict(classifier, data))
    is_misled = is_labeled & (predicted != data.labels) & shows(concepts.masks[rule["concept"]])
    if rule["class"] != ALL_CLASSES:
        is_misled &= predicted == list(data.classes).index(rule["class"])
    return is_misled.nonzero()[:, 0].tolist()
