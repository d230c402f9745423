"""Where a concept is seen: finders that turn images into concept masks (section 4.1 of the paper, step 1).

A finder is any callable `images (N, 3, H, W) -> {concept: masks (N, H, W) float of 0 and 1}`. Masks that somebody else
made (hand-drawn, MSRC v2, COCO, MiniWorld's own) are read here as well.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import loadmat
from torch import Tensor
from torchvision.transforms.functional import center_crop, resize
from tqdm.auto import tqdm

from edittools import photos
from edittools.images import LabelledImages, load_image
from edittools.metrics import predict
from edittools.models import Classifier

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
