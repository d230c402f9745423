"""How an edit is selected: disjoint splits, constraints, a search over candidates, `repair` in one call, a verdict."""

from edittools.selection.evaluation import CachedActivations, Constraints, SplitActivations, cache_activations
from edittools.selection.judgment import Check, Evaluation, Verdict, judge
from edittools.selection.repair import RepairResult, repair
from edittools.selection.search import (
    METHODS,
    REFERENCE_WEIGHTS,
    Candidate,
    Candidates,
    EditSearch,
    Outcomes,
    Selection,
    candidate_layers,
    grid,
)
from edittools.selection.splits import Splits, check_disjoint, label_by_prediction, split_clean

__all__ = [
    "METHODS",
    "REFERENCE_WEIGHTS",
    "CachedActivations",
    "Candidate",
    "Candidates",
    "Check",
    "Constraints",
    "EditSearch",
    "Evaluation",
    "Outcomes",
    "RepairResult",
    "Selection",
    "SplitActivations",
    "Splits",
    "Verdict",
    "cache_activations",
    "candidate_layers",
    "check_disjoint",
    "grid",
    "judge",
    "label_by_prediction",
    "repair",
    "split_clean",
]
