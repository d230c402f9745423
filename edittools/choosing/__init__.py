"""How an edit is chosen, fairly: sets with one duty each, trials, the rule of choice, reports."""

from edittools.choosing.corruptions import corrupt, corrupted_errors
from edittools.choosing.protocol import BUDGET, Choice, Plan, Protocol, about_budget, add_layer, select, select_each
from edittools.choosing.report import report, strength_curve
from edittools.choosing.scenario import Scenario
from edittools.choosing.states import CachedStates, cache_states
from edittools.choosing.trials import (
    Trials,
    finetuning_trials,
    grid,
    locality_trials,
    random_trials,
    rewriting_trials,
    sweep,
)

__all__ = [
    "BUDGET",
    "CachedStates",
    "Choice",
    "Plan",
    "Protocol",
    "Scenario",
    "Trials",
    "about_budget",
    "add_layer",
    "cache_states",
    "corrupt",
    "corrupted_errors",
    "finetuning_trials",
    "grid",
    "locality_trials",
    "random_trials",
    "report",
    "rewriting_trials",
    "select",
    "select_each",
    "strength_curve",
    "sweep",
]  # fmt: skip
