"""Read masks of concepts, drawn at the size of the photos, from files of common formats."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from edittools.classifiers import Classifier
from edittools.images import fit_mask, load_mask, photo_size
from edittools.probing.coco import decode_segmentation

LABEL_STUDIO_PNG = re.compile(r"task-(?P<task>\d+)-annotation-[^-]+-by-[^-]+-[^-]+-(?P<concept>.+)-\d+$")
"""The name, without suffix, of a mask that Label Studio exports as PNG."""

UPLOAD_PREFIX = re.compile(r"^(?!(19|20)\d{6}-)[0-9a-f]{8}-")
"""The prefix that Label Studio adds to the name of an uploaded file; a date is none."""

LAYOUTS = (
    "CONCEPT/IMAGE.png, IMAGE_CONCEPT.png, a COCO file (.json), or Label Studio's PNG files with its JSON export next "
    "to them"
)
"""The files that `read_masks` understands."""


class _Names:
    """Find images by their paths, or by the ends of their paths, with or without the suffix of the file."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.folders = {folder for name in names for folder in PurePath(name).parent.parts}
        self.by_path: dict[PurePath, list[int]] = {}
        self.by_end: dict[PurePath, list[int]] = {}
        for number, name in enumerate(names):
            for path in (PurePath(name), PurePath(name).with_suffix("")):
                self.by_path.setdefault(path, []).append(number)
                for end in _ends(path):
                    self.by_end.setdefault(end, []).append(number)

    def find(self, name: str) -> list[int]:
        """Return the numbers of the images that a path means.

        These are the images of this path; otherwise, those whose path ends in it. A folder that is none of the images'
        is dropped: `export/van/a` means `van/a.jpg`.
        """
        for end in _ends(PurePath(name)):
            numbers = self.by_path.get(end) or self.by_end.get(end)
            if numbers:
                return numbers
            if len(end.parts) > 1 and end.parts[0] in self.folders:
                break
        return []

    def find_file(self, name: str) -> list[int]:
        """Return the numbers of the images that a file name means, as it is or as Label Studio has changed it.

        The image may have another suffix than the file.
        """
        path = PurePath(name)
        uploaded = path.with_name(UPLOAD_PREFIX.sub("", path.name))
        for candidate in (path, _without_suffix(path), uploaded, _without_suffix(uploaded)):
            numbers = self.find(str(candidate))
            if numbers:
                return numbers
        return []

    def only(self, numbers: Sequence[int], name: str) -> int:
        """Return the number of the only image that a name means.

        Raises:
            ValueError: if there is none, or if there are several.
        """
        if not numbers:
            raise ValueError(f"no image is named {name!r}")
        if len(numbers) > 1:
            images = ", ".join(self.names[number] for number in numbers[:3])
            path = self.names[numbers[0]]
            raise ValueError(
                f"{len(numbers)} images are named {name!r} ({images}); give the whole path, such as {path} or, as the "
                f"name of a mask file, {path}.png"
            )
        return numbers[0]


def _without_suffix(path: PurePath) -> PurePath:
    """Return a path without the suffix of an image file; `photo.1` has none."""
    return path.with_suffix("") if path.suffix.lower() in IMG_EXTENSIONS else path


def _ends(path: PurePath) -> list[PurePath]:
    """Return a path, the path without its first folder, and so on until the name alone."""
    parts = [part for part in path.parts if part != path.anchor]
    return [PurePath(*parts[start:]) for start in range(len(parts))]


def read_masks(
    source: str | PathLike, names: Sequence[str], classifier: Classifier, folder: str | PathLike | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Read the masks of concepts in images that were loaded for a classifier.

    Masks must have the size of the photos; they are resized and cropped as the photos are. If an image has several
    masks of the same concept, their union is used. An image without a mask of a concept does not show the concept.

    Args:
        source: a folder of masks, or a COCO file (`.json`) with polygons or run lengths. A folder may hold image files
            that are white where the concept is (see `load_mask`), named `CONCEPT/IMAGE.png` (IMAGE may be a path) or
            `IMAGE_CONCEPT.png`; a COCO file; or the brush labels that Label Studio exports as PNG, next to its export
            as JSON, which contains the image of each task. IMAGE is the path of an image, or the end of the path of
            a single one, with or without its suffix.
        names: path of each image in the folder of images, such as `LabelledImages.names`.
        classifier: the classifier for which the images were loaded.
        folder: the folder of images. If it is given, masks that do not have the size of their photo are left out;
            otherwise, sizes are not compared.

    Returns:
        Masks `(N, size, size)` of 0 and 1, by concept; and one line per file or annotation that was not used, with the
        reason.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ModuleNotFoundError: if a COCO file is read and pycocotools is not installed.
        ValueError: if no mask fits an image.
    """
    root = Path(source).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"{fspath(source)!r} is neither a folder nor a file; pass masks as {LAYOUTS}")
    known = _Names(names)
    shape = (len(names), classifier.size, classifier.size)
    masks: dict[str, Tensor] = {}
    left_out = []
    for where, found in _each_mask(root, known):
        if isinstance(found, str):
            left_out.append(f"{where}: {found}")
            continue
        concept, number, mask = found
        size = None if folder is None else photo_size(Path(folder).expanduser() / names[number])
        if size is not None and tuple(mask.shape) != size:
            left_out.append(
                f"{where}: {tuple(mask.shape)} pixels do not fit the photo of {size}; draw on the whole photo"
            )
            continue
        mask = fit_mask(mask, classifier)
        masks.setdefault(concept, torch.zeros(shape))
        masks[concept][number] = torch.maximum(masks[concept][number], mask)
    if not masks:
        example = f" ({left_out[0]})" if left_out else ""
        raise ValueError(f"{fspath(source)!r} holds no mask of one of the {len(names)} images{example}; use {LAYOUTS}")
    return masks, left_out


Found = tuple[str, int, Tensor] | str
"""A concept, the number of an image, and the mask of the concept at its own size; or why a mask is not used."""


def _each_mask(root: Path, known: _Names) -> Iterator[tuple[str, Found]]:
    """Yield the source of each mask, and what was found there; hidden files are skipped."""
    base = root.parent if root.is_file() else root
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(base).parts)]
    tasks = {}
    for path in files:
        if path.suffix != ".json":
            continue
        where = str(path.relative_to(base))
        content = _read_json(path)
        if isinstance(content, Mapping) and "annotations" in content:
            yield from _from_coco(where, content, known)
            continue
        exported = _label_studio_tasks(content)
        tasks |= exported
        if not exported:
            yield where, "neither a COCO file nor an export of Label Studio"
    for path in files:
        if path.suffix == ".json":
            continue
        where = path.relative_to(base)
        try:
            yield str(where), (*_concept_and_image(where, known, tasks), load_mask(path))
        except ValueError as error:
            yield str(where), str(error)


def _concept_and_image(path: PurePath, known: _Names, tasks: Mapping[int, str]) -> tuple[str, int]:
    """Return, from the path of an image file, the concept that it marks and the number of the image.

    Raises:
        ValueError: if the file is not an image, or if there is no such image, or several.
    """
    if path.suffix.lower() not in IMG_EXTENSIONS:
        raise ValueError("not an image file; save masks as PNG")
    exported = LABEL_STUDIO_PNG.match(path.stem)
    if exported is not None:
        task = int(exported["task"])
        if task not in tasks:
            raise ValueError(f"task {task} is not in a JSON export of Label Studio in the same folder")
        return exported["concept"], known.only(known.find_file(tasks[task]), tasks[task])
    bare = path.with_suffix("")
    if len(bare.parts) > 1:
        image = str(PurePath(*bare.parts[1:]))
        numbers = known.find(image)
        if numbers:
            return bare.parts[0], known.only(numbers, image)
    for place in range(len(path.stem) - 1, 0, -1):
        if path.stem[place] == "_":
            image = str(bare.with_name(path.stem[:place]))
            numbers = known.find(image)
            if numbers:
                return path.stem[place + 1 :], known.only(numbers, image)
    raise ValueError(f"no image is named as in {LAYOUTS}")


def _read_json(path: Path) -> Any:
    """Read a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not a JSON file: {error}") from error


def _label_studio_tasks(content: Any) -> dict[int, str]:
    """Map the numbers of Label Studio's tasks to the names of their images."""
    tasks = {}
    for task in content if isinstance(content, list) else []:
        fields = task.get("data", task) if isinstance(task, Mapping) else {}
        addresses = [value for value in fields.values() if isinstance(value, str) and PurePath(value).suffix]
        if "id" in task and addresses:
            tasks[int(task["id"])] = _file_of(addresses[0])
    return tasks


def _file_of(address: str) -> str:
    """Return the path of a file from an address of Label Studio; of an uploaded file, its name."""
    path = unquote(address.rpartition("?d=")[2])
    return PurePath(path).name if "/upload/" in path else path


def _from_coco(name: str, content: Mapping[str, Any], known: _Names) -> Iterator[tuple[str, Found]]:
    """Yield the masks of a COCO file, see `_each_mask`."""
    concepts = {category["id"]: category["name"] for category in content.get("categories", [])}
    images = {image["id"]: image for image in content.get("images", [])}
    for annotation in content["annotations"]:
        where = f"{name}: annotation {annotation.get('id')}"
        image = images.get(annotation.get("image_id"))
        concept = concepts.get(annotation.get("category_id"))
        if image is None or concept is None:
            yield where, "it has no image or no category"
            continue
        if not annotation.get("segmentation"):
            yield where, "it has no segmentation, and a box is not a mask; export polygons or run lengths"
            continue
        file = _file_of(image["file_name"])
        size = (image["height"], image["width"])
        try:
            number = known.only(known.find_file(file), file)
            yield where, (concept, number, decode_segmentation(annotation.get("segmentation"), size))
        except ValueError as error:
            yield where, str(error)
