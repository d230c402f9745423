"""Does an edit cost robustness? Error rates before and after on corrupted images, for an edit and the fine-tunings.

The edit and the baselines are chosen as the notebooks choose them, on the validation images under the accuracy budget.
Each is followed from strength 0 to 1.5: accuracy on clean images that nothing was chosen on, errors on test images with
the concept, and accuracy on the same clean images under six corruptions at severities 1, 3 and 5. Draws
`out/robustness_<story>.png`. `--story typographic` does the same for the other story, `--tier lite` on photographs.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
from common import finish, parser, start
from snow_photos import describe

from edittools import benchmark as bench
from edittools import plots
from edittools.corruptions import corrupted_errors
from edittools.moments import second_moments
from edittools.scenarios import Scenario, snow_scenario, typographic_scenario

STORIES = {"snow": snow_scenario, "typographic": typographic_scenario}
STRENGTHS = (0.0, 0.5, 1.0, 1.5)


def choose(story: Scenario) -> tuple[dict[str, pd.Series], dict, dict[str, bench.Kept]]:
    """Choose an edit and both fine-tunings on the validation images, as the notebooks do."""
    data = {name: getattr(story, name) for name in ("validation", "test", "clean_validation", "clean")}
    cuts, kept = bench.prepare(story.classifier, story.shortlist, progress=True, **data)
    moments = second_moments(story.classifier, list(cuts), story.reference, progress=True)
    choices = bench.grid(rank=(1, 3), masked=(True,), objective=("l1", "least_squares"))
    choices += [{"rank": 10, "masked": True, "objective": "least_squares"}] if story.several else []
    exemplars, strengths = {**story.exemplars, **story.several}, (0.5, 1.0, 1.5) if story.several else (0.5, 1.0)
    trials = bench.rewriting_trials(cuts, exemplars, moments, choices, strengths)
    total = len(cuts) * len(exemplars) * len(choices) * len(strengths)
    found = {"edit": bench.select(bench.sweep(trials, kept["validation"], total, True), kept["clean_validation"])}
    few = {layer: cuts[layer] for layer in list(cuts)[:: 2 if len(cuts) > 3 else 1]}
    for scope in ("local", "global"):
        rates = bench.grid(scope=(scope,), rate=(1e-3, 1e-2, 1e-1), steps=(20,))
        trials = bench.finetuning_trials(few, exemplars, rates)
        table = bench.sweep(trials, kept["validation"], len(few) * len(exemplars) * len(rates), True)
        found[f"{scope} fine-tuning"] = bench.select(table.assign(locality=0.0), kept["clean_validation"])
    return found, cuts, kept


def measure(story: Scenario, images: int = 600) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Give the curves (method, strength, shares), error rates by corruption at strength 1, and what was chosen."""
    found, cuts, kept = choose(story)
    scaled = {(name, strength): strength * row.edit for name, row in found.items() for strength in STRENGTHS}
    count = len(story.clean)
    clean = story.clean.subset(range(0, count, -(-count // images)))
    corrupted = corrupted_errors(cuts, scaled, clean, progress=True)
    rows = []
    for (name, strength), edit in scaled.items():
        after = {which: kept[which].compare(edit).after.float().mean() for which in ("clean", "test")}
        rows.append({
            "method": name,
            "strength": strength,
            "accuracy": 1 - float(after["clean"]),
            "corrupted accuracy": 1 - float(corrupted[name, strength].mean()),
            "concept errors": float(after["test"]),
        })  # fmt: skip
    whole = corrupted[["before", *((name, 1.0) for name in found)]].set_axis(["before", *found], axis=1)
    return pd.DataFrame(rows), whole, {name: describe(row) for name, row in found.items()}


def conclude(arguments: argparse.Namespace, curves: pd.DataFrame, whole: pd.DataFrame, started: float) -> None:
    """Print the tables, draw the figure and, when asked for, print the JSON line."""
    by_kind = 100 * whole.groupby(level="corruption", sort=False).mean()
    print("Error rate (%) under each corruption, mean of its severities:\n")
    print(pd.concat([by_kind, (100 * whole).mean().to_frame("all").T]).round(1).to_string())
    print("\nAlong the strength α (%):\n")
    print(curves.set_index(["method", "strength"]).mul(100).round(1).to_string())
    path = Path(__file__).resolve().parent.parent / "out" / f"robustness_{arguments.story}.png"
    path.parent.mkdir(exist_ok=True)
    plots.robustness_curves(curves).savefig(path, dpi=120)
    seconds = time.perf_counter() - started
    print(f"\nout/{path.name}, {seconds:.0f} s in all")
    means = whole.mean()
    finish(arguments, {
        "story": arguments.story,
        "corrupted_error_rate": means.to_dict(),
        "corrupted_error_change_points": (100 * (means - means["before"])).drop("before").to_dict(),
        "by_corruption": {kind: row.to_dict() for kind, row in (by_kind / 100).iterrows()},
        "curves": curves.to_dict("records"),
        "seconds": seconds,
    })  # fmt: skip


def main() -> None:
    """Choose, corrupt, report."""
    arguments = parser(__doc__)
    arguments.add_argument("--story", default="snow", choices=STORIES)
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite"))
    arguments.add_argument("--images", type=int, default=600, help="clean images that are corrupted, at most")
    arguments = arguments.parse_args()
    start(arguments)
    started = time.perf_counter()
    curves, whole, chosen = measure(STORIES[arguments.story](arguments.tier, progress=True), arguments.images)
    print("\n".join(f"  {name:<20}{words}" for name, words in chosen.items()), "\n")
    conclude(arguments, curves, whole, started)


if __name__ == "__main__":
    main()
