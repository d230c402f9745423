"""Methods that edits are compared with: projections of the concept, and fine-tuning on the exemplars."""

from edittools_course.rivals.finetuning import SCOPES, finetune
from edittools_course.rivals.projection import PROJECTIONS, project_concept

__all__ = ["PROJECTIONS", "SCOPES", "finetune", "project_concept"]
