"""Draw docs/desk.png and docs/mask_editor.png: the desk, and the mask editor in a real JupyterLab, on MiniWorld.

    python docs/desk_picture.py

It needs chromium and `pip install -e '.[dev]'`.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page
from torchvision.utils import save_image

from edittools.image_files import save_mask
from edittools.images import LabeledImages
from edittools_course.miniworld.scenes import scenes

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import web  # noqa: E402
from desk_server import desk_page  # noqa: E402

EDITOR = """
from edittools import MaskEditor
from edittools_course.miniworld import scene
shown = scene(11, label="tractor", ground="snow")
MaskEditor(shown.image, shown.masks["snow"])
"""
LIMIT = 300_000


def main() -> None:
    """Draw both."""
    folder = Path(tempfile.mkdtemp())
    web.write_notebook(folder / "pictures.ipynb", EDITOR)
    with web.chromium() as browser:
        draw_desk(browser, folder)
        with (
            web.jupyterlab(folder, folder / "lab.log", {"PYTHONPATH": str(ROOT)}) as base,
            web.browser_page(browser, base, []) as page,
        ):
            page.set_default_timeout(300_000)
            page.set_viewport_size({"width": 1000, "height": 950})
            web.open_notebook(page, base, "pictures.ipynb")
            page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
            draw(run(page, 0, ".et-editor"), "mask_editor.png")


def draw_desk(browser: Browser, folder: Path) -> None:
    """Draw the desk after the first edit of a tractor on snow, whose snow is marked and replaced by wood."""
    on_snow = scenes(24, 5_000, ["tractor", "bicycle"] * 12, ground="snow")
    paths = write_folder(folder / "photos", on_snow)
    write_folder(folder / "clean", scenes(120, "validation"))
    save_mask(folder / "marks" / paths[0].relative_to(folder / "photos"), on_snow.mask("snow")[0])
    arguments = ("photos", "--model", "mini_vgg", "--clean", "clean")
    with desk_page(browser, folder, *arguments) as (page, _):
        page.set_viewport_size({"width": 1366, "height": 900})
        page.get_by_role("button", name="Replace it otherwise").click()
        page.get_by_label("replace by").select_option("wooden")
        page.get_by_text("the mark misleads").wait_for()
        page.get_by_role("button", name="Rewrite", exact=True).click()
        page.get_by_text("First edit").wait_for()
        draw(page.locator(".et-desk"), "desk.png")


def write_folder(folder: Path, data: LabeledImages) -> list[Path]:
    """Write images as files, in one subfolder per class; return their paths."""
    paths = []
    for number, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
        paths.append(folder / data.classes[label] / f"{number}.png")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        save_image(image, paths[-1])
    return paths


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
