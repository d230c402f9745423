"""The desk in a real JupyterLab: the story from a failing picture to a saved edit, by mouse and by keyboard alone."""

import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the browser tests need playwright: pip install 'edittools[test]'")
import lab
from test_browser import Drawn

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None and not os.environ.get("CI"),
    reason="no chromium here: apt-get install chromium, to test the desk in a browser",
)
ARTEFACTS = Path(__file__).parent / "artefacts"
HOSTILE = "<img src=x onerror='window.hacked=1'>"
STORY = """
import torch
import edittools as et
from edittools import lab
from edittools.world import CLASSES, contexts, scene, scenes
from edittools.world.contexts import SPLITS

family, start = contexts().family, SPLITS["validation"].start
vehicles = [c for c in CLASSES if family[c] == "vehicle" and c != "car"]
polar = [c for c in CLASSES if family[c] == "polar"]
classifier = et.load_classifier("mini_vgg")
images = scenes(48, start + 100_000, label=(vehicles * 48)[:48], ground="snow")
everyday, keep = scenes(120, "validation"), scenes(24, start + 150_000, label=(polar * 24)[:24])
desk = lab.Desk(classifier, images, everyday, keep)
desk
"""
SMALL = f"""
torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.Conv2d(8, 12, 3), torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(12, 3),
)
small = et.Classifier(net, ["ant", "bee", "{HOSTILE}"], size=32)
torch.manual_seed(1)
for i in range(6):
    et.save_image(f"pictures/bee/{{i}}.png", torch.rand(3, 32, 32))
open("pictures/bee/broken.png", "w").write("no picture")
other = lab.Desk(small, "pictures")
other
"""
FAILING = """
fails = True
class Holder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net
    def forward(self, images):
        if fails:
            raise RuntimeError("out of luck")
        return self.net(images)
failing = lab.Desk(et.Classifier(Holder(), small.classes, size=32), torch.rand(4, 3, 32, 32))
failing
"""


class Panel:
    """A desk in the page."""

    def __init__(self, page, cell, name):
        self.page, self.name = page, name
        self.root = page.locator(".jp-Cell").nth(cell).locator(".et-desk")

    @property
    def drawn(self):
        index = self.page.locator(".et-editor").evaluate_all(
            "(all, desk) => all.findIndex(one => desk.contains(one))", self.root.element_handle()
        )
        drawn = Drawn(self.page, index, f"{self.name}.editor")
        drawn.canvas.scroll_into_view_if_needed()
        return drawn

    def ask(self, code):
        return lab.in_kernel(self.page, code.replace("desk.", f"{self.name}."))

    def idle(self):
        assert self.ask("print(desk.wait(60))") == "True"

    def button(self, words):
        return self.root.get_by_role("button", name=words, exact=True)

    def says(self, text):
        return lab.wait_until(lambda: text in self.root.inner_text())


@pytest.fixture(scope="module")
def outside():
    return []


@pytest.fixture(scope="module")
def page(tmp_path_factory, outside):
    folder = tmp_path_factory.mktemp("desk")
    ARTEFACTS.mkdir(exist_ok=True)
    (folder / "pictures" / "bee").mkdir(parents=True)
    lab.write_notebook(folder / "desk.ipynb", STORY, SMALL, FAILING)
    with (
        lab.jupyterlab(folder, ARTEFACTS / "desk.log", {"EDITTOOLS_TIER": "mini"}) as base,
        lab.browser_page(base, outside) as page,
    ):
        page.set_viewport_size({"width": 1600, "height": 1500})
        page.set_default_timeout(60_000)
        lab.open_notebook(page, base, "desk.ipynb")
        page.folder, page.base = folder, base
        yield page


@pytest.fixture(scope="module")
def story(page):
    assert lab.run_cell(page, 0), lab.cell_text(page, 0)
    page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
    panel = Panel(page, 0, "desk")
    panel.idle()
    return panel


@pytest.fixture(scope="module")
def other(page, story):
    assert lab.run_cell(page, 1), lab.cell_text(page, 1)
    panel = Panel(page, 1, "other")
    panel.root.locator(".et-editor .et-stage[data-view]").wait_for()
    panel.idle()
    return panel


def test_from_a_failing_picture_to_a_saved_edit_by_hand(story, page):
    """Mark the snow of a tractor, turn it to gravel, rewrite: the count rises, and the file does the same."""
    options = story.root.get_by_role("option")
    assert options.first.get_attribute("aria-label").count("read as sled")
    place = story.ask("print(desk.bench.order.index(39))")
    options.nth(int(place)).click()
    assert lab.wait_until(lambda: story.ask("print(desk._index)") == "39")
    assert "Draw on the picture" in story.root.inner_text()
    assert options.nth(int(place)).get_attribute("aria-selected") == "true"
    story.root.get_by_label("layer").select_option("★ features.8")
    page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
    drawn = story.drawn
    drawn.press("r")
    for corners in (((0, 36), (22, 63)), ((56, 36), (63, 63)), ((0, 52), (63, 63))):  # around the tractor
        drawn.drag(*corners)
    story.idle()
    assert story.says("x, the aim") and story.says("x is read rightly and x' is not")
    story.button("Rewrite").click()
    assert story.says("corrected") and story.says("edit_1")
    story.idle()
    counts = story.ask("c = desk.counts.images; print(c.corrected, int(c.before.sum()), c.broken)")
    corrected, wrong, broken = map(int, counts.split())
    assert corrected >= 5 and broken <= 1
    assert story.says(f"{corrected} of {wrong} corrected, {broken} broken")
    assert story.root.locator(".et-results .et-card[data-state=corrected]").count() >= 3
    story.root.get_by_label("file", exact=True).fill("by_hand.safetensors")
    page.keyboard.press("Tab")
    story.button("Save").click()
    assert story.says("Saved as by_hand.safetensors")
    same = story.ask(
        "loaded = et.Edit.load('by_hand.safetensors', classifier)\n"
        "shown = desk.bench.readings(desk.edit)\n"
        "with loaded.applied(classifier): found = et.predict(classifier, desk.bench.some).softmax(1)\n"
        "print(torch.allclose(found, shown, atol=1e-5))"
    )
    assert same == "True"


def test_a_stroke_is_followed_at_once(story):
    before = story.ask("print(desk.edit.digest)")
    story.drawn.drag((30, 50), (44, 51))
    assert lab.wait_until(lambda: story.ask("desk.wait(); print(desk.edit.digest)") != before)


def test_alpha_moves_the_bars_by_keyboard(story, page):
    slider = story.root.get_by_label("strength α", exact=True)
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    assert lab.wait_until(lambda: story.ask("print(desk.steps.now[0].strength)") == "0.0")
    story.idle()
    assert lab.wait_until(lambda: story.root.locator(".et-results .et-card[data-state=corrected]").count() == 0)
    page.keyboard.press("End")
    assert lab.wait_until(lambda: story.ask("print(desk.steps.now[0].strength)") == "2.0")
    story.root.get_by_label("strength α of edit_1").fill("0.5")
    assert lab.wait_until(lambda: slider.input_value() == "0.5")
    story.idle()
    story.button("Undo edit").click()  # all moves of one slider are one change
    assert lab.wait_until(lambda: story.ask("print(desk.steps.now[0].strength)") == "1.0")
    assert lab.wait_until(lambda: slider.input_value() == "1")


def test_firing_and_code_can_be_looked_at(story):
    story.root.get_by_label("show where the key fires").check()
    assert lab.wait_until(lambda: story.root.locator(".et-firing .et-overlay").count() == 24)
    story.root.locator("summary").click()
    text = story.root.locator("textarea").input_value()
    assert text == story.ask("print(desk.code)") + "\n" and "et.rewrite(" in text
    assert (
        story.ask("given = dict(globals()); exec(desk.code, given); print(given['edit'].digest == desk.edit.digest)")
        == "True"
    )
    story.root.get_by_label("show where the key fires").uncheck()


def test_every_control_is_reached_by_tab_and_has_a_name(story, page):
    story.root.get_by_role("option").first.focus()
    page.keyboard.press("Home")
    assert lab.wait_until(lambda: story.ask("print(desk._index == desk.bench.order[0])") == "True")
    story.idle()
    page.wait_for_timeout(2000)
    story.root.get_by_role("option").first.focus()
    name = """() => { const e = document.activeElement;
        if (!e.closest('.et-desk')) return null;
        const text = e.labels?.length ? [...e.labels].map(l => l.textContent).join(' ') : e.textContent;
        return (e.ariaLabel || e.closest('.et-group')?.ariaLabel || text || '?').trim(); }"""
    stops = []
    for _ in range(90):
        stops.append(page.evaluate(name))
        if stops[-1] is None:
            break
        page.keyboard.press("Tab")
    assert stops[-1] is None, stops
    said = [one for one in stops[:-1] if one not in ("", "?")]
    assert len(said) == len(stops) - 1, stops
    for wanted in (
        "Brush",
        "it shows",
        "change",
        "material",
        "picture is",
        "layer",
        "rank",
        "objective",
        "at the mask only",
        "strength α",
        "Rewrite",
        "New edit",
        "Find the best",
        "show where the key fires",
        "edit_1",
        "Undo edit",
        "Save",
        "Load",
        "The same in Python",
    ):
        assert any(wanted in one for one in said), (wanted, said)


def test_the_story_by_keyboard_alone(story, page):
    """Choose with arrows, draw a rectangle with the keyboard, and press Rewrite with Enter."""
    story.root.get_by_role("option").first.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert lab.wait_until(lambda: story.ask("print(desk._index == desk.bench.order[1])") == "True")
    story.idle()
    drawn = story.drawn
    drawn.canvas.focus()
    for key in ["r", "Home", *["PageDown"] * 4, "Enter", "End", "PageDown", "PageDown", "PageDown", "Enter"]:
        page.keyboard.press(key)
    assert lab.wait_until(lambda: drawn.count() > 100)
    story.button("Rewrite").focus()
    page.keyboard.press("Enter")
    assert lab.wait_until(lambda: story.ask("desk.wait(); print(len(desk.steps.now))") == "2")
    assert story.says("edit_2")
    story.button("remove edit_2").or_(story.root.locator("button[title='remove edit_2']")).first.focus()
    page.keyboard.press("Enter")
    assert lab.wait_until(lambda: story.ask("desk.wait(); print(len(desk.steps.now))") == "1")


def test_keys_that_mean_something_to_jupyterlab_leave_the_cells_alone(story, page):
    for focused in (story.root.get_by_role("option").first, story.button("Rewrite"), story.root.get_by_label("layer")):
        focused.focus()
        for key in ("d", "d", "a", "y", "m", "x"):
            page.keyboard.press(key)
    assert page.evaluate("jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model.type)") == ["code"] * 3


def test_a_folder_with_a_broken_picture_says_so_and_names_are_text(other, page):
    assert "1 of 7 files left out (bee/broken.png" in other.root.inner_text()
    other.root.get_by_label("it shows").fill(HOSTILE)
    page.keyboard.press("Tab")
    other.idle()
    assert other.root.locator(".et-strip .et-caption", has_text="onerror").count() == 1
    drawn = other.drawn
    drawn.press("r")
    drawn.drag((2, 2), (30, 20))
    other.idle()
    other.button("Rewrite").click()
    assert other.says("edit_1")
    other.idle()
    assert not page.evaluate("window.hacked")
    assert "what it costs elsewhere" in other.root.inner_text()


def test_two_desks_in_a_notebook_know_nothing_of_each_other(story, other):
    assert story.ask("print(desk.edit.digest != other.edit.digest, len(desk.steps.now))") == "True 1"
    mine = story.root.inner_text()
    other.button("Undo edit").click()
    assert lab.wait_until(lambda: other.ask("other.wait(); print(len(other.steps.now))") == "0")
    assert story.root.inner_text() == mine


def test_an_edit_of_another_model_is_said_and_the_desk_stays_usable(other, page):
    path = page.folder / "by_hand.safetensors"
    with page.expect_file_chooser() as chooser:
        other.root.get_by_role("button", name="Load from here").click()
    chooser.value.set_files(str(path))
    assert other.says("not loaded: the edit changes 'features.8.weight'")
    other.button("Rewrite").click()
    assert other.says("edit_2")
    assert lab.wait_until(lambda: "not loaded" not in other.root.inner_text())


def test_a_model_that_fails_says_so_and_can_be_tried_again(story, other, page):
    assert lab.run_cell(page, 2), lab.cell_text(page, 2)
    panel = Panel(page, 2, "failing")
    assert panel.says("RuntimeError: out of luck")
    lab.in_kernel(page, "fails = False")
    panel.button("Try again").click()
    panel.root.locator(".et-editor .et-stage[data-view]").wait_for()
    assert "out of luck" not in panel.root.inner_text()


@pytest.mark.parametrize("theme", ["Dark", "Light"])
@pytest.mark.parametrize("width", [900, 1600])
def test_pictures_of_both_themes_and_widths_are_kept_and_nothing_is_cut_off(story, page, theme, width):
    page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
    page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
    page.set_viewport_size({"width": width, "height": 2400})
    page.wait_for_timeout(900)
    story.root.screenshot(path=ARTEFACTS / f"desk-{theme.lower()}-{width}.png")
    wide = story.root.evaluate(
        """root => { const right = (e) => e.getBoundingClientRect().right, edge = right(root) + 1;
           const outside = [...root.querySelectorAll('*')].filter(e => right(e) > edge);
           return outside.filter(e => !e.closest('.et-strip, .et-code, select')).map(e => e.className); }"""
    )
    assert wide == []
    page.set_viewport_size({"width": 1600, "height": 1500})


def test_after_a_restart_of_the_kernel_the_cell_makes_a_new_desk(story, page):
    page.evaluate("""async () => { const s = jupyterapp.shell.currentWidget.sessionContext;
                     await s.restartKernel(); await s.session.kernel.info; }""")
    assert lab.run_cell(page, 0), lab.cell_text(page, 0)
    panel = Panel(page, 0, "desk")
    panel.root.locator(".et-editor .et-stage[data-view]").wait_for()
    panel.idle()
    panel.drawn.press("r")
    panel.drawn.drag((0, 40), (63, 63))
    panel.button("Rewrite").click()
    assert panel.says("edit_1")
    assert json.loads(panel.ask("import json; desk.wait(); print(json.dumps(desk.trouble))")) == ""


def test_no_request_left_the_machine(page, outside):
    assert page.base
    assert outside == []
