"""Claim: `repair` finds, in one call, an edit that helps on new images, at costs within the limits.

MiniWorld's `mini_vgg`, and one car whose road is replaced by snow. 600 ordinary scenes without labels select the edit,
and labeled scenes measure it: 150 of vehicles on snow, 600 clean ones, and 150 of classes that live on snow. The test
scenes, which no call saw, are evaluated once at the end.

The call runs in a process of its own, which measures its CPU seconds and its memory. With `--finetuning`, the whole
network is fine-tuned without labels, on the same images, for comparison.
"""

import argparse
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import isnan
from typing import Any

import pandas as pd
import torch
from _lib.command import parser, run
from _lib.memory import measured
from _lib.results import SELECTED, Results
from tqdm.auto import tqdm

from edittools.course.scenarios.snow import snow_scenario
from edittools.metrics import Comparison, misclassified, predict
from edittools.probing import jobs
from edittools.selection import Assessment, Verdict, repair

NETWORK = "mini_vgg"
"""The network."""

SNOW = "snow"
"""The name of the rule."""

CONCEPT, CLEAN, RETAIN = 150, 600, 150
"""The numbers of labeled scenes."""


def repaired(quick: bool, finetuning: bool) -> dict[str, Any]:
    """Repair the network; return the table, the verdict, and what the call cost."""
    with jobs.one_thread():
        scenario = snow_scenario("mini", NETWORK, progress=tqdm)
        splits = scenario.splits
        exemplar = scenario.exemplars[scenario.default["exemplar"]]
        call = partial(
            repair,
            scenario.classifier,
            exemplar,
            splits.images,
            concept=splits.target.subset(range(CONCEPT)),
            clean=splits.clean.subset(range(CLEAN)),
            retain=splits.retain.subset(range(RETAIN)),
            layers=(scenario.default["layer"],) if quick else None,
            where=scenario.where,
            finetuning=finetuning,
            progress=None,
        )
        (fix, table, verdict), cost = measured(lambda: assessed(call()))
        test = splits.target_test
        networks = (scenario.classifier, fix.edit.edited(scenario.classifier))
        outcomes = [misclassified(predict(network, test), test.labels).int().tolist() for network in networks]
    print(f"{NETWORK}, {SNOW}:\n{fix.summary()}\n", flush=True)
    return {
        "verdict": verdict.word,
        "lines": verdict.lines,
        "settings": str(fix.selection.candidate),
        "candidates": len(fix.selection.scores),
        "table": table.to_dict(orient="index"),
        "test": outcomes,
        **cost,
    }


def assessed(fix: Assessment) -> tuple[Assessment, pd.DataFrame, Verdict]:
    """Measure what is measured when it is asked for, so that it counts among what a call costs."""
    return fix, fix.table, fix.verdict


def in_own_process(options: argparse.Namespace) -> dict[str, Any]:
    """Repair the network in a new process, since memory is measured."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(repaired, options.quick, options.finetuning).result()


def add_method(results: Results, row: Mapping[str, Any], **where: str) -> None:
    """Add a row of the table of a repair; what was not measured is left out.

    "held out" are the images with the concept, which select nothing.
    """
    results.add("errors before", row["errors"], split="held out", **where)
    results.add("corrected", row["corrected"], split="held out", **where)
    results.add("broken", row["broken"], split="held out", **where)
    share = None if isnan(row["low"]) else [row["low"], row["high"]]
    results.add("errors corrected", row["share"], split="held out", interval=share, n=row["errors"], **where)
    if not isnan(row["accuracy change"]):
        accuracy = [row["accuracy low"], row["accuracy high"]]
        results.add("accuracy change", row["accuracy change"], split="clean", interval=accuracy, **where)
        results.add("broken", row["retained broken"], split="retain", n=row["retained"], **where)


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
    results.add("candidates", found["candidates"], **selected)
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
