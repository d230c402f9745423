"""Load classifiers by name, and make zero-shot classifiers of open_clip models."""

from edittools._checks import extra

with extra("models", "notebooks"):
    from edittools.models.imagenet import imagenet_classes
    from edittools.models.load import ZOO, current_device, load_classifier
    from edittools.models.zero_shot import ByteTokenizer, zero_shot_classifier

__all__ = ["ZOO", "ByteTokenizer", "current_device", "imagenet_classes", "load_classifier", "zero_shot_classifier"]
