"""Rewrite an image classifier's rule in one layer, from one example, and see what changed.

After "Editing a Classifier by Rewriting Its Prediction Rules" (Santurkar, Tsipras et al., NeurIPS 2021). The names here
are the paper; everything else is in subpackages, which load when they are first used:

    baselines   what an edit is compared with          probing     what a prediction relies on
    selection   how an edit is selected                widgets     mask editor, desk, views
    models      classifiers by name                    plots       figures
    scenarios   what each notebook needs, by tier      miniworld   rendered scenes with planted rules
"""

import importlib
from typing import Any

from edittools._moved import MOVED, where_now
from edittools.classifiers import Classifier, fingerprint
from edittools.cut import Cut, editable_layers
from edittools.edits import Change, Edit, Record, applied_edits
from edittools.exemplars import Exemplar, paste_texture
from edittools.images import LabelledImages, LazyImages, load_image, load_mask, save_mask
from edittools.metrics import Comparison, attack_row, by_class, error_rate, mcnemar, misclassified, predict
from edittools.moments import SecondMoment, second_moments
from edittools.rewriting import rewrite

SUBPACKAGES = ("baselines", "miniworld", "models", "plots", "probing", "scenarios", "selection", "widgets")
_LATE = {"load_classifier": "models", "MaskEditor": "widgets", "repair": "selection"}

__all__ = ["Change", "Classifier", "Comparison", "Cut", "Edit", "Exemplar", "LabelledImages", "LazyImages"]
__all__ += ["MaskEditor", "Record", "SecondMoment", "applied_edits", "attack_row", "by_class", "editable_layers"]
__all__ += ["error_rate", "fingerprint", "load_classifier", "load_image", "load_mask", "misclassified"]
__all__ += ["mcnemar", "paste_texture", "predict", "repair", "rewrite", "save_mask", "second_moments"]

__path__.append(f"{__path__[0]}/_moved")  # where the paths of version 0.2 say what they are called now


def __getattr__(name: str) -> Any:
    """Load a subpackage, or a name that lives in one, when it is first used (PEP 562)."""
    if name in SUBPACKAGES:
        return importlib.import_module(f"edittools.{name}")
    if name in _LATE:
        return getattr(importlib.import_module(f"edittools.{_LATE[name]}"), name)
    if name in MOVED:
        raise AttributeError(where_now(name))
    raise AttributeError(
        f"module 'edittools' has no attribute {name!r}; it may be in a subpackage: {', '.join(SUBPACKAGES)}"
    )


def __dir__() -> list[str]:
    return sorted([*globals(), *SUBPACKAGES, *_LATE])
