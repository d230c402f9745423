"""Probe classifiers: transform every concept of every image in several textures, and predict again (section 5)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from edittools._checks import one_of
from edittools._progress import Progress, bar_of
from edittools.classifiers import Classifier
from edittools.images import resized
from edittools.metrics import predict
from edittools.probing.counterfactuals import LEAST_AREA, Concepts
from edittools.probing.effects import CONTROLS, LEAST_IMAGES, Probe


@dataclass(frozen=True)
class ProbeSettings:
    """The concepts that a probe transforms, and the comparisons that it makes.

    Args:
        only: the concepts to transform, for concepts without groups; by default all.
        variants_per_image: number of variants of each material for each image, in rotation; by default one for the
            control "in place", and all for "elsewhere".
        control: "elsewhere", the same change elsewhere in the image, or "in place", the concept transformed to itself.
        labels: the correct class is the label ("given"), or what each classifier predicts for the untouched image
            ("predicted").
        least_images: smallest number of images of a rule.
    """

    only: Sequence[str] | None = None
    variants_per_image: int | None = None
    control: str = "elsewhere"
    labels: str = "given"
    least_images: int = field(default=LEAST_IMAGES, repr=False)

    def __post_init__(self) -> None:
        one_of(self.control, CONTROLS, "control")
        one_of(self.labels, ("given", "predicted"), "labels")


_Version = str | tuple[str, str]
"""A version of an image: the original, or a concept and whether it is changed or the control."""


def probe(
    classifiers: Classifier | Mapping[str, Classifier],
    concepts: Concepts,
    settings: ProbeSettings | None = None,
    *,
    progress: Progress | None = None,
) -> Probe:
    """Predict each image again with each concept that it shows transformed.

    Concepts that cover less than the share `LEAST_AREA` of an image are skipped.

    Args:
        classifiers: one, or several by name. All see the same images, resized to the size that each expects.
        concepts: the images, the masks of their concepts, and the materials to transform them to.
        settings: the concepts to transform, and the control.
        progress: a class like `tqdm.tqdm`, for a bar.

    Raises:
        KeyError: if a concept to transform has no masks.
        ValueError: if no image shows a concept.
    """
    settings = settings or ProbeSettings()
    named = classifiers if isinstance(classifiers, Mapping) else {"classifier": classifiers}
    groups = concepts.groups or [tuple(settings.only or concepts.masks)]
    transformed = list(chain.from_iterable(groups))
    for concept in transformed:
        one_of(concept, concepts.masks, "concept", KeyError)
    count = len(concepts.data)
    rows = []
    with bar_of(progress, total=len(groups) * count, desc="counterfactuals", unit="image") as bar:
        for group in groups:
            of_group = _of_group(concepts, group, settings.control)
            for number in range(count):
                rows += _probe_image(of_group, group, number, named, settings)
                bar.update()
    if not rows:
        raise ValueError(
            f"no image shows one of {', '.join(transformed)} on {LEAST_AREA:.0%} of its area or more; pass images that "
            "do, or masks of other concepts"
        )
    return Probe(pd.DataFrame(rows), settings.control, settings.least_images, concepts)


def _of_group(concepts: Concepts, group: Sequence[str], control: str) -> Concepts:
    """Return the concepts with the masks and materials that a group of them needs."""
    mask_names = concepts.masks if control == "elsewhere" else group  # a control elsewhere avoids other objects
    material_names = group if concepts.groups else concepts.materials
    return replace(
        concepts,
        masks={name: concepts.masks[name] for name in mask_names},
        materials={name: concepts.materials[name] for name in material_names},
        groups=(),
    )


def _probe_image(
    concepts: Concepts,
    group: Sequence[str],
    number: int,
    classifiers: Mapping[str, Classifier],
    settings: ProbeSettings,
) -> list[dict[str, Any]]:
    """Make the rows of one image; all its versions go through each classifier in one batch."""
    areas = {concept: concepts.masks[concept][number].mean() for concept in group}
    visible = [concept for concept, area in areas.items() if area >= LEAST_AREA]  # in single precision, as areas are
    if not visible:
        return []
    has_control = settings.control == "elsewhere"
    per_image = settings.variants_per_image or (None if has_control else 1)
    textures = concepts.textures(number, per_image)
    versions: dict[_Version, Tensor] = {"original": concepts.data.images[number][None]}
    for concept in visible:
        changed, control = concepts.counterfactual(number, concept, textures, has_control)
        versions[concept, "changed"] = changed
        if control is not None:
            versions[concept, "control"] = control
    given_label = concepts.data.classes[int(concepts.data.labels[number])] if settings.labels == "given" else None
    rows = []
    for name, classifier in classifiers.items():
        label, predicted = _predict_versions(classifier, versions, given_label)
        [(before, p_before)] = predicted["original"]
        for concept in visible:
            about = {
                "classifier": name,
                "image": number,
                "class": label,
                "concept": concept,
                "is_object": label in concepts.objects.get(concept, ()),
                "area": float(areas[concept]),
                "before": before,
                "p_before": p_before,
            }
            rows += [about | row for row in _rows_of_materials(concept, textures, predicted)]
    return rows


def _predict_versions(
    classifier: Classifier, versions: Mapping[_Version, Tensor], label: str | None
) -> tuple[str, dict[_Version, list[tuple[str, float]]]]:
    """Predict all versions of an image in one batch.

    Args:
        versions: the images `(V, 3, H, W)` of each version; the original is the first.
        label: the correct class; None for what is predicted of the original.

    Returns:
        The correct class, and for each image of each version, the predicted class and the probability of the correct
        one.
    """
    images = torch.cat(list(versions.values()))
    probabilities = predict(classifier, resized(images, classifier.size)).softmax(dim=1)
    names = [classifier.classes[index] for index in probabilities.argmax(dim=1).tolist()]
    label = names[0] if label is None else label
    pairs = iter(zip(names, probabilities[:, classifier.index(label)].tolist(), strict=True))
    return label, {version: list(islice(pairs, len(of_version))) for version, of_version in versions.items()}


def _rows_of_materials(
    concept: str, textures: Sequence[tuple[str, int]], predicted: Mapping[_Version, list[tuple[str, float]]]
) -> Iterator[dict[str, Any]]:
    """Yield what was predicted of an image with a concept transformed to each material, and of its control, if any.

    Args:
        textures: the material and the variant of each texture.
        predicted: the predictions, see `_predict_versions`.
    """
    no_control = [(None, None)] * len(textures)
    changed = predicted[concept, "changed"]
    controls = predicted.get((concept, "control"), no_control)
    for (material, variant), (after, p_after), (control, p_control) in zip(textures, changed, controls, strict=True):
        yield {
            "material": material,
            "variant": variant,
            "after": after,
            "control": control,
            "p_after": p_after,
            "p_control": p_control,
        }
