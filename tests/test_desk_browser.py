"""The desk in a real JupyterLab: the story from a failing picture to a saved edit, by mouse and by keyboard alone."""

import importlib.util
import os
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the browser tests need playwright: pip install 'edittools[test]'")
import web
from test_browser import Drawn

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None and not os.environ.get("CI"),
    reason="no chromium here: apt-get install chromium, to test the desk in a browser",
)
ARTEFACTS = Path(__file__).parent / "artefacts"
HOSTILE = "<img src=x onerror='window.hacked=1'>"
WIDER_THAN_ITSELF = """root => { const right = (e) => e.getBoundingClientRect().right, edge = right(root) + 1;
    const outside = [...root.querySelectorAll('*')].filter(e => right(e) > edge);
    return outside.filter(e => !e.closest('.et-pictures, select')).map(e => e.className); }"""
STORY = """
import torch
import edittools as et
from edittools import scenarios, widgets

classifier, sets = scenarios.desk_setup("mini")
images = sets["images"]
desk = widgets.Desk(classifier, images, sets["clean"], sets["retain"])
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
    save_image(torch.rand(3, 32, 32), f"pictures/bee/{{i}}.png")
open("pictures/bee/broken.png", "w").write("no picture")
other = widgets.Desk(small, "pictures")
other
"""
FRESH = 'fresh = widgets.Desk(classifier, images, sets["clean"], sets["retain"])\nfresh'


class Panel:
    """A desk in the page."""

    def __init__(self, page, name, cell=None):
        self.page, self.name = page, name
        self.root = (page if cell is None else page.locator(".jp-Cell").nth(cell)).locator(".et-desk")

    @property
    def drawn(self):
        index = self.page.locator(".et-editor").evaluate_all(
            "(all, desk) => all.findIndex(one => desk.contains(one))", self.root.element_handle()
        )
        drawn = Drawn(self.page, index, f"{self.name}.editor")
        drawn.canvas.scroll_into_view_if_needed()
        return drawn

    def ask(self, code):
        return web.in_kernel(self.page, code.replace("desk.", f"{self.name}."))

    def idle(self):
        self.ask("desk.wait(60)")

    def button(self, words):
        return self.root.get_by_role("button", name=words, exact=True)

    def says(self, text):
        return web.wait_until(lambda: text in self.root.inner_text())


@pytest.fixture(scope="module")
def outside():
    return []


@pytest.fixture(scope="module")
def page(tmp_path_factory, outside):
    folder = tmp_path_factory.mktemp("desk")
    ARTEFACTS.mkdir(exist_ok=True)
    (folder / "pictures" / "bee").mkdir(parents=True)
    web.write_notebook(folder / "desk.ipynb", STORY, SMALL, FRESH)
    with (
        web.jupyterlab(folder, ARTEFACTS / "desk.log", {"EDITTOOLS_TIER": "mini"}) as base,
        web.browser_page(base, outside) as page,
    ):
        page.set_viewport_size({"width": 1366, "height": 850})
        page.set_default_timeout(180_000)
        web.open_notebook(page, base, "desk.ipynb")
        page.folder, page.base = folder, base
        yield page


@pytest.fixture(scope="module")
def story(page):
    assert web.run_cell(page, 0), web.cell_text(page, 0)
    page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
    panel = Panel(page, "desk", 0)
    panel.idle()
    return panel


@pytest.fixture(scope="module")
def other(page, story):
    assert web.run_cell(page, 1), web.cell_text(page, 1)
    panel = Panel(page, "other", 1)
    panel.root.locator(".et-editor .et-stage[data-view]").wait_for()
    panel.idle()
    return panel


def marked(panel, *corners):
    """Mark rectangles on the picture in the editor."""
    drawn = panel.drawn
    drawn.press("r")
    for pair in corners:
        drawn.drag(*pair)
    panel.idle()


def the_story_by_hand(panel):
    """Mark the ground of the first picture and rewrite, on a desk on which nothing was done before."""
    assert panel.says("Mark on the picture what misleads.")
    assert "Result" not in panel.root.inner_text()
    drawn = panel.drawn
    drawn.press("r")
    drawn.drag((0, 44), (63, 63))
    assert panel.says("what is marked misleads") and drawn.count() == 64 * 20
    panel.button("Rewrite").click()
    assert web.wait_until(lambda: re.search(r"\d+ of \d+ misread pictures are corrected", panel.root.inner_text()))


def test_from_a_failing_picture_to_a_saved_edit_by_hand(story, page):
    """Mark the snow of a tractor, turn it to gravel, rewrite: pictures turn right, and the file does the same."""
    options = story.root.get_by_role("option")
    assert options.first.get_attribute("aria-label") == "tractor, read as sled: wrong"
    options.nth(1).click()
    assert web.wait_until(lambda: story.ask("print(desk.index == desk.order[1])") == "True")
    assert options.nth(1).get_attribute("aria-selected") == "true" and story.says("Mark on the picture what misleads.")
    options.first.click()
    assert web.wait_until(lambda: story.ask("print(desk.index == desk.order[0])") == "True")
    page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
    marked(story, ((0, 44), (63, 63)))
    assert story.says("x is read rightly and x' is not: what is marked misleads.")
    story.button("Rewrite").click()
    assert story.says("Result, on the pictures that chose")
    corrected, wrong = story.ask("f = desk.result.images; print(f.corrected, int(f.before.sum()))").split()
    assert int(corrected) >= 5 and story.says(f"{corrected} of {wrong} misread pictures are corrected")
    assert story.root.locator(".et-card[data-state=corrected]").count() >= 5
    story.button("Save").click()
    assert story.says("Saved as edit.safetensors")
    code = "with et.Edit.load('edit.safetensors', classifier).applied(classifier): now = et.predict(classifier, images)"
    assert story.ask(f"{code}\nprint(torch.allclose(now, desk.result.after, atol=1e-4))") == "True"


def test_all_that_is_asked_and_said_is_in_view_on_a_small_screen(story, page):
    story.root.evaluate("root => root.scrollIntoView({block: 'start'})")
    view = page.viewport_size["height"] - 26  # JupyterLab's status bar
    for part in (".et-editor", ".et-said >> nth=1", ".et-card >> nth=1", "button:has-text('Save')"):
        box = story.root.locator(part).first.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= view, part
    assert story.root.evaluate("root => root.getBoundingClientRect().height") < 740


def test_nothing_marked_is_said_below_the_button(story):
    story.root.get_by_role("option").nth(2).click()
    assert story.says("Mark on the picture what misleads.")
    story.button("Rewrite").click()
    assert story.says("nothing is marked")
    below = story.root.locator(".et-said.et-alarm").bounding_box()["y"] - story.button("Rewrite").bounding_box()["y"]
    assert 0 < below < 80


def test_every_control_is_reached_by_tab_and_has_a_name(story, page):
    story.root.get_by_role("option").first.focus()
    name = """() => { const e = document.activeElement;
        if (!e.closest('.et-desk')) return null;
        const text = e.labels?.length ? [...e.labels].map(l => l.textContent).join(' ') : e.textContent;
        return (e.ariaLabel || e.closest('.et-group')?.ariaLabel || text || e.title || '?').trim(); }"""
    stops = []
    while len(stops) < 60 and (not stops or stops[-1] is not None):
        stops.append(page.evaluate(name))
        page.keyboard.press("Tab")
    said = stops[:-1]
    assert stops[-1] is None and "" not in said and "?" not in said, stops
    for wanted in (
        "Brush",
        "it shows",
        "turn it to",
        "layer",
        "strength",
        "Rewrite",
        "Find the best",
        "Undo edit",
        "Save",
    ):
        assert any(wanted in one for one in said), (wanted, said)


def test_the_story_by_keyboard_alone(story, page):
    """Choose with arrows, draw a rectangle with the keyboard, and press Rewrite with Enter."""
    story.root.get_by_role("option").first.focus()
    page.keyboard.press("ArrowRight")
    assert web.wait_until(lambda: story.ask("print(desk.index == desk.order[1])") == "True")
    story.idle()
    page.wait_for_timeout(500)  # the editor of the other picture takes its place
    drawn = story.drawn
    drawn.canvas.focus()
    for key in ["r", "Home", "PageDown", "PageDown", "Enter", "End", "PageDown", "PageDown", "Enter"]:
        page.keyboard.press(key)
    assert web.wait_until(lambda: drawn.count() > 100)
    before = story.ask("print(desk.edit.digest)")
    story.button("Rewrite").focus()
    page.keyboard.press("Enter")
    assert web.wait_until(lambda: story.ask("print(desk.edit.digest)") != before)


def test_a_folder_with_a_broken_picture_says_so_and_names_are_text(other, page):
    assert "images: 1 files left out (bee/broken.png" in other.root.inner_text()
    other.root.get_by_label("it shows").fill(HOSTILE)
    page.keyboard.press("Tab")
    assert web.wait_until(lambda: other.root.locator(".et-caption", has_text="onerror").count() == 1)
    marked(other, ((2, 2), (30, 20)))
    other.button("Rewrite").click()
    assert other.says("What it costs elsewhere is not known")
    assert not page.evaluate("window.hacked")


def pictured(panel, name, theme, width, height):
    """Keep a picture of a desk in a theme and a width; nothing on it is cut off."""
    panel.page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
    panel.page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
    panel.page.set_viewport_size({"width": width, "height": height})
    panel.page.wait_for_timeout(900)
    panel.root.screenshot(path=ARTEFACTS / f"{name}-{theme.lower()}-{width}.png")
    assert panel.root.evaluate(WIDER_THAN_ITSELF) == []


@pytest.mark.parametrize("theme", ["Dark", "Light"])
@pytest.mark.parametrize("width", [900, 1366])
def test_pictures_of_both_themes_and_widths_are_kept_and_nothing_is_cut_off(story, page, theme, width):
    pictured(story, "desk", theme, width, 1500)
    page.set_viewport_size({"width": 1366, "height": 850})


@pytest.mark.skipif(importlib.util.find_spec("notebook") is None, reason="no notebook here: pip install 'notebook>=7'")
def test_the_desk_is_at_home_in_notebook_7(story, page):
    """In its narrow column, light and dark: the same notebook and kernel, and a desk on which nothing was done."""
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    web.open_notebook(page, page.base, "desk.ipynb", "notebooks")
    assert web.run_cell(page, 2), web.cell_text(page, 2)
    fresh = Panel(page, "fresh", 2)
    fresh.root.locator(".et-editor .et-stage[data-view]").wait_for()
    the_story_by_hand(fresh)
    for theme, width in (("Dark", 900), ("Light", 1600)):
        pictured(fresh, "desk-notebook7", theme, width, 2400)


def test_no_request_left_the_machine(page, outside):
    assert page.base
    assert outside == []
