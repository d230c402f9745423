"""Claim: `repair` finds, in one call, an edit that corrects images that it was not selected on.

Tier mini: MiniWorld's `mini_vgg`, one car whose road is replaced by snow, 24 failing vehicles on snow, 600 clean
scenes, 150 scenes of classes that live on snow. Tier lite: EfficientNet-Lite0, one photo of a minivan, 12 failing
photos of vehicles on snow, 300 clean photos. Figures are of images that the edit was not selected on; the test images
of the scenario, which no call saw, are evaluated once at the end.
"""

import argparse
import time

from _lib.command import parser, run
from _lib.results import Results, name_of

from edittools.cut import cut_all
from edittools.metrics import misclassified, predict
from edittools.scenarios.snow import snow_scenario
from edittools.selection import CachedActivations, repair

FAILING = {"mini": 24, "lite": 12}
CLEAN = {"mini": 600, "lite": 300}
RETAIN = 150
NETWORKS = {"mini": "mini_vgg", "lite": "efficientnet_lite0"}


def add_method(results: Results, row: dict, network: str, method: str) -> None:
    """Add a row of the table of a repair."""
    where = {"network": network, "method": name_of(method.replace(" ", "_"))}
    share = [row["low"], row["high"]]
    accuracy = [row["accuracy low"], row["accuracy high"]]
    results.add("errors before", row["failing"], split="held out", **where)
    results.add("corrected", row["corrected"], split="held out", **where)
    results.add("broken", row["broken"], split="held out", **where)
    results.add("errors corrected", row["share"], split="held out", interval=share, n=row["failing"], **where)
    results.add("p", row["p"], split="held out", **where)
    results.add("accuracy change", row["accuracy change"], split="clean", interval=accuracy, **where)
    results.add("broken", row["retained broken"], split="retain", n=row["retained"], **where)
    results.add("candidates", row["candidates"], **where)


def experiment(options: argparse.Namespace) -> Results:
    """Repair, and evaluate once on the test images."""
    network = NETWORKS[options.tier]
    scenario = snow_scenario(options.tier, progress=True)
    exemplar = scenario.exemplars[scenario.default["exemplar"]]
    splits = scenario.splits
    clean = splits.clean.subset(range(min(CLEAN[options.tier], len(splits.clean))))
    retain = splits.retain.subset(range(min(RETAIN, len(splits.retain))))
    is_wrong = misclassified(predict(scenario.classifier, splits.target), splits.target.labels)
    failing = splits.target.subset(is_wrong.nonzero()[: FAILING[options.tier], 0])
    layers = (scenario.default["layer"],) if options.quick else None
    started = time.perf_counter()
    fix = repair(scenario.classifier, exemplar, failing, clean, retain, layers=layers)
    seconds = time.perf_counter() - started
    print(fix.summary(), "\n")
    dataset = "MiniWorld" if options.tier == "mini" else "photos"
    results = Results("repair", dataset, notes={"summary": fix.summary()}, seconds=seconds)
    for method, row in fix.table.to_dict(orient="index").items():
        add_method(results, row, network, method)
        results.add_selected(row["layer"], network, name_of(method.replace(" ", "_")))
    cuts = cut_all(scenario.classifier, [layer for layer in fix.search.cuts if layer in fix.edit.layers])
    test = CachedActivations(cuts, splits.target_test).compare(fix.edit)
    errors = int(test.before.sum())
    where = {"network": network, "method": "edit", "split": "target_test"}
    results.add("errors before", errors, **where)
    results.add("corrected", test.corrected, **where)
    results.add("broken", test.broken, **where)
    interval = test.corrected_interval()
    results.add("errors corrected", test.errors_corrected, interval=interval, n=errors, **where)
    results.add_outcomes(test.before.int().tolist(), test.after.int().tolist(), **where)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--tier", choices=("mini", "lite"), default="mini")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
