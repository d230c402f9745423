"""Random directions on MiniWorld's snow: five of them, each selected like the edit, and their range.

The control of the other pages is one draw of random directions. Here the same selection is made for several draws. Only
least squares is tried, which both the edit and the control of `snow_miniworld.py` select.
"""

from statistics import mean
from typing import Any

from columns import RANDOM, table
from common import finish, parser, start

from edittools.baselines import rewrite_at_random
from edittools.scenarios.snow import snow_scenario
from edittools.selection.search import SPARING, Protocol
from edittools.selection.trials import grid

SETTINGS = grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=SPARING)
STRENGTHS = (0.5, 1.0, 1.5)


def at_random(protocol: Protocol, seed: int) -> dict[str, Any]:
    """Select among candidates along the random directions of one seed, and evaluate the selected edit."""
    settings = [{**setting, "seed": seed} for setting in SETTINGS]
    chosen = protocol.choose(protocol.baseline(rewrite_at_random, STRENGTHS, settings=settings))
    test, clean, retained = (protocol.states[name].compare(chosen.edit) for name in ("test", "clean", "keep_report"))
    row = {"seed": seed, "chosen": str(chosen), "candidates": chosen.trials, **test.row()}
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
    protocol = Protocol(snow_scenario("mini", progress=True))
    rows = []
    for seed in range(options.seeds):
        rows.append(at_random(protocol, seed))
        print(rows[-1], flush=True)
    shares = [row["errors corrected"] for row in rows]
    print("\n" + table(RANDOM, rows))
    summary = {"mean": mean(shares), "lowest": min(shares), "highest": max(shares)}
    finish(options, {"draws": rows, **summary, "budget": protocol.about_budget()})


if __name__ == "__main__":
    main()
