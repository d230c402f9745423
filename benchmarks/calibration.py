"""Claim: an audit seldom finds a rule where there is none, and a verdict is seldom wrong about the edit that it judges.

Verdicts: each case is a repair of a small network whose edit is then measured on thousands of new images, so that it is
known whether the edit is good (`quality_of`). Ordinary images without labels select the edit, and labeled ones judge
it. The exemplar shows the reason for the mistakes or noise, and the images with the concept are a sample or failing
images only. In some kinds of cases, labeled images are frames, or clean images do not show all classes
(`_lib/cases_of_repair.py`). For edits that truly cost 0.2 points of accuracy, the probability is computed with which
the rule of the verdict accepts the cost on 400 clean images.

`--audits`: the two concepts of each audit are rectangles in the upper or the lower half, and a coin decides in each
image which of them is A and which is B. With the control "in place", the materials of A and B are cut from the images;
with "elsewhere", both are replaced by a background, and the control is the rectangle's mirror image in the other half.
What an audit finds is therefore chance: a rule of a class, or of all classes together. Each control may find a rule in
at most 5% of the audits (section 5). Rectangles anywhere show what happens if masks cover the object, the square, more
often than their controls do.

`--nulls`: repairs of networks of MiniWorld whose exemplar shows noise, while the images with the concept fail because
of snow; and audits of squares, of which every window is tested (`_lib/nulls.py`). The folders hold copies, frames,
borders, black images, or one class only. None of the repairs should get "use", and no window should be confirmed that
turns no more new images into its class than it does with its blocks shuffled.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _lib.cases_of_repair import KINDS, Case, Kind, case_of, truth
from _lib.command import add_store, code_digest, parser, run
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
from _lib.striped import SIZE, STRIPED, backgrounds, plain_network, squares
from scipy.stats import binom
from torch import Tensor
from torchvision.utils import save_image
from tqdm.auto import tqdm

import edittools
from edittools.auditing.concepts import concepts_to_probe
from edittools.classifiers import Classifier
from edittools.edits import Edit
from edittools.metrics import wilson
from edittools.probing.jobs import run as run_jobs
from edittools.probing.probe import probe
from edittools.selection import Assessment, repair
from edittools.selection.checks import most_lost

LAYERS = ("3", "6")
CASES = 30
"""The number of cases of each kind, unless another one is asked for."""

COST, CLEAN_IMAGES = 0.2, 400
"""The true cost of an edit in points of accuracy, and the number of clean images on which the verdict judges it."""

CORRECTED = (0.0, 0.2, 0.5, 1.0)
"""The percentages of clean images that such an edit corrects; it breaks as many, and those that it costs."""

AUDITS = 200
"""The number of audits with each control."""

AUDITED = 110
"""The number of images of an audit."""

SIDE = 14
"""The side of the rectangles of an audit, in pixels."""

ANYWHERE = "elsewhere, rectangles anywhere"
"""The control of rectangles that cover the square more often than their control does."""

SEED_OF_AUDITS = 5_000
"""The seed of the first audit, beyond that of the run."""

NULL_LAYERS = {"mini_vgg": ("features.8", "features.13"), "mini_vgg_balanced": ("features.8", "features.13")}
NULL_LAYERS["mini_resnet"] = ("layer3.0.conv1", "layer4.0.conv1")
"""The layers that a null repair of each network may edit."""

SEED_OF_NULLS = 70_000_000
"""The first seed of nulls, beyond that of the run."""

NULL_AUDITS = 6
"""The number of null audits of each kind of folder."""


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
    fewest_corrected = counts - most_lost(images)
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


# --- audits ---


def rectangles(count: int, generator: torch.Generator, anywhere: bool = False) -> dict[str, Tensor]:
    """Draw masks `(count, SIZE, SIZE)` of two rectangles without overlap, and name them A and B by a coin.

    Each is in the upper or the lower half, unless it may be anywhere. The control "elsewhere" is then its mirror image,
    which is as likely to be drawn, so a rectangle covers an object as often as its control does.
    """
    masks = torch.zeros(2, count, SIZE, SIZE)
    for number in range(count):
        top, left, other_top, other_left = torch.randint(0, SIZE - SIDE + 1, (4,), generator=generator).tolist()
        if not anywhere:
            within = torch.randint(0, SIZE // 2 - SIDE + 1, (2,), generator=generator)
            halves = torch.randint(0, 2, (2,), generator=generator) * (SIZE // 2)
            top, other_top = (within + halves).tolist()
        first = int(torch.randint(0, 2, (1,), generator=generator))
        masks[1 - first, number, other_top : other_top + SIDE, other_left : other_left + SIDE] = 1
        masks[1 - first, number, top : top + SIDE, left : left + SIDE] = 0
        masks[first, number, top : top + SIDE, left : left + SIDE] = 1
    return {"A": masks[0], "B": masks[1]}


def rules_found(classifier: Classifier, seed: int) -> dict[tuple[str, str], bool]:
    """Audit images of one seed: whether there is a rule, by the control and by what is tested."""
    generator = torch.Generator().manual_seed(seed + 1_000)  # no image has this seed
    data = squares(AUDITED, seed)
    in_halves = rectangles(AUDITED, generator)
    anywhere = rectangles(AUDITED, generator, anywhere=True)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        material = Path(folder, "background.png")
        save_image(backgrounds(1, generator), material)
        kinds = {"in place": (in_halves, None), "elsewhere": (in_halves, material), ANYWHERE: (anywhere, material)}
        for control, (masks, background) in kinds.items():
            asked = concepts_to_probe(data, masks, classifier, background)
            probed = probe(classifier, *asked)
            found[control, "per class"] = len(probed.rules()) > 0
            found[control, "all classes"] = len(probed.rules(pooled=True)) > 0
    return found


def add_audits(results: Results, classifier: Classifier, audits: int, first: int) -> None:
    """Count the audits that find a rule."""
    counts: Counter[tuple[str, str]] = Counter()
    for seed in range(first, first + audits):
        counts.update(rules_found(classifier, seed))
    for (control, tested), count in counts.items():
        low, high = wilson(count, audits)
        where = {"split": tested, "condition": control}
        results.add("audits with a rule", count, interval=(low * audits, high * audits), n=audits, **where)


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


def experiment(options: argparse.Namespace) -> Results:
    """Measure the verdicts of all cases, or count the audits that find a rule."""
    results = Results("calibration", "squares", notes={"seed": options.seed})
    if options.nulls:
        results = Results("calibration", "MiniWorld and squares", notes={"seed": options.seed})
        repairs, audits = (1, 1) if options.quick else (None, NULL_AUDITS)
        add_nulls(results, repairs, audits, options.seed + SEED_OF_NULLS, options.store)
    elif options.audits:
        plain = plain_network(150 if options.quick else 250)
        add_audits(results, plain, 5 if options.quick else AUDITS, options.seed + SEED_OF_AUDITS)
    else:
        add_power(results)
        add_verdicts(results, 1 if options.quick else options.cases, options.seed, options.store)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    add_store(arguments)
    arguments.add_argument("--audits", action="store_true", help="count audits that find a rule, instead of verdicts")
    arguments.add_argument("--nulls", action="store_true", help="judge repairs and audits without anything to find")
    arguments.add_argument("--cases", type=int, default=CASES, help="the number of cases of each kind")
    arguments.add_argument("--seed", type=int, default=0, help="the first seed of the images")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
