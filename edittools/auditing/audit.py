"""Audit a folder of images: show what carries each class, and repair a mark that does not belong to its class."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from tqdm.auto import tqdm

from edittools._progress import Progress, Tell
from edittools.auditing.marks import examine
from edittools.auditing.picked import check_row, group_of, label_and_number
from edittools.auditing.result import Audit
from edittools.auditing.results_folder import SHEET, check_out
from edittools.auditing.sheet_file import load_sheet
from edittools.auditing.steps import read_photos, read_told, repair_mark
from edittools.auditing.windows import contact_sheet
from edittools.classifiers import Classifier
from edittools.reports.words import not_repaired


def audit_folder(
    folder: str | PathLike,
    classifier: Classifier,
    *,
    repair: str | None = None,
    clean: str | PathLike | None = None,
    retain: str | PathLike | None = None,
    masks_checked: bool = False,
    layers: Sequence[str] | None = None,
    out: str | PathLike | None = None,
    overwrite: bool = False,
    callback: Tell | None = None,
    progress: Progress | None = tqdm,
) -> Audit:
    """Show what carries each class in a folder of images; on request, repair a window.

    The contact sheet shows windows of photos that turn other photos into their class, see `contact_sheet`. A person
    looks at it, and says what does not belong. With `repair`, this mark is tested on new photos, see `confirm`, and
    `repair` selects an edit, with the photos of the folder that hold the mark as images with the concept.

    Copies of an image and frames of one scene count once: the first one of each is used.

    Args:
        folder: folder of images, with one subfolder per class; images outside of a subfolder are labeled by the current
            prediction.
        classifier: the classifier; it is not changed.
        repair: the windows of the contact sheet that do not belong to their class, such as "garbage truck:1" for the
            first ones of this class; a person has looked at the sheet of the same folder.
        clean: folder of images whose accuracy must not drop, at least 100 of different scenes, of which half select the
            edit; those that show the scene of an image with the mark are left out. By default, the other images of
            `folder`.
        retain: folder of images that rely on the mark legitimately.
        masks_checked: your statement that a person has looked at the photos in which the mark was found, which the
            report repeats. Without it, the verdict is at most "unclear".
        layers: names of the layers to edit, see `repair`.
        out: the folder in which the results will be written (`Audit.write`), which must be new or empty. Only a repair
            goes on in the folder of an audit of the same photos and classifier, with the contact sheet that is there.
        overwrite: whether `out` may hold other files.
        callback: is called before each step with a description of the step.
        progress: a class like `tqdm.tqdm`, for bars; None for no bars.

    Returns:
        The audit: the contact sheet, and the repair of the windows. If nothing was repaired, its `fix` is None, and its
        `note` says so.

    Raises:
        FileExistsError: if `out` is another folder that is not empty, without `overwrite`.
        FileNotFoundError: if there is no such folder.
        ValueError: if there are too few images, or fewer than two classes with enough of them; or if `repair` names no
            window of the contact sheet.
    """
    picked = None if repair is None else label_and_number(repair, classifier)
    tell = callback or (lambda step: None)
    photos = read_photos(folder, classifier, tell, progress)
    clean_images, retained_images = (
        None if path is None or picked is None else read_told(path, classifier, tell, progress)[0]
        for path in (clean, retain)
    )
    if picked is not None:
        check_row(repair, picked[0], photos.data)
    sheet = None
    if out is not None:
        results = Path(out).expanduser()
        if picked is not None:
            sheet = load_sheet(results / SHEET, photos.data, photos.digest)
        if sheet is None:
            check_out(results, overwrite)
    if sheet is None:
        tell(f"Pasting windows of {len(photos.data)} images into others")
        sheet = contact_sheet(classifier, photos.data, progress=progress)
    if picked is None:
        return Audit(classifier, photos, sheet)
    group = group_of(repair, *picked, sheet)
    tell(f"Repairing {repair!r}")
    mark = examine(classifier, sheet, group, progress=progress)
    try:
        fix = repair_mark(classifier, sheet, mark, clean_images, retained_images, masks_checked, layers, progress)
    except ValueError as error:
        return Audit(classifier, photos, sheet, mark, note=not_repaired(error))
    return Audit(classifier, photos, sheet, mark, fix)
