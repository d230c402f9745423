"""Find files that are part of the package: weights of the small models, hand-drawn masks, the registry of photos."""

import importlib.resources
from pathlib import Path


def _data_folder() -> Path:
    """Find the folder `data`: inside the package once it is installed, next to it in a checkout."""
    package = Path(str(importlib.resources.files("edittools_course")))
    inside = package / "data"
    return inside if inside.is_dir() else package.parent / "data"


DATA = _data_folder()


def shipped(name: str) -> Path:
    """Return the path of a file below `DATA`.

    Raises:
        FileNotFoundError: if the file is missing.
    """
    path = DATA / name
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r}, a file of edittools, is missing; install the package again")
    return path
