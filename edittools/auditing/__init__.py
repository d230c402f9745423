"""Audit a folder of images: show what carries each class, repair a mark, and write a report.

`edittools audit` on the command line calls the same functions, which load when they are first used.
"""

from edittools._lazy import lazy_names

_MODULES = {
    "Audit": "auditing.result",
    "ContactSheet": "auditing.sheet",
    "audit_folder": "auditing.audit",
    "confirm": "auditing.windows",
    "contact_sheet": "auditing.windows",
    "examine": "auditing.marks",
    "exemplar_of": "auditing.marks",
}
"""The module of each public name."""

__all__ = list(_MODULES)

__getattr__ = lazy_names("auditing", _MODULES)
