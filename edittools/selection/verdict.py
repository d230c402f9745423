"""The verdict on an edit: use, unclear or do not use, by a rule on a few numbers; docs/verdict.md explains it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from edittools.metrics import mcnemar

USE = "use"
UNCLEAR = "unclear"
DO_NOT_USE = "do not use"

PASS = "pass"
FAIL = "fail"
NOT_MEASURED = "not measured"

SIGNIFICANCE = 0.05
"""The largest p-value of the exact McNemar test, against no edit, at which a verdict can be "use"."""

POWER = 0.8
"""The probability with which the number of images that the verdict "unclear" names would decide."""

MOST_IMAGES = 100_000
"""The largest number of images that the verdict "unclear" names."""


@dataclass(frozen=True)
class Condition:
    """One condition of a check list.

    Attributes:
        name: what must hold.
        status: "pass", "fail" or "not measured".
        number: the number behind it, in words.
        advice: what to do about it; empty if it holds.
    """

    name: str
    status: str
    number: str = ""
    advice: str = ""


def condition(name: str, holds: bool | None, number: str = "", advice: str = "") -> Condition:
    """Make a condition; `holds` is None if it was not measured. One that holds needs no advice."""
    if holds is None:
        return Condition(name, NOT_MEASURED, number, advice)
    return Condition(name, PASS, number) if holds else Condition(name, FAIL, number, advice)


@dataclass(frozen=True)
class Evidence:
    """The numbers that a verdict rests on; all are of images that were not used to select the edit.

    Args:
        corrected: number of images with the concept that the edit corrects.
        broken: number of images with the concept that it breaks.
        images: number of images with the concept; 0 if none was held out.
        controls: corrected − broken of each control, by name; empty if no control was selected the same way.
        accuracy_change: change of accuracy on clean images, in points; None if it was not measured.
        accuracy_limit: points of accuracy that may be lost.
        retained: percent of the retained images that are broken, by the name of the set; None where it was not
            measured. Empty if there are no retained images.
        retained_limit: percent of the retained images that may be broken.
        feasible: whether a candidate corrects more than it breaks and satisfies the constraints in the selection.
        obstacle: if there is none, what stands in the way.
        alike: whether x' is predicted as x without an edit.
        complete: whether the search was not interrupted, so that every control was selected.
    """

    corrected: int = 0
    broken: int = 0
    images: int = 0
    controls: Mapping[str, int] = field(default_factory=dict)
    accuracy_change: float | None = None
    accuracy_limit: float = 0.25
    retained: Mapping[str, float | None] = field(default_factory=dict)
    retained_limit: float = 3.0
    feasible: bool = True
    obstacle: str = ""
    alike: bool = False
    complete: bool = True

    @property
    def net(self) -> int:
        """The number of images corrected less the number broken."""
        return self.corrected - self.broken

    @property
    def p(self) -> float:
        """The p-value of the exact McNemar test that the edit corrects as many images as it breaks."""
        return mcnemar(self.corrected, self.broken)

    @property
    def best_control(self) -> str | None:
        """The control that corrects the most; None if there is none."""
        return max(self.controls, key=self.controls.__getitem__, default=None)

    @property
    def keeps_accuracy(self) -> bool | None:
        """Whether the accuracy constraint holds as a point estimate; None if it was not measured."""
        return None if self.accuracy_change is None else self.accuracy_change >= -self.accuracy_limit - 1e-9

    def keeps_retained(self, name: str) -> bool | None:
        """Tell whether a retained set satisfies its constraint as a point estimate; None if it was not measured."""
        percent = self.retained[name]
        return None if percent is None else percent <= self.retained_limit + 1e-9


@dataclass(frozen=True)
class Verdict:
    """Whether to use an edit, and why.

    Attributes:
        word: "use", "unclear" or "do not use".
        reason: why, in one sentence without a full stop.
        advice: what to do next; empty for "use".
        images_needed: about how many images with the concept would decide; None unless it is "unclear" for that reason.
    """

    word: str
    reason: str
    advice: str = ""
    images_needed: int | None = None

    def __str__(self) -> str:
        text = f"{self.word}: {self.reason}."
        return f"{text} {self.advice}" if self.advice else text


def judge(evidence: Evidence) -> Verdict:
    """Give the verdict on an edit.

    - *do not use*: x' is predicted as x, no candidate is feasible, the edit corrects no more than it breaks, a control
      corrects as many, or a constraint is violated as a point estimate.
    - *use*: otherwise, if p ≤ 0.05 against no edit, it corrects more than every control, and the constraints hold.
    - *unclear*: otherwise, since there are too few images or something was not measured.

    Args:
        evidence: the numbers.
    """
    obstacles = _obstacles(evidence)
    if obstacles:
        _, advice = obstacles[0]
        return Verdict(DO_NOT_USE, "; ".join(reason for reason, _ in obstacles), advice)
    gaps = _gaps(evidence)
    if gaps:
        _, advice = gaps[0]
        needed = images_needed(evidence.corrected, evidence.broken, evidence.images) if _is_weak(evidence) else None
        return Verdict(UNCLEAR, "; ".join(reason for reason, _ in gaps), advice, needed)
    best = evidence.best_control
    held = "all constraints hold" if evidence.retained else "the accuracy constraint holds"
    return Verdict(
        USE,
        f"{_effect(evidence)}, more than every control ({best}: {evidence.controls[best]} net), and {held} on images "
        "that were not used for selection",
    )


def _effect(evidence: Evidence) -> str:
    """Say what the edit does to images with the concept."""
    return (
        f"it corrects {evidence.corrected} and breaks {evidence.broken} of {evidence.images} held-out images "
        f"(p {evidence.p:.2g})"
    )


def _obstacles(evidence: Evidence) -> list[tuple[str, str]]:
    """List what forbids an edit, each with what to try next; what decides comes first."""
    obstacles = []
    if evidence.alike:
        obstacles.append(
            (
                "x' is predicted as x without any edit, so the exemplar does not show the mistake",
                "Next, take an image and a change by which x is classified correctly and x' is not: mark all of what "
                "misleads, or replace it by another material.",
            )
        )
    if not evidence.feasible:
        obstacles.append(
            (
                "no candidate corrects more than it breaks within the constraints",
                evidence.obstacle or "Next, try other layers, another exemplar or another mask.",
            )
        )
        return obstacles
    if evidence.images and evidence.net <= 0:
        obstacles.append(
            (
                _effect(evidence),
                "Next, try another exemplar, a mask that fits the concept, or more failing images to select on.",
            )
        )
    best = evidence.best_control
    if evidence.images and evidence.net > 0 and best is not None and evidence.controls[best] >= evidence.net:
        obstacles.append(
            (
                f"{best}, a control, corrects {evidence.controls[best]} net, and the edit {evidence.net}",
                "Next, try another exemplar, a mask that fits the concept, or other layers"
                + ("." if best == "random direction" else f"; or consider {best} itself."),
            )
        )
    if evidence.keeps_accuracy is False:
        obstacles.append(
            (
                f"accuracy on clean images that were not used for selection changes by {evidence.accuracy_change:+.2f} "
                f"points, and {evidence.accuracy_limit:.2g} may be lost",
                "Next, pass more clean images, or try lower strengths and a higher reference_weight.",
            )
        )
    for name in evidence.retained:
        if evidence.keeps_retained(name) is False:
            obstacles.append(
                (
                    f"{evidence.retained[name]:.1f}% of {_quoted(name)} are broken, and "
                    f"{evidence.retained_limit:g}% may be",
                    "Next, pass more retained images of that kind, or try lower strengths.",
                )
            )
    return obstacles


def _is_weak(evidence: Evidence) -> bool:
    """Tell whether the held-out images are too few to tell the edit from none."""
    return evidence.images > 0 and evidence.p > SIGNIFICANCE


def _gaps(evidence: Evidence) -> list[tuple[str, str]]:
    """List what is missing for the verdict "use", each with what to do about it."""
    gaps = []
    if not evidence.images:
        gaps.append(
            (
                "no image with the concept was held out of the selection",
                "Next, select by cross-validation, or pass images for evaluation only.",
            )
        )
    if _is_weak(evidence):
        needed = images_needed(evidence.corrected, evidence.broken, evidence.images)
        count = f"about {needed:,}" if needed is not None else f"more than {MOST_IMAGES:,}"
        gaps.append(
            (
                f"{_effect(evidence)}, which so few images cannot tell from chance",
                f"At these shares, {count} images with the concept would decide with a probability of {POWER:.0%}.",
            )
        )
    if not evidence.controls:
        gaps.append(
            (
                "no control was selected the same way, so a random direction may do as much",
                "Next, run it with controls (baselines=True).",
            )
        )
    elif not evidence.complete:
        gaps.append(
            (
                "the search was interrupted, so not every control may have been selected",
                "Next, let it run to its end.",
            )
        )
    if evidence.accuracy_change is None:
        gaps.append(
            (
                "accuracy was not measured on clean images that were not used for selection",
                "Next, pass more clean images.",
            )
        )
    missing = [_quoted(name) for name in evidence.retained if evidence.keeps_retained(name) is None]
    if missing:
        gaps.append(
            (
                f"{' and '.join(missing)} are too few to hold some out of the selection",
                "Next, pass more retained images.",
            )
        )
    return gaps


RETAINED = "retained images"
"""The name of the retained images that have none of their own."""


def _quoted(name: str) -> str:
    """Name a retained set in a sentence."""
    return f"the {RETAINED}" if name == RETAINED else f"the {RETAINED} {name!r}"


def power(images: int, corrected_share: float, broken_share: float) -> float:
    """Compute the probability that the exact McNemar test tells an edit that corrects more than it breaks from none.

    Of each image the edit corrects with one probability and breaks with another, independently. The sum is over the
    number of images that change, which is binomial; of these, the number corrected is binomial as well.

    Args:
        images: number of images.
        corrected_share: probability that an image is corrected.
        broken_share: probability that an image is broken.

    Returns:
        The probability that p ≤ 0.05 and more images are corrected than broken.
    """
    import numpy as np
    from scipy.stats import binom

    changed_share = min(corrected_share + broken_share, 1.0)
    if changed_share <= 0:
        return 0.0
    fewest, most = binom.ppf([1e-16, 1 - 1e-16], images, changed_share)
    changed = np.arange(fewest, most + 1)  # other numbers do not occur
    least_corrected = binom.isf(SIGNIFICANCE / 2, changed, 0.5) + 1  # the fewest at which p ≤ 0.05
    of_changed = binom.sf(least_corrected - 1, changed, corrected_share / changed_share)
    return float((binom.pmf(changed, images, changed_share) * of_changed).sum())


def images_needed(corrected: int, broken: int, images: int) -> int | None:
    """Compute about how many images would decide, if the shares stay as observed: a power of 80%.

    Args:
        corrected: number of images corrected.
        broken: number of images broken.
        images: number of images.

    Returns:
        A number of images at which `power` is at least 0.8 and one image less is not enough; None if no more images
        are corrected than broken, or if more than 100,000 would be needed.
    """
    if corrected <= broken or not images or not isfinite(images):
        return None
    shares = corrected / images, broken / images
    enough = 1
    while power(enough, *shares) < POWER:
        enough *= 2
        if enough > 2 * MOST_IMAGES:
            return None
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if power(middle, *shares) < POWER:
            too_few = middle
        else:
            enough = middle
    return enough if enough <= MOST_IMAGES else None
