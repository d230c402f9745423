"""The classifiers, exemplars and image sets of each notebook, by tier. The image sets of a scenario are disjoint."""

from edittools._checks import extra

with extra("scenarios", "notebooks"):
    from edittools_course.scenarios.own_folder import OwnFolder, own_folder
    from edittools_course.scenarios.rules import probing_setup, repainted, scenario_for
    from edittools_course.scenarios.scenario import Scenario
    from edittools_course.scenarios.snow import snow_scenario
    from edittools_course.scenarios.tiers import current_tier
    from edittools_course.scenarios.typographic import typographic_scenario

__all__ = [
    "OwnFolder",
    "Scenario",
    "current_tier",
    "own_folder",
    "probing_setup",
    "repainted",
    "scenario_for",
    "snow_scenario",
    "typographic_scenario",
]
