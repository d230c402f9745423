"""The report: one page that asks no other machine, escapes every text, stays small, and sorts its images."""

import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import pytest
import torch
from conftest import make_exemplar, needs_browser

from edittools.classifiers import Classifier
from edittools.images import LabelledImages
from edittools.metrics import predict
from edittools.reports import Bar, Card, Figure, Page, data_uri, render, save_page, shade
from edittools.selection import Check, Constraints, EditSearch, Splits, grid, repair, report_html, write_report

EVIL = "</style></script><script>document.title = 'harmed'</script><img src=x onerror=\"document.title = 'harmed'\">\"'"


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its texts."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.texts = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


def harmless(text):
    """Whether a page has one script and no event handler, as the template, and loads pictures from itself only."""
    page = Elements(text)
    handlers = [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    sources = [attributes.get("src") or attributes.get("href") or "data:" for _, attributes in page.elements]
    return page.count("script") == 1 and not handlers and all(source.startswith("data:") for source in sources)


def page_of(text, count=3):
    """A page in which every text is `text`."""
    picture = data_uri(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)))
    states = ("corrected", "broken", "misclassified", "correct")
    cards = [Card(picture, text, text, text, states[i % 4], 0.1 * i, 0.9 - 0.3 * i, text) for i in range(count)]
    bars = [Bar(text, 1.0, -1.0, 2.0, text, text), Bar(text, 0.5, float("nan"), float("nan"), text, strong=True)]
    return Page(
        title=text,
        subtitle=text,
        word="unclear",
        reason=text,
        advice=text,
        measures=[(text, text)],
        checks=[Check(text, False, text, text), Check(text, None, text, text)],
        exemplars=[Figure(picture, text)],
        replaced=[Figure(picture, text)],
        masks=text,
        maps=[Figure(picture, text)],
        map_note=text,
        cards=cards,
        cards_note=text,
        costs=cards,
        costs_note=text,
        corrected_bars=bars,
        accuracy_bars=bars,
        table_head=[text, text],
        table=[[text, text]],
        settings=[(text, text)],
        versions=[(text, text)],
        code=text,
        created=text,
        findings_note=text,
        findings_head=[text, text],
        findings=[[text, text]],
    )


def test_render_escapes_every_text():
    page = page_of(EVIL)
    assert all(getattr(page, one.name) for one in fields(page))
    assert harmless(render(page))
    plain = [tag for tag, _ in Elements(render(page_of("plain"))).elements]
    assert [tag for tag, _ in Elements(render(page)).elements] == plain
    assert any(EVIL in text for text in Elements(render(page)).texts)


def test_harmless_sees_what_is_not():
    assert not harmless("<script></script><script></script>")
    assert not harmless("<script></script><p onclick='x'>")
    assert not harmless("<script></script><img src='https://example.org/a.png'>")


def test_render_leaves_out_empty_parts():
    texts = "".join(Elements(render(Page("a", "b", "do not use", "c"))).texts)
    assert "do not use" in texts and "Checks" not in texts and "Repeat it" not in texts


def test_render_shows_what_was_not_measured_without_an_interval():
    page = replace(page_of("x"), corrected_bars=[Bar("a", 1.0, float("nan"), float("nan"), "1")], accuracy_bars=[])
    classes = [attributes.get("class") for tag, attributes in Elements(render(page)).elements if tag == "i"]
    assert classes == ["zero", "dot"]


def test_bars_are_placed_in_proportion():
    page = replace(page_of("x"), corrected_bars=[Bar("a", 50.0, 0.0, 100.0, "50")], accuracy_bars=[])
    styles = {one["class"]: one["style"] for tag, one in Elements(render(page)).elements if tag == "i"}
    zero, whisker, dot = (float(re.search(r"left:([\d.]+)%", styles[name])[1]) for name in ("zero", "whisker", "dot"))
    assert zero == whisker and dot == pytest.approx(50)


def test_save_page_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "folder" / "report.html"
    save_page(page_of("one"), path)
    assert save_page(page_of("two"), path) == path
    assert "two" in path.read_text() and list(path.parent.iterdir()) == [path]


def test_page_of_60_photos_is_small():
    generator = torch.Generator().manual_seed(0)
    photos = torch.rand(60, 3, 224, 224, generator=generator)  # noise: no photo is larger
    cards = [Card(data_uri(photo), "a", "b", "a", "corrected", 0.1, 0.9) for photo in photos]
    assert len(render(replace(page_of("x"), cards=cards)).encode()) < 3_000_000


@pytest.mark.parametrize(("shape", "kind"), [((64, 64), "png"), ((224, 224), "jpeg"), ((60, 300), "jpeg")])
def test_data_uri_names_the_kind_of_picture(shape, kind):
    assert data_uri(torch.rand(3, *shape)).startswith(f"data:image/{kind};base64,")


def test_shade_is_brighter_where_the_map_is_stronger():
    image = torch.full((3, 1, 3), 0.5)
    shaded = shade(image, torch.tensor([[0.0, 0.5, 7.0]])).mean(dim=0)[0]
    assert shaded[0] < shaded[1] < shaded[2] <= 1


# --- of searches ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evil():
    """A search with class names and image names that hold tags."""
    from conftest import made_tiny

    tiny, *_ = made_tiny()
    classifier = Classifier(tiny.model, [f"{EVIL} {i}" for i in range(5)], size=32)
    images = torch.rand(140, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = predict(classifier, images).argmax(1)
    labels[:12] = (labels[:12] + 1) % 5
    names = tuple(f"{EVIL} {i}.png" for i in range(140))
    data = LabelledImages(images, labels, classifier.classes, names)
    return classifier, make_exemplar(), data


@pytest.fixture(scope="module")
def search(evil):
    classifier, exemplar, data = evil
    splits = Splits(
        reference=data.images[80:],
        target=data.subset(range(20)),
        clean=data.subset(range(20, 50)),
        retain=data.subset(range(50, 60)),
        clean_test=data.subset(range(60, 80)),
    )
    loose = Constraints(max_accuracy_drop=100, max_retain_broken=100)
    return EditSearch(classifier, {EVIL: exemplar}, splits, ["conv1", "conv2"], loose)


def selected(search, cv=None):
    settings = grid(rank=(1, 3), objective=("least_squares",))
    return search.select(search.candidates("rewrite", settings, (1.0, 3.0)), cv=cv)


@pytest.mark.parametrize("cv", [None, 3])
def test_report_of_a_search_is_harmless(search, cv, tmp_path):
    selection = selected(search, cv)
    control = search.select(search.candidates("random_direction", [{"objective": "least_squares"}]), cv=cv)
    text = report_html(search, selection, {"random direction": control})
    assert harmless(text)
    path = write_report(tmp_path / "report.html", search, selection, {"random direction": control})
    assert re.sub(r"\d\d:\d\d UTC", "", path.read_text()) == re.sub(r"\d\d:\d\d UTC", "", text)
    words = "".join(Elements(text).texts)
    assert selection.edit.digest in words and selection.edit.fingerprint in words


def test_report_shows_each_image_with_the_edit_that_was_selected_without_it(search):
    """By hand: the state of each card, from the comparison by cross-validation."""
    selection = selected(search, 3)
    held_out = selection.held_out
    states = [
        one["data-state"]
        for tag, one in Elements(report_html(search, selection)).elements
        if tag == "li"
        if "data-state" in one
    ]
    assert len(states) >= 20
    assert states[:20].count("corrected") == held_out.corrected
    assert states[:20].count("broken") == held_out.broken
    assert states[:20].count("misclassified") == int((held_out.before & held_out.after).sum())


def test_report_without_a_feasible_candidate(evil, search):
    strict = Constraints(max_accuracy_drop=0, max_retain_broken=0)
    classifier, exemplar, data = evil
    right = replace(search.splits, target=data.subset(range(13, 20)))  # nothing to correct
    other = EditSearch(classifier, exemplar, right, ["conv1"], strict)
    selection = selected(other, 3)
    assert not selection.feasible
    text = report_html(other, selection)
    assert harmless(text) and "do not use" in text


def test_report_of_repair(evil, tmp_path):
    classifier, exemplar, data = evil
    fix = repair(
        classifier,
        exemplar,
        data.subset(range(20)),
        data.subset(range(60, 140)),
        {EVIL: data.subset(range(20, 40)), "others": data.subset(range(40, 60))},
        layers=["conv1", "conv2"],
        baselines=False,
        progress=False,
    )
    path = fix.report(tmp_path / "report.html", EVIL)
    text = path.read_text()
    assert harmless(text) and EVIL in "".join(Elements(text).texts)
    [code] = re.findall(r"<pre.*?<code>(.*?)</code>", text, re.DOTALL)
    compile(code.replace("&#39;", "'").replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">"), "code", "exec")
    assert harmless(fix.report_html())


@needs_browser
@pytest.mark.parametrize("width", [390, 1366])
def test_report_in_a_browser(search, tmp_path, width, chromium):
    from web import browser_page

    path = write_report(tmp_path / "report.html", search, selected(search, 3))
    outside = []
    with browser_page(chromium, path.as_uri(), outside) as page:
        errors = []
        page.on("pageerror", lambda error: errors.append(error))
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(path.as_uri())
        assert page.title() != "harmed" and not outside and not errors
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for order, sign in (("gain", -1), ("loss", 1)):
            page.select_option("#sort", order)
            changes = page.eval_on_selector_all("#cards li", "cards => cards.map(card => Number(card.dataset.change))")
            assert changes == sorted(changes, key=lambda change: sign * change) and len(changes) == 20
        backgrounds = set()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(backgrounds) == 2
