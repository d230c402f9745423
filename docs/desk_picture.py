"""Draw docs/desk.png and docs/mask_editor.png: the desk and the mask editor in a real JupyterLab, on MiniWorld.

    python docs/desk_picture.py

It needs chromium and `pip install -e '.[dev]'`.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import web  # noqa: E402

DESK = """
from edittools import widgets
from edittools_course import scenarios
classifier, sets = scenarios.desk_setup("mini")
desk = widgets.Desk(classifier, sets["images"], sets["clean"], sets["retain"])
desk.editor.mask = sets["images"].mask("snow")[desk.order[0]]
desk.controls.material.value = "wooden"
desk.controls.strength.value = 0.5
desk.rewrite()
desk.wait()
desk
"""
EDITOR = """
from edittools import MaskEditor
from edittools_course.miniworld import scene
shown = scene(11, label="tractor", ground="snow")
MaskEditor(shown.image, shown.masks["snow"])
"""
LIMIT = 300_000


def main() -> None:
    """Run both cells and draw what they show."""
    folder = Path(tempfile.mkdtemp())
    web.write_notebook(folder / "pictures.ipynb", DESK, EDITOR)
    with (
        web.jupyterlab(folder, folder / "lab.log", {"PYTHONPATH": str(ROOT)}) as base,
        web.chromium() as browser,
        web.browser_page(browser, base, []) as page,
    ):
        page.set_default_timeout(300_000)
        page.set_viewport_size({"width": 1366, "height": 950})
        web.open_notebook(page, base, "pictures.ipynb")
        page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
        draw(run(page, 0, ".et-desk"), "desk.png")
        page.set_viewport_size({"width": 1000, "height": 950})
        draw(run(page, 1, ".et-editor"), "mask_editor.png")


def run(page: Page, number: int, part: str) -> Locator:
    """Run a cell and wait for its part of the page."""
    if not web.run_cell(page, number):
        raise RuntimeError(web.cell_text(page, number))
    shown = page.locator(".jp-Cell").nth(number).locator(part).first
    shown.locator(".et-stage[data-view]").wait_for()
    return shown


def draw(part: Locator, name: str) -> None:
    """Write the picture of a part of the page with as many colors as fit in 300 kB."""
    part.page.wait_for_timeout(3000)
    picture = Image.open(io.BytesIO(part.screenshot())).convert("RGB")
    for colors in (256, 160, 96, 64):
        picture.quantize(colors, Image.Quantize.MEDIANCUT).save(ROOT / "docs" / name, optimize=True)
        if (ROOT / "docs" / name).stat().st_size < LIMIT:
            break


if __name__ == "__main__":
    main()
