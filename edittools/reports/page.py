"""A report as a value, and as HTML: `render` fills the template, which escapes every text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from edittools._caching import atomic_path


@dataclass(frozen=True)
class Figure:
    """A picture with a caption.

    Attributes:
        source: the picture as a data URI, see `data_uri`.
        caption: the text below it; it is also what screen readers say.
    """

    source: str
    caption: str


@dataclass(frozen=True)
class Card:
    """An image before and after an edit.

    Attributes:
        source: the picture as a data URI.
        label: name of the class that it shows.
        before: name of the class that is predicted without the edit.
        after: name of the class that is predicted with the edit.
        state: "corrected", "broken", "misclassified" or "correct".
        probability: of the labeled class without the edit.
        edited_probability: of the labeled class with the edit.
        name: where the image comes from; may be empty.
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
class Bar:
    """A value with its interval, drawn on a line from `least` to `most`; NaN ends draw no interval.

    Attributes:
        name: what it is of, such as a method.
        value: the value.
        low: lower end of the interval.
        high: upper end of the interval.
        text: the value and its interval in words.
        note: the counts behind it.
        strong: whether it is of the edit that the report is about.
    """

    name: str
    value: float
    low: float
    high: float
    text: str
    note: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Page:
    """What a report says.

    Attributes:
        title: heading.
        subtitle: the classifier and the edit in a few words.
        word: the verdict: "use", "unclear" or "do not use".
        reason: why.
        advice: what to do next; may be empty.
        measures: name, figure and definition of reliability, generality and locality.
        conditions: the check list; each has `name`, `status`, `number` and `advice`.
        exemplars: pictures of x, x' and the mask.
        maps: pictures of where the edit acts.
        map_note: a sentence on them.
        cards: images with the concept, before and after.
        cards_note: a sentence on them.
        costs: clean and retained images that the edit breaks.
        costs_note: a sentence on them.
        corrected_bars: the share of errors corrected, by method.
        accuracy_bars: the change of accuracy in points, by method.
        table_head: column names of the table of methods.
        table: its rows.
        settings: name and value of each setting.
        versions: name and value of each version and fingerprint.
        code: code that repeats it.
        created: when the report was made.
        findings_note: what was probed and found, one sentence per line.
        findings_head: column names of the table of rules and suspicions.
        findings: its rows.
    """

    title: str
    subtitle: str
    word: str
    reason: str
    advice: str = ""
    measures: Sequence[tuple[str, str, str]] = ()
    conditions: Sequence[Any] = ()
    exemplars: Sequence[Figure] = ()
    maps: Sequence[Figure] = ()
    map_note: str = ""
    cards: Sequence[Card] = field(default=(), repr=False)
    cards_note: str = ""
    costs: Sequence[Card] = field(default=(), repr=False)
    costs_note: str = ""
    corrected_bars: Sequence[Bar] = ()
    accuracy_bars: Sequence[Bar] = ()
    table_head: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    settings: Sequence[tuple[str, str]] = ()
    versions: Sequence[tuple[str, str]] = ()
    code: str = ""
    created: str = ""
    findings_note: str = ""
    findings_head: Sequence[str] = ()
    findings: Sequence[Sequence[str]] = ()


def render(page: Page) -> str:
    """Fill the template: one HTML page with styles, script and pictures inside, which asks no other machine.

    Every text is escaped, so a class name or a file name with a tag in it shows as that text.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("edittools.reports", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.globals["place"] = _place
    environment.globals["ends"] = _ends
    environment.filters["sentence"] = _sentence
    return environment.get_template("report.html").render(page=page)


def save_page(page: Page, path: str | PathLike) -> Path:
    """Write a report as an HTML file, in one step; return its path."""
    path = Path(path).expanduser()
    text = render(page)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _sentence(text: str) -> str:
    """Begin with a capital, unless that is a symbol such as x', and end with a full stop."""
    first = text[:1] if text[1:2] in ("'", " ") else text[:1].upper()
    return f"{first}{text[1:]}."


def _ends(bars: Sequence[Bar]) -> tuple[float, float]:
    """Give the ends of a line on which all bars, their intervals and 0 fit."""
    numbers = [number for bar in bars for number in (bar.value, bar.low, bar.high) if number == number]
    least = min([0.0, *numbers])
    most = max([0.0, *numbers])
    margin = 0.03 * (most - least) or 1.0
    return least - margin, most + margin


def _place(number: float, ends: tuple[float, float]) -> str:
    """Give the place of a number on a line, in percent of its length."""
    least, most = ends
    return f"{100 * (number - least) / (most - least):.2f}"
