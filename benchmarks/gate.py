"""Gate: selecting an edit by hosts becomes the default only if it passes on networks and marks that it never saw.

Two networks are trained for this, with other marks than the published ones, on other classes, and with another seed: a
round stamp stands for "English springer", a translucent ribbon across a corner for "cassette player", and a plain patch
for "chain saw". Exemplars are simulated: only the photo with the mark is there, so x is inpainted where the mark and
5% of its size around it was, and the mask is grown, shrunk, or shifted by 5%; each of these kinds serves for one mark
of each network. At test, the size of the mark varies by 20%, its tilt by 15°, and its brightness by 15%; in
training and in the exemplar, they do not vary. The photos for evaluation are the tuning photos of the split "train"; no
photo of "val" is read.

The criterion, which entered the history together with the result. Let the net share of errors corrected be measured on
photos of the other classes with the mark, and the own class be the photos of the mark's class. Over the six pairs of a
network and a mark, hosts become the default if

1. their mean net share is at most 5 points below that of label-free fine-tuning (same images, same objective);
2. their mean net share is above that of the edit selected by the exemplar (paired; the interval is given);
3. with the edit and the mark, the mean accuracy on the own class is at most 3 points below its accuracy without the
   mark and without an edit.

With `--exact`, an exact exemplar, with the true x and the true mask, is measured as well, as a reference that does not
count.

`--store FOLDER` is required: it keeps the networks, which are trained once, and what was selected. An interrupted run
continues where it was.
"""

import argparse
import sys
from dataclasses import asdict, replace
from functools import cache, partial
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from _lib import effects, jobs, label_free
from _lib.command import ROOT, add_store, code_digest, one_thread, parser, run
from _lib.effects import CORRECT, CORRECTED, OWN_CLASS, OWN_CLEAN, TARGET
from _lib.find_and_fill import grown, inpainted
from _lib.gate_marks import GATE_MARKS, GATE_NAMES
from _lib.label_free import finetune, save_edits, select_by_exemplar, select_by_hosts
from _lib.results import BY_EXEMPLAR, BY_HOSTS, LABEL_FREE, Results
from torch import Tensor
from tqdm.auto import tqdm

from edittools.classifiers import Classifier, fingerprint
from edittools.exemplars import Exemplar
from edittools.images import LabeledImages
from edittools.metrics import predict, predicted_classes
from edittools_course.networks.finetuned import load_shortcut_network
from edittools_course.scenarios.imagenette import in_memory, training_roles

sys.path.insert(0, str(ROOT / "data"))  # the script that trained the published networks is no package
import train_shortcuts

NETWORKS = {"gate_squeezenet": "squeezenet1_1", "gate_lite0": "efficientnet_lite0"}
"""The architecture of each network of the gate."""

EPOCHS = {"gate_squeezenet": 10, "gate_lite0": 3}
"""The number of passes over the training photos; the published network like the second one had six."""

SEED = 7
"""The seed of their training; that of the published networks is 0."""

EXACT = "exact"
"""An exemplar with the true x and the true mask, the reference."""

KINDS = {
    "gate_squeezenet": {"English springer": "grown", "cassette player": "shrunk", "chain saw": "shifted"},
    "gate_lite0": {"English springer": "shifted", "cassette player": "grown", "chain saw": "shrunk"},
}
"""How the exemplar of each mark is made, by network."""

BY_USERS = "as users make them"
"""The condition of all exemplars that are not exact."""

SLOPPINESS = 0.05
"""By how much a mask is grown, shrunk, or shifted, as a share of the longer side of the mark."""

ORDINARY = 60
"""The number of ordinary images of each class, whose labels are not used."""

CANDIDATES = 100
"""The number of photos of other classes among which an exemplar is looked for."""

SEED_OF_EXEMPLAR = 7_000_000
SEED_OF_TEST = 8_000_000
"""The first seeds of what is drawn for exemplars and on the photos for evaluation."""

RATES = (1e-4,)
"""The learning rate of fine-tuning: the middle one of its three, which development selected for learned shortcuts."""

EVERY = 2
"""Every how many of the tuning photos one is used; of the mark's class, all are."""

LARGEST_GAP = 0.05
LARGEST_OWN_DROP = 0.03
"""The limits of the criterion."""


class Pair(NamedTuple):
    """A network, a mark, and a kind of exemplar.

    Attributes:
        network: the name of the network.
        goal: the class of the mark.
        kind: how the exemplar is made.
    """

    network: str
    goal: str
    kind: str

    @property
    def name(self) -> str:
        """The name of the pair, with its kind of exemplar."""
        return f"{self.network}, {GATE_NAMES[self.goal]}, {self.kind}"


# --- the networks -----------------------------------------------------------------------------------------------------


def trained(folder: Path, network: str, epochs: int | None) -> Path:
    """Train a network of the gate on photos with the marks, unless its file is there, and return its file."""
    path = folder / f"{network}.safetensors"
    if not path.exists():
        architecture = NETWORKS[network]
        recipe = replace(train_shortcuts.RECIPES[architecture], seed=SEED, epochs=epochs or EPOCHS[network])
        photos = training_roles()["training"]
        photos = replace(photos, images=train_shortcuts.in_memory(photos))
        model, source = train_shortcuts.pretrained(architecture)
        train_shortcuts.finetune(model, source, photos, GATE_MARKS, recipe)
        about = {"recipe": asdict(recipe), "shortcuts": {name: repr(mark) for name, mark in GATE_MARKS.items()}}
        train_shortcuts.write(model, source, architecture, about, path)
    return path


# --- what a user has --------------------------------------------------------------------------------------------------


@cache
def photos_of_user(size: int) -> tuple[Tensor, LabeledImages]:
    """Return ordinary images of all classes, and other photos for exemplars; the networks were trained on none."""
    left = training_roles(size)["left"]
    ordinary, rest = [], []
    for label in range(len(left.classes)):
        members = (left.labels == label).nonzero()[:, 0]
        ordinary.append(members[:ORDINARY])
        rest.append(members[ORDINARY:])
    return in_memory(left.subset(torch.cat(ordinary))).images, left.subset(torch.cat(rest))


def exemplars_of(classifier: Classifier, goal: str) -> dict[str, Exemplar]:
    """Make exemplars of one photo of another class, by kind.

    The photo is the first one that is classified correctly without the mark, as the mark's class with it, and as
    another class if inpainted: whether x is predicted otherwise than x' is what the guide has users check.

    Raises:
        ValueError: if there is no such photo.
    """
    _, photos = photos_of_user(classifier.size)
    goal_index = classifier.index(goal)
    others = photos.subset(photos.labels != photos.classes.index(goal))
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(goal_index))[:CANDIDATES]
    pool = in_memory(others.subset(order))
    changed, masks = GATE_MARKS[goal].draw(pool.images, SEED_OF_EXEMPLAR)
    is_correct = predicted_classes(predict(classifier, pool)) == pool.labels
    is_misled = predicted_classes(predict(classifier, changed)) == goal_index
    for number in (is_correct & is_misled).nonzero()[:, 0].tolist():
        sloppy = sloppy_masks(masks[number])
        filled = inpainted(changed[number], sloppy["grown"])
        if predicted_classes(predict(classifier, filled[None])).item() == goal_index:
            continue
        exact = Exemplar(pool.images[number], changed[number], masks[number])
        return {EXACT: exact, **{kind: Exemplar(filled, changed[number], mask) for kind, mask in sloppy.items()}}
    raise ValueError(f"none of {CANDIDATES} photos is misled by the {GATE_NAMES[goal]}; train the network again")


def sloppy_masks(mask: Tensor) -> dict[str, Tensor]:
    """Grow, shrink, and shift a mask `(H, W)`, as if it were drawn by hand."""
    rows = mask.any(dim=1).nonzero()[:, 0]
    columns = mask.any(dim=0).nonzero()[:, 0]
    longer = max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1
    pixels = ceil(SLOPPINESS * longer)
    shifted = torch.zeros_like(mask)
    shifted[:, :-pixels] = mask[:, pixels:]
    return {"grown": grown(mask, pixels), "shrunk": 1 - grown(1 - mask, pixels), "shifted": shifted}


# --- selection and evaluation -----------------------------------------------------------------------------------------


def measured(folder: Path, every: int, pair: Pair) -> list[dict[str, Any]]:
    """Select an edit by the exemplar and by hosts, fine-tune without labels, and evaluate the three; one row each."""
    with one_thread():
        classifier = load_shortcut_network(folder / f"{pair.network}.safetensors")
        exemplar = exemplars_of(classifier, pair.goal)[pair.kind]
        images, _ = photos_of_user(classifier.size)
        found = [select_by_exemplar(classifier, exemplar, images)]
        by_hosts, selection = select_by_hosts(classifier, exemplar, images)
        found += [by_hosts, finetune(classifier, selection, RATES)]
        rows = save_edits(folder, pair._asdict(), found)
        photos = training_roles(classifier.size)["tuning"]
        numbers = torch.arange(len(photos))
        counts = numbers % every == 0
        is_used = counts | (photos.labels == photos.classes.index(pair.goal))
        mark = GATE_MARKS[pair.goal].varied()
        edits = {row["edit"]: one.edit for row, one in zip(rows, found, strict=True)}
        done = effects.effects(classifier, edits, photos, pair.goal, mark, SEED_OF_TEST, numbers[is_used], counts)
    return [{**row, "sets": done[row["edit"]]} for row in rows]


# --- the run ----------------------------------------------------------------------------------------------------------


def rates(folder: Path, networks: list[str]) -> pd.DataFrame:
    """Measure how often each mark misleads, in percent of the tuning photos of other classes, and the accuracy."""
    photos = training_roles()["tuning"]
    photos = replace(photos, images=train_shortcuts.in_memory(photos).float() / 255)
    rows = []
    for network in networks:
        classifier = load_shortcut_network(folder / f"{network}.safetensors")
        same = train_shortcuts.measure(classifier, photos, GATE_MARKS)
        varied = train_shortcuts.measure(classifier, photos, {goal: mark.varied() for goal, mark in GATE_MARKS.items()})
        for goal in GATE_MARKS:
            rates = {"as in training": same["rate"][goal], "varied": varied["rate"][goal]}
            without = same["rate_without"][goal]
            rows.append({"network": network, "goal": goal, "accuracy": same["accuracy"], **rates, "without": without})
    return pd.DataFrame(rows)


def experiment(options: argparse.Namespace) -> Results:
    """Train both networks, select for all pairs, evaluate, and decide."""
    folder = options.store / ("quick" if options.quick else "gate")
    folder.mkdir(parents=True, exist_ok=True)
    code = code_digest(*label_free.CODE, Path(effects.__file__))
    tables = []
    for network in options.networks:
        path = trained(folder, network, 1 if options.quick else None)
        pairs = [Pair(network, goal, kind) for goal, kind in KINDS[network].items() if goal in options.goals]
        if options.exact:
            pairs += [Pair(network, goal, EXACT) for goal in options.goals]
        named = {pair.name: pair for pair in (pairs[:1] if options.quick else pairs)}
        about = f"gate {fingerprint(load_shortcut_network(path))} {code}"
        work = partial(measured, folder, 20 if options.quick else EVERY)
        tables.append(jobs.run(work, named, options.store, progress=tqdm, about=about))
    rows = pd.concat(tables, ignore_index=True)
    condition = rows.kind.where(rows.kind == EXACT, BY_USERS)
    rows = rows.assign(case=rows.goal.map(GATE_NAMES), condition=condition, run=rows.kind)
    seconds = round(float(rows.seconds.sum()), 1)  # the CPU time of all selections, since parts may come from a store
    results = Results("gate", "photos", seconds=seconds)
    effects.add_means(results, rows, BY_HOSTS)
    effects.add_outcomes(results, rows)
    decide(results, rows[rows.condition == BY_USERS])
    return results


def decide(results: Results, rows: pd.DataFrame) -> None:
    """Compare with the criterion, and note the result."""
    values = effects.means_by_case(rows)
    without = effects.means_by_case(rows, effects.metrics_without_edit).loc[BY_HOSTS]
    net = {method: values.loc[method][TARGET, CORRECTED] for method in (BY_HOSTS, LABEL_FREE, BY_EXEMPLAR)}
    own = values.loc[BY_HOSTS][OWN_CLASS, CORRECT]
    figures = {
        "minus label-free fine-tuning": float((net[BY_HOSTS] - net[LABEL_FREE]).mean()),
        "minus edit selected by the exemplar": float((net[BY_HOSTS] - net[BY_EXEMPLAR]).mean()),
        "own class with the edit and the mark, minus without": float((own - without[OWN_CLEAN, CORRECT]).mean()),
    }
    gap, gain, drop = figures.values()
    passed = [gap >= -LARGEST_GAP, gain > 0, drop >= -LARGEST_OWN_DROP]
    for (name, value), is_met in zip(figures.items(), passed, strict=True):
        results.add("criterion", value, network="all", method=BY_HOSTS, condition=f"{name}")
        print(f"{name}: {value:+.3f}, {'met' if is_met else 'not met'}")
    results.notes["gate"] = "passed" if all(passed) else "failed"
    print(f"the gate: {results.notes['gate']}\n")


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    arguments.add_argument("--goals", nargs="+", default=list(GATE_MARKS), choices=GATE_MARKS, help="classes of marks")
    arguments.add_argument("--exact", action="store_true", help="measure an exact exemplar of each mark as well")
    arguments.add_argument("--rates", action="store_true", help="only train, and measure how often the marks mislead")
    add_store(arguments)
    options = arguments.parse_args()
    if options.store is None:
        arguments.error("pass --store FOLDER, where the trained networks and the selected edits are kept")
    if options.rates:
        folder = options.store / "gate"
        folder.mkdir(parents=True, exist_ok=True)
        for network in options.networks:
            trained(folder, network, None)
        print(rates(folder, options.networks).to_string(index=False))
        return
    run(arguments, experiment)


if __name__ == "__main__":
    main()
