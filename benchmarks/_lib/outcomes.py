"""The outcome of every image: as text in a file, and compared between methods."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edittools.metrics import mcnemar
from edittools.probing.effects import signed_rank

Rows = Sequence[Mapping[str, Any]]
"""Rows of what a method did on a network: of each split, which images were misclassified before and after."""

RIGHT, WRONG, CORRECTED, BROKEN, ABSENT = ".x+-_"
"""An image that is classified correctly before and after, never, only after, only before; and one not in the split."""


def encode(before: Sequence[int], after: Sequence[int], places: Sequence[int] | None = None, size: int = 0) -> str:
    """Write one character per image: what the classifier made of it before and after.

    Args:
        before: 1 for each image that was misclassified, else 0.
        after: the same after the edit.
        places: the number of each image in a larger set, by default one after the other.
        size: the number of images in that set; those that are not in the split are `ABSENT`.
    """
    kinds = {(0, 0): RIGHT, (1, 1): WRONG, (1, 0): CORRECTED, (0, 1): BROKEN}
    characters = [ABSENT] * (size or len(before))
    for place, *pair in zip(range(len(before)) if places is None else places, before, after, strict=True):
        characters[place] = kinds[int(pair[0]), int(pair[1])]
    return "".join(characters)


def sets_of(row: Mapping[str, Any]) -> dict[str, list]:
    """Return the splits of a row: what was misclassified before and after, and maybe the images' places."""
    return {name: value for name, value in row.items() if isinstance(value, list)}


def unchanged(row: Mapping[str, Any]) -> dict[str, Any]:
    """Make of a method's row that of one which changes nothing."""
    sets = {split: [wrong[0], *wrong[::2]] for split, wrong in sets_of(row).items()}
    return {"job": row["job"], "settings": "no such layer", "candidates": 0, "seconds": 0.0} | sets


def p_between(edits: Rows, others: Rows) -> float:
    """Test whether each image is misclassified by as many networks with the edit as with another method."""
    pairs = zip(edits, others, strict=True)
    apart = sum(np.subtract(edit["target_test"][1], other["target_test"][1]) for edit, other in pairs)
    if len(edits) > 1:
        return signed_rank(apart)
    return mcnemar(int((apart > 0).sum()), int((apart < 0).sum()))
