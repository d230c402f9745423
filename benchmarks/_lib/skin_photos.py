"""Photos of skin lesions (ISIC-2017), and what they are used for.

The photos are not part of this repository: `data/isic_2017.txt` lists their names and hashes, and `data/README.md` says
where they come from. They are found in the folder `isic-2017` below `EDITTOOLS_PHOTOS`.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from _lib.command import ROOT
from edittools.scenes import thumbnails
from edittools_course.downloads import offline_folder

REGISTRY = ROOT / "data" / "isic_2017.txt"
"""The files that are used, each with its SHA-256."""

SIZE = 160
"""The side of the photos, in pixels."""

FOLDS = 3
"""The number of folds of the photos of the challenge's training part: each is held out once."""

BENIGN, MELANOMA = 0, 1
CLASSES = ("benign", "melanoma")

NEAR_COPY = 0.02
"""Two photos are copies if their thumbnails differ by at most this much (root mean square).

Photos that all show a dark spot on skin resemble each other: with 0.035 instead, 218 different lesions would be one.
"""

NEIGHBORS = 10
"""Photos whose numbers in the archive agree up to the last digit stay in one fold: they may show the same patient."""

ORDINARY = 500
"""The number of ordinary photos, whose labels are not used."""

ADULT = 20
"""The least age of an adult."""

SEEN_STICKERS = (
    *("ISIC_0003051", "ISIC_0004166", "ISIC_0006326", "ISIC_0007235", "ISIC_0008025"),
    *("ISIC_0012970", "ISIC_0014571", "ISIC_0014579", "ISIC_0014582"),
)
"""Photos without annotation that show a sticker, a bandage, or a black marker: seen by eye, and left out."""

SEED = 98
"""The seed of the division."""


class Roles(NamedTuple):
    """What photos are used for, by name; no photo has two uses, and no copy of it has another use.

    Attributes:
        ordinary: ordinary photos without a sticker, whose labels are not used.
        development: photos without a sticker whose labels set the threshold, and melanomas of which are exemplars.
        stickers: photos with a sticker from which exemplars get their mark.
        folds: the annotated photos of the challenge's training part, divided for training and evaluation.
        rehearsal: photos of the development and of its stickers, divided in the same way, for `--quick`.
    """

    ordinary: list[str]
    development: list[str]
    stickers: list[str]
    folds: list[list[str]]
    rehearsal: list[list[str]]


# --- the files --------------------------------------------------------------------------------------------------------


def folder() -> Path:
    """Return the folder of the photos.

    Raises:
        FileNotFoundError: if `EDITTOOLS_PHOTOS` is not set, or has no such folder.
    """
    photos = offline_folder()
    if photos is None or not (photos / "isic-2017").is_dir():
        raise FileNotFoundError(
            f"the photos of ISIC-2017 are not in EDITTOOLS_PHOTOS={str(photos)!r}; get the files that {REGISTRY.name} "
            "lists as data/README.md says, and put them into its folder 'isic-2017'"
        )
    return photos / "isic-2017"


@cache
def checked_files() -> dict[str, Path]:
    """Return the path of each registered file by its name in the folder, after checking all hashes.

    Raises:
        ValueError: if a file is not the registered one.
    """
    files = {}
    for line in REGISTRY.read_text().splitlines():
        name, digest = line.rsplit(" ", 1)
        path = folder() / name
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ValueError(f"{str(path)!r} is not the registered file (its SHA-256 must begin with {digest[:12]})")
        files[name] = path
    return files


@cache
def photos() -> pd.DataFrame:
    """List all photos by name: `part`, `path`, `melanoma`, `sticker`, `age`, `group`.

    `melanoma` and `sticker` are 0 or 1; they are missing where they are not known. `age` is in years, rounded by the
    archive. Photos that are copies of each other, or neighbors in the archive, have the same `group`.
    """
    files = checked_files()
    notes = pd.read_csv(files["isic_bias.csv"], sep=";")
    notes.index = notes.image.str.removesuffix(".png")
    paths = {path.stem: path for name, path in files.items() if name.endswith(".jpg")}
    table = pd.DataFrame({"path": paths}).sort_index()
    table["part"] = [path.parent.name.removeprefix("ISIC-2017_").removesuffix("_Data") for path in table.path]
    lists = [pd.read_csv(files[f"ISIC-2017_{part}_Classes.csv"]) for part in ("Training", "Validation")]
    known = pd.concat(lists).set_index("image_id").melanoma
    annotated = (notes.label_string == "malignant").astype(float)
    table["melanoma"] = known.reindex(table.index).fillna(annotated.reindex(table.index))
    table["sticker"] = notes.patches.reindex(table.index)
    lists = [pd.read_csv(files[f"ISIC-2017_{part}_Data_metadata.csv"]) for part in ("Training", "Validation")]
    ages = pd.concat(lists).set_index("image_id").age_approximate
    table["age"] = pd.to_numeric(ages, errors="coerce").reindex(table.index)
    numbers = table.index.str.removeprefix("ISIC_").astype(int).to_numpy()
    table["same"], table["group"] = groups_of(thumbnails(pixels_of(table.index)), numbers)
    return table


def groups_of(small: Tensor, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the groups of photos that are copies of each other, and the groups of those that are copies or neighbors.

    Args:
        small: the thumbnails, `(N, D)`.
        numbers: the numbers of the photos in the archive, `(N,)`.

    Returns:
        The number of each photo's group of copies, and of its group of copies and neighbors, `(N,)` each.
    """
    count = len(small)
    copies = (torch.cdist(small, small) <= NEAR_COPY * small.shape[1] ** 0.5).nonzero().numpy()
    first_of_block = pd.Series(range(count)).groupby(numbers // NEIGHBORS).transform("first")
    neighbors = np.stack([np.arange(count), first_of_block], axis=1)
    return _connected(copies, count), _connected(np.concatenate([copies, neighbors]), count)


def _connected(links: np.ndarray, count: int) -> np.ndarray:
    """Number the groups of members that links `(L, 2)` connect."""
    graph = coo_array((np.ones(len(links)), links.T), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def pixels_of(names: Sequence[str]) -> Tensor:
    """Load photos as `(N, 3, SIZE, SIZE)` in [0, 1]."""
    return torch.stack([_pixels(name) for name in names]).float() / 255


@cache
def _pixels(name: str) -> Tensor:
    """Load a photo as `(3, SIZE, SIZE)` bytes."""
    paths = {path.stem: path for path in checked_files().values() if path.suffix == ".jpg"}
    image = Image.open(paths[name]).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()


def labels_of(names: Sequence[str]) -> Tensor:
    """Return the labels of photos, `(N,)` class indices.

    Raises:
        ValueError: if the label of one is not known.
    """
    return torch.tensor(photos().melanoma[list(names)].astype(int).to_numpy())


# --- what they are used for -------------------------------------------------------------------------------------------


@cache
def roles() -> Roles:
    """Divide the photos; the pilot had used those of the challenge's other parts, so these are for development."""
    table = photos()
    is_annotated = table.sticker.notna()
    is_training = is_annotated & (table.part == "Training")
    is_free = ~is_training & ~table.same.isin(table.same[is_training]) & ~table.same.duplicated()
    is_left = is_free & is_annotated
    random = np.random.default_rng(SEED)
    unlabeled = table.index[is_free & ~is_annotated & ~table.index.isin(SEEN_STICKERS)].tolist()
    others = random.permutation(table.index[is_left & (table.sticker == 0)]).tolist()
    missing = ORDINARY - len(unlabeled)
    development = others[missing:]
    stickers = table.index[is_left & (table.sticker == 1)].tolist()
    return Roles(
        ordinary=[*unlabeled, *others[:missing]],
        development=development,
        stickers=stickers,
        folds=divided(table[is_training], random),
        rehearsal=divided(table.loc[[*development, *stickers]], random),
    )


def divided(table: pd.DataFrame, random: np.random.Generator) -> list[list[str]]:
    """Divide photos into folds; a group stays together, and groups with stickers or melanomas are dealt out evenly.

    Args:
        table: `sticker`, `melanoma`, and `group` of each photo, by name.
        random: orders the groups that have as many of both.
    """
    counts = table.groupby("group")[["sticker", "melanoma"]].sum()
    counts["order"] = random.permutation(len(counts))
    counts["size"] = table.groupby("group").size()
    in_turn = counts.sort_values(["sticker", "melanoma", "size", "order"], ascending=False).index
    fold_of = {group: number % FOLDS for number, group in enumerate(in_turn)}
    folds = table.group.map(fold_of)
    return [table.index[folds == number].tolist() for number in range(FOLDS)]
