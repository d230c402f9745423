"""Refresh the committed notebooks: execute each, drop what depends on the machine, check the size.

    python notebooks/refresh.py [01_snow_on_road.ipynb ...]

Widget state (which repeats every image) and the interpreter's version are dropped; a notebook of 1 MB or more, with an
error or without outputs, is refused and the old file stays.
"""

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

LIMIT = 1_000_000
FOLDER = Path(__file__).resolve().parent


def refresh(path: Path) -> str:
    """Execute one notebook, strip it and write it back in one step; give a line that says how it went."""
    notebook = nbformat.read(path, 4)
    started = time.perf_counter()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    seconds = time.perf_counter() - started
    strip(notebook)
    text = nbformat.writes(notebook)
    if len(text.encode()) >= LIMIT:
        raise SystemExit(f"{path.name} would hold {len(text.encode()):,} bytes: expected less than {LIMIT:,}")
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)
    return f"{path.name}: {seconds:.0f} s, {len(text.encode()) / 1000:.0f} kB"


def strip(notebook: nbformat.NotebookNode) -> None:
    """Drop widget state, the interpreter's version, execution times and progress bars."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(p.name for p in FOLDER.glob("[0-9]*.ipynb"))
    for name in names:
        print(refresh(FOLDER / Path(name).name))
