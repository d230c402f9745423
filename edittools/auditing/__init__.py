"""Audit a folder of images: find what a classifier relies on, repair the strongest rule, and write a report.

`edittools audit` on the command line calls the same functions.
"""

from edittools.auditing.audit import audit_folder
from edittools.auditing.masks import read_masks
from edittools.auditing.result import Audit
from edittools.auditing.sources import load_model

__all__ = ["Audit", "audit_folder", "load_model", "read_masks"]
