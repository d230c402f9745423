"""Claim: `repair` finds, in one call, an edit that corrects images that it was not selected on.

MiniWorld's `mini_vgg`, one car whose road is replaced by snow, 24 failing vehicles on snow, 600 clean scenes, 150
scenes of classes that live on snow. Figures are of images that the edit was not selected on; the test images of the
scenario, which no call saw, are evaluated once at the end.
"""

import argparse
import time

from _lib.command import parser, run
from _lib.results import Results, name_of

from edittools.cut import cut_all
from edittools.metrics import misclassified, predict
from edittools.scenarios.snow import snow_scenario
from edittools.selection import CachedActivations, repair

FAILING = 24
CLEAN = 600
RETAIN = 150
NETWORK = "mini_vgg"


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
    scenario = snow_scenario("mini", NETWORK, progress=True)
    exemplar = scenario.exemplars[scenario.default["exemplar"]]
    splits = scenario.splits
    clean = splits.clean.subset(range(CLEAN))
    retain = splits.retain.subset(range(RETAIN))
    is_wrong = misclassified(predict(scenario.classifier, splits.target), splits.target.labels)
    failing = splits.target.subset(is_wrong.nonzero()[:FAILING, 0])
    layers = (scenario.default["layer"],) if options.quick else None
    started = time.perf_counter()
    fix = repair(scenario.classifier, exemplar, failing, clean, retain, layers=layers)
    seconds = time.perf_counter() - started
    print(fix.summary(), "\n")
    results = Results("repair", "MiniWorld", notes={"summary": fix.summary()}, seconds=seconds)
    for method, row in fix.table.to_dict(orient="index").items():
        add_method(results, row, NETWORK, method)
        results.add_selected(row["layer"], NETWORK, name_of(method.replace(" ", "_")))
    cuts = cut_all(scenario.classifier, [layer for layer in fix.search.cuts if layer in fix.edit.layers])
    test = CachedActivations(cuts, splits.target_test).compare(fix.edit)
    errors = int(test.before.sum())
    where = {"network": NETWORK, "method": "edit", "split": "target_test"}
    results.add("errors before", errors, **where)
    results.add("corrected", test.corrected, **where)
    results.add("broken", test.broken, **where)
    interval = test.corrected_interval()
    results.add("errors corrected", test.errors_corrected, interval=interval, n=errors, **where)
    results.add_outcomes(test.before.int().tolist(), test.after.int().tolist(), **where)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    run(parser(__doc__), experiment)


if __name__ == "__main__":
    main()
