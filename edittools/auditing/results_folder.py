"""The folder into which a command writes its results.

This module imports nothing of the library, so that the command line checks a folder before torch is imported.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPORT, DATA, WINDOWS, SHEET, EDIT, WEIGHTS = (
    "report.html",
    "report.json",
    "windows.csv",
    "sheet.safetensors",
    "edit.safetensors",
    "weights.safetensors",
)
"""The names of results."""


def check_out(folder: Path, overwrite: bool = False) -> None:
    """Check that results can be written to a folder, which is made if it does not exist.

    Args:
        folder: the folder.
        overwrite: whether it may hold files, of which those with the names of results are replaced.

    Raises:
        FileExistsError: if it is not empty.
        OSError: if it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = not any(folder.iterdir())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"no results can be written to {str(folder)!r} ({error.strerror}); pass another folder with --out"
        ) from error
    if not is_empty and not overwrite:
        raise FileExistsError(
            f"{str(folder)!r} is not empty; pass a new folder (--out), or --force (overwrite=True), which replaces "
            "files of the same names as the results, and no others"
        )


@contextmanager
def results_in(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for results, which are moved once all of them are complete.

    After an exception, the folder of the results is as it was.

    Args:
        folder: the folder of the results. Its files of the same names are replaced, and no others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".results-", dir=folder) as temporary:
        yield Path(temporary)
        for path in sorted(Path(temporary).iterdir()):
            os.replace(path, folder / path.name)
