"""Composites: photos whose concept is turned to another material, to choose an edit on before any failing photo is had.

    story = snow_from_composites("squeezenet1_1")   # chooses on composites, reports all photos of vehicles on snow

A person has photos of roads, their masks and a picture of snow long before having photos that a classifier misreads. A
composite is held to what the classifier reads before the change, so nobody has to label it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from edittools.choosing.scenario import Scenario
from edittools.classifiers import Classifier
from edittools.cut import sought_layers
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.pasting import paste_texture
from edittools.stories import photos
from edittools.stories.snow import everyday_photos, snow_exemplars
from edittools.stories.tiers import Device
from edittools.world.textures import VARIANTS, restyle
from edittools.zoo.load import load_classifier

Look = Callable[[Tensor, Tensor, int], Tensor]
"""What turns image i with its mask to a material: `look(image, mask, i)`."""

SURE = 0.2
"""A photo that is read with at least this probability can say what its composites show."""

LEAST = 0.05
"""A concept covers at least this share of a photo that shows it."""

LATE = 10
"""So many of the last convolutions may be edited: late ones are fast to try."""


@dataclass(frozen=True)
class Masked:
    """Photos read surely that show a concept, with its masks `(N, H, W)`, and all `other` photos `(M, 3, H, W)`."""

    data: LabelledImages
    masks: Tensor = field(repr=False)
    other: Tensor = field(repr=False)

    def composites(self, looks: Sequence[Look], numbers: Sequence[int] | None = None) -> LabelledImages:
        """The photos `numbers` (default: all) in each of the looks, labelled as the untouched photos are."""
        numbers = range(len(self.data)) if numbers is None else numbers
        pictures = [look(self.data.images[i], self.masks[i], i) for i in numbers for look in looks]
        repeated = self.data.subset([i for i in numbers for _ in looks])
        return replace(repeated, images=(torch.stack(pictures) * 255).round() / 255)


def masked_photos(classifier: Classifier, concept: str, progress: bool = False) -> Masked:
    """The MSRC photos that show a `concept`, on `LEAST` of them, and are read with a probability of `SURE`.

    Labels are what `classifier` reads. Raises `KeyError` for a concept that no photo shows.
    """
    data, masks = photos.msrc(classifier, SURE, progress)
    if concept not in masks:
        raise KeyError(f"concept {concept!r}: expected one of {', '.join(masks)}")
    showing = masks[concept].mean(dim=(1, 2)) >= LEAST
    shown = data.subset(showing)
    other = photos.unlabelled("msrc-v2/Images/", classifier, progress, without=shown.names)
    return Masked(shown, masks[concept][showing], other)


def snow_looks() -> list[Look]:
    """Three looks of snow: the paper's picture as it lies in the exemplars, a darker part of it, and drawn snow."""
    whole = photos.snow_texture()
    height, width = whole.shape[1:]
    part = 0.85 * whole[:, height // 2 :, width // 2 :]
    return [
        lambda image, mask, i: paste_texture(image, mask, whole, keep_shading=0),
        lambda image, mask, i: paste_texture(image, mask, part),
        lambda image, mask, i: restyle(image, mask, "snow", i % VARIANTS),
    ]


def snow_from_composites(name: str, progress: bool = False, device: Device = None) -> Scenario:
    """Notebook 01's story on photos, with a classifier of the zoo by name, chosen without a single photo of snow.

    `validation` are composites: roads of MSRC photos in each of `snow_looks`. So all 127 photos are the `test`.
    """
    classifier = load_classifier(name, device)
    roads = masked_photos(classifier, "road", progress)
    change = partial(paste_texture, texture_image=photos.snow_texture(), keep_shading=0)
    exemplars, layers = snow_exemplars(classifier, change), sought_layers(classifier)[-LATE:]
    sets = {"validation": roads.composites(snow_looks()), "test": photos.snow_photos(classifier, progress)}
    sets |= {"reference": roads.other, **everyday_photos(classifier, progress)}
    story = {"tier": "lite", "change": change, "layers": layers, "several": _all(exemplars)}
    default = {"layer": layers[0], "exemplar": "minivan", "rank": 1, "masked": True}
    return Scenario(classifier, exemplars, **sets, **story, default=default)


def _all(exemplars: Mapping[str, Exemplar]) -> dict[str, list[Exemplar]]:
    return {f"all {len(exemplars)}": list(exemplars.values())}
