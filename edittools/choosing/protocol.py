"""How an edit is chosen, fairly: on validation images, under an accuracy budget, every method in the same way.

    protocol = Protocol(story, story.shortlist)                # all sets as states at the layers, second moments
    best = protocol.choose(protocol.rewriting(grid(rank=(1, 3))))
    control = protocol.choose(protocol.random_directions(grid(rank=(1, 3))))
    protocol.report({"edit": best.edit, "random direction": control.edit})

Reference images say which keys are everyday ones, validation images choose, budget images must stay accurate; what is
reported was used for neither. The rule of choice is `select`'s (section 4.2 of the paper).
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha1
from itertools import product
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype
from torch import Tensor

from edittools.baselines.finetuning import SCOPES
from edittools.choosing.report import report
from edittools.choosing.scenario import Scenario
from edittools.choosing.states import CachedStates, cache_states
from edittools.choosing.trials import (
    Exemplars,
    Settings,
    Trial,
    Trials,
    finetuning_trials,
    grid,
    locality_trials,
    random_trials,
    rewriting_trials,
    sweep,
)
from edittools.edits import Edit
from edittools.images import LazyImages
from edittools.metrics import Comparison
from edittools.moments import second_moments
from edittools.rewriting import rewrite

BUDGET = 0.25
"""Points of accuracy that a chosen edit may cost on the budget images (section 4.2)."""

FEW = 400
"""With fewer budget images, one image is more than `BUDGET` points."""

_WORDS = ("batch_size", "scope", "masked")
_MEASURED = ("corrected", "broken", "net", "loss", "edit")


@dataclass(frozen=True, eq=False)
class Choice:
    """The trial that was chosen: its edit, settings, and what it did to the validation and the budget images.

    `validation` holds `corrected`, `broken` and `loss`. `budget` compares the budget images before and after. `trials`
    were tried in `seconds`; `table` has one row for each. Where no trial with a net gain kept the budget, the edit is
    scaled by 0 and there are no settings.
    """

    edit: Edit
    settings: Mapping[str, Any]
    validation: Mapping[str, float]
    budget: Comparison = field(repr=False)
    trials: int = 0
    seconds: float = float("nan")
    table: pd.DataFrame | None = field(default=None, repr=False)

    @property
    def found(self) -> bool:
        """Whether any trial helped within the budget."""
        return bool(self.settings)

    @property
    def edges(self) -> tuple[str, ...]:
        """The settings whose value is the least or the largest of three or more that were tried; 0 is no edge."""
        names = [] if self.table is None else [n for n in self.settings if n in self.table and n not in _WORDS]
        tried = {name: self.table[name].dropna() for name in names if is_numeric_dtype(self.table[name])}
        return tuple(
            name for name, values in tried.items()
            if values.nunique() > 2 and self.settings[name] in (values.min(), values.max()) and self.settings[name]
        )  # fmt: skip

    @property
    def accuracy_change(self) -> float:
        """The accuracy change on the budget images, in points."""
        return self.budget.accuracy_change

    def row(self) -> pd.Series:
        """The choice as a table column: settings, validation figures, accuracy change with its 95 % interval."""
        low, high = self.budget.accuracy_interval()
        change = {"accuracy change": self.accuracy_change, "low": low, "high": high, "trials": self.trials}
        return pd.Series({**self.settings, **self.validation, **change}, dtype=object, name="chosen")

    def __str__(self) -> str:
        """Say the settings in a few words."""
        if not self.found:
            return "nothing"
        known = dict(self.settings)
        words = [str(known.pop(name)) for name in ("layer", "exemplar") if known.get(name)]
        if (masked := known.pop("masked", None)) is not None:
            words.append("mask" if masked else "no mask")
        if objective := known.pop("objective", None):
            words.append(objective)
        strength = known.pop("strength", None)
        words += [f"{n} {v:g}" for n, v in known.items() if n not in _WORDS and isinstance(v, int | float)]
        words += [] if strength is None else [f"α {strength:g}"]
        return ", ".join(words) + (f" (edge of the grid: {', '.join(self.edges)})" if self.edges else "")


def select(table: pd.DataFrame, budget_images: CachedStates, budget: float = BUDGET) -> Choice:
    """Choose the trial of lowest validation loss that corrects more than it breaks and costs at most `budget` points.

    The loss ranks, not the count of corrections: among few validation images many trials have the same count, and the
    most fortunate of hundreds is not the best. When no trial with a net gain keeps the budget, the choice is the edit
    that changes nothing, so that a method that cannot help is reported as such.
    """
    return select_each(table, budget_images, [budget])[budget]


def select_each(table: pd.DataFrame, budget_images: CachedStates, budgets: Sequence[float]) -> dict[float, Choice]:
    """Select as `select` does under each of several budgets; each trial is run on the budget images at most once."""
    if table.empty:
        raise ValueError("a table with no trial: expected at least one row, see sweep")
    ranked, found = table.sort_values("loss", kind="stable"), {}
    for _, row in ranked[ranked.net > 0].iterrows():
        missing = [budget for budget in budgets if budget not in found]
        if not missing:
            break
        compared = budget_images.within(row.edit, max(missing))
        for budget in missing:
            if compared is not None and compared.accuracy_change >= -budget:
                found[budget] = _choice(row, compared, len(table))
    nothing = Choice(
        0 * ranked.edit.iloc[0], {}, {"corrected": 0, "broken": 0, "loss": float("nan")},
        Comparison(budget_images.before, budget_images.before), len(table),
    )  # fmt: skip
    return {budget: found.get(budget, nothing) for budget in budgets}


def _choice(row: pd.Series, compared: Comparison, trials: int) -> Choice:
    settings = {name: value for name, value in row.items() if name not in _MEASURED and not _is_missing(value)}
    figures = {name: row[name] for name in ("corrected", "broken", "loss")}
    return Choice(row.edit, settings, figures, compared, trials)


def _is_missing(value: Any) -> bool:
    return isinstance(value, float) and value != value


def add_layer(
    first: Edit,
    table: pd.DataFrame,
    validation: CachedStates,
    budget_images: CachedStates,
    among: int = 40,
    progress: bool = False,
) -> Choice:
    """Add to `first` the trial of `table`, in another layer, that helps most on top of it.

    The `among` best trials of other layers are tried, and `first` alone, whose layer is ""; the rule is `select`'s.
    """
    others = table[~table.layer.isin(first.layers) & (table.net > 0)].sort_values("loss").head(among)
    found = others.columns.intersection(_MEASURED)
    trials = [(row.drop(found).to_dict(), first + row.edit) for _, row in others.iterrows()]
    return select(sweep([({"layer": ""}, first), *trials], validation, progress), budget_images)


def about_budget(images: int, budget: float = BUDGET) -> str:
    """Say how fine a budget of so many points is on so many images, and when they are too few to keep it."""
    coarse = f"; fewer than {FEW}, so it is coarse" if images < FEW else ""
    allowed = int(budget * images / 100 + 1e-9)
    return (
        f"budget of {budget:g} points on {images:,} images: one is {100 / max(images, 1):.2f} points, "
        f"{allowed or 'none'} may be lost{coarse}"
    )


def _digests(images: Tensor | LazyImages) -> set[bytes | str]:
    """What tells images apart: their pixels, or of images on disk their paths."""
    if isinstance(images, LazyImages):
        return {str(path) for path in images.paths}
    return {sha1(image.cpu().numpy().tobytes()).digest() for image in images}


@dataclass(frozen=True)
class Plan:
    """What every method may try on a story: settings of `rewrite`, strengths α and layers; grids of fine-tuning.

    `edited` and `tuned` are the layers tried by rewriting and by fine-tuning (default: all that are cut). The `top`
    fine-tunings are tried again with each locality.
    """

    settings: Settings = field(
        default_factory=lambda: grid(rank=(1, 3), masked=(True, False), objective=("l1", "least_squares"))
    )
    strengths: Sequence[float] = (0.5, 1.0)
    edited: Sequence[str] = ()
    tuned: Sequence[str] = ()
    rates: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1)
    steps: Sequence[int] = (20,)
    localities: Sequence[float] = (1.0, 10.0, 100.0)
    top: int = 4


class Protocol:
    """A story's images as states at its layers, the second moments of its reference images, and the rule of choice.

    `cuts` and `moments` go by layer, `states` by the name of the set. Raises `ValueError` where budget images are
    reference images: an edit is made to spare those, so they cannot tell what it costs.
    """

    def __init__(self, story: Scenario, layers: Sequence[str] | None = None, progress: bool = False) -> None:
        """Run every set of the story up to `layers` (default: its shortlist, or all) once."""
        shared = len(_digests(story.budget.images) & _digests(getattr(story.reference, "images", story.reference)))
        if shared:
            raise ValueError(f"{shared} of the {len(story.budget)} budget images are reference images: expected none")
        self.story, self.progress = story, progress
        self.cuts, self.states = cache_states(
            story.classifier, layers or story.shortlist or story.layers, progress, **story.sets
        )
        self.moments = second_moments(story.classifier, list(self.cuts), story.reference, progress=progress)

    def _among(self, layers: Sequence[str] | None) -> dict[str, Any]:
        return {layer: self.cuts[layer] for layer in layers or self.cuts}

    def rewriting(
        self,
        settings: Settings,
        strengths: Sequence[float] = (0.5, 1.0),
        exemplars: Exemplars | None = None,
        layers: Sequence[str] | None = None,
    ) -> Trials:
        """Edits of the story's `exemplars` (default: the single ones) in `layers` (default: all)."""
        return rewriting_trials(
            self._among(layers), exemplars or self.story.exemplars, self.moments, settings, strengths
        )

    def random_directions(
        self,
        settings: Settings,
        strengths: Sequence[float] = (0.5, 1.0),
        exemplars: Exemplars | None = None,
        layers: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Trials:
        """The same trials as `rewriting` along random directions: the control."""
        return random_trials(self._among(layers), exemplars or self.story.exemplars, settings, strengths, seed)

    def finetuning(
        self, settings: Settings, exemplars: Exemplars | None = None, layers: Sequence[str] | None = None
    ) -> Trials:
        """Fine-tunings with each of `settings`."""
        return finetuning_trials(self._among(layers), exemplars or self.story.exemplars, settings)

    def choose(self, trials: Iterable[Trial] | pd.DataFrame, budget: float = BUDGET) -> Choice:
        """Try the trials on the validation images (a table of `sweep` has been tried) and `select` one."""
        started = time.perf_counter()
        tried = isinstance(trials, pd.DataFrame)
        table = trials if tried else self._swept(trials)
        chosen = select(table, self.states["budget"], budget)
        return replace(chosen, table=table, seconds=time.perf_counter() - started)

    def choose_finetuning(self, scope: str, plan: Plan | None = None, exemplars: Exemplars | None = None) -> Choice:
        """Choose among fine-tunings as among edits: plain ones, and the best of them again with a locality term."""
        plan, exemplars, started = plan or Plan(), exemplars or self.story.exemplars, time.perf_counter()
        settings = grid(scope=(scope,), rate=plan.rates, steps=plan.steps)
        plain = self._swept(self.finetuning(settings, exemplars, plan.tuned)).assign(locality=0.0)
        near = locality_trials(plain, self.cuts, exemplars, plan.localities, self.story.reference, plan.top)
        chosen = self.choose(pd.concat([plain, self._swept(near)], ignore_index=True))
        return replace(chosen, seconds=time.perf_counter() - started)

    def _swept(self, trials: Iterable[Trial]) -> pd.DataFrame:
        return sweep(trials, self.states["validation"], self.progress)

    def untuned(self) -> Choice:
        """The edit with the story's default settings, which nobody tuned."""
        settings, started = dict(self.story.default), time.perf_counter()
        layer, exemplar = settings.pop("layer"), self.story.exemplars[settings.pop("exemplar")]
        edit = rewrite(self.story.classifier, self.cuts[layer], exemplar, self.moments[layer], **settings)
        table = self._swept([(dict(self.story.default), edit)])
        chosen = _choice(table.iloc[0], self.states["budget"].compare(edit), 1)
        return replace(chosen, table=table, seconds=time.perf_counter() - started)

    def choose_all(self, plan: Plan | None = None) -> dict[str, Choice]:
        """Choose for every method, by name, each in the same way.

        They are an edit that nobody tuned, one from one exemplar and its control along random directions, one from
        several exemplars and its control, an edit of two layers, and local and global fine-tuning, from one exemplar
        and from several.
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
        return found

    def _second_layer(self, one: Choice, more: Choice) -> Choice:
        """Add a layer to the edit of one exemplar, or to that of several where the story has made them for it."""
        started = time.perf_counter()
        base = more if self.story.several and more.found and more.validation["loss"] < one.validation["loss"] else one
        table = pd.concat([one.table, more.table])
        chosen = add_layer(base.edit, table, self.states["validation"], self.states["budget"], progress=self.progress)
        return replace(
            chosen,
            settings=chosen.settings
            and {"layer": f"{base} + {chosen}" if chosen.settings["layer"] else f"{base}, alone"},
            trials=one.trials + more.trials + chosen.trials,
            seconds=one.seconds + more.seconds + time.perf_counter() - started,
        )

    def report(self, edits: Mapping[str, Edit]) -> pd.DataFrame:
        """Evaluate edits by name on every set of the story, see `benchmark.report`."""
        return report(edits, self.states)

    def about_budget(self) -> str:
        """Say how fine the budget is on this story's budget images, see `about_budget`."""
        return about_budget(len(self.story.budget))
