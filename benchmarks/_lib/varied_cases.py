"""Cases in which marks vary: a network, an exemplar, ordinary images, and images with its marks as they can be.

All photos and scenes are those of the development: draw 1 and the tuning photos of Imagenette, and the scenes of
MiniWorld's splits "reference" and "validation". None of a test is read.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from _lib.effects import CLEAN, OWN_CLASS, OWN_CLEAN, TARGET
from _lib.shortcuts import NAMES, SEED_OF_TEST, evaluation_photos, user_case
from edittools.classifiers import Classifier, remap_labels
from edittools.exemplars import Exemplar
from edittools.images import LabeledImages
from edittools.models import load_classifier
from edittools_course.miniworld.attacks import ATTACKED, sticker_on
from edittools_course.miniworld.scenes import scene
from edittools_course.miniworld.typography import Sticker, stick, written
from edittools_course.networks.embedded import CLIP_SIZE
from edittools_course.scenarios.imagenette import in_memory
from edittools_course.scenarios.shortcuts import SHORTCUTS, Shortcut, Tag, TextLine
from edittools_course.scenarios.typographic import ATTACK, BARE_SCENES, EXEMPLAR_SEED

SIZE = (0.65, 1.45)
"""The range of the factor by which the size of a mark varies at test: wider than that of varied hosts, as all are."""

TILT = 30.0
"""The largest angle of a tag or a sticker, in degrees to either side; lines of text are not tilted."""

LIGHT = (0.65, 1.35)
"""The range of the factor by which its brightness varies."""

BLUR = 0.015
"""Half of the marks are blurred, which no host is: by at most this standard deviation, as a share of the side."""

COVERED = 0.4
"""Half of the marks are partly covered, which no host is: at most this share of them is not seen, from one side."""

VARIED, OWN_VARIED = "target_test varied", "own class varied"
"""The images of other classes with marks that vary, and those of the mark's class."""

DRAW = 1
"""The draw of the development."""

EVERY = 2
"""Every how many of the tuning photos one is used; of the mark's class, all are."""

WORD = "word"
"""The name of the mark of the small CLIP, a word on a sticker."""

WORDS, OWN_WORDS, WITHOUT = 300, 150, 600
"""The numbers of scenes with a word: of other objects, and of the object that the word names; and of scenes without."""


class Pair(NamedTuple):
    """A network and a mark.

    Attributes:
        network: the name of the network.
        mark: the name of the mark.
    """

    network: str
    mark: str

    @property
    def name(self) -> str:
        """The name of the pair."""
        return f"{self.network}, {self.mark}"


PAIRS = (
    Pair("mini_clip", WORD),
    Pair("shortcuts_squeezenet", "tag"),
    Pair("shortcuts_lite0", "tag"),
    Pair("shortcuts_squeezenet", "text"),
)
"""The cases, in the order in which they run."""

LAYERS = {"shortcuts_lite0": ["blocks.3.1.conv_pwl", "blocks.4.2.conv_pwl", "blocks.5.0.conv_pwl"]}
"""The layers in which edits are tried, of networks in which not all are."""


class Case(NamedTuple):
    """What a user has, and the images that measure.

    Attributes:
        classifier: the network.
        exemplar: the exemplar.
        images: ordinary images.
        sets: labeled images by the name of the set.
    """

    classifier: Classifier
    exemplar: Exemplar
    images: Tensor
    sets: Mapping[str, LabeledImages]


def case_of(network: str, mark: str, quick: bool = False) -> Case:
    """Collect a case; with `quick`, a tenth of the images that measure.

    Args:
        network: the name of the network.
        mark: the name of a shortcut, or `WORD`.
        quick: whether this is a trial.
    """
    case = _word_on_sticker(network) if mark == WORD else _shortcut(network, mark)
    if not quick:
        return case
    return case._replace(sets={name: data.subset(range(0, len(data), 10)) for name, data in case.sets.items()})


# --- marks ------------------------------------------------------------------------------------------------------------


def worn(image: Tensor, marked: Tensor, mask: Tensor, rng: np.random.Generator) -> Tensor:
    """Return an image with a mark, `(3, H, W)`, whose light varies, and that may be blurred and partly covered.

    Args:
        image: the image without the mark, `(3, H, W)` in [0, 1].
        marked: the image with the mark.
        mask: where the mark is, `(H, W)` of zeros and ones.
        rng: random numbers.
    """
    color = (marked * rng.uniform(*LIGHT)).clamp(0, 1)
    opacity = mask.clone()
    if rng.uniform() < 0.5:
        sigma = rng.uniform(0, BLUR) * image.shape[2]
        opacity = torch.from_numpy(gaussian_filter(opacity.numpy(), sigma))
        color = torch.from_numpy(gaussian_filter(color.numpy(), (0, sigma, sigma)))
    if rng.uniform() < 0.5:
        opacity = partly_covered(opacity, mask, rng)
    return torch.lerp(image, color, opacity.expand_as(image))


def partly_covered(opacity: Tensor, mask: Tensor, rng: np.random.Generator) -> Tensor:
    """Cover a part of a mark from one side: nothing of it is seen there."""
    places = mask.nonzero()
    first, last = places.min(dim=0).values.tolist(), (places.max(dim=0).values + 1).tolist()
    axis = int(rng.integers(2))
    length = round(rng.uniform(0, COVERED) * (last[axis] - first[axis]))
    part = slice(0, first[axis] + length) if rng.uniform() < 0.5 else slice(last[axis] - length, None)
    seen = opacity.clone()
    seen.movedim(axis, 0)[part] = 0
    return seen


def resized_mark(mark: Shortcut, factor: float) -> Shortcut:
    """Return a shortcut of another size, and a tag with a tilt that varies more.

    Raises:
        TypeError: if it is another kind of shortcut.
    """
    if isinstance(mark, Tag):
        return replace(mark, width=factor * mark.width, tilt=TILT)
    if isinstance(mark, TextLine):
        return replace(mark, height=factor * mark.height)
    raise TypeError(f"{type(mark).__name__} is neither a tag nor a line of text")


def with_varied(data: LabeledImages, mark: Shortcut, seed: int) -> LabeledImages:
    """Draw a shortcut on images, so that it varies from image to image."""
    changed = []
    for number, image in enumerate(data.images, start=seed):
        rng = np.random.default_rng((number, 1))
        marked, masks = resized_mark(mark, rng.uniform(*SIZE)).draw(image[None], number)
        changed.append(worn(image, marked[0], masks[0], rng))
    return replace(data, images=torch.stack(changed))


# --- cases ------------------------------------------------------------------------------------------------------------


def _shortcut(network: str, mark: str) -> Case:
    """Collect the case of a network that learned a shortcut."""
    goal = next(goal for goal, name in NAMES.items() if name == mark)
    classifier, exemplar, images = user_case(network, goal, DRAW)
    photos = remap_labels("tuning photos", evaluation_photos(classifier.size, "tuning", 0, 1), classifier)
    is_own = photos.labels == classifier.index(goal)
    is_used = torch.arange(len(photos)) % EVERY == 0
    clean = in_memory(photos.subset(is_used))
    others = clean.subset(clean.labels != classifier.index(goal))
    own = in_memory(photos.subset(is_own))
    shortcut = SHORTCUTS[goal]
    sets = {
        TARGET: shortcut.on(others, SEED_OF_TEST),
        VARIED: with_varied(others, shortcut, SEED_OF_TEST),
        CLEAN: clean,
        OWN_CLASS: shortcut.on(own, SEED_OF_TEST),
        OWN_VARIED: with_varied(own, shortcut, SEED_OF_TEST),
        OWN_CLEAN: own,
    }
    return Case(classifier, exemplar, images, sets)


def _word_on_sticker(network: str) -> Case:
    """Collect the case of a small CLIP that reads a word on a sticker."""
    classifier = load_classifier(network)
    jar = scene(EXEMPLAR_SEED, label="jar", size=CLIP_SIZE)
    typed = replace(sticker_on(jar, np.random.default_rng(EXEMPLAR_SEED)), text=ATTACK)
    exemplar = written(jar.image, typed, classifier.index("jar"))
    ordinary = replace(BARE_SCENES["reference"], size=CLIP_SIZE).render().images
    bare = replace(BARE_SCENES["clean"], size=CLIP_SIZE, count=WITHOUT).render()
    own = replace(BARE_SCENES["retain"], size=CLIP_SIZE, count=OWN_WORDS)
    objects = [ATTACKED[number % len(ATTACKED)] for number in range(WORDS)]
    seeds = replace(BARE_SCENES["clean"], offset=800_000, count=WORDS).seeds  # the scenes that select by labels
    sets = {
        TARGET: _stuck(classifier, seeds, objects, varies=False),
        VARIED: _stuck(classifier, seeds, objects, varies=True),
        CLEAN: remap_labels("objects", bare, classifier),
        OWN_CLASS: _stuck(classifier, own.seeds, OWN_WORDS * [ATTACK], varies=False),
        OWN_VARIED: _stuck(classifier, own.seeds, OWN_WORDS * [ATTACK], varies=True),
        OWN_CLEAN: remap_labels("iPods", own.render(), classifier),
    }
    return Case(classifier, exemplar, ordinary, sets)


def _stuck(classifier: Classifier, seeds: range, objects: list[str], varies: bool) -> LabeledImages:
    """Render objects with the word on a sticker, as in the attack, or so that the sticker varies more."""
    images = []
    for seed, thing in zip(seeds, objects, strict=True):
        picture = scene(seed, label=thing, size=CLIP_SIZE)
        sticker = replace(sticker_on(picture, np.random.default_rng((seed, 78))), text=ATTACK)
        images.append(
            _with_varied_sticker(picture.image, sticker, seed) if varies else stick(picture.image, sticker)[0]
        )
    labels = torch.tensor([classifier.index(thing) for thing in objects])
    return LabeledImages(torch.stack(images), labels, classifier.classes)


def _with_varied_sticker(image: Tensor, sticker: Sticker, seed: int) -> Tensor:
    """Put a sticker on an image, of another size and tilt, and worn."""
    rng = np.random.default_rng((seed, 79))
    angle = float(rng.uniform(-TILT, TILT))
    changed, paper, ink = stick(image, replace(sticker, width=sticker.width * rng.uniform(*SIZE), angle=angle))
    return worn(image, changed, torch.maximum(paper, ink), rng)
