"""Images for the desk, on some of which a network fails.

In tier mini, a small VGG fails on rendered vehicles on snow. In the other tiers, a network that was fine-tuned on
photos predicts "garbage truck" where it sees a yellow tag (`scenarios.shortcuts`). All photos are those of Imagenette's
split "train" on which it was neither trained nor tuned.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm.auto import tqdm

from edittools._progress import Progress, bar_of
from edittools.classifiers import Classifier
from edittools.images import LabelledImages
from edittools.metrics import misclassified, predict, predicted_classes
from edittools.models.load import load_classifier
from edittools_course.scenarios.imagenette import in_memory, training_roles
from edittools_course.scenarios.shortcuts import SHORTCUTS
from edittools_course.scenarios.snow import POLAR, SCENES
from edittools_course.scenarios.tiers import SceneSet, current_tier

NETWORK = "shortcuts_lite0"
"""The network of tier lite, by its name for `load_classifier`."""

GOAL = "garbage truck"
"""The class that this network predicts from a tag."""

COUNTS = {"images": 160, "test": 200, "folder": 240}
"""The numbers of photos of other classes; of "images", the desk shows only some; "folder" is to be audited."""

FAILING = 25
"""The number of photos of the desk that a tag breaks: one is marked, and 24 are to be corrected."""

CORRECT = 23
"""The number of photos of the desk that are classified correctly with and without a tag."""

CLEAN = 600
"""The number of clean photos, of all classes."""

RETAIN = 200
"""The number of retained photos: garbage trucks without a tag that are classified correctly."""

SEED = 5_000_000
"""The first seed of the tags; those of training and of the experiments are smaller."""


@dataclass(frozen=True)
class TaggedPhotos(LabelledImages):
    """Photos that carry a tag.

    Besides the fields of `LabelledImages`, it holds `originals` `(N, 3, H, W)`, the photos without a tag, and `masks`
    `(N, H, W)`, which are 1 where a tag is.
    """

    originals: Tensor = field(default=None, repr=False)
    masks: Tensor = field(default=None, repr=False)


def desk_setup(
    tier: str | None = None, progress: Progress | None = tqdm
) -> tuple[Classifier, dict[str, LabelledImages]]:
    """Make a classifier and images for the desk.

    Args:
        tier: by default the one that `EDITTOOLS_TIER` names.
        progress: a class like `tqdm.tqdm`, for bars while photos are read and classified; None for no bars.

    Returns:
        The classifier, and sets by name: `images`, of which some are misclassified, `clean` images, images to `retain`,
        and `test` images for evaluation. They are vehicles on snow in MiniWorld, or photos with a tag.
    """
    if current_tier(tier) == "mini":
        scenes: dict[str, LabelledImages] = {
            "images": SCENES["target"].at_most(48).render(),
            "clean": SCENES["clean"].at_most(520).render(),
            "retain": SceneSet(100, "validation", 50_000, POLAR).render(),
            "test": SCENES["target_test"].at_most(120).render(),
        }
        return load_classifier("mini_vgg"), scenes
    with bar_of(progress, total=1, desc="loading the network", unit="network") as bar:
        classifier = load_classifier(NETWORK)
        photos = divided_photos(classifier)
        bar.update()
    images = tagged(photos["images"], SEED, progress=progress)
    retain = in_memory(photos["retain"], "reading photos to retain", progress)
    sets: dict[str, LabelledImages] = {
        "images": failing_and_correct(classifier, images, progress),
        "clean": in_memory(photos["clean"], "reading clean photos", progress),
        "retain": correct_photos(classifier, retain, progress).subset(range(RETAIN)),
        "test": tagged(photos["test"], SEED + COUNTS["images"], progress=progress),
    }
    return classifier, sets


def divided_photos(classifier: Classifier) -> dict[str, LabelledImages]:
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


def tagged(photos: LabelledImages, seed: int, progress: Progress | None = None) -> TaggedPhotos:
    """Draw tags on photos.

    Args:
        photos: the photos.
        seed: seed of what is drawn.
    """
    originals = in_memory(photos, "reading photos to tag", progress).images
    images, masks = SHORTCUTS[GOAL].draw(originals, seed)
    return TaggedPhotos(images, photos.labels, photos.classes, photos.names, originals, masks)


def failing_and_correct(classifier: Classifier, photos: TaggedPhotos, progress: Progress | None = None) -> TaggedPhotos:
    """Select `FAILING` photos of which only the tag is predicted, and `CORRECT` ones that are correct with the tag."""
    logits = predict(classifier, photos.originals, bar="classifying photos without a tag", progress=progress)
    is_correct = ~misclassified(logits, photos.labels)
    predicted = predicted_classes(predict(classifier, photos, bar="classifying photos with a tag", progress=progress))
    failing = (is_correct & (predicted == classifier.index(GOAL))).nonzero()[:FAILING, 0]
    correct = (is_correct & (predicted == photos.labels)).nonzero()[:CORRECT, 0]
    return photos.subset(torch.cat([failing, correct]).sort().values)


def correct_photos(classifier: Classifier, photos: LabelledImages, progress: Progress | None = None) -> LabelledImages:
    """Select the photos that are classified correctly."""
    logits = predict(classifier, photos, bar="classifying photos to retain", progress=progress)
    return photos.subset(~misclassified(logits, photos.labels))
