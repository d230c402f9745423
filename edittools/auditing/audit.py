"""Audit a folder of images: show what carries each class; find concepts that predictions rely on, and repair."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path, PurePath

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from edittools._checks import one_of
from edittools._progress import Progress
from edittools.auditing.direction import (
    DIRECTIONS,
    MISLEADS,
    ask_for_direction,
    count_errors,
    misleading_exemplar,
    shown_photos,
)
from edittools.auditing.marks import (
    check_row,
    check_window,
    confirmation_check,
    examine,
    group_of,
    places_check,
    sets_of_mark,
)
from edittools.auditing.masks import read_masks
from edittools.auditing.result import Audit, remove_results, write_rules
from edittools.auditing.windows import classes_to_show, contact_sheet
from edittools.classifiers import Classifier, fingerprint
from edittools.exemplars import Exemplar
from edittools.folders import read_folder
from edittools.image_files import load_image
from edittools.images import LabelledImages
from edittools.metrics import misclassified, predict, predicted_classes
from edittools.models.imagenet import classes_by_object
from edittools.probing.counterfactuals import LEAST_AREA, Concepts, shows, with_materials
from edittools.probing.effects import LEAST_EFFECT, LEAST_IMAGES, Probe
from edittools.probing.probe import ProbeSettings, probe
from edittools.probing.segmentation import Finder, Gated, cached, deeplab
from edittools.scenes import first_of_each, scenes_of, without_scenes
from edittools.selection.repair import repair as repair_model
from edittools.selection.verdict import UNCLEAR, Check

LEAST_PROBED = 5
"""A concept that is shown by fewer images is not probed."""

EXEMPLARS_TRIED = 10
"""The number of images of a rule's evidence that are tried as the exemplar."""

TEXTURES_TRIED = 2
"""The number of textures of a rule's material that are tried in an exemplar; they were cut from the largest areas."""

STREET = ("road", "grass", "sky", "building", "tree")
"""The concepts that the default segmenter finds in addition to the things of Pascal VOC."""


def audit_folder(
    folder: str | PathLike,
    classifier: Classifier,
    *,
    repair: str | None = None,
    concepts: bool = False,
    clean: str | PathLike | None = None,
    retain: str | PathLike | None = None,
    masks: str | PathLike | None = None,
    find: Finder | None = None,
    masks_checked: bool = False,
    direction: str | None = None,
    material: str | PathLike | None = None,
    out: str | PathLike | None = None,
    layers: Sequence[str] | None = None,
    callback: Callable[[str], None] | None = None,
    progress: Progress | None = tqdm,
) -> Audit:
    """Show what carries each class in a folder of images; on request, repair a window, or find concepts and repair.

    The contact sheet shows windows of photos that turn other photos into their class, see `contact_sheet`. A person
    looks at it, and says what does not belong. With `repair`, this mark is tested on new photos, see `confirm`, and
    `repair` selects an edit, with the photos of the folder that hold the mark as images with the concept.

    With `concepts`, each image is also changed: a *concept* is something that images show and that masks mark, such as
    the road. One concept of an image at a time is replaced by another *material*, such as snow, and the image is
    classified again. A concept is a *rule* if predictions depend on it significantly more than on a control. For the
    strongest rule, an exemplar is made from one of its images, and `repair` selects an edit. Whether the concept
    misleads, or its class is missed without it, is decided by where the errors are, see `direction`.

    Copies of an image and frames of one scene count once: the first one of each is used.

    Args:
        folder: folder of images, with one subfolder per class; images outside of a subfolder are labeled by the current
            prediction.
        classifier: the classifier; it is not changed.
        repair: the windows of the contact sheet that do not belong to their class, such as "garbage truck:1" for the
            first ones of this class; a person has looked at the sheet of the same folder. `clean`, `retain`, and
            `layers` concern this repair as well, and `masks_checked` then says that a person has looked at the photos
            in which the mark was found.
        concepts: whether concepts are probed; they are in any case if `masks` or `find` is given. All following
            arguments but `callback` and `progress` concern this part.
        clean: folder of images whose accuracy must not drop; by default the original images of `folder`, without the
            exemplar and without the retained images that were taken from `folder`.
        retain: folder of images that rely on the material legitimately. By default, these are the original images of
            `folder` that are classified correctly and show the concept from which the material was cut (with
            `material`, a concept with the name of that file), but not the replaced concept; none if fewer than two
            images qualify.
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
        out: folder for intermediate and final results: parts of the probe and `rules.csv`. A later call with the same
            folder continues from there; it removes the edit of an earlier call, and the report with its data.
        layers: names of the layers to edit, see `repair`.
        callback: is called before each step with a description of the step.
        progress: a class like `tqdm.tqdm`, for bars; None for no bars.

    Returns:
        The audit: the contact sheet, the concepts, the rules, and the repair of the strongest rule or of the windows.
        If nothing was repaired, its `fix` is None, and its `note` says so.

    Raises:
        FileNotFoundError: if there is no such folder, or if the weights of the segmenter are not available.
        ModuleNotFoundError: if a package of the segmenter is not installed.
        ValueError: if there are too few images, if none of them shows a concept, or if no concepts are probed and there
            is no contact sheet, since the images show a single class or too few of each; or if `repair` names no
            window of the contact sheet, or is passed together with concepts; or if a direction is passed without
            concepts, or is "misleads" while all labels are predictions.
    """
    probes = concepts or masks is not None or find is not None
    picked = None
    if repair is not None:
        if probes:
            raise ValueError(
                f"repair={repair!r} repairs a window of the contact sheet, and concepts, masks, and find a rule; audit "
                "once for each"
            )
        picked = check_window(repair, classifier)
    if direction is not None:
        one_of(direction, DIRECTIONS, "direction")
        if not probes:
            raise ValueError(f"direction={direction!r} concerns concepts; pass concepts=True, masks, or find")
    tell = callback or (lambda step: None)
    tell(f"Reading {fspath(folder)}")
    everything, unread = read_folder(folder, classifier, progress)
    for line in unread:
        tell(f"left out: {line}")
    is_first = first_of_each(scenes_of(everything))
    data = everything.subset(is_first)
    repeats = everything.subset(~is_first).names
    if len(data) < LEAST_PROBED:
        raise ValueError(
            f"{fspath(folder)!r} holds {len(data)} images that can be used; pass at least {LEAST_PROBED}, better "
            "hundreds"
        )
    if picked is not None:
        check_row(repair, picked[0], data)
    is_labeled = labels_given(data)
    if direction == MISLEADS and not is_labeled.any():
        raise ValueError(
            f"direction={direction!r} needs photos that are known to be misclassified, but all labels are predictions; "
            "put the images into subfolders named after their classes"
        )
    root = None if out is None else Path(out).expanduser()
    audit = Audit(classifier, data, unread, repeats, weights=fingerprint(classifier.model))
    if probes:
        tell("Finding concepts")
        found, unused = _find_concepts(data, classifier, folder, masks, find, progress)
        common, rare = _common(found, [*unread, *unused])
        probed_concepts, settings = concepts_to_probe(data, common, classifier, material)
        if direction == MISLEADS:  # the class that a concept argues for is the one that is predicted
            settings = replace(settings, labels="read")
        audit = replace(audit, left_out=[*unread, *unused], rare=rare, concepts=probed_concepts)
        for line in unused:
            tell(f"left out: {line}")
    if not probes or classes_to_show(data.labels):
        tell(f"Pasting windows of {len(data)} images into others")
        audit = replace(audit, sheet=contact_sheet(classifier, data, progress=progress))
    if picked is not None:
        group = group_of(repair, *picked, audit.sheet)
    if root is not None:
        remove_results(root)
    if picked is not None:
        tell(f"Repairing {repair!r}")
        audit = replace(audit, mark=examine(classifier, audit.sheet, group, progress=progress))
        return _repair_mark(audit, clean, retain, layers, masks_checked, progress)
    if not probes:
        return audit
    store = None if root is None else root / "parts"
    tell(f"Probing {len(probed_concepts.data)} images for {', '.join(settings.only or probed_concepts.masks)}")
    probed = probe(classifier, probed_concepts, settings, store=store, progress=progress)
    labels = data.labels if direction != MISLEADS else predicted_classes(predict(classifier, data))
    per_class = int(labels.bincount().max()) >= probed.least_images
    rules = _rules(probed, per_class)
    tested = _tested_concepts(probed, per_class)
    rule, is_rule = None, False
    if len(rules):
        rule, is_rule = probed.strongest_rule(pooled=not per_class)
        rule["per class"] = per_class
    if root is not None:
        write_rules(rules, root)
    audit = replace(audit, probe=probed, tested=tested, rules=rules, rule=rule, is_rule=is_rule)
    if not is_rule:
        return replace(audit, note="Nothing was repaired.")
    if direction is None:
        errors = count_errors(classifier, probed, probed_concepts, rule, is_labeled)
        audit = replace(audit, errors=errors)
        if errors.direction is None:
            return replace(audit, note=f"Nothing was repaired. {ask_for_direction(errors, rule)}")
        direction = errors.direction
    audit = replace(audit, direction=direction)
    tell(f"Repairing {rule['concept']!r}")
    try:
        if direction == MISLEADS:
            exemplar = misleading_exemplar(
                classifier, probed_concepts, rule, is_labeled, TEXTURES_TRIED, EXEMPLARS_TRIED
            )
            sets = _sets_if_it_misleads(audit, exemplar, is_labeled, clean, retain)
        else:
            exemplar = select_exemplar(classifier, probed_concepts, rule)
            sets = _sets_to_repair(audit, exemplar, clean, retain)
        fix = repair_model(classifier, exemplar, **sets, layers=layers, progress=progress)
    except ValueError as error:
        return replace(audit, note=f"Nothing was repaired. {_sentence(error)}")
    return replace(audit, fix=fix.with_check(masks_check(masks_checked)))


def _repair_mark(
    audit: Audit,
    clean: str | PathLike | None,
    retain: str | PathLike | None,
    layers: Sequence[str] | None,
    checked: bool,
    progress: Progress | None,
) -> Audit:
    """Repair the mark of an audit, or note why nothing was repaired; the arguments are those of `audit_folder`."""
    mark = audit.mark
    name = audit.classifier.classes[mark.group.label]
    if mark.exemplar is None:
        return replace(audit, note=f"Nothing was repaired. No photo without the mark becomes {name!r} with it.")
    try:
        sets = sets_of_mark(mark, audit.sheet, audit.classifier, labels_given(audit.data), clean, retain)
        fix = repair_model(audit.classifier, mark.exemplar, **sets, layers=layers, progress=progress)
    except ValueError as error:
        return replace(audit, note=f"Nothing was repaired. {_sentence(error)}")
    fix = fix.with_check(places_check(checked)).with_check(confirmation_check(mark, name))
    return replace(audit, fix=fix)


def _sentence(error: ValueError) -> str:
    """Write an error message as a sentence."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def labels_given(data: LabelledImages) -> Tensor:
    """Tell which labels are given, since the image lies in a subfolder; others are predictions, `(N,)` booleans."""
    return torch.tensor([len(PurePath(name).parts) > 1 for name in data.names])


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


def _find_concepts(
    data: LabelledImages,
    classifier: Classifier,
    folder: str | PathLike,
    masks: str | PathLike | None,
    find: Finder | None,
    progress: Progress | None,
) -> tuple[dict[str, Tensor], list[str]]:
    """Read or find the masks of concepts.

    Returns:
        The masks, by concept, and one line per file or annotation that was left out.
    """
    if masks is not None:
        return read_masks(masks, data.names, classifier, folder)
    return _find(data.images, find, progress), []


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
        if count >= LEAST_PROBED:
            common[concept] = concept_masks
        else:
            rare[concept] = count
    if not common:
        counts = "".join(f"; {concept!r} is shown by {count}" for concept, count in rare.items())
        example = f"; left out: {left_out[0]}" if left_out else ""
        raise ValueError(
            f"no concept is shown by {LEAST_PROBED} images on {LEAST_AREA:.0%} of their area or more{counts}{example}; "
            "pass more images, or masks"
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

    Args:
        progress: a class like `tqdm.tqdm`, for bars.

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
        direction: "misleads" if the concept itself misleads, as a tag does: x' of the exemplar is then a photo with the
            concept, and the images with the concept are the photos that show it; their labels must be given. "missed"
            if predictions may rely on the concept, and fail without it: x' is then a photo in which it is replaced, as
            are the images with the concept. By default, a sign test over the errors in photos whose labels are given
            decides (`count_errors`); if it does not, nothing is repaired, and the note asks for a direction.
        material: image file of the material that replaces concepts. By default, materials are cut from the images, and
            each image has two textures of each; one if no class has enough images for a rule of its own, since all
            images are then tested together and each texture counts once.

    Returns:
        The concepts, and how to probe them.

    Raises:
        ValueError: if the material is the only concept.
    """
    objects = _classes_of_concepts(classifier, masks)
    least = min(LEAST_IMAGES, max(LEAST_PROBED, len(data) // 10))
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


def select_exemplar(classifier: Classifier, concepts: Concepts, rule: Mapping[str, object]) -> Exemplar:
    """Make an exemplar of a rule from the first image of its evidence that is misclassified after the replacement.

    Args:
        classifier: the classifier.
        concepts: the probed images, the masks and the materials.
        rule: a row of `Probe.rules`.

    Returns:
        The exemplar, with the first of `TEXTURES_TRIED` variants of the material that leads to a misclassification.

    Raises:
        ValueError: if the first `EXEMPLARS_TRIED` images are classified correctly in each of these variants.
    """
    variants = min(TEXTURES_TRIED, len(concepts.styles[rule["style"]]))
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
    """Return the arguments `concept`, `clean` and `retain` of `repair`.

    The images with the concept are those in which it was replaced, right and wrong.
    """
    concepts = audit.concepts
    classifier = audit.classifier
    rule = audit.rule
    is_correct = ~misclassified(predict(classifier, concepts.data), concepts.data.labels)
    is_exemplar = (concepts.data.images == exemplar.image).flatten(1).all(dim=1)
    shows_concept = shows(concepts.masks[rule["concept"]])
    numbers = (is_correct & shows_concept & ~is_exemplar).nonzero()[:, 0].tolist()
    replaced = concepts.turned(numbers, rule["concept"], rule["style"])
    retained = None
    if retain is not None:
        retained = without_scenes(read_folder(retain, classifier)[0], concepts.data.subset(is_exemplar))
    elif rule["style"] in concepts.masks:
        is_retained = is_correct & shows(concepts.masks[rule["style"]]) & ~shows_concept & ~is_exemplar
        if int(is_retained.sum()) > 1:
            retained = concepts.data.subset(is_retained)
    if clean is not None:
        clean_images = without_scenes(read_folder(clean, classifier)[0], concepts.data.subset(is_exemplar))
    else:
        taken = set() if retained is None or retain is not None else set(retained.names)
        taken.add(concepts.data.names[int(is_exemplar.nonzero()[0])])
        clean_images = audit.data.subset([i for i, name in enumerate(audit.data.names) if name not in taken])
    return {"concept": replaced, "clean": clean_images, "retain": retained}


def _sets_if_it_misleads(
    audit: Audit,
    exemplar: Exemplar,
    is_labeled: Tensor,
    clean: str | PathLike | None,
    retain: str | PathLike | None,
) -> dict[str, LabelledImages | None]:
    """Return the arguments `concept`, `clean` and `retain` of `repair` for a concept that misleads.

    The images with the concept are the photos that show it, right and wrong; clean images do not show it.
    """
    data = audit.concepts.data
    of_exemplar = data.subset((data.images == exemplar.changed).flatten(1).all(dim=1))
    retained = None
    if retain is not None:
        retained = without_scenes(read_folder(retain, audit.classifier)[0], of_exemplar)
    if clean is not None:
        clean_images = without_scenes(read_folder(clean, audit.classifier)[0], of_exemplar)
    else:
        clean_images = data.subset(~shows(audit.concepts.masks[audit.rule["concept"]]))
    return {
        "concept": shown_photos(audit.concepts, audit.rule, is_labeled, exemplar),
        "clean": clean_images,
        "retain": retained,
    }
