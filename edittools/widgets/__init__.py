"""Eyes and hands: the desk, the mask editor, views of predictions and probes. Each loads when first used."""

import importlib
from typing import Any

from edittools._checks import extra

_IN = {"Desk": "desk", "MaskEditor": "editor", "read_folder": "folders"}
_IN |= dict.fromkeys(("PredictionView", "ProbeBrowser", "alpha_slider"), "views")

__all__ = ["Desk", "MaskEditor", "PredictionView", "ProbeBrowser", "alpha_slider", "read_folder"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'edittools.widgets' has no attribute {name!r}; it has {', '.join(__all__)}")
    with extra("widgets", "widgets"):
        module = importlib.import_module(f"edittools.widgets.{_IN.get(name, name)}")
    return getattr(module, name) if name in _IN else module
