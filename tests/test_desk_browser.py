"""The desk in a real JupyterLab: what a person sees, from an image to a saved edit, by mouse and by keyboard."""

import importlib.util

import pytest
from conftest import needs_browser

pytest.importorskip("playwright", reason="the browser tests need playwright: pip install 'edittools[dev]'")
import web
from test_browser import EditorView

from edittools.widgets.desk import MARK_MESSAGE, PAIR_MESSAGES, STOPPED_SELECTION
from edittools.widgets.desk_panel import NOT_HELD_OUT, TONES
from edittools.widgets.materials import SURROUNDINGS
from edittools.widgets.session import MOST_SIGHTINGS

pytestmark = needs_browser
OVERFLOWING = """root => { const right = (e) => e.getBoundingClientRect().right, edge = right(root) + 1;
    const outside = [...root.querySelectorAll('*')].filter(e => right(e) > edge);
    return outside.filter(e => !e.closest('.et-gallery, .candidates, select')).map(e => e.className); }"""
SETUP = """
import torch
import edittools as et
from edittools import widgets
from edittools_course import scenarios

classifier, sets = scenarios.desk_setup("mini")
images = sets["images"]
desk = widgets.Desk(classifier, images, sets["clean"], sets["retain"])
desk
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
def page(jupyterlab, chromium):
    base, root = jupyterlab
    outside = []
    folder = root / "desk"
    folder.mkdir(parents=True)
    web.write_notebook(folder / "desk.ipynb", SETUP, FRESH)
    with web.browser_page(chromium, base, outside) as page:
        page.set_viewport_size({"width": 1366, "height": 850})
        page.set_default_timeout(180_000)
        web.open_notebook(page, base, "desk/desk.ipynb")
        page.base = base
        yield page
    assert outside == []  # no request went to another machine


@pytest.fixture(scope="module")
def desk(page):
    assert web.run_cell(page, 0), web.cell_text(page, 0)
    page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
    panel = Panel(page, "desk", 0)
    panel.wait()
    return panel


def mark(panel, *corners):
    """Mark rectangles on the image in the editor."""
    editor = panel.editor
    editor.press("r")
    for pair in corners:
        editor.drag(*pair)
    panel.wait()


def visible_predictions(panel):
    """The predicted class of each image, before → after."""
    names = "[...card.querySelectorAll('.et-prediction .et-name')].map(name => name.textContent).join(' ')"
    return panel.images.evaluate_all(f"cards => cards.map(card => {names})")


def test_rewrite_by_mouse_corrects_images_and_saves_the_edit(desk, page):
    """Mark the snow of a tractor, replace it by gravel, and rewrite; the saved file has the same effect."""
    options = desk.images
    label = options.first.get_attribute("aria-label")
    assert all(word in label for word in ("tractor", "sled", "misclassified"))
    options.nth(1).click()
    assert web.wait_until(lambda: desk.run("print(desk.index == desk.order[1])") == "True")
    assert options.nth(1).get_attribute("aria-selected") == "true" and desk.shows(MARK_MESSAGE)
    desk.button("Rewrite").click()  # nothing is marked
    assert web.wait_until(lambda: desk.root.locator(".et-message.et-alarm").count() == 1)
    options.first.click()
    assert web.wait_until(lambda: desk.run("print(desk.index == desk.order[0])") == "True")
    page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
    mark(desk, ((0, 52), (63, 63)))
    menu = desk.root.get_by_label("replace by", exact=True)
    assert menu.evaluate("menu => menu.selectedOptions[0].textContent").replace("\xa0", " ") == SURROUNDINGS
    menu.select_option("gravel")
    assert desk.shows(PAIR_MESSAGES[True, False])
    desk.button("Rewrite").click()
    assert desk.shows(NOT_HELD_OUT)
    stop = desk.button("Stop")
    assert web.wait_until(stop.is_enabled)
    stop.click()  # the first edit stays
    desk.wait()
    assert desk.shows(STOPPED_SELECTION) and desk.shows(NOT_HELD_OUT)
    word = desk.root.locator(".et-word:visible")
    assert word.inner_text() == desk.run("print(desk.result.word)")
    assert word.get_attribute("data-tone") == TONES[word.inner_text()]
    assert desk.button("Find the best").is_enabled()
    code = "comparison = desk.result.images; print(comparison.corrected, int(comparison.before.sum()))"
    corrected, misclassified = desk.run(code).split()
    assert int(corrected) >= 5 and desk.shows(f"{corrected} of {misclassified} misclassified")
    assert desk.root.locator(".et-card[data-state=corrected]").count() >= 5
    changed = ["→" in text for text in visible_predictions(desk)]
    assert sum(changed) >= 5 and changed == sorted(changed, reverse=True)
    details = desk.root.locator(".et-details:visible").last
    assert "features" not in details.inner_text()
    details.locator("summary").click()
    assert "features" in details.inner_text()
    details.locator("summary").click()
    desk.button("Save").click()
    assert desk.shows("MiniVGG-tractor-features")
    code = (
        "with et.Edit.load(desk.session.file_name, classifier).applied(classifier):\n"
        "    after = et.predict(classifier, images)"
    )
    assert desk.run(f"{code}\nprint(torch.allclose(after, desk.result.after, atol=1e-4))") == "True"


def test_heat_map_shows_where_to_mark(desk, page):
    editor = desk.editor
    pixels = "top => top.parentElement.querySelector('.et-image').toDataURL()"
    before = editor.canvas.evaluate(pixels)
    desk.button("Where to mark?").click()
    assert web.wait_until(lambda: editor.canvas.evaluate(pixels) != before)
    assert desk.shows("rather than") and desk.root.locator(".et-bar").bounding_box()["width"] > 50
    assert desk.shows("logit of sled")
    page.screenshot(path=web.ARTEFACTS / "desk-heat.png")
    desk.button("Where to mark?").click()
    assert web.wait_until(lambda: editor.canvas.evaluate(pixels) == before)


def test_images_that_hold_the_mark_are_checked_by_a_click(desk, page):
    desk.button("Find it elsewhere").click()
    offered = desk.root.locator(".et-shelf [role=checkbox]:visible")
    assert web.wait_until(lambda: offered.count() == MOST_SIGHTINGS)

    def checked():
        return sorted(map(int, desk.run("print(*desk.elsewhere.gallery.checked)").split()))

    for number in range(4):
        offered.nth(number).click()
    offered.nth(3).focus()
    page.keyboard.press("Space")
    assert [offered.nth(number).get_attribute("aria-checked") for number in range(4)] == ["true"] * 3 + ["false"]
    assert web.wait_until(lambda: checked() == [0, 1, 2])
    offered.nth(1).click()
    offered.nth(9).click(modifiers=["Shift"])  # what the last click did, on all images from there
    assert web.wait_until(lambda: checked() == [0])
    offered.nth(12).focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+Space")
    assert web.wait_until(lambda: checked() == [0, 12, 13, 14])
    page.keyboard.press("ArrowDown")
    row = offered.nth(0).evaluate("""card => [...card.parentElement.children].filter(
        other => other.offsetTop === card.offsetTop).length""")
    assert row > 2 and offered.nth(14 + row).evaluate("card => card === document.activeElement")
    page.keyboard.press("ArrowUp")
    assert offered.nth(14).evaluate("card => card === document.activeElement && card.tabIndex === 0")
    count = offered.count()
    assert desk.root.locator(".et-shelf [role=checkbox][tabindex='0']").count() == 1
    desk.button("Check all").click()
    assert web.wait_until(lambda: checked() == list(range(count)))
    offered.nth(3).click()
    assert web.wait_until(lambda: len(checked()) == count - 1)
    desk.root.locator(".et-shelf:visible").screenshot(path=web.ARTEFACTS / "desk-elsewhere.png")
    desk.button("Check none").click()
    assert web.wait_until(lambda: not checked())
    for number in range(3):
        offered.nth(number).click()
    assert web.wait_until(lambda: checked() == [0, 1, 2])
    assert desk.root.evaluate(OVERFLOWING) == []
    offered.first.hover()
    offered.first.locator(".et-lens").click()
    desk.root.locator("dialog:visible").get_by_role("button", name="Close").click()
    desk.button("Use the checked images").click()
    assert web.wait_until(lambda: not offered.count())
    desk.run("desk.elsewhere.gallery.checked = []; desk.use_checked()")
    desk.wait()
    assert web.wait_until(lambda: desk.images.count() > 40)


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


def test_desk_fits_into_a_small_screen_and_nothing_moves_on_it(desk, page):
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
    mark(desk, ((0, 0), (63, 63)))
    warning = desk.root.locator(".et-pair-message .et-alarm", has_text="100%")
    assert web.wait_until(warning.is_visible) and places(desk) == before
    desk.root.screenshot(path=web.ARTEFACTS / "desk-large-mask.png")
    editor.press("Control+z")
    assert desk.shows(MARK_MESSAGE) and places(desk) == before
    desk.run("desk.children[1].show('caching images', 1, 2)")
    assert desk.shows("Caching images") and places(desk) == before
    desk.run("desk.children[1].hide()")
    assert web.wait_until(lambda: not desk.root.locator(".et-busy").is_visible()) and places(desk) == before
    desk.root.evaluate("root => root.scrollIntoView({block: 'start'})")
    view = page.viewport_size["height"] - 26  # JupyterLab's status bar
    for part in (".et-editor", ".et-card >> nth=1", "button:has-text('Save')"):
        area = desk.root.locator(part).first.bounding_box()
        assert area["y"] >= 0 and area["y"] + area["height"] <= view, part
    small = editor.canvas.bounding_box()
    assert abs(small["height"] - small["width"]) < 2
    editor.root.get_by_role("button", name="Enlarge").click()
    assert web.wait_until(lambda: editor.canvas.bounding_box()["height"] > 1.5 * small["height"])
    page.keyboard.press("Escape")
    assert web.wait_until(lambda: editor.canvas.bounding_box() == small)


def test_rewrite_by_keyboard(desk, page):
    """Every control has a name; select an image with the arrows, draw a rectangle, and press Rewrite with Enter."""
    desk.images.first.focus()
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
        "Where to mark?",
        "Find it elsewhere",
        "Rewrite",
        "Save",
    ):
        assert any(expected in name for name in names), (expected, names)
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
    desk.wait()
    desk.button("Rewrite").focus()
    page.keyboard.press("Enter")  # the button is disabled while an edit is selected
    has_focus = "message => message === document.activeElement"
    assert web.wait_until(lambda: desk.root.locator(".et-says .et-message").evaluate(has_focus))
    assert web.wait_until(desk.button("Stop").is_enabled)
    page.keyboard.press("Shift+Tab")
    while page.evaluate("document.activeElement.textContent") != "Stop":
        page.keyboard.press("Shift+Tab")
        assert page.evaluate("document.activeElement.closest('.et-desk') !== null")
    page.keyboard.press("Enter")
    desk.wait()
    assert web.wait_until(lambda: desk.root.locator(".et-says .et-message").evaluate(has_focus))


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
def test_desk_is_legible_and_not_cut_off(desk, page, theme):
    for width in (900, 1366):
        check_layout(desk, "desk", theme, width, 2400)
        assert web.wait_until(lambda: contrast_of_predictions(desk) >= 4.5, 10)
    page.set_viewport_size({"width": 1366, "height": 850})


@pytest.mark.skipif(
    importlib.util.find_spec("notebook") is None, reason="notebook is not installed: pip install 'notebook>=7'"
)
def test_desk_in_notebook_7(desk, page):
    """Notebook 7 has a narrow column; the notebook and the kernel are the same, and the desk is a new one."""
    page.set_viewport_size({"width": 1366, "height": 850})
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    web.open_notebook(page, page.base, "desk/desk.ipynb", "notebooks")
    page.wait_for_timeout(5000)  # until the widgets of the kernel are loaded; what is made meanwhile could not send
    assert web.run_cell(page, 1), web.cell_text(page, 1)
    fresh = Panel(page, "fresh", 1)
    fresh.root.locator(".et-editor .et-stage[data-view]").wait_for()
    assert fresh.shows(MARK_MESSAGE)
    mark(fresh, ((0, 52), (63, 63)))
    fresh.root.get_by_label("replace by", exact=True).select_option("gravel")
    assert fresh.shows(PAIR_MESSAGES[True, False]) and fresh.editor.count() == 64 * 12
    check_layout(fresh, "desk-notebook7", "Light", 900, 2400)


def test_desk_of_a_restarted_kernel_has_ended(page):
    """The last test of this page: nothing on its desks can be pressed any more."""
    notices = page.locator(".et-desk .et-ended")
    assert notices.count() > 0 and not notices.last.is_visible()
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    notices.last.wait_for(timeout=5_000)
    page.wait_for_timeout(2_000)
    assert notices.last.is_visible()  # the new kernel answers, but it knows nothing of the desk
    rewrite = page.locator(".et-desk").last.get_by_text("Rewrite", exact=True)
    assert rewrite.evaluate("e => e.closest('[inert]') !== null")
