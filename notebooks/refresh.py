"""Refresh the committed notebooks: execute each, drop what depends on the machine, check the size.

    python notebooks/refresh.py [01_snow_on_road.ipynb ...]

Widget state (which repeats every image), progress bars and the interpreter's version are dropped, and pictures keep 256
colors; a notebook of 1 MB or more, with an error or without outputs, is refused and the old file stays.
"""

import base64
import io
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image
from PIL.PngImagePlugin import PngInfo

LIMIT = 1_000_000
WIDGET = "application/vnd.jupyter.widget-view+json"
PASSING = re.compile(r"\d\d:\d\d[<,]|building the font cache")
"""What a progress bar says, with and without a total, and matplotlib where it has no cache yet and the machine is slow."""
FOLDER = Path(__file__).resolve().parent


def refresh(path: Path) -> str:
    """Execute one notebook, strip it and write it back in one step; give a line that says how it went."""
    notebook = nbformat.read(path, 4)
    started = time.perf_counter()
    NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(path.parent)}}).execute()
    seconds = time.perf_counter() - started
    strip(notebook)
    text = nbformat.writes(notebook)
    if len(text.encode()) >= LIMIT:
        raise SystemExit(f"{path.name} would hold {len(text.encode()):,} bytes: expected less than {LIMIT:,}")
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)
    return f"{path.name}: {seconds:.0f} s, {len(text.encode()) / 1000:.0f} kB"


def strip(notebook: NotebookNode) -> None:
    """Drop widget state, the interpreter's version, execution times and progress bars; make pictures small."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in lasting(cell.outputs) if output.get("name") != "stderr"]
            for data in (output.data for output in cell.outputs if "data" in output):
                data.pop(WIDGET, None)  # without its state it would be an error where a picture or a text can be
                if "image/png" in data:
                    data["image/png"] = smaller(data["image/png"])


def smaller(picture: str) -> str:
    """Keep 256 colors of a PNG, which takes a third of the room, and the numbers that it plots."""
    file = io.BytesIO()
    whole = Image.open(io.BytesIO(base64.b64decode(picture)))
    description = PngInfo()
    description.add_text("Description", json.dumps(numbers_in(picture)))
    whole.convert("RGB").quantize(256, kmeans=3).save(file, format="PNG", optimize=True, pnginfo=description)
    return base64.b64encode(file.getvalue()).decode()


def numbers_in(picture: str) -> list[float]:
    """Read the numbers that a figure plots from the description of its PNG; none if there are none."""
    text = Image.open(io.BytesIO(base64.b64decode(picture))).text
    return json.loads(text.get("Description", "[]"))


def lasting(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Leave out of a cell's outputs what comes and goes with caches and speed: progress bars, notes on stderr."""
    return [output for output in outputs if not PASSING.search(_beside(output))]


def _beside(output: NotebookNode) -> str:
    """The text of an output that is neither a cell's result nor printed."""
    if output.output_type == "display_data":
        return output.data.get("text/plain", "")
    return output.text if output.get("name") == "stderr" else ""


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(p.name for p in FOLDER.glob("[0-9]*.ipynb"))
    for name in names:
        print(refresh(FOLDER / Path(name).name))
