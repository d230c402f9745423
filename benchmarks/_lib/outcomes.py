"""The outcome of every image: as text in a file, and compared between methods."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

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


def p_of_methods(outcomes: pd.DataFrame) -> pd.Series:
    """Test stored outcomes of the test images again, each method against the edit, see `p_between`.

    Returns:
        The p-values by network and method, by their names; "all" stands for all networks together. It is empty if
        there is no test set, or no edit.
    """
    if not len(outcomes) or not ((outcomes.method == "edit") & (outcomes.split == "target_test")).any():
        return pd.Series(dtype=float)
    known = {(row["job"], row["method"]): row for row in rows_of(outcomes)}
    networks = list(dict.fromkeys(outcomes.network))
    groups = {"all": networks} if len(networks) > 1 else {}
    groups |= {name: [name] for name in networks}
    p_values = {}
    for group, members in groups.items():
        edits = [known[name, "edit"] for name in members]
        for method in dict.fromkeys(outcomes.method):
            of_method = [known.get((name, method)) or unchanged(known[name, "edit"]) for name in members]
            p_values[group, method] = p_between(edits, of_method)
    return pd.Series(p_values)
