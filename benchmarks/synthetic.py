"""The large synthetic benchmark (section 4 of the paper): concepts × styles × methods, case by case.

    python benchmarks/synthetic.py --tier mini                 MiniWorld, nothing is downloaded
    python benchmarks/synthetic.py --tier lite                 photographs (see README, 'Tiers')
    python benchmarks/synthetic.py --tier lite --models efficientnet_lite0 squeezenet1_1     one after the other

With `--store FOLDER` finished cases are kept: a run that was cut off goes on where it was. `--workers 0` computes in
this process.
"""

import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import finish, parser, start, write_line
from methods import LOCALITY, locality, near, success_of
from tables import synthetic as shown

from edittools.baselines import BASELINES, SCOPES
from edittools.edits import Edit
from edittools.metrics import Comparison
from edittools.probing.jobs import run
from edittools.scenarios import synthetic as syn
from edittools.scenarios.finetuning import INTERPOLATION_WEIGHTS
from edittools.scenarios.tiers import MODELS
from edittools.selection.constraints import Constraints
from edittools.selection.search import EditSearch


def sweep(
    source: syn.SetupSource,
    targets: int,
    workers: int,
    store: Path | None,
    settings: syn.CaseSettings = syn.DEFAULT_SETTINGS,
) -> pd.DataFrame:
    """Run all cases, in this process or in several."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn) if workers else nullcontext()
    cases = {case.name: case for case in syn.cases(source, targets, settings)}
    about = f"{syn.identity_of(source, settings)} {LOCALITY}"
    work = partial(syn.run_case, source, evaluate=read, settings=settings)
    with pool as executor:
        return run(work, cases, store, executor, True, about)


def read(search: EditSearch, edit: Edit) -> dict[str, float | None]:
    """Evaluate an edit on a case's sets, on its exemplars and near the boundary."""
    clean = search.activations["clean_test"]
    after = clean.compare(edit).after
    close = near(clean.original, clean.labels)
    local = locality({name: [Comparison(clean.before[some], after[some])] for name, some in close.items()})
    return syn.figures_of(search, edit) | {"success": success_of(edit, search.exemplars.values(), search.cuts)} | local


def candidates(layers: int, settings: syn.CaseSettings = syn.DEFAULT_SETTINGS) -> dict[str, int]:
    """Count the candidates of each method in one case, at least.

    An interpolation is one of at most 20 fine-tunings with one of `INTERPOLATION_WEIGHTS`. The best fine-tuning that
    satisfies the constraints may be another than the best, which adds some; ranks that the keys do not span are left
    out.
    """
    scaled = layers * len(settings.strengths)
    counts = {name: scaled * len(tried) for name, tried in settings.editing.items()}
    counts |= {name.replace("_", " "): scaled * len(BASELINES[name][1]) for name in settings.baselines}
    counts |= {"random direction": counts["editing"], "editing, variants": counts["editing"]}
    counts |= {f"rank {rank}": counts["editing"] // len(settings.ranks) for rank in settings.ranks}
    rounds = settings.finetuning
    first = layers * len(rounds.rates) * len(rounds.momenta)
    second = min(rounds.top, layers) * (len(rounds.steps) - 1 + len(rounds.localities) * len(rounds.steps))
    tuned = first + second + len(INTERPOLATION_WEIGHTS) * min(first + second, 20)
    return counts | {f"{scope} fine-tuning": tuned for scope in SCOPES}


def counted(found: dict[str, Any], settings: syn.CaseSettings = syn.DEFAULT_SETTINGS) -> dict[str, Any]:
    """Add the number of candidates to the methods of a results file, of one network or of several."""
    for one in found.get("networks", {"": found}).values():
        counts = candidates(len(one["layers"]), settings)
        for method, row in one["methods"].items():
            row["candidates"] = counts[method]
    return found


def methods(table: pd.DataFrame) -> dict[str, dict[str, object]]:
    """Summarise cases by method: of each measure the mean with its interval, of what others report the mean.

    Intervals resample concepts, since the cases of a concept share images.
    """
    result = syn.summary(table).set_index(["method", "measure"])
    known = table[table.budget == Constraints().max_accuracy_drop]
    for method, measure in result.index:
        cases = known[known.method == method].dropna(subset=measure)
        interval = interval_by_group(cases[measure].tolist(), cases.concept.tolist())
        result.loc[(method, measure), ["low", "high"]] = interval
    means = known[["success", *LOCALITY, *LOCALITY.values()]].astype(float).groupby(known.method).mean()
    return {
        method: {name: list(row) for name, row in part.droplevel(0)[["mean", "low", "high"]].iterrows()}
        | {"accuracy_change_points": part.accuracy_change.iloc[0]}
        | {name: None if mean != mean else mean for name, mean in means.loc[method].items()}
        for method, part in result.groupby(level=0, sort=False)
    }


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """List what each method did in each case, under the usual accuracy constraint."""
    names = ["concept", "style", "target", "method", *syn.MEASURES, "accuracy_change"]
    known = table.loc[table.budget == Constraints().max_accuracy_drop, names].astype(object)
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


def one_model(
    model: str,
    source: syn.SetupSource,
    targets: int,
    workers: int,
    store: Path | None,
    settings: syn.CaseSettings = syn.DEFAULT_SETTINGS,
) -> dict[str, object]:
    """Sweep one model and print the tables: the cases, those without errors enough, the budget and the methods."""
    everyday = syn.setup_of(source).common_fields
    print(f"\n{model}, layers {', '.join(everyday['layers'])}")
    table = sweep(source, targets, workers, store, settings)
    without = table[table.method == "undefined"].job.nunique()
    found = {"cases": table.job.nunique() - without, "cases_without_errors": without}
    found |= {
        "budget": Constraints().describe(len(everyday["splits"]["clean"])),
        "layers": everyday["layers"],
        "methods": methods(table),
    }
    found = counted(found, settings) | {"resampled": "concepts", "rows": rows(table)}
    print(f"{found['cases']} cases, {without} without errors enough to correct; {found['budget']}\n\n{shown(found)}")
    return found


def main() -> None:
    """Sweep one model or several, and write what came out."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tier", default="mini", choices=("mini", "lite", "paper"))
    arguments.add_argument("--models", nargs="+", metavar="MODEL", help="of the zoo, in one table; the tier's own")
    arguments.add_argument("--small", action="store_true", help="fewer concepts, styles and images, as in notebook 03")
    arguments.add_argument("--targets", type=int, default=1, help="classes by concept and style")
    arguments.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (0: in this one)")
    arguments.add_argument("--store", type=Path, help="folder for finished cases")
    arguments.add_argument("--count", action="store_true", help="only add the numbers of candidates to --output")
    arguments = start(arguments)
    if arguments.count:
        found = counted(json.loads(arguments.output.read_text()))
        write_line(arguments.output, json.dumps(found))
        print(shown(found))
        return
    found = {}
    for model in arguments.models or [MODELS[arguments.tier][0]]:
        source = syn.synthetic_source(arguments.tier, model, arguments.small)
        found[model] = one_model(model, source, arguments.targets, arguments.workers, arguments.store)
    found = {"networks": found} if arguments.models else next(iter(found.values()))
    finish(arguments, found)


if __name__ == "__main__":
    main()
