"""Claim: over many concepts and styles, an edit corrects errors of classes that it was not shown (section 4).

    python benchmarks/synthetic.py --tier mini                 MiniWorld, nothing is downloaded
    python benchmarks/synthetic.py --tier lite                 photos (see docs/settings.md)
    python benchmarks/synthetic.py --tier lite --styles transfer     concepts are restyled, as in the paper
    python benchmarks/synthetic.py --exemplars 1 3 10          numbers of exemplars are compared, as in the paper

Labels select: each method by its cross-entropy on images with the concept, plus twice how much it changes predictions
for ordinary images. With `--exemplars`, edits of a case are selected and evaluated on the same images, whatever the
number of exemplars; a smaller number of exemplars are the first ones of a larger number.

With `--store FOLDER` finished cases are kept, and an interrupted run continues where it was. `--workers 0` computes in
this process.
"""

import argparse
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from _lib import jobs
from _lib.cases import MEASURES, TRANSFORMS, exemplar_cases, identity_of, run_case, source_of
from _lib.command import add_store, parser, run
from _lib.results import FULL_RANK, PROJECTION, Results
from tqdm.auto import tqdm

from edittools.rewriting import EDIT, RANDOM
from edittools_course.rivals import PROJECTIONS, SCOPES
from edittools_course.scenarios import synthetic as syn
from edittools_course.scenarios.tiers import MODELS

SPLITS = {
    "other same": "other classes, same style",
    "other held out": "other classes, held-out style",
    "target same": "target class, same style",
    "target held out": "target class, held-out style",
}
"""The splits of a case, by the name of the measure."""
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
    editing={"editing": [{"rank": 1, "reference_weight": 30.0}]},
    finetuning=[{"rate": 3e-3, "steps": 5}],
)
"""What is tried with `--quick`."""


def sweep(
    source: syn.SetupSource,
    cases: Mapping[str, syn.Case],
    options: argparse.Namespace,
    settings: syn.CaseSettings,
    methods: Sequence[str] = (),
) -> pd.DataFrame:
    """Run cases in this process or in several; by default with all methods."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(options.workers, mp_context=spawn) if options.workers else nullcontext()
    work = partial(run_case, source, methods=methods, settings=settings)
    about = identity_of(source, settings) + (f" {methods}" if methods else "")
    with pool as executor:
        return jobs.run(work, cases, options.store, executor, tqdm, about)


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


def add_means(results: Results, table: pd.DataFrame, **where: str) -> None:
    """Add what each method corrects and costs: means over cases, with intervals that resample concepts."""
    scored = table[table.method != "undefined"]
    cases = scored.job.nunique()
    results.add("cases", cases, **where)
    results.add("cases without errors", table.job.nunique() - cases, **where)
    for key, of_method in scored.groupby("method", sort=False):
        method = METHODS[key]
        for measure, split in SPLITS.items():
            shares = of_method.dropna(subset=measure)
            interval = interval_by_group(shares[measure].tolist(), shares.concept.tolist())
            results.add(
                "errors corrected",
                shares[measure].mean(),
                method=method,
                split=split,
                interval=interval,
                n=cases,
                **where,
            )
        results.add("accuracy change", of_method.accuracy_change.mean(), method=method, split="clean_test", **where)


def add_cases(results: Results, table: pd.DataFrame, network: str) -> None:
    """Add what each method did in each case."""
    names = ["concept", "style", "target", "method", *MEASURES, "accuracy_change"]
    known = table.loc[table.method != "undefined", names]
    known = known.assign(method=known.method.map(METHODS)).astype(object)
    rows = known.where(known.notna(), None).to_dict("records")
    results.outcomes += [{"network": network, **row} for row in rows]


def experiment(options: argparse.Namespace) -> Results:
    """Sweep the cases of one model, or those that differ in the number of exemplars."""
    results = Results("synthetic", "MiniWorld" if options.tier == "mini" else "photos")
    model = options.model or MODELS[options.tier][0]
    source = source_of(options.tier, model, options.quick, options.styles)
    settings = QUICK if options.quick else syn.DEFAULT_SETTINGS
    layers = syn.setup_of(source).common_fields["layers"]
    print(f"{model}, layers {', '.join(layers)}")
    results.notes = {"layers": {model: list(layers)}}
    if options.exemplars:
        for count, cases in exemplar_cases(source, tuple(options.exemplars)).items():
            drawn = at_most(cases, 1 if options.quick else options.most_cases)
            named = {f"{case.name}, {count} exemplars": case for case in drawn}
            table = sweep(source, named, options, replace(settings, exemplars=count), METHODS_BY_COUNT)
            add_means(results, table, network=model, condition=f"{count} exemplar" + "s" * (count > 1))
        return results
    drawn = at_most(syn.cases(source, options.targets, settings), options.most_cases)
    table = sweep(source, {case.name: case for case in drawn}, options, settings)
    add_means(results, table, network=model)
    add_cases(results, table, model)
    for key, count in candidates(len(layers), settings).items():
        results.add("candidates", count, network=model, method=METHODS[key])
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite", "paper"))
    arguments.add_argument("--model", help="classifier; default: the tier's own")
    ways = "paste textures of materials, or restyle concepts by style transfer"
    arguments.add_argument("--styles", default="paste", choices=TRANSFORMS, help=ways)
    arguments.add_argument("--targets", type=int, default=1, help="classes by concept and style")
    arguments.add_argument("--exemplars", nargs="+", type=int, metavar="COUNT", help="compare numbers of exemplars")
    arguments.add_argument("--most-cases", type=int, help="run this many of the cases, drawn at random")
    arguments.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (0: in this one)")
    add_store(arguments)
    run(arguments, experiment)


if __name__ == "__main__":
    main()
