"""Claim: one edit corrects most errors on rendered vehicles on snow, and few on photos, next to controls and baselines.

Tier mini: a thousand scenes of MiniWorld; nothing is downloaded. The exemplars are cars, the test classes are the other
vehicles. `--networks` names other small networks.

Tier lite: four networks. Everything is selected on composites (roads of MSRC photos replaced by snow), and all 126 of
the paper's snow photos are used for evaluation. One half of the ImageNet sample gives the accuracy constraint, 0.25
points; accuracy is measured on the other half. Figures of all networks together have intervals over photos. Needs the
photos (see docs/tiers.md).

Every method, controls too, is selected in the same way and evaluated once. The control is selected in five draws of
random directions. With `--store FOLDER` finished networks are kept, and an interrupted run continues where it was.
"""

import argparse
import time
from functools import partial
from typing import Any

from _lib.command import add_store, parser, run
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
)
from _lib.networks import add_networks, photos, sweep
from _lib.results import Results
from _lib.snow import add_figures, measure
from tqdm.auto import tqdm

from edittools.course.scenarios.scenario import Scenario
from edittools.course.scenarios.snow import snow_scenario

NETWORKS = {
    "mini": ("mini_vgg",),
    "lite": ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "squeezenet1_1"),
}
"""The networks of each tier."""

PLANS = {"mini": Plan(), "lite": Plan(settings=FAST, strengths=STRENGTHS, rates=RATES, **SLOW)}
"""What every method may try in each tier."""

DRAWS = 5
"""The number of draws of random directions."""


def scenario_of(tier: str, name: str) -> Scenario:
    """Make the scenario of a network."""
    if tier == "mini":
        return snow_scenario("mini", name, progress=tqdm)
    return snow_from_composites(name, progress=tqdm)


def network(tier: str, quick: bool, name: str) -> list[dict[str, Any]]:
    """Select and evaluate on one network."""
    started = time.perf_counter()
    scenario = scenario_of(tier, name)
    scenario = small(scenario) if quick else scenario
    search = search_of(scenario)
    plan = QUICK if quick else PLANS[tier]
    selections = select_all(scenario, search, plan, ONE_EACH if quick else None, draws=DRAWS)
    rows = measure(scenario, search, selections)
    seconds = time.perf_counter() - started
    return [{**row, "constraints": search.describe_constraints(), "network_seconds": seconds} for row in rows]


def experiment(options: argparse.Namespace) -> Results:
    """Select for each network, evaluate once on the test images, pool the networks."""
    tier = options.tier
    networks = options.networks or NETWORKS[tier]
    settings = {name: method.settings for name, method in OTHERS.items()}
    about = f"snow, rows 4 {tier} {photos()} {PLANS[tier]} {settings} {DRAWS} {options.quick}"
    work = partial(network, tier, options.quick)
    rows = sweep(work, networks[:1] if options.quick else networks, options.store, about)
    seconds = sum(row["network_seconds"] for row in rows if row["method"] == "editing")
    constraints = rows[0]["constraints"]
    dataset = "MiniWorld" if tier == "mini" else "photos"
    results = Results("snow", dataset, notes={"constraints": constraints}, seconds=seconds)
    add_networks(results, rows, add_figures)
    results.line = results.keyed_line() | {"budget": constraints}
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--tier", choices=tuple(NETWORKS), default="mini")
    arguments.add_argument(
        "--networks", nargs="+", metavar="NAME", help="names of classifiers; default: the tier's own"
    )
    add_store(arguments)
    run(arguments, experiment)


if __name__ == "__main__":
    main()
