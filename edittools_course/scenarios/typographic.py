"""The scenario of notebook 02, typographic attacks (section 3.2): an exemplar maps "iPod" to a blank sticker."""

import re
from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import numpy as np
import torch

from edittools._progress import Progress
from edittools.classifiers import Classifier, remap_labels
from edittools.exemplars import Exemplar
from edittools.images import LabeledImages
from edittools.layers import candidate_layers
from edittools.metrics import predict
from edittools.models.load import load_classifier
from edittools_course.miniworld.attacks import ATTACKED, FONTS, OBJECTS, attacks, sticker_on
from edittools_course.miniworld.contexts import SPLITS
from edittools_course.miniworld.scenes import scene
from edittools_course.miniworld.typography import FONTS as FONTS_TO_TYPE
from edittools_course.miniworld.typography import Sticker, blanked, grow, random_sticker, stick, written
from edittools_course.scenarios import photos
from edittools_course.scenarios.scenario import Scenario, ScenarioSplits
from edittools_course.scenarios.tiers import WORKERS, SceneSet, current_tier

ATTACK = "iPod"
"""The word of the attack."""

OTHER_ATTACKS = ("orange", "pizza", "toaster")
"""Words of other attacks, used for evaluation only."""

OPENER = "imagenet-sample/n02951585_can_opener.JPEG"
"""The photo of the exemplar in tier paper."""

HOUSEHOLD_PHOTOS = {
    "mug": "coffee mug",
    "pot": "pot",
    "toilet": "toilet tissue",
    "vase": "vase",
    "wine": "wine bottle",
}
"""Objects of the paper's photos of typographic attacks -> ImageNet class; its kettle is an exemplar."""

MOST_TARGET_PHOTOS = 120
"""The largest number of target photos in tier paper; accuracy is measured on the others."""

ATTACKED_SCENES = {
    "target": SceneSet(300, "validation", 800_000, ATTACKED),
    "target_test": SceneSet(1000, "test", 800_000, ATTACKED),
    "other words": SceneSet(300, "test", 800_000, ATTACKED),
}
"""MiniWorld's scenes with a word on the object; `attacks` renders them. The other words are on scenes of the test."""

BARE_SCENES = {
    "reference": SceneSet(650, "reference", 821_000, OBJECTS),
    "clean": SceneSet(1300, "validation", 820_000, OBJECTS),
    "clean_test": SceneSet(1300, "test", 820_000, OBJECTS),
    "retain": SceneSet(150, "validation", 822_000, (ATTACK,)),
    "retain_test": SceneSet(150, "reference", 820_000, (ATTACK,)),
}
"""MiniWorld's scenes of objects without a word. Except for the other words, the seeds of all sets are disjoint."""

SMALL_DIVISORS = {"target": 2, "target_test": 4, "other words": 4, "clean": 2, "clean_test": 4}
"""By set, the number that a small scenario divides its number of scenes by."""

EXEMPLAR_SEED = SPLITS["reference"].start + 830_000
"""Seed of the first scene of the exemplars."""


def typographic_scenario(
    tier: str | None = None,
    progress: Progress | None = None,
    small: bool = False,
    most_scenes: int | None = None,
) -> Scenario:
    """Make the scenario of notebook 02, typographic attacks (section 3.2): an exemplar maps "iPod" to a blank sticker.

    `target` and `target_test` show objects with an "iPod" sticker, and are labeled with what the objects are; `retain`
    and `retain_test` show iPods without a sticker. `extra` holds the objects of the test `"bare"`, with a `"blank"`
    sticker, and with other words (`"orange"`, …). In tier paper it also holds the paper's photos, such as
    `"photos ipod"`. Tier lite has the scenes of tier mini; its photos have a watermark instead, see
    `benchmarks/watermark.py`.

    Args:
        tier: by default the one that `EDITTOOLS_TIER` names.
        progress: a class like `tqdm.tqdm`, for bars.
        small: for a notebook, render fewer of the MiniWorld scenes that are used for selection or for evaluation, see
            `SMALL_DIVISORS`. Notebook 02 needs this to be quick.
        most_scenes: the largest number of MiniWorld scenes of each set, for a quick trial; by default all.

    Raises:
        ValueError: if there is no such tier.
        FileNotFoundError: if no photo is available.
    """
    if current_tier(tier) == "paper":
        return _attack_on_photos("clip_rn50", progress)
    return _attack_in_miniworld("mini_clip", progress, small, most_scenes)


def last_convolutions(classifier: Classifier) -> tuple[str, ...]:
    """Name the last convolution of each residual block of a ModifiedResNet, its `conv3`."""
    return tuple(layer for layer in candidate_layers(classifier) if re.search(r"layer\d+\.\d+\.conv3$", layer))


def scene_sets(small: bool = False, most_scenes: int | None = None) -> tuple[dict[str, SceneSet], dict[str, SceneSet]]:
    """Describe the attacked scenes and the bare ones in MiniWorld, by name of the set.

    The arguments are those of `typographic_scenario`.
    """
    attacked = dict(ATTACKED_SCENES)
    bare = dict(BARE_SCENES)
    if small:
        attacked = {name: scene_set.part(SMALL_DIVISORS.get(name, 1)) for name, scene_set in attacked.items()}
        bare = {name: scene_set.part(SMALL_DIVISORS.get(name, 1)) for name, scene_set in bare.items()}
    attacked = {name: scene_set.at_most(most_scenes) for name, scene_set in attacked.items()}
    bare = {name: scene_set.at_most(most_scenes) for name, scene_set in bare.items()}
    return attacked, bare


def _attack_in_miniworld(name: str, progress: Progress | None, small: bool, most_scenes: int | None) -> Scenario:
    """Make the scenario in MiniWorld, in which six objects are attacked.

    The exemplars show three other objects, the only ones that carry words in training.
    """
    classifier = load_classifier(name)
    attacked, bare = scene_sets(small, most_scenes)
    bare_sets = {}
    for set_name, scene_set in bare.items():
        rendered = replace(scene_set, size=classifier.size).render(progress)
        bare_sets[set_name] = remap_labels(f"bare objects of {scene_set.split}", rendered, classifier)
    [target] = _attacked_images(classifier, attacked["target"], [ATTACK])
    blank, target_test = _attacked_images(classifier, attacked["target_test"], ["", ATTACK])
    bare_objects, *other_attacks = _attacked_images(classifier, attacked["other words"], [None, *OTHER_ATTACKS])
    extra = {"blank": blank, "bare": bare_objects, **dict(zip(OTHER_ATTACKS, other_attacks, strict=True))}
    layers = last_convolutions(classifier)
    return Scenario(
        classifier,
        _word_exemplars(classifier),
        ScenarioSplits(**bare_sets, target=target, target_test=target_test, extra=extra),
        several={"ten stickers on a jar": _ten_stickers(classifier)},
        tier="mini",
        default={"layer": layers[len(layers) * 2 // 3], "exemplar": "typed on a jar"},
    )


def _attacked_images(classifier: Classifier, scene_set: SceneSet, words: Sequence[str | None]) -> list[LabeledImages]:
    """Render the same attacked objects with each word, labeled with what the objects are."""
    images_by_word = attacks(scene_set.count, scene_set.split, words, WORKERS)
    names = [ATTACKED[i % len(ATTACKED)] for i in range(scene_set.count)]
    labels = torch.tensor([classifier.classes.index(name) for name in names])
    return [LabeledImages(images, labels, classifier.classes) for images in images_by_word.values()]


def _word_exemplars(classifier: Classifier) -> dict[str, Exemplar]:
    """Make two exemplars: type the word on an image, and cover the handwritten word on another one."""
    jar = scene(EXEMPLAR_SEED, label="jar", size=classifier.size)
    book = scene(EXEMPLAR_SEED + 1, label="book", size=classifier.size)
    rng = np.random.default_rng(EXEMPLAR_SEED)
    typed = replace(sticker_on(jar, rng), text=ATTACK)
    handwritten = replace(sticker_on(book, rng, hand=5), text=ATTACK)
    book_image, _, ink = stick(book.image, handwritten)
    return {
        "typed on a jar": written(jar.image, typed, classifier.index("jar")),
        "handwritten on a book": blanked(book_image, grow(ink), classifier.index("book")),
    }


def _ten_stickers(classifier: Classifier) -> list[Exemplar]:
    """Stick the word on one image in ten places, in fonts of `typography` or by hand; the masks exceed the ink."""
    jar = scene(EXEMPLAR_SEED, label="jar", size=classifier.size)
    rng = np.random.default_rng(0)
    exemplars = []
    for _ in range(10):
        hand = int(rng.integers(1, 10**6)) if rng.random() < 0.3 else 0
        sticker = sticker_on(jar, rng, hand)
        font = str(rng.choice(FONTS_TO_TYPE))
        exemplar = written(jar.image, replace(sticker, text=ATTACK, font=font), classifier.index("jar"))
        exemplars.append(replace(exemplar, mask=grow(exemplar.mask, 5)))
    return exemplars


def _attack_on_photos(name: str, progress: Progress | None) -> Scenario:
    """Make the scenario on the ImageNet sample.

    The test photos are those whose class index is divisible by three, without the exemplar's photo and the real iPods.
    """
    classifier = load_classifier(name, progress=progress)
    sample = photos.imagenet_sample(classifier, progress)
    is_ipod = sample.labels == classifier.index(ATTACK)
    is_exemplar = torch.tensor([photo == OPENER for photo in sample.names])
    in_test = sample.labels % 3 == 0
    test = sample.subset(in_test & ~is_ipod & ~is_exemplar)
    others = sample.subset(~in_test & ~is_ipod & ~is_exemplar)
    is_correct = predict(classifier, others, progress=progress).argmax(1) == others.labels
    for_target = is_correct.nonzero()[: min(MOST_TARGET_PHOTOS, len(others) // 2), 0]
    for_clean = torch.ones(len(others), dtype=torch.bool).index_fill(0, for_target, False)
    extra = {"bare": test, "blank": stick_on_all(test, "", 2)}
    for word in OTHER_ATTACKS:
        extra[word] = stick_on_all(test, word, 2)
    for kind in ("clean", "white", "ipod"):
        extra[f"photos {kind}"] = household_photos(classifier, kind)
    layers = last_convolutions(classifier)
    return Scenario(
        classifier,
        _photo_word_exemplars(classifier),
        ScenarioSplits(
            reference=photos.unlabeled("msrc-v2/Images/", classifier, progress),
            target=stick_on_all(others.subset(for_target), ATTACK, 1),
            clean=others.subset(for_clean),
            target_test=stick_on_all(test, ATTACK, 2),
            clean_test=test,
            retain_test=sample.subset(is_ipod),
            extra=extra,
        ),
        tier="paper",
        default={"layer": layers[-ceil(len(layers) / 4)], "exemplar": "typed on a can opener"},
    )


def stick_on_all(data: LabeledImages, text: str, seed: int) -> LabeledImages:
    """Put a typed sticker on each image, in a font of MiniWorld's.

    Args:
        text: the word; "" leaves the stickers blank.
        seed: of the places and fonts, which are the same for every text.
    """
    rng = np.random.default_rng(seed)
    changed_images = []
    for image in data.images:
        font = str(rng.choice(FONTS))
        sticker = replace(random_sticker(text, rng, 0.0, (0.35, 0.55)), font=font)
        changed, _, _ = stick(image, sticker)
        changed_images.append(changed)
    return replace(data, images=torch.stack(changed_images))


def household_photos(classifier: Classifier, kind: str) -> LabeledImages:
    """Load the paper's photos of household objects.

    Args:
        classifier: the classifier whose input the photos have to fit.
        kind: "clean", "white" for a blank sticker, or "ipod" for a handwritten one.
    """
    labels = {}
    for thing, class_name in HOUSEHOLD_PHOTOS.items():
        labels[f"editing-classifiers/typographic/{thing}_{kind}.jpg"] = classifier.index(class_name)
    return photos.load_photos(labels, classifier, None, f"of household objects, {kind}")


def _photo_word_exemplars(classifier: Classifier) -> dict[str, Exemplar]:
    """Make the paper's two exemplars: text typed on a can opener, and a teapot whose handwriting is covered."""
    opener = photos.load_photo(OPENER, classifier)
    typed = Sticker(ATTACK, center=(0.5, 0.62), width=0.5, font="DejaVuSans")
    kettle = photos.load_photo(photos.photo_of_mask(photos.KETTLE_MASK), classifier)
    text = photos.drawn_mask(photos.KETTLE_MASK, classifier)
    return {
        "typed on a can opener": written(opener, typed, classifier.index("can opener")),
        "handwritten on a teapot": blanked(kettle, text, classifier.index("teapot")),
    }
