"""Fail where a notebook lacks outputs, or was not run from top to bottom; pre-commit runs this.

python notebooks/check_outputs.py notebooks/*.ipynb
"""

import json
import sys
from pathlib import Path


def problems(path: Path) -> list[str]:
    """Say what a notebook lacks.

    Args:
        path: the notebook.

    Returns:
        One sentence per problem; none if each code cell was run, in order and without an error, and some have outputs.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    found = []
    for number, cell in enumerate(code, start=1):
        count = cell.get("execution_count")
        kinds = {output["output_type"] for output in cell["outputs"]}
        if count is None:
            found.append(f"code cell {number} was not run")
        elif count != number:
            found.append(f"code cell {number} was run as number {count}")
        if "error" in kinds:
            found.append(f"code cell {number} ended with an error")
    if not any(cell["outputs"] for cell in code):
        found.append("there are no outputs")
    return found


def main(paths: list[str]) -> int:
    """Print the problems of each notebook; return 1 if there are any."""
    failed = False
    for path in paths:
        for problem in problems(Path(path)):
            print(f"{path}: {problem}; run notebooks/refresh.py {Path(path).name}")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
