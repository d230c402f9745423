"""The suites of the synthetic benchmark: where their images come from, and what each tier sweeps."""

import os
from collections.abc import Sequence

from edittools.images import LabelledImages
from edittools.probing import finders as concepts
from edittools.stories import photos, style_pictures
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
    folder: str,
    model: str = "vgg16",
    per_class: int = 10,
    wanted: Sequence[str] = (),
    clean: int | None = None,
) -> Material:
    """Use a folder of validation images (ImageNet, Places), in which DeepLabV3 finds the `wanted` concepts.

    Of the images, 70 % may be transformed; the rest are reference, budget and clean ones: at most `clean` budget
    images, and half as many of the others, or all. Raises `ValueError` where nothing of what is wanted is seen.
    """
    classifier = load_classifier(model)
    data = photos.validation_folder(folder, classifier, per_class)
    some, everyday = data.split(0.7)
    reference, labelled = everyday.split(0.2)
    budget, reported = labelled.split(0.5)
    if clean:
        reference, budget, reported = (
            _at_most(part, most) for part, most in ((reference, clean // 2), (budget, clean), (reported, clean // 2))
        )
    found = concepts.cached(concepts.deeplab("resnet50", wanted))
    masks = found(some.images[:])
    if not masks:
        raise ValueError(f"no image of {folder!r} shows {', '.join(wanted) or 'a concept'}: expected at least one")
    return Material(classifier, some, masks, reference, budget, reported)


def _at_most(data: LabelledImages, count: int) -> LabelledImages:
    """At most `count` of the images, evenly spread."""
    return data.subset(range(0, len(data), -(-len(data) // max(count, 1))))


_EFFICIENTNET = ("blocks.3.0.conv_pwl", "blocks.5.0.conv_pwl", "conv_head")
_RESNET18 = ("layer3.0.conv2", "layer3.1.conv2", "layer4.0.conv2", "layer4.1.conv2")
LAYERS = {
    "mini": {
        "mini_vgg": ("features.10", "features.13", "features.15"),
        "mini_resnet": ("layer2.1.conv2", "layer3.1.conv2", "layer4.1.conv2"),
        "mini_vit": ("blocks.1.mlp.fc2", "blocks.2.mlp.fc2", "blocks.3.mlp.fc2"),
    },
    "lite": {
        "efficientnet_lite0": _EFFICIENTNET,
        "efficientnet_lite1": _EFFICIENTNET,
        "efficientnet_lite2": _EFFICIENTNET,
        "squeezenet1_1": ("features.6.squeeze", "features.9.squeeze", "features.12.squeeze"),
    },
    "paper": {  # of VGG16 with batch norm the same convolutions, of the others the last of a block
        "vgg16": ("features.14", "features.19", "features.24", "features.28"),
        "vgg16_bn": ("features.20", "features.27", "features.34", "features.40"),
        "resnet18": _RESNET18,
        "resnet50": ("layer3.2.conv3", "layer3.5.conv3", "layer4.0.conv3", "layer4.2.conv3"),
        "resnet18_places365": _RESNET18,
    },
}
"""By tier and model, the layers that a suite may edit, early to late; the first model is the tier's own."""

_MINI_CONCEPTS = ("road", "grass", "sand", "water", "wall", "table", "mountain", "sky", "building", "tree")
_PHOTO_CONCEPTS = ("grass", "road", "water", "sky", "tree", "building")
_SOME_STYLES = ("graffiti", "snow", "floral", "black and white", "gravel", "wooden")


def suite(tier: str, size: str = "usual", model: str | None = None) -> Suite:
    """The suite of a tier, in one of three sizes: "small" (the notebook's), "usual" (the benchmark's) or "full".

    `model` is one of the tier's in `LAYERS`, the first of them by default. Tier "paper" reads the folder of validation
    images that `EDITTOOLS_IMAGENET` names, of ImageNet, or of Places for the model "resnet18_places365". Raises
    `ValueError` for another tier, size or model.
    """
    if size not in ("small", "usual", "full"):
        raise ValueError(f"size {size!r}: expected small, usual or full")
    if tier not in LAYERS:
        raise ValueError(f"tier {tier!r}: expected mini, lite or paper")
    known = LAYERS[tier]
    model = next(iter(known)) if model is None else model
    if model not in known:
        raise ValueError(f"model {model!r} in tier {tier!r}: expected one of {', '.join(known)}")
    return {"mini": _mini, "lite": _lite, "paper": _paper}[tier](size == "small", size == "full", model)


def _source_options(tier: str, model: str) -> tuple[tuple[str, str], ...]:
    """The option that names a model, none for the tier's own: stores of its sweeps go on."""
    return () if model == next(iter(LAYERS[tier])) else (("model", model),)


def _mini(small: bool, full: bool, model: str) -> Suite:
    count, clean = (500, 400) if small else (2400, 1200) if full else (900, 800)
    return Suite(
        miniworld,
        _MINI_CONCEPTS if full else _MINI_CONCEPTS[: 3 if small else 7],
        STYLES if full else _SOME_STYLES[: 2 if small else 6],
        LAYERS["mini"][model],
        options=(("count", count), ("clean", clean), *_source_options("mini", model)),
        targets=2 if full else 1,
        every=1 if full else 3,
        most=80 if small else 120,
        rates=(1e-3, 1e-2) if small else Suite.rates,
        rivals=("projection", "closed_form") if small else ("projection", "null_space", "closed_form"),
    )


def _lite(small: bool, full: bool, model: str) -> Suite:
    """Beside the drawn styles the smallest has one of the paper's pictures, the largest all."""
    concepts, styles = _PHOTO_CONCEPTS[: 2 if small else None], STYLES if full else _SOME_STYLES[: 2 if small else 5]
    pictures = tuple(style_pictures.PICTURES)[: 1 if small else None] if small or full else ()
    grid = {"numbers": (3, 1), "strengths": (0.5, 1.0), "localities": (1.0,)}
    size = {"targets": 3 if full else 1, "every": 3, "least": 2, "most": 160 if full else 80}
    size["rivals"] = () if small else ("projection", "null_space", "closed_form")
    given = concepts, (*styles, *pictures), LAYERS["lite"][model], _source_options("lite", model)
    return Suite(msrc, *given, **size, **grid)


def _paper(small: bool, full: bool, model: str) -> Suite:
    concepts, styles = ("car", "bicycle", "boat"), _SOME_STYLES[:2] if small else STYLES
    options = {"folder": os.environ.get("EDITTOOLS_IMAGENET", "imagenet/val"), "model": model, "wanted": concepts}
    options |= {"clean": 1000 if full else 200 if small else 400}
    return Suite(
        image_folder, concepts, styles, LAYERS["paper"][model], tuple(options.items()), targets=1 if small else 3
    )
