"""The three tiers that a story runs in: `mini` (nothing needed), `lite` (real photos), `paper` (model hubs)."""

import os
from collections.abc import Sequence
from typing import Any

from edittools._checks import one_of
from edittools.miniworld.contexts import SPLITS
from edittools.miniworld.scenes import Scenes, scenes

WORKERS = min(os.cpu_count() or 1, 4)

MODELS = {
    "mini": ("mini_vgg", "mini_resnet", "mini_vgg_balanced"),
    "lite": ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"),
    "paper": ("vgg16", "resnet50"),
}
"""The classifiers of each tier: the first is edited, all are probed."""

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
    return one_of(tier or os.environ.get("EDITTOOLS_TIER", "mini"), MODELS, "tier" if tier else "EDITTOOLS_TIER")


def painted(count: int, split: str, skip: int = 0, shown: Sequence[str] = (), **how: Any) -> Scenes:
    """Paint scenes of a split, from its seed number `skip` on, with the classes `shown` in turn; see `scenes`."""
    labels = [shown[i % len(shown)] for i in range(count)] if shown else None
    return scenes(count, SPLITS[split].start + skip, label=labels, **{"workers": WORKERS, **how})
