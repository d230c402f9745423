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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pandas as pd

from edittools.baselines import OF_THE_HEAD, RIVALS, find_head
from edittools.baselines.finetuning import SCOPES
from edittools.choosing.choice import BUDGET, Choice, about_budget, about_keep, add_layer, choice_of, select
from edittools.choosing.duties import check_duties
from edittools.choosing.report import report
from edittools.choosing.scenario import Scenario
from edittools.choosing.states import CachedStates, cache_states
from edittools.choosing.trials import (
    Exemplars,
    Settings,
    Trial,
    Trials,
    baseline_trials,
    best_runs,
    finetuning_trials,
    grid,
    random_trials,
    ranked,
    repeated_trials,
    rewriting_trials,
    sweep,
)
from edittools.classifiers import Classifier
from edittools.edits import Edit
from edittools.images import LabelledImages, spread
from edittools.keys import layer_keys
from edittools.moments import second_moments
from edittools.rewriting import SAMPLE, rewrite

SLIM = 100
"""So many fine-tuned edits stay in the table of a choice: all that are tried would fill the memory."""

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
    of the reference images; in `states["budget"]` the images that are misread most easily come first. All trials are
    ranked by the validation "loss", or the "net" gain, see `ranked`.
    Raises `ValueError` for an image with two duties, see `check_duties`.
    """

    def __init__(
        self,
        story: Scenario,
        layers: Sequence[str] | None = None,
        progress: bool = False,
        rank_by: str = "loss",
        shared: "Protocol | None" = None,
    ) -> None:
        """Run every set of the story up to `layers` (default: its shortlist, or all) once.

        Of a `shared` protocol at the same layers the cuts are taken over, the keys of the reference images and the
        states of each set that is the same object in both stories.
        """
        check_duties(story)
        self.story, self.progress, self.rank_by = story, progress, rank_by
        layers = tuple(layers or story.shortlist or story.layers)
        if shared is not None and (shared.story.classifier is not story.classifier or tuple(shared.cuts) != layers):
            raise ValueError("a protocol of another classifier or of other layers: no states can be shared with it")
        self.head = _head(story.classifier, story.budget.images[:1].shape[2:])
        everywhere = [*layers, self.head] if self.head and self.head not in layers else layers
        sets = story.sets | ({"keep": story.keep} if story.keep is not None and len(story.keep) else {})
        often = [name for name in ("validation", "keep", "budget") if name in sets]
        self._sets = {name: sets[name] for name in dict.fromkeys([*often, *sets])}
        known = {n: s for n, s in shared.states.items() if self._sets.get(n) is shared._sets[n]} if shared else {}
        new = {name: data for name, data in self._sets.items() if name not in known}
        cuts = shared._everywhere if shared else None
        self._everywhere, states = cache_states(story.classifier, everywhere, progress, cuts=cuts, **new)
        if "budget" in new:
            states["budget"] = _fragile_first(states["budget"])
        self.states = {name: known.get(name) or states[name] for name in self._sets}
        self.cuts = {layer: self._everywhere[layer] for layer in layers}
        if shared and shared.story.reference is story.reference:
            self.moments, self.everyday = shared.moments, shared.everyday
        else:
            self.moments = second_moments(story.classifier, list(self.cuts), story.reference, progress=progress)
            self.everyday = layer_keys(self.cuts, spread(story.reference, SAMPLE), self.moments)

    def _among(self, layers: Sequence[str] | None) -> dict[str, Any]:
        return {layer: self.cuts[layer] for layer in layers or self.cuts}

    def _given(self, layers: Sequence[str] | None, exemplars: Exemplars | None) -> tuple:
        return self._among(layers), exemplars or self.story.exemplars, self.everyday

    def rewriting(
        self,
        settings: Settings,
        strengths: Sequence[float] = (0.5, 1.0),
        exemplars: Exemplars | None = None,
        layers: Sequence[str] | None = None,
    ) -> Trials:
        """Edits of the story's `exemplars` (default: the single ones) in `layers` (default: all)."""
        return rewriting_trials(*self._given(layers, exemplars), settings, strengths)

    def random_directions(
        self,
        settings: Settings,
        strengths: Sequence[float] = (0.5, 1.0),
        exemplars: Exemplars | None = None,
        layers: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Trials:
        """The same trials as `rewriting` along random directions: the control."""
        return random_trials(*self._given(layers, exemplars), settings, strengths, seed)

    def finetuning(
        self, settings: Settings, exemplars: Exemplars | None = None, layers: Sequence[str] | None = None
    ) -> Trials:
        """Fine-tunings with each of `settings`."""
        return finetuning_trials(self._among(layers), exemplars or self.story.exemplars, settings)

    def rival(
        self,
        name: str | Callable[..., Edit],
        strengths: Sequence[float] = (0.5, 1.0),
        exemplars: Exemplars | None = None,
        layers: Sequence[str] | None = None,
        settings: Settings | None = None,
    ) -> Trials:
        """Edits by another method: one of `baselines.RIVALS` with its settings, or a function of that shape and yours.

        Raises `KeyError` for a name that is none of them.
        """
        if isinstance(name, str) and name not in RIVALS:
            raise KeyError(f"method {name!r}: expected one of {', '.join(RIVALS)}, or a function")
        method, usual = RIVALS[name] if isinstance(name, str) else (name, [{}])
        settings = usual if settings is None else settings
        among, exemplars = self._among(layers), exemplars or self.story.exemplars
        if name not in OF_THE_HEAD:
            return baseline_trials(method, among, exemplars, self.moments, settings, strengths)
        if self.head is None:
            return Trials(lambda: (), 0)
        last = {layer: among[layer] for layer in list(among)[-1:]}
        everyday = self.everyday_states(last)
        batches = {layer: everyday.batches(layer) for layer in last}
        return baseline_trials(method, last, exemplars, batches, settings, strengths)

    def everyday_states(self, layers: Iterable[str]) -> CachedStates:
        """Run a sample of the reference images up to `layers`."""
        cuts = {layer: cut for layer, cut in self.cuts.items() if layer in set(layers)}
        sample = spread(self.story.reference, 4 * SAMPLE)
        return CachedStates(cuts, LabelledImages.unlabelled(sample, self.story.classifier.classes))

    def interpolated(self, tuned: Choice, strengths: Sequence[float] = (0.25, 0.5, 0.75), among: int = 20) -> Choice:
        """Choose among fine-tunings and what lies between the best of them and the classifier (WiSE-FT, PAINT)."""
        started, everything = time.perf_counter(), tuned.table.assign(strength=1.0)
        table = everything[everything["edit"].notna()]
        best = ranked(table, self.rank_by).head(among)
        measured = ["corrected", "broken", "net", "loss", "edit", "strength"]
        between = [
            ({**row.drop(measured).to_dict(), "strength": a}, a * row.edit)
            for _, row in best.iterrows()
            for a in strengths
        ]
        between = self._swept(between)
        chosen = self.choose(pd.concat([table, between], ignore_index=True))
        seconds, tried = tuned.seconds + time.perf_counter() - started, tuned.trials + len(between)
        everything = pd.concat([everything, between], ignore_index=True)
        return replace(chosen, table=everything, trials=tried, seconds=seconds)

    def choose(self, trials: Iterable[Trial] | pd.DataFrame, budget: float = BUDGET) -> Choice:
        """Try the trials on the validation images (a table of `sweep` has been tried) and `select` one."""
        started = time.perf_counter()
        tried = isinstance(trials, pd.DataFrame)
        table = trials if tried else self._swept(trials)
        chosen = select(table, self.states["budget"], budget, self.states.get("keep"), self.rank_by)
        return replace(chosen, table=table, seconds=time.perf_counter() - started)

    def choose_finetuning(self, scope: str, plan: Plan | None = None, exemplars: Exemplars | None = None) -> Choice:
        """Choose among fine-tunings as among edits, in the three rounds of a `Plan`."""
        plan, exemplars, started = plan or Plan(), exemplars or self.story.exemplars, time.perf_counter()
        settings = grid(scope=(scope,), rate=plan.rates, momentum=plan.momenta, steps=plan.steps[:1])
        tried = self._swept(self.finetuning(settings, exemplars, plan.tuned)).assign(locality=0.0)
        best = best_runs(tried, plan.top, rank_by=self.rank_by)
        for steps, localities in ((plan.steps[1:], (0.0,)), (plan.steps, plan.localities), (plan.long, ())):
            best = best if localities else best_runs(tried, plan.longest, ("layer", "locality"), self.rank_by)
            again = repeated_trials(best, self.cuts, exemplars, steps, localities, self.everyday_states(best.layer))
            tried = pd.concat([tried, self._swept(again)], ignore_index=True) if len(again) else tried
        chosen = self.choose(tried)
        best = tried.index.isin(ranked(tried, self.rank_by).head(SLIM).index)
        tried["edit"] = tried["edit"].where(best | tried["edit"].map(lambda edit: edit is chosen.edit))
        return replace(chosen, table=tried, seconds=time.perf_counter() - started)

    def _swept(self, trials: Iterable[Trial]) -> pd.DataFrame:
        return sweep(trials, self.states["validation"], self.progress)

    def untuned(self) -> Choice:
        """The edit with the story's default settings, which nobody tuned."""
        settings, started = dict(self.story.default), time.perf_counter()
        layer, exemplar = settings.pop("layer"), self.story.exemplars[settings.pop("exemplar")]
        edit = rewrite(self.story.classifier, self.cuts[layer], exemplar, self.everyday[layer], **settings)
        table = self._swept([(dict(self.story.default), edit)])
        kept = self.states["keep"].compare(edit) if "keep" in self.states else None
        chosen = choice_of(table.iloc[0], self.states["budget"].compare(edit), kept, 1)
        return replace(chosen, table=table, seconds=time.perf_counter() - started)

    def choose_all(self, plan: Plan | None = None) -> dict[str, Choice]:
        """Choose for every method, by name, each in the same way.

        They are an edit that nobody tuned, one from one exemplar and its control along random directions, one from
        several exemplars and its control, an edit of two layers, local and global fine-tuning from one exemplar and
        from several, the first two also interpolated, and the rivals of `baselines`.
        """
        plan, singles = plan or Plan(), self.story.exemplars
        several: Exemplars = {f"all {len(singles)}": list(singles.values()), **self.story.several}
        found = {"untuned": self.untuned()}
        for suffix, exemplars in {"": singles, "_several": several}.items():
            tried = (plan.settings, plan.strengths, exemplars, plan.edited)
            found[f"editing{suffix}"] = self.choose(self.rewriting(*tried))
            found[f"random_direction{suffix}"] = self.choose(self.random_directions(*tried))
        found["two_layers"] = self._second_layer(found["editing"], found["editing_several"])
        for scope, (suffix, exemplars) in product(SCOPES, {"": singles, "_several": several}.items()):
            found[f"finetune_{scope}{suffix}"] = self.choose_finetuning(scope, plan, exemplars)
        found |= {f"interpolated_{scope}": self.interpolated(found[f"finetune_{scope}"]) for scope in SCOPES}
        for name in RIVALS:
            trials = self.rival(name, layers=plan.edited)
            found |= {name: self.choose(trials)} if len(trials) else {}
        return found

    def _second_layer(self, one: Choice, more: Choice) -> Choice:
        """Add a layer to the edit of one exemplar, or to that of several where the story has made them for it."""
        started = time.perf_counter()
        found = pd.DataFrame([one.validation, more.validation]).eval("net = corrected - broken")
        base = (one, more)[ranked(found, self.rank_by).index[0]] if self.story.several else one
        table = pd.concat([one.table, more.table])
        validation, budget, keep = (self.states.get(name) for name in ("validation", "budget", "keep"))
        chosen = add_layer(base.edit, table, validation, budget, keep, progress=self.progress, rank_by=self.rank_by)
        return replace(
            chosen,
            settings=chosen.settings
            and {"layer": f"{base} + {chosen}" if chosen.settings["layer"] else f"{base}, alone"},
            trials=one.trials + more.trials + chosen.trials,
            seconds=one.seconds + more.seconds + time.perf_counter() - started,
        )

    def report(self, edits: Mapping[str, Edit]) -> pd.DataFrame:
        """Evaluate edits by name on every set of the story, see `choosing.report`."""
        return report(edits, self.states)

    def about_budget(self) -> str:
        """Say how fine the budget is on this story's budget images, see `about_budget`."""
        said = about_budget(len(self.story.budget))
        return f"{said}; {about_keep(len(self.states['keep'].labels))}" if "keep" in self.states else said


def _fragile_first(states: CachedStates) -> CachedStates:
    """The budget images in an order in which an edit that costs too much is soon given up; as they are, if need be."""
    try:
        return states.fragile_first()
    except ValueError:  # states that do not say where an image begins cannot be put into another order
        return states


def _head(classifier: Classifier, size: Sequence[int]) -> str | None:
    """Name the linear layer whose output is the logits, None where there is none."""
    try:
        return find_head(classifier, size)
    except ValueError:
        return None
