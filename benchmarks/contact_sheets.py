"""Claim: a contact sheet names the marks that networks learned, and its test confirms none that carries no class.

A shortcut is drawn on a share of the photos of its own class. It is *named* if it covers half of the first window of
one of the groups that the sheet shows of this class; the gaps between the letters of the text are part of it. The group
is then tested as `edittools audit --repair` does it.

In a null folder, the tag or the text is on 14 of 15 photos of each class, but the network does not predict the class
from it: the network was not fine-tuned, or the class is not that of the shortcut. Here, windows in the middle of the
mark are tested as well, whether the sheet shows them or not.

All photos are those of the split "train" on which the networks were neither trained nor tuned. With `--store FOLDER`
finished sheets are kept, and an interrupted run continues where it was.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from _lib import jobs
from _lib.command import add_store, code_digest, one_thread, parser, run
from _lib.results import Results
from _lib.shortcuts import NAMES, NETWORKS
from torch import Tensor
from tqdm.auto import tqdm

import edittools
from edittools.auditing.sheet import NOT_SEEN, ContactSheet, Window, WindowGroup
from edittools.auditing.windows import SIDES, confirm, contact_sheet
from edittools.classifiers import Classifier
from edittools.images import LabeledImages
from edittools.locate import Box
from edittools.models import load_classifier
from edittools.reports import render_sheet
from edittools_course.scenarios.imagenette import in_memory, training_roles
from edittools_course.scenarios.shortcuts import SHORTCUTS

BEFORE_FINETUNING = {"shortcuts_lite0": "efficientnet_lite0", "shortcuts_squeezenet": "squeezenet1_1"}
"""The network from which each network with shortcuts was fine-tuned."""

SHARES = (0.9, 0.3, 0.1)
"""The shares of the photos of a class on which its shortcut is drawn."""

PHOTOS_OF_NULL = 15
"""The number of photos of each class of a null folder; one of them has no mark."""

MARKS = {"tag": "garbage truck", "text": "church"}
"""The class of each mark that is drawn in null folders."""

NAMED = 0.5
"""A mark is named if it covers this share of the first window of a group."""

SEED_OF_SHEETS = 4_000_000
SEED_OF_NULLS = 5_000_000
"""The first seeds of what is drawn; those of training, selection and evaluation are smaller."""

VERSION = 1
"""To be raised when what a sheet's row holds changes, so that no former one is taken from a store."""


def photos_of_each_class(classifier: Classifier, per_class: int, seed: int) -> LabeledImages:
    """Draw random photos of each class on which no network was trained or tuned."""
    left = training_roles(classifier.size)["left"]
    order = torch.randperm(len(left), generator=torch.Generator().manual_seed(seed))
    members = torch.cat([order[left.labels[order] == label][:per_class] for label in range(len(left.classes))])
    return in_memory(left.subset(members))


def draw(data: LabeledImages, masks: Tensor, class_name: str, mark: str, share: float, seed: int) -> None:
    """Draw a mark on a share of the photos of a class, in place, and mark what it covers in the masks `(N, H, W)`."""
    shortcut = next(SHORTCUTS[goal] for goal, name in NAMES.items() if name == mark)
    of_class = (data.labels == data.classes.index(class_name)).nonzero()[:, 0]
    marked = of_class[: round(share * len(of_class))]
    data.images[marked], drawn = shortcut.draw(data.images[marked], seed)
    masks[marked] = filled(drawn) if mark == "text" else drawn


def filled(masks: Tensor) -> Tensor:
    """Fill the smallest rectangle around what each mask `(N, H, W)` marks, such as the gaps between letters."""
    boxes = torch.zeros_like(masks)
    for box, mask in zip(boxes, masks, strict=True):
        if mask.any():
            box[:] = Box.around(mask).mask(*mask.shape)
    return boxes


def middle_of_mark(mask: Tensor, photo: int) -> Window:
    """Place a window of the smallest side in the middle of what a mask `(H, W)` marks."""
    size = mask.shape[-1]
    side = round(SIDES[0] * size)
    rows, columns = mask.nonzero().T
    top = int(rows.min() + rows.max() + 1 - side) // 2
    left = int(columns.min() + columns.max() + 1 - side) // 2
    return Window(photo, Box.square(min(max(top, 0), size - side), min(max(left, 0), size - side), side))


def timed_sheet(
    classifier: Classifier, data: LabeledImages, name: str, pictures: Path | None
) -> tuple[ContactSheet, float]:
    """Compute a contact sheet, with its CPU seconds; write its page into a folder if one is given."""
    started = time.process_time()
    sheet = contact_sheet(classifier, data, progress=None)
    seconds = time.process_time() - started
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        page = f"<!DOCTYPE html><meta charset='utf-8'><h1>{name}</h1>{render_sheet(sheet.rows(), NOT_SEEN)}"
        (pictures / f"{name}.html").write_text(page, encoding="utf-8")
    return sheet, seconds


def describe_mark(classifier: Classifier, sheet: ContactSheet, masks: Tensor, class_name: str) -> dict[str, Any]:
    """Tell which group of a class names its mark, 0 if none does, and whether the test confirms this group."""
    groups = sheet.of_class(classifier.index(class_name))
    covered = [float(group.windows[0].of(masks).mean()) for group in groups]
    place = next((number for number, share in enumerate(covered, start=1) if share >= NAMED), 0)
    row = {"class": class_name, "place": place, "largest coverage": max(covered, default=0.0), "confirmed": False}
    if place:
        group = groups[place - 1]
        row |= {"share": group.share, "pastes": group.pastes}
        row["confirmed"] = confirm(classifier, sheet, group, progress=None).is_confirmed
    return row


def learned_sheet(network: str, share: float, per_class: int, pictures: Path | None) -> list[dict[str, Any]]:
    """Compute the contact sheet of photos with learned shortcuts; return one row per shortcut."""
    classifier = load_classifier(network)
    data = photos_of_each_class(classifier, per_class, seed=0)
    masks = torch.zeros(len(data), *data.images.shape[2:])
    for number, (class_name, mark) in enumerate(NAMES.items()):
        draw(data, masks, class_name, mark, share, SEED_OF_SHEETS + number * per_class)
    sheet, seconds = timed_sheet(classifier, data, f"{network}_{share:.0%}", pictures)
    about = {"kind": "learned", "network": network, "share of photos": share, "seconds": seconds, "photos": len(data)}
    return [{**about, "mark": mark, **describe_mark(classifier, sheet, masks, name)} for name, mark in NAMES.items()]


def null_sheet(network: str, seed: int, per_class: int, pictures: Path | None) -> list[dict[str, Any]]:
    """Compute the contact sheet of photos with marks that carry no class; return one row per class."""
    classifier = load_classifier(network)
    data = photos_of_each_class(classifier, per_class, seed)
    masks = torch.zeros(len(data), *data.images.shape[2:])
    mark_of = {}
    for label, class_name in enumerate(data.classes):
        marks = [mark for mark, own_class in MARKS.items() if own_class != class_name]
        mark_of[class_name] = marks[(label + seed) % len(marks)]
        first = SEED_OF_NULLS + (seed * len(data.classes) + label) * per_class
        draw(data, masks, class_name, mark_of[class_name], 1 - 1 / per_class, first)
    sheet, seconds = timed_sheet(classifier, data, f"{network}_null_{seed}", pictures)
    rows = []
    for label, class_name in enumerate(data.classes):
        marked = ((data.labels == label) & masks.any(dim=(1, 2))).nonzero()[:, 0].tolist()
        windows = [middle_of_mark(masks[photo], photo) for photo in marked]
        group = WindowGroup(classifier.index(class_name), windows, 0.0, 0.0, 0.0, 0)
        tested = confirm(classifier, sheet, group, progress=None)
        about = {"kind": "null", "network": network, "seed": seed, "seconds": seconds, "photos": len(data)}
        of_middle = {"middle confirmed": tested.is_confirmed, "middle share": tested.share, "middle p": tested.p}
        described = describe_mark(classifier, sheet, masks, class_name)
        rows.append({**about, "mark": mark_of[class_name], **described, **of_middle})
    return rows


def add_learned(results: Results, rows: pd.DataFrame) -> None:
    """Add at which place each learned shortcut is named, and whether it is confirmed."""
    for row in rows.to_dict("records"):
        share = f"on {row['share of photos']:.0%}"
        where = {"network": row["network"], "split": share, "condition": row["mark"]}
        results.add("first window that names it", row["place"], n=row["photos"], **where)
        results.add("largest coverage", row["largest coverage"], n=row["photos"], **where)
        if row["place"]:
            results.add("share", row["share"], n=row["pastes"], **where)
            results.add("confirmed", row["confirmed"], n=row["photos"], **where)
    for row in rows.drop_duplicates("job").to_dict("records"):
        share = f"on {row['share of photos']:.0%}"
        results.add("CPU seconds", row["seconds"], network=row["network"], split=share, n=row["photos"])


def add_nulls(results: Results, rows: pd.DataFrame) -> None:
    """Add how many marks that carry no class are named, and how many are confirmed, network by network."""
    for network, of_network in rows.groupby("network", sort=False):
        where = {"network": network, "split": "null", "n": len(of_network)}
        results.add("named", (of_network["place"] > 0).sum(), **where)
        results.add("named and confirmed", of_network["confirmed"].sum(), **where)
        results.add("confirmed in the middle of the mark", of_network["middle confirmed"].sum(), **where)


def compute(sheet: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Compute one contact sheet and its rows, with one thread."""
    with one_thread():
        return sheet()


def experiment(options: argparse.Namespace) -> Results:
    """Compute the contact sheets of each network: with its learned shortcuts, and of null folders."""
    per_class = 6 if options.quick else options.photos_of_class
    shares = options.shares[:1] if options.quick else options.shares
    nulls = 0 if options.quick else options.nulls
    sheets = {}
    for network in options.networks:
        for share in shares:
            sheets[f"{network} {share:.0%}"] = partial(learned_sheet, network, share, per_class, options.pictures)
        for seed in range(nulls):
            for name in (network, BEFORE_FINETUNING[network]):
                sheets[f"{name} null {seed}"] = partial(null_sheet, name, seed, PHOTOS_OF_NULL, options.pictures)
    about = f"contact_sheets {VERSION} {per_class} {PHOTOS_OF_NULL} {code_digest(Path(edittools.__file__).parent)}"
    rows = jobs.run(compute, sheets, options.store, progress=tqdm, about=about)
    notes = {"photos of each class": per_class, "photos of each class of a null folder": PHOTOS_OF_NULL}
    seconds = float(rows.groupby("job")["seconds"].first().sum())
    results = Results("contact_sheets", "photos", notes=notes, seconds=seconds)
    add_learned(results, rows[rows["kind"] == "learned"])
    add_nulls(results, rows[rows["kind"] == "null"])
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    arguments.add_argument("--shares", nargs="*", type=float, default=list(SHARES), help="shares of photos with a mark")
    arguments.add_argument("--photos-of-class", type=int, default=30, help="photos of each class, with shortcuts")
    arguments.add_argument("--nulls", type=int, default=3, help="null folders of each network, before and after")
    arguments.add_argument("--pictures", type=Path, metavar="FOLDER", help="write contact sheets there")
    add_store(arguments)
    run(arguments, experiment)


if __name__ == "__main__":
    main()
