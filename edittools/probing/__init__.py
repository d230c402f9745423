"""What a prediction rests on: transform a concept, predict again, find the rules (section 5 of the paper)."""

from edittools.probing.counterfactuals import Concepts, Counterfactual, control_mask, exemplar_for, materials
from edittools.probing.effects import (
    FALSE_DISCOVERY_RATE,
    LEAST_EFFECT,
    LEAST_IMAGES,
    agreement,
    effect_changes,
    effects,
    rules,
    score,
)
from edittools.probing.probe import probe, probe_swaps

__all__ = [
    "FALSE_DISCOVERY_RATE", "LEAST_EFFECT", "LEAST_IMAGES", "Concepts", "Counterfactual", "agreement",
    "control_mask", "effect_changes", "effects", "exemplar_for", "materials", "probe", "probe_swaps", "rules",
    "score",
]  # fmt: skip
