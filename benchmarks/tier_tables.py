"""The table of docs/tiers.md: what a first run of tier `paper` costs, from docs/results/paper_rehearsal.json."""

from collections.abc import Mapping
from typing import Any

COLUMNS = {
    "before": "up to the layer, s",
    "after": "after it, s",
    "l1": "L1 solve, s",
    "least_squares": "least squares, s",
    "peak_mb": "peak, MB",
}
FULL = {"minutes": "minutes", "memory_gb": "memory, GB", "download_mb": "downloads, MB", "disk_mb": "disk, MB"}


def paper(found: Mapping[str, Any]) -> str:
    """A row for each model and story: outcome, seconds a step, the estimate of the first full run; or nothing."""
    if not found:
        return ""
    titles = ["model", "story", "rehearsal", *COLUMNS.values(), *(f"full run: {title}" for title in FULL.values())]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for row in found["rows"]:
        steps = [_number(row.get(name)) for name in COLUMNS]
        estimates = [_number(row.get("full", {}).get(name)) for name in FULL]
        lines.append(f"| {' | '.join([row['model'], row['story'], _said(row['outcome']), *steps, *estimates])} |")
    return f"`{found['call']}`, {found['date']}.\n\n" + "\n".join(lines) + f"\n\n{found['estimated']}"


def _number(value: float | None) -> str:
    """Two significant digits, whole numbers from 10 on with a comma for thousands; nothing where none was measured."""
    if value is None or value != value:
        return ""
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def _said(outcome: str) -> str:
    return outcome.replace("|", "\\|").splitlines()[0]
