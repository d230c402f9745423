"""Paths for the files of an edit and of its report, which replace no file of another edit, and no better verdict."""

import json
import os
from itertools import count
from pathlib import Path

from edittools.edits import Edit
from edittools.selection.verdict import WORDS


def path_for_edit(path: str | os.PathLike, edit: Edit, suffix: str = ".safetensors") -> Path:
    """Return the whole path of a file about an edit, with a number if a file of that name must not be replaced.

    It must not if it is of another edit, or has a better verdict on the same edit, as after an interrupted selection.
    The file of an edit, the page of its report, and the data of the report have the same name with the suffixes
    `.safetensors`, `.html`, and `.json`.

    Args:
        path: the file.
        edit: the edit.
        suffix: is added to a name without a suffix.
    """
    path = Path(path).expanduser().absolute()
    if not path.suffix:
        path = path.with_suffix(suffix)
    numbered = path
    for number in count(2):
        is_replaceable = [
            digest == edit.digest and rank_of(verdict) <= rank_of(edit.verdict)
            for digest, verdict in edits_at(numbered)
        ]
        if all(is_replaceable):
            break
        numbered = path.with_stem(f"{path.stem}_{number}")
    return numbered


def rank_of(verdict: str | None) -> int:
    """Return how good a verdict is, by its first word: 0 if there is none."""
    words = [number for number, word in enumerate(WORDS, start=1) if (verdict or "").startswith(word)]
    return max(words, default=0)


def edits_at(path: Path) -> list[tuple[str, str | None]]:
    """Return the digests and the verdicts of the edits that the files of a name are about.

    The digest is empty if a file is damaged.

    Args:
        path: one of the files.
    """
    found: list[tuple[str, str | None]] = []
    edit_path, page_path, data_path = [path.with_suffix(suffix) for suffix in (".safetensors", ".html", ".json")]
    if data_path.exists():
        found.append(_of_report(data_path))
    elif page_path.exists():
        found.append(("", None))
    for file in {edit_path, path} - {page_path, data_path}:
        if file.exists():
            found.append(_of_edit(file))
    return found


def _of_report(path: Path) -> tuple[str, str | None]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return data["fingerprints"]["edit"], data.get("verdict", {}).get("word")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", None


def _of_edit(path: Path) -> tuple[str, str | None]:
    try:
        edit = Edit.load(path)
    except ValueError:
        return "", None
    return edit.digest, edit.verdict
