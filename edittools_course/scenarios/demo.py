"""The images of `edittools desk --demo` and `edittools audit --demo`: rendered scenes, some of them with a yellow tag.

The network `rendered_squeezenet` classifies them, and predicts "truck" from the tag. The scenes are rendered at first
use, which takes about a minute, and are then in the cache.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from edittools.images import LabeledImages
from edittools_course.caching import cache_folder
from edittools_course.miniworld.contexts import SPLITS
from edittools_course.scenarios.own_folder import GOAL, scenes_of_classes, write_set

FOLDER = "demo-1"
"""The subfolder of the cache; the number is to be raised when other images are rendered."""

MODEL = "rendered_squeezenet"
"""The network, by its name for `load_classifier`."""

PER_CLASS = 20
"""The number of images of each class in the folder to audit."""

TAGGED_OF_GOAL, TAGGED_OF_OTHERS = 18, 7
"""The numbers of those that carry a tag, of the class that is predicted from it and of each other class."""


TAGGED_PER_CLASS, CLEAN_PER_CLASS, RETAIN = 20, 80, 130
"""The numbers of images of each class with a tag and without, and of those of the tag's own class without it."""


def demo_folder(before: Callable[[], None] | None = None) -> Path:
    """Return the folder of the demo, and render its images if they are not there.

    Its subfolders are `photos`, to be audited; `tagged`, images with the tag; `clean` and `retain`, images without it,
    of all classes and of the tag's own class.

    Args:
        before: is called before anything is rendered.

    Raises:
        OSError: if the cache cannot be written.
    """
    folder = cache_folder() / FOLDER
    if folder.exists():
        return folder
    if before is not None:
        before()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    except OSError as error:
        raise OSError(
            f"{str(folder)!r} cannot be written ({error.strerror}); set EDITTOOLS_CACHE to another folder"
        ) from error
    try:
        _write_all(temporary)
        os.rename(temporary, folder)
    except OSError:
        if not folder.exists():  # otherwise another demo has just written the same
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_all(root: Path) -> None:
    """Render all sets, draw the tags, and write them; no scene is in two sets."""
    first = SPLITS["validation"].start + 610_000
    sets = {
        "photos": scenes_of_classes(PER_CLASS, first),
        "tagged": scenes_of_classes(TAGGED_PER_CLASS, first + 1000),
        "clean": scenes_of_classes(CLEAN_PER_CLASS, first + 2000),
        "retain": scenes_of_classes(RETAIN, first + 3000, (GOAL,)),
    }
    for name, data in sets.items():
        has_tag = _tagged_of(data) if name == "photos" else torch.full((len(data),), name == "tagged")
        write_set(root, name, data, has_tag, first)


def _tagged_of(data: LabeledImages) -> Tensor:
    """Tell which images of a set to audit carry a tag, `(N,)` booleans."""
    has_tag = torch.zeros(len(data), dtype=torch.bool)
    for label, class_name in enumerate(data.classes):
        count = TAGGED_OF_GOAL if class_name == GOAL else TAGGED_OF_OTHERS
        has_tag[(data.labels == label).nonzero()[:count, 0]] = True
    return has_tag
