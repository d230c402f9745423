"""How an edit is chosen, fairly: on validation images, under an accuracy budget, every method in the same way.

protocol = Protocol(story, story.shortlist)                # all sets as states at the layers, second moments
best = protocol.choose(protocol.rewriting(grid(rank=(1, 3))))
control = protocol.choose(protocol.random_directions(grid(rank=(1, 3))))
protocol.report({"edit": best.edit, "random direction": control.edit})
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product

import pandas as pd

from edittools._checks import one_of
from edittools.baselines import BASELINES, OF_THE_HEAD, find_head, finetune, rewrite_at_random
from edittools.baselines.inputs import Batches, reference_batches
from edittools.classifiers import Classifier, remap_labels
from edittools.cut import states_at
from edittools.edits import Edit, applied_edits
from edittools.images import LabelledImages, evenly_spaced
from edittools.metrics import predict
from edittools.moments import second_moments
from edittools.rewriting import SAMPLE, rewrite
from edittools.selection.activations import CachedStates, cache_states, report
from edittools.selection.constraints import BUDGET, Bounds, Choice, about_budget
from edittools.selection.scenario import Scenario
from edittools.selection.splits import check_splits
from edittools.selection.trials import (
    MEASURED,
    USUAL,
    Layers,
    SettingsGrid,
    Shown,
    Strengths,
    Trial,
    Trials,
    grid,
    sweep,
)

SPARING = (0.0, 10.0, 30.0, 100.0)
"""Values of λ to try: what it costs to move everyday keys, see `rewrite`."""


@dataclass(frozen=True)
class Plan:
    """What every method may try on a story: settings of `rewrite`, strengths α and layers; grids of fine-tuning.

    `edited` and `tuned` are the layers tried by rewriting and by fine-tuning (default: all). There are two rounds of
    fine-tuning: every rate and momentum, for the first of `steps`; then the best of the `top` best layers, and the best
    that satisfy the constraints there, for all `steps`, without and with each locality.
    """

    settings: SettingsGrid = field(
        default_factory=lambda: [
            *grid(rank=(1, 3), masked=(True, False), objective=("l1",), reference_weight=SPARING[::2]),
            *grid(rank=(1, 3), masked=(True, False), objective=("least_squares",), reference_weight=SPARING),
        ]
    )
    strengths: Strengths = (0.5, 1.0, 1.5)
    edited: Sequence[str] = ()
    tuned: Sequence[str] = ()
    rates: Sequence[float] = (1e-4, 1e-3, 3e-3, 1e-2, 1e-1)
    momenta: Sequence[float] = (0.0, 0.9)
    steps: Sequence[int] = (20, 100, 200)
    localities: Sequence[float] = (1.0, 10.0, 30.0, 100.0)
    top: int = 4


class Protocol:
    """A story's images as states at its layers, the second moments of its reference images, and the rule of choice.

    `cuts` and `reference_moments` (with a sample of the keys) go by layer, `states` by the name of the set; those
    of the budget that are misread most easily come first. Raises `ValueError` for an image with two duties. Trials are
    of the story's `exemplars` (default: the single ones) in `layers` (default: all).
    """

    def __init__(
        self, story: Scenario, layers: Layers = None, progress: bool = False, shared: "Protocol | None" = None
    ) -> None:
        """Run every set of the story up to `layers` (default: its shortlist, or all) once.

        What a `shared` protocol at the same layers has of the same sets is taken over.
        """
        check_splits(story)
        self.story, self.progress = story, progress
        layers = tuple(layers or story.shortlist or story.layers)
        if shared is not None and (shared.story.classifier is not story.classifier or tuple(shared.cuts) != layers):
            raise ValueError("a protocol of another classifier or of other layers: no states can be shared with it")
        kept = {"keep": story.keep} if story.keep else {}
        self._sets = {"validation": story.validation, **kept, **story.sets}  # those that are read most often first
        known = {n: s for n, s in shared.states.items() if self._sets.get(n) is shared._sets[n]} if shared else {}
        new = {name: data for name, data in self._sets.items() if name not in known}
        if "budget" in new:
            new["budget"] = fragile_first(story.budget, story.classifier)
        cuts = shared.cuts if shared else None
        self.cuts, states = cache_states(story.classifier, layers, progress, cuts=cuts, **new)
        self.states: dict[str, CachedStates] = {name: known.get(name) or states[name] for name in self._sets}
        self.bounds = Bounds(self.states["budget"], self.states.get("keep"))
        if shared and shared.story.reference is story.reference:
            self.reference_moments, self._sampled = shared.reference_moments, shared._sampled
        else:
            moments = second_moments(story.classifier, list(self.cuts), story.reference, progress=progress)
            sample = states_at(self.cuts, evenly_spaced(story.reference, SAMPLE))
            keys = {name: [cut.keys(state) for state in sample[name]] for name, cut in self.cuts.items()}
            self.reference_moments = {name: replace(moments[name], sample=keys[name]) for name in self.cuts}
            self._sampled: dict[tuple, Batches] = {}

    def rewriting(
        self, settings: SettingsGrid, strengths: Strengths = USUAL, exemplars: Shown = None, layers: Layers = None
    ) -> Trials:
        """Rewrite with each of `settings`, at each strength α."""
        return self.baseline(rewrite, strengths, exemplars, layers, settings)

    def random_directions(
        self, settings: SettingsGrid, strengths: Strengths = USUAL, exemplars: Shown = None, layers: Layers = None
    ) -> Trials:
        """Try the same as `rewriting` along random directions, as a control. Settings of full rank are left out."""
        ranked = [setting for setting in settings if setting.get("rank", 1) is not None]
        return self.baseline(rewrite_at_random, strengths, exemplars, layers, ranked)

    def finetuning(
        self, settings: SettingsGrid, exemplars: Shown = None, layers: Layers = None, strengths: Strengths = (1.0,)
    ) -> Trials:
        """Fine-tune with each of `settings`; a locality is of a sample of the reference images."""
        return self.baseline(finetune, strengths, exemplars, layers, settings)

    def baseline(
        self,
        method: str | Callable[..., Edit],
        strengths: Strengths = USUAL,
        exemplars: Shown = None,
        layers: Layers = None,
        settings: SettingsGrid | None = None,
    ) -> Trials:
        """Try a method at each strength α: one of `baselines.BASELINES` with its settings, or a function like these."""
        among, reference = {layer: self.cuts[layer] for layer in layers or self.cuts}, self.reference_moments
        made, usual = (
            BASELINES[one_of(method, BASELINES, "method", KeyError)] if isinstance(method, str) else (method, [{}])
        )
        settings = usual if settings is None else settings
        if method in OF_THE_HEAD:  # whatever layer states stand at; a model without a head has no such trials
            last, among = list(among.items())[-1:], {}
            with suppress(ValueError):
                among = dict(last) if find_head(self.story.classifier) else {}
        if method in OF_THE_HEAD or any(setting.get("locality") for setting in settings):
            reference = {layer: self.reference_batches_at(layer) for layer in among}
        return Trials(made, among, exemplars or self.story.exemplars, reference, settings, strengths)

    def choose_finetuning(self, scope: str, plan: Plan, exemplars: Shown = None) -> Choice:
        """Choose among fine-tunings as among edits, in the two rounds of a `Plan`."""
        exemplars, started = exemplars or self.story.exemplars, time.perf_counter()
        first = grid(scope=(scope,), rate=plan.rates, momentum=plan.momenta, locality=(0.0,), steps=plan.steps[:1])
        tried = [self.sweep(self.finetuning(first, exemplars, plan.tuned))]
        order = tried[0].sort_values("loss", kind="stable")
        best = order.drop_duplicates("layer").head(plan.top)
        feasible = self.feasible(order, plan.top)
        again = pd.concat([best, feasible.loc[feasible.index.difference(best.index, sort=False)]])
        for run in again.to_dict("records"):
            same = {name: (run[name],) for name in ("scope", "rate", "momentum")}
            longer = grid(**same, locality=(0.0,), steps=(tuple(plan.steps[1:]),)) if plan.steps[1:] else []
            nearer = grid(**same, locality=plan.localities, steps=(tuple(plan.steps),))
            shown = {run["exemplar"]: exemplars[run["exemplar"]]}
            tried.append(self.sweep(self.finetuning([*longer, *nearer], shown, [run["layer"]])))
        chosen = self.choose(pd.concat(tried, ignore_index=True))
        return replace(chosen, seconds=time.perf_counter() - started)

    def feasible(self, candidates: pd.DataFrame, most: int) -> pd.DataFrame:
        """Return the first candidate of each layer that satisfies the constraints, of at most `most` layers.

        Args:
            candidates: a table of `sweep`, the best candidate first.
            most: number of layers.
        """
        rows: dict[str, int] = {}
        for index, layer, edit in zip(candidates.index, candidates.layer, candidates.edit, strict=True):
            if len(rows) < most and layer not in rows and self.bounds.measure(edit, BUDGET) is not None:
                rows[layer] = index
        return candidates.loc[list(rows.values())]

    def interpolated(self, tuned: Choice) -> Choice:
        """Choose among fine-tunings and what lies between the best of them and the classifier (WiSE-FT, PAINT)."""
        started, best = time.perf_counter(), tuned.table.sort_values("loss", kind="stable").head(20)
        named = best.drop(columns=best.columns.intersection(MEASURED)).to_dict("records")
        pairs = product(zip(named, best.edit, strict=True), (0.25, 0.5, 0.75))
        between = self.sweep([({**settings, "strength": a}, a * edit) for (settings, edit), a in pairs])
        chosen = self.choose(pd.concat([tuned.table, between], ignore_index=True))
        return replace(chosen, seconds=tuned.seconds + time.perf_counter() - started)

    def reference_batches_at(self, layer: str) -> Batches:
        """Run a sample of the reference images up to a layer: its states and original log-probabilities.

        They are computed once for the edits that are applied at that moment.
        """
        key = (layer, tuple(edit.digest for edit in applied_edits(self.story.classifier)))
        if key not in self._sampled:
            sample = evenly_spaced(self.story.reference, 4 * SAMPLE)
            self._sampled[key] = reference_batches(self.cuts[layer], sample)
        return self._sampled[key]

    def sweep(self, trials: Iterable[Trial]) -> pd.DataFrame:
        """Try the trials on the validation images, see `selection.sweep`."""
        return sweep(trials, self.states["validation"], self.progress)

    def choose(self, trials: Iterable[Trial] | pd.DataFrame, budget: float = BUDGET) -> Choice:
        """Try the trials on the validation images (a table of `sweep` has been tried) and choose one."""
        started = time.perf_counter()
        table = trials if isinstance(trials, pd.DataFrame) else self.sweep(trials)
        return replace(self.bounds.choose(table, budget), seconds=time.perf_counter() - started)

    def report(self, edits: Mapping[str, Edit]) -> pd.DataFrame:
        """Evaluate edits by name on every set of the story, see `selection.report`."""
        return report(edits, self.states)

    def about_budget(self) -> str:
        """Say how fine the bounds are on this story's images."""
        return about_budget(len(self.story.budget), len(self.story.keep) if self.story.keep else None)


def fragile_first(data: LabelledImages, classifier: Classifier) -> LabelledImages:
    """Order images by how nearly they are misread, so that a comparison soon shows what a costly edit costs."""
    data = remap_labels("budget", data, classifier)
    logits, labels = predict(classifier, data), data.labels[:, None]
    best = logits.scatter(1, labels, float("-inf")).max(dim=1).values
    return data.subset((logits.gather(1, labels)[:, 0] - best).argsort(stable=True))
