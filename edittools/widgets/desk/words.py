"""The sentences of the desk, besides those of a verdict: about the pair, the images that are checked, and an edit."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edittools.images import LabeledImages
from edittools.reports.words import DESK
from edittools.selection.checks import ENOUGH_OWN, FEWEST_CORRECT
from edittools.stats import FEWEST_CHANGED
from edittools.verdict import DO_NOT_USE, USE
from edittools.widgets.desk.engine import Outcome, PredictedPair, Seen
from edittools.widgets.desk.state import Rewriting

FIND = "find elsewhere"
"""The next step after an edit that is not measured; those after a verdict are `reports.words.ACTIONS`."""

LARGEST_SHARE = 0.5
"""A mark that covers more of the image than this share says nothing about what misleads."""

UNMARKED = "Mark the part of the image that misleads the network."
"""What is said about an image on which nothing is marked."""

UNCHECKED = (
    "The most similar images come first: click the first one, then Shift-click the last one before images without the "
    "mark begin."
)
"""What is said while no image is checked."""

NO_MISTAKE = "No image of the folder is misclassified."
"""What is said if there is nothing to mark."""

TONES = {USE: "good", DO_NOT_USE: "bad"}
"""The color of the word of a verdict; the other words are neither good nor bad."""


@dataclass(frozen=True)
class Said:
    """What the desk says about an edit.

    Attributes:
        word: the word of its verdict, or what kind of edit it is.
        tone: "good", "bad", or neither if it is empty.
        lines: sentences, one per line.
        action: the next step that a button takes, `FIND` or one of `reports.words.ACTIONS`; None if none does.
    """

    word: str = ""
    tone: str = ""
    lines: tuple[str, ...] = ()
    action: str | None = None


def of_pair(pair: PredictedPair, classes: Sequence[str]) -> str:
    """Say whether x and x' show the mistake, and what to do next, in one sentence."""
    original, changed = classes[int(pair.original.argmax())], classes[int(pair.changed.argmax())]
    label = classes[pair.exemplar.label]
    share = float(pair.exemplar.mask.mean())
    if not pair.shows_mistake:
        return (
            f"Without the mark, it is predicted as {original} as well: mark the rest of what misleads, or replace it "
            "otherwise."
        )
    if share > LARGEST_SHARE:
        return f"{share:.0%} of the image is marked: replacing so much may change any prediction. Mark less."
    if original != label:
        return f"Without the mark, it is predicted as {original}, wrong as well: try another image."
    return f"Without the mark, it is predicted as {original}, and with it as {changed}: the mark misleads."


def of_checked(checked: Collection[str], found: Sequence[Seen], own_class: int, class_name: str) -> str:
    """Say how many of the images that may show the mark are checked, and what a verdict still needs; or how to check.

    Args:
        checked: the names of the images that are checked.
        found: the images that are offered.
        own_class: the index of the mark's class.
        class_name: its name.
    """
    shown = [seen for seen in found if seen.name in checked]
    if not shown:
        return UNCHECKED
    others = [seen for seen in shown if seen.label != own_class]
    wrong = sum(int(seen.probabilities.argmax()) != seen.label for seen in others)
    correct = len(others) - wrong
    own = len(shown) - len(others)
    missing = {
        "misclassified": FEWEST_CHANGED - wrong,
        "correct": FEWEST_CORRECT - correct,
        f"of {class_name}, the mark's class": ENOUGH_OWN - own,
    }
    needed = [f"{number} {what}" for what, number in missing.items() if number > 0]
    text = f"{len(shown)} of {len(found)} are checked: {wrong} misclassified, {correct} correct, {own} {class_name}."
    if needed:
        return f"{text} A sure verdict needs more, if there are any: {'; '.join(needed)}. Then press Rewrite."
    return f"{text} That is enough for a verdict: press Rewrite."


def of_edit(edit: Rewriting, outcome: Outcome, mistakes: LabeledImages) -> Said:
    """Say what an edit does, as far as it is known, and what to do next.

    Args:
        edit: the press of *Rewrite* that asked for it.
        outcome: what is known of it.
        mistakes: the mistakes of the folder.
    """
    if outcome.fix is not None:
        words = outcome.fix.words(DESK)
        return Said(words.word, TONES.get(words.word, ""), tuple(words.sentences), words.next_action)
    corrected = int((outcome.after.argmax(dim=1) == mistakes.labels).sum())
    lines = [f"It corrects {corrected} of the {len(mistakes)} mistakes of this folder. What it costs is not measured."]
    if edit.checked:
        lines.append("A better edit is selected, and measured on the checked images.")
        action = None
    else:
        lines.append("To measure it, find the mark elsewhere.")
        action = FIND
    if edit.is_stopped:
        lines = [lines[0], "The selection of a better one was stopped; Rewrite begins it again."]
    return Said("First edit" if outcome.selection is None else "Selected edit", "", tuple(lines), action)
