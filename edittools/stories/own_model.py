"""Notebook 05's story, the desk: a classifier, and pictures that it misreads."""

from functools import partial

from edittools.classifiers import Classifier
from edittools.images import LabelledImages
from edittools.stories import photos
from edittools.stories.snow import everyday_photos
from edittools.stories.tiers import Device, _in_turn, current_tier
from edittools.world.contexts import SPLITS, contexts
from edittools.world.miniworld import CLASSES, scenes
from edittools.zoo.load import load_classifier

COUNTS = {"images": 48, "everyday": 240, "keep": 60, "test": 120}
"""How many scenes each set has in MiniWorld."""


def desk_story(
    tier: str | None = None, progress: bool = False, device: Device = None
) -> tuple[Classifier, dict[str, LabelledImages]]:
    """Give a classifier and pictures for the desk: vehicles on snow, in the tier of `EDITTOOLS_TIER` by default.

    The sets are `images`, of which some are misread, `everyday` ones, ones to `keep`, and `test` for later. The tier
    `paper` takes those of `lite`.
    """
    return _miniworld(progress, device) if current_tier(tier) == "mini" else _photographs(progress, device)


def _miniworld(progress: bool, device: Device) -> tuple[Classifier, dict[str, LabelledImages]]:
    paint = partial(scenes, progress=progress)
    family = contexts().family
    vehicles = [c for c in CLASSES if family[c] == "vehicle" and c != "car"]
    polar = [c for c in CLASSES if family[c] == "polar"]
    validation, test = SPLITS["validation"].start, SPLITS["test"].start
    labels = {name: _in_turn(polar if name == "keep" else vehicles, count) for name, count in COUNTS.items()}
    return load_classifier("mini_vgg", device), {
        "images": paint(COUNTS["images"], validation + 100_000, label=labels["images"], ground="snow"),
        "everyday": paint(COUNTS["everyday"], "validation"),
        "keep": paint(COUNTS["keep"], validation + 50_000, label=labels["keep"]),
        "test": paint(COUNTS["test"], test + 100_000, label=labels["test"], ground="snow"),
    }


def _photographs(progress: bool, device: Device) -> tuple[Classifier, dict[str, LabelledImages]]:
    classifier = load_classifier("efficientnet_lite0", device)
    images, test = photos.snow_photos(classifier, progress).split(0.5, seed=0)
    others = everyday_photos(classifier, progress)
    return classifier, {"images": images, "everyday": others["budget"], "keep": others["keep"], "test": test}
