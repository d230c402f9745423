"""What nbval does not check: cleared outputs, widget state and size; and notebooks on real photos in tier lite."""

import base64
import io
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import SHARED_PHOTOS, needs_imagenette, needs_photos
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))
CHECK = runpy.run_path(str(FOLDER / "check_outputs.py"))
WIDEST = 850
"""Pixels across: a wider figure is scaled down on a page of 800 pixels, until its labels are hard to read."""

REDUCED_SCENARIO = """
from dataclasses import replace
from edittools_course import scenarios
from edittools_course.scenarios import photos

all_photos = photos.available
full_scenario = scenarios.snow_scenario

def some_photos(prefix):
    step = 1 if "snow" in prefix else 4
    return all_photos(prefix)[::step]

def small_scenario(*args, **options):
    scenario = full_scenario(*args, **options)
    exemplars = {"minivan": scenario.exemplars["minivan"]}
    late_layer = "blocks.5.1.conv_pwl"  # little of the network follows it
    default = {**scenario.default, "layer": late_layer}
    return replace(scenario, exemplars=exemplars, default=default, layers=(late_layer,))

photos.available = some_photos
scenarios.snow_scenario = small_scenario
"""


def run_on_photos(monkeypatch, name, first_cell):
    """Run a notebook in tier lite after a cell that makes it shorter, and return what it prints."""
    monkeypatch.setenv("EDITTOOLS_TIER", "lite")
    monkeypatch.setenv("EDITTOOLS_PHOTOS", str(Path(SHARED_PHOTOS).resolve()))  # the kernel runs in another folder
    notebook = nbformat.read(FOLDER / name, 4)
    notebook.cells.insert(0, new_code_cell(first_cell))
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(FOLDER)}}).execute()
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))


@needs_photos
def test_notebook_01_on_real_photos(monkeypatch):
    """Run the notebook with one layer, one exemplar and a quarter of the clean photos.

    The limits are wide, since only 35 test photos are misclassified.
    """
    text = run_on_photos(monkeypatch, "01_snow_on_road.ipynb", REDUCED_SCENARIO)
    corrected, cost = re.search(r"lite: (-?\d+)% of the errors .* clean images ([+-]\d+\.\d+) points", text).groups()
    assert 5 <= int(corrected) <= 70
    assert -5 <= float(cost) <= 5


ONE_LAYER = """
import edittools as et

full_repair = et.repair

def repair_one_layer(*args, **options):
    options["layers"] = ["features.11.squeeze"]
    return full_repair(*args, **options)

et.repair = repair_one_layer
"""


@needs_imagenette
def test_notebook_05_on_real_photos(monkeypatch):
    """Run the notebook with one layer; an edit from one mark corrects many errors on new photos."""
    text = run_on_photos(monkeypatch, "05_your_own_model.ipynb", ONE_LAYER)
    corrected, errors = re.search(r"(\d+) of (\d+) errors on new images with a tag are corrected", text).groups()
    assert 50 < int(errors) < 150
    assert int(corrected) > int(errors) / 3


TWO_FIGURES = """
import matplotlib.pyplot as plt
from edittools_course.plots import show_figure

for heights in ([1, 2, 3], [3, 2, 1]):
    figure, axis = plt.subplots(figsize=(2, 2))
    axis.plot(heights)
    show_figure(figure, "a line")
"""


def test_swapped_pictures_fail_validation(tmp_path):
    """Two figures with the same text take each other's place; only what they plot tells them apart."""
    for name in ("conftest.py", "refresh.py"):
        shutil.copy(FOLDER / name, tmp_path)
    path = tmp_path / "figures.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(TWO_FIGURES)]), path)
    subprocess.run([sys.executable, "refresh.py", path.name], cwd=tmp_path, check=True)
    notebook = nbformat.read(path, 4)
    first, second = notebook.cells[0].outputs
    first.data["image/png"], second.data["image/png"] = second.data["image/png"], first.data["image/png"]
    nbformat.write(notebook, tmp_path / "swapped.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env", path.name, "swapped.ipynb"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "1 failed, 1 passed" in result.stdout
    assert "FAILED swapped.ipynb" in result.stdout


def test_notebooks_are_committed_as_run_from_top_to_bottom():
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, 4)
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        assert CHECK["problems"](path) == []
        assert {"stream", "execute_result"} <= {output.output_type for output in outputs}, path.stem
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2, path.stem
        assert "widgets" not in notebook.metadata and path.stat().st_size < 1_000_000, path.stem
        assert not re.search(r"/(home|root|tmp|work)/", path.read_text()), path.stem
        assert not re.search(r"\d+%\|.*\d\d:\d\d<", path.read_text()), path.stem  # no progress bar


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_have_a_text_and_fit_on_a_page(path):
    cells = nbformat.read(path, 4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]
    for output in outputs:
        assert output.metadata["image/png"]["alt"]
        picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
        assert picture.width <= WIDEST, output.metadata["image/png"]["alt"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_solutions_are_hidden_with_their_outputs(path):
    solutions = [cell for cell in nbformat.read(path, 4).cells if cell.source.startswith("# Solution")]
    assert solutions
    for cell in solutions:
        assert cell.metadata.jupyter == {"source_hidden": True, "outputs_hidden": True}
        assert "solution" in cell.metadata.tags


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_results_that_are_to_be_predicted_are_collapsed(path):
    asks = False
    collapsed = []
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            asks = "**Predict:**" in cell.source
        elif asks:
            collapsed.append(cell.metadata.get("jupyter", {}).get("outputs_hidden", False))
            assert "prediction" in cell.metadata.tags
    assert collapsed and all(collapsed)
