"""Files that travel with the package: weights of the small models, hand-drawn masks, the registry of photographs."""

import importlib.resources
from pathlib import Path


def _data_folder() -> Path:
    """Find the files that travel with the package: inside it once installed, beside it in a checkout."""
    package = Path(str(importlib.resources.files("edittools")))
    return package / "data" if (package / "data").is_dir() else package.parent / "data"


DATA = _data_folder()


def shipped(name: str) -> Path:
    """Return the path of a file below `DATA`; raise `FileNotFoundError` that quotes it when it is not there."""
    path = DATA / name
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} is missing: expected a file of edittools; install it again, or whole")
    return path
