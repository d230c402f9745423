"""What an edit does to the images of a session: a word, a sentence, and a next step for someone who writes no code."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor

from edittools.edits import Edit
from edittools.images import LabelledImages
from edittools.metrics import Comparison
from edittools.reports.words import DESK, FIND, check_words, describe_counts
from edittools.selection import Assessment
from edittools.selection.checks import accuracy_check, retained_check
from edittools.selection.effects import Effect
from edittools.selection.splits import RETAINED
from edittools.verdict import Check

MEASURING = "The cost on other images is being measured …"
"""The next step before the clean and retained images are measured."""

BETTER, NO_BETTER, TOO_COSTLY = "promising", "no improvement", "too costly"
"""The words for an edit that was made from the exemplar, on images on which settings are tried."""

SELECT = "select an edit"
"""A next step that a button takes, next to those of `edittools.reports.words`."""


@dataclass(frozen=True, eq=False)
class Result:
    """What an edit does to the image sets.

    Args:
        edit: the edit.
        after: logits `(N, classes)` of all `data`, with the edit.
        images: comparison of the images, without those that the edit was made from.
        retain: what it does to the retained images; None if there are none.
        clean: what it does to the clean images on which accuracy is measured; None if there are none.
        word: what to think of the edit: the word of a verdict, or `BETTER`, `NO_BETTER`, or `TOO_COSTLY`.
        reason: why: what it corrects, and what it costs, in sentences.
        step: what to do next, a sentence; may be empty.
        action: which button takes this step, `SELECT` or one of `ACTIONS`; empty for none.
        details: everything else, one sentence per line.
        repair: the assessment of the edit, or the verdict of an earlier session on it, if ordinary images selected it.
        data: the images and labels that it was computed with.
        counted: what to call the images that are compared.
    """

    edit: Edit
    after: Tensor = field(repr=False)
    images: Comparison = field(repr=False)
    retain: Effect | None = field(repr=False)
    clean: Effect | None = field(repr=False)
    word: str = ""
    reason: str = ""
    step: str = ""
    action: str = ""
    details: str = field(default="", repr=False)
    repair: Assessment | None = field(default=None, repr=False)
    data: LabelledImages | None = field(default=None, repr=False)
    counted: str = field(default="images", repr=False)

    @property
    def verdict(self) -> str:
        """The word and the reason; the next step has a line of its own."""
        lines = [f"{self.word}: {self.reason}", self.step]
        return "\n".join(line for line in lines if line)


Preview = Callable[[Result], None]
"""Takes a result whose clean and retained images are not measured yet."""


def describe(edit: Edit) -> str:
    """Describe an edit for someone who writes code: its layers, and how well it fits the exemplar."""
    left = None if edit.record is None else edit.record.share_left
    return f"{edit}." if left is None else f"{edit}.\n{1 - left:.0%} of the loss at the exemplar is gone."


# --- an edit that was made from the exemplar --------------------------------------------------------------------------


def preview_of(result: Result) -> Result:
    """Describe what an edit corrects, before its costs are measured."""
    return replace(result, word=_word(result), reason=_reason(result), step=MEASURING)


def described(result: Result, can_select: bool) -> Result:
    """Describe what an edit corrects, what it costs, and what to do next.

    Args:
        result: the result of the edit.
        can_select: whether an edit can be selected next.
    """
    lines = [check_words(check, DESK).found for check in _checks(result)]
    unknown = [name for name, effect in (("clean", result.clean), ("retained", result.retain)) if effect is None]
    if unknown:
        lines.append(f"The cost on {' and '.join(unknown)} images is unknown, since none were given.")
    word = _word(result)
    if can_select:
        step = "Let ordinary images select an edit: it may correct more, and cost less."
    elif word == BETTER:
        step = "Open the desk with clean images: without them, the cost is unknown, and no edit is selected."
    else:
        step = "Try another mark, material, or layer."
    return replace(
        result,
        word=word,
        reason=_reason(result),
        step=step,
        action=SELECT if can_select else "",
        details="\n".join([*lines, describe(result.edit)]),
    )


def _checks(result: Result) -> list[Check]:
    """Check the costs that are measured."""
    checks = [] if result.clean is None else [accuracy_check(result.clean)]
    return checks if result.retain is None else [*checks, retained_check(RETAINED, result.retain)]


def _word(result: Result) -> str:
    """Tell what to think of an edit, as far as it is measured."""
    if result.images.corrected <= result.images.broken:
        return NO_BETTER
    is_costly = any(check.holds is False for check in _checks(result))
    return TOO_COSTLY if is_costly else BETTER


def _reason(result: Result) -> str:
    """Say what an edit corrects and breaks, and which cost exceeds its limit."""
    images = result.images
    errors = int(images.before.sum())
    counts = {
        "corrected": images.corrected,
        "errors": errors,
        "broken": images.broken,
        "correct": len(images.before) - errors,
    }
    costs = [check_words(check, DESK).found for check in _checks(result) if check.holds is False]
    return " ".join([f"It {describe_counts(counts, result.counted)}.", *costs])


# --- an edit that was selected ----------------------------------------------------------------------------------------


def with_verdict(result: Result, fix: Assessment) -> Result:
    """Give a result the verdict on the selected edit: what it corrects and costs, one next step, and the details.

    Args:
        result: the result of the edit that is applied.
        fix: the assessment of the edit.
    """
    words = fix.words(DESK)
    return replace(
        result,
        word=words.word,
        reason=" ".join([*words.reasons, words.gain, *words.costs, *words.unknown]),
        step=words.next_step,
        action=FIND if words.next_action == FIND else "",
        details=fix.summary(DESK),
        repair=fix,
    )
