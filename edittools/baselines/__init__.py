"""What an edit is compared with: each is `method(classifier, layer, exemplars, reference, **settings)` → `Edit`."""

from edittools.baselines import closed_form, head, null_space, projection
from edittools.baselines.closed_form import rewrite_in_closed_form
from edittools.baselines.finetuning import SCOPES, finetune
from edittools.baselines.head import correct_logits, find_head, retrain_head
from edittools.baselines.null_space import rewrite_in_null_space
from edittools.baselines.projection import project_concept
from edittools.baselines.random_direction import rewrite_at_random

RIVALS = {
    "projection": (project_concept, projection.GRID),
    "null_space": (rewrite_in_null_space, null_space.GRID),
    "closed_form": (rewrite_in_closed_form, closed_form.GRID),
    "last_layer": (retrain_head, head.GRID),
    "logit_correction": (correct_logits, head.CORRECTIONS),
}
"""The rivals of an edit by name, each with settings to try; beside them stands fine-tuning."""

OF_THE_HEAD = ("last_layer", "logit_correction")
"""Those that change the last layer, whatever layer they are given."""

__all__ = ["OF_THE_HEAD", "RIVALS", "SCOPES", "correct_logits", "find_head", "finetune", "project_concept"]
__all__ += ["retrain_head", "rewrite_at_random", "rewrite_in_closed_form", "rewrite_in_null_space"]
