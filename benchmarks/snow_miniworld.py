"""Claim: one edit corrects most errors on rendered vehicles on snow, next to its controls, fine-tuning and baselines.

A thousand scenes of MiniWorld; nothing is downloaded. The exemplars are cars, the test classes are the other vehicles.
`--model` runs the same code on the ResNet or the ViT. Each selected edit is evaluated again at other strengths: the
errors that it corrects there, and its locality.
"""

import argparse
from collections.abc import Mapping
from typing import Any

from _lib.command import parser, run
from _lib.methods import ONE_EACH, QUICK, Plan, search_of, select_all, small, with_near
from _lib.networks import add_networks
from _lib.results import Results, name_of
from _lib.snow import add_figures, measure

from edittools.scenarios.snow import snow_scenario
from edittools.selection.search import EditSearch, Selection

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Strengths at which each selected edit is evaluated again, as multiples of the selected one."""


def along_strengths(search: EditSearch, selections: Mapping[str, Selection]) -> list[dict[str, Any]]:
    """Tabulate by `method` and `strength` the share of `errors corrected`, and the `locality` of the nearest images."""
    edits = {method: selection.edit for method, selection in selections.items() if selection.feasible}
    table = search.by_strength(edits, STRENGTHS, "target_test", "nearest")
    return table.assign(locality=1 - table.pop("broken")).to_dict("records")


def add_curve(results: Results, rows: list[dict[str, Any]], network: str) -> None:
    """Add the errors corrected and the locality at each strength."""
    for row in rows:
        where = {"network": network, "method": name_of(row["method"]), "condition": f"strength {row['strength']:g}"}
        results.add("errors corrected", row["errors corrected"], split="target_test", **where)
        results.add("predictions kept", row["locality"], split="nearest", **where)


def experiment(options: argparse.Namespace) -> Results:
    """Select on the target scenes, evaluate once on the test scenes."""
    scenario = snow_scenario("mini", options.model, progress=True)
    scenario = with_near(small(scenario) if options.quick else scenario)
    search = search_of(scenario)
    plan = QUICK if options.quick else Plan()
    selections = select_all(scenario, search, plan, ONE_EACH if options.quick else None)
    rows = [{"job": options.model, **row} for row in measure(scenario, search, selections)]
    results = Results("snow", "MiniWorld", notes={"constraints": search.describe_constraints()})
    add_networks(results, rows, add_figures)
    curve = along_strengths(search, selections)
    add_curve(results, curve, options.model)
    results.line = results.keyed_line() | {"budget": search.describe_constraints(), "curve": curve}
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="mini_vgg", choices=("mini_vgg", "mini_resnet", "mini_vit"))
    run(arguments, experiment)


if __name__ == "__main__":
    main()
