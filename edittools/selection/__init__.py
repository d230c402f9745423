"""How an edit is selected: disjoint splits, constraints, a search over candidates, and `repair` in one call."""

from edittools.selection.activations import CachedActivations, SplitActivations, cache_activations
from edittools.selection.constraints import Constraints
from edittools.selection.repair import RepairResult, repair
from edittools.selection.search import (
    METHODS,
    REFERENCE_WEIGHTS,
    Candidates,
    EditSearch,
    Selection,
    candidate_layers,
    grid,
    later_layers,
)
from edittools.selection.splits import Splits, check_disjoint, label_by_prediction, split_clean

__all__ = ["METHODS", "REFERENCE_WEIGHTS", "CachedActivations", "Candidates", "Constraints", "EditSearch"]
__all__ += ["RepairResult", "Selection", "SplitActivations", "Splits", "cache_activations", "candidate_layers"]
__all__ += ["check_disjoint", "grid", "label_by_prediction", "later_layers", "repair", "split_clean"]
