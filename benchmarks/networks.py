"""A story on several networks: finished ones are kept in a store, and readings of the same photos are pooled.

A row is what a method did on a network: its effort, and of each set which photos were misread before and after it.
"""

import argparse
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import torch
from columns import by_method
from common import call, parser, write_line
from methods import LOCALITY, locality

from edittools._identity import identity
from edittools.metrics import Comparison, corrected_interval, mcnemar
from edittools.models.downloads import available, registry
from edittools.models.load import load_classifier
from edittools.probing.effects import signed_rank
from edittools.probing.jobs import run

Rows = Sequence[Mapping[str, Any]]
Lines = dict[str, dict[str, Any]]  # by method: what was chosen, and its figures
Figures = Callable[[Rows], dict[str, Any]]
"""The figures of one method, of its rows on one network or on several."""


def options(description: str, networks: Sequence[str]) -> argparse.ArgumentParser:
    """Make a command line with `--networks` and `--store`."""
    arguments = parser(description)
    arguments.add_argument("--networks", nargs="+", default=networks, metavar="NAME", help="classifiers of the zoo")
    arguments.add_argument("--store", type=Path, help="folder for finished networks")
    return arguments


def photos(prefix: str = "") -> list[tuple[str, str]]:
    """Name the photos that are here, with their hashes: with fewer of them it is another sweep."""
    return [(name, registry()[name][0]) for name in available(prefix)]


def sweep(
    work: Callable[[str], Rows], figures: Figures, columns: Mapping[str, str], given: argparse.Namespace, about: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Do each network after the other, printing the table of those that are done; give the rows and the figures.

    `about` says what the rows depend on beside the network's weights.
    """
    rows: list[dict[str, Any]] = []
    for name in given.networks:
        weights = identity(load_classifier(name))
        rows += run(work, {name: name}, given.store, about=f"{about} {weights}").to_dict("records")
        pooled, networks = together(rows, figures)
        print(f"\n{', '.join(networks)}\n\n{by_method(columns, pooled)}", flush=True)
    seconds = sum(row["network_seconds"] for row in rows if row["method"] == "editing")
    return rows, edit_first(pooled) | {"networks": networks, "seconds": seconds}


def rerun(work: Callable[..., Rows], figures: Figures, given: argparse.Namespace, about: str) -> None:
    """Run only `--methods` again and merge them into the stored results of `--output`, after each network.

    A method's figures on all networks together are replaced once all of them have been run. `work` is called with a
    network, the methods, its stored results, of which the edit is made again for the p-values, and whether it is among
    `--again`, so that the stored selections are evaluated without a search.
    """
    rows: list[dict[str, Any]] = []
    for name in given.networks:
        known = json.loads(given.output.read_text())["networks"][name]
        job = partial(work, methods=given.methods, stored=known, again=name in given.again)
        about_it = f"{about} {given.methods} {known['editing']['chosen']} {identity(load_classifier(name))}"
        if name in given.again:
            about_it += f" {[known[method]['chosen'] for method in given.methods]}"
        rows += run(job, {name: name}, given.store, about=about_it).to_dict("records")
        again = {
            "methods": list(given.methods),
            "networks": [name for name in dict.fromkeys(row["job"] for row in rows) if name not in given.again],
            "seconds": round(sum(row["network_seconds"] for row in rows if row["method"] == "editing"), 1),
            "date": str(date.today()),
            "call": call(),
        }
        stored = json.loads(given.output.read_text())
        write_line(given.output, json.dumps(merged(stored, rows, figures, given.methods) | {"rerun": again}))
        print(f"{name} merged into {given.output}", flush=True)


def merged(stored: Mapping[str, Any], rows: Rows, figures: Figures, methods: Sequence[str]) -> dict[str, Any]:
    """Replace the figures of some methods in stored results by those of new rows.

    Raises:
        ValueError: if the edit that was made again does not correct and break as many images as the stored one.
    """
    pooled, networks = together(rows, figures)
    result = copy.deepcopy(dict(stored))
    for name, found in networks.items():
        for count in ("corrected", "broken"):
            if found["editing"][count] != stored["networks"][name]["editing"][count]:
                raise ValueError(
                    f"The edit of {name} has {count}={found['editing'][count]}, but "
                    f"{stored['networks'][name]['editing'][count]} are stored; run all methods again"
                )
        result["networks"][name] |= {method: found[method] for method in methods if method in found}
    if set(networks) == set(stored["networks"]):
        result |= {method: pooled[method] for method in methods}
    return result


def together(rows: Rows, figures: Figures) -> tuple[Lines, dict[str, Lines]]:
    """Give each method's figures on all networks, and by network; where it has no layer, a method changes nothing.

    `p_against_edit` is that a photo is misread with the edit as often as with the method: Wilcoxon's over photos, on
    one network McNemar's.
    """
    names, methods = (list(dict.fromkeys(row[key] for row in rows)) for key in ("job", "method"))
    known = {(row["job"], row["method"]): row for row in rows}

    def line(method: str, among: Sequence[str]) -> dict[str, Any]:
        edits = [known[name, "editing"] for name in among]
        ones = [known.get((edit["job"], method)) or unchanged(edit) for edit in edits]
        apart = sum(np.subtract(edit["test"][1], one["test"][1]) for edit, one in zip(edits, ones, strict=True))
        counts = [int((apart > 0).sum()), int((apart < 0).sum())]
        effort = {name: sum(one[name] for one in ones) for name in ("trials", "choice_seconds")}
        effort |= figures(ones) | {"p_against_edit": signed_rank(apart) if len(among) > 1 else mcnemar(*counts)}
        return {"chosen": "; ".join(one["chosen"] for one in ones)} | effort

    by_network = {name: {m: line(m, [name]) for m in methods if (name, m) in known} for name in names}
    return {method: line(method, names) for method in methods}, by_network


def unchanged(row: Mapping[str, Any]) -> dict[str, Any]:
    """Make of a method's row that of one which changes nothing."""
    sets = {part: [wrong[0], *wrong[::2]] for part, wrong in row.items() if isinstance(wrong, list)}
    return {"job": row["job"], "chosen": "no such layer", "trials": 0, "choice_seconds": 0.0} | sets


def edit_first(found: Lines) -> dict[str, Any]:
    """Put the figures of the edit on top, those of the other methods by name below them."""
    return found["editing"] | {name: figure for name, figure in found.items() if name != "editing"}


def comparisons(rows: Rows, part: str) -> list[Comparison]:
    """Compare what was misread of a set, row by row, in those rows that have it."""
    return [Comparison(*torch.tensor(row[part][:2]).bool()) for row in rows if isinstance(row.get(part), list)]


def reported(rows: Rows) -> dict[str, Any]:
    """Give what others report of a method: its mean `success`, and its `locality` on all networks together."""
    known = pd.Series([row.get("success") for row in rows], dtype=float).dropna()
    local = locality({name: comparisons(rows, name) for name in LOCALITY})
    return {"success": float(known.mean()) if len(known) else None} | local


def pooled_row(found: Sequence[Comparison]) -> dict[str, float]:
    """Tabulate what edits of several classifiers did to the same images: counts are sums over classifiers.

    Images are the sample, not classifiers × images: `low` and `high` bound the errors corrected (eq. 2), p is
    Wilcoxon's that an image is misread by as many classifiers before as after, the accuracy change is the classifiers'
    mean. Raises `ValueError` where the numbers of images differ.
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
    """Count the independent readings, and of how many, that say as much as `(N,)` counts of totals an image."""
    share, most = counts.sum() / max(totals.sum(), 1), np.square(totals).sum() / max(totals.sum(), 1)
    alone = share * (1 - share) * totals.sum()
    spread = np.square(counts - share * totals).sum() / alone if alone else most
    size = float(totals.sum() / max(min(max(spread, 1.0), most), 1.0))
    return float(share) * size, size
