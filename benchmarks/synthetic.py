"""Claim: over many concepts and styles, an edit corrects errors of classes that it was not shown (section 4).

    python benchmarks/synthetic.py --tier mini                 MiniWorld, nothing is downloaded
    python benchmarks/synthetic.py --tier lite                 photos (see docs/tiers.md)
    python benchmarks/synthetic.py --tier lite --styles transfer     concepts are restyled, as in the paper
    python benchmarks/synthetic.py --exemplars 1 3 10          numbers of exemplars are compared, as in the paper

With `--exemplars`, edits of a case are selected and evaluated on the same images, whatever the number of exemplars; a
smaller number of exemplars are the first ones of a larger number.

With `--store FOLDER` finished cases are kept, and an interrupted run continues where it was. `--workers 0` computes in
this process.
"""

import argparse
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _lib.cases import exemplar_cases, identity_of
from _lib.command import add_store, parser, run
from _lib.results import FULL_RANK, PROJECTION, Results
from tqdm.auto import tqdm

from edittools.course.scenarios import synthetic as syn
from edittools.course.scenarios.tiers import MODELS
from edittools.methods import EDIT, RANDOM, SCOPES
from edittools.methods.projection import PROJECTIONS
from edittools.probing import jobs
from edittools.selection import Constraints, grid

SPLITS = {
    "other same": "other classes, same style",
    "other held out": "other classes, held-out style",
    "target same": "target class, same style",
    "target held out": "target class, held-out style",
}
"""The splits of a case, by the key of the measure in the JSON line."""
METHODS = {
    "editing": EDIT,
    "editing -mask": "edit without the mask",
    "full rank": FULL_RANK,
    "projection": PROJECTION,
    "random direction": RANDOM,
    "local fine-tuning": "local fine-tuning",
    "global fine-tuning": "global fine-tuning",
}
"""The names of the methods; fine-tuning is on the exemplars."""
METHODS_BY_COUNT = ("editing", "full rank", "local fine-tuning", "random direction")
"""The methods that are compared with `--exemplars`."""
QUICK = syn.CaseSettings(
    exemplars=1,
    least_errors=1,
    strengths=(1.0,),
    editing={"editing": grid(rank=(1,), objective=("least_squares",), reference_weight=(30.0,))},
    finetuning=grid(rate=(3e-3,), steps=(5,)),
)
"""What is tried with `--quick`."""


def sweep(
    source: syn.SetupSource,
    targets: int,
    workers: int,
    store: Path | None,
    settings: syn.CaseSettings = syn.DEFAULT_SETTINGS,
    most_cases: int | None = None,
) -> pd.DataFrame:
    """Run all cases, or `most_cases` of them, in this process or in several."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn) if workers else nullcontext()
    cases = {case.name: case for case in at_most(syn.cases(source, targets, settings), most_cases)}
    about = identity_of(source, settings)
    work = partial(syn.run_case, source, settings=settings)
    with pool as executor:
        return jobs.run(work, cases, store, executor, tqdm, about)


def sweep_of_count(
    source: syn.SetupSource, cases: Sequence[syn.Case], count: int, options: argparse.Namespace
) -> pd.DataFrame:
    """Run cases, or some of them, with a number of exemplars."""
    settings = replace(QUICK if options.quick else syn.DEFAULT_SETTINGS, exemplars=count)
    drawn = at_most(cases, 1 if options.quick else options.most_cases)
    named = {f"{case.name}, {count} exemplars": case for case in drawn}
    work = partial(syn.run_case, source, methods=METHODS_BY_COUNT, settings=settings)
    about = f"{identity_of(source, settings)} {METHODS_BY_COUNT}"
    return jobs.run(work, named, options.store, progress=tqdm, about=about)


def at_most(cases: Sequence[syn.Case], count: int | None) -> list[syn.Case]:
    """Draw `count` of the cases at random; a larger number has all cases of a smaller one. None draws all."""
    drawn = np.random.default_rng(0).permutation(len(cases))[:count]
    return [cases[number] for number in sorted(drawn)]


def candidates(layers: int, settings: syn.CaseSettings = syn.DEFAULT_SETTINGS) -> dict[str, int]:
    """Count the candidates of each method in one case; those of ranks that the keys do not span are counted as well."""
    scaled = layers * len(settings.strengths)
    counts = {name: scaled * len(tried) for name, tried in settings.editing.items()}
    counts |= {"projection": scaled * len(PROJECTIONS), "random direction": counts["editing"]}
    tuned = layers * len(settings.finetuning) * len(syn.FINETUNING_STRENGTHS)
    return counts | {f"{scope} fine-tuning": tuned for scope in SCOPES}


def methods(table: pd.DataFrame) -> dict[str, dict[str, object]]:
    """Summarize cases by method: of each measure, the mean with its interval.

    Intervals resample concepts, since the cases of a concept share images.
    """
    result = syn.summary(table).set_index(["method", "measure"])
    known = table[table.method != "undefined"]
    for method, measure in result.index:
        cases = known[known.method == method].dropna(subset=measure)
        interval = interval_by_group(cases[measure].tolist(), cases.concept.tolist())
        result.loc[(method, measure), ["low", "high"]] = interval
    feasible = known.feasible.astype(bool).groupby(known.method).sum()
    return {
        method: {name: list(row) for name, row in part.droplevel(0)[["mean", "low", "high"]].iterrows()}
        | {"accuracy_change_points": part.accuracy_change.iloc[0], "feasible": int(feasible[method])}
        for method, part in result.groupby(level=0, sort=False)
    }


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """List what each method did in each case."""
    names = ["concept", "style", "target", "method", *syn.MEASURES, "accuracy_change"]
    known = table.loc[table.method != "undefined", names].astype(object)
    return known.where(known.notna(), None).to_dict("records")


def interval_by_group(values: Sequence[float], groups: Sequence[str], resamples: int = 2000) -> tuple[float, float]:
    """Compute the 95% percentile bootstrap interval of a mean over values that come in groups, which are resampled."""
    if not values:
        return float("nan"), float("nan")
    by_group = pd.Series(values, dtype=float).groupby(list(groups))
    sums = by_group.sum().to_numpy()
    counts = by_group.count().to_numpy()
    drawn = np.random.default_rng(0).integers(len(sums), size=(resamples, len(sums)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def add_methods(results: Results, found: dict[str, Any], network: str) -> None:
    """Add the figures of each method on one network, and the cases."""
    results.add("cases", found["cases"], network=network)
    results.add("cases without errors", found["cases_without_errors"], network=network)
    for key, row in found["methods"].items():
        where = {"network": network, "method": METHODS[key]}
        for measure, split in SPLITS.items():
            share, *interval = row[measure]
            results.add("errors corrected", share, split=split, interval=interval, n=found["cases"], **where)
        results.add("accuracy change", row["accuracy_change_points"], split="clean_test", **where)
        results.add("candidates", row["candidates"], **where)
        results.add("feasible", row["feasible"], n=found["cases"], **where)
    for case in found.get("rows", ()):
        method = METHODS[case["method"]]
        results.outcomes.append({"network": network, **case, "method": method})


def add_counts(results: Results, source: syn.SetupSource, model: str, options: argparse.Namespace) -> None:
    """Add the mean over cases of each method and split, for each number of exemplars."""
    for count, cases_of_count in exemplar_cases(source, tuple(options.exemplars)).items():
        table = sweep_of_count(source, cases_of_count, count, options)
        scored = table[table.method != "undefined"]
        cases = scored.job.nunique()
        condition = {"condition": f"{count} exemplar" + "s" * (count > 1), "network": model}
        results.add("cases", cases, **condition)
        for key, row in methods(scored).items():
            where = {"method": METHODS[key], **condition}
            for measure, split in SPLITS.items():
                share, *interval = row[measure]
                results.add("errors corrected", share, split=split, interval=interval, n=cases, **where)
            results.add("accuracy change", row["accuracy_change_points"], split="clean_test", **where)


def one_model(
    model: str,
    source: syn.SetupSource,
    targets: int,
    workers: int,
    store: Path | None,
    settings: syn.CaseSettings = syn.DEFAULT_SETTINGS,
    most_cases: int | None = None,
) -> dict[str, Any]:
    """Sweep one model; return its cases, those without enough errors, the constraints and the methods."""
    common = syn.setup_of(source).common_fields
    print(f"{model}, layers {', '.join(common['layers'])}")
    table = sweep(source, targets, workers, store, settings, most_cases)
    without = table[table.method == "undefined"].job.nunique()
    by_method = methods(table)
    for name, count in candidates(len(common["layers"]), settings).items():
        if name in by_method:
            by_method[name]["candidates"] = count
    return {
        "cases": table.job.nunique() - without,
        "cases_without_errors": without,
        "constraints": Constraints().describe(len(common["splits"]["clean"])),
        "layers": common["layers"],
        "methods": by_method,
        "resampled": "concepts",
        "rows": rows(table),
    }


def experiment(options: argparse.Namespace) -> Results:
    """Sweep the cases of one model."""
    results = Results("synthetic", "MiniWorld" if options.tier == "mini" else "photos")
    model = options.model or MODELS[options.tier][0]
    source = syn.synthetic_source(options.tier, model, options.quick, options.styles)
    if options.exemplars:
        add_counts(results, source, model, options)
        return results
    settings = QUICK if options.quick else syn.DEFAULT_SETTINGS
    found = one_model(model, source, options.targets, options.workers, options.store, settings, options.most_cases)
    add_methods(results, found, model)
    results.notes = {"layers": {model: found["layers"]}, "constraints": found["constraints"]}
    results.line = found
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite", "paper"))
    arguments.add_argument("--model", help="classifier; default: the tier's own")
    ways = "paste textures of materials, or restyle concepts by style transfer"
    arguments.add_argument("--styles", default="paste", choices=syn.TRANSFORMS, help=ways)
    arguments.add_argument("--targets", type=int, default=1, help="classes by concept and style")
    arguments.add_argument("--exemplars", nargs="+", type=int, metavar="COUNT", help="compare numbers of exemplars")
    arguments.add_argument("--most-cases", type=int, help="run this many of the cases, drawn at random")
    arguments.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (0: in this one)")
    add_store(arguments)
    run(arguments, experiment)


if __name__ == "__main__":
    main()
