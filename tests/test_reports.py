"""The report: one page that asks no other machine, escapes every text, stays small, and sorts its images."""

import json
import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from conftest import bars_that_call, let_layers_go_on, needs_browser

from edittools.classifiers import Classifier, fingerprint
from edittools.images import LabelledImages
from edittools.metrics import Comparison, predict
from edittools.reports import (
    Bar,
    Card,
    Figure,
    LayerBar,
    Page,
    Point,
    SheetCell,
    SheetRow,
    TradeOff,
    data_uri,
    render,
    render_layers,
    save_page,
    shade,
)
from edittools.reports.charts import Axis, plots_of
from edittools.selection import Check, Evaluation, Search, repair
from edittools.selection.finetuning import Finetuned, judged_images
from edittools.selection.verdict import WORDS

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


def page_of(text, count=3):
    """A page in which every text is `text`."""
    picture = data_uri(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)))
    states = ("corrected", "broken", "misclassified", "correct")
    cards = [Card(picture, text, text, text, states[i % 4], 0.1 * i, 0.9 - 0.3 * i, text) for i in range(count)]
    bars = [Bar(text, 1.0, -1.0, 2.0, text, text), Bar(text, 0.5, float("nan"), float("nan"), text, strong=True)]
    points = [Point(text, 3, 1, -0.5, 2, feasible=True), Point(text, 3, 0, 0.0, 9, feasible=False, selected=True)]
    return Page(
        title=text,
        subtitle=text,
        word="unclear",
        reason=text,
        advice=text,
        lines=[(text, text)],
        checks=[Check(text, False, text, text), Check(text, None, text, text)],
        exemplars=[Figure(picture, text)],
        looked_at=[Figure(picture, text)],
        looked_at_head=text,
        looked_at_note=text,
        maps=[Figure(picture, text)],
        map_note=text,
        cards=cards,
        cards_note=text,
        costs=cards,
        costs_note=text,
        corrected_bars=bars,
        accuracy_bars=bars,
        layers=[LayerBar(text, 3, 1, 0.5), LayerBar(text, 4, 0, 0.4, goes_on=True, selected=True)],
        trade_off=TradeOff(points, -0.25, 3),
        table_head=[text, text],
        table=[[text, text]],
        settings=[(text, text)],
        versions=[(text, text)],
        code=text,
        created=text,
        findings_note=text,
        findings_head=[text, text],
        findings=[[text, text]],
        sheet=[SheetRow(text, [SheetCell([Figure(picture, text)], text)])],
        sheet_note=text,
    )


def test_render_escapes_every_text():
    page = page_of(EVIL)
    assert all(getattr(page, one.name) for one in fields(page))
    assert harmless(render(page))
    tags = [tag for tag, _ in Elements(render(page)).elements if tag != "wbr"]  # after each period of a layer's name
    assert tags == [tag for tag, _ in Elements(render(page_of("plain"))).elements]
    assert any(EVIL in text for text in Elements(render(page)).texts)


def test_render_leaves_out_empty_parts():
    texts = "".join(Elements(render(Page("a", "b", "do not use", "c"))).texts)
    assert "do not use" in texts and "Checks" not in texts and "Repeat it" not in texts


def test_render_shows_what_was_not_measured_without_an_interval():
    bars = [Bar("a", 1.0, float("nan"), float("nan"), "1")]
    page = replace(page_of("x"), corrected_bars=bars, accuracy_bars=[], layers=[], trade_off=None)
    classes = [attributes.get("class") for tag, attributes in Elements(render(page)).elements if tag == "i"]
    assert [name for name in classes if name != "grid"] == ["zero", "dot"]


def test_bars_are_placed_in_proportion():
    bars = [Bar("a", 50.0, 0.0, 100.0, "50")]
    page = replace(page_of("x"), corrected_bars=bars, accuracy_bars=[], layers=[], trade_off=None)
    styles = {one["class"]: one["style"] for tag, one in Elements(render(page)).elements if tag == "i"}
    zero, whisker, dot = (float(re.search(r"left:([\d.]+)%", styles[name])[1]) for name in ("zero", "whisker", "dot"))
    assert zero == whisker and dot == pytest.approx(50)


@pytest.mark.parametrize("low, value, high", [(-45.0, -20.0, 10.0), (52.0, 83.0, 98.0), (-0.2, -0.02, 0.1)])
def test_bars_have_ticks_and_a_label_at_zero(low, value, high):
    page = replace(page_of("x"), corrected_bars=[Bar("a", value, low, high, "")], accuracy_bars=[])
    html = render(page)
    ticks = [(float(place), text) for place, text in re.findall(r'<span style="left:([\d.]+)%">([^<]*)%</span>', html)]
    [origin] = re.findall(r'<span class="origin" style="left:([\d.]+)%">', html)
    [zero] = re.findall(r'<i class="zero" style="left:([\d.]+)%">', html)
    assert len(ticks) >= 3 and origin == zero and (float(zero), "0") in ticks
    dot = float(re.search(r'<i class="dot" style="left:([\d.]+)%">', html)[1])
    numbers = [float(text.replace("−", "-")) for _, text in ticks]
    assert dot == pytest.approx(np.interp(value, numbers, [place for place, _ in ticks]), abs=0.02)


# --- charts -----------------------------------------------------------------------------------------------------------


def rows_of(html, name):
    """The texts of each row below the head of the table of a class, or in an element of this class."""
    tables = re.findall(rf'class="{name}".*?</table>', html, re.DOTALL)
    return [row for table in tables for row in Elements(f"<p {table}").rows[1:]]


def layer_rows(html):
    """Name of the layer, corrected, broken and loss, of each row of the chart of layers."""
    return [(row[0], *row[2:]) for row in rows_of(html, "layers")]


def render_trade_off(trade_off):
    """The charts in a report with this trade-off, and without layers."""
    _, _, charts = render(Page("title", "subtitle", "unclear", "reason", trade_off=trade_off)).partition("et-charts")
    return charts


def test_bars_of_layers_are_in_proportion():
    layers = [LayerBar("a", 10, 0, 0.1), LayerBar("b", 5, 10, 0.2), LayerBar("c", 0, 0, 0.3)]
    styles = [one for tag, one in Elements(render_layers(layers)).elements if tag == "i" and "style" in one]
    ends = {"broken": [], "corrected": []}
    for one in styles:
        if one["class"] in ends:
            left = float(re.search(r"left:([\d.]+)%", one["style"])[1])
            right = float(re.search(r"right:calc\(100% - ([\d.]+)%", one["style"])[1])
            ends[one["class"]].append((left, right))
    assert ends == {"broken": [(50, 50), (0, 50), (50, 50)], "corrected": [(50, 100), (50, 75), (50, 50)]}


def test_chart_of_layers_marks_those_that_go_on_and_the_selected_one():
    layers = [LayerBar("a", 1, 0, 0.1, goes_on=True, selected=True), LayerBar("b", 2, 0, 0.2)]
    html = render_layers(layers)
    [first, second] = [row[0] for row in layer_rows(html)]
    assert first.startswith("▸") and "selected" in first and second == "b"
    assert sum(one.get("class") == "on" for tag, one in Elements(html).elements if tag == "tr") == 1


@pytest.mark.parametrize("numbers", [(0.0,), (3, 3), (0, 1, 190), (-7, 4, 12)])
@pytest.mark.parametrize("ends", [(15.0, 97.0), (79.0, 4.0)])
def test_axis_holds_its_numbers_in_their_order_and_some_ticks(numbers, ends):
    axis = Axis(numbers, *ends)
    places = [axis.place(number) for number in sorted(numbers)]
    assert places == sorted(places, reverse=ends[0] > ends[1])
    assert all(min(ends) < place < max(ends) for place in places)
    assert 2 <= len(axis.ticks) <= 8
    for place, text in axis.ticks:
        assert place == axis.place(float(text.replace("−", "-"))) and min(ends) <= place <= max(ends)


def test_plots_place_better_candidates_higher_and_further_to_the_right():
    worse = Point("worse", 4, 1, -0.5, 7, feasible=False)
    better = Point("better", 9, 2, 0.1, 2, feasible=True)
    for plot in plots_of(TradeOff([worse, better], -0.25, 3)):
        low, high = plot.marks
        assert (low.point, high.point) == (worse, better)
        assert low.x < high.x and low.y > plot.limit > high.y


def test_plots_without_retained_images_are_of_the_accuracy_only():
    point = Point("a", 4, 1, 0.0, 0, feasible=True)
    [plot] = plots_of(TradeOff([point], -50))
    assert plot.limit is None
    html = render_trade_off(TradeOff([point], -50))
    assert Elements(html).count("figure") == 1
    assert rows_of(html, "candidates") == [["a", "4", "1", "+0.00", "satisfied"]]


def test_marks_of_candidates_differ_by_more_than_their_color():
    points = [Point("a", 4, 1, 0.0, 0, feasible=True), Point("b", 5, 1, 0.0, 0, feasible=False, selected=True)]
    html = render_trade_off(TradeOff(points, -0.25))
    first, second = re.findall(r"<title>.*?</svg>", html, re.DOTALL)
    assert first.count("<circle") == 1 and "<path" not in first
    assert second.count("<circle") == 1 and 'class="ring"' in second and "<path" in second


def test_chart_of_no_layers_is_empty():
    trade_off = TradeOff([Point("a", 4, 1, 0.0, 0, feasible=True)], -0.25)
    assert render_layers([]) == "" and not layer_rows(render_trade_off(trade_off))


def test_save_page_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "folder" / "report.html"
    save_page(page_of("one"), path)
    assert save_page(page_of("two"), path) == path
    assert "two" in path.read_text() and list(path.parent.iterdir()) == [path]


def test_card_of_a_page_has_a_sign_for_its_state():
    texts = Elements(render(page_of("x", count=4))).texts
    assert {"+ corrected", "− broken", "✗ misclassified", "✓ correct"} <= set(texts)


def test_page_of_60_photos_is_small():
    generator = torch.Generator().manual_seed(0)
    photos = torch.rand(60, 3, 224, 224, generator=generator)  # noise: no photo is larger
    cards = [Card(data_uri(photo), "a", "b", "a", "corrected", 0.1, 0.9) for photo in photos]
    assert len(render(replace(page_of("x"), cards=cards)).encode()) < 3_000_000


@pytest.mark.parametrize(("side", "kind"), [(64, "png"), (224, "jpeg")])
def test_data_uri_names_the_kind_of_picture(side, kind):
    assert data_uri(torch.rand(3, side, side)).startswith(f"data:image/{kind};base64,")


def test_shade_is_brighter_where_the_map_is_stronger():
    image = torch.full((3, 1, 3), 0.5)
    shaded = shade(image, torch.tensor([[0.0, 0.5, 7.0]])).mean(dim=0)[0]
    assert shaded[0] < shaded[1] < shaded[2] <= 1


# --- of repairs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evil(snow):
    """Arguments of `repair`, in which the names of classes, images and sets hold tags."""
    original = snow["classifier"]
    mean, std = (tensor.flatten().tolist() for tensor in (original.mean, original.std))
    classifier = Classifier(original.model, [f"{EVIL} {name}" for name in original.classes], mean, std, size=64)

    def renamed(data, name):
        names = tuple(f"{EVIL} {name} {number}.png" for number in range(len(data)))
        return LabelledImages(data.images, data.labels, classifier.classes, names)

    return {
        **snow,
        "classifier": classifier,
        "exemplars": {EVIL: snow["exemplars"]},
        "concept": renamed(snow["concept"], "concept"),
        "clean": renamed(snow["clean"], "clean"),
        "retain": {EVIL: renamed(snow["retain"]["sleds"], "sleds"), "others": snow["retain"]["penguins"].images},
        "layers": ["features.8", "features.10"],
    }


@pytest.fixture(scope="module")
def repaired(evil):
    fix = repair(**evil)
    assert fix.selection.feasible
    return fix


@pytest.fixture(scope="module")
def not_repaired(evil):
    """No candidate is feasible, since the labels are those of other classes."""
    concept = replace(evil["concept"], labels=(evil["concept"].labels + 7) % 16)
    fix = repair(**{**evil, "concept": concept, "layers": ["features.15"]})
    assert not fix.selection.feasible and int(fix.selection.outcomes.net.max()) <= 0
    return fix


def states_of(page):
    """The states of the images of a page, in their order."""
    return [one["data-state"] for tag, one in Elements(render(page)).elements if tag == "li" if "data-state" in one]


def test_report_shows_each_image_with_the_edit_that_was_selected_without_it(repaired):
    """By hand: the state of each card, from the comparison by cross-validation."""
    held_out = repaired.selection.held_out["target"]
    states = states_of(repaired.page())[:30]
    assert states.count("corrected") == held_out.corrected > 0
    assert states.count("broken") == held_out.broken
    assert states.count("misclassified") == int((held_out.before & held_out.after).sum())
    assert states.count("correct") == int((~held_out.before & ~held_out.after).sum())


def test_report_shows_the_images_that_an_edit_breaks_if_it_is_selected_without_them(fix):
    """By hand, with the model itself: the clean and the retained images."""
    splits, classifier = fix.search.splits, fix.search.classifier
    expected = []
    for name in ("clean", "retain"):
        images = splits.labeled[name]
        before = predict(classifier, images).argmax(1)
        for number, label in enumerate(images.labels.tolist()):
            edit = fix.selection.fold_selections[splits.folds[name][number]].edit
            after = predict(edit.edited(classifier), images.images[number][None]).argmax(1)
            if before[number] == label != after:
                expected.append((classifier.classes[label], classifier.classes[after], images.images[number]))
    page = fix.page()
    assert [(card.label, card.after, card.source) for card in page.costs] == [
        (label, after, data_uri(image)) for label, after, image in expected
    ]
    assert expected and states_of(page)[30:] == ["broken"] * len(expected)


def test_report_has_the_three_lines_of_the_verdict(fix, not_repaired):
    texts = Elements(render(fix.page())).texts
    assert list(fix.verdict.lines) == ["helps", "costs", "instead"]
    for name, line in fix.verdict.lines.items():
        shown = re.sub(r"(?<![\w.-])-(?=\d)", "−", line[1:])
        assert name in texts and any(shown in text for text in texts)
        assert fix.report_data()["verdict"][name] == line
    assert not not_repaired.page().lines


def test_report_has_a_row_for_each_method_with_a_dash_for_what_was_not_measured(fix):
    judged = judged_images(fix.search)
    third = fix.evaluation.on(fix.search, judged)
    other = Comparison(third.target.before, third.target.before)
    compared = replace(
        fix,
        finetuned={"fine-tuning": Finetuned(None, {}, third, 27)},
        others={"retrained": Evaluation(other, None)},
    )
    page = compared.page()
    rows = {row[0]: row[1:] for row in page.table}
    assert list(rows) == ["selected", "random direction", "fine-tuning", "retrained"]
    assert rows["selected"][:3] == ["14", "0", "17"] and rows["selected"][4] == "0 of 29"
    assert rows["random direction"] == ["2", "0", "17", "–", "–", "–"]  # 1.7, the mean of the draws
    errors = int(third.target.before.sum())
    assert rows["fine-tuning"][:3] == [str(third.target.corrected), "0", str(errors)]
    assert rows["fine-tuning"][5] == "27"
    assert rows["retrained"] == ["0", "0", str(errors), "–", "–", "–"]
    assert [bar.name for bar in page.corrected_bars] == list(rows)
    assert [bar.name for bar in page.accuracy_bars] == ["selected", "fine-tuning"]
    [drawn] = [row for row in compared.report_data()["methods"] if row["method"] == "random direction"]
    assert drawn["accuracy change"] is None and drawn["corrected"] == pytest.approx(5 / 3)


@pytest.mark.parametrize("word", WORDS)
def test_each_word_of_a_verdict_has_its_colors(word):
    html = render(Page("a", "b", word, "c"))
    name = word.replace(" ", "-")
    [classes] = [one["class"] for _, one in Elements(html).elements if one.get("class", "").startswith("verdict")]
    assert classes.split() == ["verdict", name] and f".{name} .word" in html


def test_report_without_a_feasible_candidate(not_repaired):
    text = render(not_repaired.page())
    assert harmless(text) and "do not use" in text


def test_report_of_repair(evil, repaired, tmp_path):
    steps = []
    bars = bars_that_call(lambda bar: steps.append((bar.n, bar.total)))
    path = repaired.report(tmp_path / "report.html", bars)
    assert path == tmp_path / "report.html"
    text = path.read_text()
    assert harmless(text) and EVIL in "".join(Elements(text).texts)
    [code] = re.findall(r"<pre.*?<code>(.*?)</code>", text, re.DOTALL)
    compile(code.replace("&#39;", "'").replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">"), "code", "exec")
    assert harmless(render(repaired.page()))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json"]
    data = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)  # no NaN
    assert data["verdict"]["word"] == repaired.verdict.word
    assert [check["status"] for check in data["checks"]] == [check.status for check in repaired.checks]
    assert [row["method"] for row in data["methods"]] == repaired.table.index.tolist()
    assert [row["corrected"] for row in data["methods"]] == repaired.table.corrected.tolist()
    assert data["settings"]["layers"] == evil["layers"] and data["settings"]["source"] == "sample"
    assert data["fingerprints"]["weights"] == fingerprint(evil["classifier"].model)
    assert data["fingerprints"]["edit"] == repaired.edit.digest
    assert data["fingerprints"]["images"]["target"]["count"] == 30
    for digest in (repaired.edit.digest, data["fingerprints"]["images"]["target"]["digest"]):
        assert digest in text
    assert steps == [(done, len(steps)) for done in range(1, len(steps) + 1)] and len(steps) > 1
    steps.clear()
    with pytest.raises(ValueError, match="report.json"):
        repaired.report(tmp_path / "report.json", progress=bars)
    assert not steps  # refused before anything is computed


@pytest.fixture(scope="module")
def two_passes(snow):
    """What `repair` finds in all layers, in two passes."""
    with pytest.MonkeyPatch.context() as patch:
        let_layers_go_on(patch, 4)
        return repair(**{**snow, "layers": None})


def test_report_has_a_row_for_each_layer_of_the_first_pass(two_passes):
    expected = []
    for _, row in two_passes.layers.iterrows():
        name = f"{'▸' * row['goes on']}{row.layer}{'selected' * (row.layer in two_passes.edit.layers)}"
        expected.append((name, str(row.corrected), str(row.broken), f"{row.loss:.3f}"))
    assert len(expected) == 7 and layer_rows(render(two_passes.page())) == expected
    assert layer_rows(two_passes.layers_html()) == expected


def test_report_after_a_single_pass_shows_no_layers(fix):
    assert not len(fix.layers) and not layer_rows(render(fix.page()))


@pytest.mark.parametrize("which", ["two_passes", "fix"])
def test_report_has_a_row_for_each_candidate_of_the_trade_off(which, request):
    fix = request.getfixturevalue(which)
    rows = rows_of(render(fix.page()), "candidates")
    assert len(fix.trade_off)
    for row, (_, expected) in zip(rows, fix.trade_off.iterrows(), strict=False):
        change = f"{expected['accuracy change']:+.2f}".replace("-", "−")
        counts = [str(expected[name]) for name in ("corrected", "broken")]
        assert row[0].removesuffix("selected") == expected.candidate
        assert row[1:5] == [*counts, change, str(expected["retained broken"])]
        assert (row[5] == "satisfied") == expected.feasible
    [selected] = [row for row in rows if row[0].endswith("selected")]
    scores = fix.selection.scores
    assert selected[1:3] == [str(scores["corrected"]), str(scores["broken"])] and selected[5] == "satisfied"
    assert len(rows) - len(fix.trade_off) in (0, 1)  # the selected one need not be among those that no other one beats


def test_report_without_a_candidate_that_corrects_more_than_it_breaks_shows_no_trade_off(not_repaired):
    assert not len(not_repaired.trade_off)
    assert not Elements(render(not_repaired.page())).count("svg")


def test_trade_off_is_computed_once_and_only_for_a_report(snow, monkeypatch):
    calls = []
    compute = Search.trade_off
    monkeypatch.setattr(Search, "trade_off", lambda *args: calls.append(args) or compute(*args))
    fix = repair(**snow)
    fix.summary()
    fix.layers_html()
    assert not calls
    render(fix.page())
    render(fix.page())
    assert len(calls) == 1


@needs_browser
@pytest.mark.parametrize("width", [390, 1366])
def test_charts_of_a_report_in_a_browser(two_passes, tmp_path, width, chromium):
    """Every bar, mark and text of the charts has a place, inside of its table or plot."""
    from web import browser_page

    path = two_passes.report(tmp_path / "report.html")
    with browser_page(chromium, path.as_uri(), []) as page:
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        outside = """charts => [...charts.querySelectorAll('figure *, .layers *')].filter(part => {
            const [box, frame] = [part, part.closest('figure, .layers')].map(e => e.getBoundingClientRect());
            if (!part.getClientRects().length || part.localName === 'title') return false;
            return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
        }).map(part => part.outerHTML)"""
        assert page.locator(".et-charts").evaluate(outside) == []
        size = "text => parseFloat(getComputedStyle(text).fontSize)"
        assert min(page.eval_on_selector_all(".et-charts :is(text, th, td)", f"all => all.map({size})")) >= 11


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
