"""Audit a folder of images: find the concepts that predictions rely on, and repair the strongest rule."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from edittools.auditing.masks import read_masks
from edittools.auditing.result import Audit, shows, write_rules
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.folders import read_folder
from edittools.images import LabelledImages, load_image
from edittools.metrics import misclassified, predict
from edittools.models.imagenet import imagenet_classes
from edittools.probing.counterfactuals import LEAST_AREA, Concepts, with_materials
from edittools.probing.effects import LEAST_IMAGES, Probe
from edittools.probing.probe import ProbeSettings, probe
from edittools.probing.segmentation import Finder, Gated, cached, deeplab
from edittools.scenarios.rules import classes_by_object, shown_rule
from edittools.selection.repair import repair

LEAST_PROBED = 5
"""A concept that is shown by fewer images is not probed."""

EXEMPLARS_TRIED = 10
"""The number of images of a rule's evidence that are tried as the exemplar."""

STREET = ("road", "grass", "sky", "building", "tree")
"""The concepts that the default segmenter finds in addition to the things of Pascal VOC."""


def audit_folder(
    folder: str | PathLike,
    classifier: Classifier,
    *,
    clean: str | PathLike | None = None,
    retain: str | PathLike | None = None,
    masks: str | PathLike | None = None,
    find: Finder | None = None,
    material: str | PathLike | None = None,
    out: str | PathLike | None = None,
    layers: Sequence[str] | None = None,
    callback: Callable[[str], None] | None = None,
    progress: bool = True,
) -> Audit:
    """Find the concepts that a classifier relies on in a folder of images, and repair the strongest rule.

    A *concept* is something that images show and that masks mark, such as the road. One concept of an image at a time
    is replaced by another *material*, such as snow, and the image is classified again. A concept is a *rule* if
    predictions depend on it significantly more than on a control. For the strongest rule, an exemplar is made from one
    of its images, and `repair` selects an edit.

    Args:
        folder: folder of images, with one subfolder per class; images outside of a subfolder are labeled by the current
            prediction.
        classifier: the classifier; it is not changed.
        clean: folder of images whose accuracy must not drop; by default the original images of `folder`, without the
            exemplar and without the retained images that were taken from `folder`.
        retain: folder of images that rely on the material legitimately. By default, these are the original images of
            `folder` that are classified correctly and show the concept from which the material was cut (with
            `material`, a concept with the name of that file), but not the replaced concept; none if fewer than two
            images qualify.
        masks: masks of the concepts, see `read_masks`. By default, `find` finds the concepts.
        find: a function that finds concepts in images, see `edittools.probing.segmentation`; by default DeepLab for
            street scenes and for the things of Pascal VOC.
        material: image file of the material that replaces concepts. By default, concepts are replaced by the materials
            of other concepts, which are cut from the images themselves.
        out: folder for intermediate and final results: parts of the probe and `rules.csv`. A later call with the same
            folder continues from there.
        layers: names of the layers to edit, see `repair`.
        callback: is called before each step with a description of the step.
        progress: show progress bars.

    Returns:
        The audit: the concepts, the rules, and the repair of the strongest rule. If nothing was repaired, its `fix` is
        None, and its `note` says so.

    Raises:
        FileNotFoundError: if there is no such folder, or the weights of the segmenter are not available.
        ModuleNotFoundError: if a package of the segmenter is not installed.
        ValueError: if there are too few images, or none of them shows a concept.
    """
    tell = callback or (lambda step: None)
    tell(f"Reading {fspath(folder)}")
    data, left_out = read_folder(folder, classifier)
    if len(data) < LEAST_PROBED:
        raise ValueError(
            f"{fspath(folder)!r} holds {len(data)} images that can be used; pass at least {LEAST_PROBED}, better "
            "hundreds"
        )
    tell("Finding concepts")
    found, lines = _find_concepts(data, classifier, folder, masks, find)
    left_out = [*left_out, *lines]
    concepts, settings = _concepts_to_probe(data, found, classifier, material)
    store = None if out is None else Path(out).expanduser() / "parts"
    tell(f"Probing {len(concepts.data)} images for {', '.join(concepts.masks)}")
    probed = probe(classifier, concepts, settings, store=store, progress=progress)
    per_class = int(concepts.data.labels.bincount().max()) >= probed.least_images
    rules = _rules(probed, per_class)
    rule, is_rule = None, False
    if len(rules):
        rule, is_rule = shown_rule(probed, pooled=not per_class)
        rule["per class"] = per_class
    if out is not None:
        write_rules(rules, Path(out).expanduser())
    audit = Audit(classifier, data, left_out, concepts, probed, rules, rule, is_rule)
    if not is_rule:
        return replace(audit, note="Nothing was repaired.")
    tell(f"Repairing {rule['concept']!r}")
    try:
        exemplar = select_exemplar(classifier, concepts, rule)
        sets = _sets_to_repair(audit, exemplar, clean, retain)
        fix = repair(classifier, exemplar, **sets, layers=layers, progress=progress)
    except ValueError as error:
        return replace(audit, note=f"Nothing was repaired. {error}.")
    return replace(audit, fix=fix)


def _find_concepts(
    data: LabelledImages,
    classifier: Classifier,
    folder: str | PathLike,
    masks: str | PathLike | None,
    find: Finder | None,
) -> tuple[dict[str, Tensor], list[str]]:
    """Read or find the masks of concepts.

    Returns:
        The masks, by concept, and one line per file, annotation or rare concept that was left out.
    """
    left_out = []
    if masks is not None:
        found, left_out = read_masks(masks, data.names, classifier, folder)
    else:
        found = _find(data.images, find)
    probed = {}
    for concept, concept_masks in found.items():
        count = int(shows(concept_masks).sum())
        if count >= LEAST_PROBED:
            probed[concept] = concept_masks
        else:
            left_out.append(f"{concept}: only {count} images show it on {LEAST_AREA:.0%} of their area or more")
    if not probed:
        reason = f" ({left_out[0]})" if left_out else ""
        raise ValueError(
            f"no concept is shown by {LEAST_PROBED} of the {len(data)} images{reason}; pass more images, or masks"
        )
    return probed, left_out


def _find(images: Tensor, find: Finder | None) -> dict[str, Tensor]:
    """Find the concepts; if no segmenter is available, the error suggests passing masks instead."""
    try:
        finder = default_finder() if find is None else find
        return finder(images)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        remedy = "or pass masks of the concepts (masks=, on the command line --masks)"
        raise type(error)(f"no segmenter: {error}; {remedy}") from error


def default_finder() -> Finder:
    """Load the segmenters of street scenes and of the things of Pascal VOC, two files of 2 MB each.

    Returns:
        A function that finds both kinds of concepts in images.

    Raises:
        FileNotFoundError: if their weights are not available.
        ModuleNotFoundError: if their package is not installed.
    """
    pascal = deeplab("pascal")
    gated = cached(Gated(deeplab("cityscapes", STREET), pascal))
    things = cached(pascal)

    def find(images: Tensor) -> dict[str, Tensor]:
        return {**things(images), **gated(images)}

    return find


def _concepts_to_probe(
    data: LabelledImages, masks: Mapping[str, Tensor], classifier: Classifier, material: str | PathLike | None
) -> tuple[Concepts, ProbeSettings]:
    """Select the materials, and the control that fits them."""
    objects = _classes_of_concepts(classifier, masks)
    least = min(LEAST_IMAGES, max(LEAST_PROBED, len(data) // 10))
    if material is not None:
        texture = load_image(material)
        styles = {Path(material).stem: texture[None]}
        return Concepts(data, masks, styles, objects), ProbeSettings(least_images=least)
    concepts = with_materials(data, masks, variants=2, objects=objects)
    return concepts, ProbeSettings(variants_per_image=2, control="in place", least_images=least)


def _classes_of_concepts(classifier: Classifier, masks: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Map each concept to the classes whose object it is: for ImageNet by a table, otherwise by name."""
    table = classes_by_object() if tuple(classifier.classes) == tuple(imagenet_classes()) else {}
    classes = set(classifier.classes)
    found = {}
    for concept in masks:
        named = [name for name in (concept, concept.replace("_", " ")) if name in classes]
        listed = table.get(concept, named)
        if listed:
            found[concept] = list(listed)
    return found


def _rules(probed: Probe, per_class: bool) -> pd.DataFrame:
    """Tabulate the rules, followed by the suspicions: concepts with an effect that is not significant."""
    keys = ["class", "concept"] if per_class else ["concept"]
    rules = probed.rules(pooled=not per_class).assign(significant=True)
    all_effects = probed.rules(fdr=1, least_effect=0, pooled=not per_class).assign(significant=False)
    known = set(rules[keys].itertuples(index=False, name=None))
    is_new = [pair not in known for pair in all_effects[keys].itertuples(index=False, name=None)]
    suspicions = all_effects[is_new].sort_values("effect", ascending=False, kind="stable")
    parts = [part for part in (rules, suspicions) if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else rules
    names = probed.concepts.data.names
    evidence = [tuple(names[number] for number in numbers) for numbers in table["evidence"]]
    return table.assign(evidence=evidence).drop(columns="classifier")


def select_exemplar(classifier: Classifier, concepts: Concepts, rule: Mapping[str, object]) -> Exemplar:
    """Make an exemplar of a rule from the first image of its evidence that is misclassified after the replacement.

    Args:
        classifier: the classifier.
        concepts: the probed images, the masks and the materials.
        rule: a row of `Probe.rules`.

    Returns:
        The exemplar, with the first variant of the material that leads to a misclassification.

    Raises:
        ValueError: if the first `EXEMPLARS_TRIED` images are classified correctly in every variant.
    """
    variants = len(concepts.styles[rule["style"]])
    numbers = list(rule["evidence"])[:EXEMPLARS_TRIED]
    for place, number in enumerate(numbers):
        label = int(concepts.data.labels[number])
        of_image = {**rule, "class": concepts.data.classes[label]}
        exemplars = [concepts.exemplar(of_image, variant, place) for variant in range(variants)]
        changed = torch.stack([exemplar.changed for exemplar in exemplars])
        is_wrong = misclassified(predict(classifier, changed), torch.full((variants,), label))
        if is_wrong.any():
            return exemplars[int(is_wrong.nonzero()[0])]
    raise ValueError(
        f"{len(numbers)} images are classified correctly when {rule['concept']!r} is replaced by {rule['style']!r}, "
        "although less surely; an edit has no mistake to correct"
    )


def _sets_to_repair(
    audit: Audit, exemplar: Exemplar, clean: str | PathLike | None, retain: str | PathLike | None
) -> dict[str, LabelledImages | None]:
    """Return the arguments `failing`, `clean` and `retain` of `repair`; failing images have the concept replaced."""
    concepts = audit.concepts
    classifier = audit.classifier
    rule = audit.rule
    is_correct = ~misclassified(predict(classifier, concepts.data), concepts.data.labels)
    is_exemplar = (concepts.data.images == exemplar.image).flatten(1).all(dim=1)
    shows_concept = shows(concepts.masks[rule["concept"]])
    numbers = (is_correct & shows_concept & ~is_exemplar).nonzero()[:, 0].tolist()
    failing = concepts.turned(numbers, rule["concept"], rule["style"])
    retained = None
    if retain is not None:
        retained, _ = read_folder(retain, classifier)
    elif rule["style"] in concepts.masks:
        is_retained = is_correct & shows(concepts.masks[rule["style"]]) & ~shows_concept & ~is_exemplar
        if int(is_retained.sum()) > 1:
            retained = concepts.data.subset(is_retained)
    if clean is not None:
        clean_images, _ = read_folder(clean, classifier)
    else:
        taken = set() if retained is None or retain is not None else set(retained.names)
        taken.add(concepts.data.names[int(is_exemplar.nonzero()[0])])
        clean_images = audit.data.subset([i for i, name in enumerate(audit.data.names) if name not in taken])
    return {"failing": failing, "clean": clean_images, "retain": retained}
