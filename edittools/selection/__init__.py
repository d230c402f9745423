"""How an edit is chosen, fairly: sets with one duty each, trials, the rule of choice, reports."""

from edittools.selection.activations import CachedStates, cache_states, report, trade_off
from edittools.selection.constraints import BUDGET, Bounds, Choice, about_budget, cross_validated, most_broken
from edittools.selection.repair import Repair, repair
from edittools.selection.scenario import Scenario
from edittools.selection.search import SPARING, Plan, Protocol
from edittools.selection.trials import Trials, grid, sweep

__all__ = ["BUDGET", "SPARING", "Bounds", "CachedStates", "Choice", "Plan", "Protocol", "Repair", "Scenario", "Trials"]
__all__ += ["about_budget", "cache_states", "cross_validated", "grid", "most_broken", "repair", "report", "sweep"]
__all__ += ["trade_off"]
