"""Repair a mark: windows of a contact sheet that, as a person says, do not belong to their class.

The mark is tested on photos that neither ranked nor reported it. The exemplar is a photo of another class without and
with the mark; no mask is drawn. What an edit helps is measured on the folder's own photos that hold the mark.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm.auto import tqdm

from edittools._progress import Progress
from edittools._storage import digest_tensors
from edittools.auditing.sheet import LEAST_RECURRING, ContactSheet, Window, WindowGroup
from edittools.auditing.windows import LEAST_HOSTS, LEAST_SOURCES, Confirmation, confirm, key_layer
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import LabeledImages
from edittools.locate import Box, find_alike
from edittools.metrics import misclassified, predict, predicted_classes
from edittools.scenes import without_scenes
from edittools.verdict import UNCLEAR, Check, Kind

HOSTS_TRIED = 48
"""The number of photos into which a mark is pasted to find one that becomes its class."""

RESEMBLING = 0.25
"""A photo holds a mark if a window is as similar to the mark as all but this share of the group's own windows are."""

LEAST_OTHERS = 2
"""The smallest number of photos of other classes with the mark from which an edit can be selected."""


@dataclass(frozen=True, eq=False)
class Mark:
    """A group of windows that, as a person says, does not belong to its class.

    Attributes:
        group: the group.
        number: its number on the contact sheet, counted from 1 in each class.
        confirmation: the test of the mark on new photos.
        windows: where the mark was found, at most one window per photo: the group's own windows, and those of other
            photos that resemble them.
        exemplar: a photo of another class, and the same photo with the mark; None if no such photo becomes the class.
    """

    group: WindowGroup
    number: int
    confirmation: Confirmation
    windows: Sequence[Window] = field(repr=False)
    exemplar: Exemplar | None = field(default=None, repr=False)


def examine(classifier: Classifier, sheet: ContactSheet, group: WindowGroup, progress: Progress | None = tqdm) -> Mark:
    """Test a mark, find the photos that hold it, and make an exemplar of it.

    Args:
        classifier: the classifier of the contact sheet.
        sheet: the contact sheet.
        group: one of its groups, which a person has picked.
        progress: a class like `tqdm.tqdm`, for bars; None for no bars.
    """
    number = sheet.of_class(group.label).index(group) + 1
    confirmation = confirm(classifier, sheet, group, progress=progress)
    windows = find_mark(classifier, sheet, group, progress)
    exemplar = find_exemplar(classifier, sheet, group, windows)
    return Mark(group, number, confirmation, windows, exemplar)


def find_mark(
    classifier: Classifier, sheet: ContactSheet, group: WindowGroup, progress: Progress | None = tqdm
) -> list[Window]:
    """Find the photos that hold a mark, by the keys of a layer.

    All photos are searched, of all classes, right and wrong, and predictions play no part: a photo holds the mark if
    the mean key of one of its windows is as similar to those of the group as three quarters of these are to those of
    the others of the group, see `locate.find_alike`.

    Args:
        group: the windows of the mark. With fewer than three, no other photos are searched.

    Returns:
        The group's own windows, and one window of each other photo that holds the mark, in the order of the photos.
    """
    if len(group.windows) < LEAST_RECURRING:
        return list(group.windows)
    images = sheet.data.images[:]
    examples = [(images[window.photo], window.box.mask(*images.shape[2:])) for window in group.windows]
    alike = find_alike(key_layer(classifier), examples, images, progress)
    threshold = float(alike.likeness_of_examples.quantile(RESEMBLING))
    own_photos = {window.photo for window in group.windows}
    found = []
    for place in sorted(alike.places, key=lambda place: place.index):
        if place.likeness >= threshold and place.index not in own_photos:
            found.append(Window(place.index, place.box))
    return [*group.windows, *found]


def exemplar_of(sheet: ContactSheet, window: Window, host: int, place: tuple[int, int]) -> Exemplar:
    """Make an exemplar of a window: x is a photo without it, x' the same photo with the window pasted.

    Args:
        sheet: the contact sheet.
        window: one of its windows.
        host: the number of a photo of another class.
        place: the first row and column of the pasted window.

    Raises:
        ValueError: if the photo is of the window's class.
    """
    data = sheet.data
    if data.labels[host] == data.labels[window.photo]:
        raise ValueError(f"photo {host} shows the window's class as well; pass a photo of another class")
    box = Box.square(*place, window.side)
    image = data.images[host]
    changed = image.clone()
    box.of(changed)[:] = window.of(data.images)
    names = names_of(data)
    sources = (names[host], names[window.photo])
    return Exemplar(image, changed, box.mask(*image.shape[1:]), int(data.labels[host]), sources)


def find_exemplar(
    classifier: Classifier, sheet: ContactSheet, group: WindowGroup, windows: Sequence[Window]
) -> Exemplar | None:
    """Paste the first window of a mark into photos without it, and return one that becomes the class of the mark.

    A photo that is predicted as before with the place of the window in one color is preferred, since the window then
    covers no object.

    Args:
        group: the windows of the mark.
        windows: where the mark was found; these photos take no window.

    Returns:
        The exemplar; None if no photo becomes the class.
    """
    data = sheet.data
    generator = torch.Generator().manual_seed(0)
    predicted = predicted_classes(sheet.logits)
    holds = torch.zeros(len(data), dtype=torch.bool)
    holds[[window.photo for window in windows]] = True
    is_host = (data.labels != group.label) & (predicted == data.labels) & ~holds
    numbers = is_host.nonzero()[:, 0]
    hosts = numbers[torch.randperm(len(numbers), generator=generator)][:HOSTS_TRIED].tolist()
    window = group.windows[0]
    last = data.images[:1].shape[-1] - window.side
    exemplars = []
    for host in hosts:
        top, left = torch.randint(last + 1, (2,), generator=generator).tolist()
        exemplars.append(exemplar_of(sheet, window, host, (top, left)))
    if not exemplars:
        return None
    changed = predicted_classes(predict(classifier, torch.stack([exemplar.changed for exemplar in exemplars])))
    becomes = [exemplar for exemplar, after in zip(exemplars, changed.tolist(), strict=True) if after == group.label]
    if not becomes:
        return None
    covered = torch.stack([exemplar.covered for exemplar in becomes])
    is_kept = predicted_classes(predict(classifier, covered)) == torch.tensor([one.label for one in becomes])
    return becomes[int(is_kept.int().argmax())]


def images_of_mark(
    mark: Mark,
    sheet: ContactSheet,
    clean: LabeledImages | None = None,
    retain: LabeledImages | None = None,
) -> tuple[LabeledImages, LabeledImages, LabeledImages | None]:
    """Collect the images that measure the repair of a mark.

    The images with the concept are the photos that hold the mark, right and wrong, of all classes. The photo of the
    exemplar and the one that its window was taken from are in no set. No image with a pasted mark is in a set: what an
    edit helps is measured on real photos.

    Args:
        clean: clean images; those that show the scene of a photo with the mark are left out. By default, the other
            photos of the contact sheet.
        retain: images that rely on the mark legitimately; those that show the scene of the exemplar are left out.

    Returns:
        The images with the concept, the clean images, and the retained ones, as `repair` takes them.

    Raises:
        ValueError: if the mark has no exemplar, if too few photos of other classes hold it, or if none of them is
            misclassified.
    """
    data = sheet.data
    if mark.exemplar is None:
        raise ValueError(f"no photo without the mark becomes {data.classes[mark.group.label]!r} with it")
    is_source = are_sources(mark.exemplar, data)
    holds = torch.zeros(len(data), dtype=torch.bool)
    holds[[window.photo for window in mark.windows]] = True
    shows_mark = holds & data.is_labeled & ~is_source
    is_other = shows_mark & (data.labels != mark.group.label)
    wrong = int(misclassified(sheet.logits[is_other], data.labels[is_other]).sum())
    _check_others(data.classes[mark.group.label], int(is_other.sum()), wrong, int((holds & ~data.is_labeled).sum()))
    others = data.subset(~holds & ~is_source)
    if clean is not None:
        others = without_scenes(clean, data.subset(holds | is_source))
    if retain is not None:
        retain = without_scenes(retain, data.subset(is_source))
    return data.subset(shows_mark), others, retain


def _check_others(name: str, others: int, wrong: int, unlabeled: int) -> None:
    """Check that photos of other classes hold the mark, and that some of them are misclassified.

    Args:
        name: the mark's class.
        others: the number of labeled photos of other classes that hold the mark.
        wrong: the number of those that are misclassified.
        unlabeled: the number of photos with the mark that have no labels.
    """
    if others >= LEAST_OTHERS and wrong:
        return
    found = f"the mark was found in {others} photos of other classes than {name!r}, {wrong} of them misclassified"
    if unlabeled:
        found += f", and in {unlabeled} photos whose labels are the predictions"
    raise ValueError(
        f"{found}; add photos of other classes that show the mark, dozens of them, right and wrong, in subfolders "
        "named after their classes. Photos with a pasted mark would not show that an edit helps"
    )


def names_of(data: LabeledImages) -> tuple[str, ...]:
    """Return what tells photos apart: their names, or their digests if they have none."""
    return data.names or tuple(digest_tensors([image]) for image in data.images[:])


def are_sources(exemplar: Exemplar, data: LabeledImages) -> Tensor:
    """Tell which photos an exemplar came from, `(N,)` booleans."""
    return torch.tensor([name in exemplar.sources for name in names_of(data)])


def confirmation_check(mark: Mark, class_name: str) -> Check:
    """Check that the mark carries its class, and not just its colors and textures; see `confirm`."""
    confirmation = mark.confirmation
    numbers = {**vars(confirmation), "class": class_name, "fewest_sources": LEAST_SOURCES, "fewest_hosts": LEAST_HOSTS}
    return Check(
        Kind.CONFIRMED, confirmation.is_confirmed if confirmation.is_enough else None, UNCLEAR, numbers=numbers
    )


def places_check(checked: bool) -> Check:
    """Check that a person has looked at the photos in which the mark was found.

    They were found by keys, which tells neither whether they show the mark nor where.

    Args:
        checked: whether the caller says so.
    """
    return Check(Kind.LOOKED_AT, checked or None, UNCLEAR)
