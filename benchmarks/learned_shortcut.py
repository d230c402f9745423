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

With `--labels 24` or `--labels 100`, only so many photos, those with the shortcut, have labels; the network's own
predictions serve as labels of the clean and the retained photos. The hypothesis, written down before these runs: an
edit wins such a budget if it corrects at most 5 points less than the best rival, and costs at least 0.5 points of
accuracy less than this rival, in three quarters of the pairs. If it wins none, what speaks for an edit is its time, its
size, and that it can be undone.

The evaluation uses every fourth photo of the split "val", with and without each shortcut, after all selections are
made. Networks have seen most of these photos in their pretraining on ImageNet, so differences between methods count,
levels of accuracy do not. Draws are averaged for each pair of a network and a shortcut. The interval is Student's t
over these pairs, so it holds for these marks and networks.

`--store FOLDER` is required: it keeps what was selected, and an interrupted run continues where it was.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from _lib import contest
from _lib.command import add_store, code_digest, parser, run
from _lib.contest import CLEAN, OWN_CLASS, TARGET, add_contest, wrong_with
from _lib.methods import (
    RATES,
    Entry,
    default_edits,
    finetuned_without_labels,
    losses_at_exemplar,
    select_edits,
    select_finetuned,
)
from _lib.results import DEFAULT, Results
from _lib.shortcuts import (
    FEW_LABELS,
    NAMES,
    NETWORKS,
    QUICK,
    ShortcutCase,
    Sizes,
    evaluation_photos,
    marked,
    shortcut_case,
)
from tqdm.auto import tqdm

import edittools
from edittools.classifiers import fingerprint
from edittools.edits import Edit
from edittools.models import load_classifier
from edittools.probing import jobs
from edittools.selection import Search, Splits, repair

DRAWS = {"shortcuts_squeezenet": (3, 4), "shortcuts_lite0": (3,)}
"""The draws for evaluation: photos of "val" were read with edits of draws 1 and 2 before."""

DEVELOPMENT = {"shortcuts_squeezenet": "garbage truck", "shortcuts_lite0": "church"}
"""The pairs of a network and a shortcut with which fine-tuning was developed, in draw 1."""

VERSION = 3
"""To be raised when the photos change, so that no row of former ones is taken from a store."""


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


# --- selection -------------------------------------------------------------------------------------------------------


def finetuned(folder: Path, sizes: Sizes, rates: Sequence[float] | None, pair: Pair) -> list[dict[str, Any]]:
    """Fine-tune the whole network on the photos, and on clean photos with pasted marks."""
    with jobs.one_thread():
        case = pair.case(sizes)
        splits = Splits.of(case.classifier, [case.exemplar], case.concept, case.clean, case.retain)
        selected = select_finetuned(case.classifier, case.exemplar, splits, rates, is_pasted=True)
    return save_edits(folder, pair, selected)


def without_labels(folder: Path, sizes: Sizes, pair: Pair) -> list[dict[str, Any]]:
    """Fine-tune the whole network on clean photos with pasted marks, labeled with the network's own predictions."""
    with jobs.one_thread():
        case = pair.case(sizes._replace(are_labeled=False))
        splits = Splits.of(case.classifier, [case.exemplar], case.concept, case.clean, case.retain)
        selected = [finetuned_without_labels(case.classifier, case.exemplar, splits)]
    return save_edits(folder, pair, selected)


def edited(folder: Path, sizes: Sizes, pair: Pair) -> list[dict[str, Any]]:
    """Repair the network, and select for every other method among the candidates of the same search."""
    with jobs.one_thread():
        case = pair.case(sizes)
        started = time.process_time()
        fix = repair(case.classifier, case.exemplar, case.concept, case.clean, case.retain, progress=None)
        said = {"verdict": fix.verdict.word, "lines": dict(fix.verdict.lines), "held out": fix.evaluation.row()}
        seconds = time.process_time() - started
        [of_repair, *others] = select_edits(fix.search, case.exemplar, fix.selection, seconds)
        selected = [replace(of_repair, more=said), *others]
    return save_edits(folder, pair, selected)


def save_edits(folder: Path, pair: Pair, selected: Sequence[Entry]) -> list[dict[str, Any]]:
    """Write what was selected to a folder, and return one row per selection, with the name of its file.

    A file is named by the digest of its edit, so that no run replaces the edits of another one.
    """
    rows = []
    for one in selected:
        name = ""
        if one.edit is not None:
            name = f"{one.edit.digest}.safetensors"
            one.edit.save(folder / name)
        rows.append({**pair._asdict(), **one.row(), "edit": name})
        print(f"{pair.name}: {one.row()}", flush=True)
    return rows


def layer_rules(sizes: Sizes, pair: Pair) -> list[dict[str, Any]]:
    """Compare rules for the layer of an edit with default settings, on photos for selection."""
    with jobs.one_thread():
        case = pair.case(sizes)
        splits = Splits.of(case.classifier, [case.exemplar], case.concept, case.clean, case.retain)
        search = Search(case.classifier, case.exemplar, splits)
        edits = default_edits(search, case.exemplar)
        divergences = losses_at_exemplar(search, case.exemplar, edits)
        rows = []
        for layer, edit in edits.items():
            net = search.activations["target"].compare(edit).errors_corrected
            change = search.activations["clean"].compare(edit).accuracy_change
            figures = {"divergence": divergences[layer], "net": net, "accuracy change": change}
            rows.append({**pair._asdict(), "layer": layer, **figures})
    return rows


# --- evaluation -------------------------------------------------------------------------------------------------------


def evaluated(folder: Path, sizes: Sizes, selected: pd.DataFrame, pair: Pair) -> list[dict[str, Any]]:
    """Evaluate the edits of a pair on photos with and without the shortcut; one row per edit, with its file."""
    classifier = load_classifier(pair.network)
    is_member = (selected.network == pair.network) & (selected.goal == pair.goal) & (selected.draw == pair.draw)
    edits = {name: Edit.load(folder / name, classifier.model) for name in selected.edit[is_member] if name}
    photos = evaluation_photos(classifier.size, sizes)
    groups = torch.arange(len(photos)).split(32)
    is_own = photos.labels == photos.classes.index(pair.goal)
    with jobs.one_thread():
        clean = wrong_with(classifier, edits, (marked(photos, None, numbers) for numbers in groups), "photos")
        with_shortcut = wrong_with(
            classifier, edits, (marked(photos, pair.goal, numbers) for numbers in groups), "photos with the shortcut"
        )
    rows = []
    for name in edits:
        wrong = {
            TARGET: [with_shortcut[one][~is_own] for one in ("", name)],
            CLEAN: [clean[one] for one in ("", name)],
            OWN_CLASS: [with_shortcut[one][is_own] for one in ("", name)],
        }
        sets = {split: [one.int().tolist() for one in pair_of_sets] for split, pair_of_sets in wrong.items()}
        rows.append({"edit": name, "sets": sets})
    return rows


# --- the run ----------------------------------------------------------------------------------------------------------


def experiment(options: argparse.Namespace) -> Results:
    """Select for all pairs, and then evaluate what was selected."""
    sizes = QUICK if options.quick else FEW_LABELS.get(options.labels, Sizes())
    folder = options.store / ("quick edits" if options.quick else f"edits {options.labels or ''}".strip())
    folder.mkdir(parents=True, exist_ok=True)
    todo = []
    for network in options.networks:
        for draw in options.draws or DRAWS[network]:
            todo += [Pair(network, goal, draw) for goal in NAMES]
    if options.quick:
        todo = todo[:1]
    named = {pair.name: pair for pair in todo}
    library = Path(edittools.__file__).parent
    training = code_digest(library / "selection" / "finetuning.py", library / "exemplars.py")
    weights = " ".join(fingerprint(load_classifier(name)) for name in options.networks)
    about = f"fine-tuning {sizes} {RATES} {VERSION} {training} {weights}"
    tuned = jobs.run(partial(finetuned, folder, sizes, RATES), named, options.store, progress=tqdm, about=about)
    about = f"no labels {sizes} {RATES} {VERSION} {training} {weights}"
    work = partial(without_labels, folder, sizes)
    unlabeled = jobs.run(work, named, options.store, progress=tqdm, about=about)
    about = f"edits {sizes} {VERSION} {code_digest(library, Path(contest.__file__).parent)} {weights}"
    edits = jobs.run(partial(edited, folder, sizes), named, options.store, progress=tqdm, about=about)
    selected = pd.concat([edits, tuned, unlabeled], ignore_index=True)
    about += f" {RATES} {training} evaluation"
    work = partial(evaluated, folder, sizes, selected)
    photos = jobs.run(work, named, options.store, progress=tqdm, about=about)
    sets = dict(zip(photos.edit, photos.sets, strict=True))
    rows = selected.assign(case=selected.goal.map(NAMES), sets=[sets[name] if name else {} for name in selected.edit])
    results = Results("learned_shortcut", "photos")
    add_contest(results, rows)
    return results


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
    arguments.add_argument("--draws", nargs="+", type=int, help="numbers of draws, from 1 on")
    arguments.add_argument(
        "--labels",
        type=int,
        choices=tuple(FEW_LABELS),
        help="only so many photos have labels, those with the shortcut",
    )
    arguments.add_argument("--development", action="store_true", help="choose settings on draw 1; reads no test photo")
    add_store(arguments)
    options = arguments.parse_args()
    if options.store is None:
        arguments.error("pass --store FOLDER, where the selected edits are kept between selection and evaluation")
    run(arguments, develop if options.development else experiment)


if __name__ == "__main__":
    main()
