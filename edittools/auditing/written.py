"""The files of a command in its folder: which of them the command has written, so that no other file is lost.

A hidden file lists the digests of what a command wrote. A file with another digest is of other origin, or was changed
since. This module imports nothing of the library, so that the command line checks a folder before torch is imported.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

REPORT = "report.html"
"""The name of a report in the folder of a command."""

DATA = "report.json"
"""The name of the data of a report in the folder of a command."""

EDIT = "edit.safetensors"
"""The name of an edit in the folder of a command."""

WEIGHTS = "weights.safetensors"
"""The name of the edited weights in the folder of a command."""

AUDIT, REPAIR = "audit", "repair"

ABANDONED = 3600
"""The number of seconds after which results that are not complete are those of a process that was killed."""

RESULTS = {
    AUDIT: (REPORT, DATA, "windows.csv", EDIT),
    REPAIR: (REPORT, DATA, EDIT, WEIGHTS),
}
"""The files of each command in its folder."""


def check_replaceable(folder: Path, overwrite: bool = False, repairs: bool = True, command: str = AUDIT) -> None:
    """Check that the results of a command would replace only what it wrote before.

    Args:
        folder: the folder for the results.
        overwrite: whether other files may be replaced.
        repairs: whether an audit repairs something. Otherwise, an edit of an earlier audit would be lost.
        command: the command, one of `RESULTS`.

    Raises:
        FileExistsError: if other files would be replaced; it lists them.
    """
    if overwrite:
        return
    digests = _written_digests(folder, command)
    replaced = []
    if digests is None:
        replaced.append(repr(str(_list_of(folder, command))))
    for name in RESULTS[command]:
        path = folder / name
        if os.path.lexists(path) and (_digest(path) not in (digests or ()) or (name == EDIT and not repairs)):
            replaced.append(repr(str(path)))
    if replaced:
        raise FileExistsError(
            f"this would replace {', '.join(replaced)}; pass another folder (--out), or --force (overwrite=True)"
        )


@contextmanager
def staging(folder: Path, command: str = AUDIT) -> Iterator[Path]:
    """Yield a hidden folder for results that are not complete yet; those that killed processes left are removed.

    Args:
        folder: the folder of the command; it is created if it does not exist.
        command: the command, one of `RESULTS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f".{command}-"
    for path in folder.glob(f"{prefix}*"):
        with suppress(OSError):  # another process may remove it as well
            if time.time() - path.stat().st_mtime > ABANDONED:
                shutil.rmtree(path)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder) as temporary:
        yield Path(temporary)


def replace_results(staged: Path, folder: Path, command: str = AUDIT) -> None:
    """Move new results into the folder of a command, and remove its earlier results that have no new ones.

    At each moment, all that the command wrote is listed, so an interrupted call loses nothing.

    Args:
        staged: a folder with the complete new results, on the same disk.
        folder: the folder of the command.
        command: the command, one of `RESULTS`.
    """
    names = RESULTS[command]
    before = _written_digests(folder, command) or ()
    earlier = {name: _digest(folder / name) for name in names if _digest(folder / name) in before}
    new = {name: _digest(staged / name) for name in names if (staged / name).exists()}
    _write_digests(folder, command, {*earlier.values(), *new.values()})
    for name in new:
        os.replace(staged / name, folder / name)
    for name in earlier.keys() - new.keys():
        (folder / name).unlink()
    _write_digests(folder, command, set(new.values()))


def folder_beside_better(folder: Path, word: str, words: Sequence[str]) -> Path:
    """Return a folder for results: this one, or a new one with a number if the report in it has a better verdict.

    Args:
        word: the word of the new verdict.
        words: the words of verdicts, the worst one first; other headings are worse than all of them.
    """
    rank = {name: number for number, name in enumerate(words)}
    if rank.get(_verdict_at(folder), -1) <= rank.get(word, -1):
        return folder
    numbered = (folder.with_name(f"{folder.name}_{number}") for number in count(2))
    return next(path for path in numbered if not path.exists())


def _verdict_at(folder: Path) -> str:
    """Return the word of the verdict of the report in a folder; empty if there is none."""
    try:
        return str(json.loads((folder / DATA).read_text(encoding="utf-8"))["verdict"]["word"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _list_of(folder: Path, command: str) -> Path:
    """Return the file that lists the digests of what a command wrote in a folder."""
    return folder / f".{command}.json"


def _digest(path: Path) -> str | None:
    """Hash a file; None if it is not a file."""
    if path.is_symlink() or not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _written_digests(folder: Path, command: str) -> set[str] | None:
    """Return the digests of what a command wrote in a folder; None if the list is damaged, or of other origin."""
    try:
        return set(json.loads(_list_of(folder, command).read_text(encoding="utf-8"))["written"])
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_digests(folder: Path, command: str, digests: Collection[str | None]) -> None:
    """Write the digests of what a command wrote in a folder, in one step."""
    from edittools._caching import atomic_path

    with atomic_path(_list_of(folder, command)) as temporary:
        temporary.write_text(json.dumps({"written": sorted(filter(None, digests))}), encoding="utf-8")
