"""The desk, its session, the mask editor, live figures and views; each is loaded when it is first used."""

import importlib
from typing import Any

from edittools._checks import extra

_MODULES = {
    "Desk": "widgets.desk",
    "EditSession": "widgets.session",
    "LiveFigure": "widgets.live",
    "MaskEditor": "widgets.editor",
    "MaskPanel": "widgets.live",
    "PredictionView": "widgets.views",
    "ProbeBrowser": "widgets.views",
    "alpha_slider": "widgets.views",
    "read_folder": "folders",
}
"""The module of each public name."""

__all__ = [
    "Desk",
    "EditSession",
    "LiveFigure",
    "MaskEditor",
    "MaskPanel",
    "PredictionView",
    "ProbeBrowser",
    "alpha_slider",
    "read_folder",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'edittools.widgets' has no attribute {name!r}; it has {', '.join(__all__)}")
    with extra("widgets", "widgets"):
        module = importlib.import_module(f"edittools.{_MODULES[name]}")
    return getattr(module, name)
