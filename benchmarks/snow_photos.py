"""Vehicles on snow, real photographs, on four networks: an edit beside its controls, both fine-tunings and its rivals.

Layer, exemplar, rank, mask, strength and what must stay are chosen on composites (roads of MSRC photos turned to snow),
and all 126 of the paper's snow photos are reported. An accuracy budget of 0.25 points on one half of the ImageNet
sample bounds every choice; every line, controls too, is chosen in the same way and read once, also on the other half.
The first table pools the networks, its intervals are over photos. Needs the photographs (see README, 'Tiers'). With
`--store FOLDER` finished networks are kept: a run that was cut off goes on where it was.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import NormalDist, mean
from typing import Any

import numpy as np
import pandas as pd
import torch
from columns import SNOW, by_method
from common import finish, parser, show_choices, start
from composites import snow_from_composites
from methods import choose_all

from edittools.baselines import RIVALS
from edittools.choosing.choice import Choice, about_budget
from edittools.choosing.protocol import Plan, Protocol
from edittools.choosing.trials import grid
from edittools.graph import identity
from edittools.metrics import Comparison, corrected_interval, mcnemar
from edittools.probing.effects import signed_rank
from edittools.probing.jobs import run
from edittools.zoo.downloads import available, registry
from edittools.zoo.load import load_classifier

NETWORKS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "squeezenet1_1")
SLOW = {"steps": (20, 100), "localities": (1.0, 10.0, 100.0), "top": 2}
"""Rounds of fine-tuning on photographs, where a step takes a second."""

RATES = (1e-4, 1e-3, 1e-2, 1e-1)

FAST = grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=(0.0, 30.0))
"""Settings of an edit that is solved at once: the paper's, and those that spare everyday keys."""

STRENGTHS = (0.5, 1.0)

REPORTED = ("test", "budget", "clean", "keep_report", "own", "elsewhere")

EFFORT = ("chosen", "trials", "choice_seconds")

Lines = dict[str, dict[str, Any]]  # by method: what was chosen, and its figures
Compared = dict[str, Comparison]  # what a method did to each set


def evaluate(protocol: Protocol, plan: Plan) -> tuple[dict[str, Choice], dict[str, Compared]]:
    """Choose every method on the validation images and evaluate it once, on every set that is reported."""
    chosen = choose_all(protocol, plan)
    sets = {name: protocol.states[name] for name in REPORTED if name in protocol.states}
    return chosen, {m: {name: part.compare(c.edit) for name, part in sets.items()} for m, c in chosen.items()}


def figures(compared: Compared) -> dict[str, Any]:
    """What a method did to the test photos, to clean photos and to classes that live on snow."""
    own = {"own_class_errors_corrected": compared["own"].errors_corrected} if "own" in compared else {}
    return pooled([compared]) | own


def pooled(found: Sequence[Compared]) -> dict[str, Any]:
    """The figures of one method on several networks together: counts are sums, intervals are over photos."""
    test = pooled_row([compared["test"] for compared in found])
    names = ("errors before", "errors after", "corrected", "broken", "errors corrected")
    return {name.replace(" ", "_"): test[name] for name in names} | {
        "errors_corrected_interval": (test["low"], test["high"]),
        "p": test["p"],
        **_costs(found),
    }


def pooled_row(found: Sequence[Comparison]) -> dict[str, float]:
    """What edits of several classifiers did to the same images, as one table row: counts are sums over classifiers.

    Images are the sample, not classifiers × images: `low` and `high` bound the errors corrected (eq. 2), p is
    Wilcoxon's that an image is misread by as many classifiers before as after, the accuracy change is the classifiers'
    mean. Raises `ValueError` where the numbers of images differ.
    """
    if len({len(one.before) for one in found}) != 1:
        raise ValueError(f"{[len(one.before) for one in found]} images: expected the same ones for each classifier")
    before, after = (np.array([getattr(one, when).numpy() for one in found]) for when in ("before", "after"))
    wrong, fixed, lost = before.sum(axis=0), (before & ~after).sum(axis=0), (~before & after).sum(axis=0)
    gain, either = fixed - lost, (0.0, 0.0) if before.all() else _independent(lost, lost + wrong)
    low, high = corrected_interval(*_independent(fixed, wrong), *either)
    change = np.append(gain / len(found), [1, -1])
    spread = NormalDist().inv_cdf(0.975) * change.std() / sqrt(len(change))
    return {
        "images": len(wrong),
        "errors before": int(wrong.sum()),
        "errors after": int(wrong.sum() - gain.sum()),
        "corrected": int(fixed.sum()),
        "broken": int(lost.sum()),
        "errors corrected": float(gain.sum() / wrong.sum()) if wrong.any() else float("nan"),
        "low": low,
        "high": high,
        "p": signed_rank(gain),
        "accuracy change (points)": 100 * float(gain.mean()) / len(found),
        "accuracy low": 100 * max(change.mean() - spread, -1.0),
        "accuracy high": 100 * min(change.mean() + spread, 1.0),
    }


def _independent(counts: np.ndarray, totals: np.ndarray) -> tuple[float, float]:
    """How many independent readings, and of how many, say as much as `(N,)` counts of totals an image."""
    share, most = counts.sum() / max(totals.sum(), 1), np.square(totals).sum() / max(totals.sum(), 1)
    alone = share * (1 - share) * totals.sum()
    spread = np.square(counts - share * totals).sum() / alone if alone else most
    size = float(totals.sum() / max(min(max(spread, 1.0), most), 1.0))
    return float(share) * size, size


def _costs(found: Sequence[Compared]) -> dict[str, Any]:
    """What a method costs elsewhere; errors of exceptions are summed over networks."""
    budget, clean = (pooled_row([compared[name] for compared in found]) for name in ("budget", "clean"))
    exceptions = [compared["keep_report"] for compared in found]
    elsewhere = [compared["elsewhere"] for compared in found if "elsewhere" in compared]
    changed = [one.broken / len(one.before) for one in elsewhere]
    return ({"changed_elsewhere": mean(changed)} if changed else {}) | {
        "accuracy_change_points_budget": budget["accuracy change (points)"],
        "accuracy_change_points_held_out": clean["accuracy change (points)"],
        "accuracy_change_points_held_out_interval": (clean["accuracy low"], clean["accuracy high"]),
        "keep_errors_before": sum(int(one.before.sum()) for one in exceptions),
        "keep_errors_after": sum(int(one.after.sum()) for one in exceptions),
        "keep_images": sum(len(one.before) for one in exceptions),
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


def network(name: str) -> list[dict[str, Any]]:
    """One row a method on a network: its effort, and which images of each set were misread before and after."""
    started = time.perf_counter()
    story = snow_from_composites(name, progress=True)
    protocol = Protocol(story, progress=True)
    plan = Plan(FAST, STRENGTHS, tuned=story.layers[::2], rates=RATES, **SLOW)
    chosen, compared = evaluate(protocol, plan)
    efforts = {method: effort(choice) for method, choice in chosen.items()}
    print(f"\n{name}")
    report(protocol, lines(efforts, compared))
    seconds = time.perf_counter() - started
    return [
        {"method": method, **efforts[method], "network_seconds": seconds}
        | {part: [one.before.int().tolist(), one.after.int().tolist()] for part, one in sets.items()}
        for method, sets in compared.items()
    ]


def together(table: pd.DataFrame) -> tuple[Lines, dict[str, Lines]]:
    """From the rows of `network`: each method on all networks, and by network.

    A method that a network has no layer for changes nothing there.
    """
    efforts, compared = {}, {}
    for name, part in table.groupby("job", sort=False):
        rows = part.set_index("method")
        efforts[name] = rows[[*EFFORT]].to_dict("index")
        wrong = rows[[part for part in REPORTED if part in rows]].to_dict("index")
        compared[name] = {
            m: {part: Comparison(*torch.tensor(one[part]).bool()) for part in one} for m, one in wrong.items()
        }
    found, sums = {}, table.groupby("method", sort=False)[[*EFFORT[1:]]].sum().to_dict("index")
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
    arguments.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME", help="classifiers of the zoo")
    arguments.add_argument("--store", type=Path, help="folder for finished networks")
    arguments = arguments.parse_args()
    start(arguments)
    jobs = {name: name for name in arguments.networks}
    networks = [identity(load_classifier(name)) for name in jobs]
    rivals = {name: settings for name, (_, settings) in RIVALS.items()}
    grids = [SLOW, RATES, FAST, STRENGTHS, rivals]
    photos = [(name, registry()[name][0]) for name in available("")]  # fewer photos are another sweep
    about = f"snow {networks} {photos} {grids}"
    table = run(network, jobs, arguments.store, about=about)
    pooled_lines, networks = together(table)
    print(f"\n{', '.join(networks)} together")
    print(by_method(SNOW, pooled_lines))
    everyday = about_budget(len(table["budget"].iloc[0][0]))
    seconds = float(table.groupby("job")["network_seconds"].first().sum())
    print(f"\n{seconds:.0f} s in all")
    finish(arguments, _edit_first(pooled_lines) | {"networks": networks, "seconds": seconds, "budget": everyday})


def report(protocol: Protocol, found: Lines) -> None:
    """Print the sets, what was chosen and the table."""
    show_choices(protocol, {name: figure["chosen"] for name, figure in found.items()})
    print("\n" + by_method(SNOW, found), flush=True)


if __name__ == "__main__":
    main()
