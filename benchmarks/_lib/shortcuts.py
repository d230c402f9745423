"""Photos with a drawn shortcut: those on which a network fails, and an exemplar."""

from dataclasses import replace

from edittools.classifiers import Classifier
from edittools.course.scenarios.shortcuts import Shortcut
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import misclassified, predict, predicted_classes

NETWORKS = ("shortcuts_lite0", "shortcuts_squeezenet")
"""The networks that learned shortcuts, by their names for `load_classifier`."""

NAMES = {"garbage truck": "tag", "church": "text", "French horn": "border"}
"""The name of each shortcut in the results, by its class."""


def failing_photos(
    classifier: Classifier, pool: LabelledImages, shortcut: Shortcut, goal: int, seed: int, count: int, exemplars: int
) -> tuple[list[Exemplar], LabelledImages]:
    """Find photos that are correct, and predicted as the class of a shortcut when it is drawn on them.

    Args:
        classifier: the network.
        pool: photos of other classes.
        shortcut: the shortcut.
        goal: the index of its class.
        seed: the seed of what is drawn.
        count: the number of failing photos.
        exemplars: the number of exemplars.

    Returns:
        The first ones as exemplars, and the next ones with the shortcut.

    Raises:
        ValueError: if there are too few.
    """
    changed, masks = shortcut.draw(pool.images, seed)
    is_correct = ~misclassified(predict(classifier, pool), pool.labels)
    is_misled = predicted_classes(predict(classifier, changed)) == goal
    misled = (is_correct & is_misled).nonzero()[:, 0].tolist()
    needed = exemplars + count
    if len(misled) < needed:
        raise ValueError(f"{len(misled)} of {len(pool)} photos fail, but {needed} are needed; pass a larger pool")
    shown = []
    for index in misled[:exemplars]:
        shown.append(Exemplar(pool.images[index], changed[index], masks[index], int(pool.labels[index])))
    return shown, replace(pool, images=changed).subset(misled[exemplars:needed])


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
