"""The photographs of notebook 02: a half-transparent watermark makes real networks misread them (ImageNet-W)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, load_image
from edittools.metrics import misclassified, predict
from edittools.miniworld.typography import grow
from edittools.models.data import shipped
from edittools.models.load import load_classifier
from edittools.scenarios import photos
from edittools.selection.scenario import Scenario
from edittools.selection.trials import candidate_layers

OPACITY = 0.8
SPLIT_SIZES = {"candidates": 60, "reference": 100, "test": 200, "budget": 296}
"""So many of the ImageNet sample's photos have each duty, taken at random; all others are the validation."""

NARROW = tuple(f"blocks.{i}.0.conv_pwl" for i in range(2, 6)) + tuple(f"features.{i}.squeeze" for i in (6, 7, 9, 11))
"""Layers that may be edited: convolutions to few channels at four depths of EfficientNet-Lite, and of SqueezeNet."""


@dataclass(frozen=True)
class Mark:
    """A watermark: a text of `data/marks`, the heights of its lines' middles, its size and its brightness."""

    text: str
    heights: tuple[float, ...] = (0.5,)
    scale: float = 1.0
    brightness: float = 1.0

    def opacity(self, size: int) -> Tensor:
        """Return how opaque it is on a picture of `size` × `size` pixels, `(size, size)` from 0 to `OPACITY`."""
        line, page = load_image(shipped(f"marks/{self.text}.png"))[None, :1], torch.zeros(size, size)
        line = interpolate(line, scale_factor=self.scale * size / 224, mode="bilinear", antialias=True)[0, 0]
        left = (size - line.shape[1]) // 2
        for height in self.heights:
            top = round(height * size - len(line) / 2)
            page[top : top + len(line), left : left + line.shape[1]] = OPACITY * line
        return page

    def mask(self, size: int) -> Tensor:
        """Return the pixels that it covers, grown by two, `(size, size)` of 0 and 1."""
        return grow((self.opacity(size) > 0).float(), 2)

    def on(self, data: LabelledImages) -> LabelledImages:
        """Lay it over all of the images, which are square."""
        opacity = self.opacity(data.images.shape[-1])
        return replace(data, images=data.images + opacity * (self.brightness - data.images))


SHOWN_MARK = Mark("shown")
UNSEEN = {
    "other characters": Mark("other"),
    "Latin letters": Mark("latin"),
    "black": Mark("shown", brightness=0.0),
    "higher up": Mark("shown", (0.2,)),
    "half the size": Mark("shown", scale=0.5),
    "three at once": Mark("shown", (0.2, 0.5, 0.8)),
}
"""Marks that no exemplar shows."""


def watermark_scenario(model: str = "efficientnet_lite0", progress: bool = False) -> Scenario:
    """Make the story of a watermark on photos of the ImageNet sample; an exemplar is a photo with and without it.

    The two exemplars are the first of the candidates that the mark makes the network misread. `validation` and `test`
    show photos with the mark, `clean` the test photos without it, `more` a third of them with each mark of `UNSEEN`.
    """
    classifier = load_classifier(model)
    sample = photos.imagenet_sample(classifier, progress)
    order = torch.randperm(len(sample), generator=torch.Generator().manual_seed(0))
    *first, rest = order.tensor_split(torch.tensor(list(SPLIT_SIZES.values())).cumsum(0))
    parts = {name: sample.subset(numbers) for name, numbers in zip(SPLIT_SIZES, first, strict=True)}
    clean, candidates, mask = parts["test"], parts["candidates"], SHOWN_MARK.mask(classifier.size)
    shown, exemplars = SHOWN_MARK.on(candidates), {}
    wrong, fooled = (misclassified(predict(classifier, one), one.labels) for one in (candidates, shown))
    for i in (fooled & ~wrong).nonzero()[:2, 0].tolist():
        image, label = candidates.images[i], int(candidates.labels[i])
        exemplars[sample.classes[label]] = Exemplar(image, shown.images[i], mask, label)
    sets = {"reference": parts["reference"].images, "validation": SHOWN_MARK.on(sample.subset(rest))}
    sets |= {"budget": parts["budget"], "test": SHOWN_MARK.on(clean), "clean": clean}
    more = {name: mark.on(clean.subset(range(i % 3, len(clean), 3))) for i, (name, mark) in enumerate(UNSEEN.items())}
    layers = tuple(layer for layer in candidate_layers(classifier) if layer in NARROW)
    default = {"layer": layers[len(layers) // 2], "exemplar": next(iter(exemplars))}
    return Scenario(classifier, exemplars, **sets, more=more, tier="lite", layers=layers, default=default)
