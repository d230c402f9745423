"""The content of a report, and its HTML: `render` fills a template, which escapes every text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from edittools._caching import atomic_path
from edittools.metrics import SIGNS
from edittools.reports.words import CheckWords

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


@dataclass(frozen=True)
class Page:
    """The content of a report.

    Attributes:
        title: the heading.
        subtitle: the classifier and the edit, in a few words.
        word: the verdict, "use", "unclear" or "do not use"; in an audit without a repair, another short heading.
        sentences: what it corrects, what it costs, and what to do next.
        checks: the checklist, the status and the words of each check.
        exemplars: pictures of x, x' and the mask.
        looked_at: images that a person should look at; an audit shows them and the exemplar above the verdict.
        looked_at_head: the heading above them.
        looked_at_note: what to look for.
        maps: pictures of where the edit acts.
        map_note: a note on `maps`.
        cards: images with the concept, before and after the edit.
        cards_note: a note on `cards`.
        costs: clean and retained images that the edit breaks.
        costs_note: a note on `costs`.
        table_head: column names of the table of methods.
        table: rows of the table of methods.
        settings: name and value of each setting.
        versions: name and value of each version and fingerprint.
        code: code that repeats the selection.
        created: date and time at which the report was made.
        findings_note: what an audit has found, one sentence per line.
        sheet: the contact sheet of an audit, one row per class.
        sheet_note: what stands below the contact sheet, one sentence per line.
    """

    title: str
    subtitle: str
    word: str
    sentences: Sequence[str] = ()
    checks: Sequence[tuple[str, CheckWords]] = ()
    exemplars: Sequence[Figure] = ()
    looked_at: Sequence[Figure] = field(default=(), repr=False)
    looked_at_head: str = ""
    looked_at_note: str = ""
    maps: Sequence[Figure] = ()
    map_note: str = ""
    cards: Sequence[Card] = field(default=(), repr=False)
    cards_note: str = ""
    costs: Sequence[Card] = field(default=(), repr=False)
    costs_note: str = ""
    table_head: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    settings: Sequence[tuple[str, str]] = ()
    versions: Sequence[tuple[str, str]] = ()
    code: str = ""
    created: str = ""
    sheet: Sequence[SheetRow] = field(default=(), repr=False)
    sheet_note: str = ""
    findings_note: str = ""


def render(page: Page) -> str:
    """Render a report as one HTML page.

    Styles, script and pictures are inside the page, so it can be read offline. Every text is escaped, so a class name
    or a file name that contains an HTML tag is shown as it is.

    Args:
        page: the content.

    Returns:
        The HTML.
    """
    return _environment().get_template("report.html").render(page=page)


def render_sheet(rows: Sequence[SheetRow], note: str) -> str:
    """Render a contact sheet as a piece of HTML with its own style, for a notebook.

    Args:
        rows: one row per class.
        note: what stands below.
    """
    template = _environment().get_template("sheet.html")
    return str(template.module.styled_sheet(rows, note))


def save_page(page: Page, path: str | PathLike) -> Path:
    """Write a report as an HTML file, in one step, and return its path."""
    path = Path(path).expanduser()
    text = render(page)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


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
