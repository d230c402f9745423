"""Claim: the paper's police van corrects about as many errors as our exemplars do (photos of vehicles on snow).

Each edit has the default settings and differs from the others in its exemplar only. Nothing is selected. Needs the
photos (see docs/tiers.md).
"""

import argparse

import pandas as pd
import torch
from _lib.command import run
from _lib.networks import network_parser
from _lib.results import Results
from tqdm.auto import tqdm

from edittools._ledger import Weights
from edittools.cut import cut_all
from edittools.metrics import Comparison
from edittools.rewriting import rewrite_at
from edittools.scenarios.scenario import Scenario
from edittools.scenarios.snow import PAPER_EXEMPLAR, SNOW_EXEMPLARS, snow_scenario
from edittools.selection.evaluation import cache_activations
from edittools.site import LayerReference, site_at

NETWORKS = ("efficientnet_lite0",)
CONCEPT = "target and target_test"
"""All photos of vehicles on snow count, since nothing is selected."""


def compare_exemplars(scenario: Scenario, progress: bool = False) -> pd.DataFrame:
    """Compare edits with default settings that differ in their exemplar only.

    Nothing is selected, so all images of the concept count: those of `target` and of `target_test`. Clean images are
    those of `clean_test`, without the photos of the exemplars.

    Args:
        scenario: the scenario of vehicles on snow.
        progress: show a progress bar.

    Returns:
        One row per exemplar, extra exemplars included: its class, the share of the image that its mask covers, what
        `Comparison.row` tells of the images of the concept, and the change of accuracy on clean images, in points.
    """
    classifier = scenario.classifier
    splits = scenario.splits
    layer = scenario.default["layer"]
    used = [i for i, name in enumerate(splits.clean_test.names) if not _is_exemplar(name)]
    clean = splits.clean_test.subset(used) if splits.clean_test.names else splits.clean_test
    cuts = cut_all(classifier, [layer], Weights(classifier))
    reference = LayerReference(cuts[layer], splits.reference)
    sets = {"target": splits.target, "target_test": splits.target_test, "clean": clean}
    activations = cache_activations(cuts, sets, progress=progress)
    rows = []
    exemplars = {**scenario.exemplars, **scenario.extra_exemplars}
    for name, exemplar in tqdm(exemplars.items(), "exemplars", disable=not progress, leave=False):
        [edit] = rewrite_at(site_at(cuts[layer], [exemplar], reference))
        compared = {split: states.compare(edit) for split, states in activations.items()}
        shown = [compared["target"], compared["target_test"]]
        together = Comparison(torch.cat([one.before for one in shown]), torch.cat([one.after for one in shown]))
        row = {
            "exemplar": name,
            "class": classifier.classes[exemplar.label],
            "mask": float(exemplar.mask.mean()),
            **together.row(),
            "clean change (points)": compared["clean"].accuracy_change,
        }
        rows.append(row)
    return pd.DataFrame(rows).set_index("exemplar")


def _is_exemplar(photo: str) -> bool:
    """Tell whether a photo of the sample is that of an exemplar."""
    return any(stem in photo for stem in (*SNOW_EXEMPLARS.values(), *PAPER_EXEMPLAR.values()))


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
