"""Identify what a probe or a case depends on, for storing results."""

from itertools import chain

from edittools._storage import digest_tensors
from edittools.exemplars import paste_texture
from edittools.probing.counterfactuals import Concepts


def digest_of(concepts: Concepts) -> str:
    """Return a text that identifies the images, masks, materials, and the transform, for storing results."""
    data = concepts.data
    named = (concepts.masks, concepts.materials, concepts.cut_variants)
    tensors = [*data.images, data.labels, *chain.from_iterable(part.values() for part in named)]
    names = (
        f"{list(concepts.masks)} {list(concepts.materials)} {dict(concepts.objects)} {concepts.groups} {data.classes}"
    )
    contents = f"{digest_tensors(tensors)[:12]} {names}"
    return contents if concepts.transform is paste_texture else f"{contents} {concepts.transform.cache_key}"
