"""The suites of the synthetic benchmark: where their images come from, and what each tier sweeps."""

import os
from collections.abc import Callable

from edittools.probing import finders as concepts
from edittools.stories import photos
from edittools.stories.synthetic import Material, Suite
from edittools.world.contexts import SPLITS
from edittools.world.miniworld import scenes
from edittools.world.textures import STYLES
from edittools.zoo.load import load_classifier


def miniworld(model: str = "mini_vgg", count: int = 1200, clean: int = 400, workers: int = 1) -> Material:
    """MiniWorld scenes with their exact masks, and a model trained on others.

    There are as many budget images as `clean` says, and half as many reference images and clean ones to report.
    """
    first = {split: seeds.start + 300_000 for split, seeds in SPLITS.items()}
    data = scenes(count, first["test"], workers=workers)
    names = ("road", "grass", "sand", "water", "table", "sky", "wall", "tree", "building", "mountain")
    reference = scenes(clean // 2, first["reference"], workers=workers)
    budget = scenes(clean, first["validation"], workers=workers)
    reported = scenes(clean // 2, first["test"] + 100_000, workers=workers)
    return Material(load_classifier(model), data, {n: data.mask(n) for n in names}, reference, budget, reported)


def msrc(model: str = "efficientnet_lite0", at_least: float = 0.2, clean: int | None = None) -> Material:
    """MSRC v2 photos with their hand-made masks, and halves of the ImageNet sample as budget and clean images.

    The reference images are those of RTA-100, which have no ImageNet labels.

    Labels of the MSRC photos are the classifier's own clean predictions, see `photos.msrc`.
    """
    classifier = load_classifier(model)
    data, masks = photos.msrc(classifier, at_least)
    sample = photos.imagenet_sample(classifier)
    halves = [sample.subset(range(start, len(sample), 2)[:clean]) for start in (0, 1)]
    return Material(classifier, data, masks, photos.unlabelled("rta-100/", classifier), *halves)


def image_folder(
    folder: str, model: str = "vgg16", finder: Callable[[], concepts.Finder] | None = None, per_class: int = 10
) -> Material:
    """Use a folder of validation images (ImageNet, Places); `finder()` makes what finds concepts in them.

    Of the images, 70 % may be transformed; the rest are reference, budget and clean ones.
    """
    classifier = load_classifier(model)
    data = photos.validation_folder(folder, classifier, per_class)
    some, everyday = data.split(0.7)
    reference, labelled = everyday.split(0.2)
    found = concepts.cached(finder() if finder else concepts.deeplab())
    return Material(classifier, some, found(some.images[:]), reference, *labelled.split(0.5))


_LAYERS = {
    "mini": ("features.10", "features.13", "features.15"),
    "lite": ("blocks.3.0.conv_pwl", "blocks.5.0.conv_pwl", "conv_head"),
    "paper": ("features.14", "features.19", "features.24", "features.28"),
}
_MINI_CONCEPTS = ("road", "grass", "sand", "water", "wall", "table", "mountain", "sky", "building", "tree")
_PHOTO_CONCEPTS = ("grass", "road", "water", "sky", "tree", "building")
_SOME_STYLES = ("graffiti", "snow", "floral", "black and white", "gravel", "wooden")


def suite(tier: str, size: str = "usual") -> Suite:
    """The suite of a tier, in one of three sizes: "small" (the notebook's), "usual" (the benchmark's) or "full".

    Tier "paper" reads the folder of validation images that `EDITTOOLS_IMAGENET` names.
    """
    if size not in ("small", "usual", "full"):
        raise ValueError(f"size {size!r}: expected small, usual or full")
    if tier not in _LAYERS:
        raise ValueError(f"tier {tier!r}: expected mini, lite or paper")
    return {"mini": _mini, "lite": _lite, "paper": _paper}[tier](size == "small", size == "full")


def _mini(small: bool, full: bool) -> Suite:
    count, clean = (500, 400) if small else (2400, 1200) if full else (900, 800)
    return Suite(
        miniworld,
        _MINI_CONCEPTS if full else _MINI_CONCEPTS[: 3 if small else 7],
        STYLES if full else _SOME_STYLES[: 3 if small else 6],
        _LAYERS["mini"],
        options=(("count", count), ("clean", clean)),
        targets=2 if full else 1,
        every=1 if full else 3,
        most=80 if small else 120,
        rates=(1e-3, 1e-2) if small else Suite.rates,
        rivals=("projection", "closed_form") if small else ("projection", "null_space", "closed_form"),
    )


def _lite(small: bool, full: bool) -> Suite:
    concepts, styles = _PHOTO_CONCEPTS[: 2 if small else None], STYLES if full else _SOME_STYLES[: 2 if small else 5]
    grid = {"numbers": (3, 1), "strengths": (0.5, 1.0), "localities": (1.0,)}
    size = {"targets": 3 if full else 1, "every": 3, "least": 2, "most": 160 if full else 80}
    return Suite(msrc, concepts, styles, _LAYERS["lite"], **size, **grid)


def _paper(small: bool, full: bool) -> Suite:
    options = (("folder", os.environ.get("EDITTOOLS_IMAGENET", "imagenet/val")),)
    return Suite(image_folder, ("car", "bicycle", "boat"), STYLES, _LAYERS["paper"], options, targets=3)
