"""`repair` on composites: what the low-rank edit alone corrects and breaks, and what the selected method does.

The claim: selecting among the low-rank edit, the closed form, the projection and a second layer is not worse than the
low-rank edit alone. Roads of MSRC photos are replaced by snow in three looks. The composites of every second photo are
used for selection, those of the other photos for evaluation, once. Needs photos.
"""

import pandas as pd
import torch
from common import finish, parser, start
from composites import snow_from_composites

from edittools.cut import cut_all
from edittools.edits import Edit
from edittools.images import LabelledImages
from edittools.metrics import Comparison
from edittools.scenarios.scenario import Scenario
from edittools.selection import CachedActivations, repair

NETWORKS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "squeezenet1_1")


def halves_by_photo(composites: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """Divide composites into those of every second photo and the others, so that no photo is in both halves."""
    photos = list(dict.fromkeys(composites.names))
    in_first = torch.tensor([photos.index(name) % 2 == 0 for name in composites.names])
    return composites.subset(in_first), composites.subset(~in_first)


def evaluate(scenario: Scenario, edit: Edit, data: LabelledImages) -> Comparison:
    """Compare the images of a set before and after an edit."""
    layers = [layer for layer in scenario.layers if layer in edit.layers]
    return CachedActivations(cut_all(scenario.classifier, layers), data).compare(edit)


def main() -> None:
    """Repair each network on one half of the composites, and evaluate both edits on the other half."""
    arguments = parser(__doc__)
    arguments.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    options = start(arguments)
    rows = []
    for network in options.networks:
        scenario = snow_from_composites(network, progress=True)
        target, target_test = halves_by_photo(scenario.splits.target)
        splits = scenario.splits
        exemplar = scenario.exemplars["minivan"]
        fix = repair(
            scenario.classifier, exemplar, target, splits.clean, splits.retain, layers=scenario.layers, baselines=False
        )
        selected = {"low-rank edit alone": fix.selections["edit"], "selected method": fix.selection}
        for method, selection in selected.items():
            row = {"network": network, "method": method, "settings": str(selection)}
            compared = {
                "composites": evaluate(scenario, selection.edit, target_test),
                "clean test": evaluate(scenario, selection.edit, splits.clean_test),
            }
            row["errors"] = int(compared["composites"].before.sum())
            row["corrected"] = compared["composites"].corrected
            row["broken"] = compared["composites"].broken
            row["accuracy change"] = compared["clean test"].accuracy_change
            rows.append(row)
            print(row, flush=True)
    print("\n" + pd.DataFrame(rows).to_string(index=False))
    finish(options, {"rows": rows})


if __name__ == "__main__":
    main()
