"""A verdict: a checklist whose worst check decides whether to use an edit; and how many images would decide."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

USE = "use"
UNCLEAR = "unclear"
DO_NOT_USE = "do not use"
FINETUNE = "fine-tune instead"

WORDS = (FINETUNE, DO_NOT_USE, UNCLEAR, USE)
"""The words of a verdict, the one that decides over the others first."""

HELPS = "helps"
COSTS = "costs"
INSTEAD = "instead"

LINES = (HELPS, COSTS, INSTEAD)
"""The lines of a verdict: what an edit corrects on new images, what it costs, and what a user would do instead."""

NOTICE = 0.9
"""There are enough images to measure a cost if a loss well above its limit is noticed with this probability."""

STEPS = (0, 3, 8, 15, 24, 33, 48)
"""The numbers of images by which a number that decides is exceeded when it is checked."""

MOST_IMAGES_NEEDED = 100_000
"""The largest number of images that an advice names."""


@dataclass(frozen=True)
class Check:
    """One check of the checklist.

    Attributes:
        name: what should hold.
        holds: whether it holds; None if it was not measured.
        figure: what was measured, as a clause without a period; may be empty.
        advice: what to do if it does not hold.
        at_best: the best verdict if it does not hold. "use" means that the check only informs.
        line: the line of the verdict that gives its figure, one of `LINES`; empty for none.
        in_words: the advice without names of Python, for a reader who writes no code; empty if `advice` has none.
    """

    name: str
    holds: bool | None
    figure: str = ""
    advice: str = ""
    at_best: str = USE
    line: str = ""
    in_words: str = ""

    @property
    def status(self) -> str:
        """The text "pass", "fail" or "not measured"."""
        if self.holds is None:
            return "not measured"
        return "pass" if self.holds else "fail"

    @property
    def allows(self) -> str:
        """The best verdict that it allows: `at_best` if it fails, and at worst "unclear" if it was not measured."""
        if self.holds:
            return USE
        if self.holds is None and self.at_best != USE:
            return UNCLEAR
        return self.at_best

    @property
    def for_a_reader(self) -> "Check":
        """This check with its advice in words."""
        return replace(self, advice=self.in_words or self.advice)

    def __str__(self) -> str:
        text = f"{self.status}: {self.name}"
        if self.figure:
            text += f" ({self.figure})"
        return text if self.holds or not self.advice else f"{text}. {self.advice}"


@dataclass(frozen=True)
class Verdict:
    """Whether to use an edit, and why.

    Attributes:
        word: "use", "unclear", "do not use", or "fine-tune instead".
        reason: the figures of the checks that decided, as a clause without a period.
        advice: what to do next. For "use", it is empty unless a cost was not measured.
        checks: the checklist.
    """

    word: str
    reason: str
    advice: str = ""
    checks: tuple[Check, ...] = field(default=(), repr=False)

    @property
    def lines(self) -> dict[str, str]:
        """The figures of the checks by line: what helps, what it costs, and what a user would do instead."""
        lines = {}
        for name in LINES:
            figures = [check.figure for check in self.checks if check.line == name and check.figure]
            lines[name] = "; ".join(figures) or "not measured"
        return lines

    def __str__(self) -> str:
        text = f"{self.word}: {self.reason}."
        return f"{text} {self.advice}" if self.advice else text


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """Return the verdict of a checklist: the worst word that a check allows.

    Its reason has the figures of the checks that decided it. The advice of "unclear" is that of all of them, so that
    everything can be collected at once, as is that of "use" for costs that were not measured; that of another word is
    the advice of the first.
    """
    word = min((check.allows for check in checks), key=WORDS.index)
    if word == USE:
        reason = "it helps on new images, and no measured cost exceeds its limit"
        unknown = costs_not_measured(checks)
        reason = "; ".join([reason, *(check.figure for check in unknown)])
        return Verdict(word, reason, advice_of(unknown), tuple(checks))
    deciding = [check for check in checks if check.allows == word]
    reason = "; ".join(check.figure for check in deciding if check.figure)
    return Verdict(word, reason, advice_of(deciding if word == UNCLEAR else deciding[:1]), tuple(checks))


def costs_not_measured(checks: Sequence[Check]) -> list[Check]:
    """Return the checks of costs that are not known."""
    return [check for check in checks if check.line == COSTS and check.holds is None]


def advice_of(checks: Sequence[Check]) -> str:
    """Join the advice of checks; a sentence that several have is said once."""
    sentences = [sentence for check in checks for sentence in re.split(r"(?<=\.) ", check.advice) if sentence]
    return " ".join(dict.fromkeys(sentences))


# --- how many images would decide -------------------------------------------------------------------------------------


def fewest_images(decides: Callable[[int], bool], too_few: int = 0) -> int | None:
    """Find about the smallest number of images that decides; None if more than 100,000 images would be needed.

    Whole limits make a number decide that is followed by some that do not, so the next ones have to decide as well.

    Args:
        decides: tells whether a number of images decides. If a number does, so do, but for rounding, all larger ones.
        too_few: a number of images that does not decide.
    """
    enough = max(2 * too_few, 1)
    while not _decides_from(decides, enough):
        too_few = enough
        enough *= 2
        if enough > 2 * MOST_IMAGES_NEEDED:
            return None
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if _decides_from(decides, middle):
            enough = middle
        else:
            too_few = middle
    return enough if enough <= MOST_IMAGES_NEEDED else None


def _decides_from(decides: Callable[[int], bool], images: int) -> bool:
    """Tell whether a number of images decides, and larger ones at which a limit has not risen by one yet."""
    return all(decides(images + step) for step in STEPS)


def notices(images: int, loss: float, allowed: int) -> bool:
    """Return whether a number of images is enough to notice a loss: with `NOTICE`, more images are lost than allowed.

    Args:
        images: number of images.
        loss: share of images that are lost, in [0, 1].
        allowed: the number of images that may be lost.
    """
    from scipy.stats import binom

    return bool(binom.sf(allowed, images, loss) >= NOTICE)
