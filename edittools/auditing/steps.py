"""The steps that every audit consists of: read the folder, and repair."""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike, fspath

from edittools._paths import printable
from edittools._progress import Progress, Tell
from edittools.auditing.finding import Finding
from edittools.auditing.result import Audit
from edittools.auditing.sheet_file import sheet_digest
from edittools.classifiers import Classifier, fingerprint
from edittools.folders import read_folder
from edittools.images import LabelledImages
from edittools.scenes import first_of_each, scenes_of
from edittools.selection.repair import repair
from edittools.verdict import Check

LEAST_AUDITED = 5
"""Fewer images are not audited."""


def read_told(
    folder: str | PathLike,
    classifier: Classifier,
    tell: Tell,
    progress: Progress | None,
    *,
    labeled: bool = True,
    lazy: bool = False,
) -> tuple[LabelledImages, list[str]]:
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
) -> Audit:
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
    return Audit(classifier, data, left_out, repeats, weights=weights, digest=sheet_digest(classifier, data))


def repaired(
    audit: Audit,
    finding: Finding,
    checks: Sequence[Check],
    layers: Sequence[str] | None,
    progress: Progress | None,
) -> Audit:
    """Add a repair to an audit.

    Args:
        finding: what is repaired, and the images that measure it.
        checks: checks of the audit, which come before those of `repair`.

    Raises:
        ValueError: if nothing can be repaired with these images.
    """
    fix = repair(
        audit.classifier,
        finding.exemplar,
        finding.images,
        concept=finding.concept,
        clean=finding.clean,
        retain=finding.retain,
        layers=layers,
        progress=progress,
    )
    for check in reversed(checks):
        fix = fix.with_check(check)
    return replace(audit, fix=fix)


def not_repaired(audit: Audit, reason: ValueError | str) -> Audit:
    """Note why nothing was repaired; the reason becomes a sentence."""
    text = str(reason)
    return replace(audit, note=f"Nothing was repaired. {text[:1].upper()}{text[1:].rstrip('.')}.")
