"""The three tiers that a story runs in: `mini` (nothing needed), `lite` (real photos), `paper` (model hubs)."""

import os
from collections.abc import Sequence
from typing import Any

from edittools.checks import check_amount
from edittools.world.contexts import SPLITS
from edittools.world.miniworld import Scenes, scenes

WORKERS = min(os.cpu_count() or 1, 4)

MODELS = {"mini": "mini_vgg", "lite": "efficientnet_lite0", "paper": "vgg16"}
"""The first classifier of each tier."""

UNTUNED = {
    "mini_vgg": "features.10",
    "mini_resnet": "layer3.0.conv2",
    "mini_vit": "blocks.3.mlp.fc2",
    "efficientnet_lite0": "blocks.4.0.conv_pw",
    "vgg16": "features.26",
}
"""A layer in the middle of the second half, chosen before anything was measured."""


def current_tier(tier: str | None = None) -> str:
    """Return the `tier` given, or else the one that `EDITTOOLS_TIER` names; raise `ValueError` for an unknown one."""
    name, tier = ("tier ", tier) if tier else ("EDITTOOLS_TIER=", os.environ.get("EDITTOOLS_TIER", "mini"))
    if tier not in MODELS:
        raise ValueError(f"{name}{tier!r}: expected one of {', '.join(MODELS)}")
    return tier


def painted(count: int, split: str, skip: int = 0, shown: Sequence[str] = (), **how: Any) -> Scenes:
    """Paint scenes of a split, from its seed number `skip` on, with the classes `shown` in turn; see `scenes`."""
    labels = [shown[i % len(shown)] for i in range(count)] if shown else None
    return scenes(count, SPLITS[split].start + skip, label=labels, **{"workers": WORKERS, **how})


def part_of(count: int, share: float) -> int:
    """Return a share of `count` scenes; raise `ValueError` for one that is not above 0 and at most 1."""
    if not 0 < check_amount(share, "share") <= 1:
        raise ValueError(f"share {share!r}: expected a number above 0, at most 1")
    return max(round(share * count), 1)
