"""Notebook 05's story, the desk: a classifier, and pictures that it misreads."""

from functools import partial

from edittools.classifiers import Classifier
from edittools.images import LabelledImages
from edittools.stories import photos
from edittools.stories.snow import POLAR, VEHICLES, everyday_photos
from edittools.stories.tiers import current_tier, in_turn
from edittools.world.contexts import SPLITS
from edittools.world.miniworld import scenes
from edittools.zoo.load import load_classifier


def desk_story(tier: str | None = None, progress: bool = False) -> tuple[Classifier, dict[str, LabelledImages]]:
    """Give a classifier and pictures for the desk: vehicles on snow, in the tier of `EDITTOOLS_TIER` by default.

    The sets are `images`, of which some are misread, `everyday` ones, ones to `keep`, and `test` for later. The tier
    `paper` takes those of `lite`.
    """
    if current_tier(tier) != "mini":
        classifier = load_classifier("efficientnet_lite0")
        images, test = photos.snow_photos(classifier, progress).split(0.5, seed=0)
        others = everyday_photos(classifier, progress)
        return classifier, {"images": images, "everyday": others["budget"], "keep": others["keep"], "test": test}
    paint, validation, test = partial(scenes, progress=progress), SPLITS["validation"].start, SPLITS["test"].start
    return load_classifier("mini_vgg"), {
        "images": paint(48, validation + 100_000, label=in_turn(VEHICLES, 48), ground="snow"),
        "everyday": paint(240, "validation"),
        "keep": paint(60, validation + 50_000, label=in_turn(POLAR, 60)),
        "test": paint(120, test + 100_000, label=in_turn(VEHICLES, 120), ground="snow"),
    }
