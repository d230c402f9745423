"""What a desk keeps in the cache, by the folder of its images and by its model: marks, choices, and the last edit.

kept = KeptWork("photos/tagged", classifier)
kept.write(work)
kept.read()     # after a restart; None if there is nothing, or if it cannot be read
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edittools._caching import atomic_path, cache_folder
from edittools.classifiers import Classifier, fingerprint
from edittools.edits import Edit

KIND = "desk"
"""The subfolder of the cache."""


@dataclass(frozen=True, eq=False)
class Work:
    """What a person has done at a desk.

    Args:
        marks: the marked area of each image, `(H, W)` of 0 and 1, by the name of the image.
        choices: what was selected and entered, as JSON has it, by names that the desk gives.
        edit: the last edit; None if there is none.
    """

    marks: dict[str, Tensor] = field(default_factory=dict)
    choices: dict[str, Any] = field(default_factory=dict)
    edit: Edit | None = None


class KeptWork:
    """The files in the cache for a folder and a model.

    Args:
        folder: the folder of the images.
        classifier: the model.
    """

    def __init__(self, folder: str | os.PathLike, classifier: Classifier) -> None:
        path = Path(folder).expanduser().resolve()
        key = hashlib.sha256(f"{path} {fingerprint(classifier)}".encode()).hexdigest()
        self._marks_path = cache_folder() / KIND / f"{key}.safetensors"
        self._classifier = classifier
        self._edit_digest: str | None = None  # of the edit that was written last

    def read(self) -> Work | None:
        """Return what was kept; None if there is nothing. What is damaged is left out."""
        try:
            with safe_open(self._marks_path, "pt") as file:
                content = json.loads(file.metadata()["content"])
                marks = {name: file.get_tensor(str(number)).float() for number, name in enumerate(content["marked"])}
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        return Work(marks, content["choices"], self._read_edit(content["edit"]))

    def _edit_path(self, digest: str | None) -> Path:
        """Return the file of the edit with this digest."""
        return self._marks_path.with_name(f"{self._marks_path.stem}-edit-{digest}.safetensors")

    def _read_edit(self, digest: str | None) -> Edit | None:
        """Return the edit with this digest; None if the file is damaged, or of another edit."""
        if digest is None:
            return None
        try:
            edit = Edit.load(self._edit_path(digest), self._classifier)
        except (OSError, ValueError):
            return None
        return edit if edit.digest == digest else None

    def write(self, work: Work) -> None:
        """Keep this instead of what was kept before.

        Raises:
            OSError: if the cache cannot be written.
        """
        digest = None if work.edit is None else work.edit.digest
        is_written = (
            digest == self._edit_digest and self._edit_path(digest).exists()
        )  # another desk may have removed it
        if work.edit is not None and not is_written:
            work.edit.save(self._edit_path(digest))
        self._edit_digest = digest
        content = {"marked": list(work.marks), "choices": work.choices, "edit": digest}
        tensors = {str(number): mask.byte().contiguous() for number, mask in enumerate(work.marks.values())}
        with atomic_path(self._marks_path) as temporary:
            save_file(tensors, temporary, {"content": json.dumps(content)})
        for path in self._marks_path.parent.glob(f"{self._marks_path.stem}-edit-*.safetensors"):
            if path != self._edit_path(digest):
                path.unlink(missing_ok=True)
