"""Load classifiers by name, and make zero-shot classifiers of open_clip models."""

from edittools._lazy import lazy_names

_MODULES = {
    "ZOO": "models.zoo",
    "ByteTokenizer": "models.zero_shot",
    "current_device": "models.load",
    "imagenet_classes": "models.imagenet",
    "load_classifier": "models.load",
    "zero_shot_classifier": "models.zero_shot",
}
"""The module of each public name."""

__all__ = list(_MODULES)

__getattr__ = lazy_names("models", _MODULES, needs="notebooks")
