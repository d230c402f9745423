"""Claim: an edit is selected in one to two minutes of one core, and in at most 1.5 GB.

Each of the networks that learned shortcuts gets what a user has: one exemplar, with a tag, and 600 ordinary photos
without labels. An edit is selected by hosts, with the pass over the reference images. Each network has a process of its
own, so that its memory can be measured.
"""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from _lib.command import one_thread, parser, run
from _lib.label_free import select_by_hosts
from _lib.memory import measured
from _lib.results import BY_HOSTS, Results
from _lib.shortcuts import NETWORKS, user_case

GOAL = "garbage truck"
"""The class of the tag."""

DRAW = 1
"""The draw of the development, which no result is about."""

IMAGES_OF_QUICK = 100
"""The number of ordinary photos with `--quick`."""


def costs(network: str, quick: bool) -> dict[str, float]:
    """Measure the CPU seconds of a selection, and by how many MB memory grows."""
    with one_thread():
        classifier, exemplar, images = user_case(network, GOAL, DRAW)
        if quick:
            images = images[:: len(images) // IMAGES_OF_QUICK]
        _, cost = measured(lambda: select_by_hosts(classifier, exemplar, images))
    return cost


def experiment(options: argparse.Namespace) -> Results:
    """Measure each network in a new process."""
    results = Results("selection_cost", "photos")
    networks = NETWORKS[:1] if options.quick else NETWORKS
    for network in networks:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
            cost = executor.submit(costs, network, options.quick).result()
        results.add("CPU seconds", cost["seconds"], network=network, method=BY_HOSTS)
        results.add("peak memory added", cost["memory"], network=network, method=BY_HOSTS)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    run(parser(__doc__), experiment)


if __name__ == "__main__":
    main()
