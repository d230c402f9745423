"""The desk in a real JupyterLab and as a page: from an image to a saved edit, with the mouse and with the keyboard."""

import importlib.util
import re
from pathlib import Path

import pytest
from conftest import needs_browser

pytest.importorskip("playwright", reason="the browser tests need playwright: pip install 'edittools[dev]'")
import web
from test_browser import EditorView

from edittools.widgets.desk import MARK_MESSAGE, PAIR_MESSAGES
from edittools.widgets.desk_panel import CHARTS, NOT_HELD_OUT

pytestmark = needs_browser
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "desk.ipynb"
HOSTILE = "<img src=x onerror='window.hacked=1'>"
OVERFLOWING = """root => { const right = (e) => e.getBoundingClientRect().right, edge = right(root) + 1;
    const outside = [...root.querySelectorAll('*')].filter(e => right(e) > edge);
    return outside.filter(e => !e.closest('.et-gallery, .candidates, select')).map(e => e.className); }"""
SETUP = """
import torch
import edittools as et
from edittools import widgets
from edittools.course import scenarios

classifier, sets = scenarios.desk_setup("mini")
images = sets["images"]
desk = widgets.Desk(classifier, images, sets["clean"], sets["retain"], finder=scenarios.desk_finder(sets))
desk
"""
SMALL = f"""
from torchvision.utils import save_image
torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.Conv2d(8, 12, 3), torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(12, 3),
)
small = et.Classifier(net, ["ant", "bee", "{HOSTILE}"], size=32)
torch.manual_seed(1)
for i in range(6):
    save_image(torch.rand(3, 32, 32), f"images/bee/{{i}}.png")
open("images/bee/broken.png", "w").write("not an image")
other = widgets.Desk(small, "images")
other
"""
SHOW_CHARTS = """
from edittools.reports import LayerBar, Point, TradeOff, render_charts
bars = [LayerBar(f"encoder.layers.{i}.mlp.0", 5 + i, i % 3, 0.5, goes_on=i > 3, selected=i == 5) for i in range(7)]
points = [Point(f"candidate {i}", 9 + i, 0, -0.2 * i, i, feasible=i < 2, selected=i == 1) for i in range(4)]
desk.controls.show_charts(render_charts(bars, TradeOff(points, -0.25, 1)))
"""
PAUSED = """
import threading
from collections import OrderedDict

class Paused(torch.nn.Sequential):
    may_go_on = threading.Event()

    def forward(self, images):
        self.may_go_on.wait(120)
        return super().forward(images)

parts = OrderedDict(conv=torch.nn.Conv2d(3, 8, 3), pool=torch.nn.AdaptiveAvgPool2d(1), flat=torch.nn.Flatten())
paused = et.Classifier(Paused(OrderedDict(parts, head=torch.nn.Linear(8, 3))), ["ant", "bee", "cat"], size=32)
for i in range(60):
    save_image(torch.rand(3, 32, 32), f"sixty/{i:02}.png")
paused_desk = widgets.Desk(paused, "sixty", torch.rand(300, 3, 32, 32))
paused_desk
"""
SHARED = """
shared_desk = widgets.Desk(small, torch.ones(2, 3, 32, 32), torch.ones(3, 3, 32, 32))
shared_desk
"""
FRESH = 'fresh = widgets.Desk(classifier, images, sets["clean"], sets["retain"])\nfresh'


COLORS_OF_PREDICTIONS = """root => { const context = document.createElement('canvas').getContext('2d');
    const shown = color => { context.fillStyle = getComputedStyle(root).backgroundColor; context.fillRect(0, 0, 1, 1);
        context.fillStyle = color; context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3); };
    return [...root.querySelectorAll('.et-prediction .et-name')].map(e => [
        shown(getComputedStyle(e).color), shown(getComputedStyle(e.closest('.et-card, dialog')).backgroundColor)]); }"""


class Panel:
    """A desk in the page."""

    def __init__(self, page, name, cell=None):
        self.page = page
        self.name = name
        self.root = (page if cell is None else page.locator(".jp-Cell").nth(cell)).locator(".et-desk")

    @property
    def editor(self):
        """The mask editor of the desk."""
        index = self.page.locator(".et-editor").evaluate_all(
            "(editors, desk) => editors.findIndex(editor => desk.contains(editor))", self.root.element_handle()
        )
        editor = EditorView(self.page, index, f"{self.name}.editor")
        editor.canvas.scroll_into_view_if_needed()
        return editor

    @property
    def images(self):
        """The images of the gallery, in the order on the screen."""
        return self.root.locator(".et-pick [role=option]")

    def run(self, code):
        """Run code in the kernel, in which `desk` is this desk; return what it printed."""
        return web.in_kernel(self.page, code.replace("desk.", f"{self.name}."))

    def wait(self):
        self.run("desk.wait(60)")

    def button(self, name):
        return self.root.get_by_role("button", name=name, exact=True)

    def shows(self, text):
        return web.wait_until(lambda: text in self.root.inner_text())


@pytest.fixture(scope="module")
def outside():
    return []


@pytest.fixture(scope="module")
def page(jupyterlab, chromium, outside):
    base, root = jupyterlab
    folder = root / "desk"
    (folder / "images" / "bee").mkdir(parents=True)
    (folder / "sixty").mkdir()
    web.write_notebook(folder / "desk.ipynb", SETUP, SMALL, FRESH, PAUSED, SHARED)
    with web.browser_page(chromium, base, outside) as page:
        page.set_viewport_size({"width": 1366, "height": 850})
        page.set_default_timeout(180_000)
        web.open_notebook(page, base, "desk/desk.ipynb")
        page.base = base
        yield page


@pytest.fixture(scope="module")
def desk(page):
    assert web.run_cell(page, 0), web.cell_text(page, 0)
    page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
    panel = Panel(page, "desk", 0)
    panel.wait()
    return panel


@pytest.fixture(scope="module")
def other(page, desk):
    assert web.run_cell(page, 1), web.cell_text(page, 1)
    panel = Panel(page, "other", 1)
    panel.root.locator(".et-editor .et-stage[data-view]").wait_for()
    panel.wait()
    return panel


def mark(panel, *corners):
    """Mark rectangles on the image in the editor."""
    editor = panel.editor
    editor.press("r")
    for pair in corners:
        editor.drag(*pair)
    panel.wait()


def mark_and_rewrite(panel):
    """Mark the ground of the first image and rewrite, on a desk that has not been used before."""
    assert panel.shows(MARK_MESSAGE)
    assert "Result" not in panel.root.inner_text()
    editor = panel.editor
    editor.press("r")
    editor.drag((0, 52), (63, 63))
    assert panel.shows(PAIR_MESSAGES[True, False]) and editor.count() == 64 * 12
    panel.button("Rewrite").click()
    assert web.wait_until(lambda: re.search(r"\d+ of \d+ misclassified", panel.root.inner_text()))


def test_rewrite_by_mouse_corrects_images_and_saves_the_edit(desk, page):
    """Mark the snow of a tractor, replace it by gravel, and rewrite; the saved file has the same effect."""
    options = desk.images
    label = options.first.get_attribute("aria-label")
    assert all(word in label for word in ("tractor", "sled", "misclassified"))
    options.nth(1).click()
    assert web.wait_until(lambda: desk.run("print(desk.index == desk.order[1])") == "True")
    assert options.nth(1).get_attribute("aria-selected") == "true" and desk.shows(MARK_MESSAGE)
    options.first.click()
    assert web.wait_until(lambda: desk.run("print(desk.index == desk.order[0])") == "True")
    page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
    mark(desk, ((0, 52), (63, 63)))
    assert desk.shows(PAIR_MESSAGES[True, False])
    desk.button("Rewrite").click()
    assert desk.shows(NOT_HELD_OUT)
    desk.wait()  # for the clean and retained images
    code = "comparison = desk.result.images; print(comparison.corrected, int(comparison.before.sum()))"
    corrected, misclassified = desk.run(code).split()
    assert int(corrected) >= 5 and desk.shows(f"{corrected} of {misclassified} misclassified")
    assert desk.root.locator(".et-card[data-state=corrected]").count() >= 5
    desk.button("Save").click()
    assert desk.shows("MiniVGG-tractor-features")
    code = (
        "with et.Edit.load(desk.session.file_name, classifier).applied(classifier):\n"
        "    after = et.predict(classifier, images)"
    )
    assert desk.run(f"{code}\nprint(torch.allclose(after, desk.result.after, atol=1e-4))") == "True"


def visible_predictions(panel):
    """The predicted class of each image, before → after."""
    names = "[...card.querySelectorAll('.et-prediction .et-name')].map(name => name.textContent).join(' ')"
    return panel.images.evaluate_all(f"cards => cards.map(card => {names})")


def test_gallery_shows_changed_images_first_after_an_edit(desk):
    predictions = visible_predictions(desk)
    changed = ["→" in text for text in predictions]
    assert sum(changed) >= 5 and changed == sorted(changed, reverse=True)
    assert predictions[0][0] in "+−✗" and predictions[0].split(" → ")[1] in desk.images.first.get_attribute("title")
    assert "%" in desk.images.first.locator(".et-caption").inner_text()
    desk.root.get_by_label("sort").select_option("worst first")
    assert web.wait_until(lambda: visible_predictions(desk) != predictions)
    assert desk.run("print(desk.shown == desk.order)") == "True"
    desk.root.get_by_label("sort").select_option("changes first")
    assert web.wait_until(lambda: visible_predictions(desk) == predictions)


def test_details_of_a_result_are_shown_on_demand(desk):
    details = desk.root.locator(".et-details:visible")
    assert "features" not in desk.root.locator(".et-message").last.inner_text()
    assert "features" not in details.last.inner_text()
    details.last.locator("summary").click()
    assert "features" in details.last.inner_text()
    details.last.locator("summary").click()


def test_where_to_mark_highlights_the_image_in_the_editor(desk, page):
    editor = desk.editor
    pixels = "top => top.parentElement.querySelector('.et-image').toDataURL()"
    before = editor.canvas.evaluate(pixels)
    desk.button("Where to mark?").click()
    assert web.wait_until(lambda: editor.canvas.evaluate(pixels) != before)
    assert desk.shows("rather than") and desk.shows("or more")
    sled = editor.canvas.evaluate(pixels)
    assert desk.root.locator(".et-bar").bounding_box()["width"] > 50
    desk.root.get_by_label("argues for").select_option("tractor")
    assert web.wait_until(lambda: editor.canvas.evaluate(pixels) != sled)
    assert desk.shows("logit of tractor")
    page.screenshot(path=web.ARTEFACTS / "desk-heat.png")
    desk.button("Where to mark?").click()
    assert web.wait_until(lambda: editor.canvas.evaluate(pixels) == before)


def test_suggest_on_the_desk_finds_the_exact_ground_offline(desk, page):
    editor = desk.editor
    editor.root.get_by_role("button", name="Suggest").click()
    snow = editor.root.locator(".et-suggestions button", has_text="snow")
    snow.wait_for()
    page.wait_for_timeout(300)  # the image below has moved, and is drawn again
    snow.click()
    code = "print(torch.equal(desk.editor.mask, images.mask('snow')[desk.index]))"
    assert web.wait_until(lambda: desk.run(code) == "True")
    editor.root.locator(".et-suggestions").get_by_role("button", name="Close").click()
    editor.press("Control+z")
    desk.wait()


def places(panel):
    """The place of the canvas and of the button *Rewrite* on the desk, and their sizes."""
    return panel.root.evaluate("""root => {
        const rewrite = [...root.querySelectorAll('button')].find(button => button.textContent === 'Rewrite');
        const start = root.getBoundingClientRect();
        return [root.querySelector('.et-marks'), rewrite].map(part => {
            const box = part.getBoundingClientRect();
            return [box.x - start.x, box.y - start.y, box.width, box.height];
        });
    }""")


def test_nothing_moves_when_a_tool_is_chosen_or_an_area_is_marked(desk, page):
    desk.images.nth(4).click()
    assert desk.shows(MARK_MESSAGE)
    page.wait_for_timeout(500)  # the editor of the other image is shown
    before = places(desk)
    editor = desk.editor
    for key in ("b", "l", "r", "e"):
        editor.press(key)
        assert places(desk) == before, key
    mark(desk, ((0, 52), (63, 63)))
    assert web.wait_until(lambda: desk.root.locator('[aria-label="x and x\'"] .et-card').count() == 2)
    assert places(desk) == before
    editor.press("Control+z")
    assert desk.shows(MARK_MESSAGE) and places(desk) == before


def test_gallery_shows_a_group_of_images_and_lists_marked_ones(desk):
    menu = desk.root.get_by_label("show", exact=True)
    everything = desk.images.count()
    for group in ("corrected", "tractor as sled", "class tractor", "marked"):
        options = menu.locator("option").all_text_contents()  # with spaces that do not break
        [number] = [i for i, text in enumerate(options) if text.replace("\xa0", " ").startswith(f"{group} (")]
        count = int(options[number].removesuffix(")").rpartition("(")[2])
        menu.select_option(index=number)
        assert web.wait_until(lambda count=count: desk.images.count() == count), group
        if group == "corrected":
            assert desk.root.locator(".et-pick .et-card[data-state=corrected]").count() == count < everything
        if group == "marked":
            assert desk.root.locator(".et-pick .et-card[data-marked=true]").count() == count
    menu.select_option(index=0)
    assert web.wait_until(lambda: desk.images.count() == everything)


def test_mask_is_kept_when_another_image_is_selected(desk, page):
    counts = {}
    for number, corner in ((0, 52), (3, 50)):
        desk.images.nth(number).click()
        desk.wait()
        page.wait_for_timeout(500)
        if not desk.editor.count():
            mark(desk, ((0, corner), (63, 63)))
        counts[number] = desk.editor.count()
    for number, count in counts.items():
        desk.images.nth(number).click()
        page.wait_for_timeout(500)  # the editor of the other image is shown
        assert web.wait_until(lambda count=count: desk.editor.count() == count) and count


def test_gallery_has_three_sizes(desk, page):
    menu = desk.root.get_by_label("size", exact=True)
    widths = []
    for name in ("small", "medium", "large"):
        menu.select_option(name)
        page.wait_for_timeout(700)
        image = desk.images.first.locator("img")
        assert web.wait_until(lambda image=image: image.evaluate("image => image.naturalWidth") == 64)
        widths.append(image.bounding_box()["width"])
        assert desk.root.evaluate(OVERFLOWING) == []
        desk.root.evaluate("root => root.scrollIntoView({block: 'start'})")
        page.screenshot(path=web.ARTEFACTS / f"desk-{name}.png")
    assert widths[0] * 1.2 < widths[1] and widths[1] * 1.2 < widths[2]
    menu.select_option("small")


def test_image_is_enlarged_by_mouse_and_by_keyboard(desk, page):
    view = desk.root.locator(".et-pick dialog")
    selected = desk.run("print(desk.index)")
    card = desk.images.nth(1)
    name = desk.run("print(desk.session.name(desk.shown[1]))")
    card.hover()
    card.locator(".et-lens").click()
    view.wait_for()
    assert name in view.inner_text() and "%" in view.inner_text()
    assert all(word in view.inner_text() for word in card.get_attribute("title").split(": ")[1].split(",")[0].split())
    assert view.locator("img").bounding_box()["width"] > 300
    assert desk.run("print(desk.index)") == selected  # it is not selected by that
    page.screenshot(path=web.ARTEFACTS / "desk-enlarged.png")
    page.keyboard.press("ArrowRight")
    other = desk.run("print(desk.session.name(desk.shown[2]))")
    assert web.wait_until(lambda: other in view.inner_text())
    page.keyboard.press("Escape")
    assert web.wait_until(lambda: not view.is_visible())
    assert desk.run("print(desk.gallery.enlarged)") == "-1"
    desk.images.nth(3).focus()
    page.keyboard.press("Enter")
    view.wait_for()
    page.keyboard.press("Escape")
    assert web.wait_until(lambda: not view.is_visible())
    assert desk.images.nth(3).evaluate("card => card === document.activeElement")
    desk.images.nth(0).click()
    pair = desk.root.locator('[aria-label="x and x\'"] .et-card')
    assert web.wait_until(lambda: pair.count() == 2)
    pair.first.click()
    assert web.wait_until(lambda: "x: aim" in desk.root.locator("dialog:visible").inner_text())
    desk.root.locator("dialog:visible").get_by_role("button", name="Close").click()


def test_editor_is_as_wide_as_its_column_and_can_fill_the_window(desk, page):
    editor = desk.editor
    column = desk.root.locator(".et-columns > .et-box").nth(1).bounding_box()["width"]
    before = editor.canvas.bounding_box()
    assert abs(before["width"] - column) < 6 and abs(before["height"] - before["width"]) < 2
    editor.root.get_by_role("button", name="Enlarge").click()
    assert web.wait_until(lambda: editor.canvas.bounding_box()["height"] > 1.5 * before["height"])
    page.screenshot(path=web.ARTEFACTS / "desk-editor-enlarged.png")
    page.keyboard.press("Escape")
    assert web.wait_until(lambda: editor.canvas.bounding_box() == before)
    assert not desk.root.locator(".et-masks").is_visible()  # an image has one mask
    editor.root.get_by_label("Opacity").fill("20")
    other = desk.images.nth(7)
    other.click()
    desk.wait()
    assert web.wait_until(lambda: desk.run("print(desk.editor.opacity)") == "0.2")
    desk.run("desk.editor.opacity = 0.45")


def test_desk_fits_into_a_small_screen(desk, page):
    desk.root.evaluate("root => root.scrollIntoView({block: 'start'})")
    view = page.viewport_size["height"] - 26  # JupyterLab's status bar
    for part in (".et-editor", ".et-message >> nth=1", ".et-card >> nth=1", "button:has-text('Save')"):
        box = desk.root.locator(part).first.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= view, part
    assert desk.root.evaluate("root => root.getBoundingClientRect().height") < 740
    menus = [desk.root.get_by_label(name, exact=True).bounding_box() for name in ("show", "sort", "size")]
    assert len({menu["y"] for menu in menus}) == 1


def test_rewrite_without_a_mark_shows_the_error_below_the_button(desk):
    desk.images.nth(2).click()
    assert desk.shows(MARK_MESSAGE)
    desk.button("Rewrite").click()
    assert web.wait_until(lambda: desk.root.locator(".et-message.et-alarm").count() == 1)
    below = desk.root.locator(".et-message.et-alarm").bounding_box()["y"] - desk.button("Rewrite").bounding_box()["y"]
    assert 0 < below < 80


def test_tab_reaches_every_control_and_each_has_a_name(desk, page):
    desk.root.get_by_label("sort").focus()
    name_of_focused = """() => { const e = document.activeElement;
        if (!e.closest('.et-desk')) return null;
        const text = e.labels?.length ? [...e.labels].map(l => l.textContent).join(' ') : e.textContent;
        return (e.ariaLabel || e.closest('.et-group')?.ariaLabel || text || e.title || '?').trim(); }"""
    stops = []
    while len(stops) < 60 and (not stops or stops[-1] is not None):
        stops.append(page.evaluate(name_of_focused))
        page.keyboard.press("Tab")
    names = stops[:-1]
    assert stops[-1] is None and "" not in names and "?" not in names, stops
    for expected in (
        "Brush",
        "label",
        "replace by",
        "layer",
        "strength",
        "sort",
        "Where to mark?",
        "Rewrite",
        "Find the best",
        "Undo edit",
        "Save",
    ):
        assert any(expected in name for name in names), (expected, names)


def test_undo_edit_takes_the_message_of_the_search_away(desk):
    desk.run("desk._edit_before = desk.edit.digest; desk.session.show(2 * desk.edit); desk._show()")
    desk.run("desk.controls.message.show('The search has found an edit.')")
    assert desk.shows("The search has found an edit.")
    desk.button("Undo edit").click()
    assert web.wait_until(lambda: "The search has found an edit." not in desk.root.inner_text())
    assert desk.run("print(desk.edit.digest == desk._edit_before)") == "True"


def test_rewrite_by_keyboard(desk, page):
    """Select an image with the arrows, draw a rectangle with the keyboard, and press Rewrite with Enter."""
    desk.images.first.focus()
    page.keyboard.press("ArrowRight")
    assert web.wait_until(lambda: desk.run("print(desk.index == desk.shown[1])") == "True")
    desk.wait()
    page.wait_for_timeout(500)  # the editor of the other image is shown
    editor = desk.editor
    editor.canvas.focus()
    for key in ["r", "Home", "PageDown", "PageDown", "Enter", "End", "PageDown", "PageDown", "Enter"]:
        page.keyboard.press(key)
    assert web.wait_until(lambda: editor.count() > 100)
    before = desk.run("before = desk.result; print(desk.index)")
    desk.button("Rewrite").focus()
    page.keyboard.press("Enter")
    assert web.wait_until(lambda: desk.run("print(desk.result is before)") == "False"), before


def test_desk_of_a_folder_names_broken_files_and_shows_class_names_as_text(other, page):
    assert "bee/broken.png" in other.root.inner_text()
    other.root.get_by_label("label", exact=True).fill(HOSTILE)
    page.keyboard.press("Tab")
    assert web.wait_until(lambda: other.root.locator(".et-caption", has_text="onerror").count() == 1)
    mark(other, ((2, 2), (30, 20)))
    other.button("Rewrite").click()
    assert web.wait_until(lambda: other.run("print(desk.result is None)") == "False")
    assert not page.evaluate("window.hacked")


def test_desk_of_a_folder_shows_all_images_and_a_progress_bar_while_it_starts(other, page):
    """Sixty small files are there while the progress bar is; then it disappears, and no warning has come up."""
    assert web.run_cell(page, 3), web.cell_text(page, 3)
    starting = Panel(page, "paused_desk", 3)
    starting.root.scroll_into_view_if_needed()
    assert web.wait_until(lambda: starting.images.count() == 60)
    bar = starting.root.locator(".widget-hprogress").first
    assert bar.is_visible() and starting.run("print(desk.is_started)") == "False"
    assert starting.button("Rewrite").is_disabled()
    starting.images.nth(5).click()
    page.screenshot(path=web.ARTEFACTS / "desk-starting.png")
    starting.run("Paused.may_go_on.set()")
    starting.root.locator(".et-editor .et-stage[data-view]").wait_for()
    starting.wait()
    assert web.wait_until(lambda: not bar.is_visible())
    assert starting.run("print(desk.session.name(desk.index))") == "05.png"
    assert starting.button("Rewrite").is_enabled() and starting.shows(MARK_MESSAGE)
    outputs = "() => jupyterapp.shell.currentWidget.content.widgets[3].model.outputs.toJSON().map(o => o.output_type)"
    assert page.evaluate(outputs) == ["execute_result"]


def test_desk_that_cannot_start_says_why(other, page):
    assert web.run_cell(page, 4), web.cell_text(page, 4)
    failed = Panel(page, "shared_desk", 4)
    assert failed.shows("'images' and 'clean' share 1 image")
    assert failed.root.locator(".et-message.et-alarm:visible").count() == 1
    assert not failed.root.locator(".widget-hprogress").first.is_visible() and failed.button("Rewrite").is_disabled()
    failed.root.screenshot(path=web.ARTEFACTS / "desk-failed.png")


def check_layout(panel, name, theme, width, height):
    """Save a screenshot of a desk in a theme and a width, and check that nothing on it is cut off."""
    panel.page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
    panel.page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
    panel.page.set_viewport_size({"width": width, "height": height})
    panel.page.wait_for_timeout(900)
    panel.root.screenshot(path=web.ARTEFACTS / f"{name}-{theme.lower()}-{width}.png")
    assert panel.root.evaluate(OVERFLOWING) == []


def contrast_of_predictions(panel):
    """The smallest contrast of a prediction and its background."""
    colors = panel.root.evaluate(COLORS_OF_PREDICTIONS)
    return min(web.contrast(text, background) for text, background in colors)


@pytest.mark.parametrize("theme", ["Dark", "Light"])
@pytest.mark.parametrize("width", [900, 1366])
def test_desk_is_not_cut_off_in_any_theme_and_width(desk, page, theme, width):
    check_layout(desk, "desk", theme, width, 1500)
    assert web.wait_until(lambda: contrast_of_predictions(desk) >= 4.5, 10)
    page.set_viewport_size({"width": 1366, "height": 850})


@pytest.mark.parametrize("theme", ["Dark", "Light"])
@pytest.mark.parametrize("width", [900, 1366])
def test_charts_of_a_search_are_shown_on_demand(desk, page, theme, width):
    desk.run(SHOW_CHARTS)
    charts = desk.root.locator(".et-charts")
    charts.wait_for(state="attached")
    assert not charts.is_visible()
    desk.root.locator("summary", has_text=CHARTS).click()
    assert web.wait_until(charts.is_visible)
    check_layout(desk, "desk-charts", theme, width, 2400)
    colors = """charts => ['h3', 'text', '.layers td:last-child'].map(
        part => getComputedStyle(charts.querySelector(part)))
        .map((style, i) => i === 1 ? style.fill : style.color)"""
    background = desk.root.evaluate("root => getComputedStyle(root).backgroundColor")
    assert background not in charts.evaluate(colors)
    assert charts.locator("figure").first.bounding_box()["width"] > 220
    desk.run("desk.controls.show_charts('')")
    assert web.wait_until(lambda: not charts.count())
    page.set_viewport_size({"width": 1366, "height": 850})


@pytest.mark.skipif(
    importlib.util.find_spec("notebook") is None, reason="notebook is not installed: pip install 'notebook>=7'"
)
def test_desk_in_notebook_7(desk, page):
    """Notebook 7 has a narrow column; the notebook and the kernel are the same, and the desk is a new one."""
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    web.open_notebook(page, page.base, "desk/desk.ipynb", "notebooks")
    page.wait_for_timeout(5000)  # until the widgets of the kernel are loaded; what is made meanwhile could not send
    assert web.run_cell(page, 2), web.cell_text(page, 2)
    fresh = Panel(page, "fresh", 2)
    fresh.root.locator(".et-editor .et-stage[data-view]").wait_for()
    mark_and_rewrite(fresh)
    for theme, width in (("Dark", 900), ("Light", 1600)):
        check_layout(fresh, "desk-notebook7", theme, width, 2400)


def test_desk_sends_no_request_to_other_machines(page, outside):
    assert page.base
    assert outside == []


# --- as a page ---


@pytest.mark.skipif(
    importlib.util.find_spec("voila") is None, reason="voila is not installed: pip install 'edittools[notebooks]'"
)
def test_voila_serves_the_notebook_of_the_desk_without_requests_to_other_machines(chromium):
    """Voila is started in the repository; the page contains no code, and its desk has not been used."""
    outside = []
    web.ARTEFACTS.mkdir(exist_ok=True)
    with (
        web.voila(NOTEBOOK, web.ARTEFACTS / "voila.log", {"EDITTOOLS_TIER": "mini"}, ROOT) as base,
        web.browser_page(chromium, base, outside) as page,
    ):
        page.set_default_timeout(300_000)
        page.set_viewport_size({"width": 1366, "height": 850})
        page.goto(base, wait_until="domcontentloaded")
        page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
        assert "scenarios.desk_setup" not in page.locator("#rendered_cells").inner_text()
        mark_and_rewrite(Panel(page, "desk"))
        for width in (1366, 900):
            page.set_viewport_size({"width": width, "height": 1500})
            page.wait_for_timeout(900)
            page.locator(".et-desk").screenshot(path=web.ARTEFACTS / f"desk-voila-{width}.png")
            assert page.locator(".et-desk").evaluate(OVERFLOWING) == []
    assert outside == []
