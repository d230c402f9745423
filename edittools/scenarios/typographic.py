"""Notebook 02's story, the typographic attack (section 3.2 of the paper): an exemplar maps "iPod" to a blank label."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from edittools.classifiers import Classifier, remap_labels
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import predict
from edittools.miniworld.attacks import ATTACKED, FONTS, OBJECTS, attacks, label_on
from edittools.miniworld.contexts import SPLITS
from edittools.miniworld.scenes import scene
from edittools.miniworld.typography import FONTS as FONTS_TO_TYPE
from edittools.miniworld.typography import Label, blanked, grow, random_label, stick, written
from edittools.models.load import load_classifier
from edittools.scenarios import photos
from edittools.scenarios.tiers import WORKERS, current_tier, painted
from edittools.selection.scenario import Scenario
from edittools.selection.trials import candidate_layers

ATTACK = "iPod"
OTHER_ATTACKS = ("orange", "pizza", "toaster")
OPENER = "imagenet-sample/n02951585_can_opener.JPEG"
HOUSEHOLD_PHOTOS = {
    "mug": "coffee mug",
    "pot": "pot",
    "toilet": "toilet tissue",
    "vase": "vase",
    "wine": "wine bottle",
}
"""Objects of the paper's photos of typographic attacks -> ImageNet class; its kettle is an exemplar."""


def typographic_scenario(
    tier: str | None = None, model: str | None = None, progress: bool = False, small: bool = False
) -> Scenario:
    """Make notebook 02's story, the typographic attack (section 3.2): an exemplar maps "iPod" to a blank label.

    `validation` and `test` show objects with an "iPod" label, labelled with what they are; `keep` and `keep_report` are
    bare iPods. `more` holds the test objects `"bare"`, with a `"blank"` label and with other words (`"orange"`, …); in
    tier paper also the paper's photographs, such as `"photos ipod"`. A `small` story has half as many of MiniWorld's
    scenes that choose or report. Tier lite shows these as well; its photographs bear a watermark, see `watermark`.
    """
    if current_tier(tier) == "paper":
        story = _attack_on_photos(model or "clip_rn50", progress)
    else:
        story = _attack_in_miniworld(model or "mini_clip", progress, small)
    return replace(story, change=lambda image, mask: blanked(image, mask).image)


def last_convolutions(classifier: Classifier) -> tuple[str, ...]:
    """Name the last convolution of each residual block of a ModifiedResNet, its `conv3`."""
    return tuple(n for n in candidate_layers(classifier) if re.search(r"layer\d+\.\d+\.conv3$", n))


def _attack_in_miniworld(name: str, progress: bool, small: bool) -> Scenario:
    """Six objects are attacked; the exemplars are of three others, and training has seen words on those only."""
    classifier = load_classifier(name)
    truth = torch.tensor([classifier.classes.index(thing) for thing in ATTACKED] * 200)

    def attacked(count: int, split: str, *words: str | None) -> list[LabelledImages]:
        sets = attacks(count // 2 if small else count, split, words, WORKERS)
        return [LabelledImages(images, truth[: len(images)], classifier.classes) for images in sets.values()]

    def bare(count: int, split: str, names: Sequence[str], skip: int = 820_000) -> LabelledImages:
        found = painted(count, split, skip, names, size=classifier.size, progress=progress)
        return remap_labels(f"bare objects of {split}", found, classifier)

    [validation] = attacked(300, "validation", ATTACK)
    blank, test = attacked(1000, "test", "", ATTACK)
    sets = {"validation": validation, "test": test, "reference": bare(650, "reference", OBJECTS, 821_000)}
    sets |= {"budget": bare(1300, "validation", OBJECTS), "clean": bare(650 if small else 1300, "test", OBJECTS)}
    sets |= {"keep": bare(150, "validation", [ATTACK], 822_000), "keep_report": bare(150, "reference", [ATTACK])}
    words = attacked(300, "test", None, *OTHER_ATTACKS)
    more = {"blank": blank, **dict(zip(("bare", *OTHER_ATTACKS), words, strict=True))}
    layers = last_convolutions(classifier)
    story = {"tier": "mini", "layers": layers, "expected": {"attacks fixed": 0.7}}
    story["shortlist"] = tuple(layer for layer in layers if layer.endswith(("2.1.conv3", "3.1.conv3")))
    story["default"] = {"layer": layers[len(layers) * 2 // 3], "exemplar": "typed on a jar"}
    several = {"ten labels on a jar": _ten_labels(classifier)}
    return Scenario(classifier, _word_exemplars(classifier), **sets, more=more, several=several, **story)


def _word_exemplars(classifier: Classifier) -> dict[str, Exemplar]:
    """Type a word on a picture; paint over a handwritten one."""
    first = SPLITS["reference"].start + 830_000
    jar, book = (scene(first + i, label=thing, size=classifier.size) for i, thing in enumerate(("jar", "book")))
    rng = np.random.default_rng(first)
    typed = replace(label_on(jar, rng), text=ATTACK)
    by_hand, _, ink = stick(book.image, replace(label_on(book, rng, hand=5), text=ATTACK))
    return {
        "typed on a jar": written(jar.image, typed, classifier.index("jar")),
        "handwritten on a book": blanked(by_hand, grow(ink), classifier.index("book")),
    }


def _ten_labels(classifier: Classifier) -> list[Exemplar]:
    """Stick the word on one picture in several places, in fonts of `typography` and by hand; masks go past the ink."""
    first, found = SPLITS["reference"].start + 830_000, []
    picture, rng = scene(first, label="jar", size=classifier.size), np.random.default_rng(0)
    for _ in range(10):
        hand = int(rng.integers(1, 10**6)) if rng.random() < 0.3 else 0
        label = replace(label_on(picture, rng, hand), text=ATTACK, font=str(rng.choice(FONTS_TO_TYPE)))
        exemplar = written(picture.image, label, classifier.index("jar"))
        found.append(replace(exemplar, mask=grow(exemplar.mask, 5)))
    return found


def _attack_on_photos(name: str, progress: bool) -> Scenario:
    """Photos whose class number is divisible by three are the test; the exemplar's and the real iPods are not."""
    classifier = load_classifier(name, progress=progress)
    sample = photos.imagenet_sample(classifier, progress)
    held, real = sample.labels % 3 == 0, sample.labels == classifier.index(ATTACK)
    shown = torch.tensor([name == OPENER for name in sample.names])
    test, others = sample.subset(held & ~real & ~shown), sample.subset(~held & ~real & ~shown)
    right = predict(classifier, others, progress=progress).argmax(1) == others.labels
    read = right.nonzero()[: min(120, len(others) // 2), 0]  # these choose; the rest bounds the choice
    rest = torch.ones(len(others), dtype=torch.bool).index_fill(0, read, False)
    layers = last_convolutions(classifier)
    sets = {"validation": label_all(others.subset(read), ATTACK, 1), "test": label_all(test, ATTACK, 2)}
    reference = photos.unlabeled("msrc-v2/Images/", classifier, progress)
    sets |= {"budget": others.subset(rest), "clean": test, "reference": reference, "keep_report": sample.subset(real)}
    more = {"bare": test, "blank": label_all(test, "", 2), **{word: label_all(test, word, 2) for word in OTHER_ATTACKS}}
    more |= {f"photos {kind}": household_photos(classifier, kind) for kind in ("clean", "white", "ipod")}
    story = {"tier": "paper", "layers": layers[len(layers) // 3 :], "shortlist": layers[-6:]}
    story["default"] = {"layer": layers[-len(layers) // 4], "exemplar": "typed on a can opener"}
    story["expected"] = {"attacks fixed": 0.25}
    return Scenario(classifier, _photo_word_exemplars(classifier), **sets, more=more, **story)


def label_all(data: LabelledImages, text: str, seed: int) -> LabelledImages:
    """Stick a typed label on each image, in a font of MiniWorld's; the same places for every text."""
    rng, changed = np.random.default_rng(seed), []
    for image in data.images:
        font = str(rng.choice(FONTS))
        changed.append(stick(image, replace(random_label(text, rng, 0.0, (0.35, 0.55)), font=font))[0])
    return replace(data, images=torch.stack(changed))


def household_photos(classifier: Classifier, kind: str) -> LabelledImages:
    """Load the paper's photos of the objects, `clean`, with a `white` label or with a handwritten `ipod` one."""
    shown = {f"{thing}_{kind}.jpg": classifier.index(name) for thing, name in HOUSEHOLD_PHOTOS.items()}
    known = {f"editing-classifiers/typographic/{name}": label for name, label in shown.items()}
    return photos.load_photos(known, classifier, False, f"of household objects, {kind}")


def _photo_word_exemplars(classifier: Classifier) -> dict[str, Exemplar]:
    """Make the paper's two: text typed on a can opener, and its photo of a teapot whose handwriting is covered."""
    opener = photos.load_photo(OPENER, classifier)
    typed = Label(ATTACK, center=(0.5, 0.62), width=0.5, font="DejaVuSans")
    kettle = photos.load_photo(photos.photo_of_mask(photos.KETTLE_MASK), classifier)
    text = photos.drawn_mask(photos.KETTLE_MASK, classifier)
    return {
        "typed on a can opener": written(opener, typed, classifier.index("can opener")),
        "handwritten on a teapot": blanked(kettle, text, classifier.index("teapot")),
    }
