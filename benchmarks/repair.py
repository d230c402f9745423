"""Claim: `repair` finds, in one call, an edit that helps on new images, at costs within the limits.

Tier mini: MiniWorld's `mini_vgg`, one car whose road is replaced by snow, 150 scenes of vehicles and animals on snow,
600 clean scenes, 150 scenes of classes that live on snow. The test scenes, which no call saw, are evaluated once at the
end.

Tier lite: the networks and shortcuts of learned_shortcut.py. Each call gets one exemplar, 200 photos with the shortcut,
right and wrong, up to 60 of which are of its own class, 600 clean photos, and 200 photos of the shortcut's class
without it. All are photos of the split "train" on which the networks were neither trained nor tuned.

Figures are those of cross-validation: each image counts with an edit that was selected without it. Each call runs in a
process of its own, which measures its CPU seconds and its memory. With `--finetuning`, the whole network is fine-tuned
on the same images for comparison.
"""

import argparse
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from math import isnan
from typing import Any, NamedTuple

import torch
from _lib.command import parser, run
from _lib.memory import measured
from _lib.results import Results, name_of
from _lib.shortcuts import NAMES, NETWORKS, concept_photos
from learned_shortcut import QUICK, SEED_OF_SELECTION, SHORTCUTS, Sizes, shared_photos
from tqdm.auto import tqdm

from edittools.classifiers import Classifier
from edittools.course.scenarios.imagenette import in_memory
from edittools.course.scenarios.snow import snow_scenario
from edittools.cut import cut_all
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import Comparison
from edittools.models import load_classifier
from edittools.probing import jobs
from edittools.selection import Assessment, CachedActivations, repair

MINI = "mini_vgg"
"""The network of tier mini."""

SNOW = "snow"
"""The name of the case of tier mini."""

CONCEPT, CLEAN, RETAIN = 150, 600, 150
"""The numbers of scenes in tier mini."""

SHOWN, OWN_CLASS, CLEAN_PHOTOS = 140, 60, 60
"""The numbers of photos of other classes and of its own class with a shortcut, and of clean photos of each class."""


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
        concept: images with the concept, right and wrong.
        clean: clean images.
        retain: retained images.
        layers: the layers to search; None for all.
        test: test images, if there are any.
    """

    classifier: Classifier
    exemplar: Exemplar
    concept: LabelledImages
    clean: LabelledImages
    retain: LabelledImages
    layers: tuple[str, ...] | None = None
    test: LabelledImages | None = None


def snow_case(quick: bool) -> Case:
    """Make the case of tier mini."""
    scenario = snow_scenario("mini", MINI, progress=tqdm)
    splits = scenario.splits
    return Case(
        scenario.classifier,
        scenario.exemplars[scenario.default["exemplar"]],
        splits.target.subset(range(CONCEPT)),
        splits.clean.subset(range(CLEAN)),
        splits.retain.subset(range(RETAIN)),
        (scenario.default["layer"],) if quick else None,
        splits.target_test,
    )


def shortcut_case(job: Job, quick: bool, draw: int) -> Case:
    """Make the case of a shortcut."""
    classifier = load_classifier(job.network)
    sizes = QUICK if quick else replace(Sizes(), clean=CLEAN_PHOTOS)
    photos = shared_photos(classifier, job.rule, sizes)
    shown = 12 if quick else SHOWN
    of_goal = photos.goal.subset(range(min(OWN_CLASS, len(photos.goal))))
    others = in_memory(photos.others.subset(range(draw * shown, (draw + 1) * shown)))
    pixels = torch.cat([others.images, of_goal.images])
    pool = LabelledImages(pixels, torch.cat([others.labels, of_goal.labels]), others.classes)
    seed = SEED_OF_SELECTION + draw * len(pool)
    goal = classifier.index(job.rule)
    exemplar, concept = concept_photos(classifier, pool, SHORTCUTS[job.rule], goal, seed)
    return Case(classifier, exemplar, concept, photos.clean, photos.retain)


def repaired(quick: bool, finetuning: bool, draw: int, job: Job) -> dict[str, Any]:
    """Repair a network; return the table, the verdict, and what the call cost."""
    with jobs.one_thread():
        case = snow_case(quick) if job.rule == SNOW else shortcut_case(job, quick, draw)
        images = (case.concept, case.clean, case.retain)
        settings = {"layers": case.layers, "finetuning": finetuning, "progress": None}
        fix, cost = measured(partial(repair, case.classifier, case.exemplar, *images, **settings))
    print(f"{job.network}, {job.rule}:\n{fix.summary()}\n", flush=True)
    return {
        "verdict": fix.verdict.word,
        "lines": fix.verdict.lines,
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


def in_own_process(options: argparse.Namespace, job: Job) -> dict[str, Any]:
    """Repair a network in a new process, since memory is measured."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(repaired, options.quick, options.finetuning, options.draw - 1, job).result()


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
    results.add_selected(found["settings"], **selected, verdict=found["verdict"], **found["lines"])


def experiment(options: argparse.Namespace) -> Results:
    """Repair once per network and rule."""
    todo = [Job(MINI, SNOW)]
    if options.tier == "lite":
        todo = [Job(network, goal) for network in NETWORKS for goal in SHORTCUTS]
    results = Results("repair", "MiniWorld" if options.tier == "mini" else "photos")
    if options.networks:
        todo = [job for job in todo if job.network in options.networks]
    for job in todo[:1] if options.quick else todo:
        add_call(results, in_own_process(options, job), job)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--tier", choices=("mini", "lite"), default="mini")
    arguments.add_argument("--networks", nargs="+", help="only these networks")
    arguments.add_argument("--draw", type=int, default=1, help="number of the draw of photos")
    arguments.add_argument("--finetuning", action="store_true", help="also fine-tune the whole network")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
