"""What a desk keeps in the cache, by the folder of its images and by its model: marks, choices, and the last edit.

kept = KeptWork("photos/tagged", classifier)
kept.write(work)
kept.read()     # after a restart; None if there is nothing, or if it cannot be read
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import eq
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edittools._caching import atomic_path, cache_folder
from edittools.classifiers import Classifier, fingerprint
from edittools.edits import Edit
from edittools.reports import report_paths, write_report

KIND = "desk"
"""The subfolder of the cache."""

OF_EDIT = ("edit", "verdict", "drawn_on")
"""What belongs together: the last edit, the verdict on it, and the images that it was made from."""


@dataclass(frozen=True)
class KeptVerdict:
    """The verdict on an edit that ordinary images have selected, and its report.

    Args:
        texts: what a result says of the edit: its `word`, `reason`, `comparison`, `step`, `action`, and `details`.
        page: the page of the report, as HTML.
        data: the data of the report, as JSON has them.
        measured_on: a hash of the images and labels that have measured the edit.
    """

    texts: dict[str, str]
    page: str = field(repr=False)
    data: dict[str, Any] = field(repr=False)
    measured_on: str = ""

    def report(self, path: str | os.PathLike) -> Path:
        """Write the report, as `Assessment.report` does."""
        paths = report_paths(path)
        write_report(self.page, self.data, paths)
        return paths[0]


@dataclass(frozen=True, eq=False)
class Work:
    """What a person has done at a desk.

    Args:
        marks: the marked area of each image, `(H, W)` of 0 and 1, by the name of the image.
        labels: the name of the class that was entered for an image, by the name of the image.
        choices: what else was selected and entered, as JSON has it, by names that the desk gives.
        edit: the last edit; None if there is none.
        verdict: the verdict on it; None if it was not selected by ordinary images.
        drawn_on: the names of the images that the edit was made from.
    """

    marks: dict[str, Tensor] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    choices: dict[str, Any] = field(default_factory=dict)
    edit: Edit | None = None
    verdict: KeptVerdict | None = None
    drawn_on: tuple[str, ...] = ()


class KeptWork:
    """The files in the cache for a folder and a model.

    Several desks may share them: each writes only what it has changed since it last read or wrote them, so a mark or a
    label of another desk is lost only if both have changed it. Of two edits, the one that was made last is kept.

    Args:
        folder: the folder of the images.
        classifier: the model.
    """

    def __init__(self, folder: str | os.PathLike, classifier: Classifier) -> None:
        path = Path(folder).expanduser().resolve()
        key = hashlib.sha256(f"{path} {fingerprint(classifier)}".encode()).hexdigest()
        self._marks_path = cache_folder() / KIND / f"{key}.safetensors"
        self._classifier = classifier
        self._last = Work()  # what this desk had when it read or wrote the files

    def read(self) -> Work | None:
        """Return what was kept; None if there is nothing. What is damaged is left out."""
        marks, content = self._read_marks()
        if not content:
            return None
        edit = self._read_edit(content["edit"])
        verdict = None if edit is None else self._read_verdict(content["verdict"])
        drawn_on = tuple(content["drawn_on"])
        self._last = Work(marks, content["labels"], content["choices"], edit, verdict, drawn_on)
        return self._last

    def write(self, work: Work) -> None:
        """Keep what has changed since this desk read or wrote the files.

        Raises:
            OSError: if the cache cannot be written.
        """
        last = self._last
        kept_marks, content = self._read_marks()
        marks = changed(kept_marks, last.marks, work.marks, torch.equal)
        of_edit = {name: content.get(name) for name in OF_EDIT}
        if not content or work.edit is not last.edit or work.verdict is not last.verdict:
            of_edit = {"edit": None, "verdict": None, "drawn_on": list(work.drawn_on)}
            if work.edit is not None:
                of_edit["edit"] = work.edit.digest
                work.edit.save(self._edit_path(work.edit.digest))
            if work.verdict is not None:
                of_edit["verdict"] = self._write_verdict(work.verdict)
        content = {
            "marked": list(marks),
            "labels": changed(content.get("labels", {}), last.labels, work.labels),
            "choices": changed(content.get("choices", {}), last.choices, work.choices),
            **of_edit,
        }
        tensors = {str(number): mask.byte().contiguous() for number, mask in enumerate(marks.values())}
        with atomic_path(self._marks_path) as temporary:
            save_file(tensors, temporary, {"content": json.dumps(content)})
        self._last = work
        current = (self._edit_path(of_edit["edit"]), self._verdict_path(of_edit["verdict"]))
        for path in self._marks_path.parent.glob(f"{self._marks_path.stem}-*"):
            if path not in current:
                path.unlink(missing_ok=True)

    def _read_marks(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the marks and everything else but the edit and its verdict; both are empty if there is nothing."""
        try:
            with safe_open(self._marks_path, "pt") as file:
                content = json.loads(file.metadata()["content"])
                marks = {name: file.get_tensor(str(number)).float() for number, name in enumerate(content["marked"])}
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return {}, {}
        return (marks, content) if {"labels", "choices", *OF_EDIT} <= content.keys() else ({}, {})

    def _edit_path(self, digest: str | None) -> Path:
        """Return the file of the edit with this digest."""
        return self._marks_path.with_name(f"{self._marks_path.stem}-edit-{digest}.safetensors")

    def _verdict_path(self, digest: str | None) -> Path:
        """Return the file of the verdict with this digest."""
        return self._marks_path.with_name(f"{self._marks_path.stem}-verdict-{digest}.json")

    def _read_edit(self, digest: str | None) -> Edit | None:
        """Return the edit with this digest; None if the file is damaged, or of another edit."""
        if digest is None:
            return None
        try:
            edit = Edit.load(self._edit_path(digest), self._classifier)
        except (OSError, ValueError):
            return None
        return edit if edit.digest == digest else None

    def _read_verdict(self, digest: str | None) -> KeptVerdict | None:
        """Return the verdict with this digest; None if the file is damaged."""
        if digest is None:
            return None
        try:
            text = self._verdict_path(digest).read_bytes()
        except OSError:
            return None
        return KeptVerdict(**json.loads(text)) if hashlib.sha256(text).hexdigest() == digest else None

    def _write_verdict(self, verdict: KeptVerdict) -> str:
        """Write a verdict, and return its digest."""
        text = json.dumps(vars(verdict)).encode()
        digest = hashlib.sha256(text).hexdigest()
        with atomic_path(self._verdict_path(digest)) as temporary:
            temporary.write_bytes(text)
        return digest


def changed(
    kept: Mapping[str, Any], last: Mapping[str, Any], current: Mapping[str, Any], is_same: Callable[..., bool] = eq
) -> dict[str, Any]:
    """Return what is kept with what one desk has changed.

    Args:
        kept: what is kept, perhaps by another desk.
        last: what this desk had when it last read or wrote it.
        current: what this desk has.
        is_same: tells whether two values are the same.
    """
    result = dict(kept)
    for name in {**last, **current}:
        if name not in current:
            result.pop(name, None)
        elif name not in last or not is_same(last[name], current[name]):
            result[name] = current[name]
    return result
