"""Paths and names of version 0.2 that have changed: importing one raises an `ImportError` that names the new one."""

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "caching": "_caching",
    "checks": "_checks",
    "choosing": "selection",
    "errors": "misclassified",
    "graph": "_graph",
    "lab": "widgets",
    "probing.finders": "probing.segmentation",
    "selection.choice": "selection.constraints",
    "selection.duties": "selection.splits",
    "selection.protocol": "selection.search",
    "selection.states": "selection.activations",
    "stories": "scenarios",
    "tokens": "_positions",
    "widgets.plots": "plots",
    "world": "miniworld",
    "miniworld.miniworld": "miniworld.scenes",
    "zoo": "models",
}
"""Old paths below `edittools`, and where their contents are now; a name that begins with "_" is private."""


def where_now(old: str) -> str | None:
    """Return a sentence that names the new path of `edittools.<old>`, or None if it has not moved."""
    if old not in MOVED:
        return None
    private = " (private)" if MOVED[old].startswith("_") else ""
    also = "; edittools.lab.plots is now edittools.plots" if old == "lab" else ""
    return f"edittools.{old} is now edittools.{MOVED[old]}{private}{also}; CHANGELOG.md lists all names that changed"


class MovedPaths(importlib.abc.MetaPathFinder):
    """Refuse to import a path of 0.2; it comes first, since an empty folder of the old name would be a package."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise `ImportError` for an old path; find nothing else."""
        package, _, rest = fullname.partition(".")
        if package == "edittools" and (message := where_now(rest)):
            raise ImportError(message, name=fullname)
        return None


def install() -> None:
    """Put the finder in front of the others, once."""
    if not any(type(finder).__name__ == "MovedPaths" for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedPaths())
