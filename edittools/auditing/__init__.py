"""Audit a folder of images: find what a classifier relies on, repair the strongest rule, and write a report.

`edittools audit` on the command line calls the same functions, which load when they are first used.
"""

import importlib
from typing import Any

_MODULES = {
    "Audit": "auditing.result",
    "audit_folder": "auditing.audit",
    "load_model": "auditing.sources",
    "read_masks": "auditing.masks",
}
"""The module of each public name."""

__all__ = ["Audit", "audit_folder", "load_model", "read_masks"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'edittools.auditing' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = importlib.import_module(f"edittools.{_MODULES[name]}")
    return getattr(module, name)
