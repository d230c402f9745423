"""How an edit is selected: disjoint splits, constraints, a search over candidates, `repair` in one call, a verdict."""

from edittools.selection.activations import CachedActivations, SplitActivations, cache_activations
from edittools.selection.constraints import Constraints
from edittools.selection.judgment import Check, Evaluation, Verdict, judge
from edittools.selection.repair import RepairResult, repair
from edittools.selection.report import report_html, write_report
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

__all__ = ["METHODS", "REFERENCE_WEIGHTS", "CachedActivations", "Candidates", "Check", "Constraints", "EditSearch"]
__all__ += ["Evaluation", "RepairResult", "Selection", "SplitActivations", "Splits", "Verdict", "cache_activations"]
__all__ += ["candidate_layers", "check_disjoint", "grid", "judge", "label_by_prediction", "later_layers", "repair"]
__all__ += ["report_html", "split_clean", "write_report"]
