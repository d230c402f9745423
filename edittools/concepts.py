"""Where a concept is seen: finders that turn images into concept masks (section 4.1 of the paper, step 1).

A finder is any callable `images (N, 3, H, W) -> {concept: masks (N, H, W) float of 0 and 1}`. Masks that somebody else
made (hand-drawn, MSRC v2, COCO, MiniWorld's own) are read here as well, and `known` makes a finder of them.

deeplab(), mask_rcnn()                       torchvision
segformer(), mask2former(), clipseg([...])   transformers, `pip install edittools[concepts]`
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.io import loadmat
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop, resize
from tqdm.auto import tqdm

from edittools import photos
from edittools.cut import evaluating
from edittools.images import LabelledImages, atomic_path, cache_folder, digest_tensors, load_image
from edittools.masks import decode_segmentation
from edittools.metrics import predict
from edittools.miniworld import Scenes
from edittools.models import IMAGENET_MEAN, IMAGENET_STD, Classifier, fingerprint

Finder = Callable[[Tensor], dict[str, Tensor]]

MSRC = (
    "building", "grass", "tree", "cow", "horse", "sheep", "sky", "mountain", "aeroplane", "water", "face", "car",
    "bicycle", "flower", "sign", "bird", "book", "chair", "road", "cat", "dog", "body", "boat",
)  # fmt: skip
"""The classes of the hand-made MSRC v2 segmentations, in the order of their numbers."""


def fit_map(regions: np.ndarray, size: int, resize_to: int | None = None) -> np.ndarray:
    """Resize and crop a map of region numbers `(H, W)` uint8 as `load_image` does its photo; nearest neighbour."""
    picture = resize(Image.fromarray(regions), resize_to or round(size * 8 / 7), interpolation=Image.NEAREST)
    return np.asarray(center_crop(picture, [size, size]))


def msrc(
    classifier: Classifier, at_least: float = 0.0, progress: bool = False
) -> tuple[LabelledImages, dict[str, Tensor]]:
    """Load the MSRC v2 photos that can be had, with their hand-made masks, prepared as `load_image` prepares them.

    The photos have no ImageNet labels: the label is the *classifier's own prediction* on the clean photo, and with
    `at_least` only photos are kept where its probability is at least that. So no clean photo counts as an error, and
    what is measured is whether a change of the photo changes the reading. Gives the images and, for each concept seen
    in one of them, masks `(N, H, W)` of 0 and 1.
    """
    names = photos.available("msrc-v2/Images/")
    pixels, maps = [], []
    for name in tqdm(names, desc="photos", unit="photo", disable=not progress, leave=False):
        pixels.append(load_image(photos.photo(name), classifier.size, classifier.resize_to))
        truth = name.replace("Images/", "newsegmentations_mats/").replace(".bmp", "_GT.mat")
        maps.append(fit_map(_msrc_classes(photos.photo(truth)), classifier.size, classifier.resize_to))
    images, numbers = torch.stack(pixels), torch.from_numpy(np.stack(maps))
    confidence, labels = predict(classifier, images, progress=progress).softmax(dim=1).max(dim=1)
    sure = confidence >= at_least
    data = LabelledImages(images, labels, classifier.classes, tuple(names)).subset(sure)
    found = {concept: (numbers[sure] == number).float() for number, concept in enumerate(MSRC, start=1)}
    return data, {concept: masks for concept, masks in found.items() if masks.any()}


def _msrc_classes(path: Path) -> np.ndarray:
    """Give the class number (1 … 23) of each pixel, 0 where nobody said; regions above the last label are such."""
    truth = loadmat(path)
    table = np.zeros(256, np.uint8)
    table[1 : truth["newlabels"].size + 1] = truth["newlabels"].ravel()
    return table[truth["newseg"]]


# Masks that are stored


def from_folder(folder: str | os.PathLike, names: Sequence[str], size: int) -> dict[str, Tensor]:
    """Read stored masks of the images `names`: `<concept>/<name>.png` (white is the concept) or `<name>.npz`.

    An `.npz` file holds an array `(H, W)` for each concept. Masks are resized and cropped as `load_image` does photos;
    a concept without a file for an image is not in it. Raises `FileNotFoundError` when nothing is there at all.
    """
    root, found = Path(folder), {}
    for i, name in enumerate(names):
        stem = Path(name).stem
        masks = {p.parent.name: np.asarray(Image.open(p).convert("L")) > 127 for p in root.glob(f"*/{stem}.png")}
        if (root / f"{stem}.npz").exists():
            with np.load(root / f"{stem}.npz", allow_pickle=False) as arrays:
                masks |= {concept: arrays[concept] > 0 for concept in arrays.files}
        _collect(found, masks, i, len(names), size)
    if not found:
        raise FileNotFoundError(f"no masks of {len(names)} images in {str(root)!r}: expected concept/name.png or .npz")
    return found


def from_coco(annotations: str | os.PathLike | Mapping, names: Sequence[str], size: int) -> dict[str, Tensor]:
    """Read the masks of the images `names` from COCO annotations (a JSON file, or what is in it), by category name.

    Polygons and run lengths are read; instances of one category are one mask. An image that is not listed has none.
    """
    read = annotations if isinstance(annotations, Mapping) else json.loads(Path(annotations).read_text())
    images = {Path(image["file_name"]).name: image for image in read["images"]}
    categories = {category["id"]: category["name"] for category in read["categories"]}
    found = {}
    for i, name in enumerate(names):
        image, masks = images.get(Path(name).name), {}
        for one in read["annotations"] if image else ():
            if one["image_id"] == image["id"]:
                mask = decode_segmentation(one, (image["height"], image["width"]))
                concept = categories[one["category_id"]]
                masks[concept] = masks.get(concept, False) | mask
        _collect(found, masks, i, len(names), size)
    return found


def _collect(found: dict[str, Tensor], masks: Mapping[str, np.ndarray], i: int, count: int, size: int) -> None:
    for concept, mask in masks.items():
        fitted = mask if mask.shape == (size, size) else fit_map(mask.astype(np.uint8), size)
        found.setdefault(concept, torch.zeros(count, size, size))[i] = torch.from_numpy(fitted.astype(np.float32))


def of_scenes(data: Scenes, concepts: Sequence[str]) -> dict[str, Tensor]:
    """Give the true masks of MiniWorld scenes."""
    return {concept: data.mask(concept) for concept in concepts}


def known(images: Tensor, masks: Mapping[str, Tensor]) -> Finder:
    """Make a finder of masks that are known: it recognises the images by their pixels, else raises `KeyError`."""
    places = {digest_tensors([image]): i for i, image in enumerate(images)}

    def find(wanted: Tensor) -> dict[str, Tensor]:
        unknown = [i for i, image in enumerate(wanted) if digest_tensors([image]) not in places]
        if unknown:
            raise KeyError(f"no masks of image {unknown[0]}: expected one of the {len(places)} whose masks are known")
        chosen = [places[digest_tensors([image])] for image in wanted]
        return {concept: mask[chosen] for concept, mask in masks.items()}

    return find


# Masks that a network finds


@dataclass(frozen=True)
class Segmenter:
    """A finder made of a segmentation network.

    `scores` gives, for images `(B, 3, H, W)` in [0, 1], `(B, concepts, h, w)` in [0, 1]. A pixel shows a concept where
    its score is at least `least_score`; a mask that covers less than the share `least_area` of its image is dropped.
    """

    network: nn.Module
    scores: Callable[[Tensor], Tensor]
    concepts: tuple[str, ...]
    least_score: float = 0.5
    least_area: float = 0.01
    batch_size: int = 4
    progress: bool = False

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Find the concepts: `(N, H, W)` of 0 and 1 for each that is seen in some image."""
        parts, device = [], next(self.network.parameters()).device
        starts = range(0, len(images), self.batch_size)
        with evaluating(self.network):
            for i in tqdm(starts, "concepts", unit="batch", disable=not self.progress, leave=False):
                scores = self.scores(images[i : i + self.batch_size].to(device)).cpu()
                scores = F.interpolate(scores, images.shape[-2:], mode="bilinear", align_corners=False)
                masks = (scores >= self.least_score).float()
                parts.append(masks * (masks.mean(dim=(2, 3), keepdim=True) >= self.least_area))
        found = torch.cat(parts) if parts else torch.zeros(0, len(self.concepts), *images.shape[-2:])
        return {concept: found[:, i] for i, concept in enumerate(self.concepts) if found[:, i].any()}

    @property
    def about(self) -> str:
        """What its masks depend on."""
        return f"{fingerprint(self.network)} {self.concepts} {self.least_score} {self.least_area}"


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


def segformer(
    network: nn.Module | str = "nvidia/segformer-b0-finetuned-ade-512-512", size: int = 512, **settings: Any
) -> Segmenter:
    """SegFormer of transformers, a network or the name of a checkpoint; ADE20K has road, grass, sea, sand, sky, …"""
    network = _pretrained("SegformerForSemanticSegmentation", network)
    return Segmenter(network, lambda x: network(_square(x, size)).logits.softmax(dim=1), _names(network), **settings)


def mask2former(
    network: nn.Module | str = "facebook/mask2former-swin-tiny-ade-semantic", size: int = 384, **settings: Any
) -> Segmenter:
    """Mask2Former of transformers: a pixel's score is that of the queries that claim it, weighted by their class."""
    network = _pretrained("Mask2FormerForUniversalSegmentation", network)

    def scores(images: Tensor) -> Tensor:
        found = network(pixel_values=_square(images, size))
        classes = found.class_queries_logits.softmax(dim=-1)[..., :-1]
        return torch.einsum("bqc,bqhw->bchw", classes, found.masks_queries_logits.sigmoid()).clamp(0, 1)

    return Segmenter(network, scores, _names(network), **settings)


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


def _names(network: nn.Module) -> tuple[str, ...]:
    labels = network.config.id2label
    return tuple(labels[i].split(",")[0].strip() for i in range(len(labels)))


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

    `about` says what the masks depend on; a `Segmenter` knows that itself. A broken file is made anew.
    """
    about = about or getattr(finder, "about", None)
    if about is None:
        raise ValueError(f"{finder!r} does not say what its masks depend on: give about='…', unique to it")

    def find(images: Tensor) -> dict[str, Tensor]:
        name = hashlib.sha256(f"v1 {about} {digest_tensors([images])}".encode()).hexdigest()
        path = Path(cache or cache_folder()) / "concepts" / f"{name}.safetensors"
        try:
            return {concept: masks.float() for concept, masks in load_file(path).items()}
        except (OSError, SafetensorError):
            found = finder(images)
        with atomic_path(path) as temporary:
            save_file({concept: masks.bool() for concept, masks in found.items()}, temporary)
        return found

    return find
