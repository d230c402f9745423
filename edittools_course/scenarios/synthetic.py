"""The scenario of notebook 03 (section 4 of the paper): every method makes many small edits.

A case is a planned rule: a concept, a style and a class. Wherever the concept is seen, it is transformed to the style;
some images of the class are the exemplars, see `scenario_for`. A benchmark is run case by case, in this process or in
others. A process makes the classifier and the images of a `SetupSource` once and shares them between its cases.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.images import LabeledImages, stratified
from edittools.layers import candidate_layers
from edittools.metrics import predict
from edittools.models.load import load_classifier
from edittools.probing.counterfactuals import Concepts
from edittools.probing.textures import STYLES, VARIANTS, style_textures
from edittools.rewriting import EDIT, RANDOM
from edittools.selection.scores import Scores
from edittools_course import segmenters
from edittools_course.by_labels import select_by_labels
from edittools_course.methods import METHODS, Method
from edittools_course.rivals import SCOPES
from edittools_course.scenarios import photos
from edittools_course.scenarios.rules import scenario_for
from edittools_course.scenarios.scenario import Scenario
from edittools_course.scenarios.tiers import MODELS, SceneSet, current_tier
from edittools_course.shipped import shipped

SettingsGrid = Sequence[Mapping[str, Any]]

CASE_LEAST_AREA = 0.05
"""A concept has to cover this share of an image of a case."""

MOST_IMAGES = 80
"""The largest number of images of a case; if there are more, some are drawn at random."""

RANKS = (1, 3)
"""The ranks of edits that are tried, and that are also reported one by one."""

CONCEPTS = {
    "mini": ("road", "grass", "sand", "water", "wall", "table", "mountain"),
    "lite": ("grass", "road", "water", "sky", "tree", "building"),
    "paper": ("car", "bicycle", "boat"),
}
"""The concepts that are transformed, by tier; a small setup has the first three."""

SMALL_STYLES = ("graffiti", "snow")
"""The styles of a small setup."""

FINETUNING = [{"rate": rate, "steps": 20} for rate in (3e-4, 3e-3, 3e-2)]
"""The settings of fine-tuning on the exemplars that are tried, in each of `SCOPES`."""

FINETUNING_STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""How far fine-tuning moves from the original weights to the fine-tuned ones (WiSE-FT, PAINT)."""

LEAST_SQUARES = [{"rank": rank, "reference_weight": weight} for rank, weight in product(RANKS, (0.0, 10.0, 30.0))]
"""The settings of edits of low rank that are tried."""

FULL_RANK = [{"rank": None, "reference_weight": weight} for weight in (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)]
"""The settings of edits of full rank that are tried: with a penalty on reference outputs, the objective of MEMIT."""


def editing_grids() -> dict[str, SettingsGrid]:
    """Return the grids of settings of `rewrite` by method: with and without the mask, and of full rank."""
    return {
        "editing": LEAST_SQUARES,
        "editing -mask": [{**setting, "masked": False} for setting in LEAST_SQUARES],
        "full rank": FULL_RANK,
    }


@dataclass(frozen=True)
class CaseSettings:
    """What is tried on each case.

    Args:
        exemplars: number of exemplars.
        least_errors: a case with fewer errors on target images is counted, but not scored.
        strengths: the strengths α of every method but fine-tuning.
        editing: grids of settings of `rewrite`, by name of the method; the random direction is tried with that of
            "editing".
        finetuning: the settings of fine-tuning.
    """

    exemplars: int = 3
    least_errors: int = 3
    strengths: Sequence[float] = (0.5, 1.0, 1.5)
    editing: Mapping[str, SettingsGrid] = field(default_factory=editing_grids)
    finetuning: SettingsGrid = field(default_factory=lambda: list(FINETUNING))


DEFAULT_SETTINGS = CaseSettings()


@dataclass(frozen=True, eq=False)
class SyntheticSetup:
    """What all cases share.

    Args:
        classifier: the classifier to edit.
        concepts: the images, the masks of their concepts, and the styles that these are transformed to.
        common_fields: what does not depend on the case, see `scenario_for`.
    """

    classifier: Classifier
    concepts: Concepts
    common_fields: Mapping[str, Any]


@dataclass(frozen=True)
class SetupSource:
    """A function that makes a `SyntheticSetup`, and its arguments; small enough to be sent to another process.

    Args:
        make: the function; it must be importable by name.
        arguments: hashable positional arguments.
    """

    make: Callable[..., SyntheticSetup]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Case:
    """A rule that is planned for a benchmark.

    Args:
        concept: the concept that is transformed.
        style: the style it is transformed to.
        target: the class of the exemplars.
        images: numbers of the correctly classified images that show the concept.
        evidence: the exemplars, as places in `images`.
    """

    concept: str
    style: str
    target: str
    images: Sequence[int]
    evidence: Sequence[int]

    @property
    def name(self) -> str:
        """Return the name of the case, such as "grass → snow, van"."""
        return f"{self.concept} → {self.style}, {self.target}"

    @property
    def rule(self) -> dict[str, Any]:
        """Return the case as a rule, see `scenario_for`; its evidence counts within `images`."""
        return {"class": self.target, "concept": self.concept, "material": self.style, "evidence": self.evidence}


def synthetic_source(tier: str | None = None, model: str | None = None, small: bool = False) -> SetupSource:
    """Return the source of a tier's setup.

    Args:
        tier: by default the one that `EDITTOOLS_TIER` names.
        model: a classifier of `edittools.models`; by default the tier's first.
        small: use fewer concepts, styles and images.

    Raises:
        ValueError: if there is no such tier.
    """
    tier = current_tier(tier)
    return SetupSource(synthetic_setup, (tier, model or MODELS[tier][0], small))


def synthetic_setup(tier: str, model: str, small: bool) -> SyntheticSetup:
    """Make a tier's setup.

    Tier mini renders scenes. Tier lite loads MSRC v2, labeled with the classifier's predictions where it is confident.
    Tier paper reads a folder of validation images, in which DeepLabV3 finds the concepts. Rendered textures are pasted
    over the concept, six variants of each style.

    Args:
        model: a classifier of `edittools.models`.
        small: use fewer concepts, styles and images.

    Raises:
        ValueError: if no photo shows a concept.
        FileNotFoundError: if no photo is available.
    """
    classifier = load_classifier(model)
    names = CONCEPTS[tier][:3] if small else CONCEPTS[tier]
    if tier == "mini":
        data, masks, splits = _miniworld_images(names, small)
    else:
        splits = photos.clean_and_reference(classifier)
        if tier == "lite":
            data, all_masks = photos.msrc(classifier, at_least=0.2)
        else:
            used = {*splits["clean"].names, *splits["clean_test"].names}
            data, all_masks = _folder_images(classifier, names, used)
        masks = {concept: all_masks[concept] for concept in names if concept in all_masks}
        if not masks:
            raise ValueError(
                f"none of the {len(data)} photos shows {', '.join(names)}; use photos that show at least one of them"
            )
    names_of_styles = SMALL_STYLES if small else STYLES
    concepts = Concepts(data, masks, style_textures(names_of_styles, range(VARIANTS), classifier.size))
    layers = _three_later_layers(classifier)
    common_fields = {"splits": splits, "layers": layers, "tier": tier, "where": "in place"}
    return SyntheticSetup(classifier, concepts, common_fields)


def _three_later_layers(classifier: Classifier) -> tuple[str, ...]:
    """Return at most three layers of the later half, evenly spaced; the last layer is one of them.

    Notebook 03 and the benchmark need few layers to be quick, since there are dozens of cases.
    """
    layers = candidate_layers(classifier)
    later = layers[len(layers) // 2 :]
    step = -(-len(later) // 3)
    return later[::-step][::-1]


def _miniworld_images(
    names: Sequence[str], small: bool
) -> tuple[LabeledImages, dict[str, Tensor], dict[str, LabeledImages]]:
    """Render the scenes of the cases, the masks of the concepts `names`, and the common image sets.

    All is rendered in this process: cases may run in processes that may not start others.
    """
    case_count = 500 if small else 900
    clean_count = 400 if small else 800
    scene_sets = {
        "reference": SceneSet(clean_count // 2, "reference", 300_000),
        "clean": SceneSet(clean_count, "validation", 300_000),
        "clean_test": SceneSet(clean_count // 2, "test", 400_000),
    }
    data = SceneSet(case_count, "test", 300_000).render(workers=1)
    masks = {concept: data.mask(concept) for concept in names}
    return data, masks, {name: scene_set.render(workers=1) for name, scene_set in scene_sets.items()}


def _folder_images(
    classifier: Classifier, names: Sequence[str], used: set[str]
) -> tuple[LabeledImages, Mapping[str, Tensor]]:
    """Read images of `EDITTOOLS_IMAGENET`, without those `used`, and find the concepts `names` in them."""
    data = photos.validation_folder(classifier, per_class=7)
    unused = [i for i, name in enumerate(data.names) if name not in used]
    data = data.subset(unused)
    data = replace(data, images=data.images[:])
    find = segmenters.cached(segmenters.deeplab("resnet50", names))
    return data, find(data.images)


@lru_cache(maxsize=1)
def setup_of(source: SetupSource) -> SyntheticSetup:
    """Make the setup of a source; each process keeps the latest one for its next case."""
    return source.make(*source.arguments)


def cases(source: SetupSource, targets: int = 1, settings: CaseSettings = DEFAULT_SETTINGS) -> list[Case]:
    """List the cases: for each concept and style, some classes drawn at random and their exemplars.

    The images of a case show the concept and are classified correctly. Classes in `data/exclusions.txt`, which are the
    concept or are named after it, are left out.

    Args:
        source: of the setup.
        targets: number of classes for each concept and style.
        settings: for the number of exemplars.
    """
    setup = setup_of(source)
    data = setup.concepts.data
    listed = []
    for concept, images in images_of_concepts(setup).items():
        images = fewer_images(images, data.labels[images])
        labels = data.labels[images]
        for style in setup.concepts.materials:
            candidates = possible_targets(labels, settings.exemplars)
            for label in generator_of(concept, style).permutation(candidates)[:targets]:
                target = data.classes[label]
                of_target = (labels == label).nonzero()[:, 0].numpy()
                shuffled = generator_of(concept, style, target).permutation(of_target)
                evidence = shuffled[: settings.exemplars].tolist()
                listed.append(Case(concept, style, target, images.tolist(), evidence))
    return listed


def images_of_concepts(setup: SyntheticSetup) -> dict[str, Tensor]:
    """List by concept the numbers of the images of cases: they show enough of it and are classified correctly.

    Classes in `data/exclusions.txt`, which are the concept or are named after it, are left out.
    """
    data = setup.concepts.data
    is_correct = predict(setup.classifier, data).argmax(dim=1) == data.labels
    exclusions = pd.read_csv(shipped("exclusions.txt"), sep=r"\s*;\s*", engine="python")
    images_of = {}
    for concept, masks in setup.concepts.masks.items():
        excluded = set(", ".join(exclusions.classes[exclusions.concept == concept]).split(", "))
        is_allowed = torch.tensor([data.classes[label] not in excluded for label in data.labels.tolist()])
        is_large = masks.mean(dim=(1, 2)) >= CASE_LEAST_AREA
        images_of[concept] = (is_correct & is_allowed & is_large).nonzero()[:, 0]
    return images_of


def fewer_images(images: Tensor, labels: Tensor) -> Tensor:
    """Return the numbers of images; of more than `MOST_IMAGES`, some of each label are drawn at random."""
    if len(images) <= MOST_IMAGES:
        return images
    return images[stratified(labels, MOST_IMAGES / len(images))]


def possible_targets(labels: Tensor, exemplars: int) -> list[int]:
    """List the labels with more images than the exemplars, unless all images have the same label."""
    counts = {label: int((labels == label).sum()) for label in labels.unique().tolist()}
    return [label for label, count in counts.items() if exemplars < count < len(labels)]


def generator_of(*names: str) -> np.random.Generator:
    """Make a random number generator that is seeded by names."""
    return np.random.default_rng([0, *"|".join(names).encode()])


def case_scenario(source: SetupSource, case: Case, settings: CaseSettings = DEFAULT_SETTINGS) -> Scenario:
    """Make a case's scenario.

    Besides the splits of `scenario_for` there are "same" and "own same": the test images, and those of the exemplars'
    class, in the same variant of the style as the first exemplar.

    Args:
        source: of the setup.
        case: one of `cases`.
        settings: for the number of exemplars.
    """
    setup = setup_of(source)
    concepts = setup.concepts.subset(case.images)
    scenario, numbers = scenario_for(setup.classifier, concepts, case.rule, setup.common_fields, settings.exemplars)
    first_variant = concepts.materials[case.style][:1]
    same_variant = replace(concepts, materials={case.style: first_variant})
    extra = {}
    for name, original in (("same", "target_test"), ("own same", "same_class_test")):
        if numbers[original]:
            extra[name] = same_variant.turned(numbers[original], case.concept, case.style)
    return replace(scenario, splits=replace(scenario.splits, extra=extra))


def select_for_case(
    scenario: Scenario, settings: CaseSettings = DEFAULT_SETTINGS, methods: Sequence[str] = ()
) -> Scores:
    """Score the candidates of all methods by the cross-entropy of the target images, and by what else they change.

    Args:
        scenario: the scenario of a case.
        settings: what is tried.
        methods: names of the methods to try; by default all.
    """
    return select_by_labels(
        scenario.classifier,
        {"exemplars": list(scenario.exemplars.values())},
        scenario.splits.images,
        scenario.splits.target,
        layers=scenario.layers,
        where=scenario.where,
        methods=[method for method in methods_of(settings) if not methods or method.name in methods],
    )


def methods_of(settings: CaseSettings = DEFAULT_SETTINGS) -> list[Method]:
    """List the methods that are tried, with their settings and strengths."""
    strengths = settings.strengths
    tried = {name: METHODS[EDIT].trying(grid, strengths) for name, grid in settings.editing.items()}
    tried[RANDOM] = METHODS[RANDOM].trying(settings.editing["editing"], strengths)
    tried["projection"] = METHODS["projection"].trying(strengths=strengths)
    for scope in SCOPES:
        settings_of_scope = [{**setting, "scope": scope} for setting in settings.finetuning]
        name = f"{scope} fine-tuning"
        tried[name] = METHODS[name].trying(settings_of_scope, FINETUNING_STRENGTHS)
    return [replace(method, name=name) for name, method in tried.items()]
