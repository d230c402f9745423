"""Each image has one duty: what is solved for, what chooses and what reports share none."""

import warnings
from collections.abc import Iterable
from functools import cached_property
from itertools import chain, combinations, product
from pathlib import Path

from torch import Tensor

from edittools.choosing.scenario import Scenario
from edittools.images import Images, LabelledImages, LazyImages, pixel_digests, pixels_of


class _Known:
    """What tells the images of a set from others; pixels are read once."""

    def __init__(self, images: Images | Iterable[Tensor]) -> None:
        self._images = pixels_of(images)

    @cached_property
    def files(self) -> frozenset[Path] | None:
        """The files of images on disk, None for others."""
        return frozenset(p.resolve() for p in self._images.paths) if isinstance(self._images, LazyImages) else None

    @cached_property
    def pixels(self) -> frozenset[bytes]:
        """Digests of the pixels."""
        return self._images.digests if isinstance(self._images, LazyImages) else pixel_digests(self._images)

    def shared(self, other: "_Known") -> int:
        """How many images are in both sets."""
        if self.files is not None and other.files is not None:
            return len(self.files & other.files)
        return len(self.pixels & other.pixels)


def shared_images(one: Images, other: Images) -> int:
    """How many images are in both of two sets: by their files where both are on disk, else by their pixels."""
    return _Known(one).shared(_Known(other))


def distinct(name: str, data: LabelledImages) -> LabelledImages:
    """Each image of the set once; warns when some are there more than once, and calls the set by its `name`."""
    if len(_Known(data).pixels) == len(data):
        return data
    seen: dict[frozenset[bytes], int] = {}
    for i, image in enumerate(data.images):
        seen.setdefault(pixel_digests([image]), i)
    first = list(seen.values())
    warnings.warn(f"{len(data) - len(first)} {name} images are there before: each is used once", stacklevel=4)
    return data.subset(first)


def check_duties(story: Scenario) -> None:
    """Raise `ValueError` for an image with two duties.

    What goes into an edit (x, x' and reference images) can neither choose nor bound nor report it; what chooses or
    bounds cannot report. Only x may be a validation image.
    """
    exemplars = [*story.exemplars.values(), *chain.from_iterable(story.several.values())]
    solved = {"reference": story.reference, "x": [e.image for e in exemplars], "x'": [e.changed for e in exemplars]}
    bounds = {name: data for name in ("validation", "budget", "keep") if (data := getattr(story, name)) is not None}
    reported = {name: data for name, data in story.sets.items() if name not in bounds}
    sets = {**solved, **bounds, **reported}
    known = {name: _Known(images) for name, images in sets.items()}
    for one, other in chain(
        product(solved, {**bounds, **reported}), combinations(bounds, 2), product(bounds, reported)
    ):
        shared = known[one].shared(known[other])
        if shared and (one, other) != ("x", "validation"):
            raise ValueError(f"{shared} of the {len(sets[other])} {other} images are {one} images: expected none")
