"""Faults of what a user passes: a pair, a mask, or ordinary images that are wrong, and what is warned of."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch

from _lib.shortcuts import UserCase
from edittools.selection.hosts import Hosts
from edittools_course.scenarios.shortcuts import Shortcut

EVERY = 2
"""Every how many of the ordinary images of a user one is used."""

SEED_OF_MARKS = 9_000_000
"""The first seed of the marks that are drawn on ordinary images."""

WARNINGS = {
    "ordinary images are predicted as": "many are of one class",
    "changes the predictions of": "few predictions change",
    "hardly counts": "few of the mark's class",
}
"""What a warning says, by a part of its text."""

REFUSED, NOTHING = "refused", "nothing is said"


def unchanged(case: UserCase, mark: Shortcut) -> UserCase:
    """Return a case as it should be."""
    return case


def swapped(case: UserCase, mark: Shortcut) -> UserCase:
    """Swap x and x'."""
    pair = case.exemplar
    return case._replace(exemplar=replace(pair, image=pair.changed, changed=pair.image))


def mask_elsewhere(case: UserCase, mark: Shortcut) -> UserCase:
    """Shift the mask by half an image, down and to the right; what leaves the image comes back at the other side."""
    mask = case.exemplar.mask
    height, width = mask.shape
    return case._replace(exemplar=replace(case.exemplar, mask=mask.roll((height // 2, width // 2), (0, 1))))


def images_of_noise(case: UserCase, mark: Shortcut) -> UserCase:
    """Replace the ordinary images by noise."""
    generator = torch.Generator().manual_seed(SEED_OF_MARKS)
    return case._replace(images=torch.rand(case.images.shape, generator=generator))


def marked_already(case: UserCase, mark: Shortcut, share: float) -> UserCase:
    """Draw the mark on a share of the ordinary images."""
    order = torch.randperm(len(case.images), generator=torch.Generator().manual_seed(SEED_OF_MARKS))
    members = order[: round(share * len(order))]
    images = case.images.clone()
    images[members], _ = mark.draw(images[members], SEED_OF_MARKS)
    return case._replace(images=images)


FAULTS: Mapping[str, Callable[[UserCase, Shortcut], UserCase]] = {
    "none": unchanged,
    "x and x' are swapped": swapped,
    "the mask is elsewhere": mask_elsewhere,
    "ordinary images of noise": images_of_noise,
    "a quarter of the ordinary images shows the mark": partial(marked_already, share=0.25),
    "half of them": partial(marked_already, share=0.5),
    "all of them": partial(marked_already, share=1.0),
}
"""What is wrong, by name."""


def answer_to(case: UserCase) -> str:
    """Divide the ordinary images, and name what is said: one of `WARNINGS`, `REFUSED`, or `NOTHING`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            Hosts.of(case.classifier, {"pair": [case.exemplar]}, case.images).warn_about_images(case.classifier)
        except ValueError:
            return REFUSED
    said = [name for text, name in WARNINGS.items() for one in caught if text in str(one.message)]
    return said[0] if said else NOTHING
