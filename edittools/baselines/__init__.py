"""What an edit is compared with, one module a method; each gives an `Edit`."""

from edittools.baselines.finetuning import SCOPES, finetune

__all__ = [
    "SCOPES", "finetune",
]  # fmt: skip
