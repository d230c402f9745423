"""What each notebook needs, by tier: classifiers, exemplars, and sets of images with one duty each."""

from edittools._checks import extra

with extra("scenarios", "scenarios"):
    from edittools.scenarios.rules import probing_story, repainted, scenario_for, shown_rule
    from edittools.scenarios.snow import desk_story, folder_story, snow_scenario
    from edittools.scenarios.tiers import current_tier
    from edittools.scenarios.typographic import typographic_scenario

__all__ = ["current_tier", "desk_story", "probing_story", "repainted", "scenario_for", "shown_rule", "snow_scenario"]
__all__ += ["folder_story", "typographic_scenario"]
