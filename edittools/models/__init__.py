"""Load classifiers by name."""

from edittools._lazy import lazy_names

_MODULES = {
    "ZOO": "models.zoo",
    "current_device": "models.load",
    "imagenet_classes": "models.imagenet",
    "load_classifier": "models.load",
}
"""The module of each public name."""

__all__ = list(_MODULES)

__getattr__ = lazy_names("models", _MODULES, needs="notebooks")
