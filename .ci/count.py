"""Count the lines of each package, and those that hold code: `make count`.

Code is what is left of a Python file without docstrings, comments, and blank lines, and of a script or a style sheet
without blank lines.
"""

import ast
import io
import subprocess
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("edittools", "edittools_course", "tests", "benchmarks")
SUFFIXES = {".py", ".js", ".css", ".html"}
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(path: Path) -> int:
    """Count the lines of a file that hold code."""
    text = path.read_text()
    if path.suffix != ".py":
        return sum(bool(line.strip()) for line in text.splitlines())
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        is_text = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if is_text:
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def main() -> None:
    """Print a table of the parts and their sum."""
    listed = subprocess.run(["git", "ls-files", *PARTS], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.splitlines()]
    paths = [path for path in paths if path.suffix in SUFFIXES and path.exists()]
    print(f"{'':<18}{'files':>8}{'lines':>9}{'code':>9}")
    rows = {part: [path for path in paths if path.relative_to(ROOT).parts[0] == part] for part in PARTS}
    for title, members in {**rows, "together": paths}.items():
        lines = sum(len(path.read_text().splitlines()) for path in members)
        code = sum(code_lines(path) for path in members)
        print(f"{title:<18}{len(members):>8,}{lines:>9,}{code:>9,}")


if __name__ == "__main__":
    main()
