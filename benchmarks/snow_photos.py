"""Vehicles on snow, real photographs: one edit from one exemplar, beside its controls and both fine-tunings.

EfficientNet-Lite0 with ImageNet weights. Layer, exemplar, rank, mask, objective and strength are chosen on 30 % of the
paper's snow photos, under an accuracy budget of 0.25 points on one half of the ImageNet sample; every line, controls
too, is chosen in that way and then evaluated once on the other 70 % and on the other half. The keys that an edit spares
are those of MSRC v2 photos. Needs the photographs (see README, 'Tiers').
"""

import argparse
import time
from collections.abc import Mapping
from typing import Any

import pandas as pd
from common import finish, parser, start

from edittools.choosing.choice import Choice
from edittools.choosing.protocol import Plan, Protocol
from edittools.choosing.states import CachedStates
from edittools.edits import Edit
from edittools.metrics import Comparison, mcnemar
from edittools.stories.snow import snow_scenario


def figures(edit: Edit, kept: dict[str, CachedStates]) -> dict[str, Any]:
    """Evaluate an edit once on the test photos, on clean photos and on classes that live on snow."""
    test, clean, exceptions = (kept[name].compare(edit) for name in ("test", "clean", "keep_report"))
    low, high = clean.accuracy_interval()
    row = test.row()
    return {
        "errors_before": row["errors before"],
        "errors_after": row["errors after"],
        "corrected": test.corrected,
        "broken": test.broken,
        "errors_corrected": row["errors corrected"],
        "errors_corrected_interval": test.corrected_interval(),
        "p": row["p"],
        "accuracy_change_points_budget": kept["budget"].compare(edit).accuracy_change,
        "accuracy_change_points_held_out": clean.accuracy_change,
        "accuracy_change_points_held_out_interval": (low, high),
        "keep_errors_before": int(exceptions.before.sum()),
        "keep_errors_after": int(exceptions.after.sum()),
        "keep_images": len(exceptions.before),
    } | ({"own_class_errors_corrected": kept["own"].compare(edit).row()["errors corrected"]} if "own" in kept else {})


SLOW = {"steps": (20,), "localities": (10.0,), "top": 2, "long": 100, "longest": 1}
"""Rounds of fine-tuning on photographs, where a step takes a second."""

Lines = dict[str, dict[str, Any]]  # by method: what was chosen, and its figures


def measure(protocol: Protocol, plan: Plan) -> Lines:
    """Choose every line on the validation images and evaluate it once."""
    chosen = protocol.choose_all(plan)
    found = {name: effort(choice) | figures(choice.edit, protocol.states) for name, choice in chosen.items()}
    against = beside(chosen, protocol.states["test"])
    return {name: figure | {"p_against_edit": against[name]} for name, figure in found.items()}


def beside(chosen: Mapping[str, Choice], test: CachedStates) -> dict[str, float]:
    """McNemar's p that a method errs on as many test images as the edit of one exemplar, by method."""
    edited = test.compare(chosen["editing"].edit).after
    compared = {name: Comparison(edited, test.compare(choice.edit).after) for name, choice in chosen.items()}
    return {name: mcnemar(one.corrected, one.broken) for name, one in compared.items()}


def effort(choice: Choice) -> dict[str, Any]:
    """What was chosen, in words, among how many trials, in how many seconds."""
    return {"chosen": str(choice), "trials": choice.trials, "choice_seconds": choice.seconds}


def conclude(arguments: argparse.Namespace, protocol: Protocol, lines: Lines, started: float) -> None:
    """Print the table and, when asked for, the JSON line: the edit's figures first, the other methods by name."""
    seconds = time.perf_counter() - started
    report(protocol, lines)
    print(f"\n{seconds:.0f} s in all")
    others = {name: figure for name, figure in lines.items() if name != "editing"}
    finish(arguments, lines["editing"] | others | {"seconds": seconds, "budget": protocol.about_budget()})


def main() -> None:
    """Choose on the validation photos, report the test photos once."""
    arguments = parser(__doc__).parse_args()
    start(arguments)
    started = time.perf_counter()
    story = snow_scenario("lite", progress=True)
    protocol = Protocol(story, story.layers, progress=True)
    conclude(
        arguments,
        protocol,
        measure(protocol, Plan(edited=story.shortlist, tuned=story.shortlist, **SLOW)),
        started,
    )


def report(protocol: Protocol, lines: Lines) -> None:
    """Print what was chosen and the table."""
    kept = protocol.states
    counts = {name: f"{len(part.labels)} ({int(part.before.sum())} errors)" for name, part in kept.items()}
    print("Images:", ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()))
    print(protocol.about_budget(), "\n")
    rows = []
    for name, figure in lines.items():
        print(f"  {name:<25}{figure['chosen']}")
        low, high = figure["errors_corrected_interval"]
        least, most = figure["accuracy_change_points_held_out_interval"]
        rows.append({
            "method": name,
            "trials": f"{figure['trials']:.0f}",
            "seconds": f"{figure['choice_seconds']:.0f}",
            "errors": f"{figure['errors_before']} → {figure['errors_after']}",
            "corrected / broken": f"{figure['corrected']} / {figure['broken']}",
            "errors corrected": f"{figure['errors_corrected']:+.0%} [{low:+.0%}, {high:+.0%}]",
            "p": f"{figure['p']:.2g}",
            **({"own class": f"{figure['own_class_errors_corrected']:+.0%}"} if "own" in kept else {}),
            "accuracy, budget": f"{figure['accuracy_change_points_budget']:+.2f}",
            "held out": f"{figure['accuracy_change_points_held_out']:+.2f} [{least:+.2f}, {most:+.2f}]",
            "live on snow": f"{figure['keep_errors_before']} → {figure['keep_errors_after']}",
            "p, edit": f"{figure['p_against_edit']:.2g}",
        })  # fmt: skip
    print("\n" + pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
