"""Files below a folder, and how their names are written.

This module imports nothing of the library, so that the command line checks folders before torch is imported.
"""

import os
from pathlib import Path

IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""How the names of image files end."""


def image_files(folder: str | os.PathLike) -> list[Path]:
    """List the image files below a folder, sorted; hidden files are skipped.

    A link to a folder is followed, unless it leads to a folder that is listed by its own path or by an earlier link.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it contains no image file.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"{os.fspath(folder)!r} is not a folder; pass a folder of images, or a folder with one subfolder per class"
        )
    paths = []
    visited = set()
    linked = [root]
    while linked:  # first all folders below the root, then those behind links, in the order of their names
        for directory, subfolders, files in os.walk(linked.pop(0)):
            real_path = os.path.realpath(directory)
            if real_path in visited:
                subfolders.clear()
                continue
            visited.add(real_path)
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            linked += [Path(directory, name) for name in subfolders if os.path.islink(os.path.join(directory, name))]
            for name in files:
                if not name.startswith(".") and name.lower().endswith(IMAGES):
                    paths.append(Path(directory, name))
    if not paths:
        raise ValueError(f"folder {os.fspath(folder)!r} contains no images; pass a folder with .png or .jpg files")
    return sorted(paths)


def printable(path: str | os.PathLike) -> str:
    """Return a path as a text that can be written as UTF-8: bytes that are no UTF-8 are escaped, such as "caf\\xe9"."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
