"""Claim: on real photos of vehicles on snow, and four networks, the edit corrects as many errors as one of full rank.

Layer, exemplar, rank, mask and strength are selected on composites (roads of MSRC photos replaced by snow), and all 126
of the paper's snow photos are used for evaluation. One half of the ImageNet sample gives the accuracy constraint, 0.25
points; every method, controls too, is selected in the same way and evaluated once, also on the other half. Figures of
all networks together have intervals over photos. Needs the photos (see docs/tiers.md). With `--store FOLDER` finished
networks are kept, and an interrupted run continues where it was.
"""

import argparse
import time
from functools import partial
from typing import Any

from _lib.command import add_store, run
from _lib.composites import snow_from_composites
from _lib.methods import (
    FAST,
    ONE_EACH,
    OTHERS,
    QUICK,
    RATES,
    SLOW,
    STRENGTHS,
    Plan,
    search_of,
    select_all,
    small,
    with_near,
)
from _lib.networks import add_networks, network_parser, photos, sweep
from _lib.results import Results
from _lib.snow import add_figures, measure

from edittools.selection.evaluation import Constraints

NETWORKS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "squeezenet1_1")


def network(name: str, quick: bool = False) -> list[dict[str, Any]]:
    """Select and evaluate on one network."""
    started = time.perf_counter()
    scenario = snow_from_composites(name, progress=True)
    plan = Plan(settings=FAST, strengths=STRENGTHS, rates=RATES, **SLOW)
    scenario = with_near(small(scenario) if quick else scenario)
    search = search_of(scenario)
    selections = select_all(scenario, search, QUICK if quick else plan, ONE_EACH if quick else None)
    seconds = time.perf_counter() - started
    return [{**row, "network_seconds": seconds} for row in measure(scenario, search, selections)]


def experiment(options: argparse.Namespace) -> Results:
    """Select for each network, evaluate once on the test photos, pool the networks."""
    others = {name: settings for name, (_, settings) in OTHERS.items()}
    about = f"snow, rows 3 {photos()} {[SLOW, RATES, FAST, STRENGTHS, others, options.quick]}"
    work = partial(network, quick=options.quick)
    rows = sweep(work, options.networks[:1] if options.quick else options.networks, options.store, about)
    constraints = Constraints().describe(len(rows[0]["clean"][0]))
    seconds = sum(row["network_seconds"] for row in rows if row["method"] == "editing")
    results = Results("snow", "photos", notes={"constraints": constraints}, seconds=seconds)
    add_networks(results, rows, add_figures)
    results.line = results.keyed_line() | {"budget": constraints}
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = network_parser(__doc__, NETWORKS)
    add_store(arguments)
    run(arguments, experiment)


if __name__ == "__main__":
    main()
