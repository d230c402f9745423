"""What an edit does to the images of a session, in figures and in sentences for someone who writes no code."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from edittools.edits import Edit
from edittools.images import LabelledImages
from edittools.metrics import Comparison
from edittools.selection import Assessment
from edittools.selection.checks import accuracy_check, describe_effect, fit_check, is_within_limits, retained_check
from edittools.selection.evaluation import Evaluation
from edittools.selection.splits import RETAINED

BEFORE_CHANGE = "Measured before images or labels were changed:"
"""The first line of the verdict on an edit that a search has found, after a change of images or labels."""

CROSS_VALIDATED = "These figures are cross-validated: each image counts with an edit that was selected without it."
"""The line of a verdict that says which edits its figures are of."""

MEASURING = "The cost on other images is being measured …"
"""The last line of a verdict before the clean and retained images are measured."""


@dataclass(frozen=True, eq=False)
class Result:
    """What an edit does to the image sets.

    Args:
        edit: the edit.
        after: logits `(N, classes)` of all `data`, with the edit.
        images: comparison of the images, without those that the edit was made from.
        retain: comparison of the retained images; None if there are none.
        clean: comparison of the clean images; None if there are none.
        verdict: the figures in sentences for someone who writes no code, one per line.
        details: the edit, and how it was selected, one sentence per line.
        repair: what the search has found, if the edit comes from one. The figures in the verdict then come from images
            that were not used to select the edit; those of the comparisons come from images that were.
        data: the images and labels that it was computed with.
    """

    edit: Edit
    after: Tensor = field(repr=False)
    images: Comparison = field(repr=False)
    retain: Comparison | None = field(repr=False)
    clean: Comparison | None = field(repr=False)
    verdict: str = ""
    details: str = field(default="", repr=False)
    repair: Assessment | None = field(default=None, repr=False)
    data: LabelledImages | None = field(default=None, repr=False)

    @property
    def held_out(self) -> bool:
        """Whether the figures in the verdict come from images that were not used to select the edit."""
        return self.repair is not None


Preview = Callable[[Result], None]
"""Takes a result whose clean and retained images are not measured yet."""


def sentence(clause: str) -> str:
    """Capitalize a clause, and add a period."""
    return f"{clause[:1].upper()}{clause[1:]}."


def describe(edit: Edit) -> str:
    """Describe an edit for someone who writes code: its layers, and how well it fits the exemplar."""
    check = fit_check(edit)
    return f"{edit}." if check.holds is None else f"{edit}.\n{sentence(check.figure)}"


def with_held_out_verdict(result: Result, fix: Assessment, before_change: bool = False) -> Result:
    """Give a result the verdict on the edit that the search has found, and its three lines.

    They come from images that were not used to select the edit. The details begin with the figures of the edit that is
    applied, which the frames of the images show.

    Args:
        result: the result of the edit that is applied.
        fix: what the search has found.
        before_change: whether images or labels have changed since the search.
    """
    lines = [BEFORE_CHANGE] if before_change else []
    lines.append(str(fix.verdict))
    lines += [sentence(f"{name}: {text}") for name, text in fix.verdict.lines.items()]
    lines = [line.replace("finetuning=True", "“compare fine-tuning”") for line in lines]
    applied = describe_effect(result.images, "images")
    shown = f"The frames show the edit that is applied, which was selected on all images: {applied}."
    details = "\n".join([CROSS_VALIDATED, shown, fix.summary()])
    return replace(result, verdict="\n".join(lines), details=details, repair=fix)


def verdict(result: Result, can_search: bool) -> str:
    """Describe what an edit corrects, what it costs, and what to try next; one sentence per line.

    Args:
        result: the result of the edit.
        can_search: whether a search can be tried next.
    """
    costs = []
    unknown = []
    if result.clean is None:
        unknown.append("clean")
    else:
        costs.append(accuracy_check(result.clean))
    if result.retain is None:
        unknown.append("retained")
    else:
        costs.append(retained_check(RETAINED, result.retain))
    lines = [sentence(describe_effect(result.images, "images"))]
    lines += [sentence(check.figure) for check in costs]
    if unknown:
        line = f"the cost on {' and '.join(unknown)} images is unknown, since none were given"
        lines.append(sentence(line if result.clean is not None else f"whether to use the edit is unclear: {line}"))
    measured = Evaluation(result.images, result.clean, {RETAINED: result.retain})
    search = "“Find the best” tries other layers and methods."
    advice = search if can_search else "Try another layer, mark, or material."
    if result.images.corrected <= result.images.broken:
        lines.append(f"The edit is no improvement. {advice}")
    elif not is_within_limits(measured, torch.zeros(0, dtype=torch.bool)):
        lines.append(f"The cost is too high, or may be; lower the strength. {advice}")
    return "\n".join(lines)
