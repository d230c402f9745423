"""Edits of several layers, one after the other: each is solved and chosen on top of those before it."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce
from operator import add

from torch import Tensor
from tqdm.auto import tqdm

from edittools.choosing.choice import BUDGET, Choice, select
from edittools.choosing.scenario import Scenario
from edittools.choosing.states import cache_states
from edittools.choosing.trials import Exemplars, Settings, rewriting_trials, sweep
from edittools.images import spread
from edittools.keys import layer_keys
from edittools.metrics import Comparison
from edittools.moments import second_moments
from edittools.rewriting import SAMPLE


def choose_in_turn(
    story: Scenario,
    layers: Sequence[str],
    exemplars: Exemplars,
    settings: Settings,
    *,
    strengths: Sequence[float] = (0.5, 1.0),
    budget: float = BUDGET,
    progress: bool = False,
) -> Choice:
    """Edit `layers` in the order given, each by the trial that `select` takes with the earlier edits applied.

    The story's validation images choose, its budget images bound the choice; kept images are not used. A layer may be
    named more than once, and one in which no trial helps is left out. The `budget`, in points, is for all of them
    together. The edit of the `Choice` is the sum; its `layer` says what was chosen in each. The classifier is not
    changed.
    """
    started, steps, trials, before = time.perf_counter(), [], 0, {}
    classifier, sets = story.classifier, {"validation": story.validation, "budget": story.budget}
    with ExitStack() as applied:
        for layer in tqdm(layers, "layers", disable=not progress, leave=False):
            cuts, states = cache_states(classifier, [layer], **sets)
            before = before or {name: one.before for name, one in states.items()}
            moments = second_moments(classifier, [layer], story.reference, cache="")
            keys = layer_keys(cuts, spread(story.reference, SAMPLE), moments)
            tried = rewriting_trials(cuts, exemplars, keys, settings, strengths)
            left = left_of(budget, before["budget"], states["budget"].before)
            chosen = select(sweep(tried, states["validation"]), states["budget"].fragile_first(), left)
            after = {name: one.compare(chosen.edit).after for name, one in states.items()}
            steps, trials = [*steps, chosen], trials + chosen.trials
            if chosen.found:
                applied.enter_context(chosen.edit.applied(classifier))
    compared = {name: Comparison(before[name], wrong) for name, wrong in after.items()}
    return replace(_summed(steps, compared), trials=trials, seconds=time.perf_counter() - started, table=None)


def left_of(budget: float, first: Tensor, now: Tensor) -> float:
    """How many points of a budget are left, from which images were misread at `first` and are `now`.

    A hair more, since a difference of shares may be less than the images that it stands for.
    """
    return budget - Comparison(now, first).accuracy_change + 1e-9


def _summed(steps: Sequence[Choice], compared: Mapping[str, Comparison]) -> Choice:
    """The steps in which something was found as one choice, or the first step where nothing was."""
    found = [step for step in steps if step.found]
    if not found:
        return steps[0]
    counts = {name: getattr(compared["validation"], name) for name in ("corrected", "broken")}
    edit, words = reduce(add, (step.edit for step in found)), " + ".join(map(str, found))
    validation = found[-1].validation | counts
    return replace(found[-1], edit=edit, settings={"layer": words}, budget=compared["budget"], validation=validation)
