"""The scenario of notebook 04 (section 5 of the paper): what is probed, and what an edit of a rule is selected on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from edittools._checks import one_of
from edittools._progress import Progress
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import LabeledImages, resized, stratified
from edittools.layers import candidate_layers
from edittools.metrics import predict
from edittools.models.imagenet import imagenet_classes
from edittools.models.load import load_classifier
from edittools.probing.counterfactuals import Concepts, shows
from edittools.probing.effects import LEAST_IMAGES, Probe
from edittools.probing.probe import ProbeSettings
from edittools.selection.splits import label_by_prediction
from edittools_course.cut_materials import cut_textures, with_materials
from edittools_course.miniworld.contexts import BEHIND, GROUNDS
from edittools_course.miniworld.scenes import CLASSES
from edittools_course.networks.imagenet import classes_by_object
from edittools_course.scenarios import photos
from edittools_course.scenarios.scenario import Scenario, ScenarioSplits, divided
from edittools_course.scenarios.tiers import MODELS, UNTUNED, SceneSet, current_tier

PROBED_OFFSET = 200_000
"""The first seed, within its split, of the scenes that are probed and of those that give the materials."""

SCENE_TEXTURES = 80
"""The largest number of textures of a material in MiniWorld, each from another scene."""

VARIANTS_PER_IMAGE = 3
"""Number of variants of a material for each image that an edit is selected on, if there are as many."""

BACKGROUNDS = (("grass", "road", "water"), ("sky", "building", "tree"))
"""Concepts of photos that can replace each other: grounds, and what is behind the object."""


class ProbingSetup(NamedTuple):
    """What notebook 04 works with.

    Attributes:
        classifiers: the classifiers to probe, by name; the rules of the first one are edited.
        concepts: images, the masks of their concepts, and materials.
        settings: what a probe transforms and compares.
        common_fields: what does not depend on the rule, see `scenario_for`.
    """

    classifiers: dict[str, Classifier]
    concepts: Concepts
    settings: ProbeSettings
    common_fields: dict[str, Any]


def probing_setup(
    tier: str | None = None,
    split: str = "test",
    per_class: int = 20,
    progress: Progress | None = None,
    models: Sequence[str] = (),
    most_scenes: int | None = None,
) -> ProbingSetup:
    """Make the scenario of notebook 04: classifiers, concepts with materials, how to probe them, and clean images.

    Args:
        tier: by default the one that `EDITTOOLS_TIER` names. Tier mini renders scenes; the others use MSRC v2.
        split: the split of MiniWorld's seeds that the probed scenes are rendered from.
        per_class: number of scenes of each class.
        progress: a class like `tqdm.tqdm`, for bars.
        models: classifiers of `edittools.models` to use instead of the tier's.
        most_scenes: the largest number of MiniWorld scenes of each set, for a quick trial; by default all.

    Raises:
        ValueError: if there is no such tier.
        KeyError: if there is no such model or split.
        FileNotFoundError: if no photo is available.
    """
    tier = current_tier(tier)
    classifiers = {name: load_classifier(name) for name in models or MODELS[tier]}
    name = next(iter(classifiers))
    first = classifiers[name]
    if tier == "mini":
        concepts, settings, splits = _in_miniworld(split, per_class, progress, most_scenes)
    else:
        concepts, settings, splits = _on_photos(list(classifiers.values()), progress)
    snow = "editing-classifiers/snow/"
    if tier == "lite" and photos.available(snow):
        splits["extra"] = photos.elsewhere(first, prefix=snow)
    layers = candidate_layers(first)
    later = layers[len(layers) // 2 :]
    common_fields = {
        "splits": splits,
        "tier": tier,
        "where": "in place",
        "default": {"layer": UNTUNED.get(name, later[len(later) // 2])},
    }
    return ProbingSetup(classifiers, concepts, settings, common_fields)


def repainted(
    classifiers: Mapping[str, Classifier], concepts: Concepts, split: str = "test", least_images: int = LEAST_IMAGES
) -> Probe:
    """Render each probed MiniWorld scene again on every ground and predict: what a probe estimates, exactly.

    With the same seed only the look of the ground differs, so `rules()` returns the rules that a classifier has.

    Args:
        classifiers: by name.
        concepts: those of `probing_setup` in tier mini.
        split: the split that its scenes were rendered from.
        least_images: smallest number of images of a rule.

    Raises:
        ValueError: if the images are not the first scenes of `probing_setup` of that split.
    """
    data = concepts.data
    labels = [data.classes[label] for label in data.labels]
    grounds = [GROUNDS[number] for number in data.grounds]
    rendered = {}
    for ground in GROUNDS:
        rendered[ground] = SceneSet(len(data), split, PROBED_OFFSET, labels, ground).render()
    for i, ground in enumerate(grounds):
        if not torch.equal(rendered[ground].images[i], data.images[i]):
            raise ValueError(
                f"image {i} is not scene {i} of probing_setup(split={split!r}); pass all of its images, in their order"
            )
    tables = []
    for name, classifier in classifiers.items():
        logits_before = predict(classifier, data)
        for ground, scenes in rendered.items():
            logits_after = predict(classifier, scenes)
            table = pd.DataFrame(
                {
                    "image": range(len(data)),
                    "class": labels,
                    "concept": grounds,
                    "is_object": False,
                    "variant": range(len(data)),
                    "control": None,
                    "p_control": float("nan"),
                    "classifier": name,
                    "material": ground,
                }
            )
            for when, logits in (("before", logits_before), ("after", logits_after)):
                probabilities = logits.softmax(dim=1)
                table[when] = [classifier.classes[i] for i in probabilities.argmax(dim=1)]
                table[f"p_{when}"] = probabilities.gather(1, data.labels[:, None])[:, 0].tolist()
            tables.append(table)
    return Probe(pd.concat(tables, ignore_index=True), "in place", least_images)


def _in_miniworld(
    split: str, per_class: int, progress: Progress | None, most_scenes: int | None
) -> tuple[Concepts, ProbeSettings, dict[str, Any]]:
    """Render scenes in which the classes take turns, so that the first scenes show all classes."""

    def render(scene_set: SceneSet) -> LabeledImages:
        return scene_set.at_most(most_scenes).render(progress)

    data = render(SceneSet(per_class * len(CLASSES), split, PROBED_OFFSET, CLASSES))
    donors = []
    for place, ground in enumerate(GROUNDS):
        offset = PROBED_OFFSET + SCENE_TEXTURES * place
        donors.append(render(SceneSet(SCENE_TEXTURES, "reference", offset, CLASSES, ground)))
    clean = render(SceneSet(1200, "reference", 300_000))
    reference = render(SceneSet(400, "reference", 400_000))
    backgrounds = (*GROUNDS, *BEHIND, "sky", "wall")
    images = torch.cat([part.images for part in donors])
    labels = torch.cat([part.labels for part in donors])
    giving = LabeledImages(images, labels, CLASSES)
    textures = {}
    for concept in backgrounds:
        concept_masks = torch.cat([part.mask(concept) for part in donors])
        shown = int(shows(concept_masks).sum())
        textures[concept], _ = cut_textures(giving, concept_masks, min(SCENE_TEXTURES, shown))
    masks = {concept: data.mask(concept) for concept in (*backgrounds, "object")}
    concepts = Concepts(data, masks, textures, {"object": CLASSES}, (GROUNDS, BEHIND))
    settings = ProbeSettings(variants_per_image=2, control="in place", least_images=min(LEAST_IMAGES, per_class // 2))
    splits = {**photos.halves(clean, "clean", "clean_test"), "reference": reference.images}
    return concepts, settings, splits


def _on_photos(
    classifiers: Sequence[Classifier], progress: Progress | None
) -> tuple[Concepts, ProbeSettings, dict[str, Any]]:
    """Load all photos at the largest classifier's size; those that show most of a background give the materials."""
    first = classifiers[0]
    largest = max(classifiers, key=lambda classifier: classifier.size)
    data, masks = photos.msrc(largest, progress=progress)
    labels = label_by_prediction(at_size(data, first), first, progress).labels
    data = replace(data, labels=labels)
    objects = classes_by_object() if first.classes == imagenet_classes() else {}
    backgrounds = [concept for group in BACKGROUNDS for concept in group]
    masks = {concept: masks[concept] for concept in (*backgrounds, *masks)}
    concepts = with_materials(data, masks, backgrounds, objects=objects, groups=BACKGROUNDS)
    settings = ProbeSettings(control="in place", labels="predicted", least_images=5)
    return concepts, settings, photos.clean_and_reference(first, progress)


def scenario_for(
    classifier: Classifier,
    concepts: Concepts,
    rule: Mapping[str, Any],
    common_fields: Mapping[str, Any],
    exemplars: int = 3,
) -> tuple[Scenario, dict[str, list[int]]]:
    """Make the scenario of a rule.

    The images that show the concept and are classified correctly, except the exemplars, are transformed to the rule's
    material. Half of each class is `target`; of the others, those of the rule's class are `same_class_test`, the rest
    `target_test`. One half of the material's variants is used to make and select an edit, the other half to evaluate
    it. `retain` and `retain_test` are halves of the untransformed, correctly classified images that show the material,
    but not the concept.

    Args:
        classifier: the classifier to edit.
        concepts: the images, masks and materials.
        rule: a row of `Probe.rules()`, or a mapping of "class", "concept" and "material" to their names, and of
            "evidence" to the numbers of images of the class.
        common_fields: the fields of the `Scenario` that do not depend on the rule; and as "splits" a mapping of those
            of the `ScenarioSplits`, by name.
        exemplars: number of exemplars; they are the first images of the evidence.

    Returns:
        The scenario, and the numbers of the images of its splits "target", "target_test" and "same_class_test".

    Raises:
        KeyError: if there is no such class, concept or material.
        ValueError: if there is no exemplar, no target image or no test image.
    """
    concept = rule["concept"]
    material = rule["material"]
    class_index = classifier.index(rule["class"])
    for_selection, for_evaluation = parted(concepts, concept, material)
    evidence = list(rule["evidence"][:exemplars])
    data = at_size(concepts.data, classifier)
    is_correct = predict(classifier, data).argmax(dim=1) == data.labels
    shows_concept = shows(concepts.masks[concept])
    shows_material = torch.zeros_like(is_correct)
    if material in concepts.masks:
        shows_material = shows(concepts.masks[material])
    is_exemplar = torch.zeros_like(is_correct)
    is_exemplar[evidence] = True
    is_transformed = is_correct & shows_concept & ~is_exemplar
    is_retained = is_correct & shows_material & ~shows_concept & ~is_exemplar
    numbers = _divide(is_transformed.nonzero()[:, 0], data.labels, class_index)
    if not (evidence and numbers["target"] and numbers["target_test"]):
        counts = {"exemplars": len(evidence), **{name: len(part) for name, part in numbers.items()}}
        raise ValueError(
            f"rule {rule['class']!r} on {concept!r} → {material!r} has too few images: {counts}; pass images that "
            "leave at least one exemplar, one target image and one test image"
        )
    variants = min(VARIANTS_PER_IMAGE, len(for_selection.materials[material]))
    exemplars_by_name = _exemplars(classifier, for_selection, rule, len(evidence))
    target = for_selection.turned(numbers["target"], concept, material, variants)
    target_test = for_evaluation.turned(numbers["target_test"], concept, material)
    same_class_test = None
    if numbers["same_class_test"]:
        same_class = for_evaluation.turned(numbers["same_class_test"], concept, material)
        same_class_test = at_size(same_class, classifier)
    retain = None
    retain_test = None
    if is_retained.any():
        retain, retain_test = divided(data.subset(is_retained), 0.5)
        if len(retain) == 0:
            retain = None
    splits = ScenarioSplits(
        **common_fields["splits"],
        target=at_size(target, classifier),
        target_test=at_size(target_test, classifier),
        same_class_test=same_class_test,
        retain=retain,
        retain_test=retain_test,
    )
    layers = common_fields.get("layers") or candidate_layers(classifier)
    default = {
        "layer": layers[len(layers) // 2],
        "exemplar": next(iter(exemplars_by_name)),
        **common_fields.get("default", {}),
    }
    scenario = Scenario(
        classifier,
        exemplars_by_name,
        **{**common_fields, "splits": splits, "default": default},
    )
    return scenario, numbers


def _divide(numbers: Tensor, labels: Tensor, class_index: int) -> dict[str, list[int]]:
    """Divide images, by number, into those for selection, those for evaluation, and those of the rule's own class."""
    is_target = stratified(labels[numbers], 0.5)
    is_own_class = labels[numbers] == class_index
    return {
        "target": numbers[is_target].tolist(),
        "target_test": numbers[~is_target & ~is_own_class].tolist(),
        "same_class_test": numbers[~is_target & is_own_class].tolist(),
    }


def _exemplars(classifier: Classifier, concepts: Concepts, rule: Mapping[str, Any], count: int) -> dict[str, Exemplar]:
    """Make the exemplars, each in another variant of the rule's material as far as there are enough, by name."""
    texture_count = len(concepts.materials[rule["material"]])
    exemplars = {}
    for place in range(count):
        exemplar = concepts.exemplar(rule, place % texture_count, place)
        exemplars[f"{rule['class']} {place + 1}"] = exemplar.sized(classifier.size)
    return exemplars


def at_size(data: LabeledImages, classifier: Classifier) -> LabeledImages:
    """Resize images to the classifier's size."""
    return replace(data, images=resized(data.images, classifier.size))


def parted(concepts: Concepts, concept: str, material: str) -> tuple[Concepts, Concepts]:
    """Select one concept and one material, and split the variants of the material into two halves.

    If the concept is also a material, for the control "in place", both results have all of its variants.

    Args:
        concepts: the images, masks, and materials.
        concept: the concept.
        material: the material.

    Returns:
        The concepts with the first half of the variants, for the selection of an edit, and with the second half,
        for its evaluation.

    Raises:
        KeyError: if there is no such concept or material.
    """
    one_of(concept, concepts.masks, "concept", KeyError)
    one_of(material, concepts.materials, "material", KeyError)
    control = {concept: concepts.materials[concept]} if concept in concepts.materials else {}
    textures = concepts.materials[material]
    middle = (len(textures) + 1) // 2
    first, second = textures.tensor_split([middle])
    alone = replace(concepts, masks={concept: concepts.masks[concept]}, groups=())
    selection = replace(alone, materials={**control, material: first})
    evaluation = replace(alone, materials={**control, material: second})
    if material in concepts.cut_variants:
        cut = concepts.cut_variants[material]
        selection = replace(selection, cut_variants={**concepts.cut_variants, material: cut.where(cut < middle, -1)})
        evaluation = replace(evaluation, cut_variants={**concepts.cut_variants, material: (cut - middle).clamp(min=-1)})
    return selection, evaluation
