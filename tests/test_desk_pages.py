"""Notebook 05 as a page that voila serves."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from conftest import needs_browser

pytest.importorskip("playwright", reason="the browser tests need playwright: pip install 'edittools[test]'")
import web
from test_desk_browser import OVERFLOWING, Panel, mark_and_rewrite

pytestmark = needs_browser
ROOT = Path(__file__).resolve().parent.parent
ARTEFACTS = Path(__file__).parent / "artefacts"
NOTEBOOK = ROOT / "notebooks" / "05_your_own_model.ipynb"


def head_of_notebook_05(folder):
    """Write notebook 05 up to its first desk; the later cells do not use it, so the page need not run them."""
    notebook = nbformat.read(NOTEBOOK, 4)
    last = next(i for i, cell in enumerate(notebook.cells) if "desk = widgets.Desk" in cell.source)
    assert not any(re.search(r"\bdesk\.", cell.source) for cell in notebook.cells[last + 1 :])
    notebook.cells = notebook.cells[: last + 1]
    nbformat.write(notebook, folder / NOTEBOOK.name)
    return folder / NOTEBOOK.name


@pytest.mark.skipif(
    importlib.util.find_spec("voila") is None, reason="voila is not installed: pip install 'edittools[app]'"
)
def test_voila_serves_notebook_05_without_requests_to_other_machines(tmp_path):
    """Voila is started in the repository; the page contains no code, and its desk has not been used."""
    outside = []
    ARTEFACTS.mkdir(exist_ok=True)
    with (
        web.voila(head_of_notebook_05(tmp_path), ARTEFACTS / "voila.log", {"EDITTOOLS_TIER": "mini"}, ROOT) as base,
        web.browser_page(base, outside) as page,
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
            page.locator(".et-desk").screenshot(path=ARTEFACTS / f"desk-voila-{width}.png")
            assert page.locator(".et-desk").evaluate(OVERFLOWING) == []
    assert outside == []
