"""The class names of ImageNet."""


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of the 1,000 ImageNet classes, in order."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return tuple(_IMAGENET_CATEGORIES)
