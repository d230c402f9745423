"""Each image has one duty: what is solved for, what chooses and what reports share none.

Images are compared by thumbnails, so that a photograph in another size, precision or file is the same one.
"""

import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import chain, combinations, product

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from edittools.images import Images, LabelledImages, LazyImages, in_batches, pixels_of
from edittools.selection.scenario import Scenario

ALIKE = 0.01
"""Thumbnails are of the same image where they differ by at most this (root mean square).

One photograph in two sizes: 0.003. The most similar two of 4,000 scenes of MiniWorld: 0.04.
"""


def thumbnails(images: Images) -> Tensor:
    """Shrink images to 16 × 16 pixels, `(N, 768)`."""
    pixels = pixels_of(images)
    return _of_files(pixels) if isinstance(pixels, LazyImages) else _shrunk(pixels)


def _shrunk(pixels: Tensor | LazyImages) -> Tensor:
    small = [interpolate(some.float(), 16, mode="bilinear", antialias=True) for some in in_batches(pixels)]
    return torch.cat(small).flatten(1).cpu() if small else torch.zeros(0, 768)


_of_files = lru_cache(16)(_shrunk)  # files are read once for it


def shared_images(one: Images, other: Images) -> int:
    """Return how many images are in both of two sets."""
    return _shared(thumbnails(one), thumbnails(other))


def check_apart(sets: Mapping[str, Images], pairs: Iterable[tuple[str, str]]) -> None:
    """Raise `ValueError` for an image that is in both sets of a pair; the sets go by name."""
    known = {name: thumbnails(images) for name, images in sets.items()}
    for one, other in pairs:
        if shared := _shared(known[one], known[other]):
            raise ValueError(f"{shared} images are both in {one} and in {other}: expected each in one set")


def distinct(name: str, data: LabelledImages) -> LabelledImages:
    """Take each image of the set once; warn when some are there more than once, and call the set by its `name`."""
    known = thumbnails(data)
    again = torch.zeros(len(known), dtype=torch.bool)
    for i in range(0, len(known), 1024):
        again[i : i + 1024] = _alike(known[i : i + 1024], known[: i + 1024]).tril(i - 1).any(dim=1)
    if not again.any():
        return data
    warnings.warn(f"{int(again.sum())} {name} images are there before: each is used once", stacklevel=4)
    return data.subset(~again)


def check_splits(story: Scenario) -> None:
    """Raise `ValueError` for an image with two duties.

    What goes into an edit (x, x' and reference images) can neither choose nor bound nor report it; what chooses or
    bounds cannot report. Only x may be a validation image.
    """
    exemplars = [*story.exemplars.values(), *chain.from_iterable(story.several.values())]
    shown = {"x": [e.image for e in exemplars], "x'": [e.changed for e in exemplars]}
    solved = {"reference": story.reference, **{name: torch.stack(images) for name, images in shown.items() if images}}
    bounds = {name: data for name in ("validation", "budget", "keep") if (data := getattr(story, name)) is not None}
    reported = {name: data for name, data in story.sets.items() if name not in bounds}
    pairs = chain(product(solved, {**bounds, **reported}), combinations(bounds, 2), product(bounds, reported))
    check_apart({**solved, **bounds, **reported}, [pair for pair in pairs if pair != ("x", "validation")])


def _alike(one: Tensor, other: Tensor) -> Tensor:
    """Say which thumbnails `(N, n)` are those of the same image as which others `(M, n)`: `(N, M)`."""
    return torch.cdist(one, other) <= ALIKE * one.shape[1] ** 0.5


def _shared(one: Tensor, other: Tensor) -> int:
    """Count the other images whose thumbnails are among these."""
    found = torch.zeros(len(other), dtype=torch.bool)
    for some in one.split(1024):
        found |= _alike(some, other).any(dim=0)
    return int(found.sum())
