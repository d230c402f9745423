"""What a run of the tests says about those it skipped."""

from conftest import skipped_line


def test_skipped_line_groups_reasons():
    reasons = ["Skipped: no chromium: apt-get install chromium"] * 3 + ["Skipped: no photographs here"]
    assert (
        skipped_line(reasons[::-1]) == "4 skipped: 3 × no chromium: apt-get install chromium; 1 × no photographs here"
    )
