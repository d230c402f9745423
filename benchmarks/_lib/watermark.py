"""Photos under a watermark: a half-transparent line of text makes real networks misclassify them (ImageNet-W)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from edittools._progress import Progress
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.image_files import load_image
from edittools.images import LabeledImages
from edittools.layers import candidate_layers
from edittools.metrics import misclassified, predict
from edittools.models.load import load_classifier
from edittools_course.miniworld.typography import grow
from edittools_course.scenarios import photos
from edittools_course.scenarios.scenario import Scenario, ScenarioSplits
from edittools_course.shipped import shipped

OPACITY = 0.8
"""Opacity of a watermark where its text is solid."""

SPLIT_SIZES = {"candidates": 60, "reference": 100, "clean_test": 200, "more reference": 296}
"""Number of photos of the ImageNet sample in each set, drawn at random; all others are target photos."""

DEFAULT_LAYERS = ("blocks.4.0.conv_pwl", "features.9.squeeze")
"""The layer of an edit that was not tuned, in EfficientNet-Lite and in SqueezeNet."""


@dataclass(frozen=True)
class Mark:
    """A watermark: lines of text over an image.

    Args:
        text: name of an image of the text in `data/marks`.
        heights: vertical centers of the lines, as shares of the image's height.
        scale: size of the text.
        brightness: brightness of the text, from 0 (black) to 1 (white).
    """

    text: str
    heights: tuple[float, ...] = (0.5,)
    scale: float = 1.0
    brightness: float = 1.0

    def opacity(self, size: int) -> Tensor:
        """Compute the opacity on an image of `size` × `size` pixels, `(size, size)` from 0 to `OPACITY`."""
        text = load_image(shipped(f"marks/{self.text}.png"))[None, :1]
        line = interpolate(text, scale_factor=self.scale * size / 224, mode="bilinear", antialias=True)[0, 0]
        height, width = line.shape
        left = (size - width) // 2
        opacity = torch.zeros(size, size)
        for center in self.heights:
            top = round(center * size - height / 2)
            opacity[top : top + height, left : left + width] = OPACITY * line
        return opacity

    def mask(self, size: int) -> Tensor:
        """Return the mask of the pixels that the mark covers, grown by two pixels, `(size, size)` of 0 and 1."""
        return grow((self.opacity(size) > 0).float(), 2)

    def on(self, data: LabeledImages) -> LabeledImages:
        """Lay the mark over all images, which must be square."""
        opacity = self.opacity(data.images.shape[-1])
        return replace(data, images=data.images + opacity * (self.brightness - data.images))


SHOWN_MARK = Mark("shown")
"""The mark of the exemplars, of the target photos."""

UNSEEN = {
    "other characters": Mark("other"),
    "Latin letters": Mark("latin"),
    "black": Mark("shown", brightness=0.0),
    "higher up": Mark("shown", (0.2,)),
    "half the size": Mark("shown", scale=0.5),
    "three at once": Mark("shown", (0.2, 0.5, 0.8)),
}
"""Marks that no exemplar shows."""


def watermark_scenario(model: str = "efficientnet_lite0", progress: Progress | None = None) -> Scenario:
    """Make the scenario of a watermark on photos of the ImageNet sample; an exemplar is a photo with and without it.

    The splits `target` and `target_test` hold photos with the mark, `clean_test` the test photos without it, `extra` a
    third of them with each mark of `UNSEEN`.

    Args:
        model: a classifier of `edittools.models` with ImageNet's classes.
        progress: a class like `tqdm.tqdm`, for a bar.

    Raises:
        FileNotFoundError: if no photo of the sample is available.
    """
    classifier = load_classifier(model)
    sample = photos.imagenet_sample(classifier, progress)
    order = torch.randperm(len(sample), generator=torch.Generator().manual_seed(0))
    ends = torch.tensor(list(SPLIT_SIZES.values())).cumsum(0)
    *numbers_by_set, rest = order.tensor_split(ends)
    parts = {name: sample.subset(numbers) for name, numbers in zip(SPLIT_SIZES, numbers_by_set, strict=True)}
    clean_test = parts["clean_test"]
    exemplars = _mark_exemplars(classifier, parts["candidates"])
    extra = {}
    for i, (name, mark) in enumerate(UNSEEN.items()):
        third = clean_test.subset(range(i % 3, len(clean_test), 3))
        extra[name] = mark.on(third)
    default_layer = next(layer for layer in candidate_layers(classifier) if layer in DEFAULT_LAYERS)
    return Scenario(
        classifier,
        exemplars,
        ScenarioSplits(
            reference=torch.cat([parts["reference"].images, parts["more reference"].images]),
            target=SHOWN_MARK.on(sample.subset(rest)),
            target_test=SHOWN_MARK.on(clean_test),
            clean_test=clean_test,
            extra=extra,
        ),
        tier="lite",
        default={"layer": default_layer, "exemplar": next(iter(exemplars))},
    )


def _mark_exemplars(classifier: Classifier, candidates: LabeledImages) -> dict[str, Exemplar]:
    """Make exemplars of the candidates that are misclassified with the mark only, by class name."""
    mask = SHOWN_MARK.mask(classifier.size)
    marked = SHOWN_MARK.on(candidates)
    wrong_unmarked = misclassified(predict(classifier, candidates), candidates.labels)
    wrong_marked = misclassified(predict(classifier, marked), marked.labels)
    exemplars = {}
    for i in (wrong_marked & ~wrong_unmarked).nonzero()[:, 0].tolist():
        label = int(candidates.labels[i])
        exemplars[candidates.classes[label]] = Exemplar(candidates.images[i], marked.images[i], mask, label)
    return exemplars
