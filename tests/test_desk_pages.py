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
from test_desk_browser import WIDER_THAN_ITSELF

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None and not os.environ.get("CI"),
    reason="no chromium here: apt-get install chromium, to test the desk in a browser",
)
ROOT = Path(__file__).resolve().parent.parent
ARTEFACTS = Path(__file__).parent / "artefacts"
NOTEBOOK = ROOT / "notebooks" / "05_your_own_model.ipynb"


def needs(package, extra):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"no {package} here: pip install {extra}")


def the_story_by_hand(page):
    """Mark the ground of the first picture and rewrite, on a desk on which nothing was done before."""
    root = page.locator(".et-desk")
    assert lab.wait_until(lambda: "Mark on the picture what misleads." in root.inner_text())
    assert "Result" not in root.inner_text()
    drawn = Drawn(page)
    drawn.canvas.scroll_into_view_if_needed()
    drawn.press("r")
    drawn.drag((0, 44), (63, 63))
    assert lab.wait_until(lambda: "what is marked misleads" in root.inner_text() and drawn.count() == 64 * 20)
    root.get_by_role("button", name="Rewrite", exact=True).click()
    assert lab.wait_until(lambda: re.search(r"\d+ of \d+ misread pictures are corrected", root.inner_text()))


def head_of_notebook_05(folder):
    """Write notebook 05 up to its first desk, on which no later cell works, so that the page need not run them."""
    notebook = nbformat.read(NOTEBOOK, 4)
    shown = next(i for i, cell in enumerate(notebook.cells) if "desk = lab.Desk" in cell.source)
    assert not any(re.search(r"\bdesk\.", cell.source) for cell in notebook.cells[shown + 1 :])
    notebook.cells = notebook.cells[: shown + 1]
    nbformat.write(notebook, folder / NOTEBOOK.name)
    return folder / NOTEBOOK.name


@needs("voila", "'edittools[app]'")
def test_notebook_05_is_a_page_by_voila_with_an_empty_desk_and_no_request_leaves_the_machine(tmp_path):
    """Started in the repository: the page has no code, and nothing was done on its desk."""
    outside = []
    ARTEFACTS.mkdir(exist_ok=True)
    with (
        lab.voila(head_of_notebook_05(tmp_path), ARTEFACTS / "voila.log", {"EDITTOOLS_TIER": "mini"}, ROOT) as base,
        lab.browser_page(base, outside) as page,
    ):
        page.set_default_timeout(300_000)
        page.set_viewport_size({"width": 1366, "height": 850})
        page.goto(base, wait_until="domcontentloaded")
        page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
        assert "stories.desk_story" not in page.locator("#rendered_cells").inner_text()
        the_story_by_hand(page)
        for width in (1366, 900):
            page.set_viewport_size({"width": width, "height": 1500})
            page.wait_for_timeout(900)
            page.locator(".et-desk").screenshot(path=ARTEFACTS / f"desk-voila-{width}.png")
            assert page.locator(".et-desk").evaluate(WIDER_THAN_ITSELF) == []
    assert outside == []


@needs("notebook", "'notebook>=7'")
def test_the_desk_is_at_home_in_notebook_7(tmp_path):
    """In its narrow column, light and dark."""
    outside = []
    ARTEFACTS.mkdir(exist_ok=True)
    head_of_notebook_05(tmp_path)
    with (
        lab.classic(tmp_path, ARTEFACTS / "notebook7.log", {"EDITTOOLS_TIER": "mini"}) as base,
        lab.browser_page(base, outside) as page,
    ):
        page.set_default_timeout(120_000)
        page.set_viewport_size({"width": 1366, "height": 850})
        lab.open_notebook(page, base, NOTEBOOK.name, "notebooks")
        for text in ("import edittools", "desk = lab.Desk"):
            index = lab.find_cell(page, text)
            assert lab.run_cell(page, index), lab.cell_text(page, index)
        page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
        the_story_by_hand(page)
        for theme in ("Dark", "Light"):
            page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
            page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
            for width in (900, 1600):
                page.set_viewport_size({"width": width, "height": 2400})
                page.wait_for_timeout(900)
                page.locator(".et-desk").screenshot(path=ARTEFACTS / f"desk-notebook7-{theme.lower()}-{width}.png")
                assert page.locator(".et-desk").evaluate(WIDER_THAN_ITSELF) == []
    assert outside == []
