"""A contact sheet: what carries each class, as pictures and as a table.

    sheet = contact_sheet(classifier, data)
    sheet                       # in a notebook: one row of pictures per class
    sheet.table                 # one row per group of windows: its class, and the share of photos that it turns
    sheet.pictures(group)       # the windows of a group

A contact sheet describes and ranks. A strong window is not a wrong one: a dog's head should carry the class of the dog.
A person looks, and says what does not belong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd
from torch import Tensor

from edittools.images import LabeledImages, LazyImages
from edittools.locate import Box
from edittools.reports import Figure, SheetCell, SheetRow, data_uri, render_sheet

NOT_SEEN = (
    "Nothing odd here does not mean that there is no shortcut: borders, backgrounds, textures, colors, and the absence "
    "of something are not seen."
)
"""What stands below every contact sheet."""

LEAST_RECURRING = 3
"""Windows of at least this many photos that resemble each other come before others."""

STRONG = 0.2
"""A window is strong if it turns more photos than random windows do by at least this share."""

MOST_PICTURES = 5
"""The largest number of windows that are shown of a group."""


@dataclass(frozen=True)
class Window:
    """A square part of a photo.

    Attributes:
        photo: the number of the photo.
        box: the square.
    """

    photo: int
    box: Box

    @property
    def side(self) -> int:
        """The side in pixels."""
        return self.box.width

    def of(self, images: Tensor | LazyImages) -> Tensor:
        """Return the window's part of its photo: of images `(N, C, H, W)` or of masks `(N, H, W)`."""
        return self.box.of(images[self.photo])

    def outlined_on(self, images: Tensor | LazyImages) -> Tensor:
        """Draw the outline of the window on its photo."""
        return self.box.outlined_on(images[self.photo])


@dataclass(frozen=True)
class WindowGroup:
    """Windows of one class that resemble each other, each of another photo.

    Attributes:
        label: the index of the class.
        windows: the windows, the strongest first.
        share: the share of other photos that become the class when one of these windows is pasted into them. It is the
            mean over the windows, in [0, 1].
        random_share: the same for random windows of photos of the class, of the same sides.
        other_share: the same for random windows of photos of other classes, of the same sides.
        pastes: the number of photos from which `share` was computed.
    """

    label: int
    windows: Sequence[Window] = field(repr=False)
    share: float
    random_share: float
    other_share: float
    pastes: int

    @property
    def margin(self) -> float:
        """By how much the share exceeds that of random windows of the class."""
        return self.share - self.random_share


@dataclass(frozen=True, eq=False)
class ContactSheet:
    """The strongest windows of each class, see `contact_sheet`.

    Attributes:
        data: the photos; `Window.photo` is the number of a photo in this set.
        logits: the logits of the photos, `(N, classes)`.
        groups: the groups of windows of each class that are shown, the most striking ones first.
        tried: the number of photos of each class whose windows were tried, by the class's index; the classes of the
            strongest windows come first.
        repeats: the number of photos that were left out as copies of others, or as frames of the same scene.
    """

    data: LabeledImages = field(repr=False)
    logits: Tensor = field(repr=False)
    groups: Sequence[WindowGroup] = field(repr=False)
    tried: Mapping[int, int]
    repeats: int

    def of_class(self, label: int) -> list[WindowGroup]:
        """Return the groups of a class, in the order in which they are shown."""
        return [group for group in self.groups if group.label == label]

    def is_strong(self, label: int) -> bool:
        """Whether a class has a window that is much stronger than its random windows, see `STRONG`."""
        return any(group.margin >= STRONG for group in self.of_class(label))

    def pictures(self, group: WindowGroup) -> list[Tensor]:
        """Return the pixels `(3, side, side)` of each window of a group, the strongest first."""
        return [window.of(self.data.images) for window in group.windows]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per group: its class, its place among the groups of the class, its shares, and its photos."""
        rows = []
        for label in self.tried:
            for place, group in enumerate(self.of_class(label), start=1):
                names = [self.data.names[window.photo] for window in group.windows] if self.data.names else []
                rows.append(
                    {
                        "class": self.data.classes[label],
                        "window": place,
                        "photos": len(group.windows),
                        "of": self.tried[label],
                        "share": group.share,
                        "random windows": group.random_share,
                        "windows of other classes": group.other_share,
                        "pastes": group.pastes,
                        "evidence": tuple(names),
                    }
                )
        return pd.DataFrame(rows)

    def rows(self, marked: int | None = None) -> list[SheetRow]:
        """Return the pictures and captions for a report, one row per class; those without a strong window are folded.

        Args:
            marked: the index of a class whose row is not folded, since a person has picked one of its windows.
        """
        rows = []
        for label, count in self.tried.items():
            cells = []
            for place, group in enumerate(self.of_class(label), start=1):
                cells.append(SheetCell(self._figures(group), f"{place}: {describe(group, count)}."))
            is_folded = label != marked and not self.is_strong(label)
            rows.append(SheetRow(self.data.classes[label], cells, is_folded))
        return rows

    def _figures(self, group: WindowGroup) -> list[Figure]:
        """Return the photo of the first window of a group, with the window's outline, and then the windows."""
        name = self.data.classes[group.label]
        first = group.windows[0]
        photo = self.data.names[first.photo] if self.data.names else f"photo {first.photo}"
        figures = [Figure(data_uri(first.outlined_on(self.data.images)), f"{name}: {photo}")]
        for window in group.windows[:MOST_PICTURES]:
            figures.append(Figure(data_uri(window.of(self.data.images)), f"{name}: window of photo {window.photo}"))
        return figures

    def findings(self) -> list[str]:
        """Say which windows are the first ones of each class, one sentence per entry, and what they do not show."""
        lines = []
        for label, count in self.tried.items():
            groups = self.of_class(label)
            if self.is_strong(label):
                lines.append(f"{self.data.classes[label]!r}: the first window is {describe(groups[0], count)}.")
        weak = sum(not self.is_strong(label) for label in self.tried)
        if weak:
            lines.append(
                f"{weak} of {len(self.tried)} classes have no strong window: none turns {STRONG:.0%} more of other "
                "photos than random windows do."
            )
        few = int((self.data.labels.bincount() > 0).sum()) - len(self.tried)
        if few:
            what = "1 class has" if few == 1 else f"{few} classes have"
            lines.append(f"{what} too few photos for a row.")
        if self.repeats:
            lines.append(
                f"{self.repeats} photos are copies of others or frames of the same scene; each scene counts once."
            )
        return [*lines, NOT_SEEN]

    def _repr_html_(self) -> str:
        """Return the contact sheet as HTML, for notebooks."""
        return render_sheet(self.rows(), NOT_SEEN)


def describe(group: WindowGroup, photos: int) -> str:
    """Say in how many photos a group's windows were found, and how many photos they turn into their class.

    Args:
        photos: the number of photos of the class whose windows were tried.
    """
    return (
        f"in {len(group.windows)} of {photos} photos; it turns {group.share:.0%} of other photos into the class, "
        f"random windows of the class {group.random_share:.0%}, windows of other classes {group.other_share:.0%}"
    )
