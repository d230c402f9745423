"""Read masks of concepts, drawn at the size of the photos, from image files or from a COCO file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from edittools.classifiers import Classifier
from edittools.image_files import fit_mask, load_mask, photo_size
from edittools.probing.coco import decode_segmentation

LAYOUTS = "CONCEPT/IMAGE.png, in which IMAGE is the path of an image in its folder, or a COCO file (.json)"
"""The files that `read_masks` understands."""


class _Names:
    """Find images by their paths, with or without the suffix of the file, or by their names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.by_path: dict[PurePath, list[int]] = {}
        self.by_name: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            path = PurePath(name)
            for key in {path, path.with_suffix("")}:
                self.by_path.setdefault(key, []).append(number)
            self.by_name.setdefault(path.name, []).append(number)

    def of_mask(self, path: PurePath) -> int:
        """Return the number of the image of a mask file, by the file's path below its concept, without its suffix.

        Raises:
            ValueError: if there is no such image, or if there are several.
        """
        numbers = self.by_path.get(path, [])
        if not numbers:
            raise ValueError(f"no image has the path '{path}'; name mask files {LAYOUTS}")
        if len(numbers) > 1:
            first = self.names[numbers[0]]
            raise ValueError(f"{self._listed(numbers)} have the path '{path}'; name the mask file {first}.png")
        return numbers[0]

    def of_coco(self, file_name: str) -> int:
        """Return the number of the image that a COCO file names: by its path, or by its name alone.

        Raises:
            ValueError: if there is no such image, or if there are several.
        """
        numbers = self.by_path.get(PurePath(file_name)) or self.by_name.get(file_name, [])
        if not numbers:
            raise ValueError(f"no image has the path or the name {file_name!r}; write its path into file_name")
        if len(numbers) > 1:
            raise ValueError(f"{self._listed(numbers)} are named {file_name!r}; write the path into file_name")
        return numbers[0]

    def _listed(self, numbers: Sequence[int]) -> str:
        """Count images, and list the first ones."""
        return f"{len(numbers)} images ({', '.join(self.names[number] for number in numbers[:3])})"


def read_masks(
    source: str | PathLike, names: Sequence[str], classifier: Classifier, folder: str | PathLike | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Read the masks of concepts in images that were loaded for a classifier.

    Masks must have the size of the photos; they are resized and cropped as the photos are. If an image has several
    masks of the same concept, their union is used. An image without a mask of a concept does not show the concept.

    Args:
        source: a folder of image files `CONCEPT/IMAGE.png` that are white where the concept is (see `load_mask`), in
            which IMAGE is the path of an image, with or without its suffix; or a COCO file (`.json`) with polygons or
            run lengths, in which `file_name` is the path of an image, or the name of a single one. A folder may hold
            COCO files as well.
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
        try:
            size = None if folder is None else photo_size(Path(folder).expanduser() / names[number])
        except OSError as error:  # the photo was read before, and is gone
            left_out.append(f"{where}: {names[number]}: {error.strerror or error}")
            continue
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
    for path in files:
        where = path.relative_to(base)
        if any(part.startswith(".") for part in where.parts):
            continue
        if path.suffix == ".json":
            yield from _from_coco(str(where), _read_json(path), known)
            continue
        try:
            yield str(where), (*_concept_and_image(where, known), load_mask(path))
        except ValueError as error:
            yield str(where), str(error)


def _concept_and_image(path: PurePath, known: _Names) -> tuple[str, int]:
    """Return, from the path of an image file, the concept that it marks and the number of the image.

    Raises:
        ValueError: if the file is not an image, or if there is no such image, or several.
    """
    if path.suffix.lower() not in IMG_EXTENSIONS:
        raise ValueError("not an image file; save masks as PNG")
    concept, *image = path.with_suffix("").parts
    if not image:
        raise ValueError(f"it is in no folder of a concept; name mask files {LAYOUTS}")
    return concept, known.of_mask(PurePath(*image))


def _read_json(path: Path) -> Any:
    """Read a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not a JSON file: {error}") from error


def _from_coco(name: str, content: Any, known: _Names) -> Iterator[tuple[str, Found]]:
    """Yield the masks of a COCO file, see `_each_mask`."""
    if not isinstance(content, Mapping) or "annotations" not in content:
        yield name, "not a COCO file"
        return
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
        size = (image["height"], image["width"])
        try:
            number = known.of_coco(image["file_name"])
            yield where, (concept, number, decode_segmentation(annotation.get("segmentation"), size))
        except ValueError as error:
            yield where, str(error)
