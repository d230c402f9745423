"""The large synthetic benchmark (section 4 of the paper): concepts × styles × methods, case by case.

    python benchmarks/synthetic.py --tier mini                 MiniWorld, nothing is downloaded
    python benchmarks/synthetic.py --tier lite --size full     photographs (see README, 'Tiers'), all styles
    python benchmarks/synthetic.py --tier lite --models efficientnet_lite0 squeezenet1_1     one after the other

With `--store FOLDER` finished cases are kept: a run that was cut off goes on where it was. `--workers 0` computes in
this process. Of one model the last table says how much faster a trial is over kept states than by full forward passes.
"""

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch
from common import finish, parser, seconds, start

from edittools.choosing import states as bench
from edittools.choosing.choice import BUDGET, about_budget
from edittools.cut import cut_all, editable_layers
from edittools.edits import Edit
from edittools.metrics import predict
from edittools.rewriting import rewrite
from edittools.stories import suites
from edittools.stories import synthetic as syn
from edittools.stories import synthetic_tables as tables


def sweep(suite: syn.Suite, workers: int, store: Path | None) -> pd.DataFrame:
    """Run all cases, in this process or in several."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn) if workers else nullcontext()
    with pool as executor:
        return syn.sweep(suite, store=store, executor=executor, progress=True)


def time_ratios(suite: syn.Suite, every: int, images: int = 32) -> pd.DataFrame:
    """Time one trial at every `every`-th editable layer: over kept states, and with full forward passes."""
    found = syn.material(suite)
    layers = list(editable_layers(found.classifier).layer)[::-every][::-1]
    cuts = cut_all(found.classifier, layers)
    data = found.clean.subset(range(images))
    kept = bench.CachedStates(cuts, data)
    [case] = syn.cases(suite)[:1]
    exemplar = syn.parts(suite, case).exemplars(1)
    rows = []
    for layer in layers:
        edit = rewrite(found.classifier, cuts[layer], exemplar, data.images, objective="least_squares")
        ways = {"kept": lambda e=edit: kept.compare(e), "full": lambda e=edit: _full(e, found.classifier, data)}
        rows.append({"layer": layer} | {way: seconds(work, 2) for way, work in ways.items()})
    return pd.DataFrame(rows)


def _full(edit: Edit, classifier: torch.nn.Module, data: syn.LabelledImages) -> torch.Tensor:
    with edit.applied(classifier):
        return predict(classifier, data)


def show(table: pd.DataFrame) -> pd.DataFrame:
    """Print the results by method, by number of exemplars, by layer, concept and style; give the first."""
    pd.options.display.width, pd.options.display.max_columns = 220, 30
    result = tables.summary(table).set_index(["method", "measure"])
    percent = [f"{100 * r['mean']:+.0f} [{100 * r.low:+.0f}, {100 * r.high:+.0f}]" for _, r in result.iterrows()]
    wide = pd.Series(percent, result.index).unstack(sort=False)[list(tables.MEASURES)]
    first = result.xs("other same", level="measure")
    wide["pooled"] = (100 * first.pooled).round().astype(int)
    wide["corrected / broken"] = first.corrected.astype(str) + " / " + first.broken.astype(str)
    wide["accuracy"] = first.accuracy_change.round(2)
    undefined = table[table.method == "undefined"]
    print(f"\n{table.job.nunique()} cases, {undefined.job.nunique()} without errors enough to correct, excluded")
    print("Errors corrected (%), mean over cases with 95 % bootstrap interval; budget", BUDGET, "points\n")
    print(wide.to_string())
    for by in ("exemplars", "layer", "concept", "style"):
        print(f"\nerrors corrected (%) on other classes, by {by}")
        print(tables.by(table, by).mul(100).round().to_string())
    print("\nby accuracy budget (points)\n" + tables.by(table, "budget").mul(100).round().to_string())
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


def one_model(suite: syn.Suite, workers: int, store: Path | None, every: int) -> dict[str, object]:
    """Sweep, print the tables, time a few trials both ways; the figures."""
    started = time.perf_counter()
    table = sweep(suite, workers, store)
    budget = about_budget(len(syn.material(suite).budget))
    print("\n" + budget)
    minutes = (time.perf_counter() - started) / 60
    result = show(table)
    cases = table[table.method != "undefined"].job.nunique()
    print(f"\n{table.job.nunique() / minutes:.1f} cases a minute ({minutes:.1f} minutes; 0 for those in the store)")
    times = time_ratios(suite, every)
    ratio = times.full.sum() / times.kept.sum()
    late = times.iloc[-max(len(times) // 3, 1) :]
    ratio_late = late.full.sum() / late.kept.sum()
    print(
        f"a trial by full forward passes: {ratio:.1f} × as long over all layers, {ratio_late:.1f} × in the last third"
    )
    speed = {"sweep_time_ratio": ratio, "sweep_time_ratio_last_third": ratio_late}
    speed |= {"cases_per_minute": table.job.nunique() / minutes}
    return {"cases": cases, **figures(result), **speed, "budget": budget, "methods": methods(result)}


def several_models(arguments: argparse.Namespace) -> dict[str, object]:
    """Sweep one model after the other; of each the cases, those without errors enough, the budget and the methods."""
    found, started = {}, time.perf_counter()
    for model in arguments.models:
        suite = suites.suite(arguments.tier, arguments.size, model)
        print(f"\n{model}, layers {', '.join(suite.layers)}")
        table = sweep(suite, arguments.workers, arguments.store)
        without = table[table.method == "undefined"].job.nunique()
        counts = {"cases": table.job.nunique() - without, "cases_without_errors": without}
        counts["budget"] = about_budget(len(syn.material(suite).budget))
        found[model] = {**counts, "layers": suite.layers, "methods": methods(show(table))}
    return {"networks": found, "seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    """Sweep one model or several, and write what came out."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite", "paper"))
    which = arguments.add_mutually_exclusive_group()
    which.add_argument("--model", help="of the tier (default: mini_vgg, efficientnet_lite0 or vgg16)")
    which.add_argument("--models", nargs="+", default=(), metavar="MODEL", help="one after the other, in one table")
    arguments.add_argument("--size", default="usual", choices=("small", "usual", "full"), help="full: all styles")
    arguments.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (0: in this one)")
    arguments.add_argument("--store", type=Path, help="folder for finished cases")
    arguments = arguments.parse_args()
    start(arguments)
    if arguments.models:
        finish(arguments, several_models(arguments))
        return
    suite = suites.suite(arguments.tier, arguments.size, arguments.model)
    finish(arguments, one_model(suite, arguments.workers, arguments.store, 1 if arguments.tier == "mini" else 3))


if __name__ == "__main__":
    main()
