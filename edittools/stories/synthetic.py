"""The large synthetic benchmark (section 4 of the paper): many small edits, tried by every method, at any scale.

A case is a concept, a style and a target class: everywhere the concept is seen it is turned into the style; some images
of the target class are the exemplars, all others with the concept are the test. `Suite` says what is swept, `sweep`
does it on any `Executor`, `summary` averages. A suite's `source` gives the images, as a `Material`.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields, replace
from functools import cache, lru_cache, partial
from itertools import chain
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from edittools.baselines import RIVALS, SCOPES, rewrite_at_random
from edittools.choosing.choice import BUDGET, Bounds, Choice
from edittools.choosing.protocol import best_runs
from edittools.choosing.states import CachedStates
from edittools.choosing.trials import Trials, finetuning_trials, grid, method_trials
from edittools.choosing.trials import sweep as sweep_trials
from edittools.classifiers import Classifier
from edittools.cut import Cut, cut_all
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.graph import identity
from edittools.images import Images, LabelledImages, digest_tensors, pixels_of, stratified
from edittools.metrics import Comparison, errors, predict
from edittools.moments import SecondMoment, second_moments
from edittools.probing import jobs
from edittools.probing.counterfactuals import turned
from edittools.rewriting import rewrite
from edittools.stories.style_pictures import material as style_picture
from edittools.zoo.data import shipped

SAME, MORE, HELD_OUT = 0, (1, 2), (3, 4, 5)
"""Style variants: that of the exemplars and the test, more for edits that see several, and those never seen."""


@dataclass(frozen=True)
class Material:
    """What a suite is made of: a classifier, images with concept masks, and three disjoint sets of everyday images.

    `masks` go by concept, `(N, H, W)` of 0 and 1. Edits spare the keys of `reference` images, which need no labels,
    keep the accuracy of `budget` images, and are reported on `clean` ones.
    """

    classifier: Classifier
    images: LabelledImages
    masks: Mapping[str, Tensor]
    reference: Images
    budget: LabelledImages
    clean: LabelledImages


@dataclass(frozen=True, order=True)
class Case:
    """One concept in one style, rewritten with exemplars of one class."""

    concept: str
    style: str
    target: str

    def __str__(self) -> str:
        return f"{self.concept} → {self.style}, {self.target}"


@dataclass(frozen=True)
class Suite:
    """What is swept: plain values only, and a `source` that every process can import, so that a suite can be sent away.

    `source(**options)` gives the `Material`. Every one of its `concepts` is turned into every style,
    for so many `targets`, classes drawn at random; edited are `layers`. The first of the `numbers` of exemplars is what
    all methods get; editing and plain fine-tuning are tried with the others in one of `every` cases. A concept covers
    at least a share `area` of an image; at `most` so many images show it; other classes have at `least` so many errors.
    `strengths` scale every edit; `rates`, `steps` and `localities` are of fine-tuning, `solver_steps` of the L1
    objective; `rivals` are names in `baselines.RIVALS`. The choice is made under each of the `budgets`, in points.
    """

    source: Callable[..., Material]
    concepts: tuple[str, ...]
    styles: tuple[str, ...]
    layers: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()
    targets: int = 1
    numbers: tuple[int, ...] = (3, 1, 10)
    every: int = 1
    area: float = 0.05
    least: int = 3
    most: int = 160
    strengths: tuple[float, ...] = (0.25, 0.5, 1.0)
    rates: tuple[float, ...] = (3e-4, 3e-3, 3e-2)
    steps: int = 20
    solver_steps: int = 40
    localities: tuple[float, ...] = (1.0, 10.0)
    budgets: tuple[float, ...] = (BUDGET, 1.0, 100.0)
    rivals: tuple[str, ...] = ()
    threads: int = 1
    seed: int = 0


RANKS = (1, 3, 10)
REWRITING: dict[str, dict[str, tuple]] = {
    "editing": {"rank": RANKS, "masked": (True,), "objective": ("l1",)},
    "editing -mask": {"rank": RANKS, "masked": (False,), "objective": ("l1",)},
    "editing -proj": {"rank": (None,), "masked": (True,), "objective": ("l1",)},
    "least squares": {"rank": RANKS, "masked": (True,), "objective": ("least_squares",)},
}
"""The settings of `rewrite` that each method chooses from; "-proj" lifts the low-rank restriction."""

FINETUNING = ("local fine-tuning", "global fine-tuning", "local, locality", "global, locality")


@lru_cache(maxsize=1)
def material(suite: Suite) -> Material:
    """A suite's material."""
    return suite.source(**dict(suite.options))


@lru_cache(maxsize=1)
def _read_right(suite: Suite) -> Tensor:
    found = material(suite)
    with jobs.alone(suite.threads):
        return ~errors(predict(found.classifier, found.images), found.images.labels)


@dataclass(frozen=True)
class Workbench:
    """A classifier cut at the suite's layers, everyday images kept there, and the keys' second moments.

    The `budget` images come in the order that tells costly edits soonest.
    """

    cuts: Mapping[str, Cut]
    reference: CachedStates
    budget: CachedStates
    clean: CachedStates
    moments: Mapping[str, SecondMoment]


@lru_cache(maxsize=1)
def workbench(suite: Suite) -> Workbench:
    """Prepare what all cases of a suite share."""
    found = material(suite)
    with jobs.alone(suite.threads):
        cuts = cut_all(found.classifier, suite.layers)
        moments = second_moments(found.classifier, list(cuts), found.reference)
        reference = found.reference
        if not isinstance(reference, LabelledImages):
            reference = LabelledImages.unlabelled(reference, found.classifier.classes)
        everyday = [CachedStates(cuts, data) for data in (reference, found.budget, found.clean)]
        return Workbench(cuts, everyday[0], everyday[1].fragile_first(), everyday[2], moments)


def styled(images: LabelledImages, masks: Tensor, style: str, variants: Sequence[int]) -> LabelledImages:
    """Turn what the masks cover into a style, image i in variant `variants[i]`; pixels of 8 bits, as in a file."""
    size = max(images.images[:1].shape[-2:])
    made = turned(images, masks, [style_picture(style, variant, size) for variant in variants])
    return replace(made, images=(made.images * 255).round() / 255)


@dataclass(frozen=True)
class Group:
    """All images with a concept, read rightly as they are (the paper's D), clean and in a style: same and held out."""

    clean: LabelledImages = field(repr=False)
    masks: Tensor = field(repr=False)
    same: LabelledImages = field(repr=False)
    held_out: LabelledImages = field(repr=False)
    kept: Mapping[str, CachedStates] = field(repr=False)


@lru_cache(maxsize=1)
def group(suite: Suite, concept: str, style: str) -> Group:
    """Transform a concept into a style and run the images to every layer: once for all cases that share it."""
    found, chosen = material(suite), _members(suite, concept)
    clean, masks = found.images.subset(chosen), found.masks[concept][chosen]
    same = styled(clean, masks, style, [SAME] * len(clean))
    held_out = styled(clean, masks, style, [HELD_OUT[i % len(HELD_OUT)] for i in range(len(clean))])
    cuts = workbench(suite).cuts
    with jobs.alone(suite.threads):
        return Group(
            clean, masks, same, held_out, {"same": CachedStates(cuts, same), "held out": CachedStates(cuts, held_out)}
        )


def _members(suite: Suite, concept: str) -> Tensor:
    """Which images show enough of a concept and are read rightly, without excluded classes: integers, sorted."""
    found = material(suite)
    if concept not in found.masks:
        raise KeyError(f"no masks of {concept!r}: expected one of {', '.join(found.masks)}")
    excluded = exclusions().query("concept == @concept")["class"]
    banned = [found.images.classes.index(c) for c in excluded if c in found.images.classes]
    fits = (found.masks[concept].mean(dim=(1, 2)) >= suite.area) & _read_right(suite)
    fits &= ~torch.isin(found.images.labels, torch.tensor(banned, dtype=torch.long))
    members = fits.nonzero()[:, 0]
    if len(members) > suite.most:
        chosen = stratified(found.images.labels[members], suite.most / len(members), suite.seed)
        members = members[chosen]
    return members


@cache
def exclusions() -> pd.DataFrame:
    """Return the pairs of concept and class that no case may hold: the concept is the class, or names it."""
    table = pd.read_csv(shipped("exclusions.txt"), sep=r"\s*;\s*", engine="python", skipinitialspace=True)
    table.columns = table.columns.str.strip()
    table["class"] = table.pop("classes").str.strip().str.split(", ")
    return table.explode("class", ignore_index=True)


def cases(suite: Suite) -> list[Case]:
    """List a suite's cases: for each concept and style, target classes with images enough, drawn at random.

    Enough is one more than the exemplars that every method gets; with the larger `numbers`, a class gives what it has.
    """
    found, listed = material(suite), []
    for concept in suite.concepts:
        labels = found.images.labels[_members(suite, concept)]
        counts = {label: int((labels == label).sum()) for label in labels.unique().tolist()}
        able = [label for label, count in counts.items() if suite.numbers[0] < count < len(labels)]
        for style in suite.styles:
            order = _generator(suite, concept, style).permutation(able)[: suite.targets]
            listed += [Case(concept, style, found.images.classes[label]) for label in order]
    return listed


def _generator(suite: Suite, *names: str) -> np.random.Generator:
    return np.random.default_rng([suite.seed, *"|".join(names).encode()])


@dataclass(frozen=True)
class Parts:
    """A case taken apart: exemplars, and the other images split into 30 % validation and 70 % test.

    `validation` and `test` are integers into the group; `target` is the class's number.
    """

    group: Group = field(repr=False)
    target: int
    chosen: Tensor
    validation: Tensor
    test: Tensor

    def exemplars(self, number: int) -> list[Exemplar]:
        """The first `number` exemplars (or what there is), in the style variant of the test."""
        some, whole = self.chosen[:number].tolist(), self.group
        return [Exemplar(whole.clean.images[i], whole.same.images[i], whole.masks[i], self.target) for i in some]

    def in_variants(self, style: str, number: int) -> list[Exemplar]:
        """The exemplars in the test's variant and in two more: three pictures of each."""
        several, some = self.exemplars(number), self.chosen[:number]
        for variant in MORE:
            clean, masks = self.group.clean.subset(some), self.group.masks[some]
            part = styled(clean, masks, style, [variant] * len(some))
            several += [e.map(changed=x) for e, x in zip(self.exemplars(number), part.images, strict=True)]
        return several


def parts(suite: Suite, case: Case) -> Parts:
    """Draw a case's exemplars and split the rest, the same whenever it is asked for."""
    whole = group(suite, case.concept, case.style)
    target = whole.clean.classes.index(case.target)
    own = (whole.clean.labels == target).nonzero()[:, 0].numpy()
    room = max(suite.numbers[0], min(max(suite.numbers), len(own) // 2))
    chosen = torch.from_numpy(_generator(suite, str(case)).permutation(own)[:room])
    rest = torch.tensor([i for i in range(len(whole.clean)) if i not in set(chosen.tolist())])
    first = stratified(whole.clean.labels[rest], 0.3, suite.seed)
    return Parts(whole, target, chosen, rest[first], rest[~first])


def run_case(suite: Suite, case: Case) -> list[dict[str, Any]]:
    """Try every method on one case: choose on validation images, evaluate the chosen edits once on the test images.

    One row for each method, number of exemplars and budget: errors before and after on (target, other) × (same, held
    out), and accuracy changes in points. A case without errors enough to correct gives one row, of method "undefined".
    """
    with jobs.alone(suite.threads):
        pieces, tools = parts(suite, case), workbench(suite)
        validation = pieces.group.kept["same"].subset(pieces.validation)
        test = {name: kept.subset(pieces.test) for name, kept in pieces.group.kept.items()}
        head = {"concept": case.concept, "style": case.style, "target": case.target}
        found, reported = (
            int((one.before & (one.labels != pieces.target)).sum()) for one in (validation, test["same"])
        )
        if found < suite.least or not reported:
            return [{**head, "method": "undefined", "validation errors": found}]
        rows, measured, bounds = [], {}, Bounds(tools.budget)
        for (method, number), table in _tables(suite, case, pieces, validation).items():
            for budget in suite.budgets:
                choice = bounds.choose(table, budget)
                edit = choice.edit if choice.found else None
                if id(edit) not in measured:  # methods share edits, and budgets do
                    measured[id(edit)] = figures(edit, test, pieces.target, tools.clean)
                settings = {**head, "method": method, "exemplars": number, "budget": budget, **_settings(choice)}
                rows.append({**settings, "accuracy_change_budget": choice.accuracy_change, **measured[id(edit)]})
        return rows


def _tables(suite: Suite, case: Case, pieces: Parts, validation: CachedStates) -> dict[tuple[str, int], pd.DataFrame]:
    """Sweep every method on the validation images: a table of trials by method and number of exemplars."""
    tables: dict[tuple[str, int], pd.DataFrame] = {}
    for number in dict.fromkeys(min(n, len(pieces.chosen)) for n in _numbers(suite, case)):
        several = None if tables else pieces.in_variants(case.style, number)
        tried, shown = _tried(suite, pieces.exemplars(number), several), {"exemplars": pieces.exemplars(number)}
        found = {name: sweep_trials(trials, validation) for name, trials in tried.items()}
        found |= _tuned(suite, shown, validation, first=not tables)
        if not tables:
            found |= {f"rank {r}": found["editing"].query("rank == @r") for r in RANKS}
        tables |= {(name, number): table for name, table in found.items()}
    return {key: table for key, table in tables.items() if len(table)}


def _tried(suite: Suite, exemplars: Sequence[Exemplar], several: Sequence[Exemplar] | None) -> dict[str, Trials]:
    """Say what is tried by method; with the first number of exemplars, of which there are `several` variants, all."""
    tools, grids = workbench(suite), {name: grid(**one, steps=(suite.solver_steps,)) for name, one in REWRITING.items()}

    def trials(method: Callable[..., Edit], settings: Sequence[Mapping], shown: Sequence[Exemplar]) -> Trials:
        return method_trials(method, tools.cuts, {"exemplars": shown}, tools.moments, settings, suite.strengths)

    if several is None:
        return {"editing": trials(rewrite, grids["editing"], exemplars)}
    found = {name: trials(rewrite, settings, exemplars) for name, settings in grids.items()}
    found["random direction"] = trials(rewrite_at_random, grids["editing"], exemplars)
    for name in suite.rivals:
        method, settings = RIVALS[name]
        found[name.replace("_", " ")] = trials(method, settings, exemplars)
    return found | {"editing, variants": trials(rewrite, grids["editing"], several)}


def _tuned(
    suite: Suite, shown: Mapping[str, Sequence[Exemplar]], validation: CachedStates, first: bool
) -> dict[str, pd.DataFrame]:
    """Sweep both fine-tunings, and with the `first` number of exemplars the best two again with each locality."""
    tables, tools = {}, workbench(suite)
    for scope in SCOPES:
        settings = grid(scope=(scope,), rate=suite.rates, steps=(suite.steps,))
        plain = sweep_trials(finetuning_trials(tools.cuts, shown, settings).at(suite.strengths), validation)
        tables[f"{scope} fine-tuning"] = plain
        if first:
            best = best_runs(plain, 2, ("layer", "exemplar", "rate"))
            parts = []
            for row in best.itertuples():
                near = grid(scope=(scope,), rate=(row.rate,), steps=(suite.steps,), locality=suite.localities)
                again = finetuning_trials(
                    {row.layer: tools.cuts[row.layer]}, shown, near, dict.fromkeys(tools.cuts, tools.reference)
                )
                parts.append(sweep_trials(again.at(suite.strengths), validation))
            tables[f"{scope}, locality"] = pd.concat(parts, ignore_index=True)
    return tables


def _numbers(suite: Suite, case: Case) -> tuple[int, ...]:
    """Say which numbers of exemplars a case tries: all of them in one of `every` cases."""
    listed = cases(suite)
    place = listed.index(case) if case in listed else 0
    return suite.numbers if place % suite.every == 0 else suite.numbers[:1]


def _settings(choice: Choice) -> dict[str, Any]:
    """What was chosen, as JSON values; nothing where no trial kept the budget."""
    known = {n: choice.settings[n] for n in ("layer", "rank", "rate", "locality", "strength") if n in choice.settings}
    return {"strength": 0.0} | {n: v if isinstance(v, str) else float(v) for n, v in known.items() if v is not None}


def figures(edit: Edit | None, test: Mapping[str, CachedStates], target: int, clean: CachedStates) -> dict[str, float]:
    """Evaluate an edit: `other same before`, `… after`, `… corrected`, `… broken`, and `accuracy_change`."""
    compare = lambda kept: Comparison(kept.before, kept.before) if edit is None else kept.compare(edit)  # noqa: E731
    found = {"accuracy_change": compare(clean).row()["accuracy change (points)"]}
    for style, kept in test.items():
        whole, own = compare(kept), kept.labels == target
        for who, chosen in (("target", own), ("other", ~own)):
            part = Comparison(whole.before[chosen], whole.after[chosen])
            counts = {"before": int(part.before.sum()), "after": int(part.after.sum())}
            counts |= {"corrected": part.corrected, "broken": part.broken}
            found |= {f"{who} {style} {name}": count for name, count in counts.items()}
    return found


def sweep(
    suite: Suite,
    only: Sequence[Case] | None = None,
    store: str | PathLike | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Run all cases (or `only` some) and give their rows as one table; see `run_case` and `jobs.run`.

    With a `store`, finished cases are kept in that folder and a sweep that was cut off goes on where it was. The table
    is the same with every executor.
    """
    listed = {str(case): case for case in (cases(suite) if only is None else only)}
    about = "" if store is None else identity_of(suite)
    return jobs.run(partial(run_case, suite), listed, store, executor, progress, about)


def identity_of(suite: Suite) -> str:
    """Say what the rows of a sweep depend on: the suite's settings and grids, its classifier, its images and masks."""
    found = material(suite)
    sets = [found.images, found.budget, found.clean]
    pictures = chain(*map(pixels_of, [*sets, found.reference]), found.masks.values(), (one.labels for one in sets))
    grids = [REWRITING, FINETUNING, *(RIVALS[name][1] for name in suite.rivals)]
    plain = {f.name: getattr(suite, f.name) for f in fields(suite)}
    named = {name: getattr(value, "__qualname__", value) for name, value in plain.items()}
    return f"{named} {identity(found.classifier)} {digest_tensors(pictures)} {grids}"
