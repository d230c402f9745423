"""Paths of version 0.2 that have changed.

This folder is on the path of the package `edittools`: importing an old path finds a module here, which raises an error
that names the new one.
"""

MOVED = {
    "caching": "_caching",
    "checks": "_checks",
    "choosing": "selection",
    "graph": "_graph",
    "lab": "widgets",
    "probing.finders": "probing.segmentation",
    "stories": "scenarios",
    "tokens": "_positions",
    "world": "miniworld",
    "zoo": "models",
}
"""Old paths below `edittools`, and where their contents are now; a name that begins with "_" is private."""


def where_now(old: str) -> str:
    """Return a sentence that names the new path of `edittools.<old>`."""
    new = MOVED[old]
    private = " (private)" if new.startswith("_") else ""
    plots = "; its figures are in edittools.plots" if old == "lab" else ""
    return f"edittools.{old} is now edittools.{new}{private}{plots}; CHANGELOG.md lists all names that changed"


def refuse(path: str) -> None:
    """Raise `ImportError` for an old path such as `edittools.lab`."""
    raise ImportError(where_now(path.removeprefix("edittools.")), name=path)
