"""Claim: with a control that fits, an audit finds the shortcuts that networks learned, and no rule where there is none.

An audit sees photos of Imagenette, one fourth of them with each of a tag, a line of text and a film border, drawn on
photos of other classes, and the masks of what was drawn. In the last fourth, masks mark patches in which nothing was
drawn; they give the material that replaces the others. As in a folder without subfolders, photos are labeled by the
current prediction. The control is "in place", since a border has no elsewhere. With `--control elsewhere`, the tag and
the text alone are replaced, by the middle of another photo.

In a null audit, the masks are the same, and nothing is drawn.

With `--sheets`, the contact sheets of folders of photos are computed instead: a shortcut is drawn on a share of the
photos of its own class, and it is *named* if it covers half of the first window of one of the groups that are shown of
this class. The gaps between the letters of the text are part of it.

The same photos show how often the maximum of the desk's heat map ("Where to mark?") lies on the shortcut. All photos
are those of the split "train" on which the networks were neither trained nor tuned.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _lib.command import parser, run
from _lib.results import Results
from _lib.shortcuts import NAMES, NETWORKS
from torch import Tensor
from torchvision.utils import save_image
from tqdm.auto import tqdm

from edittools.auditing.audit import concepts_to_probe
from edittools.auditing.sheet import NOT_SEEN, ContactSheet
from edittools.auditing.windows import contact_sheet
from edittools.classifiers import Classifier
from edittools.course.scenarios.imagenette import in_memory, training_roles
from edittools.course.scenarios.shortcuts import SHORTCUTS, Tag
from edittools.cut import Cut
from edittools.images import LabelledImages
from edittools.metrics import misclassified, predict, predicted_classes, wilson
from edittools.models import load_classifier
from edittools.probing import Concepts, ProbeSettings, evidence_map, jobs
from edittools.probing.effects import CONTROLS
from edittools.probing.probe import probe
from edittools.reports import Page, save_page
from edittools.selection import candidate_layers

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


def shared_folder(classifier: Classifier, share: float, per_class: int, seed: int) -> tuple[LabelledImages, Tensor]:
    """Draw each shortcut on a share of the photos of its own class.

    Args:
        classifier: the network.
        share: the share of the photos of each class with a shortcut on which it is drawn.
        per_class: the number of photos of each class.
        seed: seed of the photos and of what is drawn on them.

    Returns:
        The photos with their classes, and masks `(N, H, W)` of what was drawn.
    """
    left = training_roles(classifier.size)["left"]
    order = torch.randperm(len(left), generator=torch.Generator().manual_seed(seed))
    members = torch.cat([order[left.labels[order] == label][:per_class] for label in range(len(left.classes))])
    data = in_memory(left.subset(members))
    masks = torch.zeros(len(data), *data.images.shape[2:])
    for number, (goal, shortcut) in enumerate(SHORTCUTS.items()):
        of_class = (data.labels == left.classes.index(goal)).nonzero()[:, 0][: round(share * per_class)]
        first = SEED_OF_AUDITS + (seed * len(SHORTCUTS) + number) * per_class
        data.images[of_class], drawn = shortcut.draw(data.images[of_class], first)
        masks[of_class] = filled(drawn) if NAMES[goal] == "text" else drawn
    return data, masks


def filled(masks: Tensor) -> Tensor:
    """Fill the smallest rectangle around what each mask `(N, H, W)` marks, such as the gaps between letters."""
    boxes = torch.zeros_like(masks)
    for box, mask in zip(boxes, masks, strict=True):
        rows = mask.any(dim=1).nonzero()[:, 0]
        columns = mask.any(dim=0).nonzero()[:, 0]
        if len(rows):
            box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 1
    return boxes


def coverage(sheet: ContactSheet, masks: Tensor, label: int) -> list[float]:
    """Return how much of the first window of each group of a class a mark covers."""
    return [float(group.windows[0].of(masks).mean()) for group in sheet.of_class(label)]


def sheets(options: argparse.Namespace) -> Results:
    """Compute contact sheets of both networks, and tell in which of them each shortcut is named."""
    per_class = 6 if options.quick else options.photos_of_class
    shares = options.shares[:1] if options.quick else options.shares
    results = Results("audit_sheets", "photos", notes={"photos of each class": per_class})
    for network in options.networks:
        classifier = load_classifier(network)
        for share in shares:
            data, masks = shared_folder(classifier, share, per_class, seed=0)
            started = time.process_time()
            sheet = contact_sheet(classifier, data, progress=None)
            where = {"network": network, "condition": f"on {share:.0%}"}
            results.add("CPU seconds", time.process_time() - started, n=len(data), **where)
            for goal, concept in NAMES.items():
                label = classifier.index(goal)
                covered = coverage(sheet, masks, label)
                place = next((number for number, cover in enumerate(covered, 1) if cover >= 0.5), 0)
                results.add(f"{concept}: first window that names it", place, n=per_class, **where)
                results.add(f"{concept}: largest coverage", max(covered), n=per_class, **where)
                group = sheet.of_class(label)[max(place - 1, 0)]
                results.add(f"{concept}: share", group.share, n=group.pastes, **where)
            if options.pictures is not None:
                page = Page(
                    network, where["condition"], "look", "what does not belong", sheet=sheet.rows(), sheet_note=NOT_SEEN
                )
                save_page(page, options.pictures / f"{network}_{share:.0%}.html")
            print(results.frame().tail(10)[["network", "condition", "metric", "value"]].to_string(), flush=True)
    return results


def measure(count: int, audits: int, nulls: int, control: str, network: str) -> list[dict[str, Any]]:
    """Measure a network: one row per audit, null audit, and heat map; heat maps do not depend on the control."""
    classifier = load_classifier(network)
    rows = []
    with jobs.one_thread():
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
    if options.sheets:
        return sheets(options)
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
    arguments.add_argument("--sheets", action="store_true", help="contact sheets instead of audits with masks")
    arguments.add_argument(
        "--shares", nargs="+", type=float, default=[0.9, 0.3, 0.1], help="shares of photos with a mark"
    )
    arguments.add_argument("--photos-of-class", type=int, default=30, help="photos of each class of a contact sheet")
    arguments.add_argument("--pictures", type=Path, metavar="FOLDER", help="write contact sheets there")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
