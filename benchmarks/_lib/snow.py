"""Vehicles on snow: the figures of a method, on rendered scenes and on photos."""

from collections.abc import Mapping
from statistics import mean
from typing import Any

from _lib.methods import effort
from _lib.networks import Rows, comparisons, pooled_row, reported
from _lib.results import COMMON, Figure
from edittools.scenarios.scenario import Scenario
from edittools.selection.search import EditSearch, Selection

EVALUATED = ("target_test", "clean", "clean_test", "near", "nearest", "retain_test", "elsewhere")
"""Splits that each method is evaluated on, where a scenario has them."""

FIGURES = {
    "errors_before": Figure("errors before", "target_test"),
    "errors_after": Figure("errors after", "target_test"),
    "corrected": Figure("corrected", "target_test"),
    "broken": Figure("broken", "target_test"),
    "errors_corrected": Figure("errors corrected", "target_test", "errors_before"),
    "p": Figure("p", "target_test"),
    "accuracy_change_points_budget": Figure("accuracy change", "clean"),
    "accuracy_change_points_held_out": Figure("accuracy change", "clean_test"),
    "keep_errors_before": Figure("errors before", "retain_test", "keep_images"),
    "keep_errors_after": Figure("errors after", "retain_test", "keep_images"),
    "accuracy_change_points_retained": Figure("accuracy change", "retain_test", "keep_images"),
    "changed_elsewhere": Figure("predictions changed", "elsewhere"),
    **COMMON,
}
"""What the figures of the JSON line are in the long table."""


def measure(scenario: Scenario, search: EditSearch, selections: Mapping[str, Selection]) -> list[dict[str, Any]]:
    """Evaluate each selected edit once: one row per method, see `networks`."""
    rows = []
    for method, selection in selections.items():
        wrong = {}
        for split in EVALUATED:
            if split in search.activations:
                compared = search.activations[split].compare(selection.edit)
                wrong[split] = [compared.before.int().tolist(), compared.after.int().tolist()]
        rows.append({"method": method, **effort(selection, scenario, search), **wrong})
    return rows


def figures(rows: Rows) -> dict[str, Any]:
    """Count what a method did to the test images, to clean ones and to classes that live on snow.

    Of several networks counts are sums, intervals are over photos.
    """
    found = {split: comparisons(rows, split) for split in EVALUATED if all(split in row for row in rows)}
    test, constrained, clean = (pooled_row(found[split]) for split in ("target_test", "clean", "clean_test"))
    names = ("errors before", "errors after", "corrected", "broken", "errors corrected")
    retained_before = sum(int(one.before.sum()) for one in found["retain_test"])
    retained_after = sum(int(one.after.sum()) for one in found["retain_test"])
    retained = sum(len(one.before) for one in found["retain_test"])
    known = {name.replace(" ", "_"): test[name] for name in names} | {
        "errors_corrected_interval": (test["low"], test["high"]),
        "p": test["p"],
        "accuracy_change_points_budget": constrained["accuracy change (points)"],
        "accuracy_change_points_held_out": clean["accuracy change (points)"],
        "accuracy_change_points_held_out_interval": (clean["accuracy low"], clean["accuracy high"]),
        "keep_errors_before": retained_before,
        "keep_errors_after": retained_after,
        "keep_images": retained,
        "accuracy_change_points_retained": 100 * (retained_before - retained_after) / retained,
    }
    known |= reported(rows)
    if "elsewhere" in found:
        known["changed_elsewhere"] = mean(one.broken / len(one.before) for one in found["elsewhere"])
    return known
