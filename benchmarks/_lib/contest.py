"""A contest compares methods over cases. A case is a network with one exemplar.

A row of a contest is what was selected for a method in a case, and what it does to the images for evaluation: of each
set, which images are misclassified before and after, as `{set: [before, after]}`.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import inf

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from _lib.label_free import Selected
from _lib.results import NO_EDIT, Results
from edittools.activations import CachedActivations, StateMemory
from edittools.classifiers import Classifier
from edittools.cut import cut_all
from edittools.edits import Edit
from edittools.images import LabelledImages
from edittools.layers import candidate_layers
from edittools.methods import RANDOM
from edittools.metrics import misclassified, predict

TARGET = "target_test"
"""The set with the concept, whose errors should be corrected."""

CLEAN = "clean_test"
"""The set without the concept, on which accuracy should be kept."""

OWN_CLASS = "own class"
"""The set with the mark that shows the class that the mark stands for."""

FEWEST_FOR_INTERVAL = 5
"""Fewer values have no interval, since they say too little of how they vary; tables show each of them."""

Sets = Mapping[str, Sequence[Sequence[int]]]
"""Which images of each set are misclassified before and after, 1 or 0 for each image."""


# --- evaluation -------------------------------------------------------------------------------------------------------


def split_into_groups(data: LabelledImages) -> list[LabelledImages]:
    """Divide images into groups whose states at several layers fit into memory."""
    return [data.subset(numbers) for numbers in torch.arange(len(data)).split(32)]


def wrong_with(
    classifier: Classifier, edits: Mapping[str, Edit], groups: Iterable[LabelledImages], title: str = "images"
) -> dict[str, Tensor]:
    """Tell which images are misclassified with each edit, and without one as "", `(N,)` booleans by name.

    Each group runs up to the layers of all edits once; a fine-tuned network runs from the start.

    Args:
        classifier: the classifier without an edit.
        edits: the edits by name.
        groups: the images in groups.
        title: the title of the progress bar.
    """
    layers = candidate_layers(classifier)
    of_layers = {name: edit for name, edit in edits.items() if set(edit.layers) <= set(layers)}
    first = {next(layer for layer in layers if layer in edit.layers) for edit in of_layers.values()}
    cuts = cut_all(classifier, [layer for layer in layers if layer in first or layer == layers[-1]])
    networks = {name: edit.edited(classifier) for name, edit in edits.items() if name not in of_layers}
    wrong: dict[str, list[Tensor]] = {name: [] for name in ("", *edits)}
    for group in tqdm(groups, desc=title, mininterval=10):
        cached = CachedActivations(cuts, group, len(group), memory=StateMemory(inf, cuts))
        wrong[""].append(cached.before)
        for name, edit in of_layers.items():
            wrong[name].append(misclassified(cached.logits(edit), cached.labels))
        for name, network in networks.items():
            wrong[name].append(misclassified(predict(network, group), cached.labels))
    return {name: torch.cat(parts) for name, parts in wrong.items()}


def evaluated(classifier: Classifier, selected: Sequence[Selected], sets: Mapping[str, LabelledImages]) -> list[Sets]:
    """Evaluate what was selected on sets of images: what each does to each set."""
    edits = {str(number): one.edit for number, one in enumerate(selected)}
    found: list[dict[str, list[list[int]]]] = [{} for _ in selected]
    for name, data in sets.items():
        wrong = wrong_with(classifier, edits, split_into_groups(data), name)
        before = wrong[""].int().tolist()
        for number in edits:
            found[int(number)][name] = [before, wrong[number].int().tolist()]
    return found


# --- results ----------------------------------------------------------------------------------------------------------


def net_share(before: np.ndarray, after: np.ndarray) -> float:
    """Return the net share of the errors that is corrected; NaN without errors."""
    errors = before.sum()
    return float((errors - after.sum()) / errors) if errors else float("nan")


def metrics_of(sets: Sets) -> dict[tuple[str, str], float]:
    """Compute the metrics of an edit, by set and metric.

    They are the net share of the errors that is corrected, the change of accuracy on clean images in points, and on any
    other set the share of images that are correct with the edit.
    """
    metrics = {}
    for name, wrong in sets.items():
        before, after = np.array(wrong, dtype=bool)
        if name == CLEAN:
            metrics[name, "accuracy change"] = 100 * float(before.mean() - after.mean())
            continue
        metrics[name, "errors corrected"] = net_share(before, after)
        if name != TARGET:
            metrics[name, "correct"] = float(1 - after.mean())
    return metrics


def student_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's 95% interval of a mean; None for fewer than `FEWEST_FOR_INTERVAL` values."""
    if len(values) < FEWEST_FOR_INTERVAL:
        return None
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    mean = float(np.mean(values))
    return mean - float(half), mean + float(half)


def add_contest(results: Results, rows: pd.DataFrame) -> None:
    """Add the results of a contest: means over cases, whose runs are averaged first, and the outcome of each image.

    Args:
        results: the results.
        rows: one row per selection, with the columns `network`, `case`, `method`, `settings`, `candidates`, `seconds`,
            `run` (what tells apart several runs of a method), and `sets`.
    """
    _add_no_edit(results, rows)
    for method, of_method in rows.groupby("method", sort=False):
        _add_method(results, of_method, str(method))
    if (rows.method == RANDOM).any():
        _add_range_of_draws(results, rows[rows.method == RANDOM])
    for row in rows.to_dict("records"):
        condition = ", ".join(filter(None, [row["case"], row["run"]]))
        where = {"network": row["network"], "method": row["method"]}
        results.add_selected(row["settings"], **where, condition=condition, seconds=round(row["seconds"], 1))
        for name, (before, after) in row["sets"].items():
            results.add_outcomes(before, after, **where, split=", ".join(filter(None, [name, condition])))


def _add_no_edit(results: Results, rows: pd.DataFrame) -> None:
    """Add the share of images of each set that are correct without an edit, averaged over cases."""
    cases = rows.drop_duplicates(["network", "case"])
    for name in cases.iloc[0].sets:
        shares = [1 - np.mean(sets[name][0]) for sets in cases.sets]
        results.add("correct", float(np.mean(shares)), network="all", method=NO_EDIT, split=name, n=len(shares))


def _add_method(results: Results, rows: pd.DataFrame, method: str) -> None:
    """Add the means of a method over all cases, over those of each network, and its values of each case."""
    where = {"network": "all", "method": method}
    results.add("CPU seconds", rows.seconds.mean(), **where)
    results.add("candidates", rows.candidates.mean(), **where)
    found = pd.DataFrame([metrics_of(sets) for sets in rows.sets], index=rows.index)
    of_cases = found.groupby([rows.network, rows.case], sort=False).mean()
    for split, metric in found:
        values = of_cases[split, metric].dropna()
        _add_mean(results, metric, values, split=split, **where)
        for network, of_network in values.groupby(level="network", sort=False):
            of_one = {"network": network, "method": method, "split": split}
            _add_mean(results, metric, of_network, **of_one)
            for (_, case), value in of_network.items():
                if case:
                    results.add(metric, value, **of_one, condition=case)


def _add_mean(results: Results, metric: str, values: pd.Series, **where: str) -> None:
    """Add the mean of a metric over cases with Student's interval."""
    results.add(metric, values.mean(), interval=student_interval(values.to_list()) or (), **where)


def _add_range_of_draws(results: Results, random: pd.DataFrame) -> None:
    """Add the smallest and the largest mean over cases of a draw of random directions."""
    nets = random.sets.map(lambda sets: metrics_of(sets)[TARGET, "errors corrected"])
    means = nets.groupby(random.run).mean()
    where = {"network": "all", "method": RANDOM, "split": TARGET, "condition": "range of draws"}
    results.add("errors corrected", means.mean(), interval=(means.min(), means.max()), **where)


def headline(table: pd.DataFrame, condition: str = "", network: str = "all") -> pd.DataFrame:
    """Select the means over all cases, or over those of one network, under one condition."""
    return table[(table.network == network) & (table.condition == condition)]
