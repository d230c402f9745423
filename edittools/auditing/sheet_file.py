"""The file of a contact sheet, from which a repair begins without a second search for windows."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edittools._storage import atomic_path
from edittools.auditing.sheet import ContactSheet, Window, WindowGroup
from edittools.classifiers import Classifier, fingerprint
from edittools.images import LabeledImages
from edittools.locate import Box

FORMAT = "contact sheet 1"
"""To be changed when the same photos and classifier lead to another contact sheet, or to another file."""


def sheet_digest(classifier: Classifier, images: str, labels: Tensor) -> str:
    """Hash all that a contact sheet depends on: the classifier, and the photos with their labels.

    Args:
        classifier: the classifier.
        images: a hash of the photos.
        labels: their labels, `(N,)`.
    """
    return hashlib.sha256(f"{FORMAT} {fingerprint(classifier)} {images} {labels.tolist()}".encode()).hexdigest()


def save_sheet(sheet: ContactSheet, digest: str, path: Path) -> None:
    """Write a contact sheet without its photos, in one step.

    Args:
        digest: that of the classifier and the photos, see `sheet_digest`.
    """
    windows = []
    groups = []
    for number, group in enumerate(sheet.groups):
        windows += [(number, window.photo, window.box.top, window.box.left, window.side) for window in group.windows]
        groups.append({name: value for name, value in asdict(group).items() if name != "windows"})
    tensors = {"logits": sheet.logits.contiguous(), "windows": torch.tensor(windows, dtype=torch.long).reshape(-1, 5)}
    photos = list(sheet.tried.items())
    contents = {"digest": digest, "groups": groups, "photos": photos, "repeats": sheet.repeats}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"sheet": json.dumps(contents)})


def load_sheet(path: Path, data: LabeledImages, digest: str) -> ContactSheet | None:
    """Load a contact sheet; None if there is none in the file that is of these photos and this classifier.

    Args:
        data: the photos.
        digest: that of the classifier and the photos, see `sheet_digest`.
    """
    try:
        with safe_open(path, "pt") as file:
            contents = json.loads((file.metadata() or {}).get("sheet", "{}"))
            if contents.get("digest") != digest:
                return None
            logits = file.get_tensor("logits")
            rows = file.get_tensor("windows").tolist()
    except (OSError, SafetensorError):
        return None
    groups = []
    for number, shares in enumerate(contents["groups"]):
        of_group = [row for row in rows if row[0] == number]
        windows = [Window(photo, Box.square(top, left, side)) for _, photo, top, left, side in of_group]
        groups.append(WindowGroup(windows=windows, **shares))
    return ContactSheet(data, logits, groups, dict(contents["photos"]), contents["repeats"])
