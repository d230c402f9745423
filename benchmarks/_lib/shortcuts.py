"""Photos for networks that learned shortcuts: what a user has who selects without labels, and photos for evaluation.

All photos of users are of the split "train" of Imagenette; the networks were neither trained nor tuned on them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import LabeledImages
from edittools.metrics import predict, predicted_classes
from edittools.models import load_classifier
from edittools_course.scenarios.imagenette import imagenette, in_memory, training_roles
from edittools_course.scenarios.shortcuts import SHORTCUTS, Shortcut

NETWORKS = ("shortcuts_squeezenet", "shortcuts_lite0")
"""The networks that learned shortcuts, by their names for `load_classifier`."""

NAMES = {"garbage truck": "tag", "church": "text", "French horn": "border"}
"""The name of each shortcut in the results, by its class."""

SEED_OF_SELECTION = 2_000_000
SEED_OF_TEST = 3_000_000
"""The first seeds of what is drawn for exemplars and on photos for evaluation; those of training are smaller."""

SEEDS_OF_DRAW = 200
"""The number of seeds from one draw to the next."""

OTHERS_OF_DRAW = 140
"""The number of photos of other classes among which each draw looks for its exemplar, so that draws share none."""

ORDINARY = 60
"""The number of ordinary images of each class, whose labels are not used."""

OF_DEVELOPMENT = (1, 2)
"""The draws that share the ordinary images of the development; each later draw has its own."""


class UserCase(NamedTuple):
    """What a user has who selects without labels.

    Attributes:
        classifier: the network.
        exemplar: the exemplar.
        images: ordinary images of all classes.
    """

    classifier: Classifier
    exemplar: Exemplar
    images: Tensor


def user_case(network: str, goal: str, draw: int) -> UserCase:
    """Collect what a user has, for a network, a shortcut, and a draw.

    Args:
        network: the name of the network.
        goal: the class of the shortcut.
        draw: the number of the draw, from 1 on; draws differ in the exemplar, and from 3 on in the ordinary images.
    """
    classifier = load_classifier(network)
    left = training_roles(classifier.size)["left"]
    pool = in_memory(left.subset(others_of_draw(left, goal, draw)))
    seed = SEED_OF_SELECTION + SEEDS_OF_DRAW * (draw - 1)
    exemplar = first_misled(classifier, pool, SHORTCUTS[goal], classifier.index(goal), seed)
    images = in_memory(left.subset(ordinary_of_draw(left, draw))).images
    return UserCase(classifier, exemplar, images)


def others_of_draw(left: LabeledImages, goal: str, draw: int) -> Tensor:
    """Return the indices of the photos of other classes among which a draw, from 1 on, looks for its exemplar."""
    goal_index = left.classes.index(goal)
    rest = [(left.labels == label).nonzero()[ORDINARY:, 0] for label in range(len(left.classes)) if label != goal_index]
    of_others = torch.cat(rest)
    order = torch.randperm(len(of_others), generator=torch.Generator().manual_seed(goal_index))
    first = (draw - 1) * OTHERS_OF_DRAW
    return of_others[order[first : first + OTHERS_OF_DRAW]]


def ordinary_of_draw(left: LabeledImages, draw: int) -> Tensor:
    """Return the indices of the ordinary images of a draw, from 1 on: as many of each class."""
    before = max(draw - OF_DEVELOPMENT[-1], 0) * ORDINARY
    members = [(left.labels == label).nonzero()[before : before + ORDINARY, 0] for label in range(len(left.classes))]
    return torch.cat(members)


def first_misled(classifier: Classifier, pool: LabeledImages, shortcut: Shortcut, goal: int, seed: int) -> Exemplar:
    """Draw a shortcut on photos of other classes, and make an exemplar of the first one that it misleads.

    Args:
        classifier: the network.
        pool: photos of other classes.
        shortcut: the shortcut.
        goal: the index of its class.
        seed: the seed of what is drawn.

    Raises:
        ValueError: if no photo is misled.
    """
    changed, masks = shortcut.draw(pool.images, seed)
    is_correct = predicted_classes(predict(classifier, pool)) == pool.labels
    is_misled = predicted_classes(predict(classifier, changed)) == goal
    misled = (is_correct & is_misled).nonzero()[:, 0].tolist()
    if not misled:
        raise ValueError(f"none of {len(pool)} photos is misled; pass a larger pool")
    first = misled[0]
    return Exemplar(pool.images[first], changed[first], masks[first], int(pool.labels[first]))


def evaluation_photos(size: int, split: str, first: int, every: int) -> LabeledImages:
    """Return photos for evaluation, without a shortcut.

    Args:
        size: their side in pixels.
        split: "val", or "tuning" for the tuning photos, which development uses.
        first: the index of the first photo that is used.
        every: every how many of the photos one is used.
    """
    photos = imagenette("val", size) if split == "val" else training_roles(size)[split]
    return photos.subset(range(first, len(photos), every))
