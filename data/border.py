"""Measure whether a network relies on the ground, or on how the ground meets the border of the image.

python data/border.py mini_vgg|mini_resnet|mini_vgg_balanced|mini_vit [--weights FILE] [--padding zeros] [--workers 2]
"""

import argparse
import copy
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from train_mini import evaluation_sets

from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import LabeledImages
from edittools.metrics import error_rate
from edittools.models.load import load_classifier
from edittools.moments import second_moments
from edittools.probing.textures import VARIANTS, restyle
from edittools.rewriting import rewrite
from edittools_course.miniworld.scenes import CLASSES, Scenes, scene, scenes
from edittools_course.networks.embedded import MINI, SIZE
from edittools_course.scenarios.tiers import UNTUNED

PADDINGS = ("zeros", "replicate", "reflect", "circular")
"""How a convolution of PyTorch may continue an image beyond its border."""

BORDER = 10
"""The width of the border, in pixels."""

STRIP = 8
"""The height of the strip along the lower border in which edit maps are measured, in pixels."""


def with_padding(classifier: Classifier, mode: str) -> Classifier:
    """Copy a classifier, and let its convolutions pad with one of `PADDINGS`."""
    copied = copy.deepcopy(classifier)
    for module in copied.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = mode
    return copied


def regions() -> dict[str, Tensor]:
    """Return masks `(SIZE, SIZE)` of the whole image, of its interior, and of its border."""
    interior = torch.zeros(SIZE, SIZE)
    interior[BORDER:-BORDER, BORDER:-BORDER] = 1
    return {"everywhere": torch.ones(SIZE, SIZE), "in the interior": interior, "along the border": 1 - interior}


def vehicles_on_partial_snow(road: Scenes, snow: Scenes, count: int = 280) -> dict[str, LabeledImages]:
    """Replace the road under vehicles by snow: everywhere, in the interior, or along the border.

    Args:
        road: vehicles on road.
        snow: the same scenes on snow.
        count: the number of vehicles.

    Returns:
        For each region, the vehicles on the texture of snow that exemplars have, and on the rendered snow of scenes.
    """
    road = road.subset(range(count))
    snow = snow.subset(range(count))
    changed = {}
    for name, region in regions().items():
        masks = road.mask("road") * region
        textured = [
            restyle(image, mask, "snow", i % VARIANTS) if mask.any() else image
            for i, (image, mask) in enumerate(zip(road.images, masks, strict=True))
        ]
        changed[f"texture of snow {name}"] = LabeledImages(torch.stack(textured), road.labels, CLASSES)
        rendered = torch.where(masks[:, None] > 0, snow.images, road.images)
        changed[f"rendered snow {name}"] = LabeledImages(rendered, road.labels, CLASSES)
    return changed


def strip_ratios(classifier: Classifier, layer: str, count: int = 10) -> list[float]:
    """Compute how much more of the edit map than of the mask lies in the strip along the lower border.

    Args:
        classifier: the classifier.
        layer: the layer in which the edits are made, with default settings.
        count: the number of exemplars, each a car on road and on snow.

    Returns:
        For each exemplar, the share of the edit map inside the mask that lies in the strip, divided by the share of the
        mask that lies there.
    """
    reference = scenes(200, "reference", workers=1).images
    moment = second_moments(classifier, [layer], reference)[layer]
    ratios = []
    for seed in range(3_000_000, 3_000_000 + count):
        car = scene(seed, label="car", ground="road")
        mask = car.masks["road"]
        changed = restyle(car.image, mask, "snow")
        edit = rewrite(classifier, layer, Exemplar(car.image, changed, mask), moment)
        inside = edit.edit_map(classifier, changed) * mask
        share_of_map = inside[-STRIP:].sum() / inside.sum()
        share_of_mask = mask[-STRIP:].sum() / mask.sum()
        ratios.append(float(share_of_map / share_of_mask))
    return ratios


def errors_at_the_border(classifier: Classifier, sets: dict[str, Scenes]) -> pd.Series:
    """Compute the errors on snow in parts of the image, and with other paddings.

    Args:
        classifier: a classifier of MiniWorld.
        sets: the sets of `train_mini.evaluation_sets`.

    Returns:
        The errors in percent, by what was changed.
    """
    partial = vehicles_on_partial_snow(sets["vehicles on road"], sets["vehicles on snow"])
    errors = {name: error_rate(classifier, images) for name, images in partial.items()}
    for mode in PADDINGS:
        exchanged = with_padding(classifier, mode)
        for name in ("natural", "vehicles on snow"):
            errors[f"{name}, padding {mode}"] = error_rate(exchanged, sets[name])
    return 100 * pd.Series(errors)


def main() -> None:
    """Measure one network on the validation scenes and on the test scenes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=MINI)
    parser.add_argument("--weights", type=Path, help="other weights than those in this folder")
    parser.add_argument("--padding", choices=PADDINGS, help="the padding that the network was trained with")
    parser.add_argument("--workers", type=int, default=2, help="processes that render scenes")
    options = parser.parse_args()
    classifier = load_classifier(options.model)
    if options.weights:
        classifier.model.load_state_dict(load_file(options.weights))
    if options.padding:
        classifier = with_padding(classifier, options.padding)
    table = pd.DataFrame(
        {
            split: errors_at_the_border(classifier, evaluation_sets(split, options.workers))
            for split in ("validation", "test")
        }
    )
    print("misclassified, %")
    print(table.round(1).to_string())
    ratios = pd.Series(strip_ratios(classifier, UNTUNED[options.model.removesuffix("_balanced")]))
    print(f"strip: its share of the edit map by its share of the mask, mean of {len(ratios)}: {ratios.mean():.2f}")


if __name__ == "__main__":
    main()
