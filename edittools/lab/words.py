"""What an edit at the desk did, in plain sentences, and what the desk cannot tell."""

from collections.abc import Sequence

from torch import Tensor

from edittools.choosing.choice import BUDGET, most_broken
from edittools.choosing.verdict import TAKEN
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.lab.bench import Bench, Counts
from edittools.metrics import Comparison, mcnemar

MOVED = (
    "the classifier's weights were changed, moved or cast since its pictures were read: put them back, "
    "or press “Try again” to begin anew with them as they are (edits that are not saved are gone then)"
)


def allowed(images: int) -> float:
    """The points of accuracy that an edit may cost on so many everyday images; one image is always allowed."""
    return max(BUDGET, 100 / max(images, 1))


def within(counts: Counts) -> bool | None:
    """Whether an edit keeps the budget and the bound on kept images; None where there is neither."""
    held = []
    if counts.everyday is not None:
        held.append(counts.everyday.accuracy_change >= -allowed(len(counts.everyday.before)) - 1e-9)
    if counts.keep is not None:
        held.append(counts.keep.broken <= most_broken(len(counts.keep.before)))
    return all(held) if held else None


def about(read: Tensor, classes: Sequence[str], label: int | None = None) -> str:
    """What is read in a picture, from its probabilities `(classes,)`: "sled 93 %, not car"."""
    chance, found = read.max(dim=0)
    said = f"{classes[int(found)]} {100 * float(chance):.0f} %"
    return said if label is None or int(found) == label else f"{said}, not {classes[label]}"


def pair_words(read: Tensor, classes: Sequence[str], label: int) -> str:
    """Whether x and x', probabilities `(2, classes)`, show the rule: x read rightly, x' not."""
    first, second = (int(i) for i in read.argmax(dim=1))
    if first == label != second:
        return "x is read rightly and x' is not: the change is what misleads."
    if first == label == second:
        return "Both are read rightly: the change hardly misleads. Try another picture, material or a larger mask."
    if first != label == second:
        return "x is misread and x' is not: swap them, or choose another change."
    return f"Both are misread: the mask does not cover all that misleads, or x does not look like {classes[label]} yet."


def verdict(counts: Counts, edit: Edit | None, firing: float | None = None, covered: float = 0.0) -> str:
    """The sentences about an edit: did it take, what does it correct, what does it cost, where does it fire."""
    said = [] if edit is None else _took(edit)
    said += [_corrected(counts.images), _cost(counts)]
    if firing is not None:
        said.append(f"{firing:.0%} of its firing in x' is inside the mask, which covers {covered:.0%} of the picture.")
    return "\n".join(said)


def _took(edit: Edit) -> list[str]:
    """The edit as it was made, whatever its strength at the desk; nothing where that is not known."""
    left = None if edit.record is None else edit.record.share_left
    if left is None:
        return []
    how = "It took" if left <= TAKEN else "It took only in part"
    return [f"{how}: {1 - left:.0%} of the loss at the exemplar is gone at strength 1."]


def _corrected(found: Comparison) -> str:
    wrong = int(found.before.sum())
    if not wrong:
        return f"Of {len(found.before)} images none is misread without it; {found.broken} broke."
    chance = mcnemar(found.corrected, found.broken)
    few = " So few cannot tell more than chance." if chance > 0.05 else ""
    return f"Of {wrong} misread images {found.corrected} are corrected, {found.broken} of the others broke.{few}"


def _cost(counts: Counts) -> str:
    parts = []
    if counts.everyday is not None:
        count = len(counts.everyday.before)
        parts.append(
            f"{counts.everyday.accuracy_change:+.2f} points on {count:,} everyday images "
            f"({allowed(count):.2g} may be lost)"
        )
    if counts.keep is not None:
        count = len(counts.keep.before)
        parts.append(f"{counts.keep.broken} of {count:,} kept images broke ({most_broken(count) or 'none'} may)")
    missing = [name for name in ("everyday", "keep") if getattr(counts, name) is None]
    said = f"Cost: {'; '.join(parts)}." if parts else ""
    holds = within(counts)
    if holds is not None:
        said += " It keeps the bounds." if holds else " That is too much."
    if missing:
        what = {
            "everyday": "what it costs elsewhere",
            "keep": "what it does to images that rightly rely on the concept",
        }
        said += f" Not told: {' and '.join(what[name] for name in missing)}; give {' and '.join(missing)} images."
    return said.strip()


def inside(firing: Tensor, exemplar: Exemplar) -> tuple[float, float]:
    """The share of a firing map `(H, W)` that is inside the mask, and the share of the picture that the mask covers."""
    mask = exemplar.mask.to(firing)
    return float((firing * mask).sum() / firing.sum().clamp_min(1e-12)), float(mask.mean())


def notes(bench: Bench) -> list[str]:
    """What a desk works with, and what it cannot tell, a sentence each."""
    said = [f"{bench.classifier}: {int(bench.wrong.sum())} of {len(bench.images)} images are misread."]
    if not bench.wrong.any():
        said.append("Say what a picture shows (“it shows”) where that is not what is read.")
    if bench.all_everyday is None:
        said.append("No everyday images: the edit spares the images here instead; what it costs elsewhere is not told.")
    if bench.keep is None:
        said.append("No images to keep: what it does to those that rightly rely on the concept is not told.")
    return said + bench.notes


def of(error: BaseException, most: int = 600) -> str:
    """What went wrong, in the error's own words; where those are not meant for people, with its kind."""
    said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    ours = isinstance(error, ValueError | KeyError | IndexError | FileNotFoundError) and said
    said = said if ours else f"{type(error).__name__}{': ' if said else ''}{said}"
    return said if len(said) <= most else f"{said[:most]} …"
