"""How an edit is selected without labels, by hosts, and measured with labels: `select_edit`, `repair`, a verdict."""

from edittools.layers import candidate_layers
from edittools.selection.assessment import Assessment
from edittools.selection.effects import Effect
from edittools.selection.finetuning import finetune_without_labels
from edittools.selection.hosts import Hosts
from edittools.selection.repair import repair
from edittools.selection.scores import Candidate, Scores
from edittools.selection.select import Selection, select_edit
from edittools.selection.splits import Splits, check_disjoint, label_by_prediction
from edittools.states import States, states_of
from edittools.verdict import Check, Cost, Kind

__all__ = [
    "Assessment",
    "Candidate",
    "Check",
    "Cost",
    "Effect",
    "Hosts",
    "Kind",
    "Scores",
    "Selection",
    "Splits",
    "States",
    "candidate_layers",
    "check_disjoint",
    "finetune_without_labels",
    "label_by_prediction",
    "repair",
    "select_edit",
    "states_of",
]
