"""Find concepts in images with segmentation networks (section 4.1 of the paper, step 1).

    masks = cached(deeplab("pascal"))(images)

A finder is any callable `images (N, 3, H, W) -> {concept: masks (N, H, W) float of 0 and 1}`. The network for
Cityscapes sees a street in images of anything: its masks are suggestions to a person.

| function | concepts |
| --- | --- |
| `deeplab` | Cityscapes' streets, Pascal's 20 things |
| `mask_rcnn` | COCO's 80 things |
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from edittools._checks import extra, one_of
from edittools._inference import eval_copy
from edittools._progress import Progress
from edittools._storage import digest_tensors
from edittools.classifiers import IMAGENET_MEAN, IMAGENET_STD, fingerprint
from edittools.images import in_batches
from edittools_course.caching import load_or_compute
from edittools_course.downloads import photo, registry

Finder = Callable[[Tensor], dict[str, Tensor]]


def _numbered(class_names: str, first: int) -> dict[str, tuple[int, ...]]:
    """Map each concept to the numbers of the classes with its name.

    Args:
        class_names: names of all classes of a network, in order, separated by commas.
        first: number of the first class.
    """
    numbers: dict[str, tuple[int, ...]] = {}
    for number, name in enumerate(class_names.split(", "), first):
        numbers[name] = (*numbers.get(name, ()), number)
    return numbers


CITYSCAPES = _numbered(
    "road, road, building, wall, fence, pole, traffic light, sign, tree, grass, sky, person, person, car, truck, bus, "
    "train, motorbike, bicycle",
    first=0,
)
"""Concepts by the numbers of the classes of Cityscapes: a sidewalk is part of the road, a rider is a person."""

PASCAL = _numbered(
    "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table, dog, horse, motorbike, person, plant, "
    "sheep, sofa, train, screen",
    first=1,
)
"""Concepts by the numbers of the classes of Pascal VOC; 0 is the background."""


@dataclass(frozen=True)
class Segmenter:
    """Find concepts with a network that predicts the number of a class for each pixel.

    Args:
        network: maps images `(B, 3, H, W)` in [0, 1] to class numbers `(B, h, w)`.
        concepts: the class numbers of each concept, by name.
        about: identifies the network, and only the network.
        least_area: a mask that covers a smaller share of its image is dropped.
        progress: a class like `tqdm.tqdm`, for a bar.
    """

    network: Callable[[Tensor], Tensor] = field(repr=False)
    concepts: Mapping[str, Sequence[int]]
    about: str = field(repr=False)
    least_area: float = 0.01
    progress: Progress | None = field(default=None, repr=False)

    @property
    def cache_key(self) -> str:
        """Identify the masks: the network, the numbers of each concept, and the least area."""
        numbers = {concept: list(map(int, class_numbers)) for concept, class_numbers in self.concepts.items()}
        return f"{self.about} {numbers} {float(self.least_area)!r}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Find the concepts: masks `(N, H, W)` of each one that some image `(N, 3, H, W)` shows."""
        size = images.shape[-2:]
        batches: dict[str, list[Tensor]] = {concept: [] for concept in self.concepts}
        for batch in in_batches(images, 4, f"segmented for {len(self.concepts)} concepts", self.progress):
            class_map = self.network(batch)[:, None].float()
            class_map = F.interpolate(class_map, size, mode="nearest")[:, 0]
            for concept, numbers in self.concepts.items():
                masks = torch.isin(class_map, torch.tensor(numbers).to(class_map))
                areas = masks.float().mean(dim=(1, 2), keepdim=True)
                batches[concept].append(masks & (areas >= self.least_area))
        masks_by_concept = {}
        for concept, parts in batches.items():
            if any(part.any() for part in parts):
                masks_by_concept[concept] = torch.cat(parts).float()
        return masks_by_concept


def _run_tflite(path: Path, images: Tensor) -> Tensor:
    """Run the segmentation network of a tflite file: pixels as bytes in, class numbers out."""
    with extra("segmenters", "segmenters"):
        from ai_edge_litert.interpreter import Interpreter
    network = Interpreter(str(path))  # not shared: it holds what it computes, and threads would mix it up
    network.allocate_tensors()
    [input_details] = network.get_input_details()
    [output_details] = network.get_output_details()
    input_size = tuple(input_details["shape"][1:3])
    sized = F.interpolate(images.cpu(), input_size, mode="bilinear", antialias=True)
    pixels = (sized * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    class_maps = []
    for image in pixels:
        network.set_tensor(input_details["index"], image[None])
        network.invoke()
        class_maps.append(torch.from_numpy(network.get_tensor(output_details["index"])[0]))
    return torch.stack(class_maps)


def _run_torchvision(network: nn.Module, images: Tensor) -> Tensor:
    """Run a segmentation network of torchvision: the class with the highest score at each pixel."""
    device = next(network.parameters()).device
    scores = network(normalize(images, IMAGENET_MEAN, IMAGENET_STD).to(device))["out"]
    return F.interpolate(scores, images.shape[-2:], mode="bilinear", align_corners=False).argmax(dim=1).cpu()


def _selected(
    available: Mapping[str, Sequence[int]], wanted: Sequence[str] | Mapping[str, Sequence[str]]
) -> dict[str, tuple[int, ...]]:
    """Select the wanted concepts: by name, or as a mapping of each to the names that it consists of.

    Raises:
        KeyError: if a name is not available.
    """
    named = wanted if isinstance(wanted, Mapping) else {name: (name,) for name in wanted or available}
    concepts = {}
    for concept, names in named.items():
        numbers: list[int] = []
        for name in [names] if isinstance(names, str) else names:
            one_of(name, available, "concept", KeyError)
            numbers += available[name]
        concepts[concept] = tuple(numbers)
    return concepts


def deeplab(name: str = "pascal", wanted: Sequence[str] = ()) -> Segmenter:
    """Load a DeepLab.

    Args:
        name: "cityscapes" (concepts of a street) or "pascal" (20 things), of 2 MB each, which need the package
            ai-edge-litert, `edittools[segmenters]`; or "resnet50", the larger network of torchvision for the same
            things as "pascal".
        wanted: the concepts to find; by default all concepts that the network knows.

    Raises:
        KeyError: if there is no such network or concept.
    """
    networks = {"cityscapes": CITYSCAPES, "pascal": PASCAL, "resnet50": PASCAL}
    one_of(name, networks, "DeepLab", KeyError)
    concepts = _selected(networks[name], wanted)
    if name != "resnet50":
        file = f"weights/deeplab/{name}.tflite"
        sha256, _ = registry()[file]
        return Segmenter(partial(_run_tflite, photo(file)), concepts, about=sha256)
    from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights, deeplabv3_resnet50

    network = deeplabv3_resnet50(weights=DeepLabV3_ResNet50_Weights.DEFAULT).eval()
    return Segmenter(partial(_run_torchvision, network), concepts, about=fingerprint(network))


def _run_mask_rcnn(network: nn.Module, least_score: float, images: Tensor) -> Tensor:
    """Run a Mask R-CNN of torchvision: at each pixel the class of the surest instance there; 0 where there is none."""
    device = next(network.parameters()).device
    class_maps = []
    detections = eval_copy(network)(list(images.to(device)))
    for detected in detections:
        class_map = torch.zeros(images.shape[-2:], dtype=torch.long)
        scores = detected["scores"].cpu()
        for k in scores.argsort().tolist():  # the surest one last, on top of the others
            if scores[k] >= least_score:
                class_map[detected["masks"][k, 0].cpu() > 0.5] = int(detected["labels"][k])
        class_maps.append(class_map)
    return torch.stack(class_maps)


def mask_rcnn(
    wanted: Sequence[str] | Mapping[str, Sequence[str]] = (),
    least_score: float = 0.5,
    least_area: float = 0.01,
    network: nn.Module | None = None,
) -> Segmenter:
    """Load torchvision's Mask R-CNN, an instance segmenter for the 80 things of COCO.

    Args:
        wanted: names of the things to find, or a mapping of concepts to the names that each consists of; by default
            all things.
        least_score: instances that the network is less sure of do not count. Where instances overlap, the surer one
            counts.
        least_area: a mask that covers a smaller share of its image is dropped.
        network: a Mask R-CNN for COCO's 91 class numbers; by default torchvision's, downloaded once (170 MB) and
            checked by the hash in its file's name.

    Raises:
        KeyError: if there is no such thing.
        FileNotFoundError: if the weights are not on this machine and cannot be downloaded.
    """
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn

    weights = MaskRCNN_ResNet50_FPN_Weights.DEFAULT
    things = {}
    for number, name in enumerate(weights.meta["categories"]):
        if name not in ("__background__", "N/A"):
            things[name] = (number,)
    concepts = _selected(things, wanted)
    if network is None:
        try:
            network = maskrcnn_resnet50_fpn(weights=weights, progress=False)
        except OSError as error:
            raise FileNotFoundError(
                f"the weights of Mask R-CNN could not be downloaded from {weights.url} ({error}); put that file into "
                f"{torch.hub.get_dir()}/checkpoints, or use deeplab('pascal')"
            ) from error
    heads = network.roi_heads
    settings = (heads.score_thresh, heads.nms_thresh, heads.detections_per_img, least_score)
    about = f"{fingerprint(network)} {network.transform} {settings}"
    return Segmenter(partial(_run_mask_rcnn, network, least_score), concepts, about, least_area)


def cached(finder: Segmenter) -> Finder:
    """Keep the masks of a finder in the cache folder, under a hash of all that they depend on."""

    def find(images: Tensor) -> dict[str, Tensor]:
        def compute() -> dict[str, Tensor]:
            return {concept: masks.bool() for concept, masks in finder(images).items()}

        stored = load_or_compute("concepts", f"{finder.cache_key} {digest_tensors([images])}", compute)
        return {concept: masks.float() for concept, masks in stored.items()}

    return find
