"""A scenario on several networks: finished networks are kept in a store, and predictions on the same photos are pooled.

A row is what a method did on a network: its effort, and of each split which images were misclassified before and after.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import torch

from _lib.command import parser
from _lib.methods import LOCALITY, locality
from _lib.results import Figure, Results, decode, name_of
from edittools._identity import identity
from edittools.metrics import Comparison, corrected_interval, mcnemar
from edittools.models.downloads import available, registry
from edittools.models.load import load_classifier
from edittools.probing.effects import signed_rank
from edittools.probing.jobs import run

Rows = Sequence[Mapping[str, Any]]
Lines = dict[str, dict[str, Any]]  # by method: what was selected, and its figures
Figures = Callable[[Rows], dict[str, Any]]
"""The figures of one method, of its rows on one network or on several."""


def network_parser(description: str, networks: Sequence[str]) -> argparse.ArgumentParser:
    """Make a command line with `--networks`."""
    arguments = parser(description)
    arguments.add_argument("--networks", nargs="+", default=networks, metavar="NAME", help="names of classifiers")
    return arguments


def photos(prefix: str = "") -> list[tuple[str, str]]:
    """Name the photos that are here, with their hashes: with fewer of them it is another sweep."""
    return [(name, registry()[name][0]) for name in available(prefix)]


def sweep(work: Callable[[str], Rows], networks: Sequence[str], store: Path | None, about: str) -> list[dict[str, Any]]:
    """Do each network after the other; `about` says what the rows depend on except for the network's weights."""
    rows: list[dict[str, Any]] = []
    for name in networks:
        weights = identity(load_classifier(name))
        rows += run(work, {name: name}, store, about=f"{about} {weights}").to_dict("records")
        print(f"{name} is finished", flush=True)
    return rows


def add_networks(
    results: Results, rows: Rows, figures: Figures, names: Mapping[str, Figure]
) -> tuple[Lines, dict[str, Lines]]:
    """Add what each method did on each network, and on several of them together, to the results.

    Args:
        results: the results.
        rows: one row per network and method.
        figures: the figures of a JSON line, of the rows of one method.
        names: what these are in the long table.

    Returns:
        The figures by method, on all networks together; and by network.
    """
    pooled, by_network = together(rows, figures)
    groups = {"all": pooled, **by_network} if len(by_network) > 1 else by_network
    for network, methods in groups.items():
        for method, found in methods.items():
            results.add_figures(found, names, network, name_of(method))
            if network != "all":
                layers = {"layers": found["layers"][0]} if "layers" in found else {}
                results.add_selected(found["chosen"], network, name_of(method), **layers)
    for row in rows:
        for split, (before, after, *places) in sets_of(row).items():
            size = len(row["clean_test"][0]) if places else 0
            where = {"network": row["job"], "method": name_of(row["method"]), "split": split}
            results.add_outcomes(before, after, *places, size=size, **where)
    return pooled, by_network


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


def together(rows: Rows, figures: Figures) -> tuple[Lines, dict[str, Lines]]:
    """Give each method's figures on all networks, and by network; where it has no layer, a method changes nothing.

    `p_against_edit` tests whether a photo is misclassified as often with the edit as with the method: Wilcoxon's test
    over photos, on one network McNemar's.
    """
    names, methods = (list(dict.fromkeys(row[key] for row in rows)) for key in ("job", "method"))
    known = {(row["job"], row["method"]): row for row in rows}

    def line(method: str, among: Sequence[str]) -> dict[str, Any]:
        edits = [known[name, "editing"] for name in among]
        ones = [known.get((edit["job"], method)) or unchanged(edit) for edit in edits]
        apart = sum(
            np.subtract(edit["target_test"][1], one["target_test"][1]) for edit, one in zip(edits, ones, strict=True)
        )
        counts = [int((apart > 0).sum()), int((apart < 0).sum())]
        effort = {name: sum(one[name] for one in ones) for name in ("trials", "choice_seconds")}
        effort |= figures(ones) | {"p_against_edit": signed_rank(apart) if len(among) > 1 else mcnemar(*counts)}
        return {"chosen": "; ".join(one["chosen"] for one in ones)} | effort

    by_network = {name: {m: line(m, [name]) for m in methods if (name, m) in known} for name in names}
    return {method: line(method, names) for method in methods}, by_network


def unchanged(row: Mapping[str, Any]) -> dict[str, Any]:
    """Make of a method's row that of one which changes nothing."""
    sets = {split: [wrong[0], *wrong[::2]] for split, wrong in sets_of(row).items()}
    return {"job": row["job"], "chosen": "no such layer", "trials": 0, "choice_seconds": 0.0} | sets


def edit_first(found: Lines) -> dict[str, Any]:
    """Put the figures of the edit on top, those of the other methods by name below them."""
    return found["editing"] | {name: figure for name, figure in found.items() if name != "editing"}


def comparisons(rows: Rows, split: str) -> list[Comparison]:
    """Compare what was misclassified of a split before and after, row by row, in those rows that have it."""
    return [Comparison(*torch.tensor(row[split][:2]).bool()) for row in rows if isinstance(row.get(split), list)]


def reported(rows: Rows) -> dict[str, Any]:
    """Give the standard editing metrics of a method: its mean `success`, and its `locality` on all networks."""
    known = pd.Series([row.get("success") for row in rows], dtype=float).dropna()
    local = locality({name: comparisons(rows, name) for name in LOCALITY})
    return {"success": float(known.mean()) if len(known) else None} | local


def pooled_row(found: Sequence[Comparison]) -> dict[str, float]:
    """Tabulate what edits of several classifiers did to the same images: counts are sums over classifiers.

    Images are the sample, not classifiers × images: `low` and `high` bound the errors corrected (eq. 2), p tests by
    Wilcoxon's test whether an image is misclassified by as many classifiers before as after, the accuracy change is the
    classifiers' mean.

    Raises:
        ValueError: if the numbers of images differ.
    """
    if len({len(one.before) for one in found}) != 1:
        raise ValueError(f"{[len(one.before) for one in found]} images: expected the same ones for each classifier")
    before, after = (np.array([getattr(one, when).numpy() for one in found]) for when in ("before", "after"))
    wrong, fixed, lost = before.sum(axis=0), (before & ~after).sum(axis=0), (~before & after).sum(axis=0)
    gain, either = fixed - lost, (0.0, 0.0) if before.all() else _independent(lost, lost + wrong)
    low, high = corrected_interval(*_independent(fixed, wrong), *either)
    change = np.append(gain / len(found), [1, -1])
    spread = NormalDist().inv_cdf(0.975) * change.std() / sqrt(len(change))
    return {
        "images": len(wrong),
        "errors before": int(wrong.sum()),
        "errors after": int(wrong.sum() - gain.sum()),
        "corrected": int(fixed.sum()),
        "broken": int(lost.sum()),
        "errors corrected": float(gain.sum() / wrong.sum()) if wrong.any() else float("nan"),
        "low": low,
        "high": high,
        "p": signed_rank(gain),
        "accuracy change (points)": 100 * float(gain.mean()) / len(found),
        "accuracy low": 100 * max(change.mean() - spread, -1.0),
        "accuracy high": 100 * min(change.mean() + spread, 1.0),
    }


def _independent(counts: np.ndarray, totals: np.ndarray) -> tuple[float, float]:
    """Count the independent predictions, and of how many, that say as much as `(N,)` counts of totals an image."""
    share, most = counts.sum() / max(totals.sum(), 1), np.square(totals).sum() / max(totals.sum(), 1)
    alone = share * (1 - share) * totals.sum()
    spread = np.square(counts - share * totals).sum() / alone if alone else most
    size = float(totals.sum() / max(min(max(spread, 1.0), most), 1.0))
    return float(share) * size, size
