"""What an edit does to the images of a session: a word, a sentence, and a next step for someone who writes no code."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor

from edittools.edits import Edit
from edittools.images import LabelledImages
from edittools.metrics import Comparison
from edittools.selection import Assessment, Check, Verdict
from edittools.selection.checks import (
    accuracy_check,
    breaks_too_many,
    describe_effect,
    loses_too_much,
    retained_check,
)
from edittools.selection.effects import Effect
from edittools.selection.splits import RETAINED
from edittools.selection.verdict import COSTS, HELPS, INSTEAD, UNCLEAR, USE, costs_not_measured

MEASURING = "The cost on other images is being measured …"
"""The next step before the clean and retained images are measured."""

BETTER, NO_BETTER, TOO_COSTLY = "promising", "no improvement", "too costly"
"""The words for an edit that was made from the exemplar, on images on which settings are tried."""

SELECT, FIND = "select an edit", "find it elsewhere"
"""The next steps that a button takes."""


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
        reason: why, as a clause without a period: what it corrects, and what it costs.
        step: what to do next, a sentence; may be empty.
        action: which button takes this step, `SELECT` or `FIND`; empty for none.
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
        lines = [f"{self.word}: {sentence(self.reason)}", self.step]
        return "\n".join(line for line in lines if line)


Preview = Callable[[Result], None]
"""Takes a result whose clean and retained images are not measured yet."""


def sentence(clause: str) -> str:
    """Capitalize a clause, and add a period."""
    return f"{clause[:1].upper()}{clause[1:]}."


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
    checks = []
    unknown = []
    if result.clean is None:
        unknown.append("clean")
    else:
        checks.append(accuracy_check(result.clean))
    if result.retain is None:
        unknown.append("retained")
    else:
        checks.append(retained_check(RETAINED, result.retain))
    lines = [sentence(check.figure) for check in checks]
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


def _word(result: Result) -> str:
    """Tell what to think of an edit, as far as it is measured."""
    if result.images.corrected <= result.images.broken:
        return NO_BETTER
    loses = result.clean is not None and loses_too_much(result.clean)
    breaks = result.retain is not None and breaks_too_many(result.retain)
    return TOO_COSTLY if loses or breaks else BETTER


def _reason(result: Result) -> str:
    """Say what an edit corrects and breaks, and which cost exceeds its limit."""
    reason = f"it {describe_effect(result.images, result.counted)}"
    if result.clean is not None and loses_too_much(result.clean):
        return f"{reason}, and loses {-result.clean.by_scene.accuracy_change:.2f} points of accuracy on clean images"
    if result.retain is not None and breaks_too_many(result.retain):
        broken, correct = result.retain.broken_by_scene
        return f"{reason}, and {broken} of {correct:,} retained images"
    return reason


# --- an edit that was selected ----------------------------------------------------------------------------------------


def with_verdict(result: Result, fix: Assessment) -> Result:
    """Give a result the verdict on the selected edit: what it corrects and costs, one next step, and the details.

    Args:
        result: the result of the edit that is applied.
        fix: the assessment of the edit, with its advice in words.
    """
    verdict = fix.verdict
    deciding = [check for check in verdict.checks if check.allows == verdict.word and check.figure]
    step, action = _next_step(verdict, deciding)
    others = fix.summary().split("\n")[1:]  # the first line is the verdict
    rest = [verdict.advice, *others] if verdict.advice and verdict.advice != step else others
    return replace(
        result,
        word=verdict.word,
        reason="; ".join(_clauses(fix, deciding)),
        step=step,
        action=action,
        details="\n".join(rest),
        repair=fix,
    )


def _clauses(fix: Assessment, deciding: list[Check]) -> list[str]:
    """Say what the selected edit corrects, what it costs, and what decided the verdict.

    Args:
        fix: the assessment of the edit.
        deciding: the checks that decided, with a figure.
    """
    gain = ""
    if "concept" in fix.effects:
        gain = f"it {describe_effect(fix.effects['concept'].by_scene, 'images with the mark')}"
    cost = ""
    if "clean" in fix.effects:
        clean = fix.effects["clean"]
        changed = f"{clean.changed_by_scene} of {clean.scene_count:,} predictions on clean images change"
        cost = f"{changed}, which changes accuracy by {clean.by_scene.accuracy_change:+.2f} points"
    if fix.verdict.word == USE:
        unknown = costs_not_measured(fix.verdict.checks)
        clauses = [gain, cost, "no measured cost exceeds its limit", *(check.figure for check in unknown)]
    elif not deciding:
        clauses = [gain, cost, fix.verdict.reason]
    elif deciding[0].line == HELPS:
        clauses = [deciding[0].figure, cost]
    elif deciding[0].line == COSTS:
        clauses = [gain, f"but {deciding[0].figure}" if gain else deciding[0].figure]
    elif deciding[0].line == INSTEAD:
        clauses = [gain, cost]
    else:
        clauses = [gain, cost, f"but {deciding[0].figure}"]
    return [clause for clause in clauses if clause]


def _next_step(verdict: Verdict, deciding: list[Check]) -> tuple[str, str]:
    """Return what to do next, and which button does it; empty for none."""
    if verdict.word == USE:
        return "Save it.", ""
    if not deciding:
        return verdict.advice, ""
    check = deciding[0]
    if verdict.word == UNCLEAR and check.line == HELPS:
        return "Find more images that show the mark, right and wrong ones.", FIND
    return check.advice, ""
