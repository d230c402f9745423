"""The first and the last step of an audit: read the photos, and repair a mark."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike, fspath

from edittools._paths import printable
from edittools._progress import Progress, Tell
from edittools._storage import digest_tensors
from edittools.auditing.marks import Mark, confirmation_check, images_of_mark, places_check
from edittools.auditing.sheet import ContactSheet
from edittools.auditing.sheet_file import sheet_digest
from edittools.classifiers import Classifier, fingerprint
from edittools.folders import read_folder
from edittools.images import LabeledImages, in_batches
from edittools.scenes import first_of_each, scenes_of
from edittools.selection.assessment import Assessment
from edittools.selection.repair import repair

LEAST_AUDITED = 5
"""Fewer images are not audited."""


@dataclass(frozen=True, eq=False)
class AuditedPhotos:
    """The photos of a folder that are audited.

    Attributes:
        data: the images, without copies and with one image per scene.
        left_out: one line per file that was left out, and per image whose scene another class shows.
        repeats: names of the images that were not used, since others of their class show the same scene.
        weights: the `fingerprint` of the weights that are audited.
        images_digest: a hash of the images.
        digest: that of the classifier and the images, by which a later repair recognizes the contact sheet.
    """

    data: LabeledImages
    left_out: Sequence[str] = field(repr=False)
    repeats: Sequence[str] = field(repr=False)
    weights: str = field(repr=False)
    images_digest: str = field(repr=False)
    digest: str = field(repr=False)


def read_told(
    folder: str | PathLike,
    classifier: Classifier,
    tell: Tell,
    progress: Progress | None,
    *,
    labeled: bool = True,
    lazy: bool = False,
) -> tuple[LabeledImages, list[str]]:
    """Read the images of a folder, see `read_folder`; say so before, and which files were left out after."""
    tell(f"Reading {printable(folder)}")
    images, left_out = read_folder(folder, classifier, progress, labeled=labeled, lazy=lazy)
    for line in left_out:
        tell(f"left out: {line}")
    return images, left_out


def read_photos(
    folder: str | PathLike,
    classifier: Classifier,
    tell: Tell,
    progress: Progress | None,
) -> AuditedPhotos:
    """Read the images of a folder, one per scene; the arguments are those of `audit_folder`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there are too few images.
    """
    images, left_out = read_told(folder, classifier, tell, progress)
    scenes = scenes_of(images)
    is_first = first_of_each(scenes)
    first = is_first.nonzero()[:, 0][scenes]  # the image that stands for the scene of each image
    is_given = images.is_labeled & images.is_labeled[first]
    contradicts = (images.labels != images.labels[first]) & is_given
    for number in contradicts.nonzero()[:, 0].tolist():
        other = images.names[int(first[number])]
        left_out.append(f"{images.names[number]}: the same scene as {other}, which is in another class")
        tell(f"left out: {left_out[-1]}")
    data = images.subset(is_first)
    if len(data) < LEAST_AUDITED:
        raise ValueError(
            f"{fspath(folder)!r} holds {len(images)} images that can be used, of {len(data)} scenes; pass images of at "
            f"least {LEAST_AUDITED} scenes, better hundreds. Images that are almost the same count as one scene"
        )
    repeats = images.subset(~is_first & ~contradicts).names
    weights = fingerprint(classifier.model)
    images_digest = digest_tensors(in_batches(data))
    digest = sheet_digest(classifier, images_digest, data.labels)
    return AuditedPhotos(data, left_out, repeats, weights, images_digest, digest)


def repair_mark(
    classifier: Classifier,
    sheet: ContactSheet,
    mark: Mark,
    clean: LabeledImages | None,
    retain: LabeledImages | None,
    masks_checked: bool,
    layers: Sequence[str] | None,
    progress: Progress | None,
) -> Assessment:
    """Repair a mark of a contact sheet; the arguments are those of `audit_folder`.

    Returns:
        The assessment of the edit, whose first checks are those of the mark.

    Raises:
        ValueError: if nothing can be repaired with these images.
    """
    concept, others, retained = images_of_mark(mark, sheet, clean, retain)
    fix = repair(
        classifier,
        mark.exemplar,
        concept=concept,
        clean=others,
        retain=retained,
        layers=layers,
        progress=progress,
    )
    checks = (confirmation_check(mark, classifier.classes[mark.group.label]), places_check(masks_checked))
    return replace(fix, first_checks=checks)
