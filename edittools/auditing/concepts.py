"""Audit the concepts that masks mark: which of them do predictions rely on? The strongest rule is repaired."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from edittools._checks import one_of
from edittools._progress import Progress, Tell
from edittools.auditing.direction import (
    DIRECTIONS,
    MISLEADS,
    ask_for_direction,
    count_errors,
    misled_photos,
)
from edittools.auditing.finding import Finding, are_sources, names_of, read_without
from edittools.auditing.kept import PARTS
from edittools.auditing.masks import read_masks
from edittools.auditing.result import Audit
from edittools.auditing.steps import (
    LEAST_AUDITED,
    find_windows,
    labels_given,
    not_repaired,
    read_photos,
    repaired,
)
from edittools.auditing.windows import classes_to_show
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.image_files import load_image
from edittools.images import LabelledImages
from edittools.metrics import misclassified, predict, predicted_classes
from edittools.models.imagenet import classes_by_object
from edittools.probing.counterfactuals import LEAST_AREA, Concepts, shows, with_materials
from edittools.probing.effects import LEAST_EFFECT, LEAST_IMAGES, Probe
from edittools.probing.probe import ProbeSettings, probe
from edittools.probing.segmentation import Finder, Gated, cached, deeplab
from edittools.selection.select import EXEMPLAR
from edittools.selection.verdict import UNCLEAR, Check

EXEMPLARS_TRIED = 10
"""The number of images of a rule's evidence that are tried as the exemplar."""

TEXTURES_TRIED = 2
"""The number of textures of a rule's material that are tried in an exemplar; they were cut from the largest areas."""

STREET = ("road", "grass", "sky", "building", "tree")
"""The concepts that the default segmenter finds in addition to the things of Pascal VOC."""


def audit_concepts(
    folder: str | PathLike,
    classifier: Classifier,
    *,
    masks: str | PathLike | None = None,
    find: Finder | None = None,
    masks_checked: bool = False,
    direction: str | None = None,
    material: str | PathLike | None = None,
    clean: str | PathLike | None = None,
    retain: str | PathLike | None = None,
    layers: Sequence[str] | None = None,
    out: str | PathLike | None = None,
    callback: Tell | None = None,
    progress: Progress | None = tqdm,
) -> Audit:
    """Find the concepts that predictions rely on in a folder of images, and repair the strongest rule.

    A *concept* is something that images show and that masks mark, such as the road. One concept of an image at a time
    is replaced by another *material*, such as snow, and the image is classified again. A concept is a *rule* if
    predictions depend on it significantly more than on a control. For the strongest rule, an exemplar is made from one
    of its images, and `repair` selects an edit. Whether the concept misleads, or its class is missed without it, is
    decided by where the errors are, see `direction`.

    Copies of an image and frames of one scene count once: the first one of each is used.

    Args:
        folder: folder of images, with one subfolder per class; images outside of a subfolder are labeled by the current
            prediction.
        classifier: the classifier; it is not changed.
        masks: masks of the concepts, see `read_masks`. By default, `find` finds the concepts.
        find: a function that finds concepts in images, see `edittools.probing.segmentation`; by default DeepLab for
            street scenes and for the things of Pascal VOC.
        masks_checked: your statement that a person has looked at the masks, or that they are exact, which the report
            repeats. Without it, the verdict is at most "unclear", since neither files nor segmenters tell.
        direction: "misleads" if the concept itself misleads, as a tag does: x' of the exemplar is then a photo with the
            concept, and the images with the concept are the photos that show it; their labels must be given. "missed"
            if predictions may rely on the concept, and fail without it: x' is then a photo in which it is replaced, as
            are the images with the concept. By default, a sign test over the errors in photos whose labels are given
            decides (`count_errors`); if it does not, nothing is repaired, and the note asks for a direction.
        material: image file of the material that replaces concepts; a concept with the name of that file is not
            replaced. By default, concepts are replaced by the materials of other concepts, which are cut from the
            images themselves.
        clean: folder of images whose accuracy must not drop, at least 100 of different scenes, of which half define C;
            if the concept misleads, those that show the scene of an image with it are left out. By default, these are
            the original images of `folder`, without the exemplar, without the retained images that were taken from
            `folder`, and, if the concept misleads, without those that show it.
        retain: folder of images that rely on the material legitimately. By default, these are the original images of
            `folder` that are classified correctly and show the concept from which the material was cut (with
            `material`, a concept with the name of that file), but not the replaced concept; none if fewer than two
            images qualify.
        layers: names of the layers to edit, see `repair`.
        out: folder that keeps what was computed, in the subfolder `parts`. A later call with the same classifier and
            images goes on from there. For the results, see `Audit.write`.
        callback: is called before each step with a description of the step.
        progress: a class like `tqdm.tqdm`, for bars; None for no bars.

    Returns:
        The audit: the concepts, the rules, the repair of the strongest rule, and the contact sheet if there are enough
        images of each class. If nothing was repaired, its `fix` is None, and its `note` says so.

    Raises:
        FileNotFoundError: if there is no such folder, or if the weights of the segmenter are not available.
        ModuleNotFoundError: if a package of the segmenter is not installed.
        ValueError: if there are too few images, if none of them shows a concept, or if the direction is "misleads"
            while all labels are predictions.
    """
    if direction is not None:
        one_of(direction, DIRECTIONS, "direction")
    tell = callback or (lambda step: None)
    audit = read_photos(folder, classifier, clean, retain, tell, progress)
    if direction == MISLEADS and not labels_given(audit.data).any():
        raise ValueError(
            f"direction={direction!r} needs photos that are known to be misclassified, but all labels are predictions; "
            "put the images into subfolders named after their classes"
        )
    audit, settings = _find_concepts(audit, folder, masks, find, material, tell, progress)
    if direction == MISLEADS:  # the class that a concept argues for is the one that is predicted
        settings = replace(settings, labels="read")
    if classes_to_show(audit.data.labels):
        audit = find_windows(audit, out, tell, progress)
    audit = _find_rules(audit, settings, out, tell, progress)
    if not audit.is_rule:
        return replace(audit, note="Nothing was repaired.")
    audit = replace(audit, direction=direction) if direction is not None else _decide_direction(audit)
    if audit.direction is None:
        return not_repaired(audit, ask_for_direction(audit.errors, audit.rule))
    tell(f"Repairing {audit.rule['concept']!r}")
    return _repair_rule(audit, clean, retain, layers, masks_checked, progress)


def _find_concepts(
    audit: Audit,
    folder: str | PathLike,
    masks: str | PathLike | None,
    find: Finder | None,
    material: str | PathLike | None,
    tell: Tell,
    progress: Progress | None,
) -> tuple[Audit, ProbeSettings]:
    """Read or find the masks of concepts, and select materials and a control; see `audit_concepts`."""
    tell("Finding concepts")
    if masks is not None:
        found, unused = read_masks(masks, audit.data.names, audit.classifier, folder)
    else:
        found, unused = _find(audit.data.images, find, progress), []
    for line in unused:
        tell(f"left out: {line}")
    left_out = [*audit.left_out, *unused]
    common, rare = _common(found, left_out)
    concepts, settings = concepts_to_probe(audit.data, common, audit.classifier, material)
    return replace(audit, left_out=left_out, rare=rare, concepts=concepts), settings


def _find_rules(
    audit: Audit, settings: ProbeSettings, out: str | PathLike | None, tell: Tell, progress: Progress | None
) -> Audit:
    """Probe the concepts of an audit, and find the strongest rule; see `audit_concepts`."""
    store = None if out is None else Path(out).expanduser() / PARTS
    concepts = audit.concepts
    tell(f"Probing {len(concepts.data)} images for {', '.join(settings.only or concepts.masks)}")
    probed = probe(audit.classifier, concepts, settings, store=store, progress=progress)
    labels = audit.data.labels
    if settings.labels == "read":
        labels = predicted_classes(predict(audit.classifier, audit.data))
    per_class = int(labels.bincount().max()) >= probed.least_images
    rules = _rules(probed, per_class)
    rule, is_rule = None, False
    if len(rules):
        rule, is_rule = probed.strongest_rule(pooled=not per_class)
        rule["per class"] = per_class
    tested = _tested_concepts(probed, per_class)
    return replace(audit, probe=probed, tested=tested, rules=rules, rule=rule, is_rule=is_rule)


def _decide_direction(audit: Audit) -> Audit:
    """Let the errors decide which predictions are to be corrected, if they do."""
    errors = count_errors(audit.classifier, audit.probe, audit.concepts, audit.rule, labels_given(audit.data))
    return replace(audit, errors=errors, direction=errors.direction)


def _repair_rule(
    audit: Audit,
    clean: str | PathLike | None,
    retain: str | PathLike | None,
    layers: Sequence[str] | None,
    checked: bool,
    progress: Progress | None,
) -> Audit:
    """Repair the rule of an audit, or note why nothing was repaired; the arguments are those of `audit_concepts`."""
    find = finding_if_it_misleads if audit.direction == MISLEADS else finding_if_missed
    try:
        finding = find(audit, clean, retain)
        return repaired(audit, finding, [masks_check(checked)], layers, progress, select_by=EXEMPLAR)
    except ValueError as error:
        return not_repaired(audit, error)


def masks_check(checked: bool) -> Check:
    """Check that the masks were checked: without that, the verdict of an audit is at most "unclear".

    If the mask of a person covers a fish as well, the fish is replaced, too, and the audit finds a rule on persons that
    does not exist. No figure shows this, but a look at the replaced images does.

    Args:
        checked: whether the caller says that they were.
    """
    return Check(
        "the masks were checked",
        checked or None,
        "the caller says that the masks are right" if checked else "no person has looked at the masks",
        "Look at the exemplar: is the object still in it? And in the other replaced images? If it is, audit again with "
        "--masks-checked (masks_checked=True); if not, pass masks that do not cover it.",
        UNCLEAR,
    )


def _common(masks: Mapping[str, Tensor], left_out: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Select the concepts that enough images show.

    Args:
        masks: masks `(N, H, W)`, by concept.
        left_out: one line per file or annotation that was left out; the first one is quoted if no concept is left.

    Returns:
        The masks of these concepts; and of each other concept, the number of images that show it.

    Raises:
        ValueError: if too few images show each concept.
    """
    common = {}
    rare = {}
    for concept, concept_masks in masks.items():
        count = int(shows(concept_masks).sum())
        if count >= LEAST_AUDITED:
            common[concept] = concept_masks
        else:
            rare[concept] = count
    if not common:
        counts = "".join(f"; {concept!r} is shown by {count}" for concept, count in rare.items())
        example = f"; left out: {left_out[0]}" if left_out else ""
        raise ValueError(
            f"no concept is shown by {LEAST_AUDITED} images on {LEAST_AREA:.0%} of their area or more{counts}{example}"
            "; pass more images, or masks"
        )
    return common, rare


def _find(images: Tensor, find: Finder | None, progress: Progress | None) -> dict[str, Tensor]:
    """Find the concepts; if no segmenter is available, the error suggests passing masks instead."""
    try:
        finder = default_finder(progress) if find is None else find
        return finder(images)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        remedy = "or pass masks of the concepts (masks=, on the command line --masks)"
        raise type(error)(f"no segmenter: {error}; {remedy}") from error


def default_finder(progress: Progress | None = None) -> Finder:
    """Load the segmenters of street scenes and of the things of Pascal VOC, two files of 2 MB each.

    Returns:
        A function that finds both kinds of concepts in images.

    Raises:
        FileNotFoundError: if their weights are not available.
        ModuleNotFoundError: if their package is not installed.
    """
    pascal = replace(deeplab("pascal"), progress=progress)
    gated = cached(Gated(replace(deeplab("cityscapes", STREET), progress=progress), pascal))
    things = cached(pascal)

    def find(images: Tensor) -> dict[str, Tensor]:
        return {**things(images), **gated(images)}

    return find


def concepts_to_probe(
    data: LabelledImages, masks: Mapping[str, Tensor], classifier: Classifier, material: str | PathLike | None = None
) -> tuple[Concepts, ProbeSettings]:
    """Select the materials, the control that fits them, and the smallest number of images of a rule.

    Args:
        data: N images.
        masks: masks `(N, H, W)`, by concept.
        classifier: its class names tell which concepts are the object of a class.
        material: image file of the material that replaces concepts. By default, materials are cut from the images, and
            each image has two textures of each; one if no class has enough images for a rule of its own, since all
            images are then tested together and each texture counts once.

    Returns:
        The concepts, and how to probe them.

    Raises:
        ValueError: if the material is the only concept.
    """
    objects = _classes_of_concepts(classifier, masks)
    least = min(LEAST_IMAGES, max(LEAST_AUDITED, len(data) // 10))
    if material is None:
        per_image = 2 if int(data.labels.bincount().max()) >= least else 1
        settings = ProbeSettings(variants_per_image=per_image, control="in place", least_images=least)
        return with_materials(data, masks, objects=objects), settings
    name = Path(material).stem
    replaced = [concept for concept in masks if concept != name]
    if not replaced:
        raise ValueError(f"the material {name!r} is the only concept; pass masks of a concept that it replaces")
    concepts = Concepts(data, masks, {name: load_image(material)[None]}, objects)
    return concepts, ProbeSettings(only=replaced, least_images=least)


def _classes_of_concepts(classifier: Classifier, masks: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Map each concept to the classes whose object it is: those of its name, and those that a table of objects lists.

    Names are compared without case, and by each of the synonyms that a class name lists, as in "sports car, sport car".
    """
    table = classes_by_object()
    objects = {}
    for concept in masks:
        names = set().union(*(_synonyms(name) for name in (concept, *table.get(concept.casefold(), ()))))
        named = [class_name for class_name in classifier.classes if names & _synonyms(class_name)]
        if named:
            objects[concept] = named
    return objects


def _synonyms(name: str) -> set[str]:
    """Return the names that are separated by commas, in lower case and with spaces between their words."""
    return {" ".join(part.replace("_", " ").split()).casefold() for part in name.split(",")}


def _rules(probed: Probe, per_class: bool) -> pd.DataFrame:
    """Tabulate the rules, followed by the suspicions: other concepts with an effect above 0.

    The p- and q-values of both are those of the test that the effect exceeds `LEAST_EFFECT`.
    """
    keys = ["class", "concept"] if per_class else ["concept"]
    rules = probed.rules(pooled=not per_class).assign(significant=True)
    suspicions = probed.rules(fdr=1, least_effect=0, pooled=not per_class).assign(significant=False)
    known = set(rules[keys].itertuples(index=False, name=None))
    is_new = [pair not in known for pair in suspicions[keys].itertuples(index=False, name=None)]
    suspicions = suspicions.loc[is_new].sort_values("effect", ascending=False, kind="stable")
    tested = probed.effects(keys, "log-odds", LEAST_EFFECT, probed.least_images)
    suspicions = suspicions.drop(columns=["p", "q"]).merge(tested[[*keys, "p", "q"]], on=keys)[rules.columns]
    parts = [part for part in (rules, suspicions) if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else rules
    names = probed.concepts.data.names
    evidence = [tuple(names[number] for number in numbers) for numbers in table["evidence"]]
    return table.assign(evidence=evidence).drop(columns="classifier")


def _tested_concepts(probed: Probe, per_class: bool) -> list[str]:
    """List the concepts that enough images show for a test, in all classes together or in one class at least."""
    keys = ["class", "concept"] if per_class else ["concept"]
    effects = probed.effects(keys, "log-odds", LEAST_EFFECT, probed.least_images)
    return effects.loc[effects["q"].notna(), "concept"].unique().tolist()


def _exemplar_of_rule(audit: Audit, numbers: Sequence[int], misleads: bool) -> Exemplar | None:
    """Make an exemplar of a rule: a photo, and the photo with the concept replaced, one of which is misclassified.

    Args:
        audit: the audit, with its rule.
        numbers: the numbers of photos that show the concept; the first `EXEMPLARS_TRIED` are tried.
        misleads: whether x' is the photo, and x the replaced one, which must be classified correctly. Otherwise, x' is
            the replaced one, which must be misclassified.

    Returns:
        The exemplar, with the first of `TEXTURES_TRIED` variants of the material that does; None if none does.
    """
    concepts = audit.concepts
    data = concepts.data
    concept = audit.rule["concept"]
    material = audit.rule["material"]
    textures = [(material, variant) for variant in range(min(TEXTURES_TRIED, len(concepts.materials[material])))]
    for number in numbers[:EXEMPLARS_TRIED]:
        label = int(data.labels[number])
        replaced, _ = concepts.counterfactual(number, concept, textures, control=False)
        is_wrong = misclassified(predict(audit.classifier, replaced), torch.full((len(replaced),), label))
        fits = ~is_wrong if misleads else is_wrong
        if fits.any():
            photo = data.images[number]
            other = replaced[int(fits.nonzero()[0])]
            image, changed = (other, photo) if misleads else (photo, other)
            return Exemplar(image, changed, concepts.masks[concept][number], label, (names_of(data)[number],))
    return None


def finding_if_missed(audit: Audit, clean: str | PathLike | None, retain: str | PathLike | None) -> Finding:
    """Find an exemplar and the images of a repair if the class of a rule fails without its concept.

    The images with the concept are those in which it was replaced, right and wrong.
    """
    concepts = audit.concepts
    data = concepts.data
    rule = audit.rule
    evidence = list(rule["evidence"])
    exemplar = _exemplar_of_rule(audit, evidence, misleads=False)
    if exemplar is None:
        raise ValueError(
            f"{len(evidence[:EXEMPLARS_TRIED])} images are classified correctly when {rule['concept']!r} is replaced "
            f"by {rule['material']!r}, although less surely; an edit has no mistake to correct"
        )
    is_source = are_sources(exemplar, data)
    sources = data.subset(is_source)
    is_correct = ~misclassified(predict(audit.classifier, data), data.labels)
    shows_concept = shows(concepts.masks[rule["concept"]])
    numbers = (is_correct & shows_concept & ~is_source).nonzero()[:, 0].tolist()
    replaced = concepts.turned(numbers, rule["concept"], rule["material"])
    is_retained = torch.zeros(len(data), dtype=torch.bool)
    retained = read_without(retain, audit.classifier, sources)
    if retain is None and rule["material"] in concepts.masks:
        shows_material = shows(concepts.masks[rule["material"]])
        legitimate = is_correct & shows_material & ~shows_concept & ~is_source
        if int(legitimate.sum()) > 1:
            is_retained = legitimate
            retained = data.subset(is_retained)
    clean_images = read_without(clean, audit.classifier, sources)
    if clean_images is None:
        clean_images = data.subset(~is_source & ~is_retained)
    return Finding(exemplar, replaced, clean_images, retained)


def finding_if_it_misleads(audit: Audit, clean: str | PathLike | None, retain: str | PathLike | None) -> Finding:
    """Find an exemplar and the images of a repair if the concept of a rule misleads.

    The images with the concept are the photos that show it, right and wrong; clean images do not show it.
    """
    concepts = audit.concepts
    data = concepts.data
    is_labeled = labels_given(data)
    misled = misled_photos(audit.classifier, concepts, audit.rule, is_labeled)
    exemplar = _exemplar_of_rule(audit, misled, misleads=True)
    if exemplar is None:
        concept = repr(audit.rule["concept"])
        raise ValueError(
            f"{len(misled[:EXEMPLARS_TRIED])} photos of other classes with {concept} that are predicted as "
            f"{audit.rule['class']!r} were tried, and none is classified correctly when {concept} is replaced by "
            f"{audit.rule['material']!r}; add photos of other classes that show it, right and wrong, in subfolders "
            "named after their classes"
        )
    is_source = are_sources(exemplar, data)
    shows_concept = shows(concepts.masks[audit.rule["concept"]])
    clean_images = read_without(clean, audit.classifier, data.subset(shows_concept))
    if clean_images is None:
        clean_images = data.subset(~shows_concept)
    return Finding(
        exemplar,
        data.subset(shows_concept & is_labeled & ~is_source),
        clean_images,
        read_without(retain, audit.classifier, data.subset(is_source)),
    )
