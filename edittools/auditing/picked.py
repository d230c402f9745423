"""Find the windows that a person picked from a contact sheet by their name, such as "garbage truck:1"."""

from edittools._checks import suggestion
from edittools.auditing.sheet import ContactSheet, WindowGroup
from edittools.auditing.window_names import parse_window_name
from edittools.auditing.windows import SHOWN, check_photos, classes_to_show
from edittools.classifiers import Classifier
from edittools.folders import class_index
from edittools.images import LabeledImages


def label_and_number(repair: str, classifier: Classifier) -> tuple[int, int]:
    """Return the class and the number of a group of windows, by its name.

    Args:
        repair: the name, such as "garbage truck:1".
        classifier: its class names.

    Raises:
        ValueError: if there is no such class, or if no contact sheet has that number.
    """
    name, number = parse_window_name(repair)
    label = class_index(name, classifier)
    if label is None:
        remedy = suggestion(name, classifier.classes) or "pass a class that has a row on the contact sheet"
        raise ValueError(f"repair {repair!r}: {name!r} is not one of the {len(classifier.classes)} classes; {remedy}")
    if number > SHOWN:
        raise ValueError(
            f"repair {repair!r}: a contact sheet has at most {SHOWN} windows of each class; pass a number from 1 to "
            f"{SHOWN}"
        )
    return label, number


def check_row(repair: str, label: int, data: LabeledImages) -> None:
    """Check that a class has a row on the contact sheet of a set of photos.

    Raises:
        ValueError: if it has none, or if no class has one.
    """
    check_photos(data)
    present = classes_to_show(data.labels)
    if label not in present:
        rows = ", ".join(repr(data.classes[other]) for other in present)
        raise ValueError(
            f"repair {repair!r}: {data.classes[label]!r} has too few photos for a row on the contact sheet; there are "
            f"rows of {rows}"
        )


def group_of(repair: str, label: int, number: int, sheet: ContactSheet) -> WindowGroup:
    """Return a group of windows of a contact sheet.

    Raises:
        ValueError: if the class has no group of that number.
    """
    groups = sheet.of_class(label)
    if number > len(groups):
        numbers = ", ".join(str(other) for other in range(1, len(groups) + 1))
        remedy = f"pass one of {numbers}" if groups else "add photos of other classes that are not predicted as it"
        raise ValueError(
            f"repair {repair!r}: the contact sheet has no window {number} of {sheet.data.classes[label]!r}; {remedy}"
        )
    return groups[number - 1]
