"""Find concepts in images (section 4.1 of the paper, step 1).

A finder is any callable `images (N, 3, H, W) -> {concept: masks (N, H, W) float of 0 and 1}`. `deeplab()` makes one of
torchvision's DeepLabV3; `cached` keeps on disk what a finder found.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edittools.caching import digest_tensors, load_or_compute
from edittools.classifiers import IMAGENET_MEAN, IMAGENET_STD, identify_network
from edittools.images import in_batches

Finder = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Segmenter:
    """Find concepts with one of torchvision's semantic segmentation networks, in eval mode.

    A pixel shows a concept where its probability is at least `least_score`; a mask that covers less than the share
    `least_area` of its image is dropped. Only the `wanted` concepts are looked for (default: all).
    """

    network: nn.Module
    concepts: tuple[str, ...]
    wanted: tuple[str, ...] = ()
    least_score: float = 0.5
    least_area: float = 0.01

    def __post_init__(self) -> None:
        """Refuse to look for what the network does not know."""
        if unknown := [concept for concept in self.wanted if concept not in self.concepts]:
            raise KeyError(f"concept {unknown[0]!r}: expected one of {', '.join(self.concepts)}")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Find the concepts: `(N, H, W)` of 0 and 1 for each that is seen in some image."""
        names = self.wanted or self.concepts
        found = [self._masks(some, [self.concepts.index(name) for name in names]) for some in in_batches(images, 4)]
        masks = torch.cat(found) if found else torch.zeros(0, len(names), *images.shape[-2:])
        return {name: masks[:, i] for i, name in enumerate(names) if masks[:, i].any()}

    def _masks(self, images: Tensor, places: Sequence[int]) -> Tensor:
        mean, std = (images.new_tensor(one)[:, None, None] for one in (IMAGENET_MEAN, IMAGENET_STD))
        scaled = ((images - mean) / std).to(next(self.network.parameters()).device)
        scores = self.network(scaled)["out"].softmax(dim=1)[:, places].cpu()
        masks = F.interpolate(scores, images.shape[-2:], mode="bilinear", align_corners=False) >= self.least_score
        return (masks & (masks.float().mean(dim=(2, 3), keepdim=True) >= self.least_area)).float()

    @property
    def about(self) -> str:
        """Say what the masks depend on."""
        names = self.wanted or self.concepts
        return f"{identify_network(self.network)} {names} {self.least_score} {self.least_area}"


def deeplab(wanted: Sequence[str] = ()) -> Segmenter:
    """Load torchvision's DeepLabV3 with its weights for 20 things of Pascal VOC (person, car, bird, …)."""
    from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights, deeplabv3_resnet50

    weights = DeepLabV3_ResNet50_Weights.DEFAULT
    return Segmenter(deeplabv3_resnet50(weights=weights).eval(), tuple(weights.meta["categories"]), tuple(wanted))


def cached(finder: Finder, about: str | None = None, cache: str | os.PathLike | None = None) -> Finder:
    """Keep what a finder found below `cache` (default: the cache folder), under a hash of the images and the finder.

    `about` says what the masks depend on; a `Segmenter` knows that itself. Raises `ValueError` where nobody says.
    """
    about = about or getattr(finder, "about", None)
    if about is None:
        raise ValueError(f"{finder!r} does not say what its masks depend on: give about='…', unique to it")

    def find(images: Tensor) -> dict[str, Tensor]:
        compute = lambda: {concept: masks.bool() for concept, masks in finder(images).items()}  # noqa: E731
        found = load_or_compute("concepts", f"{about} {digest_tensors([images])}", compute, cache)
        return {concept: masks.float() for concept, masks in found.items()}

    return find
