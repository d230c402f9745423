"""Get files that are not part of the package, above all photos: each is downloaded once, and its hash is checked.

`registry.txt` in `data/` lists file, SHA-256 and address. If `EDITTOOLS_PHOTOS` is set to a folder laid out like the
cache, files are taken from there, checked in the same way, and nothing is downloaded. A `PhotoArchive` holds many
photos, which are downloaded in one file and checked together.
"""

import hashlib
import os
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import pooch

from edittools_course.caching import cache_folder
from edittools_course.shipped import shipped


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
    if folder is not None:
        return _offline_photo(folder, name, digest, url)
    path = cache_folder() / "photos" / name
    downloader = pooch.HTTPDownloader(timeout=30)
    try:  # a file that is there, with that hash, is not downloaded
        pooch.retrieve(url, f"sha256:{digest}", path.name, path.parent, downloader=downloader)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name!r} is not on this machine and could not be downloaded from {url} ({error}). Two ways out: "
            f"save that file as {path}, or set EDITTOOLS_PHOTOS to a folder that holds it as {name!r}"
        ) from None
    return path


def _offline_photo(folder: Path, name: str, digest: str, url: str) -> Path:
    """Return the path of a registered file in an offline folder, after checking its hash."""
    path = folder / name
    if not path.exists():
        raise FileNotFoundError(f"{name!r} is not in EDITTOOLS_PHOTOS={str(folder)!r}; get it from {url}")
    if pooch.file_hash(str(path)) != digest:
        raise ValueError(
            f"{str(path)!r} is not the registered file (its SHA-256 must begin with {digest[:12]}); copy it again"
        )
    return path


def available(prefix: str) -> list[str]:
    """List the registered files below `prefix` that can be used: with `EDITTOOLS_PHOTOS` those there, otherwise all."""
    folder = offline_folder()
    names = [name for name in registry() if name.startswith(prefix)]
    return sorted(name for name in names if folder is None or (folder / name).exists())


@dataclass(frozen=True)
class PhotoArchive:
    """Photos that are downloaded in one archive.

    Args:
        name: name of their folder in the cache, and in `EDITTOOLS_PHOTOS`.
        url: address of the archive, a tar file that may be compressed and holds everything in one folder.
        folders: the folders in there that are unpacked.
        digest: what `digest_photos` must return for the unpacked folders.
    """

    name: str
    url: str
    folders: tuple[str, ...]
    digest: str


def digest_photos(folder: Path, subfolders: Sequence[str]) -> str:
    """Hash the relative paths and the contents of all JPEG files in subfolders, in the order of their paths.

    Returns:
        The SHA-256 of one line per file, which holds its path and the SHA-256 of its content.
    """
    digest = hashlib.sha256()
    paths = [path for subfolder in subfolders for path in (folder / subfolder).rglob("*.JPEG")]
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in paths):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


@cache
def _digest_once(folder: Path, subfolders: Sequence[str]) -> str:
    """Hash the photos of a folder, see `digest_photos`; later calls in the same process return the same hash."""
    return digest_photos(folder, subfolders)


def photo_folder(archive: PhotoArchive) -> Path:
    """Return the folder of the photos of an archive; download and unpack it once if necessary.

    Photos that were there before are hashed once per process.

    Raises:
        FileNotFoundError: if the photos are not on this machine and cannot be downloaded.
        ValueError: if they are not those of the archive.
    """
    offline = offline_folder()
    folder = (offline or cache_folder() / "photos") / archive.name
    wanted = " and ".join(repr(name) for name in archive.folders)
    if offline and not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {archive.name!r} in EDITTOOLS_PHOTOS={str(offline)!r}; unpack the folders {wanted} of "
            f"{archive.url} into {str(folder)!r}, or unset EDITTOOLS_PHOTOS to download them"
        )
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{archive.name}-", dir=folder.parent) as temporary:
            _download_archive(archive, Path(temporary), folder)
        return folder
    if _digest_once(folder, archive.folders) != archive.digest:
        raise ValueError(
            f"the photos in {str(folder)!r} are not those of {archive.url}; remove that folder, and "
            + (f"unpack {wanted} of the archive again" if offline else "they are downloaded again")
        )
    return folder


def _download_archive(archive: PhotoArchive, temporary: Path, folder: Path) -> None:
    """Download an archive, unpack it below a temporary folder, check the photos and move them to `folder`."""
    packed = temporary / "archive"
    unpacked = temporary / archive.name
    try:
        pooch.HTTPDownloader(timeout=30)(archive.url, str(packed), None)
        _unpack(packed, unpacked, archive.folders)
    except (OSError, ValueError, EOFError, tarfile.TarError, zlib.error) as error:
        raise FileNotFoundError(
            f"the photos {archive.name!r} are not on this machine and could not be downloaded from {archive.url} "
            f"({error}). Two ways out: unpack the folders {' and '.join(archive.folders)} of that archive into "
            f"{str(folder)!r}, or set EDITTOOLS_PHOTOS to a folder that holds them below {archive.name!r}"
        ) from None
    if digest_photos(unpacked, archive.folders) != archive.digest:
        raise ValueError(f"the photos of {archive.url} are not the registered ones; download them again later")
    try:
        unpacked.replace(folder)
    except OSError:  # another process may have been faster, with the same photos
        if not folder.is_dir():
            raise


def _unpack(packed: Path, target: Path, folders: Sequence[str]) -> None:
    """Unpack the JPEG files in some folders of a tar file, without its outermost folder, and nothing else.

    Links, special files and files whose path leads elsewhere are left out.
    """
    with tarfile.open(packed) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            parts = name.parts[1:]
            is_inside = not name.is_absolute() and ".." not in parts and len(parts) > 1 and parts[0] in folders
            if not is_inside or not member.isreg() or name.suffix != ".JPEG":
                continue
            path = target.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())
