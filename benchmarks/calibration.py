"""Claim: a verdict is seldom wrong about the edit that it judges.

Verdicts: each case is a repair of a small network whose edit is then measured on thousands of new images, so that it is
known whether the edit is good (`quality_of`). Ordinary images without labels select the edit, and labeled ones judge
it. The exemplar shows the reason for the mistakes or noise, and the images with the concept are a sample or failing
images only, which may be passed as a sample. In some kinds of cases, labeled images are frames, a tenth of the labels
are wrong, or clean images do not show all classes (`_lib/cases_of_repair.py`). For edits that truly cost 0.2 points of
accuracy, the probability is computed with which the rule of the verdict accepts the cost on 400 clean images.

`--nulls`: repairs of networks of MiniWorld whose exemplar shows noise, while the images with the concept fail because
of snow; and audits of squares, of which every window is tested (`_lib/nulls.py`). The folders hold copies, frames,
borders, black images, or one class only. None of the repairs should get "use", and no window should be confirmed that
turns no more new images into its class than it does with its blocks shuffled.

`--warnings`: what is said, before any edit, of pairs and ordinary photos of networks that learned shortcuts, as they
should be and with faults (`_lib/faults.py`).
"""

import argparse
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
from _lib.cases_of_repair import KINDS, Case, Kind, case_of, truth
from _lib.command import add_store, code_digest, parser, run
from _lib.faults import EVERY, FAULTS, answer_to
from _lib.jobs import run as run_jobs
from _lib.nulls import (
    AUDITED_FOLDERS,
    FOLDERS,
    NETWORKS,
    SAMPLES,
    null_folder,
    null_repair,
    truth_of_repair,
    windows_of_audit,
)
from _lib.results import Results
from _lib.shortcuts import NAMES, user_case
from _lib.shortcuts import NETWORKS as NETWORKS_OF_PHOTOS
from _lib.striped import STRIPED, plain_network
from scipy.stats import binom
from tqdm.auto import tqdm

import edittools
from edittools.edits import Edit
from edittools.selection import Assessment, repair
from edittools.selection.checks import accuracy_limit
from edittools_course.scenarios.shortcuts import SHORTCUTS

LAYERS = ("3", "6")
CASES = 30
"""The number of cases of each kind, unless another one is asked for."""

COST, CLEAN_IMAGES = 0.2, 400
"""The true cost of an edit in points of accuracy, and the number of clean images on which the verdict judges it."""

CORRECTED = (0.0, 0.2, 0.5, 1.0)
"""The percentages of clean images that such an edit corrects; it breaks as many, and those that it costs."""

NULL_LAYERS = {"mini_vgg": ("features.8", "features.13"), "mini_vgg_balanced": ("features.8", "features.13")}
NULL_LAYERS["mini_resnet"] = ("layer3.0.conv1", "layer4.0.conv1")
"""The layers that a null repair of each network may edit."""

SEED_OF_NULLS = 70_000_000
"""The first seed of nulls, beyond that of the run."""

NULL_AUDITS = 6
"""The number of null audits of each kind of folder."""

DRAWS = 3
"""The number of pairs of each network and mark whose warnings are counted."""


# --- verdicts ---


def assess(case: Case) -> Assessment:
    """Repair."""
    return repair(
        case.classifier,
        case.exemplar,
        case.images,
        concept=case.concept,
        clean=case.clean,
        retain={"alike": case.retain},
        source=case.source,
        layers=LAYERS,
        progress=None,
    )


def true_figures(case: Case, edit: Edit) -> dict[str, float]:
    """Measure what an edit does to new images.

    Returns:
        The net share of the errors that it corrects, the change of accuracy on clean images in points, the percent of
        the retained images that it breaks, and by how many points fewer images of the stripe's class are correct with
        the stripe than without it.
    """
    comparisons = truth(case, edit.edited(case.classifier))
    clean = comparisons["clean"]
    retained = comparisons["retained"]
    figures = {
        "errors corrected": comparisons["concept"].errors_corrected,
        "accuracy change": clean.accuracy_change,
        "retained, broken (%)": 100 * retained.broken / int((~retained.before).sum()),
    }
    if "own class" in comparisons:
        is_own = case.new_images()["clean"].labels == STRIPED
        correct_without = 1 - float(clean.before[is_own].float().mean())
        correct = 1 - float(comparisons["own class"].after.float().mean())
        figures["own class, lost"] = 100 * (correct_without - correct)
    return figures


def add_case(results: Results, kind: Kind, number: int, seed: int) -> bool:
    """Add the verdict and the truth of a case; return False if it cannot be made."""
    case = case_of(kind, number, seed)
    if case is None:
        return False
    assessment = assess(case)
    where = {"condition": kind.name, "split": str(seed)}
    for metric, value in true_figures(case, assessment.edit).items():
        results.add(metric, value, **where)
    concept = assessment.effects["concept"]
    results.add("changed held-out predictions", int((concept.before != concept.after).sum()), **where)
    results.add(assessment.verdict.word, 1, method="verdict", **where)
    return True


def rows_of_case(job: tuple[int, int, int]) -> list[dict[str, Any]]:
    """Make a case of a kind, and return the verdict and the truth as rows.

    Args:
        job: the number of the kind in `KINDS`, the number of the case, and the first seed of the run. The first seeds
            for which a case can be made are used.
    """
    index, number, first = job
    results = Results("calibration", "squares")
    seed = first + 100_000 * (index + 1) + 1_000 * number
    while not add_case(results, KINDS[index], number, seed):
        seed += 10
    return results.rows


def add_verdicts(results: Results, cases: int, first: int, store: Path | None = None) -> None:
    """Add the cases of all kinds, each with seeds of its own; a folder keeps those that are finished."""
    jobs = {}
    for number in range(cases):
        jobs |= {f"{kind.name}, {number}": (index, number, first) for index, kind in enumerate(KINDS)}
    code = code_digest(Path(edittools.__file__).parent, Path(__file__).parent)
    table = run_jobs(rows_of_case, jobs, store, progress=tqdm, about=f"calibration {first} {code}")
    rows = table.drop(columns="job").sort_values(["condition", "split"], kind="stable").astype(object)
    results.rows += rows.where(rows.notna(), None).to_dict("records")


def probability_accepted(images: int, corrected: float, broken: float) -> float:
    """Compute the probability that the verdict accepts the cost on accuracy, exactly by the binomial distribution.

    Each image is corrected with one probability and broken with another, independently of the others.

    Args:
        images: the number of clean images.
        corrected: the probability that an image is corrected.
        broken: the probability that one is broken.
    """
    counts = np.arange(images + 1)
    probability_of_broken = binom.pmf(counts, images, broken)
    fewest_corrected = counts - floor(accuracy_limit(images) + 1e-9)
    enough_corrected = binom.sf(fewest_corrected - 1, images - counts, corrected / (1 - broken))
    return float(probability_of_broken @ enough_corrected)


def add_power(results: Results) -> None:
    """Add how often edits that truly cost `COST` points are accepted on `CLEAN_IMAGES` clean images."""
    for corrected in CORRECTED:
        broken = corrected + COST
        results.add(
            "probability that the cost is accepted",
            probability_accepted(CLEAN_IMAGES, corrected / 100, broken / 100),
            method="verdict",
            split="clean",
            condition=f"breaks {broken:.1f}% and corrects {corrected:.1f}% of clean images",
            n=CLEAN_IMAGES,
        )


# --- nulls ---


def rows_of_null_repair(job: tuple[str, int, str, int]) -> list[dict[str, Any]]:
    """Repair with an exemplar of noise; return the verdict, and what the edit does to new images.

    Args:
        job: the network, the number of images with the concept, the kind of folder, and the seed.
    """
    network, sample, folder, seed = job
    case = null_repair(network, sample, folder, seed)
    fix = repair(
        case.classifier,
        case.exemplar,
        case.images,
        concept=case.concept,
        clean=case.clean,
        layers=NULL_LAYERS[network],
        progress=None,
    )
    found = truth_of_repair(network, fix.edit.edited(case.classifier))
    results = Results("calibration", "MiniWorld")
    where = {"network": network, "condition": folder, "split": f"sample of {sample}"}
    results.add(fix.verdict.word, 1, method="verdict", **where)
    results.add("errors corrected", found["concept"].errors_corrected, **where)
    results.add("accuracy change", found["clean"].accuracy_change, **where)
    return results.rows


def rows_of_null_audit(job: tuple[str, int]) -> list[dict[str, Any]]:
    """Audit squares, and count the windows that can be tested, and those that are confirmed.

    Args:
        job: the kind of folder, and the seed.
    """
    folder, seed = job
    classifier = plain_network()
    windows = windows_of_audit(classifier, null_folder(folder, seed), seed)
    results = Results("calibration", "squares")
    where = {"condition": folder, "split": str(seed)}
    tested = [window for window in windows if window.is_enough]
    for name, chosen in {"with an effect": True, "without an effect": False}.items():
        of_kind = [window for window in tested if (window.gain > 0) == chosen]
        confirmed = sum(window.is_confirmed for window in of_kind)
        results.add("windows confirmed", confirmed, method=name, n=len(of_kind), **where)
    results.add("windows shown", len(windows), **where)
    return results.rows


def add_nulls(results: Results, repairs: int | None, audits: int, first: int, store: Path | None = None) -> None:
    """Add repairs and audits without anything to find.

    Args:
        results: the results.
        repairs: the number of repairs of all that are possible; None for all.
        audits: the number of audits of each kind of folder.
        first: the first seed.
        store: folder that keeps those that are finished.
    """
    cases = [(sample, folder) for folder in FOLDERS for sample in SAMPLES]
    jobs = {}
    for place, (sample, folder) in enumerate(cases):  # the networks of a case share its images
        for network in NETWORKS:
            jobs[f"{network}, {sample}, {folder}"] = (network, sample, folder, first + 10_000 * (place + 1))
    code = code_digest(Path(edittools.__file__).parent, Path(__file__).parent)
    about = f"nulls {first} {code}"
    tables = [run_jobs(rows_of_null_repair, dict(list(jobs.items())[:repairs]), store, progress=tqdm, about=about)]
    of_audits = {}
    for place, folder in enumerate(AUDITED_FOLDERS):
        of_audits |= {f"{folder}, {number}": (folder, first + 1_000 * place + 10 * number) for number in range(audits)}
    tables.append(run_jobs(rows_of_null_audit, of_audits, store, progress=tqdm, about=about))
    for table in tables:
        rows = table.drop(columns="job").astype(object)
        results.rows += rows.where(rows.notna(), None).to_dict("records")


# --- warnings ---


def rows_of_warnings(job: tuple[str, str, int]) -> list[dict[str, Any]]:
    """Return what is said of a pair and its ordinary images, with each fault, as rows.

    Args:
        job: the network, the class of the mark, and the number of the draw.
    """
    network, goal, draw = job
    case = user_case(network, goal, draw)
    case = case._replace(images=case.images[::EVERY])
    results = Results("calibration", "photos")
    for fault, spoil in FAULTS.items():
        said = answer_to(spoil(case, SHORTCUTS[goal]))
        results.add(said, 1, network=network, condition=fault, split=f"{NAMES[goal]}, draw {draw}", n=len(case.images))
    return results.rows


def add_warnings(results: Results, draws: int, store: Path | None = None) -> None:
    """Add the warnings of all networks and marks, draw after draw."""
    jobs = {}
    for draw in range(1, draws + 1):
        for network in NETWORKS_OF_PHOTOS:
            jobs |= {f"{network}, {goal}, {draw}": (network, goal, draw) for goal in NAMES}
    code = code_digest(Path(edittools.__file__).parent, Path(__file__).parent)
    table = run_jobs(rows_of_warnings, jobs, store, progress=tqdm, about=f"warnings {code}")
    rows = table.drop(columns="job").astype(object)
    results.rows += rows.where(rows.notna(), None).to_dict("records")


def experiment(options: argparse.Namespace) -> Results:
    """Measure the verdicts of all cases, or what is said where there is nothing to find, or something is wrong."""
    results = Results("calibration", "squares", notes={"seed": options.seed})
    if options.warnings:
        results = Results("calibration", "photos")
        add_warnings(results, 1 if options.quick else options.draws, options.store)
    elif options.nulls:
        results = Results("calibration", "MiniWorld and squares", notes={"seed": options.seed})
        repairs, audits = (1, 1) if options.quick else (None, NULL_AUDITS)
        add_nulls(results, repairs, audits, options.seed + SEED_OF_NULLS, options.store)
    else:
        add_power(results)
        add_verdicts(results, 1 if options.quick else options.cases, options.seed, options.store)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    add_store(arguments)
    arguments.add_argument("--nulls", action="store_true", help="judge repairs and audits without anything to find")
    arguments.add_argument("--warnings", action="store_true", help="count what is warned of on photos")
    arguments.add_argument("--draws", type=int, default=DRAWS, help="the number of pairs of each network and mark")
    arguments.add_argument("--cases", type=int, default=CASES, help="the number of cases of each kind")
    arguments.add_argument("--seed", type=int, default=0, help="the first seed of the images")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
