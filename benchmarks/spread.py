"""How much a method's result depends on its exemplar and its seed: MiniWorld's snow, one method after the other.

For each of several cars, each the only exemplar, the edit and local fine-tuning with a locality
term (which also holds the kept images) are chosen in the same way, on the same validation scenes, under the same budget
and bound on kept scenes, and reported. Fine-tuning needs the exemplar's label, the edit does not. Fine-tuning draws its
reference batches at random, so its choice is also made again with other seeds. A third method is one setting of local
fine-tuning that an earlier, wider search had found best for one car, given to every car: no choice and no bound. Says
mean, spread, worst and seconds.
"""

import time
from dataclasses import replace

import pandas as pd
from common import finish, parser, start

from edittools.baselines import finetune
from edittools.choosing import SPARING, Choice, Plan, Protocol, grid, repeated_trials, sweep
from edittools.stories.snow import car_exemplars, snow_scenario

FOUND = {"layer": "features.5", "scope": "local", "rate": 3e-3, "steps": 100, "locality": 30.0, "batch_size": 16}
RATES, MOMENTA, LOCALITIES, STEPS = (3e-3, 1e-2), (0.0, 0.9), (10.0, 30.0, 100.0), (20, 100)


def tuned(protocol: Protocol, name: str) -> Choice:
    """Local fine-tuning: every layer, rate and momentum for a few steps, then every layer's best with each locality."""
    exemplars, started = {name: protocol.story.exemplars[name]}, time.perf_counter()
    validation = protocol.states["validation"]
    settings = grid(scope=("local",), rate=RATES, momentum=MOMENTA, steps=STEPS)
    plain = sweep(protocol.finetuning(settings, exemplars), validation)
    best = plain.assign(locality=0.0).sort_values("loss").drop_duplicates("layer")
    near = repeated_trials(best, protocol.cuts, exemplars, STEPS, LOCALITIES, protocol.everyday_states(best.layer))
    chosen = protocol.choose(pd.concat([plain.assign(locality=0.0), sweep(near, validation)], ignore_index=True))
    return replace(chosen, seconds=time.perf_counter() - started)


def found_before(protocol: Protocol, name: str, seed: int) -> Choice:
    """The one setting of an earlier search, without kept images, whether it keeps the bounds or not."""
    started, setting = time.perf_counter(), dict(FOUND)
    cut, exemplar = protocol.cuts[setting.pop("layer")], protocol.story.exemplars[name]
    edit = finetune(cut.classifier, cut, exemplar, reference=protocol.story.reference, seed=seed, **setting)
    settings, budget = {**FOUND, "exemplar": name}, protocol.states["budget"].compare(edit)
    return Choice(edit, settings, {}, budget, trials=1, seconds=time.perf_counter() - started)


def again(protocol: Protocol, choice: Choice, seed: int) -> Choice:
    """The same fine-tuning with another order of the reference batches."""
    names = ("scope", "rate", "momentum", "steps", "locality", "batch_size")
    setting = {name: choice.settings[name] for name in names if choice.settings.get(name) is not None}
    layer, name = choice.settings["layer"], choice.settings["exemplar"]
    setting |= {"steps": int(setting["steps"]), "seed": seed, "batch_size": int(setting.get("batch_size", 16))}
    near, exemplar = protocol.everyday_states([layer]).batches(layer), protocol.story.exemplars[name]
    edit = finetune(protocol.story.classifier, protocol.cuts[layer], exemplar, reference=near, **setting)
    return replace(choice, edit=edit)


def row(method: str, name: str, seed: int, choice: Choice, protocol: Protocol) -> dict[str, object]:
    """A choice, reported."""
    found = protocol.report({"one": choice.edit}).iloc[0]
    kept = int(found["keep_report after"] - found["keep_report before"])
    who = {"method": method, "exemplar": name, "seed": seed}
    gain = {"corrected": int(found.corrected), "broken": int(found.broken), "share": found["errors corrected"]}
    cost = {"held out": found["clean change"], "budget": found["budget change"], "keep broken": kept}
    return {**who, **gain, **cost, "seconds": choice.seconds, "trials": choice.trials, "chosen": str(choice)}


def main() -> None:
    """Choose for each exemplar, report each choice once."""
    arguments = parser(__doc__)
    arguments.add_argument("--exemplars", type=int, default=6, help="cars, each the only exemplar")
    arguments.add_argument("--seeds", type=int, default=3, help="orders of the reference batches")
    options = arguments.parse_args()
    start(options)
    started = time.perf_counter()
    story = snow_scenario("mini", progress=True)
    story = replace(story, exemplars=car_exemplars(story.classifier, options.exemplars))
    protocol = Protocol(story, story.layers[len(story.layers) // 3 :], progress=True)
    rows = []
    for name, exemplar in story.exemplars.items():
        trials = protocol.rewriting(
            grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=SPARING),
            Plan().strengths, {name: exemplar}, story.shortlist,
        )  # fmt: skip
        rows.append(row("edit", name, 0, protocol.choose(trials), protocol))
        choice = tuned(protocol, name)
        rows.append(row("local fine-tuning", name, 0, choice, protocol))
        for seed in range(1, options.seeds if choice.found and choice.settings.get("locality") else 1):
            rows.append(row("local fine-tuning", name, seed, again(protocol, choice, seed), protocol))
        for seed in range(options.seeds):
            fixed = found_before(protocol, name, seed)
            rows.append(row("local fine-tuning, one setting", name, seed, fixed, protocol))
        print(pd.DataFrame(rows[-2:]).to_string(index=False), flush=True)
    table = pd.DataFrame(rows)
    figures = ["share", "corrected", "broken", "held out", "budget", "keep broken", "seconds"]
    summary = table.groupby("method", sort=False)[figures].agg(["mean", "std", "min", "max"])
    print("\n" + table.to_string(index=False))
    print("\n" + summary.T.to_string(float_format="{:.3f}".format))
    print(f"\n{protocol.about_budget()}")
    methods = {name: {f"{a} {b}": value for (a, b), value in line.items()} for name, line in summary.iterrows()}
    finish(options, {"rows": rows, "methods": methods, "seconds": time.perf_counter() - started})


if __name__ == "__main__":
    main()
