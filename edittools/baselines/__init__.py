"""The methods that an edit is compared with: functions `method(site, **settings)` that return a list of edits."""

from edittools.baselines.finetuning import SCOPES, finetune
from edittools.baselines.head import CORRECTIONS, RETRAININGS, correct_logits, retrain_head
from edittools.baselines.projection import PROJECTIONS, project_concept
from edittools.baselines.variants import rewrite_at_random

BASELINES = {
    "projection": (project_concept, PROJECTIONS),
    "last_layer": (retrain_head, RETRAININGS),
    "logit_correction": (correct_logits, CORRECTIONS),
}
"""The baselines by name, except fine-tuning and random directions: the function, and a grid of settings to try."""

OF_THE_HEAD = ("last_layer", "logit_correction")
"""The baselines that change the last layer, whichever layer they are given."""

__all__ = [
    "BASELINES",
    "OF_THE_HEAD",
    "SCOPES",
    "correct_logits",
    "finetune",
    "project_concept",
    "retrain_head",
    "rewrite_at_random",
]
