"""Vehicles on snow, real photographs, on four networks: an edit beside its controls, both fine-tunings and its rivals.

`--selection composites`: layer, exemplar, rank, mask, strength and what must stay are chosen on composites (roads of
MSRC photos turned to snow), and all 127 of the paper's snow photos are reported. `--selection split`: chosen on 30 % of
the snow photos, reported on the other 70 %. An accuracy budget of 0.25 points on one half of the ImageNet sample bounds
every choice; every line, controls too, is chosen in the same way and read once, also on the other half. The first table
pools the networks, its intervals are over photos. Needs the photographs (see README, 'Tiers'). With `--store FILE`
finished networks are kept: a run that was cut off goes on where it was.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from common import finish, parser, show_choices, start

from edittools.choosing.choice import Choice, about_budget
from edittools.choosing.protocol import STAY, Plan, Protocol, staying
from edittools.choosing.trials import grid
from edittools.metrics import Comparison, mcnemar
from edittools.probing.jobs import run
from edittools.probing.statistics import pooled_row, signed_rank
from edittools.stories.composites import RANK_BY, snow_from_composites
from edittools.stories.snow import snow_scenario

NETWORKS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "squeezenet1_1")
SLOW = {"steps": (20,), "localities": (1.0, 10.0, 100.0), "top": 2, "long": (100,), "longest": 1}
"""Rounds of fine-tuning on photographs, where a step takes a second."""

RATES = (1e-4, 1e-3, 1e-2, 1e-1)

FAST = staying(grid(rank=(1, 3), masked=(True, False), objective=("least_squares",)), STAY[:2])
"""Settings of an edit that is solved at once: the paper's terms alone, and those that spare everyday and kept keys."""

STRENGTHS = (0.5, 1.0)

REPORTED = ("test", "budget", "clean", "keep_report", "own")

Lines = dict[str, dict[str, Any]]  # by method: what was chosen, and its figures
Compared = dict[str, Comparison]  # what an edit did to each set


def evaluate(protocol: Protocol, plan: Plan) -> tuple[dict[str, Choice], dict[str, Compared]]:
    """Choose every method on the validation images and evaluate it once, on every set that is reported."""
    chosen = protocol.choose_all(plan)
    sets = {name: protocol.states[name] for name in REPORTED if name in protocol.states}
    return chosen, {m: {name: part.compare(c.edit) for name, part in sets.items()} for m, c in chosen.items()}


def figures(compared: Compared) -> dict[str, Any]:
    """What an edit did to the test photos, to clean photos and to classes that live on snow."""
    test, clean, exceptions = (compared[name] for name in ("test", "clean", "keep_report"))
    row = test.row()
    return {
        "errors_before": row["errors before"],
        "errors_after": row["errors after"],
        "corrected": test.corrected,
        "broken": test.broken,
        "errors_corrected": row["errors corrected"],
        "errors_corrected_interval": test.corrected_interval(),
        "p": row["p"],
        "accuracy_change_points_budget": compared["budget"].accuracy_change,
        "accuracy_change_points_held_out": clean.accuracy_change,
        "accuracy_change_points_held_out_interval": clean.accuracy_interval(),
        "keep_errors_before": int(exceptions.before.sum()),
        "keep_errors_after": int(exceptions.after.sum()),
        "keep_images": len(exceptions.before),
    } | ({"own_class_errors_corrected": compared["own"].row()["errors corrected"]} if "own" in compared else {})


def pooled(found: Sequence[Compared]) -> dict[str, Any]:
    """The figures of one method on several networks together: counts are sums, intervals are over photos."""
    test, budget, clean, exceptions = (
        pooled_row([one[name] for one in found]) for name in ("test", "budget", "clean", "keep_report")
    )
    names = ("errors before", "errors after", "corrected", "broken", "errors corrected")
    return {name.replace(" ", "_"): test[name] for name in names} | {
        "errors_corrected_interval": (test["low"], test["high"]),
        "p": test["p"],
        "accuracy_change_points_budget": budget["accuracy change (points)"],
        "accuracy_change_points_held_out": clean["accuracy change (points)"],
        "accuracy_change_points_held_out_interval": (clean["accuracy low"], clean["accuracy high"]),
        "keep_errors_before": exceptions["errors before"],
        "keep_errors_after": exceptions["errors after"],
        "keep_images": exceptions["images"] * len(found),
    }


def measure(protocol: Protocol, plan: Plan) -> Lines:
    """Choose every line on the validation images and evaluate it once."""
    chosen, compared = evaluate(protocol, plan)
    return lines({name: effort(choice) for name, choice in chosen.items()}, compared)


def lines(efforts: Lines, compared: Mapping[str, Compared]) -> Lines:
    """The line of each method: its effort, its figures, and McNemar's p that it errs as often as the edit does."""
    edited, found = compared["editing"]["test"].after, {}
    for name, one in compared.items():
        apart = Comparison(edited, one["test"].after)
        found[name] = efforts[name] | figures(one) | {"p_against_edit": mcnemar(apart.corrected, apart.broken)}
    return found


def effort(choice: Choice) -> dict[str, Any]:
    """What was chosen, in words, among how many trials, in how many seconds."""
    return {"chosen": str(choice), "trials": choice.trials, "choice_seconds": choice.seconds}


def conclude(arguments: argparse.Namespace, protocol: Protocol, found: Lines, started: float) -> None:
    """Print the table and, when asked for, the JSON line: the edit's figures first, the other methods by name."""
    seconds = time.perf_counter() - started
    report(protocol, found)
    print(f"\n{seconds:.0f} s in all")
    finish(arguments, _edit_first(found) | {"seconds": seconds, "budget": protocol.about_budget()})


def _edit_first(found: Lines) -> dict[str, Any]:
    return found["editing"] | {name: figure for name, figure in found.items() if name != "editing"}


def network(selection: str, name: str) -> list[dict[str, Any]]:
    """One row a method on a network: its effort, and which images of each set were misread before and after."""
    started = time.perf_counter()
    if selection == "split":
        story = snow_scenario("lite", name, progress=True)
        protocol = Protocol(story, story.layers, progress=True)
        plan = Plan(FAST, STRENGTHS, edited=story.shortlist, tuned=story.shortlist, rates=RATES, **SLOW)
    else:
        story = snow_from_composites(name, progress=True)
        protocol = Protocol(story, progress=True, rank_by=RANK_BY)
        plan = Plan(FAST, STRENGTHS, tuned=story.layers[::2], rates=RATES, **SLOW)
    chosen, compared = evaluate(protocol, plan)
    print(f"\n{name}")
    report(protocol, lines({method: effort(choice) for method, choice in chosen.items()}, compared))
    seconds = time.perf_counter() - started
    return [
        {"method": method, **effort(choice), "network_seconds": seconds}
        | {part: [one.before.int().tolist(), one.after.int().tolist()] for part, one in compared[method].items()}
        for method, choice in chosen.items()
    ]


def together(table: pd.DataFrame) -> tuple[Lines, dict[str, Lines]]:
    """From the rows of `network`: each method on all networks, and by network.

    A method that a network has no layer for changes nothing there.
    """
    efforts, compared = {}, {}
    for name, part in table.groupby("job", sort=False):
        rows = part.set_index("method")
        efforts[name] = rows[["chosen", "trials", "choice_seconds"]].to_dict("index")
        wrong = rows[[part for part in REPORTED if part in rows]].to_dict("index")
        compared[name] = {m: {s: Comparison(*torch.tensor(one[s]).bool()) for s in one} for m, one in wrong.items()}
    found, sums = {}, table.groupby("method", sort=False)[["trials", "choice_seconds"]].sum().to_dict("index")
    for method in sums:
        everywhere = [one.get(method) or _unchanged(one["editing"]) for one in compared.values()]
        pairs = zip(everywhere, compared.values(), strict=True)
        apart = sum(one["test"].after.int() - by["editing"]["test"].after.int() for one, by in pairs)
        found[method] = pooled(everywhere) | sums[method] | {"p_against_edit": signed_rank(apart.numpy())}
    return found, {name: lines(efforts[name], compared[name]) for name in compared}


def _unchanged(compared: Compared) -> Compared:
    return {name: Comparison(one.before, one.before) for name, one in compared.items()}


def main() -> None:
    """Choose for each network, report the test photos once, pool the networks."""
    arguments = parser(__doc__)
    arguments.add_argument("--selection", default="composites", choices=("composites", "split"))
    arguments.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME", help="classifiers of the zoo")
    arguments.add_argument("--store", type=Path, help="file for finished networks")
    arguments = arguments.parse_args()
    start(arguments)
    jobs = {name: name for name in arguments.networks}
    table = run(partial(network, arguments.selection), jobs, arguments.store, about=f"snow, {arguments.selection}")
    pooled_lines, networks = together(table)
    print(f"\n{', '.join(networks)} together")
    show(pooled_lines)
    everyday = about_budget(len(table["budget"].iloc[0][0]))
    seconds = float(table.groupby("job")["network_seconds"].first().sum())
    print(f"\n{seconds:.0f} s in all")
    run_as = {"networks": networks, "selection": arguments.selection, "seconds": seconds, "budget": everyday}
    finish(arguments, _edit_first(pooled_lines) | run_as)


def report(protocol: Protocol, found: Lines) -> None:
    """Print the sets, what was chosen and the table."""
    show_choices(protocol, {name: figure["chosen"] for name, figure in found.items()})
    show(found)


def show(found: Lines) -> None:
    """Print the table, a row for each method."""
    rows = []
    for name, figure in found.items():
        low, high = figure["errors_corrected_interval"]
        least, most = figure["accuracy_change_points_held_out_interval"]
        own = figure.get("own_class_errors_corrected")
        row = {
            "method": name,
            "trials": f"{figure['trials']:.0f}",
            "seconds": f"{figure['choice_seconds']:.0f}",
            "errors": f"{figure['errors_before']} → {figure['errors_after']}",
            "corrected / broken": f"{figure['corrected']} / {figure['broken']}",
            "errors corrected": f"{figure['errors_corrected']:+.0%} [{low:+.0%}, {high:+.0%}]",
            "p": f"{figure['p']:.2g}",
            **({} if own is None else {"own class": f"{own:+.0%}"}),
            "accuracy, budget": f"{figure['accuracy_change_points_budget']:+.2f}",
            "held out": f"{figure['accuracy_change_points_held_out']:+.2f} [{least:+.2f}, {most:+.2f}]",
            "live on snow": f"{figure['keep_errors_before']} → {figure['keep_errors_after']}",
            "p, edit": f"{figure['p_against_edit']:.2g}",
        }
        rows.append(row)
    print("\n" + pd.DataFrame(rows).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
