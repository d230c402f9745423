"""Each benchmark with `--quick`: it writes its results."""

import subprocess
import sys
from pathlib import Path

import pytest
from _lib.results import COLUMNS, read_results, read_run
from conftest import needs_photos

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ("demo", "tables")
OF_PHOTOS = ("handwriting", "snow_lite", "watermark")
NEED_MORE_PHOTOS = (
    "gate",
    "learned_shortcut",
    "rivals",
    "contact_sheets",
    "selection_cost",
    "skin",
    "varied_marks",
)  # which have to be downloaded
LEFT_OUT = (*TOOLS, *NEED_MORE_PHOTOS)
SCRIPTS = [path.stem for path in sorted((ROOT / "benchmarks").glob("*.py")) if path.stem not in LEFT_OUT]

RUNS = {
    **{script: (script,) for script in SCRIPTS},
    "snow_lite": ("snow", "--tier", "lite"),
    "snow_development": ("snow", "--development"),
    "synthetic_exemplars": ("synthetic", "--exemplars", "1", "3"),
}
"""The script and the options of each quick run."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_photos if name in OF_PHOTOS else ()) for name in RUNS])
def test_quick_run_writes_the_results(name, tmp_path):
    script, *more = RUNS[name]
    output = tmp_path / f"{name}.csv"
    command = [sys.executable, ROOT / "benchmarks" / f"{script}.py", *more, "--quick", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    table = read_results(name, tmp_path)
    assert list(table.columns) == COLUMNS and len(table)
    assert "--quick" in read_run(name, tmp_path)["command"]
