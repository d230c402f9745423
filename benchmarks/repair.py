"""Claim: `repair` finds, in one call, an edit that corrects images that it was not selected on.

Tier mini: MiniWorld's `mini_vgg`, one car whose road is replaced by snow, 24 failing vehicles on snow, 600 clean
scenes, 150 scenes of classes that live on snow. The test scenes, which no call saw, are evaluated once at the end.

Tier lite: the networks and shortcuts of learned_shortcut.py. Each call gets one exemplar, 24 failing photos, clean
photos, and photos of the shortcut's class without it, as in the first draw there. All are photos of the split "train"
on which the networks were neither trained nor tuned.

Figures are those of cross-validation over the failing images. Each call runs in a process of its own, which measures
its CPU seconds and its memory.
"""

import argparse
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import torch
from _lib.command import parser, run
from _lib.memory import measured
from _lib.results import Results, name_of
from _lib.shortcuts import NAMES, NETWORKS
from learned_shortcut import QUICK, SHORTCUTS, Sizes, draws_of, shared_photos
from tqdm.auto import tqdm

from edittools.classifiers import Classifier
from edittools.course.scenarios.snow import snow_scenario
from edittools.cut import cut_all
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import Comparison, misclassified, predict
from edittools.models import load_classifier
from edittools.probing import jobs
from edittools.selection import Assessment, CachedActivations, repair

MINI = "mini_vgg"
"""The network of tier mini."""

SNOW = "snow"
"""The name of the case of tier mini."""

FAILING, CLEAN, RETAIN = 24, 600, 150
"""The numbers of scenes in tier mini."""


class Job(NamedTuple):
    """A call of `repair`.

    Attributes:
        network: the name of the network.
        rule: `SNOW`, or the class of a shortcut.
    """

    network: str
    rule: str


class Case(NamedTuple):
    """What a call gets, and the images that it does not see.

    Attributes:
        classifier: the network.
        exemplar: the exemplar.
        failing: images that are misclassified because of the rule.
        clean: clean images.
        retain: retained images.
        layers: the layers to search; None for all.
        test: test images, if there are any.
    """

    classifier: Classifier
    exemplar: Exemplar
    failing: LabelledImages
    clean: LabelledImages
    retain: LabelledImages
    layers: tuple[str, ...] | None = None
    test: LabelledImages | None = None


def snow_case(quick: bool) -> Case:
    """Make the case of tier mini."""
    scenario = snow_scenario("mini", MINI, progress=tqdm)
    splits = scenario.splits
    is_wrong = misclassified(predict(scenario.classifier, splits.target), splits.target.labels)
    return Case(
        scenario.classifier,
        scenario.exemplars[scenario.default["exemplar"]],
        splits.target.subset(is_wrong.nonzero()[:FAILING, 0]),
        splits.clean.subset(range(CLEAN)),
        splits.retain.subset(range(RETAIN)),
        (scenario.default["layer"],) if quick else None,
        splits.target_test,
    )


def shortcut_case(job: Job, quick: bool) -> Case:
    """Make the case of a shortcut."""
    classifier = load_classifier(job.network)
    sizes = QUICK if quick else Sizes()
    photos = shared_photos(classifier, job.rule, sizes)
    [exemplars, failing] = next(draws_of(classifier, job.rule, photos, sizes, range(1)))
    return Case(classifier, exemplars[0], failing, photos.clean, photos.retain)


def repaired(quick: bool, job: Job) -> dict[str, Any]:
    """Repair a network; return the table, the verdict, and what the call cost."""
    with jobs.one_thread():
        case = snow_case(quick) if job.rule == SNOW else shortcut_case(job, quick)
        images = (case.failing, case.clean, case.retain)
        work = partial(repair, case.classifier, case.exemplar, *images, layers=case.layers, progress=None)
        fix, cost = measured(work)
    print(f"{job.network}, {job.rule}:\n{fix.summary()}\n", flush=True)
    return {
        "verdict": fix.verdict.word,
        "advice": fix.verdict.advice,
        "settings": str(fix.selection),
        "table": fix.table.to_dict(orient="index"),
        "test": None if case.test is None else outcomes_of(case, fix),
        **cost,
    }


def outcomes_of(case: Case, fix: Assessment) -> list[list[int]]:
    """Tell which test images are misclassified before and after the edit."""
    cuts = cut_all(case.classifier, [layer for layer in fix.search.cuts if layer in fix.edit.layers])
    found = CachedActivations(cuts, case.test).compare(fix.edit)
    return [found.before.int().tolist(), found.after.int().tolist()]


def in_own_process(quick: bool, job: Job) -> dict[str, Any]:
    """Repair a network in a new process, since memory is measured."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(repaired, quick, job).result()


def add_method(results: Results, row: Mapping[str, Any], **where: str) -> None:
    """Add a row of the table of a repair."""
    share = [row["low"], row["high"]]
    accuracy = [row["accuracy low"], row["accuracy high"]]
    results.add("errors before", row["failing"], split="held out", **where)
    results.add("corrected", row["corrected"], split="held out", **where)
    results.add("broken", row["broken"], split="held out", **where)
    results.add("errors corrected", row["share"], split="held out", interval=share, n=row["failing"], **where)
    results.add("p", row["p"], split="held out", **where)
    results.add("accuracy change", row["accuracy change"], split="clean", interval=accuracy, **where)
    results.add("broken", row["retained broken"], split="retain", n=row["retained"], **where)
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


def add_call(results: Results, found: Mapping[str, Any], job: Job) -> None:
    """Add what a call of `repair` finds and costs."""
    where = {"network": job.network, "condition": NAMES.get(job.rule, job.rule)}
    for method, row in found["table"].items():
        add_method(results, row, method=name_of(method.replace(" ", "_")), **where)
    selected = {"method": name_of("selected"), **where}
    if found["test"] is not None:
        add_test(results, *found["test"], **selected)
    results.add("CPU seconds", found["seconds"], **selected)
    results.add("peak memory added", found["memory"], **selected)
    results.add_selected(found["settings"], **selected, verdict=found["verdict"], advice=found["advice"])


def experiment(options: argparse.Namespace) -> Results:
    """Repair once per network and rule."""
    todo = [Job(MINI, SNOW)]
    if options.tier == "lite":
        todo = [Job(network, goal) for network in NETWORKS for goal in SHORTCUTS]
    results = Results("repair", "MiniWorld" if options.tier == "mini" else "photos")
    for job in todo[:1] if options.quick else todo:
        add_call(results, in_own_process(options.quick, job), job)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--tier", choices=("mini", "lite"), default="mini")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
