"""Claim: DeepLab finds most concepts of MSRC v2's photos, against masks made by hand; with a gate it errs less.

*Gated*: roads, buildings and trees count only in photos in which Pascal's network finds a vehicle. Needs the photos
(see docs/tiers.md).
"""

import argparse
from collections.abc import Mapping

import numpy as np
import torch
from _lib.command import parser, run
from _lib.results import Results
from torch import Tensor
from tqdm.auto import tqdm

from edittools.images import load_image
from edittools.models.downloads import available, photo
from edittools.probing.counterfactuals import LEAST_AREA
from edittools.probing.segmentation import Gated, deeplab
from edittools.scenarios.photos import MSRC, msrc_classes


def agreement(found: list[Tensor], shown: list[Tensor]) -> dict[str, float]:
    """Count photos in which a concept is found and shown, on `LEAST_AREA`, and take the IoU where it is shown."""
    pairs = list(zip(found, shown, strict=True))
    overlaps = [float((mask & truth).sum() / (mask | truth).sum()) for mask, truth in pairs if truth.any()]
    is_found, is_shown = (
        np.array([float(mask.float().mean()) >= LEAST_AREA for mask in masks]) for masks in (found, shown)
    )
    correct = int((is_found & is_shown).sum())
    return {
        "IoU, mean": float(np.mean(overlaps)) if overlaps else float("nan"),
        "IoU, median": float(np.median(overlaps)) if overlaps else float("nan"),
        "photos that show it": int(is_shown.sum()),
        "photos in which it is found": int(is_found.sum()),
        "found correctly": correct,
        "precision": correct / max(int(is_found.sum()), 1),
        "recall": correct / max(int(is_shown.sum()), 1),
    }


def add_segmenter(results: Results, segmenter: str, masks: list[Mapping[str, Tensor]], truths: list[Tensor]) -> None:
    """Add how well a segmenter finds each concept that it knows."""
    for number, concept in enumerate(MSRC, 1):
        if not any(concept in one for one in masks):
            continue
        shown = [truth == number for truth in truths]
        empty = [torch.zeros(1, *truth.shape) for truth in truths]
        found = [one.get(concept, nothing)[0] > 0 for one, nothing in zip(masks, empty, strict=True)]
        for metric, value in agreement(found, shown).items():
            results.add(metric, value, method=segmenter, condition=concept, n=len(truths))


def experiment(options: argparse.Namespace) -> Results:
    """Find concepts in each photo."""
    names = available("msrc-v2/Images/")
    names = names[::20] if options.quick else names
    photos = [load_image(photo(name))[None] for name in names]
    files = [photo(name.replace("Images/", "newsegmentations_mats/")[:-4] + "_GT.mat") for name in names]
    truths = [torch.from_numpy(msrc_classes(file)) for file in files]
    masks = {}
    for label in ("cityscapes", "pascal"):
        segmenter = deeplab(label)
        masks[label] = [segmenter(image) for image in tqdm(photos, label, unit="photo", leave=False)]
    gated = []
    for image, streets, things in zip(photos, masks["cityscapes"], masks["pascal"], strict=True):
        gated.append(Gated(lambda _, found=streets: found, lambda _, found=things: found)(image))
    masks["cityscapes, gated"] = gated
    results = Results("segmentation", "photos")
    for segmenter, found in masks.items():
        add_segmenter(results, segmenter, found, truths)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    run(parser(__doc__), experiment)


if __name__ == "__main__":
    main()
