"""Claim: hosts whose marks vary select an edit that does better on marks that vary, and depends less on the seed.

By default, each host shows the mark pixel for pixel as the exemplar does. With `vary=True`, its light varies from host
to host, and so do its size and its tilt, unless it spans the image. Three networks, each with one exemplar of a mark:
a tag, on two of them; a line of text, on one of these; and a word on a sticker, which a small CLIP reads. To save time,
edits of EfficientNet-Lite0 are tried in three layers only, at which earlier edits of its tag were selected. For each of
six seeds of the division of the ordinary images, an edit is selected with default hosts, and one with varied hosts.

Both are measured on marks as in training, and on marks that vary more than hosts do (`_lib.varied_cases`): in size, in
tilt, and in light; half of them are blurred, and half partly covered, as no host's mark is. All photos and scenes are
those of the development, so the result is a direction. No image of a test is read.

The criterion, written down before any of these edits was selected. Varied hosts are recommended if

1. for each of the four cases, and both for marks as in training and for marks that vary, the mean over the six seeds of
   the net share of errors corrected, varied minus default hosts, has a lower 95% bound above −3 points, by Student's t
   over the six paired differences;
2. the standard deviation over seeds of this share, the mean over the cases, is smaller with varied hosts, for both
   kinds of marks.

A second interval is over photos: other images, and the same exemplar and seeds. What edits cost is reported: accuracy
without the mark, predictions changed, the mark's class with the mark, and the CPU seconds of a selection.

`--store FOLDER` is required: it keeps what was selected, and an interrupted run continues where it was.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _lib import effects, jobs, label_free, varied_cases
from _lib.command import add_store, code_digest, one_thread, parser, run
from _lib.effects import CORRECTED, FEWEST_FOR_INTERVAL, TARGET, metrics_of, metrics_without_edit, student_interval
from _lib.label_free import Selected, save_edits
from _lib.pairs import gain_over_photos
from _lib.results import BY_HOSTS, BY_VARIED_HOSTS, NO_EDIT, Results
from _lib.varied_cases import LAYERS, PAIRS, VARIED, Pair, case_of
from tqdm.auto import tqdm

from edittools.classifiers import fingerprint
from edittools.edits import Edit
from edittools.models import load_classifier
from edittools.selection.select import select

SEEDS = 6
"""The number of seeds of the division."""

LARGEST_LOSS = 0.03
"""The limit of the criterion."""

HOSTS = {BY_HOSTS: False, BY_VARIED_HOSTS: True}
"""Whether marks vary on hosts, by method."""


# --- selection and evaluation -----------------------------------------------------------------------------------------


def measured(folder: Path, quick: bool, seeds: int, store: Path, pair: Pair) -> list[dict[str, Any]]:
    """Select with each seed, with default and with varied hosts, and evaluate all edits; one row per edit."""
    with one_thread():
        case = case_of(*pair, quick)
        named = {f"{pair.name}, seed {seed}": seed for seed in range(seeds)}
        layers = LAYERS.get(pair.network)
        about = f"{fingerprint(case.classifier)} {quick} {layers} {code_digest(*label_free.CODE)}"
        rows = jobs.run(partial(_selected, folder, case, pair), named, store, about=about)
        edits = {name: Edit.load(folder / name, case.classifier.model) for name in rows.edit.unique()}
        found = effects.evaluated(case.classifier, edits, case.sets)
    return [{**row, "sets": found[row["edit"]]} for row in rows.drop(columns="job").to_dict("records")]


def _selected(folder: Path, case: varied_cases.Case, pair: Pair, seed: int) -> list[dict[str, Any]]:
    """Select an edit with default and with varied hosts."""
    edits = []
    for method, vary in HOSTS.items():
        started = time.process_time()
        layers = LAYERS.get(pair.network)
        selection = select(case.classifier, case.exemplar, case.images, layers=layers, seed=seed, vary=vary)
        seconds = time.process_time() - started
        settings = str(selection.candidate)
        edits.append(Selected(method, selection.edit, settings, len(selection.scores), seconds, f"seed {seed}"))
    return save_edits(folder, {"network": pair.network, "case": pair.mark}, edits)


# --- results ----------------------------------------------------------------------------------------------------------


def add_spread(results: Results, rows: pd.DataFrame) -> None:
    """Add each metric of each case and method: the mean, the least, the largest, and the deviation over seeds."""
    for (network, mark, method), of_method in rows.groupby(["network", "case", "method"], sort=False):
        where = {"network": network, "method": method}
        values = pd.DataFrame([metrics_of(sets) for sets in of_method.sets])
        for split, metric in values:
            column = values[split, metric]
            statistics = {"mean": column.mean(), "least": column.min(), "largest": column.max(), "sd": column.std()}
            for name, value in statistics.items():
                results.add(metric, value, split=split, condition=f"{mark}, {name}", n=len(column), **where)
        seconds = of_method.seconds.mean()
        results.add("CPU seconds", seconds, condition=f"{mark}, mean", n=len(of_method), **where)
    for (network, mark), of_pair in rows.groupby(["network", "case"], sort=False):
        for (split, metric), value in metrics_without_edit(of_pair.sets.iloc[0]).items():
            where = {"split": split, "condition": f"{mark}, mean", "network": network, "method": NO_EDIT}
            results.add(metric, value, **where)


def decide(results: Results, rows: pd.DataFrame) -> None:
    """Compare with the criterion, and note the result."""
    are_kept = []
    deviations = []
    for split in (TARGET, VARIED):
        net = rows.assign(net=[metrics_of(sets)[split, CORRECTED] for sets in rows.sets])
        for (network, mark), of_pair in net.groupby(["network", "case"], sort=False):
            by_seed = of_pair.pivot_table(index="run", columns="method", values="net")
            gains = (by_seed[BY_VARIED_HOSTS] - by_seed[BY_HOSTS]).to_list()
            bounds = student_interval(gains) or ()
            where = {"network": network, "method": BY_VARIED_HOSTS, "split": split}
            condition = f"{mark}, minus {BY_HOSTS}"
            results.add(
                "over seeds", float(np.mean(gains)), interval=bounds, condition=condition, n=len(gains), **where
            )
            sets = {method: [one[split] for one in part.sets] for method, part in of_pair.groupby("method")}
            over_photos = gain_over_photos(sets[BY_HOSTS], sets[BY_VARIED_HOSTS])
            interval = over_photos.interval
            count = len(over_photos.influence)
            results.add("over photos", over_photos.value, interval=interval, condition=condition, n=count, **where)
            are_kept.append(len(gains) >= FEWEST_FOR_INTERVAL and bounds[0] > -LARGEST_LOSS)
        spread = net.groupby(["method", "network", "case"]).net.std().groupby("method").mean()
        deviations.append(bool(spread[BY_VARIED_HOSTS] < spread[BY_HOSTS]))
        for method, value in spread.items():
            results.add("deviation over seeds", value, network="all", method=method, split=split)
    results.notes["no loss above 3 points"] = f"{sum(are_kept)} of {len(are_kept)}"
    results.notes["smaller deviation over seeds"] = f"{sum(deviations)} of {len(deviations)}"
    results.notes["criterion"] = "met" if all(are_kept) and all(deviations) else "not met"
    print(f"{results.notes}\n")


# --- the run ----------------------------------------------------------------------------------------------------------


def experiment(options: argparse.Namespace) -> Results:
    """Select and evaluate for each pair after the other."""
    folder = options.store / "edits"
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [pair for pair in PAIRS if pair.name in options.pairs]
    todo = pairs[:1] if options.quick else pairs
    seeds = 2 if options.quick else SEEDS
    code = code_digest(*label_free.CODE, Path(effects.__file__), Path(varied_cases.__file__))
    weights = " ".join(fingerprint(load_classifier(name)) for name in dict.fromkeys(pair.network for pair in PAIRS))
    work = partial(measured, folder, options.quick, seeds, options.store)
    about = f"varied marks {options.quick} {seeds} {LAYERS} {code} {weights}"
    rows = jobs.run(work, {pair.name: pair for pair in todo}, options.store, progress=tqdm, about=about)
    results = Results("varied_marks", "photos", seconds=round(float(rows.seconds.sum()), 1))
    add_spread(results, rows)
    decide(results, rows)
    effects.add_outcomes(results, rows.assign(condition=""))
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    names = [pair.name for pair in PAIRS]
    arguments.add_argument("--pairs", nargs="+", default=names, choices=names, metavar="PAIR", help="which to measure")
    add_store(arguments)
    options = arguments.parse_args()
    if options.store is None:
        arguments.error("pass --store FOLDER, where the selected edits are kept")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
