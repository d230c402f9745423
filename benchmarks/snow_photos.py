"""Vehicles on snow, real photographs, on four networks: an edit beside its controls, both fine-tunings and its rivals.

`--selection composites`: layer, exemplar, rank, mask, strength and what must stay are chosen on composites (roads of
MSRC photos turned to snow), and all 126 of the paper's snow photos are reported. `--selection nested`: chosen on snow
photos, by nested cross-validation: each of five folds is reported by an edit that was chosen on the four others; what
the edits cost elsewhere is the mean over the five. An accuracy budget of 0.25 points on one half of the ImageNet sample
bounds every choice; every line, controls too, is chosen in the same way and read once, also on the other half. The
first table pools the networks, its intervals are over photos. Needs the photographs (see README, 'Tiers'). With
`--store FOLDER` finished networks are kept: a run that was cut off goes on where it was.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import sqrt
from pathlib import Path
from statistics import NormalDist, mean
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import finish, parser, show_choices, start
from composites import LATE, snow_from_composites
from methods import choose_all, choose_untuned

from edittools.baselines import RIVALS, SCOPES
from edittools.choosing.choice import FOLDS, Choice, about_budget, cross_validated, folds_of
from edittools.choosing.duties import check_apart
from edittools.choosing.protocol import Plan, Protocol
from edittools.choosing.scenario import Scenario
from edittools.choosing.trials import Trials, grid
from edittools.graph import identity
from edittools.metrics import Comparison, corrected_interval, mcnemar
from edittools.probing.effects import signed_rank
from edittools.probing.jobs import run
from edittools.stories import photos
from edittools.stories.snow import snow_scenario
from edittools.zoo.downloads import available, registry
from edittools.zoo.load import load_classifier

NETWORKS = {
    "composites": ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "squeezenet1_1"),
    "nested": ("efficientnet_lite0", "squeezenet1_1"),
}
SLOW = {"steps": (20, 50), "localities": (1.0, 10.0, 100.0), "top": 1}
"""Rounds of fine-tuning on photographs, where a step takes a second."""

RATES = (1e-4, 1e-3, 1e-2, 1e-1)

FAST = grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=(0.0, 30.0))
"""Settings of an edit that is solved at once: the paper's, and those that spare everyday keys."""

STRENGTHS = (0.5, 1.0)

STEPS = (20, 100)
"""Steps of a fine-tuning where nothing is tried in rounds: `--selection nested`."""

FEWER = {"null_space": slice(0, None, 3), "closed_form": slice(0, None, 2), "last_layer": slice(5, 7)}
"""Which of a rival's settings `--selection nested` tries, where all would take too long: full rank of the null space,
every other weight of the closed form, two middle ridges of the last layer."""

REPORTED = ("test", "budget", "clean", "keep_report", "own", "elsewhere")

EFFORT = ("chosen", "trials", "choice_seconds", "choices")

Lines = dict[str, dict[str, Any]]  # by method: what was chosen, and its figures
Compared = dict[str, list[Comparison]]  # what a method did to each set, by each of its edits; on the test photos once


def evaluate(protocol: Protocol, plan: Plan) -> tuple[dict[str, Choice], dict[str, Compared]]:
    """Choose every method on the validation images and evaluate it once, on every set that is reported."""
    chosen = choose_all(protocol, plan)
    sets = {name: protocol.states[name] for name in REPORTED if name in protocol.states}
    return chosen, {m: {name: [part.compare(c.edit)] for name, part in sets.items()} for m, c in chosen.items()}


def figures(compared: Compared) -> dict[str, Any]:
    """What a method did to the test photos, to clean photos and to classes that live on snow."""
    own = {"own_class_errors_corrected": compared["own"][0].errors_corrected} if "own" in compared else {}
    return pooled([compared]) | own


def pooled(found: Sequence[Compared]) -> dict[str, Any]:
    """The figures of one method on several networks together: counts are sums, intervals are over photos."""
    test = pooled_row([one for compared in found for one in compared["test"]])
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
    """What a method costs elsewhere, the mean over its edits; errors of exceptions are summed over networks."""
    budget, clean = (pooled_row([one for compared in found for one in compared[name]]) for name in ("budget", "clean"))
    exceptions = [compared["keep_report"] for compared in found]
    changed = [one.broken / len(one.before) for compared in found for one in compared.get("elsewhere", ())]
    return ({"changed_elsewhere": mean(changed)} if changed else {}) | {
        "accuracy_change_points_budget": budget["accuracy change (points)"],
        "accuracy_change_points_held_out": clean["accuracy change (points)"],
        "accuracy_change_points_held_out_interval": (clean["accuracy low"], clean["accuracy high"]),
        "keep_errors_before": sum(mean(int(one.before.sum()) for one in edits) for edits in exceptions),
        "keep_errors_after": sum(mean(int(one.after.sum()) for one in edits) for edits in exceptions),
        "keep_images": sum(len(edits[0].before) for edits in exceptions),
    }


def measure(protocol: Protocol, plan: Plan) -> Lines:
    """Choose every line on the validation images and evaluate it once."""
    chosen, compared = evaluate(protocol, plan)
    return lines({name: effort(choice) for name, choice in chosen.items()}, compared)


def lines(efforts: Lines, compared: Mapping[str, Compared]) -> Lines:
    """The line of each method: its effort, its figures, and McNemar's p that it errs as often as the edit does."""
    edited, found = compared["editing"]["test"][0].after, {}
    for name, one in compared.items():
        apart = Comparison(edited, one["test"][0].after)
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
    protocol, efforts, compared = (_nested if selection == "nested" else _on_composites)(name)
    print(f"\n{name}")
    report(protocol, lines(efforts, compared))
    seconds = time.perf_counter() - started
    return [
        {"method": method, **efforts[method], "network_seconds": seconds}
        | {part: [_said(edits[0].before), *(_said(one.after) for one in edits)] for part, edits in one.items()}
        for method, one in compared.items()
    ]


def _said(wrong: torch.Tensor) -> list[int]:
    return wrong.int().tolist()


def _on_composites(name: str) -> tuple[Protocol, Lines, dict[str, Compared]]:
    """Choose on composites, report every photo of snow."""
    story = snow_from_composites(name, progress=True)
    protocol = Protocol(story, progress=True)
    plan = Plan(FAST, STRENGTHS, tuned=story.layers[::2], rates=RATES, **SLOW)
    chosen, compared = evaluate(protocol, plan)
    return protocol, {method: effort(choice) for method, choice in chosen.items()}, compared


def snow_to_cross_validate(name: str) -> Scenario:
    """The story with all photos of snow as `validation`, none as `test`, and every second of the late layers.

    Not the story's shortlist: that was found on photos of snow. Raises `ValueError` where an exemplar or an image of
    another set is among them.
    """
    story = snow_scenario("lite", name, progress=True)
    whole, layers = photos.snow_photos(story.classifier), story.layers[-LATE::2]
    shown = torch.stack([image for one in story.exemplars.values() for image in (one.image, one.changed)])
    others = {"exemplars": shown, "reference": story.reference, "keep": story.keep, "keep_report": story.keep_report}
    others |= {"budget": story.budget, "clean": story.clean}
    check_apart({"snow photos": whole, **others}, [("snow photos", duty) for duty in others])
    default = {"layer": layers[0], "exemplar": "minivan", "rank": 1, "masked": True}
    return replace(story, validation=whole, test=None, layers=layers, shortlist=layers, default=default)


def _nested(name: str) -> tuple[Protocol, Lines, dict[str, Compared]]:
    """Choose each method without each fold of the photos of snow, report every photo once."""
    protocol = Protocol(snow_to_cross_validate(name), progress=True)
    images, untuned = protocol.states["validation"], choose_untuned(protocol)
    folds, held_out = folds_of(images.labels), images.compare(untuned.edit)
    found = {"untuned": replace(untuned, held_out=held_out, folds=(untuned,) * FOLDS)}
    for method, trials in nested_trials(protocol):
        started = time.perf_counter()
        chosen = cross_validated(protocol.sweep(trials), images.before, folds, protocol.bounds)
        found[method] = replace(chosen, seconds=time.perf_counter() - started)
    sets = {part: protocol.states[part] for part in REPORTED if part in protocol.states}
    compared = {
        method: {part: [images.compare(c.edit) for c in one.folds] for part, images in sets.items()}
        | {"test": [one.held_out]}
        for method, one in found.items()
    }
    return protocol, {method: _nested_effort(one) for method, one in found.items()}, compared


def nested_trials(protocol: Protocol) -> Iterator[tuple[str, Trials]]:
    """What each method may try, by name; a rival that has nothing to change in a network is left out."""
    singles, tuned = protocol.story.exemplars, protocol.story.layers[1::2]
    for suffix, exemplars in {"": singles, "_several": {f"all {len(singles)}": list(singles.values())}}.items():
        yield f"editing{suffix}", protocol.rewriting(FAST, STRENGTHS, exemplars)
        yield f"random_direction{suffix}", protocol.random_directions(FAST, STRENGTHS, exemplars)
    for scope in SCOPES:
        yield f"finetune_{scope}", protocol.finetuning(grid(scope=(scope,), rate=RATES, steps=STEPS), layers=tuned)
    for name, (_, settings) in RIVALS.items():
        trials = protocol.rival(name, settings=settings[FEWER.get(name, slice(None))])
        if len(trials):
            yield name, trials


def _nested_effort(found: Choice) -> dict[str, Any]:
    """What was chosen without each fold, each with how often, among how many trials, in how many seconds."""
    counts = Counter(map(str, found.folds))
    said = "; ".join(f"{count} × {words}" for words, count in counts.most_common())
    return effort(found) | {"chosen": said, "choices": len(counts)}


def together(table: pd.DataFrame) -> tuple[Lines, dict[str, Lines]]:
    """From the rows of `network`: each method on all networks, and by network.

    A method that a network has no layer for changes nothing there.
    """
    efforts, compared = {}, {}
    for name, part in table.groupby("job", sort=False):
        rows = part.set_index("method")
        efforts[name] = rows[[part for part in EFFORT if part in rows]].to_dict("index")
        wrong = rows[[part for part in REPORTED if part in rows]].to_dict("index")
        compared[name] = {m: {part: _read(one[part]) for part in one} for m, one in wrong.items()}
    counted = [part for part in EFFORT[1:] if part in table]
    found, sums = {}, table.groupby("method", sort=False)[counted].sum().to_dict("index")
    for method in sums:
        everywhere = [one.get(method) or _unchanged(one["editing"]) for one in compared.values()]
        pairs = zip(everywhere, compared.values(), strict=True)
        apart = sum(one["test"][0].after.int() - by["editing"]["test"][0].after.int() for one, by in pairs)
        found[method] = pooled(everywhere) | sums[method] | {"p_against_edit": signed_rank(apart.numpy())}
    return found, {name: lines(efforts[name], compared[name]) for name in compared}


def _unchanged(compared: Compared) -> Compared:
    return {name: [Comparison(one.before, one.before) for one in edits] for name, edits in compared.items()}


def _read(wrong: Sequence[Sequence[int]]) -> list[Comparison]:
    """What each edit did, from which images were misread before and after each."""
    before, *after = torch.tensor(wrong).bool()
    return [Comparison(before, one) for one in after]


def main() -> None:
    """Choose for each network, report the test photos once, pool the networks."""
    arguments = parser(__doc__)
    arguments.add_argument("--selection", default="composites", choices=tuple(NETWORKS))
    arguments.add_argument("--networks", nargs="+", metavar="NAME", help="classifiers of the zoo")
    arguments.add_argument("--store", type=Path, help="folder for finished networks")
    arguments = arguments.parse_args()
    start(arguments)
    jobs = {name: name for name in arguments.networks or NETWORKS[arguments.selection]}
    networks = [identity(load_classifier(name)) for name in jobs]
    rivals = {name: settings for name, (_, settings) in RIVALS.items()}
    grids = [NETWORKS, SLOW, RATES, FAST, STRENGTHS, STEPS, FEWER, FOLDS, rivals]
    photos = [(name, registry()[name][0]) for name in available("")]  # fewer photos are another sweep
    about = f"snow, {arguments.selection} {networks} {photos} {grids}"
    table = run(partial(network, arguments.selection), jobs, arguments.store, about=about)
    pooled_lines, networks = together(table)
    print(f"\n{', '.join(networks)} together")
    show(pooled_lines)
    everyday = about_budget(len(table["budget"].iloc[0][0]))
    seconds = float(table.groupby("job")["network_seconds"].first().sum())
    print(f"\n{seconds:.0f} s in all")
    run_as = {"networks": networks, "selection": arguments.selection, "seconds": seconds, "budget": everyday}
    run_as |= {"folds": FOLDS} if arguments.selection == "nested" else {}
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
            "live on snow": f"{figure['keep_errors_before']:g} → {figure['keep_errors_after']:g}",
            **({"elsewhere": f"{figure['changed_elsewhere']:.1%}"} if "changed_elsewhere" in figure else {}),
            **({"choices": f"{figure['choices']:.0f}"} if "choices" in figure else {}),
            "p, edit": f"{figure['p_against_edit']:.2g}",
        }
        rows.append(row)
    print("\n" + pd.DataFrame(rows).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
