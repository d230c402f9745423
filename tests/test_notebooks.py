"""What nbval does not see: cleared outputs, widget state, size; and the notebooks in tier lite, where photos are."""

import re
from pathlib import Path

import nbformat
import pytest
from conftest import SHARED_PHOTOS, needs_photos
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS][:1] == ["01_snow_on_road"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran_from_top_to_bottom(path):
    notebook = nbformat.read(path, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert "error" not in kinds and {"stream", "execute_result"} <= kinds
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs) >= 3
    assert "widgets" not in notebook.metadata and path.stat().st_size < 1_000_000
    assert not re.search(r"/(home|root|tmp|work)/", path.read_text())


@needs_photos
def test_notebook_01_holds_its_claim_on_real_photos(monkeypatch):
    """The bounds are wide since only 35 test photos are misread: 3 mended net is what we saw, 2 to 24 what we accept.

    The notebook itself asserts that clean accuracy keeps the budget on the photos it was chosen on and that random
    directions do not; that fine-tuning mends fewer it asserts in tier mini only, where there are errors enough.
    """
    monkeypatch.setenv("EDITTOOLS_TIER", "lite")
    monkeypatch.setenv("EDITTOOLS_PHOTOS", str(Path(SHARED_PHOTOS).resolve()))  # the kernel runs in another folder
    notebook = nbformat.read(FOLDER / "01_snow_on_road.ipynb", 4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(FOLDER)}}).execute()
    text = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
    corrected, cost = re.search(r"lite: (-?\d+)% of the errors .* clean accuracy ([+-]\d+\.\d+) points", text).groups()
    assert 5 <= int(corrected) <= 70
    assert -0.25 <= float(cost) <= 5
