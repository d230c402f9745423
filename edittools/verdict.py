"""A verdict in numbers: what was checked, what an edit costs, and the word that follows. `reports.words` says it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto
from math import floor
from typing import Any

USE = "use"
UNCLEAR = "unclear"
DO_NOT_USE = "do not use"
FINETUNE = "fine-tune instead"

WORDS = (FINETUNE, DO_NOT_USE, UNCLEAR, USE)
"""The words of a verdict, the one that decides over the others first."""

RETAINED = "retained images"
"""The name of a set of retained images that was given without a name."""


class Kind(StrEnum):
    """What a check checks, and what `numbers` of `Check` has then; `reports.words` says it in sentences."""

    LOOKED_AT = auto()
    """A person has looked at the photos with the mark."""

    CONFIRMED = auto()
    """The mark carries its class: class, share, shuffled_share, sources, hosts, p; fewest_sources and fewest_hosts, the
    fewest for a test."""

    ORIGINAL = auto()
    """x is correct: names, classes, is_labeled, is_swapped."""

    CHANGED = auto()
    """x' is predicted otherwise: names, classes, alike."""

    MASK_COVERS_CHANGE = auto()
    """inside."""

    MISTAKES = auto()
    """Images with the mark are mistaken for its class: alike, errors, classes."""

    LABELS = auto()
    """Labels are plausible: share, most, count."""

    COVERAGE = auto()
    """Clean images cover the classes: shown, classes, missing."""

    OBJECTIVE = auto()
    """The edit lowers the objective of the selection: before, after; weaker, the weight of the images without the mark
    that selects a weaker edit, or None."""

    ONE_EDIT = auto()
    """The labels judge one edit."""

    GAIN = auto()
    """It corrects more than it breaks: corrected, errors, broken, correct, share, low, high, p, unit, needed; without
    labels, none of them."""

    BREAKABLE = auto()
    """Some images with the mark are correct before the edit: correct, total, is_sample, fewest."""

    RANDOM = auto()
    """It corrects more than random directions: net, mean, draws."""

    ACCURACY = auto()
    """Accuracy on clean images is kept: changed."""

    RETAINED = auto()
    """Predictions on retained images are kept."""

    OWN_CLASS = auto()
    """The mark's class is kept: classes; enough, how many images are enough if none is lost; without_correct and
    without_total, clean images of the class before the edit; needs_clean, whether more of these are needed as well."""

    OWN_HOSTS = auto()
    """Ordinary images of the mark's class keep their predictions with the mark pasted: classes, alike_before, alike,
    total."""

    FINETUNING = auto()
    """Fine-tuning does not correct more: edit, finetuning, what each corrects and changes; p, more, is_significant,
    is_within_limits; or is_made."""


COSTS = (Kind.ACCURACY, Kind.RETAINED, Kind.OWN_CLASS, Kind.OWN_HOSTS)
"""The kinds of checks that are about costs."""


@dataclass(frozen=True)
class Cost:
    """What an edit costs on a set of images, in scenes.

    Attributes:
        before: how many are correct before the edit.
        after: how many are correct with it.
        total: of how many; of retained images, only those count that were correct.
        images: how many images show these scenes.
        lost: how many are lost, of those that should be correct.
        limit: how many may be lost.
        interval: the 95% interval of `lost`.
        is_enough: whether there are enough of them to tell that no more are lost than may be.
        needed: about how many are needed to tell; None if no number is known.
    """

    before: int
    after: int
    total: int
    images: int
    lost: float
    limit: float
    interval: tuple[float, float]
    is_enough: bool
    needed: int | None = None

    @property
    def allowed(self) -> int:
        """How many may be lost, as a whole number."""
        return floor(self.limit + 1e-9)

    @property
    def is_exceeded(self) -> bool:
        """Whether more are lost than may be."""
        return self.lost > self.limit + 1e-9

    @property
    def is_certain(self) -> bool:
        """Whether the whole interval is above the limit."""
        return self.is_exceeded and self.interval[0] > self.limit


@dataclass(frozen=True)
class Check:
    """One check of a verdict.

    Attributes:
        kind: what is checked.
        holds: whether it holds; None if that is not known.
        at_best: the best verdict if it does not hold or is not known. "use" means that the check only informs. What is
            not known never forbids, so it is at best "unclear" then.
        about: the name of the set that it is about, where there are several.
        cost: the cost, if it is about one that was measured.
        numbers: other numbers, see `Kind`.
    """

    kind: Kind
    holds: bool | None
    at_best: str = USE
    about: str = ""
    cost: Cost | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """The text "pass", "fail" or "not known"."""
        if self.holds is None:
            return "not known"
        return "pass" if self.holds else "fail"

    def row(self) -> dict[str, Any]:
        """Return everything as a dictionary, for programs."""
        cost = None if self.cost is None else {**vars(self.cost), "allowed": self.cost.allowed}
        row = {"check": str(self.kind), "about": self.about, "status": self.status, "allows": self.allows}
        return {**row, "cost": cost, "numbers": dict(self.numbers)}

    @property
    def allows(self) -> str:
        """The best verdict that it allows."""
        if self.holds:
            return USE
        if self.holds is None and self.at_best != USE:
            return UNCLEAR
        return self.at_best


def judge(kind: Kind, cost: Cost, about: str = "", numbers: Mapping[str, Any] | None = None) -> Check:
    """Judge a cost by its limit, the same way for all kinds.

    It does not hold if more images are lost than may be: certainly, and so "do not use", if its whole interval is above
    the limit, and "unclear" otherwise. It holds only if there are enough images to tell.

    Args:
        kind: what is checked.
        cost: the cost.
        about: the name of the set, where there are several.
        numbers: other numbers, see `Kind`.
    """
    if cost.is_exceeded:
        holds: bool | None = False
        at_best = DO_NOT_USE if cost.is_certain else UNCLEAR
    else:
        holds = True if cost.is_enough else None
        at_best = UNCLEAR
    return Check(kind, holds, at_best, about, cost, numbers or {})


def word_of(checks: Sequence[Check]) -> str:
    """Return the word of a checklist: the worst that a check allows."""
    return min((check.allows for check in checks), key=WORDS.index, default=UNCLEAR)


def deciding(checks: Sequence[Check]) -> list[Check]:
    """Return the checks that decide the word; none for "use"."""
    word = word_of(checks)
    return [] if word == USE else [check for check in checks if check.allows == word]
