"""Find concepts in images (section 4.1 of the paper, step 1).

    find = Vouched(deeplab("cityscapes"), deeplab("pascal"))     # a street is believed where a vehicle is seen
    masks = cached(find)(images)

A finder is any callable `images (N, 3, H, W) -> {concept: masks (N, H, W) float of 0 and 1}`. Cityscapes' network
sees a street in pictures of anything: its masks are suggestions, to a person or to `Vouched`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from edittools.caching import digest_tensors, load_or_compute
from edittools.checks import extra, one_of
from edittools.classifiers import IMAGENET_MEAN, IMAGENET_STD, fingerprint
from edittools.images import in_batches
from edittools.zoo.downloads import photo, registry

Finder = Callable[[Tensor], dict[str, Tensor]]


def _numbered(names: str, first: int) -> dict[str, tuple[int, ...]]:
    """Give each concept the numbers of the classes that are called so."""
    listed = names.split(", ")
    return {name: tuple(i for i, other in enumerate(listed, first) if other == name) for name in listed}


CITYSCAPES = _numbered(
    "road, road, building, wall, fence, pole, traffic light, sign, tree, grass, sky, person, person, car, truck, bus, "
    "train, motorbike, bicycle",
    first=0,
)
"""Concepts by the numbers of Cityscapes' classes: a road has its sidewalk, a rider is a person."""

PASCAL = _numbered(
    "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table, dog, horse, motorbike, person, plant, "
    "sheep, sofa, train, screen",
    first=1,
)

STREET = ("road", "building", "wall", "fence", "pole", "traffic light", "sign", "tree", "truck")
VEHICLES = ("bicycle", "bus", "car", "motorbike", "train")


@dataclass(frozen=True)
class Segmenter:
    """Find concepts with a network that gives each pixel the number of a class.

    `network` maps images `(B, 3, H, W)` in [0, 1] to numbers `(B, h, w)`; `concepts` go by name, each with its numbers.
    A mask that covers less than the share `least_area` of its image is dropped. `about` identifies the network, and
    only the network.
    """

    network: Callable[[Tensor], Tensor] = field(repr=False)
    concepts: Mapping[str, Sequence[int]]
    about: str = field(repr=False)
    least_area: float = 0.01

    @property
    def cache_key(self) -> str:
        """Identify the masks: the network, the numbers of each concept and the least area."""
        numbers = {concept: [int(number) for number in classes] for concept, classes in self.concepts.items()}
        return f"{self.about} {numbers} {float(self.least_area)!r}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Find the concepts: masks for each that is seen in some image."""
        found, size = {name: [] for name in self.concepts}, images.shape[-2:]
        for some in in_batches(images, 4):
            numbers = F.interpolate(self.network(some)[:, None].float(), size, mode="nearest")[:, 0]
            for name, masks in found.items():
                seen = torch.isin(numbers, torch.tensor(self.concepts[name]).to(numbers))
                masks.append(seen & (seen.float().mean(dim=(1, 2), keepdim=True) >= self.least_area))
        whole = {name: torch.cat(masks).float() for name, masks in found.items() if masks}
        return {name: masks for name, masks in whole.items() if masks.any()}


def _read_tflite(path: Path, images: Tensor) -> Tensor:
    """Run the segmentation network of a tflite file: bytes of pixels in, numbers of classes out."""
    with extra("probing.finders", "concepts"):
        from ai_edge_litert.interpreter import Interpreter
    network = Interpreter(str(path))  # not shared: it holds what it computes, and threads would mix it up
    network.allocate_tensors()
    [given], [read] = network.get_input_details(), network.get_output_details()
    sized = F.interpolate(images.cpu(), tuple(given["shape"][1:3]), mode="bilinear", antialias=True)
    pixels, numbers = (sized * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy(), []
    for one in pixels:
        network.set_tensor(given["index"], one[None])
        network.invoke()
        numbers.append(torch.from_numpy(network.get_tensor(read["index"])[0]))
    return torch.stack(numbers)


def _read_torchvision(network: nn.Module, images: Tensor) -> Tensor:
    """Run a segmentation network of torchvision: the class of highest score at each pixel."""
    device = next(network.parameters()).device
    scores = network(normalize(images, IMAGENET_MEAN, IMAGENET_STD).to(device))["out"]
    return F.interpolate(scores, images.shape[-2:], mode="bilinear", align_corners=False).argmax(dim=1).cpu()


def deeplab(name: str = "pascal", wanted: Sequence[str] = ()) -> Segmenter:
    """Load a DeepLab: "cityscapes" (a street's concepts), "pascal" (20 things), or torchvision's larger "resnet50".

    Only the `wanted` concepts are looked for (default: all that it knows). The first two, of 2 MB, need the package
    ai-edge-litert, `edittools[concepts]`. Raises `KeyError` for another name or concept.
    """
    known = {"cityscapes": CITYSCAPES, "pascal": PASCAL, "resnet50": PASCAL}
    listed = known[one_of(name, known, "DeepLab", KeyError)]
    concepts = {concept: listed[one_of(concept, listed, "concept", KeyError)] for concept in wanted or listed}
    if name != "resnet50":
        file = f"weights/deeplab/{name}.tflite"
        return Segmenter(partial(_read_tflite, photo(file)), concepts, about=registry()[file][0])
    from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights, deeplabv3_resnet50

    network = deeplabv3_resnet50(weights=DeepLabV3_ResNet50_Weights.DEFAULT).eval()
    return Segmenter(partial(_read_torchvision, network), concepts, about=fingerprint(network))


@dataclass(frozen=True)
class Vouched:
    """A finder whose `doubtful` concepts are believed only in images in which `witness` finds one of `things`."""

    finder: Segmenter
    witness: Segmenter
    doubtful: Sequence[str] = STREET
    things: Sequence[str] = VEHICLES

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Find the concepts; masks of a doubtful one are empty in images in which nobody vouches for it."""
        seen = self.witness(images)
        vouching = [masks.flatten(1).any(dim=1) for name, masks in seen.items() if name in self.things]
        believed = torch.stack(vouching).any(dim=0) if vouching else torch.zeros(len(images), dtype=torch.bool)
        found = self.finder(images)
        kept = {n: m * believed[:, None, None] if n in self.doubtful else m for n, m in found.items()}
        return {name: masks for name, masks in kept.items() if masks.any()}

    @property
    def about(self) -> str:
        """Identify the masks: both finders, with all that decides their masks, and which concepts are gated by what."""
        return f"{_cache_key(self.finder)} {_cache_key(self.witness)} {list(self.doubtful)} {list(self.things)}"


def _cache_key(finder: Finder) -> str | None:
    """Return what a finder says its masks depend on, or None where it says nothing."""
    return getattr(finder, "cache_key", None) or getattr(finder, "about", None)


def cached(finder: Finder, about: str | None = None) -> Finder:
    """Keep the masks of a finder in the cache folder, under a hash of the images and of all that decides a mask.

    Args:
        finder: the finder. Those of this module identify their masks themselves.
        about: a text that identifies the masks, required for any other callable; for a finder of this module it is
            added to what the finder says.

    Raises:
        ValueError: if neither `about` nor the finder identifies the masks.
    """
    known = [text for text in (about, _cache_key(finder)) if text]
    if not known:
        raise ValueError(f"{finder!r} does not say what its masks depend on: give about='…', unique to it")
    key = " ".join(known)

    def find(images: Tensor) -> dict[str, Tensor]:
        compute = lambda: {concept: masks.bool() for concept, masks in finder(images).items()}  # noqa: E731
        found = load_or_compute("concepts", f"{key} {digest_tensors([images])}", compute)
        return {concept: masks.float() for concept, masks in found.items()}

    return find
