"""Check that `make demo` has corrected and broken about as many predictions as README says.

    make demo && python tests/check_demo.py

The expected numbers are those of the sentence on `make demo` in README, and of nothing else.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SENTENCE = re.compile(r"`make demo` corrects about (\d+) of (\d+) errors .* breaks about (\d+) ")
TOLERANCE = 0.02
"""Machines round differently, which changes a few predictions: this share of the errors."""


def main() -> None:
    """Compare the numbers in `out/demo.json` with those of README."""
    found = SENTENCE.search((ROOT / "README.md").read_text())
    if found is None:
        sys.exit(f"README.md has no sentence of the form {SENTENCE.pattern!r}; write what `make demo` prints there")
    expected = dict(zip(("corrected", "errors", "broken"), map(int, found.groups()), strict=True))
    measured = json.loads((ROOT / "out" / "demo.json").read_text())
    if measured["tier"] != "mini":
        sys.exit(f"out/demo.json is of tier {measured['tier']!r}; run `make demo` without EDITTOOLS_TIER")
    allowed = TOLERANCE * expected["errors"]
    for name, number in expected.items():
        if abs(measured[name] - number) > allowed:
            sys.exit(f"README says {name}: {number}, and `make demo` had {measured[name]} (±{allowed:.0f} is allowed)")
    print("make demo does what README says:", measured)


if __name__ == "__main__":
    main()
