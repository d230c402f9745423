"""The result of an audit: its summary, and the files that it writes."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from edittools._storage import atomic_path
from edittools.auditing.marks import Mark, confirmation_check
from edittools.auditing.results_folder import EDIT, REPORT, SHEET, WINDOWS, check_out, results_in
from edittools.auditing.sheet import NOT_SEEN, ContactSheet, describe
from edittools.auditing.sheet_file import save_sheet
from edittools.auditing.steps import AuditedPhotos
from edittools.classifiers import Classifier
from edittools.reports import Figure, data_uri, package_versions, plain, render, report_paths, save_report
from edittools.reports.words import (
    A_PERSON_SAYS,
    IF_ONE_IS_ODD,
    LOOK,
    MARK_CAPTIONS,
    NOT_REPAIRED,
    PAGE,
    check_words,
)
from edittools.selection.assessment import Assessment

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""Spreadsheets run a text that begins with one of these."""

MOST_FOUND = 120
"""The largest number of photos with the mark that a report shows, those of other classes first."""


@dataclass(frozen=True, eq=False)
class Audit:
    """The result of an audit.

    Attributes:
        classifier: the classifier.
        photos: the photos of the folder.
        sheet: the contact sheet.
        mark: the windows that a person picked from the contact sheet to be repaired; None if none were picked.
        fix: the result of `repair`; None if nothing was repaired.
        note: says that nothing was repaired, and why; empty if there is a repair, or if no window was picked.
    """

    classifier: Classifier = field(repr=False)
    photos: AuditedPhotos
    sheet: ContactSheet = field(repr=False)
    mark: Mark | None = field(default=None, repr=False)
    fix: Assessment | None = field(default=None, repr=False)
    note: str = ""

    def summary(self) -> str:
        """Return a text on the windows, the mark that was repaired, and the verdict, one sentence per line."""
        data = self.photos.data
        lines = [f"{len(data)} images of {data.labels.unique().numel()} classes were audited."]
        lines += [*self.sheet.findings(), "", *self.findings()]
        if self.fix is not None:
            lines += ["", self.fix.summary(PAGE)]
        return "\n".join(lines)

    def findings(self) -> list[str]:
        """Say what a person picked and what was left out, one sentence per entry."""
        lines = [IF_ONE_IS_ODD] if self.mark is None else self._describe_mark()
        if self.photos.repeats:
            lines.append(
                f"{len(self.photos.repeats)} images are copies of others or frames of the same scene, such as "
                f"{self.photos.repeats[0]}; each scene counts once."
            )
        if self.photos.left_out:
            lines.append(f"{len(self.photos.left_out)} files were left out, such as {self.photos.left_out[0]}.")
        if self.note:
            lines.append(self.note)
        return lines

    def _describe_mark(self) -> list[str]:
        """Describe the windows that a person picked, their test, and the photos in which the mark was found."""
        group = self.mark.group
        data = self.photos.data
        name = data.classes[group.label]
        confirmation = check_words(confirmation_check(self.mark, name), PAGE).found
        labels = data.labels[[window.photo for window in self.mark.windows]]
        own = int((labels == group.label).sum())
        return [
            f"Window {self.mark.number} of {name!r} does not belong to the class, as a person says: "
            f"{describe(group, self.sheet.tried[group.label])}.",
            f"Does it carry the class? {confirmation}",
            f"The mark was found in {own} photos of {name!r} and in {len(labels) - own} photos of other classes.",
        ]

    def write(self, folder: str | PathLike, overwrite: bool = False) -> list[Path]:
        """Write `report.html`, `report.json`, `windows.csv`, `sheet.safetensors`, and, after a repair, the edit.

        Files are written once all of them are complete.

        Args:
            folder: folder for the files, which must be new or empty.
            overwrite: whether it may hold files, of which those of the same names are replaced, as by a repair in the
                folder of the same audit.

        Returns:
            The paths of the files.

        Raises:
            FileExistsError: if the folder is not empty, without `overwrite`.
        """
        root = Path(folder).expanduser()
        check_out(root, overwrite)
        with results_in(root) as temporary:
            names = [path.name for path in self._write_all(temporary)]
        return [root / name for name in names]

    def _write_all(self, folder: Path) -> list[Path]:
        """Write all files into an empty folder, and return their paths."""
        paths = [*report_paths(folder / REPORT)]
        save_report(audit_page(self), self.report_data(), report_paths(folder / REPORT))
        paths.append(write_table(self.sheet.table, folder / WINDOWS))
        paths.append(folder / SHEET)
        save_sheet(self.sheet, self.photos.digest, folder / SHEET)
        if self.fix is not None:
            paths.append(folder / EDIT)
            self.fix.edit.save(folder / EDIT)
        return paths

    def report_data(self) -> dict[str, Any]:
        """Return what the report says for programs: the verdict, windows, repair, versions and fingerprints.

        All values have types of JSON; what was not measured is None, and so is `repair`, the data of the report of
        `repair`, if nothing was repaired.
        """
        word, sentences = heading(self)
        audited = self.photos.data
        images = {"count": len(audited), "digest": self.photos.images_digest[:16]}
        data = {
            "title": audit_title(self),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": str(self.classifier),
            "verdict": {"word": word, "text": " ".join(sentences)},
            "windows": self.sheet.table.to_dict("records"),
            "windows_note": NOT_SEEN,
            "mark": None if self.mark is None else self._mark_data(),
            "left_out": list(self.photos.left_out),
            "repeats": list(self.photos.repeats),
            "versions": package_versions(),
            "fingerprints": {"weights": self.photos.weights, "images": {"audited": images}},
            "repair": None if self.fix is None else self.fix.report_data(audit_title(self)),
        }
        return plain(data)

    def _mark_data(self) -> dict[str, Any]:
        """Return the windows that a person picked, their test, and where the mark was found."""
        data = self.photos.data
        found = []
        for window in self.mark.windows:
            label = int(data.labels[window.photo])
            place = {"top": window.box.top, "left": window.box.left, "side": window.side}
            found.append({"name": data.names[window.photo], "class": data.classes[label], **place})
        confirmation = self.mark.confirmation
        return {
            "class": data.classes[self.mark.group.label],
            "window": self.mark.number,
            "confirmed": confirmation.is_confirmed,
            "share": confirmation.share,
            "shuffled_share": confirmation.shuffled_share,
            "sources": confirmation.sources,
            "hosts": confirmation.hosts,
            "p": confirmation.p,
            "found_in": found,
        }


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table whose column "evidence" holds names of images as a CSV file, in one step, and return its path.

    A text that a spreadsheet would run as a formula, such as a class named "=cmd", gets an apostrophe before it.
    """
    table = table.assign(evidence=["; ".join(names) for names in table["evidence"]])
    with atomic_path(path) as temporary:
        table.map(_without_formula).to_csv(temporary, index=False, float_format="%.6g")
    return path


def _without_formula(value: Any) -> Any:
    """Put an apostrophe before a text that begins like a formula of a spreadsheet."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def audit_title(audit: Audit) -> str:
    """Return the heading of the report of an audit."""
    return f"Audit of {len(audit.photos.data)} images"


def heading(audit: Audit) -> tuple[str, list[str]]:
    """Return the word at the top of a report, and the sentences below it: the verdict, or why there is none."""
    if audit.fix is not None:
        words = audit.fix.words(PAGE)
        return words.word, words.sentences
    if audit.mark is not None:
        return NOT_REPAIRED, [audit.note]
    return LOOK, [A_PERSON_SAYS, IF_ONE_IS_ODD]


def audit_page(audit: Audit) -> str:
    """Render the report of an audit as one HTML page."""
    word, sentences = heading(audit)
    mark = audit.mark
    exemplars = [] if mark is None else _exemplar_of_mark(mark)
    return render(
        "audit.html",
        title=audit_title(audit),
        classifier=audit.classifier,
        audit=audit,
        fix=audit.fix,
        word=word,
        sentences=sentences,
        rows=audit.sheet.rows(None if mark is None else mark.group.label),
        note=NOT_SEEN,
        exemplars=exemplars if audit.fix is None else audit.fix.exemplar_figures(),
        found=[] if mark is None else _found_in(audit),
        edit="" if audit.fix is None else audit.fix.sections(),
    )


def _found_in(audit: Audit) -> list[Figure]:
    """Show the photos in which the mark was found, each with its outline; those of other classes first."""
    data = audit.photos.data
    label = audit.mark.group.label
    windows = sorted(audit.mark.windows, key=lambda window: int(data.labels[window.photo]) == label)
    figures = []
    for window in windows[:MOST_FOUND]:
        class_name = data.classes[int(data.labels[window.photo])]
        picture = window.outlined_on(audit.sheet.data.images)
        figures.append(Figure(data_uri(picture), f"{class_name}: {PurePath(data.names[window.photo]).name}"))
    return figures


def _exemplar_of_mark(mark: Mark) -> list[Figure]:
    """Show x, x', and the mask of a mark's exemplar, if there is one."""
    if mark.exemplar is None:
        return []
    pictures = (mark.exemplar.image, mark.exemplar.changed, mark.exemplar.mask.expand(3, -1, -1))
    return [Figure(data_uri(picture), caption) for picture, caption in zip(pictures, MARK_CAPTIONS, strict=True)]
