"""The class names of ImageNet, and which of them show an object."""

from edittools.models.data import shipped


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of the 1,000 ImageNet classes, in order."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return tuple(_IMAGENET_CATEGORIES)


def classes_by_object() -> dict[str, list[str]]:
    """Read which ImageNet classes show each object of MSRC v2."""
    classes = imagenet_classes()
    classes_by_object = {}
    for line in shipped("msrc_objects.txt").read_text().splitlines():
        concept, *spans = line.split()
        names: list[str] = []
        for span in spans:
            ends = [int(end) for end in span.split("-")]
            names += classes[ends[0] : ends[-1] + 1]
        classes_by_object[concept] = names
    return classes_by_object
