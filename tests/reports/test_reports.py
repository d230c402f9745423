"""The report: one page that asks no other machine, escapes every text, stays small, and sorts its images."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import torch
from colors import BLUE, CLASSES, GREEN, RED, color_network, marked_exemplar, of_colors, ordinary, with_mark
from conftest import needs_browser
from jinja2 import UndefinedError

from edittools.classifiers import Classifier, fingerprint
from edittools.images import LabeledImages
from edittools.reports import Figure, SheetCell, SheetRow, data_uri, render, shade
from edittools.selection import repair
from edittools.selection.finetuning import Finetuned
from edittools.selection.page import broken_cards
from edittools.verdict import WORDS

EVIL = "</style></script><script>document.title = 'harmed'</script><img src=x onerror=\"document.title = 'harmed'\">\"'"


class Elements(HTMLParser):
    """The elements of a page with their attributes, its texts, and the rows of its tables as texts."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.texts = []
        self.rows = []
        self.is_in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
            self.is_in_cell = True

    def handle_endtag(self, tag):
        self.is_in_cell = self.is_in_cell and tag not in ("th", "td")

    def handle_data(self, data):
        self.texts.append(data)
        if self.is_in_cell:
            self.rows[-1][-1] += data.strip()

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


def harmless(text):
    """Whether a page has one script and no event handler, as the template, and loads pictures from itself only."""
    page = Elements(text)
    handlers = [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    sources = [attributes.get("src") or attributes.get("href") or "data:" for _, attributes in page.elements]
    return page.count("script") == 1 and not handlers and all(source.startswith("data:") for source in sources)


def base_page(word="do not use", text="c"):
    """A page of what all reports share."""
    return render("report.html", title=text, classifier=text, fix=None, word=word, sentences=[text])


def test_render_escapes_every_text():
    assert harmless(base_page(text=EVIL))
    assert any(EVIL in text for text in Elements(base_page(text=EVIL)).texts)


def test_report_of_an_audit_escapes_every_text():
    figure = Figure(data_uri(torch.zeros(3, 16, 16)), EVIL)
    audit = SimpleNamespace(mark=SimpleNamespace(windows=[EVIL]), findings=lambda: [EVIL])
    page = render(
        "audit.html",
        title=EVIL,
        classifier=EVIL,
        audit=audit,
        fix=None,
        word=EVIL,
        sentences=[EVIL],
        rows=[SheetRow(EVIL, [SheetCell([figure], EVIL)], is_folded) for is_folded in (False, True)],
        note=EVIL,
        exemplars=[figure],
        found=[figure],
        edit="",
    )
    assert harmless(page) and Elements(page).count("img") == 4


def test_render_without_a_part_that_a_template_shows_fails():
    with pytest.raises(UndefinedError, match="'sentences'"):
        render("report.html", title="a", classifier="b", fix=None, word="use")


def test_report_of_60_photos_is_small():
    generator = torch.Generator().manual_seed(0)
    photos = torch.rand(60, 3, 224, 224, generator=generator)  # noise: no photo is larger
    assert len("".join(data_uri(photo) for photo in photos)) < 3_000_000


@pytest.mark.parametrize(("side", "kind"), [(64, "png"), (224, "jpeg")])
def test_data_uri_names_the_kind_of_picture(side, kind):
    assert data_uri(torch.rand(3, side, side)).startswith(f"data:image/{kind};base64,")


def test_shade_is_brighter_where_the_map_is_stronger():
    image = torch.full((3, 1, 3), 0.5)
    shaded = shade(image, torch.tensor([[0.0, 0.5, 7.0]])).mean(dim=0)[0]
    assert shaded[0] < shaded[1] < shaded[2] <= 1


# --- of repairs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repaired():
    """A repair in which the names of classes, exemplars, images and sets hold tags."""
    original = color_network()
    classes = [f"{EVIL} {name}" for name in CLASSES]
    classifier = Classifier(original.model, classes, (0, 0, 0), (1, 1, 1), size=16)

    def renamed(data, name):
        names = tuple(f"{EVIL} {name} {number}.png" for number in range(len(data)))
        return LabeledImages(data.images, data.labels, classes, names)

    return repair(
        classifier,
        {EVIL: marked_exemplar()},
        ordinary(150, 1).images,
        concept=renamed(with_mark(of_colors([RED, GREEN] * 15 + [BLUE] * 5, 2), 3), "concept"),
        clean=renamed(ordinary(60, 4), "clean"),
        retain={EVIL: renamed(of_colors([RED] * 20, 5), "reds"), "others": of_colors([GREEN] * 9, 6).images},
        layers=["2"],
        progress=None,
    )


def states_of(page):
    """The states of the images of a page, in their order."""
    return [one["data-state"] for tag, one in Elements(page).elements if tag == "li" if "data-state" in one]


def test_report_shows_what_the_edit_does_to_each_image(repaired):
    found = repaired.effects["concept"].comparison
    states = states_of(repaired.page())[:30]
    assert states.count("corrected") == found.corrected > 0
    assert states.count("broken") == found.broken
    assert states.count("misclassified") == int((found.before & found.after).sum())
    assert states.count("correct") == int((~found.before & ~found.after).sum())


def test_report_shows_the_images_that_an_edit_breaks(repaired):
    clean = repaired.effects["clean"]
    broken = replace(clean, after=torch.where(torch.arange(60) < 3, (clean.labels + 1) % 3, clean.labels))
    found = replace(repaired)
    vars(found).update(vars(repaired), effects=repaired.effects | {"clean": broken})
    page = found.page()
    expected = {data_uri(image) for image in repaired.splits.clean.images[:3]}
    cards = broken_cards(found.cut, found.selection.edit, found.splits, found.effects)
    assert {card.source for card in cards} == expected and len(cards) == 3
    assert {card.after for card in cards} <= set(repaired.classifier.classes)
    assert states_of(page)[30:] == ["broken"] * 3 and "− broken" in Elements(page).texts


def test_report_says_all_of_the_verdict(repaired):
    texts = Elements(repaired.page()).texts
    words = repaired.words("page")
    assert words.gain in texts and words.next_step in texts and set(words.costs) <= {*texts}
    assert repaired.report_data()["verdict"] == {"word": words.word, "text": str(words)}


def test_report_has_a_row_for_each_method_with_a_dash_for_what_was_not_measured(repaired):
    nothing = Finetuned(0.0 * repaired.selection.edit, {}, repaired.selection.scores)
    page = replace(repaired, finetuned=nothing).page()
    rows = {row[0]: row[1:] for row in Elements(page).rows[1:]}
    assert list(rows) == ["selected", "random direction", "fine-tuning"]
    found = repaired.effects["concept"].by_scene
    low, high = found.corrected_interval()
    share = f"{found.errors_corrected:.0%} [{low:.0%}, {high:.0%}]"
    errors = int(found.before.sum())
    assert rows["selected"][:3] == [share, f"{found.corrected} of {errors}", str(found.broken)]
    assert "–" not in rows["selected"] and rows["random direction"].count("–") == 4
    assert rows["fine-tuning"][1:3] == [f"0 of {errors}", "0"]


@pytest.mark.parametrize("word", WORDS)
def test_each_word_of_a_verdict_has_its_colors(word):
    html = base_page(word)
    name = word.replace(" ", "-")
    [classes] = [one["class"] for _, one in Elements(html).elements if one.get("class", "").startswith("verdict")]
    assert classes.split() == ["verdict", name] and f".{name} .word" in html


def test_report_of_an_edit_without_labeled_images(repaired):
    bare = replace(repaired, splits=replace(repaired.splits, concept=None, own_class=None, clean=None, retain={}))
    text = bare.page()
    assert harmless(text) and "unclear" in text
    json.dumps(bare.report_data(), allow_nan=False)


def test_report_of_repair(repaired, tmp_path):
    path = repaired.report(tmp_path / "report.html")
    assert path == tmp_path / "report.html"
    text = path.read_text()
    assert harmless(text) and EVIL in "".join(Elements(text).texts)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json"]
    data = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)  # no NaN
    assert data["verdict"]["word"] == repaired.verdict.word and not data["reselected"]
    assert [check["status"] for check in data["checks"]] == [check.status for check in repaired.checks]
    assert "gain" in [check["check"] for check in data["checks"]]
    assert [row["method"] for row in data["methods"]] == repaired.table.index.tolist()
    assert [row["corrected"] for row in data["methods"]] == repaired.table.corrected.tolist()
    assert data["fingerprints"]["weights"] == fingerprint(repaired.classifier.model)
    assert data["fingerprints"]["edit"] == repaired.edit.digest
    concept = data["fingerprints"]["images"]["concept"]
    assert (concept["count"], concept["scenes"], concept["digest"]) == (30, 30, repaired.splits.digests["concept"])
    assert repaired.edit.digest in text
    with pytest.raises(ValueError, match="report.json"):
        repaired.report(tmp_path / "report.json")


@needs_browser
@pytest.mark.parametrize("width", [390, 1366])
def test_report_in_a_browser(repaired, tmp_path, width, chromium):
    from web import browser_page

    path = repaired.report(tmp_path / "report.html")
    outside = []
    with browser_page(chromium, path.as_uri(), outside) as page:
        errors = []
        page.on("pageerror", lambda error: errors.append(error))
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(path.as_uri())
        assert page.title() != "harmed" and not outside and not errors
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        wide = """() => [...document.querySelectorAll('.figures')].filter(table => table.getBoundingClientRect().right
            > document.querySelector('main').getBoundingClientRect().right).length"""
        assert page.locator(".figures").count() and not page.evaluate(wide)
        assert not re.search(r"(?<![\w.-])-\d", page.inner_text("main"))
        assert page.evaluate("document.documentElement.scrollHeight") < (7000 if width == 390 else 5000)
        page.locator("details", has=page.locator("#sort")).locator("summary").click()
        for order, sign in (("gain", -1), ("loss", 1)):
            page.select_option("#sort", order)
            changes = page.eval_on_selector_all("#cards li", "cards => cards.map(card => Number(card.dataset.change))")
            assert changes == sorted(changes, key=lambda change: sign * change) and len(changes) == 30
        backgrounds = set()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(backgrounds) == 2
