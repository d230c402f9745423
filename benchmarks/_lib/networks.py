"""A scenario on several networks: finished networks are kept in a store, and predictions on the same photos are pooled.

A row is what a method did on a network: its effort, and of each split which images were misclassified before and after.
"""

import argparse
from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import torch

from _lib.command import parser
from _lib.methods import add_effort
from _lib.outcomes import Rows, p_between, sets_of, unchanged
from _lib.results import Results, name_of
from edittools.classifiers import fingerprint
from edittools.metrics import Comparison, corrected_interval
from edittools.models.downloads import available, registry
from edittools.models.load import load_classifier
from edittools.probing.effects import signed_rank
from edittools.probing.jobs import run

AddFigures = Callable[..., None]
"""Adds to the results the figures of one method, of its rows: `add_figures(results, rows, network=…, method=…)`."""


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
        weights = fingerprint(load_classifier(name))
        rows += run(work, {name: name}, store, about=f"{about} {weights}").to_dict("records")
        print(f"{name} is finished", flush=True)
    return rows


def add_networks(results: Results, rows: Rows, add_figures: AddFigures) -> None:
    """Add what each method did on each network, and on several of them together, to the results.

    Where a method has no layer, it changes nothing. `p against the edit` tests whether a photo is misclassified as
    often with the edit as with the method: Wilcoxon's test over photos, on one network McNemar's.

    Args:
        results: the results.
        rows: one row per network and method.
        add_figures: adds the figures of one method, of its rows on one network or on several.
    """
    networks = list(dict.fromkeys(row["job"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    known = {(row["job"], row["method"]): row for row in rows}
    groups = {"all": networks} if len(networks) > 1 else {}
    groups |= {name: [name] for name in networks}
    for group, members in groups.items():
        for method in methods:
            if group != "all" and (group, method) not in known:
                continue
            edits = [known[name, "editing"] for name in members]
            of_method = [known.get((name, method)) or unchanged(known[name, "editing"]) for name in members]
            where = {"network": group, "method": name_of(method)}
            add_figures(results, of_method, **where)
            add_effort(results, joint_effort(of_method), p_between(edits, of_method), **where)
    for row in rows:
        where = {"network": row["job"], "method": name_of(row["method"])}
        layers = {"layers": row["layer"]} if "layer" in row else {}
        results.add_selected(row["settings"], **where, **layers)
        for split, (before, after, *places) in sets_of(row).items():
            size = len(row["clean_test"][0]) if places else 0
            results.add_outcomes(before, after, *places, size=size, split=split, **where)


def joint_effort(rows: Rows) -> dict[str, Any]:
    """Return the effort of a method on all networks: sums, and the mean of its success."""
    measured = pd.Series([row.get("success") for row in rows], dtype=float).dropna()
    return {
        "settings": "; ".join(row["settings"] for row in rows),
        "candidates": sum(row["candidates"] for row in rows),
        "seconds": sum(row["seconds"] for row in rows),
        "success": float(measured.mean()) if len(measured) else None,
    }


def comparisons(rows: Rows, split: str) -> list[Comparison]:
    """Compare what was misclassified of a split before and after, row by row, in those rows that have it."""
    return [Comparison(*torch.tensor(row[split][:2]).bool()) for row in rows if isinstance(row.get(split), list)]


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
