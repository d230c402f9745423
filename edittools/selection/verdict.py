"""The verdict on an edit, "use", "unclear" or "do not use", by a fixed rule; docs/verdict.md explains the rule."""

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
"""The largest p-value at which the verdict can be "use"; it is that of the exact McNemar test against no edit."""

POWER = 0.8
"""The number of images in the verdict "unclear" would give a significant result with this probability."""

MOST_IMAGES = 100_000
"""The largest number of images that is given in the verdict "unclear"."""


@dataclass(frozen=True)
class Condition:
    """One condition of a checklist.

    Attributes:
        name: what should hold.
        status: "pass", "fail" or "not measured".
        number: a phrase with the number that was measured.
        advice: what to do if the condition fails or was not measured; empty if it passes.
    """

    name: str
    status: str
    number: str = ""
    advice: str = ""


def condition(name: str, holds: bool | None, number: str = "", advice: str = "") -> Condition:
    """Make a condition.

    Args:
        name: what should hold.
        holds: whether it holds; None if it was not measured.
        number: a phrase with the number that was measured.
        advice: what to do; left out if the condition holds.
    """
    if holds is None:
        return Condition(name, NOT_MEASURED, number, advice)
    return Condition(name, PASS, number) if holds else Condition(name, FAIL, number, advice)


@dataclass(frozen=True)
class Evidence:
    """The numbers that the verdict depends on.

    They were measured on images that were not used to select the edit.

    Args:
        corrected: number of images with the concept that the edit corrects.
        broken: number of images with the concept that the edit breaks.
        images: number of images with the concept; 0 if none was held out.
        controls: corrected − broken of each control, by name; empty if no control was selected in the same way.
        accuracy_change: change of accuracy on clean images, in points; None if it was not measured.
        accuracy_limit: points of accuracy that the edit may lose.
        retained: percent of the retained images that the edit breaks, by the name of the set; None for a set that was
            not measured. Empty if there are no retained images.
        retained_limit: percent of the retained images that the edit may break.
        feasible: whether, in the selection, a candidate corrects more than it breaks and satisfies the constraints.
        obstacle: advice for the case that no candidate is feasible; may be empty.
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
        """The number of images that the edit corrects, minus the number that it breaks."""
        return self.corrected - self.broken

    @property
    def p(self) -> float:
        """The p-value of the exact McNemar test that the edit corrects as many images as it breaks."""
        return mcnemar(self.corrected, self.broken)

    @property
    def best_control(self) -> str | None:
        """The control that corrects the most images, net; None if there is no control."""
        return max(self.controls, key=self.controls.__getitem__, default=None)

    @property
    def keeps_accuracy(self) -> bool | None:
        """Whether the measured change of accuracy satisfies the constraint; None if it was not measured."""
        return None if self.accuracy_change is None else self.accuracy_change >= -self.accuracy_limit - 1e-9

    def keeps_retained(self, name: str) -> bool | None:
        """Return whether the measured share of a retained set satisfies its constraint; None if it was not measured."""
        percent = self.retained[name]
        return None if percent is None else percent <= self.retained_limit + 1e-9


@dataclass(frozen=True)
class Verdict:
    """Whether to use an edit, and why.

    Attributes:
        word: "use", "unclear" or "do not use".
        reason: why, in one sentence without a period.
        advice: what to do next; empty for "use".
        images_needed: about how many images with the concept would be enough to decide, see the function of that name.
            None unless the verdict is "unclear" because there are too few.
    """

    word: str
    reason: str
    advice: str = ""
    images_needed: int | None = None

    def __str__(self) -> str:
        text = f"{self.word}: {self.reason}."
        return f"{text} {self.advice}" if self.advice else text


def judge(evidence: Evidence) -> Verdict:
    """Return the verdict on an edit.

    - *do not use*: x' is predicted as x without an edit, no candidate is feasible, the edit does not correct more than
      it breaks, a control corrects at least as many (net), or a measured cost exceeds its limit.
    - *use*: otherwise, if p ≤ 0.05 against no edit, and if the comparison with every control and the costs on clean and
      retained images were measured.
    - *unclear*: otherwise, since there are too few images, or something was not measured.

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
    """Describe the effect of the edit on images with the concept."""
    return (
        f"it corrects {evidence.corrected} and breaks {evidence.broken} of {evidence.images} held-out images "
        f"(p {evidence.p:.2g})"
    )


def _obstacles(evidence: Evidence) -> list[tuple[str, str]]:
    """List the reasons against an edit, each with advice; the advice of the first one is given."""
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
    """Return whether the held-out images are too few to distinguish the edit from no edit."""
    return evidence.images > 0 and evidence.p > SIGNIFICANCE


def _gaps(evidence: Evidence) -> list[tuple[str, str]]:
    """List what is missing for the verdict "use", each with advice."""
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
"""The name of a set of retained images that was given without a name."""


def _quoted(name: str) -> str:
    """Name a retained set in a sentence."""
    return f"the {RETAINED}" if name == RETAINED else f"the {RETAINED} {name!r}"


def power(images: int, corrected_share: float, broken_share: float) -> float:
    """Compute the power of the exact McNemar test for an edit that corrects more images than it breaks.

    Each image is corrected with one probability and broken with another, independently of the others. The probability
    is summed over the number of images that change, which is binomial; of these, the number that is corrected is
    binomial as well.

    Args:
        images: number of images.
        corrected_share: probability that an image is corrected.
        broken_share: probability that an image is broken.

    Returns:
        The probability that p ≤ 0.05 and that more images are corrected than broken.
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
    """Compute about how many images the exact McNemar test needs for a power of 80%, if the shares stay as observed.

    Args:
        corrected: number of images that were corrected.
        broken: number of images that were broken.
        images: number of images that were measured.

    Returns:
        A number of images at which `power` is at least 0.8, while it is less for one image fewer. None if the edit does
        not correct more images than it breaks, or if more than 100,000 images would be needed.
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
