"""The files of an audit in its folder: which of them an audit has written, so that no other file is lost.

A hidden file lists the digests of what audits wrote. A file with another digest is of other origin, or was changed
since. This module imports nothing of the library, so that the command line checks a folder before torch is imported.
"""

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path

REPORT = "report.html"
"""The name of the report of an audit in its folder."""

EDIT = "edit.safetensors"
"""The name of the edit of an audit in its folder."""

RESULTS = (REPORT, "report.json", "windows.csv", "rules.csv", EDIT)
"""The files of an audit in its folder."""

WRITTEN = ".audit.json"
"""The file that lists the digests of what audits wrote in its folder."""


def check_replaceable(folder: Path, overwrite: bool = False, repairs: bool = True) -> None:
    """Check that the results of an audit would replace only what audits wrote.

    Args:
        folder: the folder for the results.
        overwrite: whether other files may be replaced.
        repairs: whether the audit repairs something. Otherwise, an edit of an earlier audit would be lost.

    Raises:
        FileExistsError: if other files would be replaced; it lists them.
    """
    if overwrite:
        return
    digests = _written_digests(folder)
    replaced = []
    if digests is None:
        replaced.append(repr(str(folder / WRITTEN)))
    for name in RESULTS:
        path = folder / name
        if os.path.lexists(path) and (_digest(path) not in (digests or ()) or (name == EDIT and not repairs)):
            replaced.append(repr(str(path)))
    if replaced:
        raise FileExistsError(
            f"this would replace {', '.join(replaced)}; pass another folder (--out), or --overwrite (overwrite=True)"
        )


def replace_results(staged: Path, folder: Path) -> None:
    """Move new results into the folder of an audit, and remove the results of an earlier audit that have no new ones.

    At each moment, all that an audit wrote is listed, so an interrupted call loses nothing.

    Args:
        staged: a folder with the complete new results, on the same disk.
        folder: the folder of the audit.
    """
    before = _written_digests(folder) or ()
    earlier = {name: _digest(folder / name) for name in RESULTS if _digest(folder / name) in before}
    new = {name: _digest(staged / name) for name in RESULTS if (staged / name).exists()}
    _write_digests(folder, {*earlier.values(), *new.values()})
    for name in new:
        os.replace(staged / name, folder / name)
    for name in earlier.keys() - new.keys():
        (folder / name).unlink()
    _write_digests(folder, set(new.values()))


def _digest(path: Path) -> str | None:
    """Hash a file; None if it is not a file."""
    if path.is_symlink() or not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _written_digests(folder: Path) -> set[str] | None:
    """Return the digests of what audits wrote in a folder; None if the list is damaged, or of other origin."""
    try:
        return set(json.loads((folder / WRITTEN).read_text(encoding="utf-8"))["written"])
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_digests(folder: Path, digests: Collection[str | None]) -> None:
    """Write the digests of what audits wrote in a folder, in one step."""
    from edittools._caching import atomic_path

    with atomic_path(folder / WRITTEN) as temporary:
        temporary.write_text(json.dumps({"written": sorted(filter(None, digests))}), encoding="utf-8")
