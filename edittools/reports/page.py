"""What a report shows, and its HTML: `render` fills a template, which escapes every text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edittools.metrics import SIGNS

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Figure:
    """A picture with a caption.

    Attributes:
        source: the picture as a data URI, see `data_uri`.
        caption: the text below the picture, which is also its alternative text for screen readers.
    """

    source: str
    caption: str


@dataclass(frozen=True)
class Card:
    """An image before and after an edit.

    Attributes:
        source: the image as a data URI.
        label: name of the class that the image shows.
        before: name of the class that is predicted without the edit.
        after: name of the class that is predicted with the edit.
        state: "corrected", "broken", "misclassified" or "correct".
        probability: probability of the labeled class without the edit.
        edited_probability: probability of the labeled class with the edit.
        name: name of the image, such as that of its file; may be empty.
    """

    source: str
    label: str
    before: str
    after: str
    state: str
    probability: float
    edited_probability: float
    name: str = ""

    @property
    def change(self) -> float:
        """The change of the probability of the labeled class."""
        return self.edited_probability - self.probability


@dataclass(frozen=True)
class SheetCell:
    """Windows of photos on a contact sheet that resemble each other.

    Attributes:
        figures: the photo of the first window, and the windows.
        caption: what the windows do.
    """

    figures: Sequence[Figure] = field(repr=False)
    caption: str


@dataclass(frozen=True)
class SheetRow:
    """The row of a class on a contact sheet.

    Attributes:
        name: name of the class.
        cells: groups of windows, the most striking one first.
        is_folded: whether all but the first windows, which are small then, are shown only when a reader opens the row.
    """

    name: str
    cells: Sequence[SheetCell]
    is_folded: bool = False


def render(template: str, **content: Any) -> str:
    """Render a report, or a part of it, as HTML.

    Styles, script, and pictures are inside the page, so it can be read offline. Every text is escaped, so a class name
    or a file name that contains an HTML tag is shown as it is.

    Args:
        template: a file of this package. "report.html" is what all reports share: a heading, the word of the verdict,
            and its sentences. "repair.html" and "audit.html" extend it; "edit.html" is what both say of an edit.
        content: what the template shows, by name; one that is missing is an error.
    """
    created = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return _environment().get_template(template).render(created=created, **content)


def render_sheet(rows: Sequence[SheetRow], note: str) -> str:
    """Render a contact sheet as a piece of HTML with its own style, for a notebook.

    Args:
        rows: one row per class.
        note: what stands below.
    """
    template = _environment().get_template("sheet.html")
    return str(template.module.styled_sheet(rows, note))


def _environment() -> "Environment":
    """Make the environment of the templates, which escapes every text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("edittools.reports", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.globals["signs"] = SIGNS
    environment.filters["minus"] = with_minus_signs
    return environment


def with_minus_signs(text: str) -> str:
    """Write the hyphens before negative numbers as minus signs; those in names, dates, and exponents stay."""
    return re.sub(r"(?<![\w.-])-(?=\d)", "−", text)
