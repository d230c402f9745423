"""Claim: an edit is selected in less than two minutes of one core, and adds less than 1 GB.

Each of the networks that learned shortcuts gets what a user has: one exemplar, with a tag, and 600 ordinary photos
without labels. An edit is selected by hosts, with the pass over the reference images. Each network has a process of its
own, so that its memory can be measured. A profile says where the time goes: the rest divides the images into hosts.
"""

import argparse
import inspect
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from cProfile import Profile

from _lib.command import one_thread, parser, run
from _lib.label_free import select_by_hosts
from _lib.memory import measured
from _lib.results import BY_HOSTS, Results
from _lib.shortcuts import NETWORKS, user_case

from edittools.moments import measure
from edittools.selection.select import rank, score

GOAL = "garbage truck"
"""The class of the tag."""

DRAW = 1
"""The draw of the development, which no result is about."""

IMAGES_OF_QUICK = 100
"""The number of ordinary photos with `--quick`."""

STEPS = {"second moments": measure, "ranking layers": rank, "scoring edits": score}
"""The functions of a selection whose CPU seconds are told apart, by what they do."""


def costs(network: str, quick: bool) -> dict[str, float]:
    """Measure the CPU seconds of a selection, those of each step, and by how many MB memory grows."""
    profile = Profile(time.process_time)
    with one_thread():
        classifier, exemplar, images = user_case(network, GOAL, DRAW)
        if quick:
            images = images[:: len(images) // IMAGES_OF_QUICK]
        _, cost = measured(lambda: profile.runcall(select_by_hosts, classifier, exemplar, images))
    seconds = {entry.code: entry.totaltime for entry in profile.getstats()}
    return cost | {step: seconds[inspect.unwrap(function).__code__] for step, function in STEPS.items()}


def experiment(options: argparse.Namespace) -> Results:
    """Measure each network in a new process."""
    results = Results("selection_cost", "photos")
    networks = NETWORKS[:1] if options.quick else NETWORKS
    for network in networks:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
            cost = executor.submit(costs, network, options.quick).result()
        results.add("CPU seconds", cost["seconds"], network=network, method=BY_HOSTS)
        for step in STEPS:
            results.add(f"CPU seconds, {step}", cost[step], network=network, method=BY_HOSTS)
        results.add("peak memory added", cost["memory"], network=network, method=BY_HOSTS)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    run(parser(__doc__), experiment)


if __name__ == "__main__":
    main()
