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
from edittools.corruptions import corrupt, corrupted_errors
from edittools.counterfactuals import (
    LEAST_EFFECT,
    Concepts,
    agreement,
    effect_changes,
    effects,
    exemplar_for,
    probe,
    probe_swaps,
    rules,
    score,
)
from edittools.cures import probe_again, scenario_for, shown_rule
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
from edittools.probing import Probing, probing_scenario
from edittools.rewriting import rewrite
from edittools.scenarios import Scenario, current_tier, snow_scenario, typographic_scenario
from edittools.typography import Label, blanked, stick, written
from edittools.widgets import ExemplarView, MaskEditor, PredictionView, ProbeBrowser, alpha_slider
from edittools.zero_shot import zero_shot_classifier

__all__ = [
    "BUDGET", "LEAST_EFFECT", "Change", "Classifier", "Comparison", "Concepts", "Cut", "Edit", "Exemplar",
    "ExemplarView", "Kept", "Label", "LabelledImages", "LazyImages", "MaskEditor", "PredictionView", "ProbeBrowser",
    "Probing", "Record", "Scenario", "SecondMoment", "State", "add_layer", "agreement", "alpha_slider", "applied_edits",
    "attack_row", "blanked", "by_class", "corrupt", "corrupted_errors", "current_tier", "cut_all", "editable_layers",
    "effect_changes", "effects", "error_rate", "errors", "errors_corrected", "exemplar_for", "finetune",
    "finetuning_trials", "fingerprint", "grid", "load_classifier", "load_image", "load_mask", "mcnemar", "predict",
    "prefixes", "prepare", "probe", "probe_again", "probe_swaps", "probing_scenario", "random_direction", "report",
    "rewrite", "rewriting_trials", "rules", "run", "save_image", "save_mask", "scenario_for", "score", "second_moments",
    "select", "shown_rule", "snow_scenario", "stick", "strength_curve", "sweep", "typographic_scenario", "wilson",
    "written", "zero_shot_classifier",
]  # fmt: skip
