"""The files of the desk: marks and the names of the checked images, which are written at once, and what is saved.

A mark is a PNG file, white where the photo is marked and as large as the photo; `et.load_mask` reads it. The mark of
`FOLDER/truck/1.png` is `marks/truck/1.png`, and that of `FOLDER/truck/1.jpg` is `marks/truck/1.jpg.png`.
"""

from collections.abc import Collection, Iterable
from itertools import count
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from edittools._storage import atomic_path
from edittools.auditing.from_files import write_repair
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.image_files import load_mask, photo_size, save_mask
from edittools.selection.assessment import Assessment
from edittools.widgets.desk.state import MarkedArea, State
from edittools.widgets.pixels import to_pixels

CHECKED = "checked.txt"
"""The file with the names of the checked images, one per line, in the folder of the marks."""

SAVED = "edit"
"""The folder next to that of the marks that *Save* writes; a number is added if there is one."""

PAIR = ("x.png", "x_marked.png", "mask.png")
"""The files of x, x', and the mask, as `edittools repair --exemplar` takes them."""


class MarkFiles:
    """The files of marks on the images of a folder.

    Args:
        folder: where the marks are; it is made with the first of them.
        images: the folder of the images.
    """

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder = folder
        self._images = images

    def path(self, name: str) -> Path:
        """Return the file of the mark on an image of this name."""
        relative = Path(name).absolute().relative_to(self._images.absolute())
        return self.folder / (relative if relative.suffix == ".png" else f"{relative}.png")

    def read(self, names: Iterable[str]) -> tuple[dict[str, MarkedArea], list[str]]:
        """Read the marks on images; a mark of another size than its photo is left out.

        Returns:
            The marks by the names of the images, and one line for each file that is left out.
        """
        marks = {}
        left_out = []
        for name in names:
            path = self.path(name)
            if not path.is_file():
                continue
            try:
                mask = load_mask(path)
                if tuple(mask.shape) != photo_size(name):
                    raise ValueError("has another size than its photo")
            except (OSError, ValueError) as error:
                left_out.append(f"{path}: {error}")
                continue
            if mask.any():
                marks[name] = MarkedArea.of(mask)
        return marks, left_out

    def write(self, before: State, after: State) -> None:
        """Write what has changed: the marks, of which files are removed that are gone, and the names that are checked.

        Raises:
            OSError: if a file cannot be written.
        """
        for name in before.marks.keys() - after.marks.keys():
            self.path(name).unlink(missing_ok=True)
        for name, mark in after.marks.items():
            if before.marks.get(name) != mark:
                save_mask(self.path(name), mark.mask)
        if before.checked != after.checked:
            with atomic_path(self.folder / CHECKED) as temporary:
                temporary.write_text("".join(f"{name}\n" for name in sorted(after.checked)), encoding="utf-8")

    def read_checked(self, names: Collection[str]) -> frozenset[str]:
        """Read which of some images were checked."""
        path = self.folder / CHECKED
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        return frozenset(lines) & frozenset(names)

    def save(self, fix: Assessment, exemplar: Exemplar) -> Path:
        """Write an edit with its report, x, x', and the mask.

        Args:
            fix: the assessment of the edit.
            exemplar: what it was made from.

        Returns:
            The new folder of the edit.

        Raises:
            OSError: if a file cannot be written.
        """
        folder = self._free_folder()
        write_repair(fix, folder)
        write_exemplar(exemplar, folder, fix.classifier)
        return folder

    def _free_folder(self) -> Path:
        """Return a folder next to that of the marks that does not exist."""
        names = (SAVED if number == 1 else f"{SAVED}_{number}" for number in count(1))
        return next(path for path in (self.folder.parent / name for name in names) if not path.exists())


def write_exemplar(exemplar: Exemplar, folder: Path, classifier: Classifier) -> None:
    """Write x, x', and the mask as files of which a classifier sees exactly these pixels.

    A classifier resizes a photo and crops it, so each file has a border of the width that is cropped.
    """
    border = classifier.resize_to - classifier.size
    before = round(border / 2)
    sides = (before, border - before, before, border - before)
    original, changed, mask = (folder / name for name in PAIR)
    _write(original, pad(exemplar.image[None], sides, mode="replicate")[0])
    _write(changed, pad(exemplar.changed[None], sides, mode="replicate")[0])
    save_mask(mask, pad(exemplar.mask, sides))


def _write(path: Path, image: Tensor) -> None:
    """Write an image `(3, H, W)` as a PNG file."""
    Image.fromarray(to_pixels(image.clamp(0, 1).to(torch.float32))).save(path, format="PNG")
