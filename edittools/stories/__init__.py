"""What each notebook needs, by tier: classifiers, exemplars, and sets of images with one duty each."""

from edittools.checks import extra

with extra("stories", "stories"):
    from edittools.stories.cures import Cure, scenario_for, shown_rule
    from edittools.stories.own_model import desk_story
    from edittools.stories.rules import Probing, probing_scenario
    from edittools.stories.snow import snow_scenario
    from edittools.stories.tiers import current_tier
    from edittools.stories.typographic import typographic_scenario

__all__ = ["Cure", "Probing", "current_tier", "desk_story", "probing_scenario"]
__all__ += ["scenario_for", "shown_rule", "snow_scenario", "typographic_scenario"]
