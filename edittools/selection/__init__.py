"""How an edit is selected: disjoint splits, constraints, a search over candidates, `repair` in one call, a verdict."""

from edittools.activations import CachedActivations, cache_activations
from edittools.layers import candidate_layers
from edittools.selection.assessment import Assessment
from edittools.selection.constraints import Constraints
from edittools.selection.evaluation import Evaluation
from edittools.selection.outcomes import Candidate, Candidates, Outcomes, grid
from edittools.selection.repair import repair
from edittools.selection.search import Search, Selection
from edittools.selection.select import select_edit
from edittools.selection.split_activations import SplitActivations
from edittools.selection.splits import Splits, check_disjoint, label_by_prediction, split_clean, stratified_folds
from edittools.selection.verdict import Check, Verdict

__all__ = [
    "Assessment",
    "CachedActivations",
    "Candidate",
    "Candidates",
    "Check",
    "Constraints",
    "Evaluation",
    "Outcomes",
    "Search",
    "Selection",
    "SplitActivations",
    "Splits",
    "Verdict",
    "cache_activations",
    "candidate_layers",
    "check_disjoint",
    "grid",
    "label_by_prediction",
    "repair",
    "select_edit",
    "split_clean",
    "stratified_folds",
]
