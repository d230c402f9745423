"""The table of journeys in docs/design.md names each module of the library once."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def named_modules() -> Counter:
    """Count how often the third column of the table names each module, such as `selection.hosts`."""
    page = (ROOT / "docs/design.md").read_text()
    table = page.split("## Journeys", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")]
    return Counter(name for row in rows[1:] for name in re.findall(r"`([\w.]+)`", row[3]))


def test_each_module_stands_in_one_row_of_the_table_of_journeys():
    package = ROOT / "edittools"
    paths = [path.relative_to(package) for path in package.rglob("*.py") if path.name != "__init__.py"]
    modules = {".".join(path.with_suffix("").parts) for path in paths}
    named = named_modules()
    assert modules - set(named) == set(), "modules without a journey: name the one of each in docs/design.md"
    assert set(named) - modules == set(), "the table names modules that do not exist"
    assert max(named.values()) == 1, "a module stands in more than one row"
