"""Photos for networks that learned shortcuts: what a call of `repair` gets, and photos for evaluation.

All photos for selection are of the split "train" of Imagenette; the networks were neither trained nor tuned on them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from edittools.classifiers import Classifier
from edittools.course.scenarios.imagenette import imagenette, in_memory, training_roles
from edittools.course.scenarios.shortcuts import SHORTCUTS, Shortcut
from edittools.exemplars import Exemplar
from edittools.images import Images, LabelledImages
from edittools.metrics import misclassified, predict, predicted_classes
from edittools.models import load_classifier

NETWORKS = ("shortcuts_squeezenet", "shortcuts_lite0")
"""The networks that learned shortcuts, by their names for `load_classifier`."""

NAMES = {"garbage truck": "tag", "church": "text", "French horn": "border"}
"""The name of each shortcut in the results, by its class."""

SEED_OF_SELECTION = 2_000_000
SEED_OF_TEST = 3_000_000
"""The first seeds of what is drawn on photos for selection and for evaluation; those of training are smaller."""


OTHERS_OF_DRAW = 140
"""The number of photos of other classes from which each draw takes some, so that draws share none."""


class Sizes(NamedTuple):
    """Numbers of photos.

    Attributes:
        clean: clean photos of each class.
        retain: retained photos, of the class of a shortcut and without it.
        others: photos of other classes with the shortcut, in each draw.
        own_class: photos of the shortcut's own class with it.
        are_labeled: whether clean and retained photos have labels; otherwise, predictions serve as labels.
        every: every how many of the photos for evaluation one is used.
        split: the photos for evaluation: "val", or the tuning photos for a quick try.
    """

    clean: int = 60
    retain: int = 200
    others: int = OTHERS_OF_DRAW
    own_class: int = 60
    are_labeled: bool = True
    every: int = 4
    split: str = "val"


FEW_LABELS = {
    24: Sizes(others=17, own_class=7, are_labeled=False),
    100: Sizes(others=70, own_class=30, are_labeled=False),
}
"""The numbers of photos if only so many photos, those with the shortcut, have labels."""

QUICK = Sizes(clean=10, retain=20, others=24, own_class=6, every=40, split="tuning")
"""The numbers of photos with `--quick`, which reads no photo of "val"."""


class ShortcutCase(NamedTuple):
    """What a call of `repair` gets.

    Attributes:
        classifier: the network.
        exemplar: the exemplar.
        concept: photos with the shortcut, right and wrong, some of its own class.
        clean: photos of all classes.
        retain: photos of the shortcut's class without it, which are classified correctly.
    """

    classifier: Classifier
    exemplar: Exemplar
    concept: LabelledImages
    clean: Images
    retain: Images


def shortcut_case(network: str, goal: str, draw: int, sizes: Sizes) -> ShortcutCase:
    """Collect the photos of a network, a shortcut, and a draw; draws differ in the exemplar and the other classes.

    Args:
        network: the name of the network.
        goal: the class of the shortcut.
        draw: the number of the draw, from 0 on.
        sizes: the numbers of photos.
    """
    classifier = load_classifier(network)
    left = training_roles(classifier.size)["left"]
    return divided(classifier, left, goal, draw, sizes)


def divided(classifier: Classifier, left: LabelledImages, goal: str, draw: int, sizes: Sizes) -> ShortcutCase:
    """Divide photos, see `shortcut_case`."""
    goal_index = classifier.index(goal)
    clean, rest = [], []
    for label in range(len(left.classes)):
        members = (left.labels == label).nonzero()[:, 0]
        clean.append(members[: sizes.clean])
        rest.append(members[sizes.clean :])
    rest_of_goal = in_memory(left.subset(rest[goal_index]))
    is_correct = ~misclassified(predict(classifier, rest_of_goal), rest_of_goal.labels)
    is_retained = torch.zeros_like(is_correct)
    is_retained[is_correct.nonzero()[: sizes.retain, 0]] = True
    with_mark = rest_of_goal.subset(~is_retained)
    with_mark = with_mark.subset(range(min(sizes.own_class, len(with_mark))))
    of_others = torch.cat([members for label, members in enumerate(rest) if label != goal_index])
    order = torch.randperm(len(of_others), generator=torch.Generator().manual_seed(goal_index))
    first = draw * OTHERS_OF_DRAW
    drawn = of_others[order[first : first + sizes.others]]
    others = in_memory(left.subset(drawn))
    pixels = torch.cat([others.images, with_mark.images])
    pool = LabelledImages(pixels, torch.cat([others.labels, with_mark.labels]), left.classes)
    seed = SEED_OF_SELECTION + draw * len(pool)
    exemplar, concept = concept_photos(classifier, pool, SHORTCUTS[goal], goal_index, seed)
    retain = rest_of_goal.subset(is_retained)
    clean_photos = in_memory(left.subset(torch.cat(clean)))
    if not sizes.are_labeled:
        return ShortcutCase(classifier, exemplar, concept, clean_photos.images, retain.images)
    return ShortcutCase(classifier, exemplar, concept, clean_photos, retain)


def concept_photos(
    classifier: Classifier, pool: LabelledImages, shortcut: Shortcut, goal: int, seed: int
) -> tuple[Exemplar, LabelledImages]:
    """Draw a shortcut on photos of all classes; make an exemplar of the first one that it misleads.

    Args:
        classifier: the network.
        pool: photos of all classes.
        shortcut: the shortcut.
        goal: the index of its class.
        seed: the seed of what is drawn.

    Returns:
        The exemplar, and the other photos with the shortcut, right and wrong.

    Raises:
        ValueError: if no photo is misled.
    """
    changed, masks = shortcut.draw(pool.images, seed)
    is_correct = ~misclassified(predict(classifier, pool), pool.labels)
    is_misled = (predicted_classes(predict(classifier, changed)) == goal) & (pool.labels != goal)
    misled = (is_correct & is_misled).nonzero()[:, 0].tolist()
    if not misled:
        raise ValueError(f"none of {len(pool)} photos is misled; pass a larger pool")
    first = misled[0]
    exemplar = Exemplar(pool.images[first], changed[first], masks[first], int(pool.labels[first]))
    others = [index for index in range(len(pool)) if index != first]
    return exemplar, replace(pool, images=changed).subset(others)


def evaluation_photos(size: int, sizes: Sizes) -> LabelledImages:
    """Return the photos for evaluation, without a shortcut."""
    photos = imagenette("val", size) if sizes.split == "val" else training_roles(size)[sizes.split]
    return photos.subset(range(0, len(photos), sizes.every))


def marked(photos: LabelledImages, goal: str | None, numbers: Sequence[int]) -> LabelledImages:
    """Load some of the photos for evaluation, and draw a shortcut on them, the same in any division into groups.

    Args:
        photos: the photos.
        goal: the class of the shortcut; None to draw nothing.
        numbers: consecutive numbers of photos.
    """
    loaded = in_memory(photos.subset(numbers))
    return loaded if goal is None else SHORTCUTS[goal].on(loaded, SEED_OF_TEST + int(numbers[0]))
