"""Rewrite an image classifier's rule in one layer, from one example, and see what changed.

After "Editing a Classifier by Rewriting Its Prediction Rules" (Santurkar, Tsipras et al., NeurIPS 2021).
"""

from edittools.benchmark import (
    BUDGET,
    Kept,
    add_layer,
    finetuning_trials,
    grid,
    prepare,
    random_direction,
    report,
    rewriting_trials,
    select,
    strength_curve,
    sweep,
)
from edittools.cut import Cut, State, cut_all, editable_layers, prefixes
from edittools.edits import Change, Edit, Record, applied_edits
from edittools.exemplars import Exemplar
from edittools.finetuning import finetune
from edittools.images import LabelledImages, LazyImages, load_image, load_mask, save_image, save_mask
from edittools.jobs import run
from edittools.metrics import (
    Comparison,
    attack_row,
    by_class,
    error_rate,
    errors,
    errors_corrected,
    mcnemar,
    predict,
    wilson,
)
from edittools.models import Classifier, fingerprint, load_classifier
from edittools.moments import SecondMoment, second_moments
from edittools.rewriting import rewrite
from edittools.scenarios import Scenario, current_tier, snow_scenario, typographic_scenario
from edittools.typography import Label, blanked, stick, written
from edittools.widgets import ExemplarView, MaskEditor, PredictionView, alpha_slider
from edittools.zero_shot import zero_shot_classifier

__all__ = [
    "BUDGET", "Change", "Classifier", "Comparison", "Cut", "Edit", "Exemplar", "ExemplarView", "Kept", "Label",
    "LabelledImages", "LazyImages", "MaskEditor", "PredictionView", "Record", "Scenario", "SecondMoment", "State",
    "add_layer", "alpha_slider", "applied_edits", "attack_row", "blanked", "by_class", "current_tier", "cut_all",
    "editable_layers", "error_rate", "errors", "errors_corrected", "finetune", "finetuning_trials", "fingerprint",
    "grid", "load_classifier", "load_image", "load_mask", "mcnemar", "predict", "prefixes", "prepare",
    "random_direction", "report", "rewrite", "rewriting_trials", "run", "save_image", "save_mask", "second_moments",
    "select", "snow_scenario", "stick", "strength_curve", "sweep", "typographic_scenario", "wilson", "written",
    "zero_shot_classifier",
]  # fmt: skip
