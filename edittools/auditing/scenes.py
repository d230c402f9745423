"""Which images are independent: copies of a photo, and frames of one scene, are one observation."""

import torch
from torch import Tensor

from edittools.images import LabelledImages
from edittools.selection.splits import SAME_IMAGE, thumbnails

SAME_SCENE = 0.035
"""Two images show the same scene only if their thumbnails differ by at most this much (root mean square).

The two most similar of 1,500 photos of Imagenette differ by 0.047, and two of 400 scenes of MiniWorld by 0.050.
"""

OF_THE_USUAL = 1 / 3
"""Two images show the same scene only if they differ by at most this share of what images of one class usually do.

In photos of one product after another by a camera that does not move, all differ little, and by about as much.
"""

MOST_COMPARED = 1000
"""The largest number of images from which the usual difference is computed."""


def scenes_of(data: LabelledImages) -> Tensor:
    """Number the scenes of a set: copies, near-copies, and frames of one scene share a number.

    Images are compared by thumbnails. If one image resembles two others, all three show the same scene.

    Args:
        data: N images with labels.

    Returns:
        The number of each image's scene, `(N,)`; scenes are numbered in the order of their first images.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(data):
        return torch.zeros(0, dtype=torch.long)
    small = thumbnails(data)
    threshold = _largest_difference(small, data.labels) * small.shape[1] ** 0.5
    links = []
    for start in range(0, len(small), MOST_COMPARED):
        is_near = torch.cdist(small[start : start + MOST_COMPARED], small) <= threshold
        links.append(is_near.nonzero() + torch.tensor([start, 0]))
    one, other = torch.cat(links).T.numpy()
    graph = coo_array((one >= 0, (one, other)), shape=(len(small), len(small)))
    _, numbers = connected_components(graph, directed=False)
    return torch.from_numpy(numbers).long()


def _largest_difference(small: Tensor, labels: Tensor) -> float:
    """Return the largest difference of the thumbnails of one scene, between `SAME_IMAGE` and `SAME_SCENE`."""
    step = -(-len(small) // MOST_COMPARED)
    compared = small[::step]
    of_class = labels[::step]
    is_pair = (of_class[:, None] == of_class).triu(1)
    differences = torch.cdist(compared, compared)[is_pair] / small.shape[1] ** 0.5
    if not len(differences):
        return SAME_IMAGE
    usual = float(differences.median())
    return max(SAME_IMAGE, min(SAME_SCENE, OF_THE_USUAL * usual))


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


def without_scenes(data: LabelledImages, others: LabelledImages) -> LabelledImages:
    """Keep one image of each scene of a set, and none of a scene that other images show."""
    images = torch.cat([others.images[:], data.images[:]])
    labels = torch.cat([others.labels, data.labels])
    is_first = first_of_each(scenes_of(LabelledImages(images, labels, data.classes)))
    return data.subset(is_first[len(others) :])
