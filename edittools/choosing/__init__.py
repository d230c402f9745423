"""How an edit is chosen, fairly: sets with one duty each, trials, the rule of choice, reports."""

from edittools.choosing.choice import BUDGET, KEEP, Choice, about_budget, add_layer, most_broken, select, select_each
from edittools.choosing.corruptions import corrupt, corrupted_errors
from edittools.choosing.protocol import SPARING, Plan, Protocol
from edittools.choosing.repair import Repair, repair
from edittools.choosing.report import report, strength_curve, trade_off
from edittools.choosing.scenario import Scenario
from edittools.choosing.states import CachedStates, cache_states
from edittools.choosing.trials import (
    Trials,
    best_runs,
    finetuning_trials,
    grid,
    random_trials,
    repeated_trials,
    rewriting_trials,
    sweep,
)

__all__ = ["BUDGET", "KEEP", "SPARING", "CachedStates", "Choice", "Plan", "Protocol", "Repair", "Scenario", "Trials"]
__all__ += ["about_budget", "add_layer", "best_runs", "cache_states", "corrupt", "corrupted_errors"]
__all__ += ["finetuning_trials", "grid", "most_broken", "random_trials", "repair", "repeated_trials", "report"]
__all__ += ["rewriting_trials", "select", "select_each", "strength_curve", "sweep", "trade_off"]
