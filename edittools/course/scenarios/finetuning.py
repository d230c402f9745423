"""Fine-tuning selected in two rounds, since one run takes as long as hundreds of edits by least squares."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edittools.exemplars import Exemplars, named_exemplars
from edittools.methods import METHODS
from edittools.selection.outcomes import FIRST, SECOND, SINGLE, Candidate, Outcomes, grid
from edittools.selection.search import Search, Selection

INTERPOLATION_WEIGHTS = (0.25, 0.5, 0.75)
"""Weights of the fine-tuned parameters in an interpolation with the original ones, see `interpolate_finetuning`."""


@dataclass(frozen=True, kw_only=True)
class FinetuningRounds:
    """What fine-tuning tries in two rounds.

    The first round tries every layer, rate and momentum with the first number of steps; in many layers it takes two
    passes, as every search does. The second round takes the best run of each of the best layers, and the best run that
    satisfies the constraints in each of as many layers, and tries all numbers of steps, without and with each locality.

    Args:
        rates: learning rates.
        momenta: momenta of the optimizer.
        steps: numbers of steps.
        localities: weights of the penalty on changed predictions for reference images.
        top: number of layers whose best run gets to the second round, and number of layers whose best run under the
            constraints does.
    """

    rates: Sequence[float] = (1e-4, 1e-3, 3e-3, 1e-2, 1e-1)
    momenta: Sequence[float] = (0.0, 0.9)
    steps: Sequence[int] = (20, 100, 200)
    localities: Sequence[float] = (1.0, 10.0, 30.0, 100.0)
    top: int = 4


def select_finetuning(
    search: Search, scope: str, rounds: FinetuningRounds, exemplars: Exemplars | None = None
) -> Selection:
    """Select among fine-tunings as among all other candidates, in two rounds.

    Args:
        search: the search.
        scope: one of `SCOPES`.
        rounds: what is tried.
        exemplars: by default those of the search.
    """
    started = time.perf_counter()
    exemplars = search.exemplars if exemplars is None else named_exemplars(exemplars, search.classifier)
    first = grid(scope=(scope,), rate=rounds.rates, momentum=rounds.momenta, locality=(0.0,), steps=rounds.steps[:1])
    method = METHODS[f"{scope} fine-tuning"]
    scored = search.score(method.trying(first), exemplars)
    outcomes = scored.tried_in(SECOND, SINGLE)
    best = best_of_each_layer(outcomes, rounds.top)
    feasible = best_of_each_layer(outcomes, rounds.top, search)
    for index in dict.fromkeys([*best, *feasible]):
        run = outcomes.candidates[index].params
        same = {name: (run[name],) for name in ("scope", "rate", "momentum")}
        second = []
        if rounds.steps[1:]:
            second += grid(**same, locality=(0.0,), steps=(tuple(rounds.steps[1:]),))
        second += grid(**same, locality=rounds.localities, steps=(tuple(rounds.steps),))
        shown = {run["exemplar"]: exemplars[run["exemplar"]]}
        outcomes = outcomes.joined(search.score(method.trying(second), shown, layers=[run["layer"]]))
    selection = search.select(outcomes.joined(scored.tried_in(FIRST)))
    return replace(selection, seconds=time.perf_counter() - started)


def best_of_each_layer(outcomes: Outcomes, most: int, search: Search | None = None) -> list[int]:
    """Return the index of the best candidate of each of the best layers.

    Args:
        outcomes: what the candidates do to the target images.
        most: number of layers at most.
        search: if given, only candidates that satisfy its constraints count.
    """
    best: dict[str, int] = {}
    for index in outcomes.by_loss:
        if len(best) == most:
            break
        candidate = outcomes.candidates[index]
        layer = candidate.params["layer"]
        if layer in best:
            continue
        if search is None or search.is_feasible(candidate.edit, candidate.strength):
            best[layer] = index
    return list(best.values())


def interpolate_finetuning(search: Search, tuned: Selection) -> Selection:
    """Select among fine-tunings and what lies between the best of them and the classifier (WiSE-FT, PAINT).

    Args:
        search: the search.
        tuned: what `select_finetuning` has returned.
    """
    started = time.perf_counter()
    between = []
    for index in tuned.outcomes.by_loss[:20]:
        candidate = tuned.outcomes.candidates[index]
        for strength in INTERPOLATION_WEIGHTS:
            between.append(Candidate({**candidate.params, "strength": strength}, candidate.scaled, strength))
    selection = search.select(tuned.outcomes.joined(search.score_candidates(between)))
    return replace(selection, seconds=tuned.seconds + time.perf_counter() - started)
