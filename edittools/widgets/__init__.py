"""The mask editor, a panel, and views, each loaded when it is first used; and the desk of `edittools desk`."""

from edittools._lazy import lazy_names

_MODULES = {
    "MaskEditor": "widgets.editor",
    "MaskPanel": "widgets.live",
    "ProbeBrowser": "widgets.views",
    "inpaint": "widgets.materials",
}
"""The module of each public name."""

__all__ = list(_MODULES)

__getattr__ = lazy_names("widgets", _MODULES, "notebooks")
