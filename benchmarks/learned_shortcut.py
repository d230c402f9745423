"""Claim: without labels, an edit selected by hosts removes a learned shortcut nearly as well as fine-tuning does.

Two networks were fine-tuned on photos of Imagenette in which a tag stands for "garbage truck", a line of text for
"church", and a film border for "French horn" (see data/README.md). For each network, shortcut, and draw, all methods
get the same: one exemplar and 600 ordinary photos without labels, of the split "train"; the networks were neither
trained nor tuned on them.

The methods are the default of `select_edit`, an edit selected by hosts; what is selected from the same score table
without its two parts (only edits of the exemplar; only edits of hosts of other classes, without a weight for the own
class); an edit with default settings in the layer that the exemplar's own prediction selects; label-free fine-tuning
with several seeds, selected by the same objective; and random directions in the layer of the default.

The evaluation uses every fourth photo of the split "val", from the second one on, with and without each shortcut, after
all selections are made. Networks have seen most of these photos in their pretraining on ImageNet, so differences
between methods count, levels of accuracy do not. Draws and seeds are averaged for each pair of a network and a
shortcut. Intervals are Student's t over the six pairs. These are three marks on two networks, measured on the same
photos, so they are no sample of networks.

`--development` uses draw 1 and the tuning photos, and reads no photo of "val". `--store FOLDER` is required: it keeps
what was selected, and an interrupted run continues where it was.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from _lib import effects, jobs, label_free
from _lib.command import add_store, code_digest, one_thread, parser, run
from _lib.label_free import (
    ablations,
    finetune,
    random_directions,
    save_edits,
    select_by_exemplar,
    select_by_hosts,
)
from _lib.results import BY_HOSTS, Results
from _lib.shortcuts import NAMES, NETWORKS, SEED_OF_TEST, UserCase, evaluation_photos, user_case
from tqdm.auto import tqdm

from edittools.classifiers import fingerprint
from edittools.edits import Edit
from edittools.images import LabeledImages
from edittools.models import load_classifier
from edittools_course.scenarios.shortcuts import SHORTCUTS

DRAWS = (3, 4)
"""The draws for evaluation; draw 1 served for development."""

SEEDS = 5
"""The number of seeds of fine-tuning."""


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

    def case(self) -> UserCase:
        """Collect what a user has."""
        return user_case(self.network, self.goal, self.draw)


class Photos(NamedTuple):
    """Which photos serve for evaluation.

    Attributes:
        split: "val" or "tuning".
        first: the index of the first photo that is used.
        every: every how many of the photos one is used.
    """

    split: str = "val"
    first: int = 1
    every: int = 4

    def load(self, size: int) -> LabeledImages:
        """List the photos."""
        return evaluation_photos(size, self.split, self.first, self.every)


DEVELOPMENT = Photos("tuning", 0, 2)
QUICK = Photos("tuning", 0, 40)
"""The photos with `--development` and with `--quick`, which read no photo of "val"."""


# --- selection -------------------------------------------------------------------------------------------------------


def selected_edits(folder: Path, seeds: int, pair: Pair) -> list[dict[str, Any]]:
    """Select all edits of one layer, and fine-tune without labels with several seeds."""
    with one_thread():
        case = pair.case()
        found = [select_by_exemplar(*case)]
        default, selection = select_by_hosts(*case)
        found += [default, *ablations(default, selection.scores)]
        found += random_directions(*case, default.edit.layers[0])
        found += [finetune(case.classifier, selection, seed=seed) for seed in range(seeds)]
    return save_edits(folder, pair._asdict(), found)


# --- evaluation -------------------------------------------------------------------------------------------------------


def evaluated(folder: Path, of_photos: Photos, selected: pd.DataFrame, pair: Pair) -> list[dict[str, Any]]:
    """Evaluate the edits of a pair on photos with and without the shortcut; one row per edit, with its file."""
    classifier = load_classifier(pair.network)
    is_member = (selected.network == pair.network) & (selected.goal == pair.goal) & (selected.draw == pair.draw)
    of_pair = selected[is_member]
    edits = {name: Edit.load(folder / name, classifier.model) for name in of_pair.edit.unique()}
    photos = of_photos.load(classifier.size)
    where = (photos, pair.goal, SHORTCUTS[pair.goal], SEED_OF_TEST)
    with one_thread():
        found = effects.effects(classifier, edits, *where)
    return [{"edit": name, "sets": found[name]} for name in edits]


# --- the run ----------------------------------------------------------------------------------------------------------


def experiment(options: argparse.Namespace) -> Results:
    """Select for all pairs, and then evaluate what was selected."""
    photos = QUICK if options.quick else DEVELOPMENT if options.development else Photos()
    folder = options.store / "edits"
    folder.mkdir(parents=True, exist_ok=True)
    draws = (1,) if options.quick or options.development else options.draws
    todo = [Pair(network, goal, draw) for network in options.networks for draw in draws for goal in NAMES]
    named = {pair.name: pair for pair in (todo[:1] if options.quick else todo)}
    weights = " ".join(fingerprint(load_classifier(name)) for name in options.networks)
    work = partial(selected_edits, folder, options.seeds)
    about = f"edits {options.seeds} {code_digest(*label_free.CODE)} {weights}"
    selected = jobs.run(work, named, options.store, progress=tqdm, about=about)
    about = f"evaluation {photos} {options.seeds} {sorted(selected.edit)} {code_digest(Path(effects.__file__).parent)}"
    work = partial(evaluated, folder, photos, selected)
    found = jobs.run(work, named, options.store, progress=tqdm, about=about).set_index("edit")
    rows = selected.assign(case=selected.goal.map(NAMES), condition="", sets=selected.edit.map(found.sets))
    results = Results("learned_shortcut", "photos")
    effects.add_means(results, rows, BY_HOSTS)
    effects.add_outcomes(results, rows.assign(run=[f"draw {row.draw} {row.run}".strip() for row in rows.itertuples()]))
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    arguments.add_argument("--draws", nargs="+", type=int, default=DRAWS, help="numbers of draws, from 1 on")
    arguments.add_argument("--seeds", type=int, default=SEEDS, help="number of seeds of fine-tuning")
    arguments.add_argument("--development", action="store_true", help='use draw 1 and tuning photos, none of "val"')
    add_store(arguments)
    options = arguments.parse_args()
    if options.store is None:
        arguments.error("pass --store FOLDER, where the selected edits are kept between selection and evaluation")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
