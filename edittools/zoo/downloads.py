"""Files that do not travel with the package, photographs first of all: each is downloaded once and its hash checked.

`registry.txt` in `data/` lists file, SHA-256 and address. With `EDITTOOLS_PHOTOS` set to a folder laid out like the
cache, files are taken from there (and checked the same way) and nothing is downloaded.
"""

import os
from functools import cache
from pathlib import Path

import pooch

from edittools.images import cache_folder
from edittools.zoo.data import shipped


@cache
def registry() -> dict[str, tuple[str, str]]:
    """List all known files: path in the cache -> (SHA-256, address). Names may hold spaces and apostrophes."""
    lines = shipped("registry.txt").read_text().splitlines()
    return {name: (digest, url) for name, digest, url in (line.rsplit(" ", 2) for line in lines)}


def offline_folder() -> Path | None:
    """Return the folder named by `EDITTOOLS_PHOTOS`, or None; raise `FileNotFoundError` when it does not exist."""
    named = os.environ.get("EDITTOOLS_PHOTOS")
    if not named:
        return None
    if not Path(named).is_dir():
        raise FileNotFoundError(
            f"EDITTOOLS_PHOTOS={named!r} is no folder seen from {os.getcwd()!r}: expected one laid out like the photo "
            "cache, best as an absolute path, since a notebook runs in its own folder"
        )
    return Path(named)


def photo(name: str) -> Path:
    """Give the local path of a registered photograph or weight; download it once if need be, and check its hash.

    Raises `KeyError` for an unknown name, `FileNotFoundError` when it is neither here nor to be had (the message says
    from where, and the two ways out) and `ValueError` when the file is not the registered one.
    """
    if name not in registry():
        raise KeyError(f"no photo {name!r} in data/registry.txt")
    digest, url = registry()[name]
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"photo {name!r} in the registry: expected a path below the cache folder, without '..'")
    folder = offline_folder()
    path = (folder or cache_folder() / "photos") / name
    if folder and not path.exists():
        raise FileNotFoundError(f"{name!r} is not in EDITTOOLS_PHOTOS={str(folder)!r}; it comes from {url}")
    if path.exists():
        if pooch.file_hash(str(path)) == digest:
            return path
        if folder:
            raise ValueError(f"{str(path)!r} is not the registered one (SHA-256 {digest[:12]}… expected): copy it anew")
    try:
        return Path(
            pooch.retrieve(url, f"sha256:{digest}", path.name, path.parent, downloader=pooch.HTTPDownloader(timeout=30))
        )
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name!r} is not on this machine and could not be downloaded from {url} ({error}). Two ways out: "
            f"get that file to {path}, or set EDITTOOLS_PHOTOS to a folder that holds it as {name!r}"
        ) from error


def available(prefix: str) -> list[str]:
    """List the registered photos below `prefix` that can be used: with `EDITTOOLS_PHOTOS` those there, else all."""
    folder = offline_folder()
    return sorted(n for n in registry() if n.startswith(prefix) and (folder is None or (folder / n).exists()))
