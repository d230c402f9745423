"""The large synthetic benchmark (section 4 of the paper): many small edits, tried by every method, at any scale.

A case is a concept, a style and a target class: everywhere the concept is seen it is turned into the style; some images
of the target class are the exemplars, all other images with the concept are the test. `Suite` says what is swept,
`sweep` does it on any `Executor`, `summary` averages. Nothing here depends on where the images come from: a suite's
`source` is a function that gives a `Material`.
"""

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache, partial
from itertools import product
from os import PathLike
from threading import RLock
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from edittools import benchmark as bench
from edittools import concepts, jobs, photos
from edittools.benchmark import BUDGET, Kept
from edittools.cut import Cut, cut_all
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, stratified
from edittools.metrics import Comparison, bootstrap, errors, predict
from edittools.miniworld import SPLITS, scenes
from edittools.models import Classifier, load_classifier
from edittools.moments import SecondMoment, second_moments
from edittools.styles import STYLES, transformed

SAME, MORE, HELD_OUT = 0, (1, 2), (3, 4, 5)
"""Style variants: that of the exemplars and the test, more for edits that see several, and those never seen."""

EXCLUDED = """
concept  ; reason                               ; classes
building ; it is a building                     ; house, church, lighthouse, windmill, igloo
building ; it is a building                     ; palace, castle, mosque, monastery, library, barn, greenhouse, boathouse, lumbermill, cinema, restaurant, bookshop, grocery store, butcher shop, toyshop, barbershop, bakery, prison, planetarium, stupa, dome, triumphal arch, beacon, water tower, bell cote, mobile home, tile roof, patio, shoe shop, confectionery, tobacco shop
road     ; it lies in the road or is made of it ; manhole cover, street sign, maze
water    ; it is water or a shore               ; lakeside, seashore, sandbar, fountain, dam, breakwater, promontory, geyser
mountain ; it is a mountain                     ; alp, volcano, cliff, valley, promontory
grass    ; it is a crop or a field              ; hay, rapeseed, lawn mower
tree     ; it is made of trees                  ; maze, fig, buckeye, acorn
flower   ; it is a flower                       ; daisy, yellow lady's slipper, rapeseed, pot
"""  # noqa: E501
"""Concept-class pairs that no case may hold: the concept is the class, or what its name stands for (footnote 3)."""


@cache
def exclusions() -> pd.DataFrame:
    """Give the excluded pairs as a table: concept, reason, class."""
    table = pd.read_csv(io.StringIO(EXCLUDED), sep=r"\s*;\s*", engine="python", skipinitialspace=True)
    table.columns = table.columns.str.strip()
    table["class"] = table.pop("classes").str.strip().str.split(", ")
    return table.explode("class", ignore_index=True)


@dataclass(frozen=True)
class Material:
    """What a suite is made of: a classifier, images with concept masks, and clean images whose accuracy shall stay.

    `masks` go by concept, `(N, H, W)` of 0 and 1. `clean_validation` is what budgets are kept on and what second
    moments are measured over, `clean` is reported.
    """

    classifier: Classifier
    images: LabelledImages
    masks: Mapping[str, Tensor]
    clean_validation: LabelledImages
    clean: LabelledImages


@dataclass(frozen=True, order=True)
class Case:
    """One concept in one style, rewritten with exemplars of one class."""

    concept: str
    style: str
    target: str

    def __str__(self) -> str:
        """Give its name, under which its results are stored."""
        return f"{self.concept} → {self.style}, {self.target}"


@dataclass(frozen=True)
class Suite:
    """What is swept. Plain values only, and a `source` that every process can import, so that a suite can be sent away.

    Args:
        source: gives the `Material`; called once in each process, with `options` as keywords.
        concepts, styles: every concept is turned into every style.
        layers: that may be edited, in the network's order.
        options: keywords of the source.
        transform: makes the styled images: `styles.transformed`, or, slower, `style_transfer.gatys`.
        targets: how many target classes for each concept and style, drawn at random.
        numbers: of exemplars; the first is used by all methods, the others by editing and plain fine-tuning.
        every: the other numbers are tried in one of so many cases.
        area: least share of the image that the concept must cover.
        least: errors that the validation images of other classes must show, or there is nothing to correct.
        most: images with the concept that are used for one concept and style, drawn at random.
        strengths: α by which every edit, also a fine-tuned one, is scaled.
        rates, steps, localities: of fine-tuning; solver_steps: of editing with the L1 objective.
        budgets: points of accuracy that a selected edit may cost; every one is reported.
        threads: of torch during a job, so that digits do not depend on who does it.
    """

    source: Callable[..., Material]
    concepts: tuple[str, ...]
    styles: tuple[str, ...]
    layers: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()
    transform: Callable[[LabelledImages, Tensor, str, Sequence[int]], LabelledImages] = transformed
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
    threads: int = 1
    seed: int = 0

    def about(self) -> str:
        """Say in one line what the results of this suite depend on."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        functions = {n: f"{f.__module__}.{f.__qualname__}" for n, f in values.items() if callable(f)}
        return str(values | functions)


RANKS = (1, 3, 10)
REWRITING: dict[str, dict[str, tuple]] = {
    "editing": {"rank": RANKS, "masked": (True,), "objective": ("l1",)},
    "editing -mask": {"rank": RANKS, "masked": (False,), "objective": ("l1",)},
    "editing -proj": {"rank": (None,), "masked": (True,), "objective": ("l1",)},
    "least squares": {"rank": RANKS, "masked": (True,), "objective": ("least_squares",)},
}
"""The settings of `rewrite` that each method chooses from; "-proj" lifts the low-rank restriction."""

FINETUNING = ("local fine-tuning", "global fine-tuning", "local, locality", "global, locality")


_ALONE = RLock()  # a model is edited in place now and then, so threads of one process take turns


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Hold the process, with so many threads of torch, that digits do not depend on who computes."""
    _ALONE.acquire()
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _ALONE.release()


# The parts of a case, each made once in a process


@lru_cache(maxsize=1)
def material(suite: Suite) -> Material:
    """Give a suite's material."""
    return suite.source(**dict(suite.options))


@lru_cache(maxsize=1)
def _read_right(suite: Suite) -> Tensor:
    found = material(suite)
    with _threads(suite.threads):
        return ~errors(predict(found.classifier, found.images), found.images.labels)


@dataclass(frozen=True)
class Workbench:
    """A classifier cut at the suite's layers, clean images kept there, and the keys' second moments.

    `reference` and `clean_validation` are the same images, the latter in the order that tells costly edits soonest.
    """

    cuts: Mapping[str, Cut]
    reference: Kept
    clean_validation: Kept
    clean: Kept
    moments: Mapping[str, SecondMoment]


@lru_cache(maxsize=1)
def workbench(suite: Suite) -> Workbench:
    """Prepare what all cases of a suite share."""
    found = material(suite)
    with _threads(suite.threads):
        cuts = cut_all(found.classifier, suite.layers)
        moments = second_moments(found.classifier, list(cuts), found.clean_validation)
        reference = Kept(cuts, found.clean_validation)
        return Workbench(cuts, reference, reference.fragile_first(), Kept(cuts, found.clean), moments)


@dataclass(frozen=True)
class Group:
    """All images with a concept, read rightly as they are (the paper's D), clean and in a style: same and held out."""

    clean: LabelledImages = field(repr=False)
    masks: Tensor = field(repr=False)
    same: LabelledImages = field(repr=False)
    held_out: LabelledImages = field(repr=False)
    kept: Mapping[str, Kept] = field(repr=False)


@lru_cache(maxsize=1)
def group(suite: Suite, concept: str, style: str) -> Group:
    """Transform a concept into a style and run the images to every layer: once for all cases that share it."""
    found, chosen = material(suite), _members(suite, concept)
    clean, masks = found.images.subset(chosen), found.masks[concept][chosen]
    same = suite.transform(clean, masks, style, [SAME] * len(clean))
    held_out = suite.transform(clean, masks, style, [HELD_OUT[i % len(HELD_OUT)] for i in range(len(clean))])
    cuts = workbench(suite).cuts
    with _threads(suite.threads):
        return Group(clean, masks, same, held_out, {"same": Kept(cuts, same), "held out": Kept(cuts, held_out)})


def _members(suite: Suite, concept: str) -> Tensor:
    """Which images show enough of a concept and are read rightly, without excluded classes: integers, sorted."""
    found = material(suite)
    if concept not in found.masks:
        raise KeyError(f"no masks of {concept!r}: expected one of {', '.join(found.masks)}")
    banned = [found.images.classes.index(c) for c in _excluded(concept) if c in found.images.classes]
    fits = (found.masks[concept].mean(dim=(1, 2)) >= suite.area) & _read_right(suite)
    fits &= ~torch.isin(found.images.labels, torch.tensor(banned, dtype=torch.long))
    members = fits.nonzero()[:, 0]
    if len(members) > suite.most:
        chosen = stratified(found.images.labels[members], suite.most / len(members), suite.seed)
        members = members[chosen]
    return members


def _excluded(concept: str) -> list[str]:
    return exclusions().query("concept == @concept")["class"].tolist()


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
        """Give the first `number` exemplars (or what there is), in the style variant of the test."""
        some, whole = self.chosen[:number].tolist(), self.group
        return [Exemplar(whole.clean.images[i], whole.same.images[i], whole.masks[i], self.target) for i in some]

    def in_variants(self, suite: Suite, style: str, number: int) -> list[Exemplar]:
        """Give the exemplars in the test's variant and in two more: three pictures of each."""
        several, some = self.exemplars(number), self.chosen[:number]
        for variant in MORE:
            clean, masks = self.group.clean.subset(some), self.group.masks[some]
            part = suite.transform(clean, masks, style, [variant] * len(some))
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


# One case


def run_case(suite: Suite, case: Case) -> list[dict[str, Any]]:
    """Try every method on one case: choose on validation images, evaluate the chosen edits once on the test images.

    One row for each method, number of exemplars and budget: errors before and after on (target, other) × (same, held
    out), and accuracy changes in points. A case without errors enough to correct gives one row, of method "undefined".
    """
    with _threads(suite.threads):
        pieces, tools = parts(suite, case), workbench(suite)
        validation = pieces.group.kept["same"].subset(pieces.validation)
        head = {"concept": case.concept, "style": case.style, "target": case.target}
        test = _Test(pieces, tools.clean)
        found = int((validation.before & (validation.labels != pieces.target)).sum())
        if found < suite.least or not test.has_errors():
            return [{**head, "method": "undefined", "validation errors": found}]
        rows, measured = [], {}
        tables = _tables(suite, case, pieces, tools, validation)
        for (method, number), table in tables.items():
            for budget, row in bench.select_each(table, tools.clean_validation, suite.budgets).items():
                key = id(row.edit) if row.strength else None  # methods share edits, and budgets do
                if key not in measured:
                    measured[key] = test.figures(row.edit if row.strength else None)
                settings = {**head, "method": method, "exemplars": number, "budget": budget, **_settings(row)}
                rows.append({**settings, "accuracy_change_validation": row.accuracy_change, **measured[key]})
        return rows


def _tables(
    suite: Suite, case: Case, pieces: Parts, tools: Workbench, validation: Kept
) -> dict[tuple[str, int], pd.DataFrame]:
    """Sweep every method on the validation images: a table of trials by method and number of exemplars."""

    def rewriting(exemplars: Mapping[str, Sequence[Exemplar]], settings: Sequence[Mapping[str, Any]]) -> Iterator:
        return bench.rewriting_trials(tools.cuts, exemplars, tools.moments, settings, suite.strengths)

    tables = {}
    for number in dict.fromkeys(min(n, len(pieces.chosen)) for n in _numbers(suite, case)):
        exemplars = {"exemplars": pieces.exemplars(number)}
        first = number == min(suite.numbers[0], len(pieces.chosen))
        for name in REWRITING if first else ("editing",):
            settings = bench.grid(**REWRITING[name], steps=(suite.solver_steps,))
            tables[name, number] = bench.sweep(rewriting(exemplars, settings), validation)
        for scope in ("local", "global"):
            settings = bench.grid(scope=(scope,), rate=suite.rates, steps=(suite.steps,))
            tuned = bench.finetuning_trials(tools.cuts, exemplars, settings)
            plain = bench.sweep(bench.at_strengths(tuned, suite.strengths), validation)
            tables[f"{scope} fine-tuning", number] = plain
            if first:
                near = bench.at_strengths(_with_locality(suite, plain, exemplars, tools), suite.strengths)
                tables[f"{scope}, locality", number] = bench.sweep(near, validation)
        if first:
            for rank in RANKS:
                tables[f"rank {rank}", number] = tables["editing", number].query("rank == @rank")
            tables["random direction", number] = bench.sweep(_controls(suite, exemplars, tools), validation)
            several = {"exemplars": pieces.in_variants(suite, case.style, number)}
            settings = bench.grid(**REWRITING["editing"], steps=(suite.solver_steps,))
            tables["editing, variants", number] = bench.sweep(rewriting(several, settings), validation)
    return {key: table for key, table in tables.items() if len(table)}


def _numbers(suite: Suite, case: Case) -> tuple[int, ...]:
    """Say which numbers of exemplars a case tries: all of them in one of `every` cases."""
    listed = cases(suite)
    place = listed.index(case) if case in listed else 0
    return suite.numbers if place % suite.every == 0 else suite.numbers[:1]


def _with_locality(
    suite: Suite, plain: pd.DataFrame, exemplars: Mapping[str, Sequence[Exemplar]], tools: Workbench, top: int = 2
) -> Iterator[tuple[dict[str, Any], Edit]]:
    """Repeat the `top` plain fine-tunings of lowest loss with a term that keeps the predictions of clean images."""
    best = plain.sort_values("loss", kind="stable").drop_duplicates(["layer", "rate"]).head(top)
    for _, row in best.iterrows():
        settings = bench.grid(scope=(row.scope,), rate=(row.rate,), steps=(row.steps,), locality=suite.localities)
        cut = {row.layer: tools.cuts[row.layer]}
        yield from bench.finetuning_trials(cut, exemplars, settings, tools.reference)


def _controls(
    suite: Suite, exemplars: Mapping[str, Sequence[Exemplar]], tools: Workbench
) -> Iterator[tuple[dict[str, Any], Edit]]:
    """Edits solved as all others are, but along random directions, so that only the direction differs."""
    for (layer, cut), rank in product(tools.cuts.items(), RANKS):
        basis = bench.random_basis(rank, cut.weight.shape[1], suite.seed)
        settings = [{"rank": rank, "basis": basis, "steps": suite.solver_steps}]
        for found, edit in bench.rewriting_trials({layer: cut}, exemplars, tools.moments, settings, suite.strengths):
            yield {name: value for name, value in found.items() if name != "basis"}, edit


def _settings(row: pd.Series) -> dict[str, Any]:
    """What was chosen, as JSON values; nothing where no trial kept the budget."""
    names = ("layer", "rank", "rate", "locality", "strength") if row.strength else ("strength",)
    return {n: row[n] if isinstance(row[n], str) else float(row[n]) for n in names if n in row and pd.notna(row[n])}


class _Test:
    """A case's test images, kept at every layer."""

    def __init__(self, pieces: Parts, clean: Kept) -> None:
        self.kept = {name: kept.subset(pieces.test) for name, kept in pieces.group.kept.items()}
        labels = self.kept["same"].labels
        self.groups, self.clean = {"target": labels == pieces.target, "other": labels != pieces.target}, clean

    def has_errors(self) -> bool:
        """Whether another class has anything to correct."""
        return bool((self.kept["same"].before & self.groups["other"]).any())

    def figures(self, edit: Edit | None) -> dict[str, float]:
        """Evaluate an edit: `other same before`, `… after`, `… corrected`, `… broken`, and `accuracy_change`."""

        def compared(kept: Kept) -> Comparison:
            return Comparison(kept.before, kept.before) if edit is None else kept.compare(edit)

        found = {"accuracy_change": compared(self.clean).row()["accuracy change (points)"]}
        for style, kept in self.kept.items():
            whole = compared(kept)
            for who, chosen in self.groups.items():
                part = Comparison(whole.before[chosen], whole.after[chosen])
                counts = {"before": int(part.before.sum()), "after": int(part.after.sum())}
                counts |= {"corrected": part.corrected, "broken": part.broken}
                found |= {f"{who} {style} {name}": count for name, count in counts.items()}
        return found


# All cases


def sweep(
    suite: Suite,
    only: Sequence[Case] | None = None,
    store: str | PathLike | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Run all cases (or `only` some) and give their rows as one table; see `run_case` and `jobs.run`.

    With a `store`, finished cases are kept in that file and a sweep that was cut off goes on where it was. The table
    is the same with every executor.
    """
    listed = {str(case): case for case in (cases(suite) if only is None else only)}
    return jobs.run(partial(run_case, suite), listed, store, executor, progress, suite.about())


MEASURES = ("other same", "other held out", "target same", "target held out")


def per_case(table: pd.DataFrame) -> pd.DataFrame:
    """Add eq. (2) for each of `MEASURES` as columns; NaN where there was nothing to correct. Undefined cases go."""
    table = table[table.method != "undefined"].copy()
    for name in MEASURES:
        before = table[f"{name} before"].where(table[f"{name} before"] > 0)
        table[name] = (before - table[f"{name} after"]) / before
    return table


def summary(
    table: pd.DataFrame, budget: float = BUDGET, exemplars: int | None = None, by: str = "method"
) -> pd.DataFrame:
    """Average over cases, one row for each `by` and measure: mean of eq. (2), 95 % `low` and `high`, and `cases`.

    `pooled` is eq. (2) over all images of all cases together, in which a case with many errors weighs more;
    `accuracy_change` is the mean, in points. `exemplars` defaults to the number that all methods were given.
    """
    number = table.exemplars.dropna().iloc[0] if exemplars is None else exemplars
    chosen = per_case(table)
    chosen = chosen[(chosen.budget == budget) & (chosen.exemplars == number)]
    rows = []
    for key, part in chosen.groupby(by, sort=False):
        for name in MEASURES:
            low, high = bootstrap(part[name].dropna())
            total = part[f"{name} before"].sum()
            rows.append({
                by: key, "measure": name, "mean": part[name].mean(), "low": low, "high": high,
                "cases": int(part[name].notna().sum()), "undefined": int(part[name].isna().sum()),
                "pooled": (total - part[f"{name} after"].sum()) / total if total else float("nan"),
                "corrected": int(part[f"{name} corrected"].sum()), "broken": int(part[f"{name} broken"].sum()),
                "accuracy_change": part.accuracy_change.mean(),
            })  # fmt: skip
    return pd.DataFrame(rows)


def by(table: pd.DataFrame, column: str, measure: str = "other same", budget: float = BUDGET) -> pd.DataFrame:
    """Break eq. (2) down: mean over cases by method and a column, such as `concept`, `style`, `layer` or `budget`.

    Except by `exemplars`, only the rows with the number of exemplars that all methods were given are used, and by
    `exemplars` only the cases that tried several; except by `budget`, only the rows of one budget.
    """
    chosen = per_case(table)
    if column == "exemplars":
        chosen = chosen[chosen.groupby("job").exemplars.transform("nunique") > 1]
    else:
        chosen = chosen[chosen.exemplars == table.exemplars.dropna().iloc[0]]
    if column != "budget":
        chosen = chosen[chosen.budget == budget]
    order = list(dict.fromkeys(chosen.method))
    return chosen.pivot_table(measure, "method", column, sort=True).reindex(order)


def trade_off(table: pd.DataFrame, measure: str = "other same") -> pd.DataFrame:
    """Give, for each method and budget, the mean accuracy change in points and the mean share of errors `corrected`."""
    chosen = per_case(table)
    chosen = chosen[chosen.exemplars == table.exemplars.dropna().iloc[0]]
    return (
        chosen.groupby(["method", "budget"], sort=False)
        .agg(accuracy_change=("accuracy_change", "mean"), corrected=(measure, "mean"))
        .reset_index()
    )


# Where images come from


def miniworld(model: str = "mini_vgg", count: int = 1200, clean: int = 400, workers: int = 1) -> Material:
    """MiniWorld scenes with their exact masks, and a model trained on others; half of the `clean` scenes to report."""
    first = {split: seeds.start + 300_000 for split, seeds in SPLITS.items()}
    data = scenes(count, first["test"], workers=workers)
    names = ("road", "grass", "sand", "water", "table", "sky", "wall", "tree", "building", "mountain")
    return Material(
        load_classifier(model), data, {name: data.mask(name) for name in names},
        scenes(clean, first["validation"], workers=workers),
        scenes(clean // 2, first["test"] + 100_000, workers=workers),
    )  # fmt: skip


def msrc(model: str = "efficientnet_lite0", at_least: float = 0.2, clean: int | None = None) -> Material:
    """MSRC v2 photos with their hand-made masks, and halves of the ImageNet sample as clean images.

    Labels of the MSRC photos are the classifier's own clean predictions, see `concepts.msrc`.
    """
    classifier = load_classifier(model)
    data, masks = concepts.msrc(classifier, at_least)
    sample = photos.imagenet_sample(classifier)
    halves = [sample.subset(range(start, len(sample), 2)[:clean]) for start in (0, 1)]
    return Material(classifier, data, masks, *halves)


def image_folder(
    folder: str, model: str = "vgg16", finder: Callable[[], concepts.Finder] | None = None, per_class: int = 10
) -> Material:
    """Use a folder of validation images (ImageNet, Places); `finder()` makes what finds concepts in them.

    Three quarters of the images may be transformed, the rest are the clean ones.
    """
    classifier = load_classifier(model)
    data = photos.validation_folder(folder, classifier, per_class)
    some, clean = data.split(0.75)
    validation, test = clean.split(0.5)
    found = concepts.cached(finder() if finder else concepts.deeplab())
    return Material(classifier, some, found(some.images[:]), validation, test)


_LAYERS = {
    "mini": ("features.10", "features.13", "features.15"),
    "lite": ("blocks.3.0.conv_pwl", "blocks.5.0.conv_pwl", "conv_head"),
    "paper": ("features.14", "features.19", "features.24", "features.28"),
}
_MINI_CONCEPTS = ("road", "grass", "sand", "water", "wall", "table", "mountain", "sky", "building", "tree")
_PHOTO_CONCEPTS = ("grass", "road", "water", "sky", "tree", "building")
_SOME_STYLES = ("graffiti", "snow", "floral", "black and white", "gravel", "wooden")


def suite(tier: str, size: str = "usual") -> Suite:
    """Give the suite of a tier, in one of three sizes: "small" (the notebook's), "usual" (the benchmark's) or "full".

    Tier "paper" reads the folder of validation images that `EDITTOOLS_IMAGENET` names.
    """
    if size not in ("small", "usual", "full"):
        raise ValueError(f"size {size!r}: expected small, usual or full")
    small, full = size == "small", size == "full"
    if tier == "mini":
        count, clean = (500, 400) if small else (2400, 1200) if full else (900, 800)
        return Suite(
            miniworld, _MINI_CONCEPTS if full else _MINI_CONCEPTS[: 3 if small else 7],
            STYLES if full else _SOME_STYLES[: 3 if small else 6], _LAYERS[tier],
            options=(("count", count), ("clean", clean)),
            targets=2 if full else 1, every=1 if full else 3, most=80 if small else 120,
            rates=(1e-3, 1e-2) if small else Suite.rates,
        )  # fmt: skip
    if tier == "lite":
        return Suite(
            msrc, _PHOTO_CONCEPTS[: 2 if small else None], STYLES if full else _SOME_STYLES[: 2 if small else 5],
            _LAYERS[tier], targets=3 if full else 1, numbers=(3, 1), every=3,
            least=2, most=160 if full else 80, strengths=(0.5, 1.0), localities=(1.0,),
        )  # fmt: skip
    if tier == "paper":
        options = (("folder", os.environ.get("EDITTOOLS_IMAGENET", "imagenet/val")),)
        return Suite(image_folder, ("car", "bicycle", "boat"), STYLES, _LAYERS[tier], options, targets=3)
    raise ValueError(f"tier {tier!r}: expected mini, lite or paper")
