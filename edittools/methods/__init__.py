"""The methods: functions `edits(site, **settings)` that return a list of edits, and the one table of them."""

from edittools.methods.random_direction import rewrite_at_random
from edittools.methods.table import EDIT, METHODS, RANDOM, Method

__all__ = [
    "EDIT",
    "METHODS",
    "RANDOM",
    "Method",
    "rewrite_at_random",
]
