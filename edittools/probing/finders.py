"""Where a concept is seen: finders that turn images into concept masks (section 4.1 of the paper, step 1).

A finder is any callable `images (N, 3, H, W) -> {concept: masks (N, H, W) float of 0 and 1}`.

deeplab()          torchvision: a class for each pixel
mask_rcnn()        torchvision: things in boxes
clipseg([...])     transformers, `pip install 'edittools[concepts]'`: any words
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edittools.caching import load_or_compute
from edittools.classifiers import IMAGENET_MEAN, IMAGENET_STD, architecture, code_of, fingerprint
from edittools.graph import evaluating
from edittools.images import digest_tensors, in_batches

Finder = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Segmenter:
    """A finder made of a segmentation network.

    `scores` gives, for images `(B, 3, H, W)` in [0, 1], `(B, concepts, h, w)` in [0, 1]. A pixel shows a concept where
    its score is at least `least_score`; a mask that covers less than the share `least_area` of its image is dropped.
    Only the `wanted` concepts are looked for (default: all): of thousands of images, those of all fill the memory.
    """

    network: nn.Module
    scores: Callable[[Tensor], Tensor]
    concepts: tuple[str, ...]
    least_score: float = 0.5
    least_area: float = 0.01
    batch_size: int = 4
    progress: bool = False
    wanted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse to look for what the network does not know."""
        if unknown := [concept for concept in self.wanted if concept not in self.concepts]:
            raise KeyError(f"concept {unknown[0]!r}: expected one of {', '.join(self.concepts)}")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Find the concepts: `(N, H, W)` of 0 and 1 for each that is seen in some image."""
        parts, device = [], next(self.network.parameters()).device
        names = self.wanted or self.concepts
        places = [self.concepts.index(name) for name in names]
        with evaluating(self.network):
            for some in in_batches(images, self.batch_size, "concepts", self.progress):
                scores = self.scores(some.to(device)).cpu()[:, places]
                scores = F.interpolate(scores, images.shape[-2:], mode="bilinear", align_corners=False)
                masks = scores >= self.least_score
                parts.append(masks & (masks.float().mean(dim=(2, 3), keepdim=True) >= self.least_area))
        found = torch.cat(parts) if parts else torch.zeros(0, len(names), *images.shape[-2:], dtype=torch.bool)
        return {name: found[:, i].float() for i, name in enumerate(names) if found[:, i].any()}

    @property
    def about(self) -> str:
        """What its masks depend on."""
        network = f"{fingerprint(self.network)} {architecture(self.network)} {code_of(self.scores)}"
        return f"{network} {self.wanted or self.concepts} {self.least_score} {self.least_area}"


def _scaled(images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    return (images - images.new_tensor(mean)[:, None, None]) / images.new_tensor(std)[:, None, None]


def deeplab(network: nn.Module | None = None, concepts: Sequence[str] | None = None, **settings: Any) -> Segmenter:
    """DeepLabV3 of torchvision; by default with its weights for 20 things of Pascal VOC (person, car, bird, …)."""
    from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights, deeplabv3_resnet50

    weights = DeepLabV3_ResNet50_Weights.DEFAULT
    network = network or deeplabv3_resnet50(weights=weights)
    names = tuple(concepts or weights.meta["categories"])
    return Segmenter(network, lambda x: network(_scaled(x))["out"].softmax(dim=1), names, **settings)


def mask_rcnn(network: nn.Module | None = None, concepts: Sequence[str] | None = None, **settings: Any) -> Segmenter:
    """Mask R-CNN of torchvision, by default with its COCO weights: a pixel scores as its best instance does."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn

    weights = MaskRCNN_ResNet50_FPN_Weights.DEFAULT
    network = network or maskrcnn_resnet50_fpn(weights=weights)
    names = tuple(concepts or weights.meta["categories"])

    def scores(images: Tensor) -> Tensor:
        found = images.new_zeros(len(images), len(names), *images.shape[2:])
        for picture, seen in zip(found, network(list(images)), strict=True):
            for label, score, mask in zip(seen["labels"], seen["scores"], seen["masks"], strict=True):
                picture[label] = torch.maximum(picture[label], score * (mask[0] > 0.5))
        return found

    return Segmenter(network, scores, names, **settings)


def clipseg(
    prompts: Sequence[str],
    network: nn.Module | str = "CIDAS/clipseg-rd64-refined",
    tokenise: Callable[[Sequence[str]], Tensor] | None = None,
    **settings: Any,
) -> Segmenter:
    """CLIPSeg of transformers: a concept is any text. `tokenise` gives token numbers `(prompts, length)`."""
    if tokenise is None:
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(network)
        tokenise = lambda texts: tokenizer(list(texts), padding="max_length", return_tensors="pt").input_ids  # noqa: E731
    network = _pretrained("CLIPSegForImageSegmentation", network)
    tokens, side = tokenise(prompts), network.config.vision_config.image_size

    def scores(images: Tensor) -> Tensor:
        pixels = _square(images, side).repeat_interleave(len(prompts), dim=0)
        logits = network(pixel_values=pixels, input_ids=tokens.repeat(len(images), 1).to(pixels.device)).logits
        return logits.reshape(len(images), len(prompts), *logits.shape[-2:]).sigmoid()

    return Segmenter(network, scores, tuple(prompts), **settings)


def _square(images: Tensor, size: int) -> Tensor:
    return _scaled(F.interpolate(images, (size, size), mode="bilinear", antialias=True))


def _pretrained(kind: str, network: nn.Module | str) -> nn.Module:
    if isinstance(network, nn.Module):
        return network
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"{kind} needs the package transformers: pip install 'edittools[concepts]'") from error
    return getattr(transformers, kind).from_pretrained(network)


def cached(finder: Finder, about: str | None = None, cache: str | os.PathLike | None = None) -> Finder:
    """Keep what a finder found below `cache` (default: the cache folder), under a hash of the images and the finder.

    `about` says what the masks depend on; a `Segmenter` knows that itself. See `caching`.
    """
    about = about or getattr(finder, "about", None)
    if about is None:
        raise ValueError(f"{finder!r} does not say what its masks depend on: give about='…', unique to it")

    def find(images: Tensor) -> dict[str, Tensor]:
        compute = lambda: {concept: masks.bool() for concept, masks in finder(images).items()}  # noqa: E731
        found = load_or_compute("concepts", f"{about} {digest_tensors([images])}", compute, cache)
        return {concept: masks.float() for concept, masks in found.items()}

    return find
