"""The large synthetic benchmark (section 4 of the paper): concepts × styles × methods, case by case.

    python benchmarks/synthetic.py --tier mini                 MiniWorld, nothing is downloaded
    python benchmarks/synthetic.py --tier lite                 photographs (see README, 'Tiers')
    python benchmarks/synthetic.py --tier lite --models efficientnet_lite0 squeezenet1_1     one after the other

With `--store FOLDER` finished cases are kept: a run that was cut off goes on where it was. `--workers 0` computes in
this process.
"""

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
from common import finish, parser, start

from edittools.choosing.choice import BUDGET, about_budget
from edittools.stories import synthetic as syn


def sweep(source: syn.Source, targets: int, workers: int, store: Path | None) -> pd.DataFrame:
    """Run all cases, in this process or in several."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn) if workers else nullcontext()
    with pool as executor:
        return syn.sweep(source, syn.cases(source, targets), store=store, executor=executor, progress=True)


def show(table: pd.DataFrame) -> pd.DataFrame:
    """Print the results by method, by layer, concept and style; give the first."""
    pd.options.display.width, pd.options.display.max_columns = 220, 30
    result = syn.summary(table).set_index(["method", "measure"])
    percent = [f"{100 * r['mean']:+.0f} [{100 * r.low:+.0f}, {100 * r.high:+.0f}]" for _, r in result.iterrows()]
    wide = pd.Series(percent, result.index).unstack(sort=False)[list(syn.MEASURES)]
    wide["accuracy"] = result.xs("other same", level="measure").accuracy_change.round(2)
    undefined = table[table.method == "undefined"]
    print(f"\n{table.job.nunique()} cases, {undefined.job.nunique()} without errors enough to correct, excluded")
    print("Errors corrected (%), mean over cases with 95 % bootstrap interval; budget", BUDGET, "points\n")
    print(wide.to_string())
    for by in ("layer", "concept", "style"):
        print(f"\nerrors corrected (%) on other classes, by {by}")
        shares = table[table.budget == BUDGET].pivot_table("other same", "method", by, sort=False)
        print(shares.mul(100).round().to_string())
    costs = table.pivot_table("other same", "method", "budget", sort=False)
    print("\nby accuracy budget (points)\n" + costs.mul(100).round().to_string())
    return result


def methods(result: pd.DataFrame) -> dict[str, dict[str, object]]:
    """The summary by method: of each measure the mean with its interval, and the accuracy change in points."""
    return {
        method: {name: list(row) for name, row in part.droplevel(0)[["mean", "low", "high"]].iterrows()}
        | {"accuracy_change_points": part.accuracy_change.iloc[0]}
        for method, part in result.groupby(level=0, sort=False)
    }


def figures(result: pd.DataFrame) -> dict[str, object]:
    """The edit's share of errors corrected, by measure, beside the best fine-tuning's."""
    same = result.xs("other same", level="measure")
    best = same["mean"][list(syn.FINETUNING)].idxmax()
    return {
        "editing_other_classes": same.loc["editing", "mean"],
        "editing_other_classes_interval": same.loc["editing", ["low", "high"]].tolist(),
        "editing_other_classes_held_out_style": result.loc[("editing", "other held out"), "mean"],
        "editing_target_class": result.loc[("editing", "target same"), "mean"],
        "best_finetuning_other_classes": same.loc[best, "mean"],
        "best_finetuning_other_classes_interval": same.loc[best, ["low", "high"]].tolist(),
        "accuracy_change_points": same.loc["editing", "accuracy_change"],
    }


def one_model(arguments: argparse.Namespace, model: str | None) -> tuple[dict[str, object], pd.DataFrame]:
    """Sweep one model and print the tables: the cases, those without errors enough, the budget and the methods."""
    source = syn.synthetic_source(arguments.tier, model, arguments.small)
    _, _, everyday = syn.story_of(source)
    print(f"\n{model or source[1]}, layers {', '.join(everyday['layers'])}")
    table = sweep(source, arguments.targets, arguments.workers, arguments.store)
    without, result = table[table.method == "undefined"].job.nunique(), show(table)
    counts = {"cases": table.job.nunique() - without, "cases_without_errors": without}
    counts["budget"] = about_budget(len(everyday["budget"]))
    return {**counts, "layers": everyday["layers"], "methods": methods(result)}, result


def main() -> None:
    """Sweep one model or several, and write what came out."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite", "paper"))
    arguments.add_argument("--models", nargs="+", metavar="MODEL", help="of the zoo, in one table; the tier's own")
    arguments.add_argument("--small", action="store_true", help="fewer concepts, styles and images, as in notebook 03")
    arguments.add_argument("--targets", type=int, default=1, help="classes by concept and style")
    arguments.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (0: in this one)")
    arguments.add_argument("--store", type=Path, help="folder for finished cases")
    arguments = start(arguments)
    if arguments.models:
        found = {"networks": {model: one_model(arguments, model)[0] for model in arguments.models}}
    else:
        found, result = one_model(arguments, None)
        found |= figures(result)
    finish(arguments, found)


if __name__ == "__main__":
    main()
