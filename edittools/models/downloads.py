"""Get files that are not part of the package, above all photos: each is downloaded once, and its hash is checked.

`registry.txt` in `data/` lists file, SHA-256 and address. If `EDITTOOLS_PHOTOS` is set to a folder laid out like the
cache, files are taken from there, checked in the same way, and nothing is downloaded.
"""

import os
from functools import cache
from pathlib import Path

import pooch

from edittools._caching import cache_folder
from edittools.models.data import shipped


@cache
def registry() -> dict[str, tuple[str, str]]:
    """List all registered files: (SHA-256, address) by path in the cache. Paths may hold spaces and apostrophes."""
    files = {}
    for line in shipped("registry.txt").read_text().splitlines():
        name, digest, url = line.rsplit(" ", 2)
        files[name] = (digest, url)
    return files


def offline_folder() -> Path | None:
    """Return the folder that `EDITTOOLS_PHOTOS` names, or None if it is not set.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    folder = os.environ.get("EDITTOOLS_PHOTOS")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"EDITTOOLS_PHOTOS={folder!r} is not a directory (relative to {os.getcwd()!r}); use the absolute path of a "
            "folder laid out like the photo cache"
        )
    return Path(folder)


def photo(name: str) -> Path:
    """Return the local path of a registered photo or file of weights; download it once if necessary.

    Args:
        name: its path in the cache, see `registry`.

    Raises:
        KeyError: if there is no such file in the registry.
        FileNotFoundError: if the file is not on this machine and cannot be downloaded.
        ValueError: if the file is not the registered one.
    """
    if name not in registry():
        raise KeyError(f"{name!r} is not in data/registry.txt; list the registered files with available('')")
    digest, url = registry()[name]
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{name!r} in the registry lies outside the cache folder; use a relative path without '..'")
    folder = offline_folder()
    path = (folder or cache_folder() / "photos") / name
    if folder and not path.exists():
        raise FileNotFoundError(f"{name!r} is not in EDITTOOLS_PHOTOS={str(folder)!r}; get it from {url}")
    if path.exists():
        if pooch.file_hash(str(path)) == digest:
            return path
        if folder:
            raise ValueError(
                f"{str(path)!r} is not the registered file (its SHA-256 must begin with {digest[:12]}); copy it again"
            )
    downloader = pooch.HTTPDownloader(timeout=30)
    try:
        return Path(pooch.retrieve(url, f"sha256:{digest}", path.name, path.parent, downloader=downloader))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name!r} is not on this machine and could not be downloaded from {url} ({error}). Two ways out: "
            f"save that file as {path}, or set EDITTOOLS_PHOTOS to a folder that holds it as {name!r}"
        ) from error


def available(prefix: str) -> list[str]:
    """List the registered files below `prefix` that can be used: with `EDITTOOLS_PHOTOS` those there, otherwise all."""
    folder = offline_folder()
    names = [name for name in registry() if name.startswith(prefix)]
    return sorted(name for name in names if folder is None or (folder / name).exists())
