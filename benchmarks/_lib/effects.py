"""What edits do to sets of images, and how much methods differ on the same cases.

A case is a network with one mark, or with one exemplar. What an edit does to each set of images is stored as
`{set: [before, after]}`, 1 for each image that is misclassified; in `CHANGED`, for each that is predicted otherwise
than without an edit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from _lib.results import NO_EDIT, Results
from edittools.classifiers import Classifier
from edittools.cut import cut_all
from edittools.edits import Edit
from edittools.images import LabeledImages
from edittools.layers import candidate_layers
from edittools.metrics import predict, predicted_classes
from edittools.states import StateMemory, States
from edittools_course.scenarios.imagenette import in_memory
from edittools_course.scenarios.shortcuts import Shortcut

TARGET = "target_test"
"""The photos of other classes with the mark, whose errors should be corrected."""

CLEAN = "clean_test"
"""The photos without the mark, on which accuracy should be kept."""

CHANGED = "clean_test changed"
"""The same photos: which of them are predicted otherwise than without an edit."""

OWN_CLASS = "own class"
"""The photos of the mark's class with the mark."""

OWN_CLEAN = "own class unmarked"
"""The photos of the mark's class without the mark."""

CORRECTED, ACCURACY, FLIPS, CORRECT = "errors corrected", "accuracy change", "predictions changed", "correct"
"""The metrics: two shares, points, and a share. "correct" is given for all sets but the first two."""

FEWEST_FOR_INTERVAL = 5
"""Fewer values have no interval, since they say too little of how they vary."""

GROUP = 32
"""The number of photos whose states at several layers are in memory at once."""

Sets = Mapping[str, Sequence[Sequence[int]]]
"""What an edit does to the photos of each set: 1 or 0 for each photo, before and after."""


# --- evaluation -------------------------------------------------------------------------------------------------------


def predictions_with(
    classifier: Classifier, edits: Mapping[str, Edit], groups: Iterable[LabeledImages], title: str = "photos"
) -> dict[str, Tensor]:
    """Predict the class of photos with each edit, and without one as "", `(N,)` class indices by name.

    Each group runs once up to the layers of all edits; fine-tuned networks, whose layers no edit can have, run from the
    start.

    Args:
        classifier: the classifier without an edit.
        edits: the edits by name.
        groups: the photos in groups.
        title: the title of the progress bar.
    """
    layers = candidate_layers(classifier)
    of_layers = {name: edit for name, edit in edits.items() if set(edit.layers) <= set(layers)}
    first = {next(layer for layer in layers if layer in edit.layers) for edit in of_layers.values()}
    cuts = cut_all(classifier, [layer for layer in layers if layer in first or layer == layers[-1]])
    networks = {name: edit.edited(classifier) for name, edit in edits.items() if name not in of_layers}
    found: dict[str, list[Tensor]] = {name: [] for name in ("", *edits)}
    for group in tqdm(groups, desc=title, mininterval=10):
        cached = States(cuts, group, batch_size=len(group), memory=StateMemory(inf))
        found[""].append(predicted_classes(cached.original))
        for name, edit in of_layers.items():
            found[name].append(predicted_classes(cached.logits(edit)))
        for name, network in networks.items():
            found[name].append(predicted_classes(predict(network, group)))
    return {name: torch.cat(parts) for name, parts in found.items()}


def evaluated(
    classifier: Classifier, edits: Mapping[str, Edit], sets: Mapping[str, LabeledImages]
) -> dict[str, dict[str, list[list[int]]]]:
    """Evaluate edits on sets of images.

    Args:
        classifier: the classifier without an edit.
        edits: the edits by name.
        sets: the sets by name.

    Returns:
        What each edit does to each set, by name, and to the predictions for `CLEAN`.
    """
    found: dict[str, dict[str, list[list[int]]]] = {name: {} for name in edits}
    for split, data in sets.items():
        groups = (group for group, _ in _groups_with_numbers(data, torch.arange(len(data))))
        predicted = predictions_with(classifier, edits, groups, split)
        for name in edits:
            compared = [(predicted[one] != data.labels).int().tolist() for one in ("", name)]
            found[name][split] = compared
            if split == CLEAN:
                changed = (predicted[name] != predicted[""]).int()
                found[name][CHANGED] = [torch.zeros_like(changed).tolist(), changed.tolist()]
    return found


def effects(
    classifier: Classifier,
    edits: Mapping[str, Edit],
    photos: LabeledImages,
    goal: str,
    mark: Shortcut,
    seed: int,
    numbers: Tensor | None = None,
    counts: Tensor | None = None,
) -> dict[str, Sets]:
    """Evaluate edits on photos with and without a mark.

    Args:
        classifier: the classifier without an edit.
        edits: the edits by name.
        photos: the photos without the mark; they are loaded in groups.
        goal: the class of the mark.
        mark: what is drawn on them.
        seed: the seed of what is drawn on the first photo; that on photo i is drawn with `seed + i`.
        numbers: the indices of the photos that are used; by default all.
        counts: which of the photos measure accuracy, and errors with the mark, `(N,)` booleans; by default all. Of the
            mark's class, all photos that are used count.

    Returns:
        What each edit does to each set, by name.
    """
    numbers = torch.arange(len(photos)) if numbers is None else numbers
    counts = torch.ones(len(photos), dtype=torch.bool) if counts is None else counts
    clean = predictions_with(classifier, edits, _groups(photos, numbers), "photos")
    drawn = (_drawn(group, mark, seed, members) for group, members in _groups_with_numbers(photos, numbers))
    marked = predictions_with(classifier, edits, drawn, "photos with the mark")
    labels = torch.tensor([classifier.index(name) for name in photos.classes])[photos.labels[numbers]]
    is_own = labels == classifier.index(goal)
    is_counted = counts[numbers]
    found = {}
    for name in edits:
        wrong_clean = [clean[one] != labels for one in ("", name)]
        wrong_marked = [marked[one] != labels for one in ("", name)]
        changed = (clean[name] != clean[""])[is_counted]
        sets = {
            TARGET: [wrong[~is_own & is_counted] for wrong in wrong_marked],
            CLEAN: [wrong[is_counted] for wrong in wrong_clean],
            CHANGED: [torch.zeros_like(changed), changed],
            OWN_CLASS: [wrong[is_own] for wrong in wrong_marked],
            OWN_CLEAN: [wrong[is_own] for wrong in wrong_clean],
        }
        found[name] = {split: [one.int().tolist() for one in pair] for split, pair in sets.items()}
    return found


def _groups_with_numbers(photos: LabeledImages, numbers: Tensor) -> Iterator[tuple[LabeledImages, list[int]]]:
    """Load photos in groups, and yield each group with the indices of its photos."""
    for members in numbers.split(GROUP):
        yield in_memory(photos.subset(members)), members.tolist()


def _groups(photos: LabeledImages, numbers: Tensor) -> Iterator[LabeledImages]:
    """Load photos in groups."""
    return (group for group, _ in _groups_with_numbers(photos, numbers))


def _drawn(group: LabeledImages, mark: Shortcut, seed: int, numbers: Sequence[int]) -> LabeledImages:
    """Draw a mark on photos, with a seed for each by its index, so that groups do not matter."""
    images = [mark.draw(image[None], seed + number)[0] for image, number in zip(group.images, numbers, strict=True)]
    return replace(group, images=torch.cat(images))


def net_share(before: np.ndarray, after: np.ndarray) -> float:
    """Return the net share of the errors that is corrected; NaN without errors."""
    errors = before.sum()
    return float((errors - after.sum()) / errors) if errors else float("nan")


def metrics_of(sets: Sets) -> dict[tuple[str, str], float]:
    """Compute the metrics of an edit, by set and metric: shares, and the change of accuracy in points."""
    values = {}
    for name, wrong in sets.items():
        before, after = np.array(wrong, dtype=bool)
        if name == CLEAN:
            values[CLEAN, ACCURACY] = 100 * float(before.mean() - after.mean())
            continue
        if name == CHANGED:
            values[CLEAN, FLIPS] = float(after.mean())
            continue
        if name not in (OWN_CLASS, OWN_CLEAN):
            values[name, CORRECTED] = net_share(before, after)
        if name != TARGET:
            values[name, CORRECT] = 1 - float(after.mean())
    return values


def metrics_without_edit(sets: Sets) -> dict[tuple[str, str], float]:
    """Compute the shares that are correct without an edit, by set and metric."""
    return {(name, CORRECT): 1 - float(np.mean(wrong[0])) for name, wrong in sets.items() if name != CHANGED}


# --- results ----------------------------------------------------------------------------------------------------------


def student_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's 95% interval of a mean; None for fewer than `FEWEST_FOR_INTERVAL` values."""
    if len(values) < FEWEST_FOR_INTERVAL:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def add_means(results: Results, rows: pd.DataFrame, selected: str) -> None:
    """Add the metrics of each method: of each case, their means, and the paired differences from the selected edit.

    Draws and seeds of a case are averaged first. Intervals are Student's over cases.

    Args:
        results: the results.
        rows: one row per edit, with the columns `network`, `case`, `condition`, `method`, `candidates`, `seconds`,
            `sets`. Methods are compared within a condition, such as a kind of exemplar.
        selected: the name of the method from which the others differ.
    """
    for condition, of_condition in rows.groupby("condition", sort=False):
        _add_without_edit(results, of_condition, str(condition))
        values = means_by_case(of_condition)
        for method in of_condition.method.unique():
            where = {"method": method, "condition": str(condition)}
            _add_method(results, values.loc[method], where)
            costs = of_condition[of_condition.method == method].groupby("network", sort=False)
            for network, mean in costs[["seconds", "candidates"]].mean().iterrows():
                results.add("CPU seconds", mean.seconds, network=str(network), **where)
                results.add("candidates", mean.candidates, network=str(network), **where)
            if method != selected and selected in values.index:
                differences = (values.loc[method] - values.loc[selected]).dropna(how="all")
                _add_differences(results, differences, where, selected)


def means_by_case(rows: pd.DataFrame, metrics: Callable[[Sets], Mapping] = metrics_of) -> pd.DataFrame:
    """Average the metrics over the draws and seeds of each case: one row per method, network, and case."""
    values = pd.DataFrame([metrics(sets) for sets in rows.sets], index=rows.index)
    return values.groupby([rows.method, rows.network, rows.case], sort=False).mean()


def _add_without_edit(results: Results, rows: pd.DataFrame, condition: str) -> None:
    """Add the shares that are correct without an edit."""
    first = rows.drop_duplicates(["network", "case"])
    values = means_by_case(first.assign(method=NO_EDIT), metrics_without_edit).loc[NO_EDIT]
    _add_method(results, values, {"method": NO_EDIT, "condition": condition})


def _add_method(results: Results, values: pd.DataFrame, where: Mapping[str, str]) -> None:
    """Add the metrics of each case, and their means over the cases of each network and of all."""
    of_all = {**where, "network": "all"}
    condition = where["condition"]
    for split, metric in values:
        column = values[split, metric].dropna()
        interval = student_interval(column.to_list()) or ()
        results.add(metric, column.mean(), split=split, interval=interval, **of_all)
        for network, of_network in column.groupby(level="network", sort=False):
            here = {"network": str(network), "method": where["method"], "split": split}
            results.add(metric, of_network.mean(), condition=condition, **here)
            for (_, case), value in of_network.items():
                results.add(metric, value, condition=", ".join(filter(None, [condition, case])), **here)


def _add_differences(results: Results, differences: pd.DataFrame, where: Mapping[str, str], selected: str) -> None:
    """Add the means of paired differences over all cases, with Student's interval."""
    condition = ", ".join(filter(None, [where["condition"], f"minus {selected}"]))
    for split, metric in differences:
        column = differences[split, metric].dropna()
        if column.empty:
            continue
        of_all = {"network": "all", "method": where["method"], "split": split, "condition": condition}
        results.add(metric, column.mean(), interval=student_interval(column.to_list()) or (), **of_all)


def add_outcomes(results: Results, rows: pd.DataFrame) -> None:
    """Add what was selected, and the outcome of each image."""
    for row in rows.to_dict("records"):
        condition = ", ".join(filter(None, [row["case"], row["condition"], row.get("run", "")]))
        where = {"network": row["network"], "method": row["method"]}
        results.add_selected(row["settings"], **where, condition=condition, seconds=round(row["seconds"], 1))
        for name, (before, after) in row["sets"].items():
            results.add_outcomes(before, after, **where, split=f"{name}, {condition}")
