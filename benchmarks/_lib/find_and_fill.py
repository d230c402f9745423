"""Find a mark by its keys and fill its place from the surroundings; no weight is changed.

    finder = Finder.of(cut, exemplar, pairs, ordinary, sizes)
    likeness, masks = finder.places(images)     # the most likely place in each image, and how likely it is
    filled(images, masks, growth)

The threshold of the likeness above which a place is filled, the layer, and by how much the place is grown are selected
on the hosts that select an edit, by the same objective (`select_setting`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, normalize

from edittools.classifiers import Classifier, usual_batch_size
from edittools.cut import Cut
from edittools.exemplars import Exemplar, Pairs
from edittools.images import evenly_spaced, in_batches
from edittools.locate import MOST_SAMPLED, Box, mean_keys, moved, weights_of
from edittools.metrics import predict
from edittools.selection.hosts import Hosts, divergence
from edittools.selection.scores import Scores

GROWTHS = (0.1, 0.25)
"""By how much a place is grown to all sides before it is filled, as a share of the mark's shorter side."""

THRESHOLDS = 100
"""The number of thresholds that are tried: quantiles of the likeness of the images that select."""


def grown(mask: Tensor, pixels: int) -> Tensor:
    """Grow a mask `(H, W)` by a number of pixels on all sides."""
    return max_pool2d(mask[None], 2 * pixels + 1, 1, pixels)[0]


def inpainted(image: Tensor, mask: Tensor) -> Tensor:
    """Fill the masked area of an image smoothly from its surroundings."""
    from skimage.restoration import inpaint_biharmonic

    pixels = image.permute(1, 2, 0).double().numpy()
    filled = inpaint_biharmonic(pixels, mask.numpy() > 0, channel_axis=-1)
    return torch.from_numpy(np.clip(filled, 0, 1).astype(np.float32)).permute(2, 0, 1).contiguous()


def filled(images: Tensor, masks: Tensor, growth: float) -> Tensor:
    """Fill a place in each image `(N, 3, H, W)`, given by masks `(N, H, W)`, which are grown first."""
    results = [images[:0]]
    for image, mask in zip(images, masks, strict=True):
        box = Box.around(mask)
        pixels = round(growth * min(box.height, box.width))
        results.append(inpainted(image, grown(mask, pixels))[None])
    return torch.cat(results)


class Finder(NamedTuple):
    """What finds a mark in images.

    Attributes:
        cut: the classifier, cut at the layer whose keys are compared.
        masks: the places where the mark is looked for, `(P, H, W)`.
        weights: how much each position counts at each place, see `weights_of`.
        mean: the mean of each channel over places in ordinary images, `(C,)`.
        spread: its standard deviation.
        direction: the standardized mean key of the mark, of length 1, `(C,)`.
    """

    cut: Cut
    masks: Tensor
    weights: Tensor
    mean: Tensor
    spread: Tensor
    direction: Tensor

    @classmethod
    def of(cls, cut: Cut, exemplar: Exemplar, hosts: Pairs, ordinary: Tensor, sizes: Sequence[float]) -> "Finder":
        """Learn what the mark looks like from the exemplar and hosts, and what other places look like.

        Args:
            cut: the classifier, cut at a layer.
            exemplar: the exemplar.
            hosts: ordinary images with its mark.
            ordinary: ordinary images without it.
            sizes: factors of the mark's size; it is looked for in each.
        """
        _, masks = moved([mask for size in sizes for mask in _resized(exemplar.mask, size)])
        weights = weights_of(cut, masks)
        size = usual_batch_size(cut.classifier)
        sampled = in_batches(evenly_spaced(ordinary, MOST_SAMPLED), size)
        keys = torch.cat([mean_keys(cut, cut.prefix(batch), weights) for batch in sampled])
        spread, mean = torch.std_mean(keys.flatten(0, 1), dim=0)
        spread = spread.clamp_min(1e-12)
        shown = Pairs.joined([Pairs.of([exemplar]), hosts])
        of_mark = mean_keys(cut, cut.prefix(shown.changed), weights_of(cut, shown.masks)[:, None])[:, 0]
        direction = normalize(((of_mark - mean) / spread).mean(dim=0), dim=0)
        return cls(cut, masks, weights, mean, spread, direction)

    def places(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Find the place in each image `(N, 3, H, W)` that is most like the mark.

        Returns:
            The cosine of its standardized key and that of the mark, `(N,)`, and the masks of the places, `(N, H, W)`.
        """
        likeness = []
        masks = []
        for batch in in_batches(images, usual_batch_size(self.cut.classifier)):
            keys = mean_keys(self.cut, self.cut.prefix(batch), self.weights)
            cosines = normalize((keys - self.mean) / self.spread, dim=2) @ self.direction
            most_alike, numbers = cosines.max(dim=1)
            likeness.append(most_alike)
            masks.append(self.masks[numbers])
        return torch.cat(likeness), torch.cat(masks)


def _resized(mask: Tensor, size: float) -> list[Tensor]:
    """Return a mask `(H, W)` whose shape has another size, in a corner; nothing if it does not fit into the image."""
    shape = Box.around(mask).of(mask)
    tall, wide = (round(size * side) for side in shape.shape)
    if tall > mask.shape[0] or wide > mask.shape[1]:
        return []
    resized = torch.zeros_like(mask)
    resized[:tall, :wide] = interpolate(shape[None, None], (tall, wide), mode="nearest")[0, 0]
    return [resized]


class Setting(NamedTuple):
    """What is selected.

    Attributes:
        layer: the layer whose keys are compared.
        growth: one of `GROWTHS`.
        threshold: the least likeness of a place that is filled.
    """

    layer: str
    growth: float
    threshold: float

    def __str__(self) -> str:
        return f"layer {self.layer}, growth {self.growth:g}, threshold {self.threshold:.2f}"


def select_setting(classifier: Classifier, finders: Mapping[str, Finder], hosts: Hosts) -> tuple[Setting, int]:
    """Select a layer, a growth, and a threshold by the objective that selects an edit.

    Args:
        classifier: the classifier.
        finders: a finder for each layer.
        hosts: the ordinary images, divided.

    Returns:
        The setting, and the number of settings that were tried.
    """
    select = hosts.select
    settings: list[Setting] = []
    marked: list[Tensor] = []
    clean: list[Tensor] = []
    before = divergence(select.original, select.with_mark)
    for layer, finder in finders.items():
        places = [finder.places(images) for images in (select.marked, select.images)]
        likeness = [found for found, _ in places]
        quantiles = torch.cat(likeness).quantile(torch.linspace(0, 1, THRESHOLDS))
        for growth in GROWTHS:
            divergences = []
            for images, (_, masks) in zip((select.marked, select.images), places, strict=True):
                predicted = predict(classifier, filled(images, masks, growth)).log_softmax(dim=1)
                divergences.append(divergence(select.original, predicted))
            for threshold in quantiles.tolist():
                settings.append(Setting(layer, growth, threshold))
                marked.append(torch.where(likeness[0] >= threshold, divergences[0], before))
                clean.append(torch.where(likeness[1] >= threshold, divergences[1], 0.0))
    scores = Scores(
        settings, torch.stack(marked), torch.stack(clean), before, select.is_own, is_counted=~select.shows_mark
    )
    return scores.best(), len(settings)


def predict_filled(classifier: Classifier, finder: Finder, setting: Setting, images: Tensor) -> Tensor:
    """Compute the logits `(N, classes)` of images in which what is like the mark was filled."""
    likeness, masks = finder.places(images)
    is_shown = likeness >= setting.threshold
    without_mark = images.clone()
    without_mark[is_shown] = filled(images[is_shown], masks[is_shown], setting.growth)
    return predict(classifier, without_mark)
