"""What notebook 04 needs, by tier: classifiers to probe, images with concept masks, and the rules that were planted."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.images import LabelledImages, resized
from edittools.metrics import predict
from edittools.probing.counterfactuals import Concepts, materials
from edittools.probing.effects import LEAST_IMAGES, Probe
from edittools.probing.probe import Settings, probe
from edittools.stories import photos
from edittools.stories.photos import MSRC, msrc
from edittools.stories.tiers import Device, current_tier
from edittools.world.contexts import BEHIND, GROUNDS, SPLITS, planted_rules
from edittools.world.miniworld import CLASSES, scenes
from edittools.world.textures import STYLES, style_textures
from edittools.zoo.data import shipped
from edittools.zoo.imagenet import imagenet_classes
from edittools.zoo.load import load_classifier


@dataclass(frozen=True)
class Probing:
    """What the story of section 5 needs.

    `concepts` are probed with the materials that are their styles, and the first `styled` of them with the paper's
    `textures`, all with these `settings`. `groups` are concepts that may stand in for each other, `unscored` groups are
    no part of the score. The rules of the first of the `classifiers` are looked for; `null` names the one trained
    without rules. `planted` are pairs of class and concept, where known; `example` is the class whose rule is
    rewritten. `clean` are images whose accuracy shall stay, `reference` everyday images without labels, `layer` and
    `shortlist` as in `Scenario`. Drawn images have the seeds from `first_seed` on.
    """

    tier: str
    classifiers: Mapping[str, Classifier]
    concepts: Concepts = field(repr=False)
    textures: Mapping[str, Tensor] = field(repr=False)
    styled: int
    groups: tuple[tuple[str, ...], ...]
    unscored: tuple[tuple[str, ...], ...]
    settings: Settings
    clean: LabelledImages = field(repr=False)
    reference: Tensor = field(repr=False)
    layer: str
    shortlist: tuple[str, ...]
    example: str | None = None
    null: str | None = None
    planted: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False)
    first_seed: int | None = None

    @property
    def first(self) -> str:
        """The name of the classifier whose rules are looked for."""
        return next(iter(self.classifiers))

    @property
    def searched(self) -> tuple[str, ...]:
        """The names of the classifiers in which rules are looked for: the first and the one without, or all."""
        return (self.first, self.null) if self.null else tuple(self.classifiers)

    @property
    def probed(self) -> tuple[str, ...]:
        """The names of all concepts that are probed."""
        return tuple(concept for group in (*self.groups, *self.unscored) for concept in group)

    @property
    def data(self) -> LabelledImages:
        """The images that are probed."""
        return self.concepts.data

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Their masks by concept."""
        return self.concepts.masks

    @property
    def styles(self) -> Concepts:
        """The same concepts, to be turned to the paper's textures."""
        return replace(self.concepts, styles=self.textures)

    def with_styles(self, **options: Any) -> Probe:
        """Probe with the paper's styles, beside the control elsewhere; `options` are those of `jobs.run`."""
        few = self.styles.subset(range(min(self.styled, len(self.data))))
        return probe(self.classifiers, few, replace(self.settings, only=self.probed), **options)

    def with_materials(
        self, groups: Sequence[Sequence[str]] | None = None, names: Sequence[str] | None = None, **options: Any
    ) -> Probe:
        """Probe with materials of the images' own world, beside the control in place; all classifiers, or `names`.

        Each image is turned to two variants of each material of the concept's group; `options` are those of `jobs.run`.
        """
        groups = self.groups if groups is None else groups
        settings = replace(self.settings, groups=groups, variants_per_image=2, control="in place")
        chosen = {name: self.classifiers[name] for name in names or self.classifiers}
        return probe(chosen, self.concepts, settings, **options)

    def repainted(self, names: Sequence[str] | None = None, progress: bool = False) -> Probe:
        """Paint each scene again on every ground and predict: what a probe estimates, known exactly in a drawn world.

        With the same seed only the looks of the ground differ. The styles are the grounds, the control is in place, so
        that `rules()` gives the rules that a classifier has, whatever was planted; there are no pictures. Raises
        `ValueError` for images that were not drawn, or not with the seeds from `first_seed` on.
        """
        if self.first_seed is None:
            raise ValueError(f"images of tier {self.tier!r} cannot be painted again: expected drawn ones, tier 'mini'")
        labels, concept = [self.data.classes[i] for i in self.data.labels], [GROUNDS[i] for i in self.data.grounds]
        paint = partial(scenes, len(labels), self.first_seed, labels, workers=2, progress=progress)
        painted = {ground: paint(ground=ground) for ground in GROUNDS}
        for i, ground in enumerate(concept):
            if not torch.equal(painted[ground].images[i], self.data.images[i]):
                raise ValueError(
                    f"image {i} is not the scene with seed {self.first_seed + i}: expected all of the story's images"
                )
        area = [float(self.masks[c][i].mean()) for i, c in enumerate(concept)]
        known = pd.DataFrame({"image": range(len(labels)), "class": labels, "concept": concept, "area": area})
        known, tables = known.assign(is_object=False, variant=0, control=None, p_control=float("nan")), []
        for name in names or self.searched:
            before, p_before = _readings(self.classifiers[name], self.data, labels)
            table = known.assign(classifier=name, before=before, p_before=p_before)
            for ground, pictures in painted.items():
                after, p_after = _readings(self.classifiers[name], pictures, labels)
                tables.append(table.assign(style=ground, after=after, p_after=p_after))
        return Probe(pd.concat(tables, ignore_index=True), "in place", self.settings.least_images)


def _readings(classifier: Classifier, data: LabelledImages, labels: Sequence[str]) -> tuple[list[str], list[float]]:
    """What each image is read as, and the probability of its label."""
    chances = predict(classifier, resized(data.images, classifier.size)).softmax(dim=1)
    right = torch.tensor([[classifier.index(label)] for label in labels])
    return [classifier.classes[i] for i in chances.argmax(dim=1)], chances.gather(1, right)[:, 0].tolist()


def probing_scenario(
    tier: str | None = None,
    split: str = "test",
    per_class: int = 20,
    progress: bool = False,
    device: Device = None,
    models: Sequence[str] = (),
) -> Probing:
    """Notebook 04's story (section 5). `split` and `per_class` are of MiniWorld: its validation or test scenes.

    `tier` is that of `EDITTOOLS_TIER` by default. Tiers lite and paper need the MSRC v2 photos, and probe the `models`
    of the zoo, by default EfficientNet-Lites or VGG16 and ResNet-50. A model whose classes are not ImageNet's also
    needs the folder of validation images that `EDITTOOLS_IMAGENET` names, one subfolder a class. Raises `ValueError`
    for `models` of tier mini.
    """
    tier = current_tier(tier)
    if tier != "mini":
        return _on_photos(tier, models or PHOTO_MODELS[tier], progress, device)
    if models:
        raise ValueError(f"models {', '.join(models)}: expected none, those of tier 'mini' are given")
    return _in_miniworld(split, per_class, progress, device)


def _with_materials(
    data: LabelledImages,
    masks: Mapping[str, Tensor],
    donors: LabelledImages,
    given: Mapping[str, Tensor],
    variants: int,
) -> Concepts:
    """Cut materials from the donors with the masks `given`, of the concepts that enough of them show."""
    shown = [concept for concept, mask in given.items() if mask.flatten(1).any(dim=1).sum() >= variants]
    return Concepts(data, masks, materials(donors, given, shown, variants))


def _in_miniworld(split: str, per_class: int, progress: bool, device: Device) -> Probing:
    """As many scenes of each class; the classes come in turn, so that the first scenes are of all classes."""
    names, unscored = ("mini_vgg", "mini_resnet", "mini_vgg_balanced"), (("sky", "wall"),)
    classifiers = {name: load_classifier(name, device) for name in names}
    spaced = partial(scenes, workers=2, progress=progress)
    count, start = per_class * len(CLASSES), SPLITS[split].start + 200_000
    data = spaced(count, start, label=[CLASSES[i % len(CLASSES)] for i in range(count)])
    donors = spaced(4 * len(CLASSES), SPLITS["reference"].start + 200_000, label=list(CLASSES) * 4)
    masks, given = ({c: of.mask(c) for c in (*GROUNDS, *BEHIND, *unscored[0], "object")} for of in (data, donors))
    given.pop("object")
    concepts = replace(_with_materials(data, masks, donors, given, 8), objects={"object": CLASSES})
    return Probing(
        "mini",
        classifiers,
        concepts,
        textures=style_textures(STYLES, size=max(data.images.shape[-2:])),
        styled=3 * len(CLASSES),
        groups=(GROUNDS, BEHIND),
        unscored=unscored,
        settings=Settings(least_images=min(LEAST_IMAGES, per_class // 2)),
        clean=spaced(1200, SPLITS["reference"].start + 300_000),
        reference=spaced(400, SPLITS["reference"].start + 400_000).images,
        layer="features.10",
        shortlist=("features.10", "features.13", "features.15"),
        example="car",
        null="mini_vgg_balanced",
        planted=planted_rules(),
        first_seed=start,
    )


def imagenet_objects() -> dict[str, list[int]]:
    """By concept of MSRC v2, the numbers of the ImageNet classes whose object it is."""
    found = {}
    for line in shipped("msrc_objects.txt").read_text().splitlines():
        concept, *spans = line.split()
        ends = [[int(end) for end in span.split("-")] for span in spans]
        found[concept] = [i for end in ends for i in range(end[0], end[-1] + 1)]
    return found


BACKGROUNDS = (("grass", "road", "water"), ("sky", "building", "tree"))

PHOTO_MODELS = {
    "lite": ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"),
    "paper": ("vgg16", "resnet50"),
}
"""What is probed by default; the rules of the first are looked for."""

_SHORTLIST = ("blocks.4.0.conv_pwl", "blocks.5.0.conv_pw", "blocks.5.0.conv_pwl")
"""What `benchmarks/cure.py` took on the validation photos."""


def _on_photos(tier: str, names: Sequence[str], progress: bool, device: Device) -> Probing:
    """All photos at the size of the largest classifier; those that show most of a background give the materials."""
    classifiers = {name: load_classifier(name, device) for name in names}
    largest = max(classifiers.values(), key=lambda c: c.size)
    data, masks = msrc(largest, progress=progress)
    variants, backgrounds = 3, [concept for group in BACKGROUNDS for concept in group]
    most = (masks[c].flatten(1).mean(dim=1).argsort(descending=True, stable=True) for c in backgrounds)
    giving = sorted({i for order in most for i in order[:variants].tolist()})
    probed = sorted(set(range(len(data))) - set(giving))
    known = imagenet_objects() if is_imagenet(largest) else {}
    others = tuple(c for c in MSRC if c in masks and c not in backgrounds)
    some, given = ({c: masks[c][numbers] for c in (*backgrounds, *others)} for numbers in (probed, giving))
    concepts = _with_materials(data.subset(probed), some, data.subset(giving), given, variants)
    return Probing(
        tier,
        classifiers,
        replace(concepts, objects={c: [data.classes[i] for i in numbers] for c, numbers in known.items()}),
        textures=style_textures(("snow", "wooden", "graffiti", "floral"), size=largest.size),
        styled=120,
        groups=BACKGROUNDS,
        unscored=(others,),
        settings=Settings(labels="read", least_images=5),
        clean=_labelled(largest, progress),
        reference=photos.unlabelled("rta-100/", largest, progress),
        layer="blocks.4.0.conv_pw",
        shortlist=_SHORTLIST,
    )


def is_imagenet(classifier: Classifier) -> bool:
    """Whether a classifier's classes are ImageNet's."""
    return tuple(classifier.classes) == imagenet_classes()


def _labelled(classifier: Classifier, progress: bool) -> LabelledImages:
    """Everyday photos with their labels: the ImageNet sample, or two a class of the user's own folder."""
    if is_imagenet(classifier):
        return photos.imagenet_sample(classifier, progress)
    folder = os.environ.get("EDITTOOLS_IMAGENET")
    if not folder:
        raise FileNotFoundError(
            f"no labelled photos of {len(classifier.classes)} classes that are not ImageNet's: set EDITTOOLS_IMAGENET "
            "to a folder of validation images, one subfolder a class"
        )
    return photos.validation_folder(folder, classifier, per_class=2)
