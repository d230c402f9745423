"""Notebook 05's story, the desk: a classifier, pictures that it misreads, and a mask to begin with."""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.images import LabelledImages
from edittools.stories import photos
from edittools.stories.snow import everyday_photos
from edittools.stories.tiers import Device, _in_turn, current_tier
from edittools.world.contexts import SPLITS, contexts
from edittools.world.miniworld import CLASSES, scene, scenes
from edittools.zoo.load import load_classifier

COUNTS = {"images": 48, "everyday": 240, "keep": 60, "test": 120}
"""How many scenes each set has in MiniWorld."""


@dataclass(frozen=True)
class DeskStory:
    """What a desk needs: `images` of which some are misread, `everyday` ones, ones to `keep`, and `test` for later.

    `picture` is the place in `images` of the one that is drawn on first, `mask` `(H, W)` what is marked there, `layer`
    the layer that is rewritten, and `material` what the mark is turned to.
    """

    classifier: Classifier
    images: LabelledImages = field(repr=False)
    everyday: LabelledImages = field(repr=False)
    keep: LabelledImages = field(repr=False)
    test: LabelledImages = field(repr=False)
    picture: int
    mask: Tensor = field(repr=False)
    layer: str
    material: str


def desk_story(tier: str | None = None, progress: bool = False, device: Device = None) -> DeskStory:
    """Vehicles on snow for the desk, in the tier of `EDITTOOLS_TIER` by default; the tier `paper` takes that of `lite`.

    In MiniWorld the mask is the snow of one scene, exactly; on photographs it is the lower third of one.
    """
    return _miniworld(progress, device) if current_tier(tier) == "mini" else _photographs(progress, device)


def _miniworld(progress: bool, device: Device) -> DeskStory:
    paint = partial(scenes, progress=progress)
    family = contexts().family
    vehicles = [c for c in CLASSES if family[c] == "vehicle" and c != "car"]
    polar = [c for c in CLASSES if family[c] == "polar"]
    validation, test = SPLITS["validation"].start, SPLITS["test"].start
    labels, picture = _in_turn(vehicles, COUNTS["images"]), 39
    drawn = scene(validation + 100_000 + picture, label=labels[picture], ground="snow")
    return DeskStory(
        load_classifier("mini_vgg", device),
        images=paint(COUNTS["images"], validation + 100_000, label=labels, ground="snow"),
        everyday=paint(COUNTS["everyday"], "validation"),
        keep=paint(COUNTS["keep"], validation + 50_000, label=_in_turn(polar, COUNTS["keep"])),
        test=paint(COUNTS["test"], test + 100_000, label=_in_turn(vehicles, COUNTS["test"]), ground="snow"),
        picture=picture,
        mask=drawn.masks["snow"],
        layer="features.8",
        material="gravel",
    )


def _photographs(progress: bool, device: Device) -> DeskStory:
    classifier = load_classifier("efficientnet_lite0", device)
    images, test = photos.snow_photos(classifier, progress).split(0.5, seed=0)
    others = everyday_photos(classifier, progress)
    mask = torch.zeros(classifier.size, classifier.size)
    mask[-classifier.size // 3 :] = 1
    return DeskStory(
        classifier,
        images,
        everyday=others["budget"],
        keep=others["keep"],
        test=test,
        picture=0,
        mask=mask,
        layer="blocks.5.0.conv_pw",
        material="gravel",
    )
