"""Claim: the method that `repair` selects is not worse than the edit alone, on composites of photos.

Roads of MSRC photos are replaced by snow in three looks. The composites of every second photo are used for selection,
those of the other photos for evaluation, once. A network that misclassifies none of the former is left out. Needs
photos.
"""

import argparse

import torch
from _lib.command import parser, run
from _lib.composites import snow_from_composites
from _lib.methods import small
from _lib.results import Results

from edittools.cut import cut_all
from edittools.edits import Edit
from edittools.images import LabelledImages
from edittools.metrics import Comparison, misclassified, predict
from edittools.scenarios.scenario import Scenario
from edittools.selection import CachedActivations, candidate_layers, repair

NETWORKS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "squeezenet1_1")


def halves_by_photo(composites: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """Divide composites into those of every second photo and the others, so that no photo is in both halves."""
    photos = list(dict.fromkeys(composites.names))
    in_first = torch.tensor([photos.index(name) % 2 == 0 for name in composites.names])
    return composites.subset(in_first), composites.subset(~in_first)


def compare(scenario: Scenario, edit: Edit, data: LabelledImages) -> Comparison:
    """Compare the images of a set before and after an edit."""
    layers = [layer for layer in candidate_layers(scenario.classifier) if layer in edit.layers]
    return CachedActivations(cut_all(scenario.classifier, layers), data).compare(edit)


def add_network(results: Results, scenario: Scenario, network: str) -> None:
    """Repair a network on one half of the composites, and evaluate both edits on the other half."""
    splits = scenario.splits
    target, target_test = halves_by_photo(splits.target)
    exemplar = scenario.exemplars["minivan"]
    sets = {"failing": target, "clean": splits.clean, "retain": splits.retain}
    fix = repair(scenario.classifier, exemplar, **sets, layers=scenario.layers, baselines=False)
    for method, selection in {"edit alone": fix.selections["edit"], "selected method": fix.selection}.items():
        where = {"network": network, "method": method}
        composites = compare(scenario, selection.edit, target_test)
        clean = compare(scenario, selection.edit, splits.clean_test)
        results.add("errors before", int(composites.before.sum()), split="target_test", **where)
        results.add("corrected", composites.corrected, split="target_test", **where)
        results.add("broken", composites.broken, split="target_test", **where)
        results.add("accuracy change", clean.accuracy_change, split="clean_test", n=len(clean.before), **where)
        results.add("candidates", selection.n_candidates, **where)
        results.add_selected(str(selection), network, method)


def experiment(options: argparse.Namespace) -> Results:
    """Repair each network."""
    results = Results("repair_composites", "photos")
    for network in options.networks[:1] if options.quick else options.networks:
        scenario = snow_from_composites(network, progress=True)
        target, _ = halves_by_photo(scenario.splits.target)
        if misclassified(predict(scenario.classifier, target), target.labels).any():
            add_network(results, small(scenario) if options.quick else scenario, network)
        else:
            results.add("errors before", 0, split="target", network=network, n=len(target))
        print(results.overview(), flush=True)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    run(arguments, experiment)


if __name__ == "__main__":
    main()
