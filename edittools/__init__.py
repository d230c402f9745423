"""Rewrite an image classifier's rule in one layer, from one example, and see what changed.

After "Editing a Classifier by Rewriting Its Prediction Rules" (Santurkar, Tsipras et al., NeurIPS 2021). The names here
are the paper; everything else is in rooms, which load when they are first used:

    baselines   what an edit is compared with          probing     what a prediction rests on
    choosing    how an edit is chosen, fairly          lab         mask editor, views, plots
    zoo         classifiers by name                    world       MiniWorld: drawn scenes with planted rules
    stories     what each notebook needs, by tier
"""

import importlib
from typing import Any

from edittools.classifiers import Classifier, fingerprint
from edittools.cut import Cut, editable_layers
from edittools.edits import Change, Edit, Record, applied_edits
from edittools.exemplars import Exemplar, paste_texture
from edittools.images import LabelledImages, LazyImages, load_image, load_mask, save_mask
from edittools.metrics import Comparison, attack_row, by_class, error_rate, errors, mcnemar, predict
from edittools.moments import SecondMoment, second_moments
from edittools.rewriting import rewrite

ROOMS = ("baselines", "choosing", "lab", "probing", "stories", "world", "zoo")
_LATE = {"load_classifier": "zoo", "MaskEditor": "lab", "repair": "choosing"}

__all__ = ["Change", "Classifier", "Comparison", "Cut", "Edit", "Exemplar", "LabelledImages", "LazyImages"]
__all__ += ["MaskEditor", "Record", "SecondMoment", "applied_edits", "attack_row", "by_class", "editable_layers"]
__all__ += ["error_rate", "errors", "fingerprint", "load_classifier", "load_image", "load_mask"]
__all__ += ["mcnemar", "paste_texture", "predict", "repair", "rewrite", "save_mask", "second_moments"]


def __getattr__(name: str) -> Any:
    """Load a room, or a name that lives in one, when it is first used (PEP 562)."""
    if name in ROOMS:
        return importlib.import_module(f"edittools.{name}")
    if name in _LATE:
        return getattr(importlib.import_module(f"edittools.{_LATE[name]}"), name)
    raise AttributeError(f"module 'edittools' has no attribute {name!r}; it may be in a room: {', '.join(ROOMS)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *ROOMS, *_LATE])
