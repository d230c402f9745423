"""Claim: with a control that fits, an audit finds the shortcuts that networks learned, and no rule where there is none.

An audit sees photos of Imagenette, one fourth of them with each of a tag, a line of text and a film border, drawn on
photos of other classes, and the masks of what was drawn. In the last fourth, masks mark patches in which nothing was
drawn; they give the material that replaces the others. As in a folder without subfolders, photos are labeled by the
current prediction. The control is "in place", since a border has no elsewhere. With `--control elsewhere`, the tag and
the text alone are replaced, by the middle of another photo.

In a null audit, the masks are the same, and nothing is drawn.

The same photos show how often the maximum of the desk's heat map ("Where to mark?") lies on the shortcut. All photos
are those of the split "train" on which the networks were neither trained nor tuned.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _lib.command import one_thread, parser, run
from _lib.results import Results
from _lib.shortcuts import NAMES, NETWORKS
from torch import Tensor
from torchvision.utils import save_image
from tqdm.auto import tqdm

from edittools.auditing.concepts import concepts_to_probe
from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.images import LabelledImages
from edittools.metrics import misclassified, predict, predicted_classes, wilson
from edittools.models import load_classifier
from edittools.probing import Concepts, ProbeSettings, evidence_map, jobs
from edittools.probing.effects import CONTROLS
from edittools.probing.probe import probe
from edittools.selection import candidate_layers
from edittools_course.scenarios.imagenette import in_memory, training_roles
from edittools_course.scenarios.shortcuts import SHORTCUTS, Tag

MOVABLE = ("tag", "text")
"""The shortcuts that have a control "elsewhere"."""

PATCH = "patch"
"""The name of the concept that marks patches in which nothing was drawn."""

SEED_OF_AUDITS = 4_000_000
"""The first seed of what is drawn; those of training, selection and evaluation are smaller."""


class Folder(NamedTuple):
    """The photos of an audit.

    Attributes:
        original: the photos as they were, with their classes.
        data: the photos that the audit sees, labeled by the current prediction.
        masks: masks `(N, H, W)` of what was drawn, or would have been drawn, by concept.
    """

    original: LabelledImages
    data: LabelledImages
    masks: dict[str, Tensor]


def folder_of(classifier: Classifier, seed: int, count: int, is_drawn: bool) -> Folder:
    """Draw shortcuts on random photos of other classes.

    Args:
        classifier: the network.
        seed: seed of the photos and of what is drawn on them.
        count: the number of photos of each shortcut, and of the patches.
        is_drawn: whether the shortcuts are drawn; without that, there are only their masks.
    """
    left = training_roles(classifier.size)["left"]
    order = torch.randperm(len(left), generator=torch.Generator().manual_seed(seed))
    total = count * (len(SHORTCUTS) + 1)
    masks = {}
    originals = []
    images = []
    for goal, shortcut in {**SHORTCUTS, PATCH: Tag()}.items():
        is_other = torch.ones(len(order), dtype=torch.bool)
        if goal != PATCH:
            is_other = left.labels[order] != classifier.index(goal)
        members = order[is_other][:count]
        order = order[~torch.isin(order, members)]
        photos = in_memory(left.subset(members))
        first = count * len(originals)
        changed, drawn = shortcut.draw(photos.images, SEED_OF_AUDITS + seed * total + first)
        concept = NAMES.get(goal, PATCH)
        masks[concept] = torch.zeros(total, *drawn.shape[1:])
        masks[concept][first : first + count] = drawn
        originals.append(photos)
        images.append(changed if is_drawn and goal != PATCH else photos.images)
    labels = torch.cat([photos.labels for photos in originals])
    original = LabelledImages(torch.cat([photos.images for photos in originals]), labels, left.classes)
    seen = torch.cat(images)
    data = LabelledImages(seen, predicted_classes(predict(classifier, seen)), classifier.classes)
    return Folder(original, data, masks)


def audit(classifier: Classifier, seed: int, count: int, is_drawn: bool, control: str) -> list[tuple[str, str]]:
    """Audit random photos with a control; return the rules as pairs of a class and a concept."""
    folder = folder_of(classifier, seed, count, is_drawn)
    if control == "in place":
        asked = concepts_to_probe(folder.data, folder.masks, classifier)
    else:
        asked = with_photo_as_material(classifier, folder, seed)
    rules = probe(classifier, *asked).rules()
    return list(zip(rules["class"], rules["concept"], strict=True))


def with_photo_as_material(classifier: Classifier, folder: Folder, seed: int) -> tuple[Concepts, ProbeSettings]:
    """Prepare an audit in which the marks that have an elsewhere are replaced by the middle of another photo."""
    masks = {concept: folder.masks[concept] for concept in MOVABLE}
    photos = training_roles(classifier.size)["tuning"]
    quarter = classifier.size // 4
    middle = photos.images[seed : seed + 1][0][:, quarter:-quarter, quarter:-quarter]
    with tempfile.TemporaryDirectory() as place:
        material = Path(place, "photo.png")
        save_image(middle, material)
        return concepts_to_probe(folder.data, masks, classifier, material)


def maximum_on_shortcut(classifier: Classifier, seed: int, count: int) -> Iterator[tuple[str, bool, float]]:
    """Find the maximum of the heat map of each photo that is correct, and misled by its shortcut.

    The layer is the one that the desk shows first.

    Yields:
        The name of the shortcut, whether the maximum lies on it, and the share of the image that it covers.
    """
    folder = folder_of(classifier, seed, count, is_drawn=True)
    is_correct = ~misclassified(predict(classifier, folder.original), folder.original.labels)
    layers = candidate_layers(classifier)
    cut = Cut(classifier, layers[2 * len(layers) // 3])
    for goal, concept in NAMES.items():
        predicted = classifier.index(goal)
        is_misled = is_correct & (folder.data.labels == predicted) & folder.masks[concept].any(dim=(1, 2))
        for number in is_misled.nonzero()[:, 0].tolist():
            label = int(folder.original.labels[number])
            heat = evidence_map(cut, folder.data.images[number], predicted, label)
            mask = folder.masks[concept][number]
            yield concept, bool(mask.flatten()[heat.argmax()]), float(mask.mean())


def measure(count: int, audits: int, nulls: int, control: str, network: str) -> list[dict[str, Any]]:
    """Measure a network: one row per audit, null audit, and heat map; heat maps do not depend on the control."""
    classifier = load_classifier(network)
    rows = []
    with one_thread():
        for seed in range(audits):
            rows.append({"kind": "audit", "rules": audit(classifier, seed, count, True, control)})
            if control == "elsewhere":
                continue
            for concept, is_on_it, area in maximum_on_shortcut(classifier, seed, count):
                rows.append({"kind": "heat map", "concept": concept, "on it": is_on_it, "area": area})
        for seed in range(nulls):
            rows.append({"kind": "null audit", "rules": audit(classifier, seed, count, False, control)})
    return [{"network": network, **row} for row in rows]


def add_network(
    results: Results, rows: list[dict[str, Any]], network: str, shortcuts: Iterable[str] = tuple(NAMES.values())
) -> None:
    """Add in how many audits each shortcut is a rule of its class, how many null audits find a rule, and heat maps."""
    audits = [row["rules"] for row in rows if row["kind"] == "audit"]
    nulls = [row["rules"] for row in rows if row["kind"] == "null audit"]
    for goal, concept in NAMES.items():
        if concept not in shortcuts:
            continue
        found = sum([goal, concept] in [list(rule) for rule in rules] for rules in audits)
        results.add("audits that find it", found, n=len(audits), network=network, condition=concept)
        maps = [row for row in rows if row["kind"] == "heat map" and row["concept"] == concept]
        hits = sum(row["on it"] for row in maps)
        if maps:
            share = hits / len(maps)
            where = {"network": network, "condition": concept}
            results.add("maximum on it", share, interval=wilson(hits, len(maps)), n=len(maps), **where)
            results.add("area", sum(row["area"] for row in maps) / len(maps), n=len(maps), **where)
    others = Counter()
    for rules in audits:
        expected = {tuple(pair) for pair in NAMES.items()}
        others[any(tuple(rule) not in expected for rule in rules)] += 1
    results.add("audits with another rule", others[True], n=len(audits), network=network, condition="drawn")
    with_rule = sum(len(rules) > 0 for rules in nulls)
    low, high = wilson(with_rule, len(nulls))
    interval = (low * len(nulls), high * len(nulls))
    where = {"network": network, "condition": "nothing drawn"}
    results.add("audits with a rule", with_rule, interval=interval, n=len(nulls), **where)


def experiment(options: argparse.Namespace) -> Results:
    """Audit with both networks."""
    count, audits, nulls = (20, 1, 2) if options.quick else (options.photos, options.audits, options.nulls)
    work = partial(measure, count, audits, nulls, options.control)
    table = jobs.run(work, {name: name for name in options.networks}, progress=tqdm)
    results = Results("audit_shortcuts", "photos", notes={"photos of each shortcut": count})
    for network in options.networks:
        rows = table[table.network == network].to_dict("records")
        add_network(results, rows, network, NAMES.values() if options.control == "in place" else MOVABLE)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    arguments.add_argument("--audits", type=int, default=10, help="number of audits with shortcuts")
    arguments.add_argument("--nulls", type=int, default=20, help="number of null audits")
    arguments.add_argument("--photos", type=int, default=60, help="photos of each shortcut in an audit")
    arguments.add_argument("--control", default="in place", choices=CONTROLS, help="the control of an audit")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
