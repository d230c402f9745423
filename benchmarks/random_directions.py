"""Claim: the edit exceeds random directions by more than one draw of them suggests (rendered vehicles on snow).

The control of the other experiments is one draw of random directions. Here the same selection is made for several
draws. Only least squares is tried, which both the edit and the control of `snow_miniworld.py` select.
"""

import argparse

from _lib.command import parser, run
from _lib.methods import QUICK, search_of, small
from _lib.results import Results

from edittools.baselines import rewrite_at_random
from edittools.scenarios.snow import snow_scenario
from edittools.selection.search import REFERENCE_WEIGHTS, EditSearch, grid

SETTINGS = grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=REFERENCE_WEIGHTS)
STRENGTHS = (0.5, 1.0, 1.5)


def add_draw(results: Results, search: EditSearch, seed: int, settings: list[dict] = SETTINGS) -> None:
    """Select among candidates along the random directions of one seed, and evaluate the selected edit."""
    seeded = [{**setting, "seed": seed} for setting in settings]
    selection = search.select(search.candidates(rewrite_at_random, seeded, STRENGTHS))
    splits = ("target_test", "clean_test", "retain_test")
    test, clean, retained = (search.activations[name].compare(selection.edit) for name in splits)
    where = {"network": "mini_vgg", "method": "random direction", "condition": f"seed {seed}"}
    errors = int(test.before.sum())
    interval = test.corrected_interval()
    results.add("errors before", errors, split="target_test", **where)
    results.add("corrected", test.corrected, split="target_test", **where)
    results.add("broken", test.broken, split="target_test", **where)
    results.add("errors corrected", test.errors_corrected, split="target_test", interval=interval, n=errors, **where)
    results.add("accuracy change", clean.accuracy_change, split="clean_test", **where)
    results.add("errors before", int(retained.before.sum()), split="retain_test", n=len(retained.before), **where)
    results.add("errors after", int(retained.after.sum()), split="retain_test", n=len(retained.before), **where)
    results.add("candidates", selection.n_candidates, **where)
    results.add_selected(str(selection), "mini_vgg", "random direction", condition=f"seed {seed}")
    for split, found in {"target_test": test, "clean_test": clean, "retain_test": retained}.items():
        pair = found.before.int().tolist(), found.after.int().tolist()
        results.add_outcomes(*pair, network="mini_vgg", method=f"random direction, seed {seed}", split=split)


def experiment(options: argparse.Namespace) -> Results:
    """Select and evaluate along the random directions of each seed."""
    scenario = snow_scenario("mini", progress=True)
    search = search_of(small(scenario) if options.quick else scenario)
    results = Results("random_directions", "MiniWorld", notes={"constraints": search.describe_constraints()})
    for seed in range(1 if options.quick else options.seeds):
        add_draw(results, search, seed, QUICK.settings if options.quick else SETTINGS)
        print(results.selected[-1], flush=True)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=5, help="number of draws")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
