"""How an edit is chosen, fairly: sets with one duty each, trials, the rule of choice, reports."""

from edittools.choosing.choice import BUDGET, Bounds, Choice, about_budget, cross_validated, most_broken, select
from edittools.choosing.corruptions import corrupt, corrupted_errors
from edittools.choosing.protocol import SPARING, Plan, Protocol
from edittools.choosing.repair import Repair, repair
from edittools.choosing.report import report, strength_curve, trade_off
from edittools.choosing.scenario import Scenario
from edittools.choosing.states import CachedStates, cache_states
from edittools.choosing.trials import Trials, finetuning_trials, grid, method_trials, sweep

__all__ = ["BUDGET", "SPARING", "Bounds", "CachedStates", "Choice", "Plan", "Protocol", "Repair", "Scenario", "Trials"]
__all__ += ["about_budget", "cache_states", "corrupt", "corrupted_errors", "cross_validated"]
__all__ += ["finetuning_trials", "grid", "method_trials", "most_broken", "repair", "report", "select"]
__all__ += ["strength_curve", "sweep", "trade_off"]
