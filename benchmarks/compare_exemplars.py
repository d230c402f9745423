"""Claim: the paper's police van corrects about as many errors as our exemplars do (photos of vehicles on snow).

Each edit has the default settings and differs from the others in its exemplar only. Nothing is selected. Needs the
photos (see docs/tiers.md).
"""

import argparse

from _lib.command import run
from _lib.networks import network_parser
from _lib.results import Results

from edittools.scenarios.snow import compare_exemplars, snow_scenario

NETWORKS = ("efficientnet_lite0",)
CONCEPT = "target and target_test"
"""All photos of vehicles on snow count, since nothing is selected."""


def experiment(options: argparse.Namespace) -> Results:
    """Compare the exemplars on each network."""
    results = Results("compare_exemplars", "photos")
    for network in options.networks[:1] if options.quick else options.networks:
        scenario = snow_scenario("lite", network, progress=True)
        table = compare_exemplars(scenario, progress=True)
        for exemplar, row in table.iterrows():
            where = {"network": network, "method": "edit", "condition": exemplar}
            results.add("share of the image", row["mask"], split="mask", **where)
            results.add("errors before", row["errors before"], split=CONCEPT, n=row["images"], **where)
            results.add("corrected", row["corrected"], split=CONCEPT, **where)
            results.add("broken", row["broken"], split=CONCEPT, **where)
            results.add("accuracy change", row["clean change (points)"], split="clean_test", **where)
        results.add_selected(scenario.default["layer"], network, "edit")
        print(f"{network} is finished", flush=True)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    run(network_parser(__doc__, NETWORKS), experiment)


if __name__ == "__main__":
    main()
