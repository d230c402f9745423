"""The outcome of every image: as text in a file, and compared between methods."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from edittools.metrics import mcnemar
from edittools.probing.effects import signed_rank

Rows = Sequence[Mapping[str, Any]]
"""Rows of what a method did on a network: of each split, which images were misclassified before and after."""

EDIT = "edit"
"""The name of the method that others are tested against."""

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


def decode(outcomes: str) -> list[list[int]]:
    """Read `before`, `after` and `places` of `encode`."""
    places = [place for place, character in enumerate(outcomes) if character != ABSENT]
    before = [int(outcomes[place] in WRONG + CORRECTED) for place in places]
    after = [int(outcomes[place] in WRONG + BROKEN) for place in places]
    return [before, after, places]


def sets_of(row: Mapping[str, Any]) -> dict[str, list]:
    """Return the splits of a row: what was misclassified before and after, and maybe the images' places."""
    return {name: value for name, value in row.items() if isinstance(value, list)}


def rows_of(outcomes: pd.DataFrame) -> list[dict[str, Any]]:
    """Make rows of stored outcomes again, by the name of each method."""
    rows = []
    for (network, method), part in outcomes.groupby(["network", "method"], sort=False):
        sets = {split: decode(text) for split, text in zip(part.split, part.outcomes, strict=True)}
        rows.append({"job": network, "method": method, **sets})
    return rows


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


def p_against_edit(outcomes: pd.DataFrame, measured: Collection[tuple[str, str]]) -> Callable[[str, str], float]:
    """Return a function that tests a method against the edit again, from stored outcomes of the test images.

    Args:
        outcomes: the stored outcomes.
        measured: the networks and the methods that were measured there, by their names. Elsewhere, a method had no
            layer and changed nothing.

    Returns:
        A function of the network, or "all" for all of them together, and of the method. It returns NaN if outcomes of
        one of the two are not stored.
    """
    stored = {(row["job"], row["method"]): row for row in rows_of(outcomes)} if len(outcomes) else {}
    networks = list(dict.fromkeys(network for network, _ in measured if network != "all"))

    def p_value(network: str, method: str) -> float:
        members = networks if network == "all" else [network]
        needed = [(name, one) for name in members for one in (EDIT, method) if (name, one) in measured]
        if any("target_test" not in stored.get(key, ()) for key in needed):
            return float("nan")
        edits = [stored[name, EDIT] for name in members]
        others = [stored.get((name, method)) or unchanged(stored[name, EDIT]) for name in members]
        return p_between(edits, others)

    return p_value
