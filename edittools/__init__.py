"""Rewrite an image classifier's rule in one layer, from one example, and see what changed.

After "Editing a Classifier by Rewriting Its Prediction Rules" (Santurkar, Tsipras et al., NeurIPS 2021). The names here
are the paper; everything else is in subpackages. Both load when they are first used:

    selection   select an edit, and measure it         probing     what a prediction relies on
    models      classifiers by name                    widgets     mask editor, desk, views
    auditing    from a folder of images to a report    reports     a page about an edit

What the notebooks show (scenes, scenarios, figures) is in the package `edittools_course`, next to this one.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edittools.classifiers import Classifier, fingerprint
    from edittools.cut import Cut, editable_layers
    from edittools.edits import Change, Edit, Record, applied_edits
    from edittools.exemplars import Exemplar, paste_texture
    from edittools.folders import read_folder
    from edittools.geometry import InputGeometry
    from edittools.image_files import load_image, load_mask, save_mask
    from edittools.images import LabeledImages, LazyImages
    from edittools.metrics import Comparison, error_rate, misclassified, predict
    from edittools.moments import SecondMoment, second_moments
    from edittools.rewriting import rewrite
    from edittools.stats import mcnemar

SUBPACKAGES = (
    "auditing",
    "models",
    "probing",
    "reports",
    "selection",
    "widgets",
)
"""The subpackages, which are imported when they are first used."""

_NAMES = {
    "classifiers": ("Classifier", "fingerprint"),
    "cut": ("Cut", "editable_layers"),
    "edits": ("Change", "Edit", "Record", "applied_edits"),
    "exemplars": ("Exemplar", "paste_texture"),
    "folders": ("read_folder",),
    "geometry": ("InputGeometry",),
    "image_files": ("load_image", "load_mask", "save_mask"),
    "images": ("LabeledImages", "LazyImages"),
    "metrics": ("Comparison", "error_rate", "misclassified", "predict"),
    "moments": ("SecondMoment", "second_moments"),
    "rewriting": ("rewrite",),
    "stats": ("mcnemar",),
    "models": ("load_classifier",),
    "selection": ("repair", "select_edit"),
    "widgets": ("MaskEditor",),
}
"""The names of the top level, by the module or subpackage that defines them."""

_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [
    "Change",
    "Classifier",
    "Comparison",
    "Cut",
    "Edit",
    "Exemplar",
    "InputGeometry",
    "LabeledImages",
    "LazyImages",
    "MaskEditor",
    "Record",
    "SecondMoment",
    "applied_edits",
    "editable_layers",
    "error_rate",
    "fingerprint",
    "load_classifier",
    "load_image",
    "load_mask",
    "mcnemar",
    "misclassified",
    "paste_texture",
    "predict",
    "read_folder",
    "repair",
    "rewrite",
    "save_mask",
    "second_moments",
    "select_edit",
]


def __getattr__(name: str) -> Any:
    """Import a module, or a name that is defined in one, when it is first used (PEP 562).

    Raises:
        AttributeError: if the package has no such name.
    """
    if name in _HOMES:
        module = importlib.import_module(f"edittools.{_HOMES[name]}")
        return getattr(module, name)
    if name in SUBPACKAGES or name in _NAMES:
        return importlib.import_module(f"edittools.{name}")
    raise AttributeError(
        f"module 'edittools' has no attribute {name!r}; it may be in a subpackage: {', '.join(SUBPACKAGES)}"
    )


def __dir__() -> list[str]:
    """List all names, also those that are not imported yet."""
    return sorted({*globals(), *SUBPACKAGES, *_NAMES, *_HOMES})
