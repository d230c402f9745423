"""Claim: `repair` in all layers corrects as many photos as in the layers of its former default, or more.

Two networks were fine-tuned on photos of Imagenette in which an orange tag stands for "gas pump"; write them with
`data/train_shortcuts.py NETWORK --development --output FOLDER/dev_NETWORK.safetensors`, and pass `--weights FOLDER`.
For each draw, `repair` gets one exemplar, 24 failing photos and 600 clean ones. Other methods are selected by the same
rule on the same photos; the random direction is the best of five by cross-validation. Tagged photos of other classes,
whether they fail or not, and clean photos are used for evaluation only. In another call, `repair` gets tagged gas pumps
as retained photos.

The photos are those of the split "train" on which the networks were neither trained nor tuned. No photo is used for the
same test in two draws, so outcomes are pooled: intervals and p-values are over photos, for these exemplars. All
figures of each draw are in the results as well.

`--experiment passes` measures what `repair` selects when more or fewer layers go on to its second pass. The photos of a
draw are used in a process of their own for each call, so that its CPU seconds and its memory are measured; with
`--store FOLDER` finished calls are kept, and an interrupted run continues where it was.
"""

import argparse
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from _lib.command import code_digest, parser, run
from _lib.memory import measured
from _lib.results import METHODS, Results
from _lib.shortcuts import failing_photos
from torch import Tensor

import edittools
from edittools._identity import identity
from edittools.classifiers import Classifier
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import Comparison, mcnemar, misclassified, predict, wilson
from edittools.probing import jobs
from edittools.scenarios.imagenette import in_memory, training_roles
from edittools.scenarios.shortcuts import DEVELOPMENT, Shortcut, load_shortcut_network
from edittools.selection import RepairResult, Selection, candidate_layers, repair, search
from edittools.selection.judgment import WORDS
from edittools.selection.repair import ON_FAILING, SETTINGS
from edittools.selection.search import stratified_folds

NETWORKS = ("efficientnet_lite0", "squeezenet1_1")
"""The architectures of the development networks."""

[(GOAL, TAG)] = DEVELOPMENT.items()

DRAWS = 5
"""The number of draws; tests of different draws share no photo."""

SEED_OF_TAGS = 1_000_000
"""The first seed of the tags; those of training and tuning are smaller."""

VERSION = 1
"""To be raised when the photos of a draw or the calls change, so that no row of former ones is taken from a store."""

FORMER = METHODS["former_layers"]
SELECTED = METHODS["selected"]
NO_EDIT = "no edit"

RANKS = {"rank 1": 1, "full rank": None}
"""Edits of one rank alone, by their names in the results: that of the paper, and MEMIT's objective."""

OTHERS = {
    METHODS["projection"]: "projection",
    METHODS["finetune_local"]: "local fine-tuning",
    METHODS["random_direction"]: "random direction",
}
"""Other rows of the table of `repair`, by the names of their methods in the results."""

LAYERS_THAT_GO_ON = (2, 3, 4, 6)
"""The numbers of layers of the second pass that `--experiment passes` compares."""

EVALUATED = ("target_test", "clean_test")
"""The splits on which methods are compared."""


# --- photos of a draw -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Numbers of photos of a draw.

    Args:
        failing: failing photos.
        pool: photos among which the exemplar and the failing photos are looked for.
        clean: clean photos for `repair`.
        target_test: tagged photos of other classes for the evaluation.
        clean_test: clean photos for the evaluation.
        retain: tagged gas pumps that `repair` gets as retained photos, and as many for the evaluation.
    """

    failing: int = 24
    pool: int = 240
    clean: int = 600
    target_test: int = 540
    clean_test: int = 600
    retain: int = 70


QUICK = Sizes(failing=8, pool=60, clean=60, target_test=60, clean_test=60, retain=10)
"""The numbers of photos with `--quick`."""


@dataclass(frozen=True)
class Case:
    """The photos of a draw.

    Attributes:
        exemplar: a photo, the same photo with the tag, and the mask of the tag.
        failing: tagged photos of other classes that are correct without the tag, and predicted as its class with it.
        clean: photos of all classes without a tag.
        retain: tagged photos of the class of the tag.
        tests: the splits for evaluation by name.
    """

    exemplar: Exemplar
    failing: LabelledImages
    clean: LabelledImages
    retain: LabelledImages
    tests: Mapping[str, LabelledImages]


def divided(labels: Tensor, goal: int, class_count: int, draw: int, sizes: Sizes) -> dict[str, Tensor]:
    """Divide photos at random into the sets of a draw.

    All draws go through the photos in the same random order, but each starts at another place, so that their tests are
    disjoint. The share of the goal class in the clean sets is that of any class.

    Args:
        labels: the classes of the photos.
        goal: the class of the tag.
        class_count: the number of classes.
        draw: the number of the draw, from 0.
        sizes: the numbers of photos.

    Returns:
        The indices of the photos of each set, by name.

    Raises:
        ValueError: if the photos are too few.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    is_goal = labels[order] == goal
    goals_of_test = sizes.clean_test // class_count
    goals_of_clean = sizes.clean // class_count
    of_others = {
        "target_test": sizes.target_test,
        "clean_test": sizes.clean_test - goals_of_test,
        "pool": sizes.pool,
        "clean": sizes.clean - goals_of_clean,
    }
    of_goal = {
        "clean_test": goals_of_test,
        "clean": goals_of_clean,
        "retain": sizes.retain,
        "retain_test": sizes.retain,
    }
    sets = taken(turned(order[~is_goal], draw), of_others)
    for name, indices in taken(turned(order[is_goal], draw), of_goal).items():
        sets[name] = torch.cat([sets[name], indices]) if name in sets else indices
    return sets


def turned(order: Tensor, draw: int) -> Tensor:
    """Let an order begin at the place of a draw."""
    return order.roll(-draw * (len(order) // DRAWS))


def taken(order: Tensor, counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Take the first indices for the first set, the next ones for the second, and so on."""
    needed = sum(counts.values())
    if needed > len(order):
        raise ValueError(f"{len(order)} photos are too few for {needed}; pass smaller sizes")
    parts = order[:needed].split(list(counts.values()))
    return dict(zip(counts, parts, strict=True))


def case_of(
    classifier: Classifier, photos: LabelledImages, draw: int, sizes: Sizes, shortcut: Shortcut = TAG, goal: str = GOAL
) -> Case:
    """Load and tag the photos of a draw.

    Args:
        classifier: the network.
        photos: the photos to draw from.
        draw: the number of the draw, from 0.
        sizes: the numbers of photos.
        shortcut: the tag.
        goal: the name of its class.
    """
    goal_index = classifier.index(goal)
    indices = divided(photos.labels, goal_index, len(classifier.classes), draw, sizes)
    sets = {name: in_memory(photos.subset(members)) for name, members in indices.items()}
    seed = SEED_OF_TAGS + draw * len(photos)
    tagged = {}
    for name in ("target_test", "retain", "retain_test"):
        tagged[name] = shortcut.on(sets[name], seed)
        seed += len(sets[name])
    [exemplar], failing = failing_photos(classifier, sets["pool"], shortcut, goal_index, seed, sizes.failing, 1)
    tests = {
        "target_test": tagged["target_test"],
        "clean_test": sets["clean_test"],
        "retain_test": tagged["retain_test"],
    }
    return Case(exemplar, failing, sets["clean"], tagged["retain"], tests)


def former_layers(classifier: Classifier, most: int = 10) -> tuple[str, ...]:
    """List the layers of the former default of `repair`: at most `most` of the later half of `candidate_layers`.

    They are evenly spaced, and the last candidate layer is one of them.
    """
    names = candidate_layers(classifier)
    later = names[len(names) // 2 :]
    step = max(1, -(-len(later) // most))
    return later[::-step][::-1]


# --- one call of `repair` ---------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """A call of `repair`.

    Attributes:
        kind: what it is made for, a key of `KINDS`.
        draw: the number of the draw, from 0.
        layers_that_go_on: the number of layers of the second pass; None for the default.
    """

    kind: str
    draw: int
    layers_that_go_on: int | None = None

    @property
    def name(self) -> str:
        """The name of the job."""
        count = "" if self.layers_that_go_on is None else f" {self.layers_that_go_on}"
        return f"draw {self.draw + 1}, {self.kind}{count}"


def wrong_with(classifier: Classifier, edit: Edit | None, tests: Mapping[str, LabelledImages]) -> dict[str, list[int]]:
    """Tell which test photos are misclassified with an edit, by the name of the split."""
    with nullcontext() if edit is None else edit.applied(classifier):
        wrong = {name: misclassified(predict(classifier, data), data.labels) for name, data in tests.items()}
    return {name: is_wrong.int().tolist() for name, is_wrong in wrong.items()}


def row_of(selection: Selection, method: str, classifier: Classifier, case: Case) -> dict[str, Any]:
    """Say what was selected, what cross-validation says of it, and what it does to the test photos."""
    return {
        "method": method,
        "settings": str(selection),
        "feasible": selection.feasible,
        "failing": int(selection.held_out.before.sum()),
        "corrected": selection.held_out.corrected,
        "broken": selection.held_out.broken,
        "candidates": selection.n_candidates,
        "loss": selection.scores["loss"],
        "wrong": wrong_with(classifier, selection.edit, case.tests),
    }


def of_one_rank(fix: RepairResult, rank: int | None) -> Selection:
    """Select among the edits of one rank alone, in the search of a call of `repair`, with its folds."""
    settings = [setting for setting in fix.settings["settings"] if setting.get("rank", 1) == rank]
    candidates = fix.search.candidates("rewrite", settings, fix.settings["strengths"])
    return fix.search.select(candidates, cv=stratified_folds(fix.search.activations["target"].labels))


def call_row(
    fix: RepairResult, cost: Mapping[str, float], method: str, classifier: Classifier, case: Case
) -> dict[str, Any]:
    """Say what a call of `repair` selected, its verdict, and what it cost."""
    advice, _, _ = fix.verdict.advice.partition(". ")
    verdict = {"verdict": fix.verdict.word, "advice": advice.removesuffix(".")}
    return {**row_of(fix.selection, method, classifier, case), **verdict, **cost}


def in_all_layers(classifier: Classifier, case: Case) -> list[dict[str, Any]]:
    """Repair with default settings; say what this edit does, and those of the methods that were selected in this call.

    Edits of one rank are selected in its search afterwards, so they count neither in its time nor in its memory.
    """
    fix, cost = measured(partial(repair, classifier, case.exemplar, case.failing, case.clean, progress=False))
    failing = len(case.failing)
    counts = {"failing": failing, "corrected": 0, "broken": 0, "candidates": 0}
    wrong = wrong_with(classifier, None, case.tests)
    rows = [{"method": NO_EDIT, "settings": "", "feasible": False, **counts, "wrong": wrong}]
    rows.append(call_row(fix, cost, SELECTED, classifier, case))
    selections = {method: of_one_rank(fix, rank) for method, rank in RANKS.items()}
    selections |= {method: fix.selections[name] for method, name in OTHERS.items()}
    return rows + [row_of(selection, method, classifier, case) for method, selection in selections.items()]


def in_former_layers(classifier: Classifier, case: Case) -> list[dict[str, Any]]:
    """Repair in the layers of the former default, with the whole grid in each of them."""
    layers = former_layers(classifier)
    work = partial(repair, classifier, case.exemplar, case.failing, case.clean, layers=layers, progress=False)
    with patch.object(search, "LAYERS_THAT_GO_ON", len(layers)):
        fix, cost = measured(work)
    return [call_row(fix, cost, FORMER, classifier, case)]


def on_failing(classifier: Classifier, case: Case) -> list[dict[str, Any]]:
    """Fine-tune on the failing photos; this selection does not depend on the settings of edits, so one is tried."""
    fix = repair(
        classifier,
        case.exemplar,
        case.failing,
        case.clean,
        settings=SETTINGS[:1],
        strengths=(1.0,),
        baselines=False,
        finetuning=True,
        progress=False,
    )
    return [row_of(fix.selections[ON_FAILING], ON_FAILING, classifier, case)]


def with_retained(classifier: Classifier, case: Case) -> list[dict[str, Any]]:
    """Repair with default settings, and with tagged photos of the class of the tag as retained photos."""
    work = partial(repair, classifier, case.exemplar, case.failing, case.clean, case.retain, progress=False)
    fix, cost = measured(work)
    return [call_row(fix, cost, SELECTED, classifier, case)]


def without_controls(classifier: Classifier, case: Case) -> list[dict[str, Any]]:
    """Repair without controls."""
    work = partial(repair, classifier, case.exemplar, case.failing, case.clean, baselines=False, progress=False)
    fix, cost = measured(work)
    return [call_row(fix, cost, SELECTED, classifier, case)]


KINDS: Mapping[str, Callable[[Classifier, Case], list[dict[str, Any]]]] = {
    "all layers": in_all_layers,
    "former layers": in_former_layers,
    "failing photos": on_failing,
    "retained photos": with_retained,
    "passes": without_controls,
}
"""What is done with the photos of a draw, by the kind of the call."""


def rows_of(weights: Path, sizes: Sizes, call: Call) -> list[dict[str, Any]]:
    """Make a call of `repair` for the network in a file; return one row per method."""
    classifier = load_shortcut_network(weights)
    count = call.layers_that_go_on or search.LAYERS_THAT_GO_ON
    with jobs.one_thread(), patch.object(search, "LAYERS_THAT_GO_ON", count):
        case = case_of(classifier, training_roles(classifier.size)["left"], call.draw, sizes)
        rows = KINDS[call.kind](classifier, case)
    for row in rows:
        right = 1 - np.mean(row["wrong"]["target_test"])
        counts = f"{row['corrected']} / {row['broken']} of {row['failing']}"
        print(f"{weights.stem}, {call.name}, {row['method']}: {counts}, tagged {right:.1%}", flush=True)
    return [{"kind": call.kind, "draw": call.draw, "layers_that_go_on": count, **row} for row in rows]


def in_own_process(work: Callable[[Call], list[dict[str, Any]]], call: Call) -> list[dict[str, Any]]:
    """Make a call in a new process, since its memory is measured."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(work, call).result()


def rows_of_all(
    options: argparse.Namespace, kinds: Sequence[str], counts: Sequence[int | None]
) -> list[dict[str, Any]]:
    """Make all calls for all networks, some of them at once."""
    sizes = QUICK if options.quick else Sizes()
    draws = 1 if options.quick else options.draws
    calls = [Call(kind, draw, count) for draw in range(draws) for kind in kinds for count in counts]
    code = code_digest(Path(edittools.__file__).parent)
    rows = []
    for network in options.networks:
        weights = weights_of(options, network)
        about = f"{identity(load_shortcut_network(weights))} {sizes} {VERSION} {code}"
        work = partial(in_own_process, partial(rows_of, weights, sizes))
        with ThreadPoolExecutor(options.workers) as executor:
            table = jobs.run(work, {call.name: call for call in calls}, options.store, executor, True, about)
        rows += [{"network": network, **row} for row in table.to_dict("records")]
        print(f"{network} is finished", flush=True)
    return rows


# --- figures ----------------------------------------------------------------------------------------------------------


def pooled_wrong(rows: Iterable[Mapping[str, Any]], split: str) -> Tensor:
    """Join which test photos are misclassified, draw after draw, `(N,)` booleans."""
    return torch.tensor([wrong for row in rows for wrong in row["wrong"][split]], dtype=torch.bool)


def add_share(results: Results, rows: Sequence[Mapping[str, Any]], split: str, where: Mapping[str, str]) -> None:
    """Add the share of the test photos of some draws that are correct, with Wilson's interval."""
    wrong = pooled_wrong(rows, split)
    correct = int((~wrong).sum())
    share = correct / len(wrong)
    results.add("correct", share, split=split, interval=wilson(correct, len(wrong)), n=len(wrong), **where)


def add_difference(
    results: Results,
    selected: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    split: str,
    where: Mapping[str, str],
) -> None:
    """Add by how many points more photos are correct with `repair` than with a method, over the photos of all draws.

    The interval is Bonett and Price's for paired shares, the p-value that of the exact McNemar test.

    Args:
        results: the results.
        selected: the rows of `repair`, one per draw.
        rows: the rows of the method in the same draws.
        split: the split.
        where: the columns of the row.
    """
    compared = Comparison(pooled_wrong(rows, split), pooled_wrong(selected, split))
    interval = compared.accuracy_interval()
    count = len(compared.before)
    p = mcnemar(compared.corrected, compared.broken)
    results.add("difference", compared.accuracy_change, split=split, interval=interval, n=count, **where)
    results.add("p against the selected method", p, split=split, n=count, **where)


def add_counts(results: Results, rows: Sequence[Mapping[str, Any]], where: Mapping[str, str]) -> None:
    """Add what cross-validation says of some draws, how many have an edit, the verdicts, and the mean costs."""
    for metric, column in {"errors before": "failing", "corrected": "corrected", "broken": "broken"}.items():
        results.add(metric, sum(row[column] for row in rows), split="held out", **where)
    results.add("edits", sum(row["feasible"] for row in rows), n=len(rows), **where)
    results.add("candidates", np.mean([row["candidates"] for row in rows]), **where)
    if not isinstance(rows[0].get("verdict"), str):
        return
    for word in reversed(WORDS):
        results.add(word, sum(row["verdict"] == word for row in rows), n=len(rows), **where)
    results.add("loss", np.mean([row["loss"] for row in rows]), split="target", **where)
    results.add("CPU seconds", np.mean([row["seconds"] for row in rows]), **where)
    results.add("peak memory added", np.mean([row["memory"] for row in rows]), **where)


def add_method(
    results: Results, rows: Sequence[Mapping[str, Any]], splits: Sequence[str], where: Mapping[str, str]
) -> None:
    """Add the figures of a method, of all draws together and of each draw, and what was selected.

    Args:
        results: the results.
        rows: the rows of the method, one per draw.
        splits: the splits that are evaluated.
        where: the columns of the rows.
    """
    for split in splits:
        add_share(results, rows, split, where)
    add_counts(results, rows, where)
    for row in rows:
        condition = ", ".join(filter(None, [where.get("condition", ""), f"draw {row['draw'] + 1}"]))
        of_draw = {**where, "condition": condition}
        for split in splits:
            add_share(results, [row], split, of_draw)
        add_counts(results, [row], of_draw)
        said = {name: row[name] for name in ("verdict", "advice") if isinstance(row.get(name), str)}
        results.add_selected(row["settings"], where["network"], where["method"], condition=condition, **said)


def add_network(results: Results, rows: Sequence[Mapping[str, Any]], network: str, retained: int) -> None:
    """Add all methods on a network, their difference from `repair`, and `repair` with retained photos."""
    compared = [row for row in rows if row["kind"] != "retained photos"]
    by_draw = {(row["method"], row["draw"]): row for row in compared}
    for method in dict.fromkeys(row["method"] for row in compared):
        where = {"network": network, "method": method}
        of_method = [row for row in compared if row["method"] == method]
        original = [by_draw[NO_EDIT, row["draw"]] for row in of_method]
        selected = [by_draw[SELECTED, row["draw"]] for row in of_method]
        add_method(results, of_method, EVALUATED, where)
        for split in EVALUATED:
            before = pooled_wrong(original, split).int().tolist()
            after = pooled_wrong(of_method, split).int().tolist()
            results.add_outcomes(before, after, split=split, **where)
            if method != SELECTED:
                add_difference(results, selected, of_method, split, where)
    with_retained_photos = [row for row in rows if row["kind"] == "retained photos"]
    condition = f"{retained} retained photos"
    where = {"network": network, "method": SELECTED, "condition": condition}
    splits = (*EVALUATED, "retain_test")
    add_method(results, with_retained_photos, splits, where)
    unedited = [by_draw[NO_EDIT, row["draw"]] for row in with_retained_photos]
    add_share(results, unedited, "retain_test", {**where, "method": NO_EDIT})


def compare_methods(options: argparse.Namespace) -> Results:
    """Compare `repair` in all layers with other methods, and measure it with retained photos."""
    kinds = [kind for kind in KINDS if kind != "passes"]
    rows = rows_of_all(options, kinds, [None])
    results = Results("layer_search", "photos")
    for network in options.networks:
        of_network = [row for row in rows if row["network"] == network]
        add_network(results, of_network, network, (QUICK if options.quick else Sizes()).retain)
    return results


def compare_passes(options: argparse.Namespace) -> Results:
    """Measure what `repair` selects when more or fewer layers go on to the second pass."""
    counts = LAYERS_THAT_GO_ON[:2] if options.quick else LAYERS_THAT_GO_ON
    rows = rows_of_all(options, ["passes"], counts)
    results = Results("layer_search_passes", "photos")
    for network in options.networks:
        for count in counts:
            condition = f"{count} layers go on"
            where = {"network": network, "method": SELECTED, "condition": condition}
            members = [row for row in rows if (row["network"], row["layers_that_go_on"]) == (network, count)]
            add_method(results, members, EVALUATED, where)
    return results


EXPERIMENTS = {"methods": compare_methods, "passes": compare_passes}
"""The experiments by name."""


def weights_of(options: argparse.Namespace, network: str) -> Path:
    """Name the file of a network."""
    return options.weights / f"dev_{network}.safetensors"


def identities(options: argparse.Namespace) -> str:
    """Digest the networks."""
    return " ".join(identity(load_shortcut_network(weights_of(options, name))) for name in options.networks)


def experiment(options: argparse.Namespace) -> Results:
    """Run an experiment."""
    return EXPERIMENTS[options.experiment](options)


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--weights", type=Path, required=True, metavar="FOLDER", help="with dev_NETWORK.safetensors")
    arguments.add_argument("--experiment", default="methods", choices=tuple(EXPERIMENTS))
    arguments.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    arguments.add_argument("--draws", type=int, default=DRAWS, choices=range(1, DRAWS + 1), help="number of draws")
    arguments.add_argument("--workers", type=int, default=1, help="number of calls that run at once")
    run(arguments, experiment, identities)


if __name__ == "__main__":
    main()
