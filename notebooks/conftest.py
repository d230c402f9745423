"""Compare the outputs of notebooks as `refresh.py` stores them, and check the claims of their texts in the same kernel."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from nbval.plugin import IPyNbCell, IPyNbFile
from refresh import lasting

CLAIMS = Path(__file__).resolve().parent.parent / "tests" / "claims"
"""One file per notebook: assertions about its variables, which run after its last cell."""

compare_all = IPyNbCell.compare_outputs
collect_cells = IPyNbFile.collect


def compare_lasting(
    cell: IPyNbCell, found: Sequence[NotebookNode], stored: Sequence[NotebookNode], skip_compare: tuple | None = None
) -> bool:
    """Compare what stays of the outputs of a cell; bars depend on caches, and warnings on what was warned of before."""
    kept = [output for output in lasting(found) if output.get("name") != "stderr"]
    return compare_all(cell, kept, stored, skip_compare)


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
