"""Fine-tuning selected in two rounds, since one run takes as long as hundreds of edits in closed form."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from edittools.exemplars import Exemplar
from edittools.selection.search import SCORES, EditSearch, Exemplars, Selection, grid

INTERPOLATION_WEIGHTS = (0.25, 0.5, 0.75)
"""Weights of the fine-tuned parameters in an interpolation with the original ones, see `interpolate_finetuning`."""


@dataclass(frozen=True, kw_only=True)
class FinetuningRounds:
    """What fine-tuning tries in two rounds.

    The first round tries every layer, rate and momentum with the first number of steps. The second one takes the best
    run of each of the best layers, and the best run that satisfies the constraints in each of as many layers, and tries
    all numbers of steps, without and with each locality.

    Args:
        tuned: names of the layers; by default all of the search.
        rates: learning rates.
        momenta: momenta of the optimizer.
        steps: numbers of steps.
        localities: weights of the penalty on changed predictions for reference images.
        top: number of layers whose best run gets to the second round, and number of layers whose best run under the
            constraints does.
    """

    tuned: Sequence[str] = ()
    rates: Sequence[float] = (1e-4, 1e-3, 3e-3, 1e-2, 1e-1)
    momenta: Sequence[float] = (0.0, 0.9)
    steps: Sequence[int] = (20, 100, 200)
    localities: Sequence[float] = (1.0, 10.0, 30.0, 100.0)
    top: int = 4


def select_finetuning(
    search: EditSearch, scope: str, rounds: FinetuningRounds, exemplars: Exemplars | None = None
) -> Selection:
    """Select among fine-tunings as among all other candidates, in two rounds.

    Args:
        search: the search.
        scope: one of `SCOPES`.
        rounds: what is tried.
        exemplars: by default those of the search.
    """
    started = time.perf_counter()
    exemplars = search.exemplars if exemplars is None else exemplars
    first = grid(scope=(scope,), rate=rounds.rates, momentum=rounds.momenta, locality=(0.0,), steps=rounds.steps[:1])
    layers = rounds.tuned or None
    tables = [search.score(search.candidates("finetune", first, exemplars=exemplars, layers=layers))]
    order = tables[0].sort_values("loss", kind="stable")
    best = order.drop_duplicates("layer").head(rounds.top)
    feasible = first_feasible(search, order, rounds.top)
    others = feasible.loc[feasible.index.difference(best.index, sort=False)]
    for run in pd.concat([best, others]).to_dict("records"):
        same = {name: (run[name],) for name in ("scope", "rate", "momentum")}
        second = []
        if rounds.steps[1:]:
            second += grid(**same, locality=(0.0,), steps=(tuple(rounds.steps[1:]),))
        second += grid(**same, locality=rounds.localities, steps=(tuple(rounds.steps),))
        shown: dict[str, Exemplar | Sequence[Exemplar]] = {run["exemplar"]: exemplars[run["exemplar"]]}
        candidates = search.candidates("finetune", second, exemplars=shown, layers=[run["layer"]])
        tables.append(search.score(candidates))
    selection = search.select(pd.concat(tables, ignore_index=True))
    return replace(selection, seconds=time.perf_counter() - started)


def first_feasible(search: EditSearch, results: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the first candidate of each layer that satisfies the constraints.

    Args:
        search: the search.
        results: a table of `EditSearch.score`, the best candidate first.
        most: number of layers at most.
    """
    found: dict[str, int] = {}
    for index, layer, edit in zip(results.index, results.layer, results.edit, strict=True):
        if len(found) < most and layer not in found and search.is_feasible(edit):
            found[layer] = index
    return results.loc[list(found.values())]


def interpolate_finetuning(search: EditSearch, tuned: Selection) -> Selection:
    """Select among fine-tunings and what lies between the best of them and the classifier (WiSE-FT, PAINT).

    Args:
        search: the search.
        tuned: what `select_finetuning` has returned.
    """
    started = time.perf_counter()
    best = tuned.results.sort_values("loss", kind="stable").head(20)
    params = best.drop(columns=best.columns.intersection(SCORES)).to_dict("records")
    between = []
    for values, edit in zip(params, best.edit, strict=True):
        for strength in INTERPOLATION_WEIGHTS:
            between.append(({**values, "strength": strength}, strength * edit))
    selection = search.select(pd.concat([tuned.results, search.score(between)], ignore_index=True))
    return replace(selection, seconds=tuned.seconds + time.perf_counter() - started)
