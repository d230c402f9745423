"""The desk, its session, the mask editor, a panel and views; each is loaded when it is first used."""

from edittools._lazy import lazy_names

_MODULES = {
    "Desk": "widgets.desk",
    "EditSession": "widgets.session",
    "MaskEditor": "widgets.editor",
    "MaskPanel": "widgets.live",
    "ProbeBrowser": "widgets.views",
    "inpaint": "widgets.materials",
}
"""The module of each public name."""

__all__ = list(_MODULES)

__getattr__ = lazy_names("widgets", _MODULES, "notebooks")
