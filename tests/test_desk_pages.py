"""The desk outside of JupyterLab: notebook 05 as a page by voila, and in Notebook 7."""

import importlib.util
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("playwright", reason="the browser tests need playwright: pip install 'edittools[test]'")
import lab
from test_browser import Drawn

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None and not os.environ.get("CI"),
    reason="no chromium here: apt-get install chromium, to test the desk in a browser",
)
ROOT = Path(__file__).resolve().parent.parent
ARTEFACTS = Path(__file__).parent / "artefacts"
NOTEBOOK = ROOT / "notebooks" / "05_your_own_model.ipynb"
WIDER_THAN_ITSELF = """root => { const right = (e) => e.getBoundingClientRect().right, edge = right(root) + 1;
    const outside = [...root.querySelectorAll('*')].filter(e => right(e) > edge);
    return outside.filter(e => !e.closest('.et-strip, .et-code, select')).map(e => e.className); }"""


def needs(package, extra):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"no {package} here: pip install {extra}")


def the_story_by_hand(page, place):
    """Choose the picture in a place of the strip, mark its ground, rewrite; gives what the desk then says."""
    root = page.locator(".et-desk")
    chips = root.locator(".et-chip").count()
    root.get_by_role("option").nth(place).click()
    assert lab.wait_until(lambda: "Draw on the picture" in root.inner_text())
    page.wait_for_timeout(500)
    drawn = Drawn(page)
    drawn.canvas.scroll_into_view_if_needed()
    drawn.press("r")
    drawn.drag((0, 48), (63, 63))
    assert lab.wait_until(lambda: "x, the aim" in root.inner_text() and drawn.count() == 64 * 16)
    root.get_by_role("button", name="Rewrite", exact=True).click()
    assert lab.wait_until(lambda: root.locator(".et-chip").count() == chips + 1)
    assert lab.wait_until(lambda: re.search(r"It took.*\nOf \d+ misread images \d+ are corrected", root.inner_text()))
    return root.inner_text()


def the_desk_alone(folder):
    """Notebook 05 with all its words, and its code up to the desk: the rest repeats by Python what a hand does."""
    notebook = nbformat.read(NOTEBOOK, 4)
    last = next(i for i, cell in enumerate(notebook.cells) if "desk = lab.Desk" in cell.source)
    notebook.cells = [cell for i, cell in enumerate(notebook.cells) if i <= last or cell.cell_type == "markdown"]
    nbformat.write(notebook, folder / NOTEBOOK.name)
    return folder / NOTEBOOK.name


@needs("voila", "'edittools[app]'")
def test_notebook_05_is_a_page_by_voila_and_no_request_leaves_the_machine(tmp_path):
    """Started in the repository; the page has no code, and the desk on it is alive."""
    outside = []
    ARTEFACTS.mkdir(exist_ok=True)
    with (
        lab.voila(the_desk_alone(tmp_path), ARTEFACTS / "voila.log", {"EDITTOOLS_TIER": "mini"}, ROOT) as base,
        lab.browser_page(base, outside) as page,
    ):
        page.set_default_timeout(300_000)
        page.set_viewport_size({"width": 1400, "height": 1500})
        page.goto(base, wait_until="domcontentloaded")
        page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
        assert "stories.desk_story" not in page.locator("#rendered_cells").inner_text()
        the_story_by_hand(page, 0)
        for width in (1400, 900):
            page.set_viewport_size({"width": width, "height": 2600})
            page.wait_for_timeout(900)
            page.locator(".et-desk").screenshot(path=ARTEFACTS / f"desk-voila-{width}.png")
            assert page.locator(".et-desk").evaluate(WIDER_THAN_ITSELF) == []
    assert outside == []


@needs("notebook", "'notebook>=7'")
def test_the_desk_is_at_home_in_notebook_7(tmp_path):
    """In its narrow column, light and dark."""
    outside = []
    ARTEFACTS.mkdir(exist_ok=True)
    with (
        lab.classic(the_desk_alone(tmp_path).parent, ARTEFACTS / "notebook7.log", {"EDITTOOLS_TIER": "mini"}) as base,
        lab.browser_page(base, outside) as page,
    ):
        page.set_default_timeout(120_000)
        page.set_viewport_size({"width": 1400, "height": 1500})
        lab.open_notebook(page, base, NOTEBOOK.name, "notebooks")
        for text in ("import edittools", "desk = lab.Desk"):
            index = lab.find_cell(page, text)
            assert lab.run_cell(page, index), lab.cell_text(page, index)
        page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
        the_story_by_hand(page, 0)
        for theme in ("Dark", "Light"):
            page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
            page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
            for width in (900, 1600):
                page.set_viewport_size({"width": width, "height": 2400})
                page.wait_for_timeout(900)
                page.locator(".et-desk").screenshot(path=ARTEFACTS / f"desk-notebook7-{theme.lower()}-{width}.png")
                assert page.locator(".et-desk").evaluate(WIDER_THAN_ITSELF) == []
    assert outside == []
