"""The three tiers that a story runs in: `mini` (nothing needed), `lite` (real photos), `paper` (model hubs)."""

import os
from collections.abc import Sequence

from edittools.checks import check_amount

TIERS = ("mini", "lite", "paper")


def current_tier(tier: str | None = None) -> str:
    """Return the `tier` given, or else the one that `EDITTOOLS_TIER` names; raise `ValueError` for an unknown one."""
    name, tier = ("tier ", tier) if tier else ("EDITTOOLS_TIER=", os.environ.get("EDITTOOLS_TIER", "mini"))
    if tier not in TIERS:
        raise ValueError(f"{name}{tier!r}: expected one of {', '.join(TIERS)}")
    return tier


def in_turn(names: Sequence[str], count: int) -> list[str]:
    """Repeat the names, one after the other, up to so many."""
    return [names[i % len(names)] for i in range(count)]


def part_of(count: int, share: float) -> int:
    """Return a share of `count` scenes; raise `ValueError` for one that is not above 0 and at most 1."""
    if not 0 < check_amount(share, "share") <= 1:
        raise ValueError(f"share {share!r}: expected a number above 0, at most 1")
    return max(round(share * count), 1)
