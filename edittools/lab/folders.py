"""Folders of pictures as labelled images; what cannot be read is left out and named."""

import os
import re
import unicodedata
from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from edittools.classifiers import Classifier
from edittools.images import LabelledImages, load_image
from edittools.metrics import predict


def pictures_in(folder: str | os.PathLike) -> list[Path]:
    """List the pictures below a folder, sorted; links to folders are followed, hidden files are skipped.

    Raises `FileNotFoundError` where there is no folder.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {os.fspath(folder)!r}: expected one with pictures, or with one a class")
    found, seen = [], set()
    for place, folders, files in os.walk(root, followlinks=True):
        known = os.path.realpath(place) in seen  # a link that leads back
        seen.add(os.path.realpath(place))
        folders[:] = [] if known else [name for name in folders if not name.startswith(".")]
        names = [] if known else [name for name in files if not name.startswith(".")]
        found += [Path(place, name) for name in names if name.lower().endswith(IMG_EXTENSIONS)]
    return sorted(found)


def read_folder(folder: str | os.PathLike, classifier: Classifier, step: int = 1) -> tuple[LabelledImages, list[str]]:
    """Read the pictures below a folder at the classifier's size, one in `step`; name each that is left out.

    A picture shows the class that the folder it lies in is named after (`School_bus` is `school bus`, a number is the
    class of that index); lying in the folder itself it has no label and is held to what is read now. Raises
    `FileNotFoundError` where there is no such folder, `ValueError` where nothing in it is readable.
    """
    root, paths = Path(folder).expanduser(), pictures_in(folder)[::step]
    images, labels, names, left_out = [], [], [], []
    for path in paths:
        label = None if path.parent == root else _class_of(path.parent.name, classifier)
        if label == -1:
            left_out.append(f"{path.relative_to(root)}: no class {path.parent.name!r} among {len(classifier.classes)}")
            continue
        try:
            images.append(load_image(path, classifier.size, classifier.resize_to))
        except (ValueError, OSError) as error:
            left_out.append(f"{path.relative_to(root)}: {str(error).partition(': ')[2] or error}")
            continue
        labels.append(label)
        names.append(str(path.relative_to(root)))
    if not images:
        found = f"{len(paths)} pictures, none of which can be used ({left_out[0]})" if paths else "no picture"
        raise ValueError(f"folder {os.fspath(folder)!r} holds {found}: expected .png, .jpg and the like")
    pixels = torch.stack(images)
    if None in labels:
        read = predict(classifier, pixels).argmax(dim=1).tolist()
        labels = [now if label is None else label for label, now in zip(labels, read, strict=True)]
    return LabelledImages(pixels, torch.tensor(labels), classifier.classes, tuple(names)), left_out


def _class_of(name: str, classifier: Classifier) -> int:
    """The class that a folder is named after; -1 where there is none."""
    if name in classifier.classes:
        return classifier.index(name)
    known = {_plain(one): i for i, one in reversed(list(enumerate(classifier.classes)))}
    if _plain(name) in known:
        return known[_plain(name)]
    return int(name) if name.isdecimal() and int(name) < len(classifier.classes) else -1


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()
