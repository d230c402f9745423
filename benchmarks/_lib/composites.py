"""Composites: photos whose concept is replaced by another material, to select an edit before there are failing photos.

    scenario = snow_from_composites("squeezenet1_1")   # selects on composites, evaluates on all photos of snow

A person has photos of roads, their masks and an image of snow long before having photos that a classifier
misclassifies. The label of a composite is the prediction before the change, so nobody has to label it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from edittools._progress import Progress
from edittools.classifiers import Classifier
from edittools.exemplars import paste_texture
from edittools.images import LabeledImages
from edittools.layers import candidate_layers
from edittools.models.load import load_classifier
from edittools.probing.textures import VARIANTS, restyle
from edittools_course.scenarios import photos
from edittools_course.scenarios.scenario import Scenario, ScenarioSplits
from edittools_course.scenarios.snow import clean_and_retained_photos, snow_exemplars

Look = Callable[[Tensor, Tensor, int], Tensor]
"""What replaces the mask of image i by a material: `look(image, mask, i)`."""

SURE = 0.2
"""A prediction with at least this probability labels a photo and its composites."""

LEAST = 0.05
"""A concept covers at least this share of a photo that shows it."""

FROM_THE_END = 10
"""The place of the default layer among the convolutions, counted from the last one."""


def composed(data: LabeledImages, masks: Tensor, looks: Sequence[Look]) -> LabeledImages:
    """Replace what `masks` `(N, H, W)` cover by each of the looks; the labels are those of the untouched photos."""
    places = [i for i in range(len(data)) for _ in looks]
    pictures = [look(data.images[i], masks[i], i) for i in range(len(data)) for look in looks]
    return replace(data.subset(places), images=(torch.stack(pictures) * 255).round() / 255)


def halves_by_photo(composites: LabeledImages) -> tuple[LabeledImages, LabeledImages]:
    """Divide composites into those of every second photo and those of the others."""
    evaluating = set(sorted(set(composites.names))[1::2])
    is_evaluating = torch.tensor([name in evaluating for name in composites.names])
    return composites.subset(~is_evaluating), composites.subset(is_evaluating)


def masked_photos(
    classifier: Classifier, concept: str, progress: Progress | None = None
) -> tuple[LabeledImages, Tensor, Tensor]:
    """Find the MSRC photos that show a `concept`, on `LEAST` of them, and are predicted with a probability of `SURE`.

    Returns:
        The photos, labeled with the predictions of `classifier`, their masks `(N, H, W)`, and all other photos
        `(M, 3, H, W)`.
    """
    data, masks = photos.msrc(classifier, SURE, progress)
    showing = masks[concept].mean(dim=(1, 2)) >= LEAST
    shown = data.subset(showing)
    other = photos.unlabeled("msrc-v2/Images/", classifier, progress, without=shown.names)
    return shown, masks[concept][showing], other


def snow_looks() -> list[Look]:
    """Return three looks of snow: the paper's image as in the exemplars, a darker part of it, and rendered snow."""
    whole = photos.snow_texture()
    height, width = whole.shape[1:]
    part = 0.85 * whole[:, height // 2 :, width // 2 :]
    return [
        lambda image, mask, i: paste_texture(image, mask, whole, keep_shading=0),
        lambda image, mask, i: paste_texture(image, mask, part),
        lambda image, mask, i: restyle(image, mask, "snow", i % VARIANTS),
    ]


def snow_from_composites(name: str, progress: Progress | None = None) -> Scenario:
    """Make the scenario of notebook 01 on photos, with a classifier by name; selection needs no photo of snow.

    `target` are composites: roads of MSRC photos in each of `snow_looks`. So all 126 photos are the `target_test`.
    """
    classifier = load_classifier(name)
    roads, masks, other = masked_photos(classifier, "road", progress)
    change = partial(paste_texture, texture_image=photos.snow_texture(), keep_shading=0)
    exemplars = snow_exemplars(classifier, change)
    splits = ScenarioSplits(
        reference=other,
        target=composed(roads, masks, snow_looks()),
        target_test=photos.snow_photos(classifier, progress),
        **clean_and_retained_photos(classifier, progress),
        extra=photos.elsewhere(classifier, progress),
    )
    return Scenario(
        classifier,
        exemplars,
        splits,
        tier="lite",
        change=change,
        where="in place",
        default={
            "layer": candidate_layers(classifier)[-FROM_THE_END],
            "exemplar": "minivan",
            "rank": 1,
            "masked": True,
        },
    )
