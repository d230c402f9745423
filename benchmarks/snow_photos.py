"""Vehicles on snow, real photographs, on four networks: an edit beside its controls, both fine-tunings and its rivals.

Layer, exemplar, rank, mask, strength and what must stay are chosen on composites (roads of MSRC photos turned to snow),
and all 126 of the paper's snow photos are reported. An accuracy budget of 0.25 points on one half of the ImageNet
sample bounds every choice; every line, controls too, is chosen in the same way and read once, also on the other half.
The first table pools the networks, its intervals are over photos. Needs the photographs (see README, 'Tiers'). With
`--store FOLDER` finished networks are kept: a run that was cut off goes on where it was.
"""

import time
from collections.abc import Mapping
from statistics import mean
from typing import Any

from columns import SNOW
from common import finish, start
from composites import snow_from_composites
from methods import FAST, LOCALITY, OTHERS, RATES, SLOW, STRENGTHS, Plan, effort, search_of, select_all, with_near
from networks import Rows, comparisons, options, photos, pooled_row, reported, sweep

from edittools.scenarios.scenario import Scenario
from edittools.selection.constraints import Constraints
from edittools.selection.search import EditSearch, Selection

NETWORKS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "squeezenet1_1")

REPORTED = {
    "test": "target_test",
    "budget": "clean",
    "clean": "clean_test",
    **{name: name for name in LOCALITY},
    "keep_report": "retain_test",
    "elsewhere": "elsewhere",
}
"""Splits that are evaluated, by their name in a row."""


def measure(story: Scenario, search: EditSearch, selections: Mapping[str, Selection]) -> list[dict[str, Any]]:
    """Evaluate once what was selected on the target images: one row per method, see `networks`."""
    rows = []
    for method, selection in selections.items():
        wrong = {}
        for name, split in REPORTED.items():
            if split in search.activations:
                compared = search.activations[split].compare(selection.edit)
                wrong[name] = [compared.before.int().tolist(), compared.after.int().tolist()]
        rows.append({"method": method, **effort(selection, story, search), **wrong})
    return rows


def figures(rows: Rows) -> dict[str, Any]:
    """Count what a method did to the test photos, to clean ones and to classes that live on snow.

    Of several networks counts are sums, intervals are over photos.
    """
    found = {part: comparisons(rows, part) for part in REPORTED if all(part in row for row in rows)}
    test, budget, clean = (pooled_row(found[part]) for part in ("test", "budget", "clean"))
    names = ("errors before", "errors after", "corrected", "broken", "errors corrected")
    known = {name.replace(" ", "_"): test[name] for name in names} | {
        "errors_corrected_interval": (test["low"], test["high"]),
        "p": test["p"],
        "accuracy_change_points_budget": budget["accuracy change (points)"],
        "accuracy_change_points_held_out": clean["accuracy change (points)"],
        "accuracy_change_points_held_out_interval": (clean["accuracy low"], clean["accuracy high"]),
        "keep_errors_before": sum(int(one.before.sum()) for one in found["keep_report"]),
        "keep_errors_after": sum(int(one.after.sum()) for one in found["keep_report"]),
        "keep_images": sum(len(one.before) for one in found["keep_report"]),
    }
    known |= reported(rows)
    if "elsewhere" in found:
        known["changed_elsewhere"] = mean(one.broken / len(one.before) for one in found["elsewhere"])
    return known


def network(name: str) -> list[dict[str, Any]]:
    """Select and evaluate on one network."""
    started = time.perf_counter()
    story = with_near(snow_from_composites(name, progress=True))
    search = search_of(story)
    plan = Plan(settings=FAST, strengths=STRENGTHS, tuned=story.layers[::2], rates=RATES, **SLOW)
    rows = measure(story, search, select_all(story, search, plan))
    return [{**row, "network_seconds": time.perf_counter() - started} for row in rows]


def main() -> None:
    """Select for each network, evaluate once on the test photos, pool the networks."""
    given = start(options(__doc__, NETWORKS))
    rivals = {name: settings for name, (_, settings) in OTHERS.items()}
    about = f"snow {photos()} {[SLOW, RATES, FAST, STRENGTHS, rivals]}"
    rows, found = sweep(network, figures, SNOW, given, about)
    finish(given, found | {"budget": Constraints().describe(len(rows[0]["budget"][0]))})


if __name__ == "__main__":
    main()
