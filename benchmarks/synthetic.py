"""The large synthetic benchmark (section 4 of the paper): concepts × styles × methods, case by case.

    python benchmarks/synthetic.py --tier mini                 MiniWorld, nothing is downloaded
    python benchmarks/synthetic.py --tier lite                 photographs (see README, 'Tiers')
    python benchmarks/synthetic.py --tier lite --models efficientnet_lite0 squeezenet1_1     one after the other

With `--store FOLDER` finished cases are kept: a run that was cut off goes on where it was. `--workers 0` computes in
this process.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pandas as pd
from common import finish, parser, start
from methods import LOCALITY, locality, near, success_of
from tables import synthetic as shown

from edittools.edits import Edit
from edittools.metrics import Comparison
from edittools.probing.jobs import run
from edittools.scenarios import synthetic as syn
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


def methods(table: pd.DataFrame) -> dict[str, dict[str, object]]:
    """Summarise cases by method: of each measure the mean with its interval, of what others report the mean."""
    result = syn.summary(table).set_index(["method", "measure"])
    known = table[table.budget == Constraints().max_accuracy_drop]
    means = known[["success", *LOCALITY, *LOCALITY.values()]].astype(float).groupby(known.method).mean()
    return {
        method: {name: list(row) for name, row in part.droplevel(0)[["mean", "low", "high"]].iterrows()}
        | {"accuracy_change_points": part.accuracy_change.iloc[0]}
        | {name: None if mean != mean else mean for name, mean in means.loc[method].items()}
        for method, part in result.groupby(level=0, sort=False)
    }


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
    arguments = start(arguments)
    found = {}
    for model in arguments.models or [MODELS[arguments.tier][0]]:
        source = syn.synthetic_source(arguments.tier, model, arguments.small)
        found[model] = one_model(model, source, arguments.targets, arguments.workers, arguments.store)
    found = {"networks": found} if arguments.models else next(iter(found.values()))
    finish(arguments, found)


if __name__ == "__main__":
    main()
