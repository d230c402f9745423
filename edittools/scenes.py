"""Which images are the same, and which are independent: copies of a photo and frames of one scene are one observation.

Images are compared by thumbnails, so the same photo in another size, precision, or file counts as the same image.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.weak import WeakTensorKeyDictionary

from edittools.images import Images, LabeledImages, LazyImages, batches_of, in_batches, pixels_of

SAME_IMAGE = 0.01
"""Two images are the same if their thumbnails differ by at most this much (root mean square).

Thumbnails of one photo in two sizes differ by 0.003; those of the two most similar of 4,000 MiniWorld scenes, by 0.04.
"""

SAME_SCENE = 0.15
"""Two images show the same scene if their thumbnails differ by at most this much (root mean square), without their mean
and contrast.

The two most similar of 1,500 photos of Imagenette differ by 0.33, and two of 1,500 scenes of MiniWorld by 0.25. Frames
of one of these scenes in 0.5 to 1.2 times its light, overexposed parts included, differ from it by at most 0.13.
"""

LEAST_CONTRAST = 0.03
"""Thumbnails of less contrast (root mean square) are not stretched as far, so that noise tells no flat images apart."""

AT_ONCE = 1000
"""The number of images that are compared with all others at once."""


def scenes_of(images: Images) -> Tensor:
    """Number the scenes of a set: copies, near-copies, and frames of one scene share a number.

    Images are compared by thumbnails without their mean and contrast, so in any light, and whatever their classes. If
    one image resembles two others, all three show the same scene. Photos of small products, one after another by a
    camera that does not move, may count as one scene.

    Args:
        images: N images, with or without labels.

    Returns:
        The number of each image's scene, `(N,)`; scenes are numbered in the order of their first images.
    """
    return scenes_of_thumbnails(thumbnails(images))


def scenes_of_thumbnails(small: Tensor) -> Tensor:
    """Number the scenes of N images by their thumbnails `(N, n)`, see `scenes_of`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(small):
        return torch.zeros(0, dtype=torch.long)
    centered = small - small.mean(dim=1, keepdim=True)
    contrast = centered.square().mean(dim=1, keepdim=True).sqrt()
    compared = centered / contrast.clamp_min(LEAST_CONTRAST)
    threshold = SAME_SCENE * small.shape[1] ** 0.5
    links = []
    for batch in batches_of(len(small), AT_ONCE):
        is_near = torch.cdist(compared[batch], compared) <= threshold
        links.append(is_near.nonzero() + torch.tensor([batch.start, 0]))
    one, other = torch.cat(links).T.numpy()
    graph = coo_array((one >= 0, (one, other)), shape=(len(small), len(small)))
    _, numbers = connected_components(graph, directed=False)
    return torch.from_numpy(numbers).long()


def first_of_each(groups: Tensor) -> Tensor:
    """Tell which members are the first ones of their groups, `(N,)` booleans.

    Args:
        groups: the number of each member's group, `(N,)`.
    """
    is_first = torch.zeros(len(groups), dtype=torch.bool)
    seen = set()
    for number, group in enumerate(groups.tolist()):
        is_first[number] = group not in seen
        seen.add(group)
    return is_first


def without_scenes(data: LabeledImages, others: LabeledImages) -> LabeledImages:
    """Keep one image of each scene of a set, and none of a scene that other images show."""
    is_first = first_of_each(scenes_of(torch.cat([others.images[:], data.images[:]])))
    return data.subset(is_first[len(others) :])


# --- thumbnails -------------------------------------------------------------------------------------------------------

_THUMBNAILS = WeakTensorKeyDictionary()
"""The thumbnails of tensors of images, each with the tensor's version: how often it was changed in place."""


def thumbnails(images: Images) -> Tensor:
    """Shrink images to 16 × 16 pixels, as rows of `(N, 768)` numbers; the same set is shrunk once."""
    pixels = pixels_of(images)
    if isinstance(pixels, LazyImages):
        return _thumbnails_of_files(pixels)
    if pixels.is_inference():  # such a tensor does not count its changes
        return _shrink(pixels)
    version, small = _THUMBNAILS.get(pixels, (None, None))
    if version != pixels._version:
        small = _shrink(pixels)
        _THUMBNAILS[pixels] = (pixels._version, small)
    return small


def _shrink(pixels: Tensor | LazyImages) -> Tensor:
    batches = [interpolate(batch.float(), 16, mode="bilinear", antialias=True) for batch in in_batches(pixels)]
    return torch.cat(batches).flatten(1).cpu() if batches else torch.zeros(0, 768)


_thumbnails_of_files = lru_cache(16)(_shrink)  # so the files of a set are read only once for their thumbnails


def are_same(one: Tensor, other: Tensor) -> Tensor:
    """Compare thumbnails `(N, n)` with others `(M, n)`: `(N, M)` booleans, True if both show the same image."""
    return torch.cdist(one, other) <= SAME_IMAGE * one.shape[1] ** 0.5


def are_shared(one: Tensor, other: Tensor) -> Tensor:
    """Tell which thumbnails of `other` are also among those of `one`, `(M,)` booleans."""
    is_shared = torch.zeros(len(other), dtype=torch.bool)
    for batch in one.split(1024):
        is_shared = is_shared | are_same(batch, other).any(dim=0)
    return is_shared


def thumbnails_are_shared(images: Images, others: Images) -> Tensor:
    """Tell which of M other images are also among some images, `(M,)` booleans."""
    return are_shared(thumbnails(images), thumbnails(others))
