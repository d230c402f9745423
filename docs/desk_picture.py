"""Draw docs/desk.png: the desk in a real JupyterLab, on MiniWorld, after a few strokes.

    python docs/desk_picture.py

It needs chromium and `pip install -e '.[all,test]'`.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import lab  # noqa: E402

CELL = """
import torch
from edittools import lab, stories
classifier, sets = stories.desk_story("mini")
desk = lab.Desk(classifier, sets["images"], sets["everyday"], sets["keep"])
mask = torch.zeros(64, 64)
mask[44:] = 1
desk.editor.mask = mask
desk.controls.strength.value = 0.5
desk.rewrite()
desk.wait()
desk
"""
SIZE = {"width": 1366, "height": 850}
LIMIT = 300_000


def main() -> None:
    """Run the cell, take the picture, and write it with as many colours as fit in 300 kB."""
    folder = Path(tempfile.mkdtemp())
    lab.write_notebook(folder / "desk.ipynb", CELL)
    with (
        lab.jupyterlab(folder, folder / "lab.log", {"PYTHONPATH": str(ROOT)}) as base,
        lab.browser_page(base, []) as page,
    ):
        page.set_default_timeout(300_000)
        page.set_viewport_size(SIZE)
        lab.open_notebook(page, base, "desk.ipynb")
        page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
        if not lab.run_cell(page, 0):
            raise RuntimeError(lab.cell_text(page, 0))
        page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
        page.wait_for_timeout(3000)
        picture = Image.open(io.BytesIO(page.locator(".et-desk").screenshot())).convert("RGB")
    for colours in (256, 160, 96, 64):
        picture.quantize(colours, Image.Quantize.MEDIANCUT).save(ROOT / "docs" / "desk.png", optimize=True)
        if (ROOT / "docs" / "desk.png").stat().st_size < LIMIT:
            break


if __name__ == "__main__":
    main()
