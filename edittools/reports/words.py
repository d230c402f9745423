"""The words of a verdict: checks, which hold numbers, become sentences here, for every reader.

    words = verdict_words(fix.checks, DESK)
    words.gain, words.costs, words.next_step

A reader in Python is told names of arguments, one at the shell names of options, and any other one neither.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edittools.stats import wilson
from edittools.verdict import COSTS, RETAINED, UNCLEAR, USE, Check, Cost, Kind, deciding, word_of

PYTHON, SHELL, PAGE, DESK = "python", "shell", "page", "desk"

AUDIENCES = (PYTHON, SHELL, PAGE, DESK)
"""For whom words are: a caller in Python, a user of the commands, a reader of a report, and a user of the desk."""

WEAKER, SAVE = "weaker edit", "save"

ACTIONS = (WEAKER, SAVE)
"""The next steps that a button can take: select a weaker edit, and save the edit."""

MOST_ASKED = 2_000
"""The largest number of images that an advice on the gain asks for."""

MOST_CLASSES_NAMED = 8
"""The largest number of classes that a sentence names."""

MOST_PAIRS_NAMED = 5
"""The largest number of exemplars that a sentence names."""

NAMES = {
    PYTHON: {"concept": "concept=", "clean": "clean=", "retain": "retain="},
    SHELL: {"concept": "--concept", "clean": "--clean", "retain": "--retain"},
}
"""What the sets of images are called where they are passed."""

ANOTHER_PAIR = "Try another pair of x and x'."


@dataclass(frozen=True)
class CheckWords:
    """What a check says.

    Attributes:
        title: what should hold, as a clause.
        found: what was found, a sentence; may be empty.
        remedy: what to do if it does not hold or is not known, one or more sentences; may be empty.
        action: which of `ACTIONS` does it; None if none does.
    """

    title: str
    found: str = ""
    remedy: str = ""
    action: str | None = None

    def __str__(self) -> str:
        return " ".join(text for text in (f"This does not hold: {self.title}.", self.found, self.remedy) if text)


@dataclass(frozen=True)
class VerdictWords:
    """What a verdict says: sentences, of which some may be missing.

    Attributes:
        word: the word.
        reasons: what else decides, besides what the edit corrects and costs.
        gain: what the edit corrects and breaks on images with the mark.
        costs: what it costs, each in the unit of its limit; also where that is too little to judge.
        unknown: which costs were not measured at all.
        instead: how it compares with fine-tuning; empty if that was not compared.
        next_step: what to do next.
        next_action: which of `ACTIONS` does it; None if none does.
    """

    word: str
    reasons: tuple[str, ...]
    gain: str
    costs: tuple[str, ...]
    unknown: tuple[str, ...]
    instead: str
    next_step: str
    next_action: str | None

    @property
    def sentences(self) -> list[str]:
        """All sentences in order, without the word."""
        parts = [*self.reasons, self.gain, *self.costs, *self.unknown, self.instead, self.next_step]
        return [part for part in parts if part]

    def __str__(self) -> str:
        return f"{self.word}. {' '.join(self.sentences)}"


def verdict_words(checks: Sequence[Check], audience: str = PYTHON) -> VerdictWords:
    """Say what the checks of an edit found, what the verdict is, and what to do next.

    Args:
        checks: the checks.
        audience: for whom, one of `AUDIENCES`.
    """
    objective = next((check for check in checks if check.kind == Kind.OBJECTIVE), None)
    decides = deciding(checks)
    reasons = []
    costs = []
    unknown = []
    gain = ""
    instead = ""
    for check in checks:
        found = check_words(check, audience, objective).found
        if check.kind == Kind.GAIN:
            gain = found
        elif check.kind == Kind.FINETUNING:
            instead = found if check.holds is not None else ""
        elif check.kind == Kind.OWN_HOSTS and check.holds is not False:
            continue  # they count only against an edit
        elif check.kind in COSTS and check.cost is None and check.holds is None:
            unknown.append(found)
        elif check.kind in COSTS:
            costs.append(found)
        elif check in decides:
            reasons.append(found)
    word = word_of(checks)
    step, action = _next(word, [check_words(check, audience, objective) for check in decides], audience)
    return VerdictWords(word, tuple(reasons), gain, tuple(costs), tuple(unknown), instead, step, action)


def _next(word: str, decides: Sequence[CheckWords], audience: str) -> tuple[str, str | None]:
    """Return what to do next, and which button does it.

    For "unclear", everything is said that decides, so that all can be collected at once; otherwise, what comes first.
    The desk has one next step, with a button if there is one.
    """
    if word == USE:
        return SAVE_IT[audience], SAVE
    shown = decides if word == UNCLEAR else decides[:1]
    if audience == DESK:
        shown = sorted(shown, key=lambda check: (check.action is None, not check.remedy))[:1]
    sentences = [check.remedy for check in shown if check.remedy]
    actions = [check.action for check in shown if check.action]
    return " ".join(dict.fromkeys(sentences)), next(iter(actions), None)


SAVE_IT = {
    PYTHON: "Save it with fix.edit.save(path), or the edited weights with fix.edit.export(classifier, path).",
    SHELL: "Load weights.safetensors, the edited weights, into the model.",
    PAGE: "Use the edit.",
    DESK: "Save it.",
}
"""What to do with an edit that may be used."""


def consistency_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how consistent predictions for ordinary images with the mark are, and how many change without it.

    Args:
        rows: one for each kind of hosts, see `Assessment.consistency`; "hosts of" names the kind.
    """
    sentences = []
    changed = 0
    total = 0
    for row in rows:
        if not row["hosts"]:
            continue
        total += row["hosts"]
        changed += row["changed without the mark"]
        sentences.append(
            f"Ordinary images with the mark ({row['hosts of']}): {row['alike with the edit']} of {row['hosts']} are "
            f"predicted as without it, {row['alike before']} before the edit."
        )
    if total:
        low, high = wilson(changed, total)
        sentences.append(
            f"Without the mark, the edit changes {changed} of {total} predictions, {changed / total:.1%} [{low:.1%}, "
            f"{high:.1%}]; accuracy falls by at most as much."
        )
    return sentences


def broken_sentence(broken: Mapping[str, tuple[int, int]], most_shown: int) -> str:
    """Say how many images of each set an edit breaks; empty without sets.

    Args:
        broken: the number of images that break, and of how many, by the name of the set.
        most_shown: the largest number of broken images of each set that are shown.
    """
    if not broken:
        return ""
    counts = [f"{count} of {total:,} {name_of_set(name)}" for name, (count, total) in broken.items()]
    sentence = f"The edit breaks {', '.join(counts)}, none of which selected it."
    is_shown = any(count for count, _ in broken.values())
    return f"{sentence} Shown are at most {most_shown} of each." if is_shown else sentence


def pair_captions(original: str, changed: str, edited: str, share: float) -> tuple[str, str, str]:
    """Return the captions of x, x', and the mask of an exemplar.

    Args:
        original: the class as which x is predicted.
        changed: the class as which x' is predicted.
        edited: the class as which x' is predicted with the edit.
        share: the share of the image that the mask covers.
    """
    caption = f"x': predicted as {changed}, with the edit as {edited}"
    return f"x: predicted as {original}", caption, f"the mask, {share:.0%} of the image"


MARK_CAPTIONS = ("x, the photo", "x', the photo with the mark", "the mask")
"""The captions of x, x', and the mask of a mark that was not repaired."""


# --- audits without a verdict -----------------------------------------------------------------------------------------

LOOK = "look at the windows"
"""The heading of the report of an audit of which no window was picked."""

NOT_REPAIRED = "nothing repaired"
"""The heading of the report of an audit of which a window was picked but nothing was repaired."""

A_PERSON_SAYS = "A person says which of them does not belong to its class."

IF_ONE_IS_ODD = (
    "If one does not belong, name its class and its number to have it tested and repaired: repair='CLASS:NUMBER', on "
    "the command line --repair 'CLASS:NUMBER'."
)


def not_repaired(reason: ValueError) -> str:
    """Say that nothing was repaired, and why; the reason becomes a sentence."""
    text = str(reason)
    return f"Nothing was repaired. {text[:1].upper()}{text[1:].rstrip('.')}."


def name_of_set(name: str) -> str:
    """Name a set of images in a sentence.

    Args:
        name: its name in `Splits.labeled`; empty for retained images that were not given.
    """
    names = {"own_class": "images of the mark's class with the mark", "clean": "clean images", "": RETAINED}
    return names.get(name, RETAINED if name == RETAINED else f"{RETAINED} {name!r}")


# --- one check --------------------------------------------------------------------------------------------------------


def check_words(check: Check, audience: str = PYTHON, objective: Check | None = None) -> CheckWords:
    """Say what a check found, and what to do if it does not hold.

    Args:
        check: the check.
        audience: for whom, one of `AUDIENCES`.
        objective: the check of the objective, which knows how to get a weaker edit; None if there is none.
    """
    if audience not in AUDIENCES:
        raise ValueError(f"audience={audience!r} is not one of {', '.join(AUDIENCES)}")
    words = _WORDS[check.kind](check, audience)
    if check.kind in COSTS and check.holds is False:
        text, action = _weaker_edit(objective, audience)
        words = CheckWords(words.title, words.found, text, action)
    return words


def _weaker_edit(objective: Check | None, audience: str) -> tuple[str, str | None]:
    """Say how to get an edit that changes ordinary images less, and which button does it."""
    weaker = None if objective is None else objective.numbers["weaker"]
    if weaker is None or audience in (SHELL, PAGE):
        return ANOTHER_PAIR, None
    edit = "a weaker edit" if audience == DESK else f"fix.reselect(clean_weight={weaker:g})"
    return f"Try {edit}: it changes ordinary images less, and its verdict says what it costs.", WEAKER


def _in(audience: str, name: str) -> str:
    """Name the argument or the option of a set of images, in parentheses."""
    names = NAMES.get(audience)
    return f" ({names[name]})" if names else ""


def _list(names: Sequence[str], most: int, last: str = ", ") -> str:
    """List names, at most some of them."""
    if len(names) > most:
        return f"{', '.join(names[:most])}, …"
    return last.join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _of_class(check: Check) -> str:
    """Name the mark's class, or its classes."""
    return _list(check.numbers["classes"], MOST_CLASSES_NAMED, " or ")


# --- the exemplars and the images -------------------------------------------------------------------------------------


def _describe_classes(what: str, check: Check) -> str:
    """Say what x or x' of each exemplar is predicted as."""
    names, classes = check.numbers["names"], check.numbers["classes"]
    if len(names) == 1:
        return f"{what} is predicted as {classes[0]}"
    pairs = [f"{name} as {predicted}" for name, predicted in zip(names, classes, strict=True)]
    return f"{what} is predicted: {_list(pairs, MOST_PAIRS_NAMED)}"


def _original(check: Check, audience: str) -> CheckWords:
    remedy = "Give x its label."
    if audience == PYTHON:
        remedy = "Give the exemplar its label, Exemplar(image, changed, mask, label)."
    if check.numbers["is_labeled"]:
        remedy = "Take an image that is classified correctly without the mark."
    if check.numbers["is_swapped"]:
        remedy = "x is misclassified and x' is not: are they swapped?"
    return CheckWords("x is classified correctly", f"{_describe_classes('x', check)}.", remedy)


def _changed(check: Check, audience: str) -> CheckWords:
    found = _describe_classes("x'", check)
    alike = check.numbers["alike"]
    if alike:
        found += f"; {alike} of {len(check.numbers['names'])} as x is, so the pair does not show the mistake"
    remedy = (
        "Take an image and a change by which x is classified correctly and x' is not: mark all of what misleads, or "
        "replace it by another material."
    )
    return CheckWords("x' is predicted otherwise than x", f"{found}.", remedy)


def _mask_covers_change(check: Check, audience: str) -> CheckWords:
    remedy = "Mark all pixels that differ."
    if audience == PYTHON:
        remedy = "Pass a mask of all pixels that differ, or make x' by Exemplar.paste."
    found = f"{check.numbers['inside']:.0%} of the difference between x and x' is inside the mask."
    return CheckWords("the mask covers the change", found, remedy)


def _mistakes(check: Check, audience: str) -> CheckWords:
    numbers = check.numbers
    name = _of_class(check)
    found = f"{numbers['alike']:,} of {numbers['errors']:,} misclassified images with the mark are predicted as {name}."
    remedy = "Do these images show the mark? Are their labels right?"
    return CheckWords(f"images with the mark are mistaken for {name}", found, remedy)


def _labels(check: Check, audience: str) -> CheckWords:
    numbers = check.numbers
    what = name_of_set(check.about)
    found = f"{numbers['share']:.0%} of {numbers['count']:,} {what} are correct before the edit"
    if check.holds is None:
        found += ", and there are no other images to compare them with"
    if check.holds is False:
        found += f", and up to {numbers['most']:.0%} of other images"
    remedy = "Are the labels right? If they are, pass the images without labels; the current predictions are then used."
    return CheckWords(f"the labels of the {what} are plausible", f"{found}.", remedy)


def _coverage(check: Check, audience: str) -> CheckWords:
    numbers = check.numbers
    found = f"Clean images show {numbers['shown']} of {numbers['classes']} classes"
    missing = _list(numbers["missing"], MOST_CLASSES_NAMED, " and ")
    if missing:
        found += f", and none of {missing}, so a cost there is not seen"
    remedy = f"Add clean images of {missing}{_in(audience, 'clean')}." if missing else ""
    return CheckWords("clean images cover the classes", f"{found}.", remedy)


def _looked_at(check: Check, audience: str) -> CheckWords:
    found = "No person has looked at the photos with the mark."
    if check.holds:
        found = "A person says that the outlined photos show the mark."
    remedy = "Look at the outlined photos: does each show the mark?"
    option = "masks_checked=True" if audience == PYTHON else "--masks-checked"
    remedy += f" If so, audit again with {option}; if not, mark it in a photo on the desk."
    return CheckWords("the photos with the mark were checked", found, remedy)


def _confirmed(check: Check, audience: str) -> CheckWords:
    numbers = check.numbers
    name = numbers["class"]
    if check.holds is None:
        found = (
            f"Too few photos to test the mark: {numbers['sources']} other photos of {name} show it "
            f"({numbers['fewest_sources']} needed), and it was pasted into {numbers['hosts']} photos of different "
            f"scenes ({numbers['fewest_hosts']} needed)."
        )
    else:
        found = (
            f"From {numbers['sources']} other photos, the mark turns {numbers['share']:.0%} of {numbers['hosts']} "
            f"photos into {name}, and {numbers['shuffled_share']:.0%} with its blocks shuffled (p {numbers['p']:.2g})."
        )
    remedy = (
        f"Add photos of {name} that show the mark, or pick another window: its colors and textures alone may carry the "
        "class."
    )
    return CheckWords("the mark carries its class on new photos", found, remedy)


# --- the selection ----------------------------------------------------------------------------------------------------


def _objective(check: Check, audience: str) -> CheckWords:
    numbers = check.numbers
    found = (
        f"The objective of the selection is {numbers['after']:.2f} with the edit, and {numbers['before']:.2f} without "
        "it."
    )
    remedy = f"No edit removes the mark. {ANOTHER_PAIR}"
    return CheckWords("the edit makes predictions more alike with and without the mark", found, remedy)


def _one_edit(check: Check, audience: str) -> CheckWords:
    found = "The edit was selected again after the same labels had judged another one."
    return CheckWords("the labels judge one edit", found, "Measure it on other labeled images.")


# --- helps ------------------------------------------------------------------------------------------------------------


def describe_counts(numbers: Mapping[str, int], images: str) -> str:
    """Say how many images an edit corrects and breaks.

    Args:
        numbers: how many it corrects and breaks, of how many errors and correct ones, see `checks.counts_of`.
        images: what to call them.
    """
    text = f"corrects {numbers['corrected']:,} of {numbers['errors']:,} misclassified"
    if numbers["correct"]:
        text += f" and breaks {numbers['broken']:,} of {numbers['correct']:,} correct"
    return f"{text} {images}"


def _marked(numbers: Mapping[str, str]) -> str:
    """Name the images with the mark that are counted, images or scenes."""
    return f"{numbers['unit']} with the mark"


def _gain(check: Check, audience: str) -> CheckWords:
    title = "it corrects more than it breaks"
    more = f"Add labeled images of other classes with the mark, right and wrong{_in(audience, 'concept')}."
    numbers = check.numbers
    if not numbers:
        found = "What it corrects is not known: no labeled images of other classes with the mark were given."
        return CheckWords(title, found, more)
    found = f"It {describe_counts(numbers, _marked(numbers))}"
    if numbers["errors"]:
        found += f", net {numbers['share']:.0%} [{numbers['low']:.0%}, {numbers['high']:.0%}] of the errors"
    found += f" (p {numbers['p']:.2g})"
    if check.holds or numbers["corrected"] <= numbers["broken"]:
        return CheckWords(title, f"{found}.", "" if check.holds else ANOTHER_PAIR)
    found += ", which may be chance."
    if numbers["needed"] <= MOST_ASKED:
        more += f" About {numbers['needed']:,} {numbers['unit']} in all would tell."
    return CheckWords(title, found, more)


def _breakable(check: Check, audience: str) -> CheckWords:
    numbers = check.numbers
    found = f"Of {numbers['total']:,} images with the mark, {numbers['correct']:,} are correct before the edit"
    if not numbers["is_sample"]:
        found = "The images with the mark were chosen because they fail, so what the edit breaks is not seen"
    elif check.holds is False:
        found += f", too few to see what it breaks ({numbers['fewest']} needed)"
    remedy = (
        f"Add images with the mark that are correct, at least {numbers['fewest']}: best is a sample of all, right and "
        f"wrong{_in(audience, 'concept')}."
    )
    return CheckWords("some images with the mark are correct before the edit", f"{found}.", remedy)


def _random(check: Check, audience: str) -> CheckWords:
    title = "it corrects more than random directions"
    numbers = check.numbers
    if not numbers:
        return CheckWords(title, "Random directions were not measured.")
    found = (
        f"Random directions correct {numbers['mean']:.1f} net (the mean of {numbers['draws']} draws), and the edit "
        f"{numbers['net']}."
    )
    return CheckWords(title, found, ANOTHER_PAIR)


# --- costs ------------------------------------------------------------------------------------------------------------


def _cost(check: Check, cost: Cost, what: str, more: str = "") -> str:
    """Say what an edit costs on a set: how many are correct before and after, the limit, and what follows."""
    unit = " scenes" if cost.images > cost.total else ""
    text = f"{what}: {cost.before:,} → {cost.after:,} of {cost.total:,}{unit} correct"
    if check.holds is None:
        text += f" ({cost.needed:,} needed to judge)" if cost.needed else " (too few to judge)"
    else:
        text += f" (limit: {cost.allowed:,} fewer)"
    if check.holds is False:
        text += ", too many lost" if cost.is_certain else ", perhaps too many lost"
    return f"{text}{more}."


def _accuracy(check: Check, audience: str) -> CheckWords:
    title = "accuracy on clean images is kept"
    if check.cost is None:
        found = "The cost on clean images is not known: none were given."
        return CheckWords(title, found, f"Add labeled clean images{_in(audience, 'clean')}.")
    more = f"; the edit changes {check.numbers['changed']:,} of {check.cost.total:,} predictions"
    found = _cost(check, check.cost, "Clean images", more)
    return CheckWords(title, found, _more_of(check, audience, "clean images", "clean"))


def _more_of(check: Check, audience: str, what: str, name: str) -> str:
    """Ask for more images of a set, if there are too few to tell."""
    if check.holds is not None or check.cost is None or not check.cost.needed:
        return ""
    return f"Add {what} until {check.cost.needed:,} measure{_in(audience, name)}."


def _retained(check: Check, audience: str) -> CheckWords:
    what = name_of_set(check.about)
    title = f"predictions on the {what} are kept"
    if check.cost is None:
        if check.at_best == USE:
            found = "The cost on retained images is not known: none were given."
            remedy = f"Add images that rely on the mark legitimately{_in(audience, 'retain')}."
            return CheckWords(title, found, remedy)
        found = f"The cost on the {what} is not known: none of them is correct before the edit."
        return CheckWords(title, found, "Are their labels right?")
    found = _cost(check, check.cost, f"{what[:1].upper()}{what[1:]}")
    return CheckWords(title, found, _more_of(check, audience, f"{what} that are correct", "retain"))


def _own_class(check: Check, audience: str) -> CheckWords:
    numbers = check.numbers
    name = _of_class(check)
    title = f"{name}, the mark's class, is kept"
    more = f"Add labeled images of {name} with the mark{_in(audience, 'concept')}"
    if check.cost is None:
        found = f"The cost on {name}, the mark's class, is not known: no labeled image of it with the mark was given."
        return CheckWords(title, found, f"{more}, at least {numbers['enough']}.")
    without = ""
    if "without_total" in numbers:
        without = f"; without the mark, {numbers['without_correct']:,} of {numbers['without_total']:,} are"
    found = _cost(check, check.cost, f"Images of {name} with the mark", without)
    if check.cost.needed:
        more += f", until {check.cost.needed:,} measure"
    if numbers["needs_clean"]:
        more += f", and as many clean images of it{_in(audience, 'clean')}"
    return CheckWords(title, found, f"{more}.")


def _own_hosts(check: Check, audience: str) -> CheckWords:
    title = "ordinary images of the mark's class keep their predictions with the mark"
    numbers = check.numbers
    if not numbers:
        return CheckWords(title)
    found = (
        f"Ordinary images of {_of_class(check)} with the mark pasted: {numbers['alike_before']:,} → "
        f"{numbers['alike']:,} of {numbers['total']:,} are predicted as without it."
    )
    return CheckWords(title, found)


# --- instead ----------------------------------------------------------------------------------------------------------


def _finetuning(check: Check, audience: str) -> CheckWords:
    title = "fine-tuning does not correct significantly more"
    numbers = check.numbers
    if check.holds is None:
        if numbers["is_made"]:
            found = "Fine-tuning cannot be compared: too few labeled images of other classes with the mark were given."
            return CheckWords(title, found)
        remedy = "Pass finetuning=True to compare it." if audience == PYTHON else ""
        return CheckWords(title, "Fine-tuning was not compared.", remedy)
    edit, other = numbers["edit"], numbers["finetuning"]
    found = f"Fine-tuning {describe_counts(other, _marked(other))}"
    of_edit = f"the edit corrects {edit['corrected']:,} and breaks {edit['broken']:,}"
    if "changed" in other:
        found += f", and changes {other['changed']:,} of {other['clean']:,} predictions on clean images"
        of_edit += f", and changes {edit['changed']:,}"
    judgment = f"which corrects more cannot be told (p {numbers['p']:.2g})"
    if numbers["is_significant"]:
        judgment = f"{'fine-tuning' if numbers['more'] > 0 else 'the edit'} corrects more (p {numbers['p']:.2g})"
    if not numbers["is_within_limits"]:
        judgment += ", but fine-tuning exceeds a limit"
    remedy = "Use fix.finetuned.edit, the fine-tuned network." if audience == PYTHON else "Use the fine-tuned network."
    return CheckWords(title, f"{found}; {of_edit}: {judgment}.", remedy)


_WORDS: Mapping[Kind, Callable[[Check, str], CheckWords]] = {
    Kind.LOOKED_AT: _looked_at,
    Kind.CONFIRMED: _confirmed,
    Kind.ORIGINAL: _original,
    Kind.CHANGED: _changed,
    Kind.MASK_COVERS_CHANGE: _mask_covers_change,
    Kind.MISTAKES: _mistakes,
    Kind.LABELS: _labels,
    Kind.COVERAGE: _coverage,
    Kind.OBJECTIVE: _objective,
    Kind.ONE_EDIT: _one_edit,
    Kind.GAIN: _gain,
    Kind.BREAKABLE: _breakable,
    Kind.RANDOM: _random,
    Kind.ACCURACY: _accuracy,
    Kind.RETAINED: _retained,
    Kind.OWN_CLASS: _own_class,
    Kind.OWN_HOSTS: _own_hosts,
    Kind.FINETUNING: _finetuning,
}
