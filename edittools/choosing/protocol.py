"""How an edit is chosen, fairly: on validation images, under an accuracy budget, every method in the same way.

    protocol = Protocol(story, story.shortlist)                # all sets as states at the layers, second moments
    best = protocol.choose(protocol.rewriting(grid(rank=(1, 3))))
    control = protocol.choose(protocol.random_directions(grid(rank=(1, 3))))
    protocol.report({"edit": best.edit, "random direction": control.edit})

Reference images say which keys are everyday ones, validation images choose, budget images must stay accurate, kept ones
must stay as they are read; what is reported was used for neither. The rule of choice is `select`'s (section 4.2 of the
paper, and a bound on kept images).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pandas as pd

from edittools.baselines import OF_THE_HEAD, RIVALS, find_head, rewrite_at_random
from edittools.choosing.choice import BUDGET, Bounds, Choice, about_budget, about_keep
from edittools.choosing.duties import check_duties
from edittools.choosing.report import report
from edittools.choosing.scenario import Scenario
from edittools.choosing.states import CachedStates, cache_states
from edittools.choosing.trials import (
    MEASURED,
    USUAL,
    Exemplars,
    Layers,
    Settings,
    Shown,
    Strengths,
    Trial,
    Trials,
    finetuning_trials,
    grid,
    method_trials,
    sweep,
)
from edittools.classifiers import Classifier
from edittools.cut import states_at
from edittools.edits import Edit
from edittools.images import LabelledImages, spread
from edittools.keys import LayerKeys
from edittools.moments import second_moments
from edittools.rewriting import SAMPLE, rewrite

SPARING = (0.0, 10.0, 30.0, 100.0)
"""Values of λ to try: what it costs to move everyday keys, see `rewrite`."""


@dataclass(frozen=True)
class Plan:
    """What every method may try on a story: settings of `rewrite`, strengths α and layers; grids of fine-tuning.

    `edited` and `tuned` are the layers tried by rewriting and by fine-tuning (default: all that are cut). Fine-tunings
    are tried in three rounds: every rate and momentum, for the first of `steps`; the best of the `top` best layers on
    to the others, and again with each locality; of all these the `longest` best, of different layer or locality, on to
    the steps of `long`. The one of lowest loss is taken of all that is seen on the way: that is early stopping.
    """

    settings: Settings = field(
        default_factory=lambda: [
            *grid(rank=(1, 3), masked=(True, False), objective=("l1",), reference_weight=SPARING[::2]),
            *grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=SPARING),
        ]
    )
    strengths: Sequence[float] = (0.5, 1.0, 1.5)
    edited: Sequence[str] = ()
    tuned: Sequence[str] = ()
    rates: Sequence[float] = (1e-4, 1e-3, 3e-3, 1e-2, 1e-1)
    momenta: Sequence[float] = (0.0, 0.9)
    steps: Sequence[int] = (20, 100)
    localities: Sequence[float] = (1.0, 10.0, 30.0, 100.0)
    top: int = 4
    long: Sequence[int] = (200, 500)
    longest: int = 2


class Protocol:
    """A story's images as states at its layers, the second moments of its reference images, and the rule of choice.

    `cuts`, `moments` and `everyday` go by layer, `states` by the name of the set. `everyday` holds the keys of a sample
    of the reference images; in `states["budget"]` the images that are misread most easily come first. `bounds` are what
    a choice may cost. Raises `ValueError` for an image with two duties, see `check_duties`.

    Trials are of the story's `exemplars` (default: the single ones) in `layers` (default: all).
    """

    def __init__(
        self, story: Scenario, layers: Layers = None, progress: bool = False, shared: "Protocol | None" = None
    ) -> None:
        """Run every set of the story up to `layers` (default: its shortlist, or all) once.

        Of a `shared` protocol at the same layers the cuts are taken over, the keys of the reference images and the
        states of each set that is the same object in both stories.
        """
        check_duties(story)
        self.story, self.progress = story, progress
        layers = tuple(layers or story.shortlist or story.layers)
        if shared is not None and (shared.story.classifier is not story.classifier or tuple(shared.cuts) != layers):
            raise ValueError("a protocol of another classifier or of other layers: no states can be shared with it")
        kept = {"keep": story.keep} if story.keep else {}
        self._sets = {"validation": story.validation, **kept, **story.sets}  # those that are read most often first
        known = {n: s for n, s in shared.states.items() if self._sets.get(n) is shared._sets[n]} if shared else {}
        new = {name: data for name, data in self._sets.items() if name not in known}
        self.head = _head(story.classifier, story.budget.images[:1].shape[2:])
        everywhere = [*layers, self.head] if self.head and self.head not in layers else layers
        cuts = shared._everywhere if shared else None
        self._everywhere, states = cache_states(story.classifier, everywhere, progress, cuts=cuts, **new)
        states |= {"budget": states["budget"].fragile_first()} if "budget" in new else {}
        self.states: dict[str, CachedStates] = {name: known.get(name) or states[name] for name in self._sets}
        self.bounds = Bounds(self.states["budget"], self.states.get("keep"))
        self.cuts = {layer: self._everywhere[layer] for layer in layers}
        if shared and shared.story.reference is story.reference:
            self.moments, self.everyday, self._sampled = shared.moments, shared.everyday, shared._sampled
        else:
            self.moments = second_moments(story.classifier, list(self.cuts), story.reference, progress=progress)
            sample = states_at(self.cuts, spread(story.reference, SAMPLE))
            self.everyday = {n: LayerKeys(cut, sample[n], self.moments[n]) for n, cut in self.cuts.items()}
            self._sampled: dict[str, CachedStates] = {}

    def rewriting(
        self, settings: Settings, strengths: Strengths = USUAL, exemplars: Shown = None, layers: Layers = None
    ) -> Trials:
        """Rewrite with each of `settings`, at each strength α."""
        return self.rival(rewrite, strengths, exemplars, layers, settings)

    def random_directions(
        self, settings: Settings, strengths: Strengths = USUAL, exemplars: Shown = None, layers: Layers = None
    ) -> Trials:
        """Try the same as `rewriting` along random directions, as a control. Settings of full rank are left out."""
        ranked = [setting for setting in settings if setting.get("rank", 1) is not None]
        return self.rival(rewrite_at_random, strengths, exemplars, layers, ranked)

    def rival(
        self,
        method: str | Callable[..., Edit],
        strengths: Strengths = USUAL,
        exemplars: Shown = None,
        layers: Layers = None,
        settings: Settings | None = None,
    ) -> Trials:
        """Try a method at each strength α: one of `baselines.RIVALS` with its settings, or a function of that shape.

        Raises `KeyError` for a name that is none of them.
        """
        if isinstance(method, str) and method not in RIVALS:
            raise KeyError(f"method {method!r}: expected one of {', '.join(RIVALS)}, or a function")
        made, usual = RIVALS[method] if isinstance(method, str) else (method, [{}])
        among, reference = self._among(layers), self.everyday
        if method in OF_THE_HEAD:  # whatever layer states stand at
            among = dict(list(among.items())[-1:]) if self.head else {}
            reference = {layer: self.everyday_states(layer).batches(layer) for layer in among}
        shown, settings = exemplars or self.story.exemplars, usual if settings is None else settings
        return method_trials(made, among, shown, reference, settings, strengths)

    def finetuning(self, settings: Settings, exemplars: Shown = None, layers: Layers = None) -> Trials:
        """Fine-tune with each of `settings`; a locality is of a sample of the reference images."""
        among = self._among(layers)
        near = any(setting.get("locality") for setting in settings)
        reference = {layer: self.everyday_states(layer) for layer in among} if near else None
        return finetuning_trials(among, exemplars or self.story.exemplars, settings, reference)

    def again(
        self, tuned: pd.DataFrame, exemplars: Exemplars, steps: Sequence[int], localities: Sequence[float] = ()
    ) -> Iterator[Trial]:
        """Repeat fine-tunings, rows of a table of `sweep`, for other `steps` and with each locality (default: own)."""
        for row in tuned.to_dict("records"):
            same = {name: (row.get(name, 0.0),) for name in ("scope", "rate", "momentum", "locality")}
            same |= {"locality": localities} if localities else {}
            settings = grid(**same, steps=steps)
            yield from self.finetuning(settings, {row["exemplar"]: exemplars[row["exemplar"]]}, [row["layer"]])

    def choose_finetuning(self, scope: str, plan: Plan, exemplars: Shown = None) -> Choice:
        """Choose among fine-tunings as among edits, in the three rounds of a `Plan`."""
        exemplars, started = exemplars or self.story.exemplars, time.perf_counter()
        first = grid(scope=(scope,), rate=plan.rates, momentum=plan.momenta, locality=(0.0,), steps=plan.steps[:1])
        tried = self.sweep(self.finetuning(first, exemplars, plan.tuned))
        best = best_runs(tried, plan.top)
        for steps, localities in ((plan.steps[1:], (0.0,)), (plan.steps, plan.localities)):
            tried = _and(tried, self.sweep(self.again(best, exemplars, steps, localities)))
        best = best_runs(tried, plan.longest, ("layer", "locality"))
        chosen = self.choose(_and(tried, self.sweep(self.again(best, exemplars, plan.long))))
        return replace(chosen, seconds=time.perf_counter() - started)

    def interpolated(self, tuned: Choice, among: int = 20) -> Choice:
        """Choose among fine-tunings and what lies between the best of them and the classifier (WiSE-FT, PAINT)."""
        started, best = time.perf_counter(), tuned.table.sort_values("loss", kind="stable").head(among)
        named = best.drop(columns=best.columns.intersection(MEASURED)).to_dict("records")
        pairs = product(zip(named, best.edit, strict=True), (0.25, 0.5, 0.75))
        between = self.sweep([({**settings, "strength": a}, a * edit) for (settings, edit), a in pairs])
        chosen = self.choose(_and(tuned.table.assign(strength=1.0), between))
        return replace(chosen, seconds=tuned.seconds + time.perf_counter() - started)

    def _among(self, layers: Layers) -> dict[str, Any]:
        return {layer: self.cuts[layer] for layer in layers or self.cuts}

    def everyday_states(self, layer: str) -> CachedStates:
        """Run a sample of the reference images up to a layer, once."""
        if layer not in self._sampled:
            sample = LabelledImages.unlabelled(spread(self.story.reference, 4 * SAMPLE), self.story.classifier.classes)
            self._sampled[layer] = CachedStates({layer: self.cuts[layer]}, sample)
        return self._sampled[layer]

    def sweep(self, trials: Iterable[Trial]) -> pd.DataFrame:
        """Try the trials on the validation images, see `choosing.sweep`."""
        return sweep(trials, self.states["validation"], self.progress)

    def choose(self, trials: Iterable[Trial] | pd.DataFrame, budget: float = BUDGET) -> Choice:
        """Try the trials on the validation images (a table of `sweep` has been tried) and `select` one."""
        started = time.perf_counter()
        table = trials if isinstance(trials, pd.DataFrame) else self.sweep(trials)
        return replace(self.bounds.choose(table, budget), seconds=time.perf_counter() - started)

    def report(self, edits: Mapping[str, Edit]) -> pd.DataFrame:
        """Evaluate edits by name on every set of the story, see `choosing.report`."""
        return report(edits, self.states)

    def about_budget(self) -> str:
        """Say how fine the budget is on this story's budget images, see `about_budget`."""
        said = about_budget(len(self.story.budget))
        return f"{said}; {about_keep(len(self.states['keep'].labels))}" if "keep" in self.states else said


def best_runs(tried: pd.DataFrame, count: int, by: Sequence[str] = ("layer",)) -> pd.DataFrame:
    """Take the `count` best fine-tunings in a table of `sweep`, one for each value of the columns `by`."""
    return tried.sort_values("loss", kind="stable").drop_duplicates(list(by)).head(count)


def _and(tried: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([tried, more], ignore_index=True) if len(more) else tried


def _head(classifier: Classifier, size: Sequence[int]) -> str | None:
    """Name the linear layer whose output is the logits, None where there is none."""
    try:
        return find_head(classifier, size)
    except ValueError:
        return None
