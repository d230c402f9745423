"""Paths for the files of an edit and of its report, which replace no file of another edit."""

import json
import os
from itertools import count
from pathlib import Path

from edittools.edits import Edit


def path_for_edit(path: str | os.PathLike, digest: str) -> Path:
    """Return the whole path of a file about an edit, with a number if a file of that name is of another edit.

    The file of an edit, the page of its report, and the data of the report have the same name with the suffixes
    `.safetensors`, `.html`, and `.json`.

    Args:
        path: the file.
        digest: the digest of the edit.
    """
    path = Path(path).expanduser().absolute()
    numbered = path
    for number in count(2):
        if digests_at(numbered) <= {digest}:
            break
        numbered = path.with_stem(f"{path.stem}_{number}")
    return numbered


def digests_at(path: Path) -> set[str]:
    """Return the digests of the edits that the files of a name are about; an empty one if a file does not tell."""
    digests = set()
    edit_path, page_path, data_path = [path.with_suffix(suffix) for suffix in (".safetensors", ".html", ".json")]
    if data_path.exists():
        digests.add(_digest_of_report(data_path))
    elif page_path.exists():
        digests.add("")
    for file in {edit_path, path} - {page_path, data_path}:
        if file.exists():
            digests.add(_digest_of_edit(file))
    return digests


def _digest_of_report(path: Path) -> str:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["fingerprints"]["edit"]
    except (ValueError, KeyError, TypeError):
        return ""


def _digest_of_edit(path: Path) -> str:
    try:
        return Edit.load(path).digest
    except ValueError:
        return ""
