"""What an audit has computed and keeps on disk, so that a later call goes on from there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from torch import Tensor

from edittools._caching import load_or_compute
from edittools.classifiers import Classifier, fingerprint

PARTS = "parts"
"""The subfolder of the results of an audit for what it keeps."""

VERSION = 1
"""To be raised when the same content leads to other tensors, so that no former ones are used."""


@dataclass(frozen=True)
class Kept:
    """Tensors of a classifier in a folder; each file is written in one step, and a damaged one is computed again.

    Attributes:
        folder: the folder, which gets the subfolder `PARTS`; None to keep nothing.
        model: the `fingerprint` of the classifier.
    """

    folder: Path | None = None
    model: str = ""

    @classmethod
    def of(cls, classifier: Classifier, folder: str | PathLike | None) -> "Kept":
        """Keep results of a classifier in a folder; nothing is kept without one."""
        return cls() if folder is None else cls(Path(folder).expanduser(), fingerprint(classifier))

    def load_or_compute(self, content: Sequence[object], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Load tensors by name, or compute and keep them.

        Args:
            content: all that they depend on besides the classifier, such as the digests of images; printed and hashed.
            compute: makes the tensors, contiguous and on the CPU.
        """
        if self.folder is None:
            return compute()
        return load_or_compute(PARTS, f"audit {VERSION} {self.model} {list(content)}", compute, self.folder)
