"""Claim: an edit from one photo removes shortcuts that networks have learned from photos, more than other methods.

Two networks were fine-tuned on photos of Imagenette in which a tag stands for "garbage truck", a line of text for
"church", and a film border for "French horn" (see data/README.md). For each network, shortcut and draw, methods get one
exemplar. Of their candidates, the one with the lowest loss on 24 failing photos is selected that loses at most 0.25
points of accuracy on 800 clean photos and breaks few photos of the shortcut's class without it. All of these photos
are from the split "train"; the networks were neither trained nor tuned on them.

The evaluation uses the photos of the split "val", with and without each shortcut, and some of them with another look of
it. Networks have seen most of these photos in their pretraining on ImageNet, so differences between methods count,
levels of accuracy do not. No photo of "val" is read before all selections are made.

Primary analysis, with one exemplar: for each photo, the number of correct predictions over the shortcuts of other
classes and the draws, edit minus method. A method without a feasible candidate counts as no edit, and random directions
are averaged. The p-value is that of a two-sided sign-flip test over photos, corrected by Holm's method per network.

`--store FOLDER` is required: it keeps what was selected, and an interrupted run continues where it was.
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from _lib.command import add_store, code_digest, parser, run
from _lib.pivots import holm
from _lib.results import Results, name_of
from _lib.shortcuts import NAMES, NETWORKS, failing_photos
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

import edittools
from edittools.classifiers import Classifier
from edittools.course.scenarios.imagenette import imagenette, in_memory, training_roles
from edittools.course.scenarios.shortcuts import SHORTCUTS, UNSEEN, Shortcut
from edittools.cut import cut_all
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.methods import EDIT, METHODS, RANDOM, SCOPES, finetune
from edittools.metrics import misclassified, predict
from edittools.models import load_classifier
from edittools.probing import jobs
from edittools.selection import (
    CachedActivations,
    Candidate,
    Outcomes,
    Search,
    Selection,
    SplitActivations,
    Splits,
    candidate_layers,
    grid,
)
from edittools.selection.activations import StateMemory
from edittools.selection.outcomes import SECOND, SINGLE
from edittools.selection.repair import SETTINGS
from edittools.site import site_at

DRAWS = 4
"""The number of draws of the exemplar and the failing photos."""

RANDOM_DRAWS = 2
"""The number of random directions of each draw, which are averaged."""

SEED_OF_SELECTION = 2_000_000
SEED_OF_TEST = 3_000_000
"""The first seeds of what is drawn on photos for selection and for evaluation; those of training are smaller."""

STRENGTHS = (0.5, 1.0, 1.5)
FINETUNING_RATES = (1e-4, 1e-3, 1e-2)
"""Rates of fine-tuning on the exemplar; the settings of the other methods are those of `repair` and of `METHODS`."""

FINETUNING_ON_FAILING = tuple(
    grid(scope=("global",), rate=(1e-4, 1e-3, 1e-2), momentum=(0.9,), locality=(1.0,), steps=(20,))
)
"""Settings of fine-tuning on the failing photos."""

INTERPOLATION_WEIGHTS = (0.25, 0.5, 1.0)
"""Weights of fine-tuning on the failing photos in an interpolation with the network as it was."""

VERSION = 2
"""To be raised when the photos change, so that no row of former ones is taken from a store."""

NO_EDIT = "no edit"
FOUR = name_of("editing_four")
SHOWN = name_of("finetune_shown")
OUT_OF_COMPETITION = (FOUR, SHOWN)
"""Methods that get more than one exemplar and 24 failing photos; they have no p-value."""


# --- photos -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Numbers of photos.

    Args:
        clean: clean photos of each class, for the constraint.
        reference: reference photos of each class.
        retain: retained photos of each shortcut, of its class and without it.
        pool: photos of other classes among which the exemplars and the failing photos of a draw are looked for.
        failing: failing photos of a draw.
        shown: photos for fine-tuning with and without the drawn shortcut.
        split: the photos for evaluation: "val", or the tuning photos for a quick try.
        every: every how many of these photos one is used.
        unseen: photos with another look of a shortcut.
    """

    clean: int = 80
    reference: int = 40
    retain: int = 200
    pool: int = 160
    failing: int = 24
    shown: int = 100
    split: str = "val"
    every: int = 1
    unseen: int = 500


QUICK = Sizes(10, 4, 20, pool=60, failing=6, shown=10, split="tuning", every=10, unseen=20)
"""The numbers of photos with `--quick`, which reads no photo of "val"."""

EXEMPLARS = 4
"""The number of exemplars of a draw; all methods but one get only the first."""


class Shared(NamedTuple):
    """The photos of a shortcut that all draws share.

    Attributes:
        clean: photos of all classes.
        reference: photos of all classes.
        retain: photos of the shortcut's class that are classified correctly.
        goal: other photos of this class.
        others: photos of other classes, in random order, from which draws take theirs.
    """

    clean: LabelledImages
    reference: LabelledImages
    retain: LabelledImages
    goal: LabelledImages
    others: LabelledImages


def shared_photos(classifier: Classifier, goal: str, sizes: Sizes) -> Shared:
    """Divide the photos of "train" that served neither training nor tuning."""
    left = training_roles(classifier.size)["left"]
    clean, reference, rest = [], [], []
    for label in range(len(left.classes)):
        members = (left.labels == label).nonzero()[:, 0]
        ends = torch.tensor([sizes.clean, sizes.clean + sizes.reference])
        for part, indices in zip((clean, reference, rest), members.tensor_split(ends), strict=True):
            part.append(indices)
    rest = left.subset(torch.cat(rest))
    is_goal = rest.labels == classifier.index(goal)
    of_goal = in_memory(rest.subset(is_goal))
    is_correct = ~misclassified(predict(classifier, of_goal), of_goal.labels)
    is_retained = torch.zeros_like(is_correct)
    is_retained[is_correct.nonzero()[: sizes.retain, 0]] = True
    others = rest.subset(~is_goal)
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(classifier.index(goal)))
    return Shared(
        in_memory(left.subset(torch.cat(clean))),
        in_memory(left.subset(torch.cat(reference))),
        of_goal.subset(is_retained),
        of_goal.subset(~is_retained),
        others.subset(order),
    )


# --- selection --------------------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """Selections for all draws of a shortcut on a network."""

    network: str
    goal: str

    @property
    def name(self) -> str:
        """The name of the job."""
        return f"{self.network}, {NAMES[self.goal]}"


def draws_of(
    classifier: Classifier, goal: str, photos: Shared, sizes: Sizes, draws: Iterable[int]
) -> Iterator[tuple[list[Exemplar], LabelledImages]]:
    """Yield the exemplars and the failing photos of each draw."""
    for draw in draws:
        first = draw * sizes.pool
        pool = in_memory(photos.others.subset(range(first, first + sizes.pool)))
        seed = SEED_OF_SELECTION + first
        goal_index = classifier.index(goal)
        yield failing_photos(classifier, pool, SHORTCUTS[goal], goal_index, seed, sizes.failing, EXEMPLARS)


def searches(classifier: Classifier, goal: str, photos: Shared, sizes: Sizes, draws: Iterable[int]) -> Iterator[Search]:
    """Make the search of each draw; clean, retained and reference photos run through the network only once."""
    activations: SplitActivations | None = None
    for exemplars, failing in draws_of(classifier, goal, photos, sizes, draws):
        splits = Splits(photos.reference, failing, photos.clean, photos.retain)
        search = Search(classifier, {"one": exemplars[0], "four": exemplars}, splits, activations=activations)
        activations = search.activations
        yield search


def selections_of(search: Search) -> Iterator[tuple[str, Selection]]:
    """Select for every method, by name; random directions several times.

    Methods of the last layer are left out if that is not linear.
    """
    edit = METHODS[EDIT].trying(SETTINGS, STRENGTHS)
    one = {"one": search.exemplars["one"]}
    yield from edits_of(search, search.score(edit, one))
    tried = {name_of("projection"): METHODS["projection"], "logit correction": METHODS["logit correction"]}
    for scope in SCOPES:
        method = METHODS[f"{scope} fine-tuning"]
        settings = grid(scope=(scope,), rate=FINETUNING_RATES, steps=(20,))
        tried[method.name] = method.trying(settings, STRENGTHS[:2])
    for name, method in tried.items():
        outcomes = search.score(method, one)
        if len(outcomes):
            yield name, search.select(outcomes)
    yield FOUR, search.select(search.score(edit, {"four": search.exemplars["four"]}))
    for seed in range(RANDOM_DRAWS):
        draw = METHODS[RANDOM].trying(SETTINGS, STRENGTHS).draw(seed)
        yield RANDOM, search.select(search.score(draw, one))
    if len(search.candidates(METHODS["last layer"])):
        yield name_of("last_layer"), search.select(heads_on_failing(search))
    yield name_of("on_failing"), search.select(interpolated(search, search.splits.target))


def edits_of(search: Search, outcomes: Outcomes) -> Iterator[tuple[str, Selection]]:
    """Select among all edits, among those of the default settings in each layer, and among those of full rank."""
    yield EDIT, search.select(outcomes)
    default = outcomes.where(lambda candidate: "rank" not in candidate.params)
    yield name_of("rank_1_default"), search.select(default)
    full_rank = outcomes.where(lambda candidate: candidate.params.get("rank", 1) is None)
    yield name_of("full_rank"), search.select(in_all_layers(full_rank))


def in_all_layers(outcomes: Outcomes) -> Outcomes:
    """Let the candidates of a second pass count wherever they were tried.

    Otherwise, they would count in the layers that are best by the first pass of these candidates alone.
    """
    candidates = []
    for candidate in outcomes.candidates:
        tried_in = SINGLE if candidate.tried_in == SECOND else candidate.tried_in
        candidates.append(replace(candidate, tried_in=tried_in))
    return replace(outcomes, candidates=candidates)


def finetunings(search: Search, photos: LabelledImages) -> list[Candidate]:
    """Fine-tune the last quarter of a search's layers, and all that follows, on labeled photos."""
    layers = list(search.cuts)
    layer = layers[3 * len(layers) // 4]
    whole = torch.ones(photos.images.shape[2:])
    shown = [
        Exemplar(image, image, whole, label) for image, label in zip(photos.images, photos.labels.tolist(), strict=True)
    ]
    site = site_at(search.cuts[layer], shown, search.activations.reference[layer])
    candidates = []
    for setting in FINETUNING_ON_FAILING:
        [edit] = finetune(site, **setting)
        candidates.append(Candidate({"layer": layer, **setting}, edit))
    return candidates


def interpolated(search: Search, photos: LabelledImages) -> Outcomes:
    """Fine-tune on labeled photos, and interpolate with the network as it was (WiSE-FT)."""
    candidates = []
    for tuned in finetunings(search, photos):
        for strength in INTERPOLATION_WEIGHTS:
            candidates.append(Candidate({**tuned.params, "strength": strength}, tuned.edit, strength))
    return search.score_candidates(candidates)


def heads_on_failing(search: Search) -> Outcomes:
    """Retrain the last layer on the failing photos, as DFR does, while predictions on reference photos are kept."""
    layer = list(search.cuts)[-1]
    target = search.splits.target
    whole = torch.ones(target.images.shape[2:])
    shown = [
        Exemplar(image, image, whole, label) for image, label in zip(target.images, target.labels.tolist(), strict=True)
    ]
    site = site_at(search.cuts[layer], shown, search.activations.reference[layer])
    candidates = []
    for setting in METHODS["last layer"].settings:
        [edit] = METHODS["last layer"].edits(site, **setting)
        candidates.append(Candidate({"layer": search.cuts[layer].head, **setting}, edit))
    return search.score_candidates(candidates)


def finetuned_on_shown(search: Search, photos: Shared, shortcut: Shortcut, sizes: Sizes) -> Selection:
    """Fine-tune on photos with and without the drawn shortcut, which only its author can do."""
    data = in_memory(photos.others.subset(range(len(photos.others) - sizes.shown, len(photos.others))))
    drawn = shortcut.on(data, SEED_OF_SELECTION + len(photos.others))
    both = replace(
        data, images=torch.cat([data.images, drawn.images]), labels=data.labels.repeat(2), names=data.names * 2
    )
    return search.select(interpolated(search, both))


def select_all(folder: Path, sizes: Sizes, draws: Sequence[int], job: Job) -> list[dict[str, Any]]:
    """Select for every method in each draw; write the edits into a folder, and return one row per selection."""
    classifier = load_classifier(job.network)
    rows = []

    def keep(selection: Selection, method: str, draw: int, seconds: float) -> None:
        path = folder / f"{job.network} {NAMES[job.goal]} {draw} {len(rows)}.safetensors"
        if selection.feasible:
            selection.edit.save(path)
        row = {
            "network": job.network,
            "goal": job.goal,
            "draw": draw,
            "method": method,
            "settings": str(selection),
            "edit": path.name if selection.feasible else "",
            "corrected": int(selection.scores["corrected"]),
            "candidates": selection.n_candidates,
            "seconds": seconds,
        }
        said = f"{row['corrected']} corrected, {row['settings']}, {seconds:.0f} s"
        print(f"{job.name}, draw {draw + 1}, {method}: {said}", flush=True)
        rows.append(row)

    with jobs.one_thread():
        photos = shared_photos(classifier, job.goal, sizes)
        for draw, search in zip(draws, searches(classifier, job.goal, photos, sizes, draws), strict=True):
            started = time.process_time()
            for method, selection in selections_of(search):
                keep(selection, method, draw, time.process_time() - started)
                started = time.process_time()
            if draw == draws[0]:
                selection = finetuned_on_shown(search, photos, SHORTCUTS[job.goal], sizes)
                keep(selection, SHOWN, draw, time.process_time() - started)
    return rows


# --- evaluation -------------------------------------------------------------------------------------------------------


class EvaluationSet(NamedTuple):
    """Photos for evaluation.

    Attributes:
        goal: the class of the shortcut; empty for clean photos.
        split: "clean", or "shortcut" or "unseen", in which the shortcut is drawn on photos of all classes.
        photos: the photos without a shortcut.
        shortcut: what is drawn on them.
    """

    goal: str
    split: str
    photos: LabelledImages
    shortcut: Shortcut | None = None

    def group(self, numbers: Tensor) -> LabelledImages:
        """Load consecutive photos, and draw the shortcut on them, the same in any division into groups."""
        photos = in_memory(self.photos.subset(numbers))
        return photos if self.shortcut is None else self.shortcut.on(photos, SEED_OF_TEST + int(numbers[0]))


def evaluation_sets(classifier: Classifier, sizes: Sizes) -> list[EvaluationSet]:
    """List the photos for evaluation."""
    photos = (
        imagenette("val", classifier.size) if sizes.split == "val" else training_roles(classifier.size)[sizes.split]
    )
    photos = photos.subset(range(0, len(photos), sizes.every))
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(0))
    fewer = photos.subset(order[: sizes.unseen].sort().values)
    sets = [EvaluationSet("", "clean", photos)]
    for goal in SHORTCUTS:
        sets.append(EvaluationSet(goal, "shortcut", photos, SHORTCUTS[goal]))
        sets.append(EvaluationSet(goal, "unseen", fewer, UNSEEN[goal]))
    return sets


def wrong_with(classifier: Classifier, edits: Mapping[str, Edit], data: EvaluationSet) -> dict[str, Tensor]:
    """Tell which photos are misclassified with each edit, and without one as "", `(N,)` booleans by name.

    Groups of photos run up to the layers of all edits once.
    """
    layers = candidate_layers(classifier)
    first = {next((layer for layer in layers if layer in edit.layers), layers[-1]) for edit in edits.values()}
    cuts = cut_all(classifier, [layer for layer in layers if layer in first or layer == layers[-1]])
    wrong: dict[str, list[Tensor]] = {name: [] for name in ("", *edits)}
    for numbers in tqdm(torch.arange(len(data.photos)).split(32), desc="photos", mininterval=10):
        cached = CachedActivations(cuts, data.group(numbers), len(numbers), memory=StateMemory(inf, cuts))
        wrong[""].append(cached.before)
        for name, edit in edits.items():
            wrong[name].append(misclassified(cached.logits(edit), cached.labels))
    return {name: torch.cat(parts) for name, parts in wrong.items()}


def evaluate(folder: Path, sizes: Sizes, selected: pd.DataFrame, network: str) -> list[dict[str, Any]]:
    """Evaluate all selected edits of a network; return one row per edit and split, and per split without an edit."""
    classifier = load_classifier(network)
    of_network = selected[(selected.network == network) & (selected.edit != "")]
    rows = []
    with jobs.one_thread():
        for data in evaluation_sets(classifier, sizes):
            members = of_network[of_network.goal == data.goal] if data.goal else of_network
            edits = {name: Edit.load(folder / name, classifier.model) for name in members.edit}
            for name, wrong in wrong_with(classifier, edits, data).items():
                place = {"network": network, "goal": data.goal, "split": data.split, "edit": name}
                rows.append({**place, "wrong": wrong.int().tolist(), "labels": data.photos.labels.tolist()})
    return rows


# --- figures ----------------------------------------------------------------------------------------------------------


class CorrectPhotos:
    """Which photos are correct with the edit that a method has selected.

    Args:
        selected: the rows of `select_all` of one network.
        evaluated: the rows of `evaluate`.
    """

    def __init__(self, selected: pd.DataFrame, evaluated: Iterable[Mapping[str, Any]]) -> None:
        self.selected = selected
        self.labels: dict[tuple[str, str], np.ndarray] = {}
        self._correct: dict[tuple[str, str, str], np.ndarray] = {}
        for row in evaluated:
            self._correct[row["goal"], row["split"], row["edit"]] = ~np.array(row["wrong"], dtype=bool)
            self.labels[row["goal"], row["split"]] = np.array(row["labels"])

    def edits(self, method: str, goal: str, draw: int | None) -> list[str]:
        """List the files of the edits of a method; an empty name stands for no edit."""
        if method == NO_EDIT:
            return [""]
        rows = self.selected[(self.selected.method == method) & (self.selected.goal == goal)]
        return rows.edit.tolist() if draw is None else rows.edit[rows.draw == draw].tolist()

    def correct(self, method: str, goal: str, split: str, draw: int | None = None) -> np.ndarray:
        """Return the share of a method's edits with which each photo is correct, `(N,)`.

        Args:
            method: the method.
            goal: the class of the shortcut for which the edits were selected.
            split: the split.
            draw: the number of the draw; None for the mean over all draws.
        """
        place = "" if split == "clean" else goal
        return np.mean([self._correct[place, split, name] for name in self.edits(method, goal, draw)], axis=0)


def on_others(found: CorrectPhotos, classes: Sequence[str], goal: str, split: str, values: np.ndarray) -> np.ndarray:
    """Return one value per photo, and NaN for the photos of the class of a shortcut."""
    return np.where(found.labels[goal, split] == classes.index(goal), np.nan, values)


def gains(found: CorrectPhotos, classes: Sequence[str], method: str) -> np.ndarray:
    """Return the correct predictions of each photo, averaged over draws, edit minus method.

    Returns:
        One row per shortcut and one column per photo; NaN for photos of the class of the shortcut.
    """
    rows = []
    for goal in SHORTCUTS:
        gain = found.correct(EDIT, goal, "shortcut") - found.correct(method, goal, "shortcut")
        rows.append(on_others(found, classes, goal, "shortcut", gain))
    return np.stack(rows)


def sign_flip_p(differences: np.ndarray, seed: int = 0) -> float:
    """Test whether differences are symmetric about 0, by a two-sided sign-flip test with 9,999 draws."""
    if not differences.any():
        return 1.0
    test = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        batch=500,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def mean_with_interval(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the mean of values `(shortcuts, photos)`, and its 95% interval over photos; NaN does not count.

    A photo that counts for several shortcuts is one observation: the interval is Student's t for a ratio of means, the
    sum of a photo's values over their number.
    """
    counts = (~np.isnan(values)).sum(axis=0)
    totals = np.nansum(values, axis=0)[counts > 0]
    counts = counts[counts > 0]
    mean = totals.sum() / counts.sum()
    deviations = (totals - mean * counts) / counts.mean()
    half = stats.t.ppf(0.975, len(counts) - 1) * stats.sem(deviations)
    return float(mean), (float(mean - half), float(mean + half))


def add_method(results: Results, found: CorrectPhotos, classes: Sequence[str], network: str, method: str) -> None:
    """Add the figures of a method for each shortcut, and for all of them together."""
    where = {"network": network, "method": method}
    of_all: dict[str, list[np.ndarray]] = {}
    for goal in SHORTCUTS:
        names = found.edits(method, goal, None)
        if not names:
            continue
        for metric, values in figures_of(found, classes, method, goal).items():
            add_figure(results, metric, values[None], {**where, "condition": NAMES[goal]})
            of_all.setdefault(metric, []).append(values)
        if method != NO_EDIT:
            results.add("edits", sum(map(bool, names)), n=len(names), condition=NAMES[goal], **where)
    for metric, rows in of_all.items():
        add_figure(results, metric, np.stack(rows), where)


METRICS = {
    "correct with the shortcut": ("correct", "target_test"),
    "restored": ("restored", "target_test"),
    "correct with another look": ("correct", "unseen"),
    "accuracy change": ("accuracy change", "clean_test"),
    "accuracy change of the class": ("accuracy change", "retain_test"),
}
"""The metric and the split of each figure of a method in the results."""


def figures_of(found: CorrectPhotos, classes: Sequence[str], method: str, goal: str) -> dict[str, np.ndarray]:
    """Compute the figures of a method for a shortcut: shares, or changes of accuracy in points.

    Returns:
        One value per photo, by name; NaN for photos that do not count.
    """
    with_shortcut = found.correct(method, goal, "shortcut")
    of_others = on_others(found, classes, goal, "shortcut", with_shortcut)
    before = found.correct(NO_EDIT, goal, "clean")
    is_broken = (before == 1) & (found.correct(NO_EDIT, goal, "shortcut") == 0)
    change = 100 * (found.correct(method, goal, "clean") - before)
    with_another_look = found.correct(method, goal, "unseen")
    return {
        "correct with the shortcut": of_others,
        "restored": np.where(is_broken, of_others, np.nan),
        "correct with another look": on_others(found, classes, goal, "unseen", with_another_look),
        "accuracy change": change,
        "accuracy change of the class": np.where(np.isnan(of_others), change, np.nan),
    }


def add_figure(results: Results, name: str, values: np.ndarray, where: Mapping[str, str]) -> None:
    """Add the mean of values `(shortcuts, photos)` with its interval over photos."""
    metric, split = METRICS[name]
    mean, interval = mean_with_interval(values)
    photos = (~np.isnan(values)).any(axis=0).sum()
    results.add(metric, mean, split=split, interval=interval, n=photos, **where)


def add_comparisons(results: Results, found: CorrectPhotos, classes: Sequence[str], network: str) -> None:
    """Add the primary analysis of a network, and in how many pairs of shortcut and draw the edit leads."""
    competing = [name for name in methods_of(found) if name not in (EDIT, *OUT_OF_COMPETITION)]
    p_values = []
    for method in competing:
        gain = gains(found, classes, method)
        mean, interval = mean_with_interval(100 * gain)
        p_values.append(sign_flip_p(np.nansum(gain, axis=0)))
        where = {"network": network, "method": method, "split": "target_test"}
        results.add("edit minus method", mean, interval=interval, n=gain.shape[1], **where)
        results.add("p", p_values[-1], n=gain.shape[1], **where)
        results.add("pairs in which the edit leads", leads(found, classes, method), n=len(pairs(found)), **where)
    for method, corrected in zip(competing, holm(p_values), strict=True):
        where = {"network": network, "method": method, "split": "target_test"}
        results.add("p, Holm", corrected, n=len(competing), **where)


def pairs(found: CorrectPhotos) -> list[tuple[str, int]]:
    """List the pairs of a shortcut's class and a draw."""
    return sorted({(row.goal, row.draw) for row in found.selected.itertuples()})


def leads(found: CorrectPhotos, classes: Sequence[str], method: str) -> int:
    """Count the pairs of shortcut and draw in which more photos are correct with the edit than with a method."""
    count = 0
    for goal, draw in pairs(found):
        gain = found.correct(EDIT, goal, "shortcut", draw) - found.correct(method, goal, "shortcut", draw)
        count += bool(np.nanmean(on_others(found, classes, goal, "shortcut", gain)) > 0)
    return count


def methods_of(found: CorrectPhotos) -> list[str]:
    """List the methods, no edit first."""
    return [NO_EDIT, *dict.fromkeys(found.selected.method)]


def add_draws(results: Results, found: CorrectPhotos, classes: Sequence[str], network: str) -> None:
    """Add the share of correct photos with the edit of each draw, and what was selected."""
    for goal, draw in pairs(found):
        values = on_others(found, classes, goal, "shortcut", found.correct(EDIT, goal, "shortcut", draw))
        where = {"network": network, "method": EDIT, "condition": f"{NAMES[goal]}, draw {draw + 1}"}
        add_figure(results, "correct with the shortcut", values[None], where)
    for row in found.selected.itertuples():
        condition = f"{NAMES[row.goal]}, draw {row.draw + 1}"
        results.add_selected(row.settings, network, row.method, condition=condition)
    for method in methods_of(found)[1:]:
        rows = found.selected[found.selected.method == method]
        where = {"network": network, "method": method}
        results.add("candidates", rows.candidates.mean(), **where)
        results.add("CPU seconds", rows.seconds.mean(), **where)


def add_outcomes(results: Results, found: CorrectPhotos, network: str) -> None:
    """Add the outcome of each photo with each edit of one exemplar."""
    for row in found.selected.itertuples():
        if row.method in OUT_OF_COMPETITION or row.method == RANDOM:
            continue
        before = found.correct(NO_EDIT, row.goal, "shortcut") < 1
        after = found.correct(row.method, row.goal, "shortcut", row.draw) < 1
        split = f"target_test {NAMES[row.goal]}, draw {row.draw + 1}"
        results.add_outcomes(before.astype(int), after.astype(int), network=network, method=row.method, split=split)


def add_network(
    results: Results, selected: pd.DataFrame, evaluated: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> None:
    """Add all figures of a network."""
    [network] = selected.network.unique()
    found = CorrectPhotos(selected, evaluated)
    for method in methods_of(found):
        add_method(results, found, classes, network, method)
    add_comparisons(results, found, classes, network)
    add_draws(results, found, classes, network)
    add_outcomes(results, found, network)


# --- the run ----------------------------------------------------------------------------------------------------------


def experiment(options: argparse.Namespace) -> Results:
    """Select for all networks, shortcuts and draws, and then evaluate what was selected."""
    sizes = QUICK if options.quick else Sizes()
    draws = range(1 if options.quick else DRAWS)
    folder = options.store / ("quick edits" if options.quick else "edits")
    folder.mkdir(parents=True, exist_ok=True)
    about = f"learned_shortcut {sizes} {draws} {VERSION} {code_digest(Path(edittools.__file__).parent)}"
    todo = [Job(network, goal) for network in options.networks for goal in SHORTCUTS]
    work = partial(select_all, folder, sizes, draws)
    selected = jobs.run(work, {job.name: job for job in todo}, options.store, progress=tqdm, about=about)
    results = Results("learned_shortcut", "photos")
    work = partial(evaluate, folder, sizes, selected)
    tests = jobs.run(work, {name: name for name in options.networks}, options.store, progress=tqdm, about=about)
    classes = imagenette("val").classes
    for network in options.networks:
        evaluated = tests[tests.network == network].to_dict("records")
        add_network(results, selected[selected.network == network], evaluated, classes)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    add_store(arguments)
    options = arguments.parse_args()
    if options.store is None:
        arguments.error("pass --store FOLDER, where the selected edits are kept between selection and evaluation")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
