"""Claim: `repair` says "use" for an edit that removes a shortcut which a network has learned from photos.

For each network and shortcut, `repair` gets one exemplar, 24 failing photos, clean photos, and photos of the shortcut's
class without it, as in the first draw of learned_shortcut.py. All are photos of the split "train" on which the networks
were neither trained nor tuned. The verdict is that of cross-validation over the failing photos. Each call runs in a
process of its own, which measures its CPU seconds and its memory.
"""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

from _lib.command import parser, run
from _lib.memory import measured
from _lib.results import METHODS, Results
from _lib.shortcuts import NAMES, NETWORKS
from learned_shortcut import QUICK, SHORTCUTS, Job, Sizes, draws_of, shared_photos

from edittools.models import load_classifier
from edittools.probing import jobs
from edittools.selection import repair


def repaired(sizes: Sizes, job: Job) -> list[dict[str, Any]]:
    """Repair a network; say what cross-validation and the verdict say, and what the call cost."""
    classifier = load_classifier(job.network)
    with jobs.one_thread():
        photos = shared_photos(classifier, job.goal, sizes)
        [exemplars, failing] = next(draws_of(classifier, job.goal, photos, sizes, 1))
        work = partial(repair, classifier, exemplars[0], failing, photos.clean, photos.retain, progress=False)
        fix, cost = measured(work)
    held_out = fix.selection.held_out
    row = {
        "network": job.network,
        "goal": job.goal,
        "verdict": fix.verdict.word,
        "advice": fix.verdict.advice,
        "settings": str(fix.selection),
        "failing": int(held_out.before.sum()),
        "corrected": held_out.corrected,
        "broken": held_out.broken,
        "control": int(fix.table.corrected["random direction"]),
        **cost,
    }
    print(f"{job.name}: {row}", flush=True)
    return [row]


def in_own_process(sizes: Sizes, job: Job) -> list[dict[str, Any]]:
    """Repair a network in a new process, since memory is measured."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(repaired, sizes, job).result()


def experiment(options: argparse.Namespace) -> Results:
    """Repair both networks for each shortcut."""
    work = partial(in_own_process, QUICK if options.quick else Sizes())
    todo = [Job(network, goal) for network in options.networks for goal in SHORTCUTS]
    results = Results("shortcut_repair", "photos")
    for row in jobs.run(work, {job.name: job for job in todo}, progress=True).itertuples():
        where = {"network": row.network, "method": METHODS["selected"], "condition": NAMES[row.goal]}
        results.add("errors before", row.failing, split="held out", **where)
        results.add("corrected", row.corrected, split="held out", **where)
        results.add("broken", row.broken, split="held out", **where)
        results.add("corrected", row.control, split="held out", **{**where, "method": METHODS["random_direction"]})
        results.add("CPU seconds", row.seconds, **where)
        results.add("peak memory added", row.memory, **where)
        results.add_selected(row.settings, **where, verdict=row.verdict, advice=row.advice)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    run(arguments, experiment)


if __name__ == "__main__":
    main()
