"""Repair a classifier from files: an exemplar of three images, a folder of ordinary images, and labeled folders."""

from os import PathLike, fspath
from pathlib import Path

from tqdm.auto import tqdm

from edittools._progress import Progress, Tell
from edittools.auditing.results_folder import DATA, EDIT, REPORT, WEIGHTS, check_out, results_in
from edittools.auditing.steps import read_told
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.image_files import load_image, load_mask, photo_size
from edittools.reports import report_paths, save_report
from edittools.selection.assessment import Assessment
from edittools.selection.repair import repair
from edittools.selection.splits import FAILURES, SAMPLE
from edittools.verdict import DO_NOT_USE

TITLE = "A repair of {classifier}"
"""The heading of the report."""


def load_exemplar(
    image: str | PathLike, changed: str | PathLike, mask: str | PathLike, classifier: Classifier
) -> Exemplar:
    """Load an exemplar from three files of the same size in pixels.

    Args:
        image: x, an image file.
        changed: x', an image file.
        mask: the mask, white where both differ.
        classifier: gives the size to which all three are resized and cropped.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the files have different sizes, if the mask is empty, or if they are no exemplar.
    """
    height, width = photo_size(image)
    for path in (changed, mask):
        other_height, other_width = photo_size(path)
        if (other_height, other_width) != (height, width):
            raise ValueError(
                f"{fspath(image)!r} has {width} × {height} pixels, but {fspath(path)!r} has {other_width} × "
                f"{other_height}; save x, x' and the mask at the same size"
            )
    is_masked = load_mask(mask, classifier)
    if not is_masked.any():
        raise ValueError(f"the mask {fspath(mask)!r} is empty; paint the part that misleads white")
    return Exemplar(load_image(image, classifier), load_image(changed, classifier), is_masked)


def repair_from_files(
    folder: str | PathLike,
    classifier: Classifier,
    exemplar: Exemplar,
    *,
    concept: str | PathLike | None = None,
    clean: str | PathLike | None = None,
    retain: str | PathLike | None = None,
    failures: bool = False,
    callback: Tell | None = None,
    progress: Progress | None = tqdm,
) -> Assessment:
    """Select an edit by the images of a folder, and measure it on labeled folders, see `repair`.

    Images are read when they are used, so folders may be larger than the memory: at most a thousand ordinary images are
    in memory at once, and a batch of the labeled ones.

    Args:
        folder: ordinary images, whose subfolders are not used as labels.
        concept: images that show the concept, right and wrong, in one subfolder per class.
        clean: images whose accuracy should not drop.
        retain: images that rely on the concept legitimately.
        failures: whether the images with the concept were chosen because they are misclassified.
        callback: is called before each step, and with a line for each file that is left out.
    """
    tell = callback or (lambda step: None)
    images, _ = read_told(folder, classifier, tell, progress, labeled=False, lazy=True)
    concept_images, clean_images, retained_images = (
        None if path is None else read_told(path, classifier, tell, progress, lazy=True)[0]
        for path in (concept, clean, retain)
    )
    tell("Selecting an edit without labels")
    return repair(
        classifier,
        exemplar,
        images.images,
        concept=concept_images,
        clean=clean_images,
        retain=retained_images,
        source=FAILURES if failures else SAMPLE,
        progress=progress,
    )


def write_repair(fix: Assessment, folder: str | PathLike, overwrite: bool = False) -> list[Path]:
    """Write `report.html`, `report.json`, `edit.safetensors`, and `weights.safetensors`, the edited weights.

    If the verdict is "do not use", no weights are written. Files are written once all of them are complete.

    Args:
        folder: folder for the files, which must be new or empty.
        overwrite: whether it may hold files, of which those of the same names are replaced.

    Returns:
        The paths of the files.

    Raises:
        FileExistsError: if the folder is not empty, without `overwrite`.
    """
    root = Path(folder).expanduser()
    check_out(root, overwrite)
    title = TITLE.format(classifier=type(fix.classifier.model).__name__)
    names = [REPORT, DATA, EDIT]
    with results_in(root) as temporary:
        save_report(fix.page(title), fix.report_data(title), report_paths(temporary / REPORT))
        fix.edit.save(temporary / EDIT)
        if fix.verdict.word != DO_NOT_USE:
            fix.edit.export(fix.classifier, temporary / WEIGHTS)
            names.append(WEIGHTS)
    return [root / name for name in names]
