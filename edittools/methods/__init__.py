"""The methods: functions `edits(site, **settings)` that return a list of edits, and the one table of them."""

from edittools.methods.finetuning import SCOPES, finetune
from edittools.methods.projection import project_concept
from edittools.methods.random_direction import rewrite_at_random
from edittools.methods.table import EDIT, METHODS, RANDOM, Method

__all__ = [
    "EDIT",
    "METHODS",
    "RANDOM",
    "SCOPES",
    "Method",
    "finetune",
    "project_concept",
    "rewrite_at_random",
]
