"""One exemplar or a hundred: how near every method brings MiniWorld's network to a world without its rules.

The network was trained where cars stand on roads and cows on grass. An exemplar is a scene of a class on its own
ground, and on another; there are 26 × 5 of them. Every method is given the first 1, 3, 10, 30 and 130, and chosen by
one rule: the lowest loss on balanced validation scenes, in which class and ground are independent, within half a point
of accuracy on natural ones. Reported are other balanced and other natural scenes. Every method has 24 trials; its
seconds stand beside. Those of one layer are tried in the later four convolutions; fine-tuning, which costs most, from
the last two, at three rates and four points of early stopping.

The grids are not equally informed: those of the edit were narrowed by 312 trials on other scenes, with 130 exemplars;
those of the other methods were written down untried.
"""

import time
from functools import partial
from typing import Any

from common import finish, parser, start
from grounds import balanced_scenario

from edittools.choosing import Choice, Protocol, grid
from edittools.choosing.trials import Trials
from edittools.graph import identity
from edittools.probing.jobs import run

COUNTS, BUDGET, STRENGTHS = (130, 1, 10, 30, 3), 0.5, (0.5, 1.0)
SETTINGS = [
    {"rank": rank, "objective": "least_squares", "reference_weight": weight}
    for rank, weight in ((3, 30.0), (30, 30.0), (None, 100.0))
]
RANDOM = [one | {"rank": one["rank"] or 60} for one in SETTINGS]
WEIGHTS, SPARED = grid(weight=(1.0, 100.0, 1e4)), grid(share=(0.9, 0.99, 0.999))
PROJECTED = [{"direction": "mean"}, {"direction": "probe", "ridge": 1.0}, {"direction": "leace", "ridge": 1e-1}]
HEAD = grid(share=(0.1, 0.3, 0.5, 0.9), ridge=(1e-3, 1e-2, 1e-1))
TUNED = {"rate": (3e-3, 1e-2, 3e-2), "momentum": (0.9,), "locality": (10.0,)}
STEPS = (5, 10, 20, 40)


def tries(protocol: Protocol, shown: dict[str, Any]) -> dict[str, Trials]:
    """The trials of every method by name, 24 each."""
    rival = partial(protocol.rival, strengths=STRENGTHS, exemplars=shown)
    found = {
        "editing": protocol.rewriting(SETTINGS, STRENGTHS, shown),
        "random_direction": protocol.random_directions(RANDOM, STRENGTHS, shown),
        "closed_form": rival("closed_form", settings=WEIGHTS),
        "null_space": rival("null_space", settings=SPARED),
        "projection": rival("projection", settings=PROJECTED),
        "last_layer": rival("last_layer", settings=HEAD),
    }
    for scope in ("local", "global"):
        settings = grid(scope=(scope,), **TUNED, steps=STEPS)
        found[f"finetune_{scope}_locality"] = protocol.finetuning(settings, shown, list(protocol.cuts)[-2:])
    return found


def line(protocol: Protocol, method: str, count: int, choice: Choice) -> dict[str, Any]:
    """A choice, evaluated once."""
    found = {"exemplars": count, "method": method}
    for name, title in (("test", "balanced"), ("clean", "natural")):
        compared = protocol.states[name].compare(choice.edit)
        low, high = compared.accuracy_interval()
        found |= {f"{title}_accuracy": 100 * (1 - float(compared.after.float().mean()))}
        found |= {f"{title}_change_points": compared.accuracy_change, f"{title}_change_points_interval": [low, high]}
    found |= {"budget_change_points": choice.accuracy_change, "trials": choice.trials}
    return found | {"seconds": choice.seconds, "chosen": str(choice)}


def measure(protocol: Protocol, count: int) -> list[dict[str, Any]]:
    """Choose for every method from so many exemplars, and report each choice once."""
    story, name = protocol.story, f"{count} exemplars"
    shown = {name: story.several[name]}
    found = {}
    for method, trials in tries(protocol, shown).items():
        found[method] = protocol.choose(trials, BUDGET)
    return [line(protocol, method, count, choice) for method, choice in found.items()]


def main() -> None:
    """Choose on validation scenes, report the test scenes once."""
    arguments = parser(__doc__)
    arguments.add_argument("--exemplars", type=int, nargs="+", default=COUNTS, help="how many, each a run")
    arguments.add_argument("--store", help="folder of finished runs, so that a run that was cut off goes on")
    options = arguments.parse_args()
    start(options)
    started = time.perf_counter()
    story = balanced_scenario(options.exemplars, progress=True)
    protocol = Protocol(story, story.shortlist, progress=True)
    jobs = {f"{count} exemplars": count for count in options.exemplars}
    grids = [BUDGET, STRENGTHS, SETTINGS, RANDOM, WEIGHTS, SPARED, PROJECTED, HEAD, TUNED, STEPS]
    images = [data.digest() for data in story.sets.values()]
    about = f"many exemplars {identity(story.classifier)} {images} {grids}"
    table = run(partial(measure, protocol), jobs, options.store, about=about)
    before = {
        f"{title}_accuracy_before": 100 * (1 - float(protocol.states[name].before.float().mean()))
        for name, title in (("test", "balanced"), ("clean", "natural"))
    }
    print(before)
    shown = table.drop(columns=["job", *(name for name in table if name.endswith("interval"))])
    print("\n" + shown.to_string(index=False, float_format="{:.2f}".format))
    figures = {"rows": table.sort_values("exemplars", kind="stable").drop(columns="job").to_dict("records")}
    finish(options, before | figures | {"budget_points": BUDGET, "seconds": time.perf_counter() - started})


if __name__ == "__main__":
    main()
