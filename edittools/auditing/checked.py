"""Whether the masks of an audit were checked: without that, its verdict is at most "unclear".

If the mask of a person covers a fish as well, the fish is replaced, too, and the audit finds a rule on persons that
does not exist. No figure shows this, but a look at the replaced images does. So a report shows them above its verdict,
and holds a digest of their masks, by which a later audit can tell whether it has the masks that were looked at.
"""

import re
from os import PathLike
from pathlib import Path

from edittools._caching import digest_tensors
from edittools.probing.counterfactuals import Concepts
from edittools.selection.judgment import UNCLEAR, Check

REPORT = "report.html"
"""The name of the report of an audit in its folder."""

REPORT_DATA = "report.json"
"""The name of the data of this report, for programs."""

DIGEST = re.compile(r'<meta name="masks" content="([0-9a-f]+)">')
"""The place of the digest of the masks in a report."""

REMEDY = (
    "audit once without --masks-checked (masks_checked=False), look at the images above the verdict of the report, and "
    "then audit again with it"
)


def masks_check(checked: bool) -> Check:
    """Check that the masks were checked.

    Args:
        checked: whether they were.
    """
    return Check(
        "the masks were checked",
        checked or None,
        "" if checked else "no person has looked at the masks",
        "Look at the exemplar: is the object still in it? And in the other replaced images? If it is, audit again with "
        "--masks-checked (masks_checked=True); if not, pass masks that do not cover it.",
        UNCLEAR,
    )


def digest_masks(concepts: Concepts, concept: str) -> str:
    """Hash the images and their masks of a concept, as 64 hexadecimal digits."""
    masks = concepts.masks[concept]
    names = [*(f"image {number}" for number in range(len(masks))), concept]
    return digest_tensors([*concepts.data.images, masks], names)


def read_digest(folder: str | PathLike) -> str:
    """Read the digest of the masks that the report in a folder shows.

    Raises:
        FileNotFoundError: if the folder has no report.
        ValueError: if the report shows no masks.
    """
    path = Path(folder).expanduser() / REPORT
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist, so no masks were checked in it; {REMEDY}")
    digest = DIGEST.search(path.read_text(encoding="utf-8", errors="replace"))
    if digest is None:
        raise ValueError(f"{str(path)!r} shows no masks, so none were checked in it; {REMEDY}")
    return digest[1]
