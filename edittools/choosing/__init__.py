"""How an edit is chosen, fairly: sets with one duty each, trials, the rule of choice, reports."""

from edittools.choosing.choice import BUDGET, Bounds, Choice, about_budget, cross_validated, most_broken
from edittools.choosing.protocol import SPARING, Plan, Protocol
from edittools.choosing.repair import Repair, repair
from edittools.choosing.scenario import Scenario
from edittools.choosing.states import CachedStates, cache_states, report, trade_off
from edittools.choosing.trials import Trials, grid, sweep

__all__ = ["BUDGET", "SPARING", "Bounds", "CachedStates", "Choice", "Plan", "Protocol", "Repair", "Scenario", "Trials"]
__all__ += ["about_budget", "cache_states", "cross_validated", "grid", "most_broken", "repair", "report", "sweep"]
__all__ += ["trade_off"]
