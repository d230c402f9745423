"""Claim: on a shortcut that nobody planted, an edit is not worse than label-free fine-tuning.

In ISIC-2017, colored stickers are on 148 photos of benign lesions and on 2 of melanomas, mostly of children. A network
that was trained on these photos may learn that a lesion next to a sticker is benign. The shortcut was not planted, but
the test photos were composed: a sticker of one photo is pasted on a melanoma of another. No real melanoma was shown to
be missed because of a sticker, and nothing follows about diagnosis, safety, or fairness.

The networks are trained on two of three folds of the annotated photos of the challenge's training part, and evaluated
on the third: its melanomas, each with three of its stickers, its photos without a sticker, and its benign photos with
one. A fold holds out copies of a photo and its neighbors in the archive; patients are not known. Each network has a
twin that never saw a photo with a sticker. The photos of the challenge's other parts, on which the method was tried
before, serve for development: melanomas and stickers of exemplars, 500 ordinary photos without labels, and the
threshold, at a specificity of 80% on photos without a sticker. It is set for each network, also for each that is edited
or fine-tuned, so that no method gains by calling more of everything melanoma; the share at the threshold of the network
itself is given as well.

An exemplar is a melanoma with a sticker of one color: the first candidate that misleads the network, in random order.
Each exemplar is used alone. Fine-tuning gets the same exemplar and the same ordinary photos. What removing the sticker
corrects is what filling its outline with the photo's own skin corrects.

The criterion, written down before any photo of a fold was predicted by a network that had not been trained on it. A
network counts if its AUC on photos without a sticker is at least 0.75, and if the share of melanomas that are called
benign with a sticker minus the share with the outline filled with skin is larger than with its twin (the lower bound of
the 95% interval of the difference is above 0). The net share of the sticker-caused errors is (misses with a sticker
minus misses with a sticker and the edit) over (misses with a sticker minus misses with the outline filled with skin).
On average over the networks that count and over the exemplars,

1. primary: the net share of the edit minus that of fine-tuning has a lower bound above -10 points;
2. the change of the AUC on photos without a sticker has a lower bound above -0.02;
3. the change of the share of held-out benign photos with a sticker that are called benign has a lower bound above -5
   points.

Methods are tried on the networks that count; on all of them if none does, and then the criterion is not met. Whether
fine-tuning keeps the limits 2 and 3 is said as well: a rival that does not is no alternative at equal cost. If time is
short, the first of the exemplars are used; how many is decided before the first figure of a method is seen. Intervals
are percentiles of a crossed bootstrap over lesions, stickers, and exemplars. Networks are listed, not sampled: the
intervals hold for these networks.

`--store FOLDER` is required: it keeps trained networks and scores, and an interrupted run resumes. Each network
predicts its fold once, and once with each method and exemplar. Without `--evaluate`, networks are trained and no fold
is predicted. `--quick` does all of it with photos of the development in place of the folds. Needs the photos (see
data/README.md).
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _lib.command import add_store, one_thread, parser, run
from _lib.results import BY_HOSTS, LABEL_FREE, NO_EDIT, TWIN, Results
from _lib.skin_figures import (
    ALL,
    COUNTED,
    GAP,
    NET,
    SECONDS,
    Figures,
    Sample,
    counts,
    criterion,
    figures_of,
    figures_of_method,
    interval,
    limits_kept,
    mean_over_exemplars,
    mean_over_networks,
    threshold_of,
    weights,
)
from _lib.skin_networks import RECIPES, Network, Recipe, trained
from _lib.skin_photos import BENIGN, FOLDS, MELANOMA, photos, pixels_of, roles
from _lib.skin_stickers import CLEAN, FILLS, REAL, SKIN, STUCK, Fold, pasted, stickers_of, the_sticker
from torch import Generator, Tensor, randperm

from edittools._storage import atomic_path
from edittools.classifiers import Classifier
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.metrics import predict, predicted_classes
from edittools.selection.finetuning import finetune_without_labels
from edittools.selection.select import select

NETWORKS = (*(Network("efficientnet_lite0", fold) for fold in range(FOLDS)), Network("squeezenet1_1", 0))
"""The networks; each has a twin."""

COLORS = ("teal", "orange", "blue", "yellow", "green")
"""The colors of the stickers of exemplars, in the order in which they are used."""

RATE = 1e-4
"""The learning rate of fine-tuning, the only one that is tried."""

METHODS = (BY_HOSTS, LABEL_FREE)
"""The edit and its rival."""


class Plan(NamedTuple):
    """How much is measured.

    Attributes:
        store: the folder of networks and scores.
        networks: the networks.
        recipes: how each architecture is trained.
        colors: the colors of exemplars.
        folds: the photos of each fold.
    """

    store: Path
    networks: Sequence[Network]
    recipes: Mapping[str, Recipe]
    colors: Sequence[str]
    folds: Sequence[Sequence[str]]

    def classifier(self, network: Network) -> Classifier:
        """Load a network; train it if its file is not there."""
        return trained(self.store / "networks", network, self.folds, self.recipes[network.architecture])

    def fold(self, network: Network) -> Fold:
        """Return the photos that a network is evaluated on."""
        return Fold.of(self.folds[network.fold], network.fold)

    def file(self, network: Network, color: str, method: str) -> Path:
        """Return the file of the scores of a method."""
        return self.store / "scores" / f"{network.name}_{color}_{method.replace(' ', '_')}.json"


# --- exemplars --------------------------------------------------------------------------------------------------------


class Candidates(NamedTuple):
    """The exemplar of a color, and among how many it was found.

    Attributes:
        exemplar: the first candidate that misleads the network; None if there is none.
        tried: the number of melanomas that are predicted as melanoma without a sticker.
        misled: how many of these are predicted as benign with a sticker of the color.
    """

    exemplar: Exemplar | None
    tried: int
    misled: int


def candidates_of(classifier: Classifier, color: str) -> Candidates:
    """Paste a sticker of a color on the melanomas of the development that are predicted as such, in random order."""
    images = pixels_of([name for name in roles().development if photos().melanoma[name] == MELANOMA])
    images = images[predicted_classes(predict(classifier, images)) == MELANOMA]
    order = randperm(len(images), generator=Generator().manual_seed(COLORS.index(color)))
    of_color = [sticker for sticker in stickers_of(roles().stickers) if sticker.color == color]
    used = [of_color[place % len(of_color)] for place in range(len(images))]
    changed = pasted(images[order], used, the_sticker)
    is_misled = predicted_classes(predict(classifier, changed)) == BENIGN
    exemplar = None
    if is_misled.any():
        first = int(is_misled.nonzero()[0, 0])
        exemplar = Exemplar(images[order[first]], changed[first], used[first].mask)
    return Candidates(exemplar, len(images), int(is_misled.sum()))


# --- scores -----------------------------------------------------------------------------------------------------------


def kept(path: Path, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Read what was made before; make and write it if it is not there."""
    if not path.exists():
        made = dict(make())
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(made))
        print(path.stem, flush=True)
    return json.loads(path.read_text())


def scored(classifier: Classifier, sets: Mapping[str, Callable[[], Tensor]]) -> dict[str, list[float]]:
    """Compute for each photo of each set how much higher the logit of melanoma is than that of benign."""
    scores = {}
    for name, make in sets.items():
        logits = predict(classifier, make())
        scores[name] = [round(value, 6) for value in (logits[:, MELANOMA] - logits[:, BENIGN]).tolist()]
    return scores


def network_scores(plan: Plan, network: Network) -> dict[str, Any]:
    """Score all sets with a network, its twin with one fill only, and count its candidates for exemplars."""

    def make() -> dict[str, Any]:
        classifier = plan.classifier(network)
        fold = plan.fold(network)
        found = {color: candidates_of(classifier, color) for color in COLORS}
        fills = [SKIN] if network.is_twin else FILLS
        return {
            "scores": scored(classifier, {**fold.sets(), **fold.filled_sets(fills)}),
            "tried": {color: of_color.tried for color, of_color in found.items()},
            "misled": {color: of_color.misled for color, of_color in found.items()},
        }

    return kept(plan.store / "scores" / f"{network.name}.json", make)


def method_scores(plan: Plan, network: Network, color: str) -> dict[str, Any]:
    """Select by each method from the exemplar of a color, and score all sets; empty if there is no exemplar."""
    files = {method: plan.file(network, color, method) for method in METHODS}
    if not all(path.exists() for path in files.values()):
        classifier = plan.classifier(network)
        exemplar = candidates_of(classifier, color).exemplar
        if exemplar is None:
            return {}
        for method, edit, about in selected(classifier, exemplar):
            with edit.applied(classifier):
                about["scores"] = scored(classifier, plan.fold(network).sets())
            kept(files[method], partial(dict, about))
    return {method: json.loads(path.read_text()) for method, path in files.items()}


def selected(classifier: Classifier, exemplar: Exemplar) -> Iterator[tuple[str, Edit, dict[str, Any]]]:
    """Select by each method; both get the same photos, and seconds are CPU time from the exemplar on."""
    started = time.process_time()
    selection = select(classifier, exemplar, pixels_of(roles().ordinary))
    seconds = time.process_time() - started
    yield BY_HOSTS, selection.edit, {"settings": str(selection.candidate), "seconds": seconds}
    tuned = finetune_without_labels(classifier, selection, rates=(RATE,))
    settings = ", ".join(f"{name} {value:g}" for name, value in tuned.settings.items())
    yield LABEL_FREE, tuned.edit, {"settings": settings, "seconds": tuned.scores.seconds}


# --- results ----------------------------------------------------------------------------------------------------------


def add_figures(results: Results, figures: Figures, **where: str) -> None:
    """Add figures with their intervals."""
    for name, values in figures.items():
        results.add(name, float(values[0]), interval=interval(values), **where)


def add_network(results: Results, plan: Plan, network: Network) -> bool:
    """Add the figures of a network and of its twin, and tell whether the network counts."""
    sample = Sample(plan.fold(network), network.fold)
    stored = network_scores(plan, network)
    of_network = figures_of(sample, stored["scores"])
    of_twin = figures_of(sample, network_scores(plan, network.twin)["scores"])
    add_figures(results, of_network, network=network.name, method=NO_EDIT)
    add_figures(results, of_twin, network=network.name, method=TWIN)
    is_counted = counts(of_network, of_twin)
    results.add("counts", float(is_counted), network=network.name, method=NO_EDIT)
    for color in COLORS:
        where = {"network": network.name, "method": NO_EDIT, "condition": color}
        results.add("candidates misled", stored["misled"][color], n=stored["tried"][color], **where)
    return is_counted


def add_methods(results: Results, plan: Plan, network: Network) -> dict[str, Figures]:
    """Add the figures of each method, by exemplar and on average over exemplars, and return the averages."""
    sample = Sample(plan.fold(network), network.fold)
    before = network_scores(plan, network)["scores"]
    of_colors = weights(len(plan.colors), (len(COLORS),))
    found: dict[str, dict[str, Figures]] = {method: {} for method in METHODS}
    for color in plan.colors:
        for method, stored in method_scores(plan, network, color).items():
            where = {"network": network.name, "method": method}
            seconds = stored["seconds"]
            figures = figures_of_method(sample, before, stored["scores"], color)
            figures[SECONDS] = np.full(len(of_colors), seconds)
            found[method][color] = figures
            add_figures(results, figures, **where, condition=color)
            add_outcomes(results, before, stored["scores"], sample.fold, color, **where)
            results.add_selected(stored["settings"], **where, condition=color, seconds=round(seconds, 1))
    means = {}
    for method, by_color in found.items():
        if by_color:
            drawn = of_colors[:, [plan.colors.index(color) for color in by_color]]
            names = next(iter(by_color.values()))
            means[method] = {
                name: mean_over_exemplars([of_one[name] for of_one in by_color.values()], drawn) for name in names
            }
            add_figures(results, means[method], network=network.name, method=method)
    return means


def add_outcomes(
    results: Results,
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    fold: Fold,
    color: str,
    **where: str,
) -> None:
    """Add the outcome of each photo without a sticker, each melanoma with one, and each benign photo with one."""
    is_melanoma = {
        CLEAN: fold.is_melanoma,
        STUCK: np.ones(fold.drawn.size, dtype=bool),
        REAL: np.zeros(len(fold.real), dtype=bool),
    }
    for name, expected in is_melanoma.items():
        wrong = [
            ((np.array(scores[name]) > threshold_of(fold, scores)) != expected).astype(int).tolist()
            for scores in (before, after)
        ]
        results.add_outcomes(*wrong, **where, split=f"{name}, {color}")


def decide(results: Results, counted: bool, of_networks: Sequence[Mapping[str, Figures]]) -> None:
    """Average over networks, compare with the criterion, and note the result.

    Args:
        results: where the averages are added.
        counted: whether these are the networks that count; if not, none does.
        of_networks: the figures of each method, for each network.
    """
    means = {method: mean_over_networks([of_network[method] for of_network in of_networks]) for method in METHODS}
    name = COUNTED if counted else ALL
    for method, figures in means.items():
        add_figures(results, figures, network=name, method=method)
    gap = means[BY_HOSTS][NET] - means[LABEL_FREE][NET]
    add_figures(results, {GAP: gap}, network=name, method=LABEL_FREE)
    results.notes["criterion"] = criterion(means[BY_HOSTS], means[LABEL_FREE]) if counted else "no network counts"
    results.notes["limits that fine-tuning keeps"] = limits_kept(means[LABEL_FREE])


# --- the run ----------------------------------------------------------------------------------------------------------


def experiment(options: argparse.Namespace) -> Results:
    """Train all networks, select and evaluate, and compute the figures."""
    results = Results("skin", "photos")
    plan = Plan(options.store, NETWORKS, RECIPES, COLORS[: options.exemplars], roles().folds)
    if options.quick:
        recipes = {"squeezenet1_1": Recipe(epochs=6, rate=3e-4)}
        plan = Plan(options.store / "quick", NETWORKS[-1:], recipes, COLORS[:1], roles().rehearsal)
    with one_thread():
        for network in plan.networks:
            for one in (network, network.twin):
                plan.classifier(one)
        if not (options.evaluate or options.quick):
            return results
        counted = [network for network in plan.networks if add_network(results, plan, network)]
        networks = counted or plan.networks
        for color in plan.colors:
            for network in networks:
                method_scores(plan, network, color)
        decide(results, bool(counted), [add_methods(results, plan, network) for network in networks])
    results.seconds = round(sum(one["seconds"] for one in results.selected), 1)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--evaluate", action="store_true", help="predict the folds")
    arguments.add_argument("--exemplars", type=int, default=len(COLORS), help="the number of exemplars")
    add_store(arguments)
    if arguments.parse_args().store is None:
        arguments.error("pass --store FOLDER, where networks and scores are kept")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
