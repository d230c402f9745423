"""Story × tier: everything a notebook needs, so that no other code knows which tier it runs in.

`EDITTOOLS_TIER` names the tier: `mini` (nothing needed), `lite` (real photos and weights), `paper` (model hubs).
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import resize

from edittools import photos
from edittools.cut import convolutions
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, load_image, load_mask
from edittools.metrics import predict
from edittools.mini_clip import ATTACKED, OBJECTS, attacks, label_on
from edittools.miniworld import CLASSES, FONTS, SPLITS, contexts, scene, scenes
from edittools.models import DATA, Classifier, load_classifier
from edittools.styles import paste_texture, restyle
from edittools.typography import FONTS as FONTS_TO_TYPE
from edittools.typography import Label, blanked, grow, random_label, stick, written

TIERS = ("mini", "lite", "paper")
Device = str | torch.device | None


@dataclass(frozen=True)
class Scenario:
    """What a story needs.

    `exemplars` go by name; `change(image, mask)` makes x' from a picture and a mask. `validation` and `test` are images
    with the concept, to choose on and to report once; `clean_validation` and `clean` are images whose accuracy shall
    stay, split likewise; `reference` are images whose keys an edit spares; `legitimate` are images of classes that
    rightly rely on the concept; `own` are images with the concept from the exemplars' own class, where there are any;
    `several` are variants of one exemplar that go into one edit; `more` are sets that only this story has, by name.
    `layers` may be edited, the `shortlist` is worth trying first. `default` are the settings of an edit that nobody
    tuned, `expected` is the least that the story claims.
    """

    tier: str
    classifier: Classifier
    exemplars: Mapping[str, Exemplar] = field(repr=False)
    change: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    validation: LabelledImages = field(repr=False)
    test: LabelledImages = field(repr=False)
    clean_validation: LabelledImages = field(repr=False)
    clean: LabelledImages = field(repr=False)
    reference: LabelledImages = field(repr=False)
    legitimate: LabelledImages = field(repr=False)
    layers: tuple[str, ...]
    shortlist: tuple[str, ...]
    default: Mapping[str, Any]
    expected: Mapping[str, float] = field(repr=False)
    own: LabelledImages | None = field(default=None, repr=False)
    several: Mapping[str, Sequence[Exemplar]] = field(default_factory=dict, repr=False)
    more: Mapping[str, LabelledImages] = field(default_factory=dict, repr=False)


def current_tier(tier: str | None = None) -> str:
    """Give `tier`, or else the one that `EDITTOOLS_TIER` names; raise `ValueError` for an unknown one."""
    name, tier = ("tier ", tier) if tier else ("EDITTOOLS_TIER=", os.environ.get("EDITTOOLS_TIER", "mini"))
    if tier not in TIERS:
        raise ValueError(f"{name}{tier!r}: expected one of {', '.join(TIERS)}")
    return tier


SNOW_EXEMPLARS = {
    "limousine": "n03670208", "streetcar": "n04335435", "minivan": "n03770679",
    "racing motorbike": "n03127747", "tow truck": "n04461696",
}  # fmt: skip
"""Sample photos with a hand-drawn road mask in `data/masks`: name -> WordNet id; none of a class of the snow photos."""

LIVES_ON_SNOW = (
    "Eskimo dog", "malamute", "Siberian husky", "Samoyed", "white wolf", "Arctic fox", "ice bear", "king penguin",
    "bobsled", "dogsled", "ski", "ski mask", "snowmobile", "snowplow", "mountain tent", "alp", "shovel", "puck",
)  # fmt: skip
"""ImageNet classes that are often photographed on snow or ice, or are made for it."""


def snow_scenario(
    tier: str | None = None, model: str | None = None, progress: bool = False, device: Device = None
) -> Scenario:
    """Give notebook 01's story, vehicles on snow (section 3.1): an exemplar maps snow to road.

    `tier` is that of `EDITTOOLS_TIER` by default; `model` names another classifier of the zoo than the tier's first,
    and `device` where it runs, that of `EDITTOOLS_DEVICE` by default.
    """
    tier = current_tier(tier)
    if tier == "mini":
        return _snow_in_miniworld(model or "mini_vgg", progress, device)
    return _snow_on_photos(model or {"lite": "efficientnet_lite0", "paper": "vgg16"}[tier], tier, progress, device)


def _snow_in_miniworld(name: str, progress: bool, device: Device) -> Scenario:
    """Cars in their MiniWorld are the exemplars, the other vehicles the test; seeds of no set meet those of another."""
    classifier = load_classifier(name, device)
    paint = partial(scenes, workers=min(os.cpu_count() or 1, 4), progress=progress)
    family = contexts().family
    others = [c for c in CLASSES if family[c] == "vehicle" and c != "car"]
    polar = [c for c in CLASSES if family[c] == "polar"]
    start = {split: seeds.start + 100_000 for split, seeds in SPLITS.items()}
    clean_validation = paint(1200, "validation")
    layers = convolutions(classifier)
    return Scenario(
        "mini", classifier, _car_exemplars(classifier), partial(restyle, style="snow"),
        validation=paint(240, start["validation"], label=_in_turn(others, 240), ground="snow"),
        test=paint(1080, start["test"], label=_in_turn(others, 1080), ground="snow"),
        clean_validation=clean_validation,
        clean=paint(1200, "test"),
        reference=clean_validation,
        legitimate=paint(150, start["test"] + 50_000, label=_in_turn(polar, 150)),
        layers=layers, shortlist=layers[len(layers) // 2 :],
        default={"layer": _UNTUNED[name], "exemplar": "car 1", "rank": 1, "masked": True},
        expected={"errors corrected": 0.5},
        own=paint(120, start["test"] + 60_000, label="car", ground="snow"),
    )  # fmt: skip


def _in_turn(names: Sequence[str], count: int) -> list[str]:
    return [names[i % len(names)] for i in range(count)]


def _car_exemplars(classifier: Classifier, count: int = 3) -> dict[str, Exemplar]:
    """Turn the road of some scenes with a car to snow by `styles.restyle`; the world's own snow is another."""
    seeds = range(SPLITS["reference"].start, SPLITS["reference"].start + count)
    pictures = [scene(seed, label="car", ground="road") for seed in seeds]
    label, exemplars = classifier.index("car"), {}
    for i, picture in enumerate(pictures):
        road = picture.masks["road"]
        exemplars[f"car {i + 1}"] = Exemplar(picture.image, restyle(picture.image, road, "snow", i), road, label)
    return exemplars


def _snow_on_photos(name: str, tier: str, progress: bool, device: Device) -> Scenario:
    classifier = load_classifier(name, device)
    validation, test = photos.snow_photos(classifier, progress).split(0.3, seed=0)
    sample = photos.imagenet_sample(classifier, progress)
    ours = [i for i, path in enumerate(sample.names) if not any(w in path for w in SNOW_EXEMPLARS.values())]
    sample = sample.subset(ours)
    lives = {classifier.index(word) for word in LIVES_ON_SNOW}
    legitimate = sample.subset([i for i, label in enumerate(sample.labels.tolist()) if label in lives])
    clean_validation, clean = sample.subset(range(0, len(sample), 2)), sample.subset(range(1, len(sample), 2))
    layers = convolutions(classifier)
    change = partial(paste_texture, texture_image=photos.snow_texture(), keep_shading=0)
    untuned = _UNTUNED.get(name, layers[-len(layers) // 4])
    shortlist = tuple(layer for layer in layers if layer in (untuned, *_SHORTLISTS.get(name, layers[-4:])))
    return Scenario(
        tier, classifier, snow_exemplars(classifier, change), change, validation, test, clean_validation, clean,
        clean_validation, legitimate, layers[len(layers) // 2 :], shortlist,
        default={"layer": untuned, "exemplar": "minivan", "rank": 1, "masked": True},
        expected={"errors corrected": 0.05},
    )  # fmt: skip


_UNTUNED = {  # a convolution in the middle of the second half, chosen before anything was measured
    "mini_vgg": "features.10",
    "mini_resnet": "layer3.0.conv2",
    "efficientnet_lite0": "blocks.4.0.conv_pw",
    "vgg16": "features.26",
}


_SHORTLISTS = {  # layers in which some edit corrected at least 3 net of the 11 errors on the validation photos
    "efficientnet_lite0": ("blocks.4.0.conv_pwl", "blocks.5.0.conv_pw", "blocks.5.1.conv_pwl", "blocks.6.0.conv_pwl",
                           "conv_head"),
}  # fmt: skip


def snow_exemplars(classifier: Classifier, change: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Exemplar]:
    """Turn the road of the sample photos that have a hand-drawn mask in `data/masks` to snow."""
    return {name: _photo_exemplar(wnid, classifier, change) for name, wnid in SNOW_EXEMPLARS.items()}


def _photo_exemplar(wnid: str, classifier: Classifier, change: Callable[[Tensor, Tensor], Tensor]) -> Exemplar:
    name = photos.sample_photo(wnid)
    image = load_image(photos.photo(name), classifier.size, classifier.resize_to)
    [path] = (DATA / "masks").glob(f"{wnid}_*_road.png")
    mask = load_mask(path)
    if mask.shape != image.shape[1:]:
        mask = (resize(mask[None], list(image.shape[1:]))[0] > 0.5).float()
    names = sorted(known for known in photos.registry() if known.startswith("imagenet-sample/"))
    return Exemplar(image, change(image, mask), mask, names.index(name))


ATTACK = "iPod"
OTHER_ATTACKS = ("orange", "pizza", "toaster")
HOUSEHOLD_PHOTOS = {
    "kettle": "teapot", "mug": "coffee mug", "pot": "pot", "toilet": "toilet tissue", "vase": "vase",
    "wine": "wine bottle",
}  # fmt: skip
"""The six objects of the paper's photos of typographic attacks -> ImageNet class."""


def typographic_scenario(
    tier: str | None = None, model: str | None = None, progress: bool = False, device: Device = None
) -> Scenario:
    """Give notebook 02's story, the typographic attack (section 3.2): an exemplar maps "iPod" to a blank label.

    `validation` and `test` show objects with an "iPod" label, labelled with what they are; `legitimate` are bare iPods.
    `more` holds the test scenes `"bare"` and with a `"blank"` label, and with other words (`"orange"`, …); where there
    are photographs, the paper's: `"photos clean"`, `"photos white"`, `"photos ipod"`.
    """
    tier = current_tier(tier)
    if tier == "mini":
        return _attack_in_miniworld(model or "mini_clip", progress, device)
    return _attack_on_photos(model or {"lite": "lite_clip", "paper": "clip_rn50"}[tier], tier, progress, device)


def paint_over(image: Tensor, mask: Tensor) -> Tensor:
    """Cover what the mask covers with the colour of the paper around it: x of an exemplar whose x' is `image`."""
    return blanked(image, mask).image


def last_convolutions(classifier: Classifier) -> tuple[str, ...]:
    """Name the last convolution of each residual block: `conv3` of a bottleneck, `conv_pwl` in an EfficientNet."""
    return tuple(n for n in convolutions(classifier) if re.search(r"layer\d+\.\d+\.conv3$|conv_pwl$", n))


def _attack_in_miniworld(name: str, progress: bool, device: Device) -> Scenario:
    """Six objects are attacked; the exemplars are of three others, and training has seen words on those only."""
    classifier = load_classifier(name, device)
    classes, workers = classifier.classes, min(os.cpu_count() or 1, 4)
    truth = torch.tensor([classes.index(ATTACKED[i % len(ATTACKED)]) for i in range(1000)])

    def attacked(count: int, split: str, *words: str | None) -> list[LabelledImages]:
        sets = attacks(count, split, words, workers=workers)
        return [LabelledImages(images, truth[:count], classes) for images in sets.values()]

    def bare(count: int, split: str, names: Sequence[str]) -> LabelledImages:
        first, names = SPLITS[split].start + 820_000, _in_turn(names, count)
        found = scenes(count, first, label=names, size=classifier.size, workers=workers, progress=progress)
        return LabelledImages(found.images, torch.tensor([classes.index(name) for name in names]), classes)

    [validation] = attacked(300, "validation", ATTACK)
    blank, test = attacked(1000, "test", "", ATTACK)
    clean_validation, layers = bare(1300, "validation", OBJECTS), last_convolutions(classifier)
    return Scenario(
        "mini", classifier, _word_exemplars(classifier), paint_over, validation, test,
        clean_validation, clean=bare(1300, "test", OBJECTS), reference=clean_validation,
        legitimate=bare(150, "reference", (ATTACK,)),
        layers=layers, shortlist=tuple(layer for layer in layers if layer.endswith(("2.1.conv3", "3.1.conv3"))),
        default={"layer": layers[len(layers) * 2 // 3], "exemplar": "typed on a jar", "rank": 1, "masked": True},
        expected={"attacks fixed": 0.7},
        several={"ten labels on a jar": _ten_labels(classifier)},
        more={"blank": blank}
        | dict(zip(("bare", *OTHER_ATTACKS), attacked(300, "test", None, *OTHER_ATTACKS), strict=True)),
    )  # fmt: skip


def _word_exemplars(classifier: Classifier) -> dict[str, Exemplar]:
    """A word typed on a picture; a handwritten one and one of the world's own labels, painted over."""
    first, size, exemplars = SPLITS["reference"].start + 830_000, classifier.size, {}
    jar, book = (scene(first + i, label=thing, size=size) for i, thing in enumerate(("jar", "book")))
    rng = np.random.default_rng(first)
    typed = replace(label_on(jar, rng), text=ATTACK)
    exemplars["typed on a jar"] = written(jar.image, typed, classifier.index("jar"))
    by_hand, _, ink = stick(book.image, replace(label_on(book, rng, hand=5), text=ATTACK))
    exemplars["handwritten on a book"] = blanked(by_hand, grow(ink), classifier.index("book"))
    radio = scene(first + 2, label="radio", size=size, text=ATTACK)
    exemplars["printed on a radio"] = blanked(radio.image, grow(radio.masks["text"]), classifier.index("radio"))
    return exemplars


def _ten_labels(classifier: Classifier, count: int = 10) -> list[Exemplar]:
    """Stick the word on one picture in several places, in fonts of `typography` and by hand; masks go past the ink."""
    first, found = SPLITS["reference"].start + 830_000, []
    picture, rng = scene(first, label="jar", size=classifier.size), np.random.default_rng(0)
    for _ in range(count):
        hand = int(rng.integers(1, 10**6)) if rng.random() < 0.3 else 0
        label = replace(label_on(picture, rng, hand), text=ATTACK, font=str(rng.choice(FONTS_TO_TYPE)))
        exemplar = written(picture.image, label, classifier.index("jar"))
        found.append(exemplar.map(mask=grow(exemplar.mask, 5)))
    return found


def _attack_on_photos(name: str, tier: str, progress: bool, device: Device) -> Scenario:
    """Photos whose class number is divisible by three are the test (`data/train_lite_clip.py` never saw them)."""
    classifier = load_classifier(name, device, progress=progress)
    sample = photos.imagenet_sample(classifier, progress)
    held = sample.labels % 3 == 0
    test, others = sample.subset(held), sample.subset(~held)
    read = (predict(classifier, others, progress=progress).argmax(1) == others.labels).nonzero()[:, 0]
    layers = last_convolutions(classifier)
    return Scenario(
        tier, classifier, _photo_word_exemplars(classifier), paint_over,
        validation=label_all(others.subset(read[:120]), ATTACK, 1), test=label_all(test, ATTACK, 2),
        clean_validation=others, clean=test, reference=others,
        legitimate=sample.subset(sample.labels == classifier.index(ATTACK)),
        layers=layers[len(layers) // 3 :], shortlist=layers[-6:],
        default={"layer": layers[-len(layers) // 4], "exemplar": "typed on a can opener", "rank": 1, "masked": True},
        expected={"attacks fixed": 0.25},
        more={"bare": test, "blank": label_all(test, "", 2)}
        | {word: label_all(test, word, 2) for word in OTHER_ATTACKS}
        | {f"photos {kind}": _household_photos(classifier, kind) for kind in ("clean", "white", "ipod")},
    )  # fmt: skip


def label_all(data: LabelledImages, text: str, seed: int) -> LabelledImages:
    """Stick a typed label on each image, in a font of MiniWorld's; the same places for every text."""
    rng, changed = np.random.default_rng(seed), []
    for image in data.images:
        font = str(rng.choice(FONTS)).removesuffix(".ttf")
        changed.append(stick(image, replace(random_label(text, rng, 0.0, (0.35, 0.55)), font=font))[0])
    return replace(data, images=torch.stack(changed))


def _household_photos(classifier: Classifier, kind: str) -> LabelledImages:
    """Load the paper's photos of six objects, `clean`, with a `white` label or with a handwritten `ipod` one."""
    names = [f"editing-classifiers/typographic/{thing}_{kind}.jpg" for thing in HOUSEHOLD_PHOTOS]
    images = [load_image(photos.photo(name), classifier.size, classifier.resize_to) for name in names]
    labels = torch.tensor([classifier.index(name) for name in HOUSEHOLD_PHOTOS.values()])
    return LabelledImages(torch.stack(images), labels, classifier.classes, tuple(names))


def _photo_word_exemplars(classifier: Classifier) -> dict[str, Exemplar]:
    """The paper's two: typed text pasted on a can opener, and its photo of a teapot whose handwriting is covered."""
    opener = load_image(photos.photo(photos.sample_photo("can_opener")), classifier.size, classifier.resize_to)
    typed = Label(ATTACK, centre=(0.5, 0.62), width=0.5, font="DejaVuSans")
    kettle = load_image(
        photos.photo("editing-classifiers/typographic/kettle_ipod.jpg"), classifier.size, classifier.resize_to
    )
    text = load_mask(DATA / "masks" / "kettle_ipod_text.png")
    if text.shape != kettle.shape[1:]:
        text = (resize(text[None], list(kettle.shape[1:]))[0] > 0.5).float()
    return {
        "typed on a can opener": written(opener, typed, classifier.index("can opener")),
        "handwritten on a teapot": blanked(kettle, text, classifier.index("teapot")),
    }
