"""Find what a prediction relies on: transform a concept, predict again, find the rules (section 5 of the paper)."""

from edittools.probing.counterfactuals import Concepts
from edittools.probing.effects import FALSE_DISCOVERY_RATE, LEAST_EFFECT, LEAST_IMAGES, Probe, pairs
from edittools.probing.probe import ProbeSettings, probe

__all__ = [
    "FALSE_DISCOVERY_RATE",
    "LEAST_EFFECT",
    "LEAST_IMAGES",
    "Concepts",
    "Probe",
    "ProbeSettings",
    "pairs",
    "probe",
]
