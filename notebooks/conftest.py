"""Compare the outputs of notebooks as `refresh.py` stores them, and check the claims of their texts in the same kernel."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from nbval.plugin import IPyNbCell, IPyNbFile
from refresh import lasting, numbers_in

CLAIMS = Path(__file__).resolve().parent.parent / "tests" / "claims"
"""One file per notebook: assertions about its variables, which run after its last cell."""

compare_all = IPyNbCell.compare_outputs
collect_cells = IPyNbFile.collect


def compare_lasting(
    cell: IPyNbCell, found: Sequence[NotebookNode], stored: Sequence[NotebookNode], skip_compare: tuple | None = None
) -> bool:
    """Compare what stays of the outputs of a cell, and what its pictures plot.

    Bars depend on caches, and warnings on what was warned of before.
    """
    kept = [output for output in lasting(found) if output.get("name") != "stderr"]
    if not compare_all(cell, kept, stored, skip_compare):
        return False
    plotted = numbers_of(kept)
    committed = numbers_of(stored)
    if len(plotted) != len(committed) or not np.allclose(plotted, committed, rtol=0.05, atol=0.05, equal_nan=True):
        cell.comparison_traceback.append("a committed picture plots other numbers than this run")
        return False
    return True


def numbers_of(outputs: Sequence[NotebookNode]) -> list[float]:
    """List the numbers that the pictures of a cell plot."""
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [number for picture in pictures for number in numbers_in(picture)]


def collect_with_claims(notebook: IPyNbFile) -> Iterator[IPyNbCell]:
    """Collect the cells of a notebook, and the claims of its text as one more cell."""
    cells = list(collect_cells(notebook))
    yield from cells
    claims = CLAIMS / notebook.path.with_suffix(".py").name
    if claims.exists():
        options = defaultdict(bool, check=True)
        cell = new_code_cell(claims.read_text(encoding="utf-8"))
        yield IPyNbCell.from_parent(notebook, name="Claims", cell_num=len(cells), cell=cell, options=options)


IPyNbCell.compare_outputs = compare_lasting
IPyNbFile.collect = collect_with_claims
