"""Claim: with labeled images, fine-tuning removes a learned shortcut as well as an edit; an edit needs far less.

Two networks were fine-tuned on photos of Imagenette in which a tag stands for "garbage truck", a line of text for
"church", and a film border for "French horn" (see data/README.md). For each network, shortcut, and draw, all methods
get what a user of `repair` has: one exemplar, 200 photos with the shortcut, right and wrong, up to 60 of which are of
its own class, 600 clean photos, and 200 photos of the shortcut's class without it. All are photos of the split "train";
the networks were neither trained nor tuned on them.

Each method is selected by the rule of `repair`: the lowest cross-entropy on the photos with the shortcut, of the
candidates with a net gain and costs within half of the limits. It is also selected without limits. Fine-tuning trains
on two thirds of the same photos and is selected on the other third; its rate was chosen with `--development` on draw 1,
which reads no photo for evaluation, and so was the layer of the edit with default settings, which needs no labels.

The evaluation uses every fourth photo of the split "val", with and without each shortcut, after all selections are
made. Networks have seen most of these photos in their pretraining on ImageNet, so differences between methods count,
levels of accuracy do not. Draws are averaged for each pair of a network and a shortcut. The interval is Student's t
over these pairs, so it holds for these marks and networks.

`--store FOLDER` is required: it keeps what was selected, and an interrupted run continues where it was.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from _lib.command import add_store, code_digest, parser, run
from _lib.results import Results, name_of
from _lib.shortcuts import (
    NAMES,
    NETWORKS,
    QUICK,
    ShortcutCase,
    Sizes,
    evaluation_photos,
    marked,
    shortcut_case,
)
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

import edittools
from edittools.classifiers import Classifier
from edittools.cut import cut_all
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.methods import METHODS, RANDOM
from edittools.metrics import misclassified, predict
from edittools.models import load_classifier
from edittools.probing import jobs
from edittools.selection import (
    CachedActivations,
    Constraints,
    Outcomes,
    Search,
    Selection,
    Splits,
    candidate_layers,
    grid,
    repair,
)
from edittools.selection.activations import StateMemory
from edittools.selection.finetuning import NO_LIMITS, finetune_network
from edittools.selection.outcomes import SECOND, SINGLE, Candidate
from edittools.selection.search import SECOND_LAYER
from edittools.site import site_at

DRAWS = (3, 4)
"""The draws for evaluation: photos of "val" were read with edits of draws 1 and 2 before."""

DEVELOPMENT = {"shortcuts_squeezenet": "garbage truck", "shortcuts_lite0": "church"}
"""The pairs of a network and a shortcut with which fine-tuning was developed, in draw 1."""

RATES = (1e-4,)
"""The rate of fine-tuning, which was chosen on these pairs."""

RANDOM_DRAWS = 5
"""The number of random directions."""

ON_EXEMPLAR = tuple(grid(scope=("global",), rate=(1e-4, 1e-3, 1e-2), steps=(20,)))
"""Settings of fine-tuning on the exemplar."""

LAYERS_ON_EXEMPLAR = 6
"""The number of layers from which on it trains, evenly spaced."""

VERSION = 3
"""To be raised when the photos change, so that no row of former ones is taken from a store."""

DEFAULT = name_of("default")
EDIT = name_of("editing")
FINETUNING = name_of("finetuning")
PASTED = name_of("finetuning_pasted")
NO_EDIT = "no edit"

WITHIN = "within the limits"
WITHOUT = "without limits"

CLEAN = "clean"
OTHERS = "other classes"
OWN_CLASS = "own class"

SETS = (CLEAN, OTHERS, OWN_CLASS)
"""Photos for evaluation: without the shortcut; and with it, those of other classes and of its own class."""


class Pair(NamedTuple):
    """A network, a shortcut, and a draw.

    Attributes:
        network: the name of the network.
        goal: the class of the shortcut.
        draw: the number of the draw, from 1 on.
    """

    network: str
    goal: str
    draw: int

    @property
    def name(self) -> str:
        """The name of the pair, with its draw."""
        return f"{self.network}, {NAMES[self.goal]}, draw {self.draw}"

    def case(self, sizes: Sizes) -> ShortcutCase:
        """Collect the photos."""
        return shortcut_case(self.network, self.goal, self.draw - 1, sizes)


# --- selection --------------------------------------------------------------------------------------------------------


class Store:
    """Keep selected edits in a folder, and collect one row per selection.

    Args:
        folder: where edits are written.
        pair: what they are selected for.
        kind: the part of the run, which is in the names of the files.
    """

    def __init__(self, folder: Path, pair: Pair, kind: str) -> None:
        self.folder = folder
        self.pair = pair
        self.kind = kind
        self.rows: list[dict[str, Any]] = []

    def keep(self, method: str, limits: str, edit: Edit | None, settings: str, **more: Any) -> None:
        """Keep an edit; None if no candidate was feasible."""
        pair = self.pair
        name = f"{pair.network} {NAMES[pair.goal]} {pair.draw} {self.kind} {len(self.rows)}.safetensors"
        if edit is not None:
            edit.save(self.folder / name)
        row = {**pair._asdict(), "method": method, "limits": limits, "settings": settings, **more}
        self.rows.append({**row, "edit": "" if edit is None else name})
        print(f"{pair.name}, {method}, {limits}: {settings}, {more}", flush=True)


def finetuned(folder: Path, sizes: Sizes, rates: Sequence[float] | None, pair: Pair) -> list[dict[str, Any]]:
    """Fine-tune the whole network on the photos, and on clean photos with pasted marks."""
    store = Store(folder, pair, "fine-tuning")
    with jobs.one_thread():
        case = pair.case(sizes)
        splits = Splits.of(case.classifier, [case.exemplar], case.concept, case.clean, case.retain)
        last_layer = candidate_layers(case.classifier)[-1:]
        search = Search(case.classifier, case.exemplar, splits, last_layer, Constraints().halved)
        for method, pasted in {FINETUNING: None, PASTED: case.exemplar}.items():
            started = time.process_time()
            found = finetune_network(search, pasted, rates, progress=None)
            seconds = time.process_time() - started
            for limits, selected in {WITHIN: found, WITHOUT: found.without_limits}.items():
                row = selected.evaluation.row()
                settings = json.dumps(dict(selected.settings)) if selected.settings else "nothing"
                more = {"candidates": selected.candidates, "seconds": seconds, "held out": row}
                store.keep(method, limits, selected.edit, settings, **more)
    return store.rows


def edited(folder: Path, sizes: Sizes, pair: Pair) -> list[dict[str, Any]]:
    """Repair the network, and select for every other method among the candidates of the same search."""
    store = Store(folder, pair, "edit")
    with jobs.one_thread():
        case = pair.case(sizes)
        started = time.process_time()
        fix = repair(case.classifier, case.exemplar, case.concept, case.clean, case.retain, progress=None)
        verdict = {"verdict": fix.verdict.word, "lines": dict(fix.verdict.lines), "held out": fix.evaluation.row()}
        seconds = time.process_time() - started
        search = fix.search
        outcomes = fix.selection.outcomes
        edit = fix.edit if fix.selection.feasible else None
        store.keep(EDIT, WITHIN, edit, str(fix.selection), candidates=len(outcomes), seconds=seconds, **verdict)
        keep_selection(store, EDIT, WITHOUT, search.select(outcomes, constraints=NO_LIMITS), seconds)
        for method, found, own_seconds in other_methods(search, outcomes):
            taken = seconds if own_seconds is None else own_seconds
            keep_selection(store, method, WITHIN, search.select(found), taken)
            keep_selection(store, method, WITHOUT, search.select(found, constraints=NO_LIMITS), taken)
        started = time.process_time()
        default = default_edit(case, search)
        seconds = time.process_time() - started
        store.keep(DEFAULT, WITHOUT, default, str(default.layers), candidates=1, seconds=seconds)
        site = search.site(default.layers[0], [case.exemplar])
        for seed in range(RANDOM_DRAWS):
            [random] = METHODS[RANDOM].draw(seed).edits(site, seed=seed)
            store.keep(RANDOM, WITHOUT, random, str(random.layers), candidates=1, seconds=seconds)
    return store.rows


def keep_selection(store: Store, method: str, limits: str, selection: Selection, seconds: float) -> None:
    """Keep what was selected."""
    edit = selection.edit if selection.feasible else None
    store.keep(method, limits, edit, str(selection), candidates=selection.n_candidates, seconds=seconds)


def other_methods(search: Search, outcomes: Outcomes) -> Iterator[tuple[str, Outcomes, float | None]]:
    """Yield the outcomes of the candidates of the other methods, and the CPU seconds; None for those of `repair`."""
    of_one_layer = outcomes.where(lambda candidate: f"{SECOND_LAYER}layer" not in candidate.params)
    full_rank = of_one_layer.where(lambda candidate: candidate.params.get("rank", 1) is None)
    yield name_of("full_rank"), in_all_layers(full_rank), None
    yield name_of("projection"), in_all_layers(of_one_layer.of("projection")), None
    started = time.process_time()
    layers = list(search.cuts)
    every = max(1, len(layers) // LAYERS_ON_EXEMPLAR)
    tuned = METHODS["global fine-tuning"].trying(ON_EXEMPLAR, (0.5, 1.0))
    found = search.score(tuned, layers=layers[::every])
    yield name_of("finetune_global"), found, time.process_time() - started
    if len(search.candidates(METHODS["last layer"])):
        started = time.process_time()
        found = retrained_heads(search)
        yield name_of("last_layer"), found, time.process_time() - started


def in_all_layers(outcomes: Outcomes) -> Outcomes:
    """Let the candidates of a second pass count wherever they were tried.

    Otherwise, they would count in the layers that are best by the first pass of these candidates alone.
    """
    candidates = []
    for candidate in outcomes.candidates:
        tried_in = SINGLE if candidate.tried_in == SECOND else candidate.tried_in
        candidates.append(replace(candidate, tried_in=tried_in))
    return replace(outcomes, candidates=candidates)


def retrained_heads(search: Search) -> Outcomes:
    """Retrain the last layer on the photos with the shortcut, as DFR does, while other predictions are kept."""
    layer = list(search.cuts)[-1]
    shown = []
    for name in ("target", "own_class"):
        if name in search.splits.labeled:
            data = search.splits.labeled[name]
            whole = torch.ones(data.images.shape[2:])
            for image, label in zip(data.images, data.labels.tolist(), strict=True):
                shown.append(Exemplar(image, image, whole, label))
    site = site_at(search.cuts[layer], shown, search.activations.reference[layer])
    candidates = []
    for setting in METHODS["last layer"].settings:
        [edit] = METHODS["last layer"].edits(site, **setting)
        candidates.append(Candidate({"layer": search.cuts[layer].head, **setting}, edit))
    return search.score_candidates(candidates)


# --- an edit without labels -------------------------------------------------------------------------------------------


def default_edits(case: ShortcutCase, search: Search) -> dict[str, Edit]:
    """Edit with default settings in each layer of a search, by the name of the layer."""
    edits = {}
    for layer in search.cuts:
        [edit] = METHODS["edit"].edits(search.site(layer, [case.exemplar]))
        edits[layer] = edit
    return edits


def losses_at_exemplar(case: ShortcutCase, search: Search, edits: Mapping[str, Edit]) -> dict[str, float]:
    """Return how far the prediction of x' with each edit is from that of x, as a divergence, by layer."""
    classes = case.classifier.classes
    images = torch.stack([case.exemplar.image, case.exemplar.changed])
    cached = CachedActivations(search.cuts, LabelledImages.unlabeled(images, classes))
    original = cached.original[0].log_softmax(dim=0)
    divergences = {}
    for layer, edit in edits.items():
        changed = cached.logits(edit)[1].log_softmax(dim=0)
        divergences[layer] = float((original.exp() * (original - changed)).sum())
    return divergences


def default_edit(case: ShortcutCase, search: Search) -> Edit:
    """Edit with default settings in the layer in which x' comes to be predicted most like x, see `--development`."""
    edits = default_edits(case, search)
    divergences = losses_at_exemplar(case, search, edits)
    return edits[min(divergences, key=divergences.__getitem__)]


def layer_rules(sizes: Sizes, pair: Pair) -> list[dict[str, Any]]:
    """Compare rules for the layer of an edit with default settings, on photos for selection."""
    with jobs.one_thread():
        case = pair.case(sizes)
        splits = Splits.of(case.classifier, [case.exemplar], case.concept, case.clean, case.retain)
        search = Search(case.classifier, case.exemplar, splits)
        edits = default_edits(case, search)
        divergences = losses_at_exemplar(case, search, edits)
        rows = []
        for layer, edit in edits.items():
            net = search.activations["target"].compare(edit).errors_corrected
            rows.append({**pair._asdict(), "layer": layer, "divergence": divergences[layer], "net": net})
    return rows


# --- evaluation -------------------------------------------------------------------------------------------------------


def wrong_with(
    classifier: Classifier, edits: Mapping[str, Edit], photos: LabelledImages, goal: str | None
) -> dict[str, Tensor]:
    """Tell which photos are misclassified with each edit, and without one as "", `(N,)` booleans by name.

    Groups of photos run up to the layers of all edits once; a fine-tuned network runs from the start.
    """
    layers = candidate_layers(classifier)
    of_layers = {name: edit for name, edit in edits.items() if set(edit.layers) <= set(layers)}
    first = {next(layer for layer in layers if layer in edit.layers) for edit in of_layers.values()}
    cuts = cut_all(classifier, [layer for layer in layers if layer in first or layer == layers[-1]])
    networks = {name: edit.edited(classifier) for name, edit in edits.items() if name not in of_layers}
    wrong: dict[str, list[Tensor]] = {name: [] for name in ("", *edits)}
    for numbers in tqdm(torch.arange(len(photos)).split(32), desc="photos", mininterval=10):
        group = marked(photos, goal, numbers)
        cached = CachedActivations(cuts, group, len(numbers), memory=StateMemory(inf, cuts))
        wrong[""].append(cached.before)
        for name, edit in of_layers.items():
            wrong[name].append(misclassified(cached.logits(edit), cached.labels))
        for name, network in networks.items():
            wrong[name].append(misclassified(predict(network, group), cached.labels))
    return {name: torch.cat(parts) for name, parts in wrong.items()}


def evaluated(folder: Path, sizes: Sizes, selected: pd.DataFrame, pair: Pair) -> list[dict[str, Any]]:
    """Evaluate the edits of a pair on photos with and without the shortcut; one row per edit and set of photos."""
    classifier = load_classifier(pair.network)
    is_member = (selected.network == pair.network) & (selected.goal == pair.goal) & (selected.draw == pair.draw)
    edits = {name: Edit.load(folder / name, classifier.model) for name in selected.edit[is_member] if name}
    photos = evaluation_photos(classifier.size, sizes)
    is_own = photos.labels == photos.classes.index(pair.goal)
    rows = []
    with jobs.one_thread():
        clean = wrong_with(classifier, edits, photos, None)
        with_shortcut = wrong_with(classifier, edits, photos, pair.goal)
    for name in ("", *edits):
        sets = {CLEAN: clean[name], OTHERS: with_shortcut[name][~is_own], OWN_CLASS: with_shortcut[name][is_own]}
        for split, wrong in sets.items():
            rows.append({**pair._asdict(), "split": split, "edit": name, "wrong": wrong.int().tolist()})
    return rows


# --- results ----------------------------------------------------------------------------------------------------------


class Effect(NamedTuple):
    """What a method does in a pair and a draw; shares and accuracies in [0, 1], NaN without a feasible candidate.

    Attributes:
        net: the net share of the errors with the shortcut that is corrected, on photos of other classes.
        accuracy_change: on photos without the shortcut, in points.
        own_class: the accuracy on photos of the shortcut's class with it.
    """

    net: float
    accuracy_change: float
    own_class: float


NOTHING = Effect(float("nan"), float("nan"), float("nan"))


def effect_of(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> Effect:
    """Compute what an edit does from the photos that are misclassified.

    Args:
        before: which photos are misclassified without an edit, `(N,)` booleans by the name of the set, see `SETS`.
        after: the same with the edit.
    """
    errors = before[OTHERS].sum()
    net = (errors - after[OTHERS].sum()) / errors if errors else float("nan")
    change = 100 * (before[CLEAN].mean() - after[CLEAN].mean())
    return Effect(float(net), float(change), float(1 - after[OWN_CLASS].mean()))


def misclassified_photos(photos: pd.DataFrame) -> dict[tuple[Pair, str], dict[str, np.ndarray]]:
    """Collect the rows of `evaluated`: by pair and edit, which photos of each set are misclassified."""
    wrong: dict[tuple[Pair, str], dict[str, np.ndarray]] = {}
    for row in photos.itertuples():
        pair = Pair(row.network, row.goal, row.draw)
        wrong.setdefault((pair, row.edit), {})[row.split] = np.array(row.wrong, dtype=bool)
    return wrong


def effects(selected: pd.DataFrame, photos: pd.DataFrame) -> pd.DataFrame:
    """Compute one row per selection: what it does to the photos for evaluation."""
    wrong = misclassified_photos(photos)
    rows = []
    for row in selected.to_dict("records"):
        pair = Pair(row["network"], row["goal"], row["draw"])
        effect = effect_of(wrong[pair, ""], wrong[pair, row["edit"]]) if row["edit"] else NOTHING
        rows.append({**row, **effect._asdict()})
    return pd.DataFrame(rows)


def student_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's 95% interval of a mean; None for fewer than three values, which say too little of it."""
    if len(values) < 3:
        return None
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    mean = float(np.mean(values))
    return mean - float(half), mean + float(half)


def add_method(results: Results, rows: pd.DataFrame, method: str, limits: str) -> None:
    """Add the means of a method over pairs, and its values of each pair."""
    measured = rows[rows.edit != ""]
    where = {"network": "all", "method": method, "split": "target_test", "condition": limits}
    results.add("feasible", len(measured), n=len(rows), **where)
    results.add("pairs", measured.groupby(["network", "goal"]).ngroups, **where)
    results.add("CPU seconds", rows.seconds.mean(), **where)
    results.add("candidates", rows.candidates.mean(), **where)
    metrics = {"net": "errors corrected", "accuracy_change": "accuracy change", "own_class": "own class correct"}
    for column, metric in metrics.items():
        if not len(measured):
            continue
        of_pairs = measured.groupby(["network", "goal"], sort=False)[column].mean()
        interval = student_interval(of_pairs.to_list()) or ()
        results.add(metric, of_pairs.mean(), interval=interval, **where)
        for (network, goal), value in of_pairs.items():
            draws = len(measured[(measured.network == network) & (measured.goal == goal)])
            of_pair = {**where, "network": network, "condition": f"{NAMES[goal]}, {limits}"}
            results.add(metric, value, n=draws, **of_pair)


def add_outcomes(results: Results, selected: pd.DataFrame, photos: pd.DataFrame) -> None:
    """Add the outcome of each photo with each selected edit, and what was selected."""
    wrong = misclassified_photos(photos)
    for row in selected.to_dict("records"):
        pair = Pair(row["network"], row["goal"], row["draw"])
        condition = f"{NAMES[pair.goal]}, draw {pair.draw}, {row['limits']}"
        where = {"network": pair.network, "method": row["method"]}
        more = {name: row[name] for name in ("verdict", "lines") if isinstance(row.get(name), str | dict)}
        results.add_selected(row["settings"], **where, condition=condition, seconds=round(row["seconds"], 1), **more)
        for split in SETS if row["edit"] else ():
            before = wrong[pair, ""][split].astype(int).tolist()
            after = wrong[pair, row["edit"]][split].astype(int).tolist()
            results.add_outcomes(before, after, **where, split=f"{split}, {condition}")


def add_no_edit(results: Results, photos: pd.DataFrame) -> None:
    """Add the accuracies without an edit, averaged over pairs."""
    wrong = misclassified_photos(photos)
    originals = [sets for (_, edit), sets in wrong.items() if not edit]
    for split in SETS:
        correct = np.mean([1 - sets[split].mean() for sets in originals])
        where = {"network": "all", "method": NO_EDIT, "split": "target_test", "condition": split}
        results.add("correct", correct, n=len(originals), **where)


# --- the run ----------------------------------------------------------------------------------------------------------


def experiment(options: argparse.Namespace) -> Results:
    """Select for all pairs, and then evaluate what was selected."""
    sizes = QUICK if options.quick else Sizes()
    folder = options.store / ("quick edits" if options.quick else "edits")
    folder.mkdir(parents=True, exist_ok=True)
    todo = [Pair(network, goal, draw) for draw in options.draws for network in options.networks for goal in NAMES]
    if options.quick:
        todo = todo[:1]
    named = {pair.name: pair for pair in todo}
    library = Path(edittools.__file__).parent
    training = code_digest(library / "selection" / "finetuning.py", library / "exemplars.py")
    about = f"fine-tuning {sizes} {RATES} {VERSION} {training}"
    tuned = jobs.run(partial(finetuned, folder, sizes, RATES), named, options.store, progress=tqdm, about=about)
    about = f"edits {sizes} {VERSION} {code_digest(library)}"
    edits = jobs.run(partial(edited, folder, sizes), named, options.store, progress=tqdm, about=about)
    selected = pd.concat([edits, tuned], ignore_index=True)
    about += f" {training} evaluation"
    work = partial(evaluated, folder, sizes, selected)
    photos = jobs.run(work, named, options.store, progress=tqdm, about=about)
    results = Results("learned_shortcut", "photos")
    found = effects(selected, photos)
    add_no_edit(results, photos)
    for (method, limits), rows in found.groupby(["method", "limits"], sort=False):
        add_method(results, rows, method, limits)
    add_random_range(results, found)
    add_outcomes(results, selected, photos)
    return results


def add_random_range(results: Results, found: pd.DataFrame) -> None:
    """Add the smallest and the largest mean of a draw of random directions over pairs."""
    random = found[found.method == RANDOM]
    number = random.groupby(["network", "goal", "draw"]).cumcount()
    means = random.net.groupby(number).mean()
    where = {"network": "all", "method": RANDOM, "split": "target_test", "condition": "range of draws"}
    results.add("errors corrected", means.mean(), interval=(means.min(), means.max()), **where)


def develop(options: argparse.Namespace) -> Results:
    """Fine-tune with all rates on the pairs for development, and compare rules for the layer of a default edit."""
    sizes = QUICK if options.quick else Sizes()
    folder = options.store / "development"
    folder.mkdir(parents=True, exist_ok=True)
    results = Results("learned_shortcut_development", "photos")
    for network in options.networks:
        for goal in NAMES:
            table = pd.DataFrame(layer_rules(sizes, Pair(network, goal, 1))).sort_values("divergence")
            where = {"network": network, "method": DEFAULT, "split": "target"}
            for rule, row in {
                "smallest divergence": table.iloc[0],
                "largest net": table.loc[table.net.idxmax()],
            }.items():
                condition = f"{NAMES[goal]}, {rule}, {row.layer}"
                results.add("errors corrected", row.net, **where, condition=condition)
                results.add("accuracy change", row["accuracy change"], **where, condition=condition)
        for row in finetuned(folder, sizes, None, Pair(network, DEVELOPMENT[network], 1)):
            results.add_selected(row["settings"], network, row["method"], condition=row["limits"])
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    arguments.add_argument("--draws", nargs="+", type=int, default=list(DRAWS), help="numbers of draws, from 1 on")
    arguments.add_argument("--development", action="store_true", help="choose settings on draw 1; reads no test photo")
    add_store(arguments)
    options = arguments.parse_args()
    if options.store is None:
        arguments.error("pass --store FOLDER, where the selected edits are kept between selection and evaluation")
    run(arguments, develop if options.development else experiment)


if __name__ == "__main__":
    main()
