"""Photos on which the networks with planted shortcuts were neither trained nor tuned, divided into disjoint sets."""

import torch

from edittools.classifiers import Classifier
from edittools.images import LabeledImages
from edittools_course.scenarios.imagenette import training_roles

GOAL = "garbage truck"
"""The class that these networks predict from a tag."""

COUNTS = {"images": 160, "test": 200, "folder": 240}
"""The numbers of photos of other classes; "folder" is that of notebook 05."""

CLEAN = 600
"""The number of clean photos, of all classes."""


def divided_photos(classifier: Classifier) -> dict[str, LabeledImages]:
    """Divide the photos that are left over from training at random into disjoint sets, which are loaded when used.

    Args:
        classifier: the network.

    Returns:
        By name: "clean" photos of all classes; those of `COUNTS`, which show other classes than `GOAL`; and all other
        photos of that class as "retain".
    """
    left = training_roles(classifier.size)["left"]
    order = torch.randperm(len(left), generator=torch.Generator().manual_seed(0))
    clean = order[:CLEAN]
    rest = order[CLEAN:]
    is_goal = left.labels[rest] == classifier.index(GOAL)
    sets = {"clean": left.subset(clean), "retain": left.subset(rest[is_goal])}
    first = 0
    for name, count in COUNTS.items():
        sets[name] = left.subset(rest[~is_goal][first : first + count])
        first += count
    return sets
