"""Claim: `repair` finds, in one call, an edit that helps on new images, at costs within the limits.

MiniWorld's `mini_vgg`, one car whose road is replaced by snow, 150 scenes of vehicles and animals on snow, 600 clean
scenes, 150 scenes of classes that live on snow. The test scenes, which no call saw, are evaluated once at the end. On
photos, `learned_shortcut.py` calls `repair`.

Figures are those of cross-validation: each image counts with an edit that was selected without it. The call runs in a
process of its own, which measures its CPU seconds and its memory. With `--finetuning`, the whole network is fine-tuned
on the same images for comparison.
"""

import argparse
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import isnan
from typing import Any

import torch
from _lib.command import parser, run
from _lib.memory import measured
from _lib.results import SELECTED, Results
from tqdm.auto import tqdm

from edittools.classifiers import Classifier
from edittools.course.scenarios.snow import snow_scenario
from edittools.cut import cut_all
from edittools.images import LabelledImages
from edittools.metrics import Comparison
from edittools.probing import jobs
from edittools.selection import Assessment, CachedActivations, repair

NETWORK = "mini_vgg"
"""The network."""

SNOW = "snow"
"""The name of the rule."""

CONCEPT, CLEAN, RETAIN = 150, 600, 150
"""The numbers of scenes."""


def repaired(quick: bool, finetuning: bool) -> dict[str, Any]:
    """Repair the network; return the table, the verdict, and what the call cost."""
    with jobs.one_thread():
        scenario = snow_scenario("mini", NETWORK, progress=tqdm)
        splits = scenario.splits
        exemplar = scenario.exemplars[scenario.default["exemplar"]]
        concept = splits.target.subset(range(CONCEPT))
        clean = splits.clean.subset(range(CLEAN))
        retain = splits.retain.subset(range(RETAIN))
        layers = (scenario.default["layer"],) if quick else None
        settings = {"layers": layers, "finetuning": finetuning, "progress": None}
        call = partial(repair, scenario.classifier, exemplar, concept, clean, retain, **settings)
        fix, cost = measured(call)
        test = outcomes_of(scenario.classifier, splits.target_test, fix)
    print(f"{NETWORK}, {SNOW}:\n{fix.summary()}\n", flush=True)
    return {
        "verdict": fix.verdict.word,
        "lines": fix.verdict.lines,
        "settings": str(fix.selection),
        "table": fix.table.to_dict(orient="index"),
        "test": test,
        **cost,
    }


def outcomes_of(classifier: Classifier, test: LabelledImages, fix: Assessment) -> list[list[int]]:
    """Tell which test images are misclassified before and after the edit."""
    cuts = cut_all(classifier, [layer for layer in fix.search.cuts if layer in fix.edit.layers])
    found = CachedActivations(cuts, test).compare(fix.edit)
    return [found.before.int().tolist(), found.after.int().tolist()]


def in_own_process(options: argparse.Namespace) -> dict[str, Any]:
    """Repair the network in a new process, since memory is measured."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(repaired, options.quick, options.finetuning).result()


def add_method(results: Results, row: Mapping[str, Any], **where: str) -> None:
    """Add a row of the table of a repair; what was not measured is left out."""
    results.add("errors before", row["errors"], split="held out", **where)
    results.add("corrected", row["corrected"], split="held out", **where)
    results.add("broken", row["broken"], split="held out", **where)
    share = None if isnan(row["low"]) else [row["low"], row["high"]]
    results.add("errors corrected", row["share"], split="held out", interval=share, n=row["errors"], **where)
    if not isnan(row["accuracy change"]):
        accuracy = [row["accuracy low"], row["accuracy high"]]
        results.add("accuracy change", row["accuracy change"], split="clean", interval=accuracy, **where)
        results.add("broken", row["retained broken"], split="retain", n=row["retained"], **where)
    if not isnan(row["candidates"]):
        results.add("candidates", row["candidates"], **where)


def add_test(results: Results, before: Sequence[int], after: Sequence[int], **where: str) -> None:
    """Add what the edit does to the test images."""
    test = Comparison(torch.tensor(before).bool(), torch.tensor(after).bool())
    errors = int(test.before.sum())
    interval = test.corrected_interval()
    results.add("errors before", errors, split="target_test", **where)
    results.add("corrected", test.corrected, split="target_test", **where)
    results.add("broken", test.broken, split="target_test", **where)
    results.add("errors corrected", test.errors_corrected, split="target_test", interval=interval, n=errors, **where)
    results.add_outcomes(before, after, network=where["network"], method=where["method"], split="target_test")


def add_call(results: Results, found: Mapping[str, Any]) -> None:
    """Add what a call of `repair` finds and costs."""
    where = {"network": NETWORK, "condition": SNOW}
    for method, row in found["table"].items():
        add_method(results, row, method=SELECTED if method == "selected" else method, **where)
    selected = {"method": SELECTED, **where}
    add_test(results, *found["test"], **selected)
    results.add("CPU seconds", found["seconds"], **selected)
    results.add("peak memory added", found["memory"], **selected)
    results.add_selected(found["settings"], **selected, verdict=found["verdict"], **found["lines"])


def experiment(options: argparse.Namespace) -> Results:
    """Repair once."""
    results = Results("repair", "MiniWorld")
    add_call(results, in_own_process(options))
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--finetuning", action="store_true", help="also fine-tune the whole network")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
