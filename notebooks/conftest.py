"""Compare the outputs of notebooks as `refresh.py` stores them: without progress bars, and without stderr."""

from collections.abc import Sequence

from nbformat import NotebookNode
from nbval.plugin import IPyNbCell
from refresh import lasting

compare_all = IPyNbCell.compare_outputs


def compare_lasting(
    cell: IPyNbCell, found: Sequence[NotebookNode], stored: Sequence[NotebookNode], skip_compare: tuple | None = None
) -> bool:
    """Compare what stays of the outputs of a cell; bars depend on caches, and warnings on what was warned of before."""
    kept = [output for output in lasting(found) if output.get("name") != "stderr"]
    return compare_all(cell, kept, stored, skip_compare)


IPyNbCell.compare_outputs = compare_lasting
