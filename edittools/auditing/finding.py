"""What was found that should not carry a class: an exemplar of it, and the images that measure its repair."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from edittools._caching import digest_tensors
from edittools.exemplars import Exemplar
from edittools.images import Images, LabeledImages


@dataclass(frozen=True, eq=False)
class Finding:
    """What `repair` takes. No image of a set is one that the exemplar came from, or shows the same scene.

    Attributes:
        exemplar: the exemplar; its `sources` are names of photos of the audit or the session, see `names_of`.
        concept: images that show the concept, right and wrong; None if there are none.
        clean: images whose accuracy must not drop; None if there are none.
        retain: images that rely on the concept legitimately; None if there are none.
        images: ordinary images, which select the edit; None if a part of `clean` does.
    """

    exemplar: Exemplar
    concept: LabeledImages | None = field(repr=False)
    clean: Images | None = field(repr=False)
    retain: Images | None = field(default=None, repr=False)
    images: Images | None = field(default=None, repr=False)


def names_of(data: LabeledImages) -> tuple[str, ...]:
    """Return what tells photos apart: their names, or their digests if they have none."""
    return data.names or tuple(digest_tensors([image]) for image in data.images[:])


def are_sources(exemplar: Exemplar, data: LabeledImages) -> Tensor:
    """Tell which photos an exemplar came from, `(N,)` booleans."""
    return torch.tensor([name in exemplar.sources for name in names_of(data)])
