"""Vehicles on snow: the figures of a method, on rendered scenes and on photos."""

from collections.abc import Mapping
from statistics import mean
from typing import Any

from _lib.methods import effort
from _lib.networks import Rows, comparisons, pooled_row
from _lib.results import Results
from edittools.course.scenarios.scenario import Scenario
from edittools.selection import Search, Selection

EVALUATED = ("target_test", "clean", "clean_test", "retain_test", "elsewhere")
"""Splits that each method is evaluated on, where a scenario has them."""


def measure(scenario: Scenario, search: Search, selections: Mapping[str, Selection]) -> list[dict[str, Any]]:
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


def add_figures(results: Results, rows: Rows, *, network: str, method: str) -> None:
    """Add what a method did to the test images, to clean ones and to classes that live on snow.

    Of several networks counts are sums, intervals are over photos.
    """
    where = {"network": network, "method": method}
    found = {split: comparisons(rows, split) for split in EVALUATED if all(split in row for row in rows)}
    test, constrained, clean = (pooled_row(found[split]) for split in ("target_test", "clean", "clean_test"))
    for name in ("errors before", "errors after", "corrected", "broken"):
        results.add(name, test[name], split="target_test", key=name.replace(" ", "_"), **where)
    results.add(
        "errors corrected",
        test["errors corrected"],
        split="target_test",
        interval=(test["low"], test["high"]),
        n=test["errors before"],
        key="errors_corrected",
        **where,
    )
    results.add("p", test["p"], split="target_test", key="p", **where)
    change = "accuracy change (points)"
    results.add("accuracy change", constrained[change], split="clean", key="accuracy_change_points_budget", **where)
    results.add(
        "accuracy change",
        clean[change],
        split="clean_test",
        interval=(clean["accuracy low"], clean["accuracy high"]),
        key="accuracy_change_points_held_out",
        **where,
    )
    retained = {"split": "retain_test", "n": sum(len(one.before) for one in found["retain_test"]), **where}
    before = sum(int(one.before.sum()) for one in found["retain_test"])
    after = sum(int(one.after.sum()) for one in found["retain_test"])
    results.add("errors before", before, key="keep_errors_before", **retained)
    results.add("errors after", after, key="keep_errors_after", **retained)
    change_of_retained = 100 * (before - after) / retained["n"]
    results.add("accuracy change", change_of_retained, key="accuracy_change_points_retained", **retained)
    results.add_keys(network, method, keep_images=retained["n"])
    if "elsewhere" in found:
        changed = mean(one.broken / len(one.before) for one in found["elsewhere"])
        results.add("predictions changed", changed, split="elsewhere", key="changed_elsewhere", **where)
