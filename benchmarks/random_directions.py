"""Random directions on MiniWorld's snow: five of them, each selected like the edit, and their range.

The control of the other pages is one draw of random directions. Here the same selection is made for several draws. Only
least squares is tried, which both the edit and the control of `snow_miniworld.py` select.
"""

from statistics import mean
from typing import Any

from columns import RANDOM, table
from common import finish, parser, start
from methods import search_of

from edittools.baselines import rewrite_at_random
from edittools.scenarios.snow import snow_scenario
from edittools.selection.search import REFERENCE_WEIGHTS, EditSearch, grid

SETTINGS = grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=REFERENCE_WEIGHTS)
STRENGTHS = (0.5, 1.0, 1.5)


def at_random(search: EditSearch, seed: int) -> dict[str, Any]:
    """Select among candidates along the random directions of one seed, and evaluate the selected edit."""
    settings = [{**setting, "seed": seed} for setting in SETTINGS]
    selection = search.select(search.candidates(rewrite_at_random, settings, STRENGTHS))
    splits = ("target_test", "clean_test", "retain_test")
    test, clean, retained = (search.activations[name].compare(selection.edit) for name in splits)
    row = {"seed": seed, "chosen": str(selection), "candidates": selection.n_candidates, **test.row()}
    row["low"], row["high"] = test.corrected_interval()
    row["accuracy"] = clean.accuracy_change
    row["retained_before"] = int(retained.before.sum())
    row["retained_after"] = int(retained.after.sum())
    return row


def main() -> None:
    """Select and evaluate along the random directions of each seed, and print the mean and the range."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=5, help="number of draws")
    options = start(arguments)
    search = search_of(snow_scenario("mini", progress=True))
    rows = []
    for seed in range(options.seeds):
        rows.append(at_random(search, seed))
        print(rows[-1], flush=True)
    shares = [row["errors corrected"] for row in rows]
    print("\n" + table(RANDOM, rows))
    summary = {"mean": mean(shares), "lowest": min(shares), "highest": max(shares)}
    finish(options, {"draws": rows, **summary, "budget": search.describe_constraints()})


if __name__ == "__main__":
    main()
