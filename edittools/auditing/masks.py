"""Read masks of concepts, drawn at the size of the photos, from files of common formats."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path, PurePath
from typing import Any

import torch
from PIL import ExifTags, Image
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.images import fit_mask, load_mask
from edittools.probing.coco import decode_segmentation

LABEL_STUDIO_PNG = re.compile(r"task-(?P<task>\d+)-annotation-.+-(?P<concept>[^-]+)-\d+$")
"""The name, without suffix, of a mask that Label Studio exports as PNG."""

UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
"""The prefix that Label Studio adds to the name of an uploaded file."""

LAYOUTS = (
    "CONCEPT/IMAGE.png, IMAGE_CONCEPT.png, a COCO file (.json), or Label Studio's PNG files with its JSON export next "
    "to them"
)
"""The files that `read_masks` understands."""


class _Names:
    """Find the number of an image by its path or its name, with or without its folder and its suffix."""

    def __init__(self, names: Sequence[str]) -> None:
        self.paths = [PurePath(name) for name in names]
        self.by_path = {str(path.with_suffix("")): number for number, path in enumerate(self.paths)}
        self.by_stem: dict[str, list[int]] = {}
        for number, path in enumerate(self.paths):
            self.by_stem.setdefault(path.stem, []).append(number)

    def find(self, name: str) -> int | None:
        """Return the number of the image with a name; None if there is no such image, or if there are several."""
        path = PurePath(name).with_suffix("") if PurePath(name).suffix else PurePath(name)
        if str(path) in self.by_path:
            return self.by_path[str(path)]
        numbers = self.by_stem.get(path.name, [])
        return numbers[0] if len(numbers) == 1 else None


def read_masks(
    source: str | PathLike, names: Sequence[str], classifier: Classifier, folder: str | PathLike | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Read the masks of concepts in images that were loaded for a classifier.

    Masks must have the size of the photos; they are resized and cropped as the photos are. If an image has several
    masks of the same concept, their union is used. An image without a mask of a concept does not show the concept.

    Args:
        source: a folder of masks, or a COCO file (`.json`) with polygons or run lengths. A folder may hold PNG files
            that are white where the concept is, named `CONCEPT/IMAGE.png` (IMAGE may be a path) or `IMAGE_CONCEPT.png`;
            a COCO file; or the brush labels that Label Studio exports as PNG, next to its export as JSON, which
            contains the image of each task.
        names: path of each image in the folder of images, such as `LabelledImages.names`.
        classifier: the classifier for which the images were loaded.
        folder: the folder of images. If it is given, masks that do not have the size of their photo are left out;
            otherwise, sizes are not compared.

    Returns:
        Masks `(N, size, size)` of 0 and 1, by concept; and one line per file or annotation that was left out.

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
    for where, concept, number, mask in _each_mask(root, known):
        if number is None or mask is None:
            left_out.append(where)
            continue
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


def _each_mask(root: Path, known: _Names) -> Iterator[tuple[str, str, int | None, Tensor | None]]:
    """Yield each mask: its source, its concept, the number of its image, and the mask at its own size.

    The number is None if there is no such image; the mask is None if it cannot be read.
    """
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    contents = {path: _read_json(path) for path in files if path.suffix == ".json"}
    for path, content in contents.items():
        if isinstance(content, Mapping) and "annotations" in content:
            yield from _from_coco(path.name, content, known)
    tasks = {}
    for content in contents.values():
        tasks |= _label_studio_tasks(content)
    for path in files:
        if path.suffix.lower() != ".png":
            continue
        where = str(path.relative_to(root))
        concept, number = _concept_and_image(path.relative_to(root), known, tasks)
        if number is None:
            yield f"{where}: no image of that name", concept, None, None
            continue
        try:
            yield where, concept, number, load_mask(path)
        except ValueError as error:
            yield f"{where}: {error}", concept, number, None


def _concept_and_image(path: PurePath, known: _Names, tasks: Mapping[int, str]) -> tuple[str, int | None]:
    """Return, from the path of a PNG file, the concept that it marks and the number of the image."""
    exported = LABEL_STUDIO_PNG.match(path.stem)
    if exported is not None:
        image = tasks.get(int(exported["task"]))
        return exported["concept"], None if image is None else known.find(image)
    if len(path.parts) > 1:
        number = known.find(str(PurePath(*path.parts[1:])))
        if number is not None:
            return path.parts[0], number
    for place in range(len(path.stem) - 1, 0, -1):
        if path.stem[place] == "_":
            number = known.find(str(path.with_name(path.stem[:place])))
            if number is not None:
                return path.stem[place + 1 :], number
    return "", None


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
            tasks[int(task["id"])] = UPLOAD_PREFIX.sub("", PurePath(addresses[0]).name)
    return tasks


def _from_coco(
    name: str, content: Mapping[str, Any], known: _Names
) -> Iterator[tuple[str, str, int | None, Tensor | None]]:
    """Yield the masks of a COCO file, see `_each_mask`."""
    concepts = {category["id"]: category["name"] for category in content.get("categories", [])}
    images = {image["id"]: image for image in content.get("images", [])}
    for annotation in content["annotations"]:
        where = f"{name}: annotation {annotation.get('id')}"
        image = images.get(annotation.get("image_id"))
        concept = concepts.get(annotation.get("category_id"))
        if image is None or concept is None:
            yield f"{where} has no image or no category", "", None, None
            continue
        number = known.find(UPLOAD_PREFIX.sub("", PurePath(image["file_name"]).name))
        if number is None:
            number = known.find(image["file_name"])
        if number is None:
            yield f"{where}: no image {image['file_name']!r}", concept, None, None
            continue
        mask = decode_segmentation(annotation.get("segmentation"), (image["height"], image["width"]))
        yield where, concept, number, mask


def photo_size(path: Path) -> tuple[int, int]:
    """Read the height and the width of an image file in pixels, after its EXIF orientation is applied."""
    with Image.open(path) as photo:
        width, height = photo.size
        is_turned = photo.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (width, height) if is_turned else (height, width)
