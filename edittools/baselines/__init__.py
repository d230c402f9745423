"""What an edit is compared with: each is `method(classifier, layer, exemplars, reference, **settings)` → `Edit`."""

from edittools.baselines import variants
from edittools.baselines.finetuning import SCOPES, finetune
from edittools.baselines.head import CORRECTIONS, RETRAININGS, correct_logits, find_head, retrain_head
from edittools.baselines.projection import PROJECTIONS, project_concept
from edittools.baselines.variants import rewrite_at_random, rewrite_in_closed_form, rewrite_in_null_space

RIVALS = {
    "projection": (project_concept, PROJECTIONS),
    "null_space": (rewrite_in_null_space, variants.NULL_SPACES),
    "closed_form": (rewrite_in_closed_form, variants.WEIGHTS),
    "last_layer": (retrain_head, RETRAININGS),
    "logit_correction": (correct_logits, CORRECTIONS),
}
"""The rivals of an edit by name, each with settings to try; beside them stands fine-tuning."""

OF_THE_HEAD = ("last_layer", "logit_correction")
"""Those that change the last layer, whatever layer they are given."""

__all__ = ["OF_THE_HEAD", "RIVALS", "SCOPES", "correct_logits", "find_head", "finetune", "project_concept"]
__all__ += ["retrain_head", "rewrite_at_random", "rewrite_in_closed_form", "rewrite_in_null_space"]
