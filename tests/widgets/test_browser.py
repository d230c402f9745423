"""The mask editor in a real JupyterLab: Python receives what is drawn in the browser, pixel for pixel."""

import base64
import io

import numpy as np
import pytest
import torch
from conftest import needs_browser, save_image
from PIL import Image
from scipy.ndimage import distance_transform_edt
from skimage.draw import polygon

from edittools.image_files import load_image
from edittools.widgets.editor import MaskEditor, unpack_mask

pytest.importorskip("playwright", reason="the browser tests need playwright: pip install 'edittools[dev]'")
import web

pytestmark = needs_browser
WIDTH, HEIGHT = 96, 64
CELLS = (
    "from edittools import MaskEditor, load_image\neditor = MaskEditor(load_image('scene.png'))\neditor",
    "large = MaskEditor(load_image('large.png'))\nlarge",
    "editor",
)


def scene():
    """Soft patches of color with a little noise: areas that smart select can separate."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(1, 3, 4, 6, generator=generator)
    soft = torch.nn.functional.interpolate(patches, (HEIGHT, WIDTH), mode="bicubic")[0]
    return (soft + 0.02 * torch.rand(3, HEIGHT, WIDTH, generator=generator)).clamp(0, 1)


class EditorView:
    """A view of an editor in the page, which moves the mouse in pixels of the image."""

    def __init__(self, page, index=0, name="editor"):
        self.page = page
        self.name = name
        self.root = page.locator(".et-editor").nth(index)
        self.canvas = self.root.locator(".et-marks")

    def corner(self):
        """Return the number of screen pixels per image pixel, and the image's corner on the screen."""
        box = self.canvas.bounding_box()
        scale, left, upper = map(float, self.root.locator(".et-stage").get_attribute("data-view").split())
        return scale, box["x"] + left, box["y"] + upper

    def at(self, x, y):
        """Return the position on the screen of the center of a pixel."""
        scale, left, upper = self.corner()
        return left + (x + 0.5) * scale, upper + (y + 0.5) * scale

    def under(self, x, y):
        """Return the position in the image of a position on the screen."""
        scale, left, upper = self.corner()
        return (x - left) / scale, (y - upper) / scale

    def drag(self, *points, button="left"):
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down(button=button)
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point))
        self.page.mouse.up(button=button)

    def click(self, x, y, button="left"):
        self.drag((x, y), button=button)

    def press(self, *keys):
        self.canvas.focus()
        for key in keys:
            self.page.keyboard.press(key)

    def do(self, action):
        self.root.locator(f"[data-action={action}]").click()

    def count(self):
        return int(self.root.get_attribute("data-count"))

    def python(self, code):
        web.in_kernel(self.page, code)

    def shows(self, expected):
        """Return whether Python's mask, and the count of the view, become those of an expected mask `(H, W)`."""
        return web.wait_until(lambda: self.count() == expected.sum() and (self.mask(*expected.shape) == expected).all())

    def mask(self, height=HEIGHT, width=WIDTH):
        """Return the mask as Python has it."""
        encoded = web.in_kernel(self.page, f"import base64; print(base64.b64encode({self.name}._mask).decode())")
        return unpack_mask(base64.b64decode(encoded), (height, width))

    def pixels(self):
        """Return the pixels of the layer of the mask, as text."""
        return self.canvas.evaluate("top => top.parentElement.querySelector('.et-mask').toDataURL()")


@pytest.fixture(scope="module")
def folder(jupyterlab):
    _, root = jupyterlab
    folder = root / "editor"
    save_image(folder / "scene.png", scene())
    large = torch.nn.functional.interpolate(scene()[None], (3000, 4000), mode="bilinear")[0].clamp(0, 1)
    save_image(folder / "large.png", large)
    web.write_notebook(folder / "draw.ipynb", *CELLS)
    return folder


@pytest.fixture(scope="module")
def page(jupyterlab, folder, chromium):
    base, _ = jupyterlab
    outside = []
    with web.browser_page(chromium, base, outside) as page:
        page.set_default_timeout(60_000)
        web.open_notebook(page, base, "editor/draw.ipynb")
        assert web.run_cell(page, 0), web.cell_text(page, 0)
        page.wait_for_selector(".et-editor .et-stage[data-view]")
        page.base = base
        yield page
    assert outside == []  # no request went to another machine


@pytest.fixture
def drawn(page):
    """An empty editor whose brush of radius 2 is selected."""
    view = EditorView(page)
    view.python("editor.mask = None")
    assert web.wait_until(lambda: view.count() == 0)
    view.canvas.scroll_into_view_if_needed()
    view.press("Escape", "0", "b")
    page.wait_for_timeout(150)  # it is drawn at the next frame
    return view


def stroke(points, radius=2, shape=(HEIGHT, WIDTH)):
    """Discs of pixels along straight lines; a line has one pixel per step of its longer side."""
    off = np.ones([side + 40 for side in shape], bool)
    for start, end in zip(points, [*points[1:], points[-1]], strict=True):
        steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for i in range(steps + 1):
            x, y = (a + (2 * i * (b - a) + steps) // (2 * steps) for a, b in zip(start, end, strict=True))
            off[y + 20, x + 20] = False
    return (distance_transform_edt(off) ** 2 < radius * (radius + 1) + 0.5)[20:-20, 20:-20]


def box(left, upper, right, lower):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[upper : lower + 1, left : right + 1] = True
    return mask


def filled(points):
    """The pixels inside a polygon and on its edges."""
    inside = np.zeros((HEIGHT, WIDTH), bool)
    x, y = zip(*points, strict=True)
    inside[polygon(y, x, inside.shape)] = True
    return inside | stroke([*points, points[0]], 0)


CORNERS = [(10, 5), (80, 20), (85, 60)]
STROKE = [(10, 10), (40, 14), (41, 30), (15, 50), (15, 50), (90, 62)]
EMPTY = box(1, 1, 0, 0)


def test_brush_sets_discs_and_eraser_clears_them(drawn):
    drawn.drag(*STROKE)
    expected = stroke(STROKE)
    assert drawn.shows(expected)
    drawn.press("e")
    drawn.drag((30, 0), (30, 63))
    expected &= ~stroke([(30, 0), (30, 63)])
    assert drawn.shows(expected)
    drawn.press("b", "]", "]")
    drawn.drag((70, 20), button="right")
    assert drawn.page.locator(".lm-Menu").count() == 0
    drawn.drag((80, 20))
    assert drawn.shows((expected & ~stroke([(70, 20)], 4)) | stroke([(80, 20)], 4))
    drawn.press("[", "[")


def test_drag_that_begins_next_to_the_image_draws_from_its_edge(drawn):
    drawn.drag((-2, 30), (40, 30))
    expected = stroke([(-2, 30), (40, 30)])
    assert drawn.shows(expected)
    drawn.press("r")
    drawn.drag((60, HEIGHT + 2), (50, HEIGHT + 1), (70, 45))  # over the text below the image
    expected |= box(50, 45, 70, HEIGHT - 1)
    assert drawn.shows(expected) and drawn.page.evaluate("getSelection().toString()") == ""
    button = drawn.root.get_by_role("button", name="Grow").bounding_box()
    drawn.page.mouse.move(button["x"] + 5, button["y"] + 5)
    drawn.page.mouse.down()
    drawn.page.mouse.move(*drawn.at(80, 20))
    drawn.page.mouse.up()
    drawn.drag((-20, 5), (10, 5))  # too far away
    assert drawn.shows(expected)


def test_lasso_rectangle_and_polygon_fill_the_enclosed_area(drawn):
    drawn.press("o")
    path = [(20, 30), (60, 28), (75, 50), (40, 40), (30, 60), (50, 25)]
    drawn.drag(*path)
    expected = filled(path)
    assert drawn.shows(expected)
    drawn.press("r")
    drawn.page.keyboard.down("Alt")
    drawn.drag((70, 55), (30, 35))
    drawn.page.keyboard.up("Alt")
    expected &= ~box(30, 35, 70, 55)
    assert drawn.shows(expected)
    drawn.press("p")
    for corner in (*CORNERS, (20, 55), CORNERS[0]):
        drawn.click(*corner)
    assert drawn.shows(expected | filled([*CORNERS, (20, 55)]))
    drawn.do("clear")
    drawn.press("b")
    drawn.drag((2, 2), (6, 2))  # with the brush
    stroked = stroke([(2, 2), (6, 2)])
    assert drawn.shows(stroked)
    drawn.press("p")
    for corner in (*CORNERS, (20, 55), (40, 60)):
        drawn.click(*corner)
    drawn.page.keyboard.press("Control+z")
    drawn.root.get_by_role("button", name="Undo", exact=True).click()
    drawn.press("Control+Shift+z")  # (20, 55) is a corner again
    drawn.press("Enter")
    assert drawn.shows(stroked | filled([*CORNERS, (20, 55)]))
    drawn.press("Control+z")
    assert drawn.shows(stroked)
    drawn.click(*CORNERS[0])
    drawn.click(*CORNERS[1])
    drawn.press("Enter")  # two corners enclose nothing
    drawn.press("Control+z", "Control+z")  # no corner is left
    assert drawn.shows(stroked)


def test_ellipse_fills_the_box_from_corner_to_corner(drawn):
    drawn.press("c")
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    expected = np.zeros((HEIGHT, WIDTH), bool)
    for x0, y0, x1, y1 in [(10, 8, 41, 30), (60, 20, 60, 20), (70, 60, 50, 33), (85, 10, 110, 90)]:
        drawn.drag((x0, y0), (x1, y1))
        middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
        across, along = (abs(x1 - x0) + 1) / 2, (abs(y1 - y0) + 1) / 2
        expected |= ((x - middle_x) / across) ** 2 + ((y - middle_y) / along) ** 2 <= 1
        assert drawn.shows(expected), (x0, y0)
    drawn.root.screenshot(path=web.ARTEFACTS / "editor-ellipse.png")
    drawn.page.keyboard.down("Alt")
    drawn.drag((20, 15), (30, 25))
    drawn.page.keyboard.up("Alt")
    assert drawn.shows(expected & ~(((x - 25) / 5.5) ** 2 + ((y - 20) / 5.5) ** 2 <= 1))


def test_smart_select_adds_whole_segments_of_the_size_that_is_set(drawn, folder):
    superpixels = MaskEditor(load_image(folder / "scene.png"))._segments
    numbers = np.repeat(*np.array(superpixels["runs"].split(), int).reshape(-1, 2).T).reshape(HEIGHT, WIDTH)
    path = [(5, 5), (50, 9), (60, 60)]
    drawn.press("s")
    for size in (0, 3):
        segments = np.array(superpixels["segments"][size])[numbers]
        drawn.root.get_by_label("Size").fill(str(size))
        drawn.canvas.focus()
        drawn.drag(*path)
        over = np.unique(segments[stroke(path, 0)])
        expected = np.isin(segments, over)
        assert drawn.shows(expected)
        drawn.click(50, 9, button="right")
        assert drawn.shows(expected & (segments != segments[9, 50]))
        drawn.do("clear")
        assert drawn.shows(EMPTY)
    drawn.press("[", "[")
    assert drawn.root.get_by_label("Size").input_value() == "1"


def test_undo_after_grow_shrink_invert_and_clear(drawn):
    drawn.press("r")
    drawn.drag((10, 10), (50, 50))
    drawn.press("g", "g")
    assert drawn.shows(box(8, 8, 52, 52))
    drawn.do("shrink")
    drawn.do("shrink")
    assert drawn.shows(box(10, 10, 50, 50))
    drawn.press("i")
    assert drawn.shows(~box(10, 10, 50, 50))
    drawn.do("clear")
    assert drawn.shows(EMPTY)
    drawn.press("Control+z", "Control+z")
    assert drawn.shows(box(10, 10, 50, 50))
    drawn.press("Control+Shift+z")
    assert drawn.shows(~box(10, 10, 50, 50))
    drawn.python("import torch; editor.mask = torch.ones(editor.mask.shape)")
    assert drawn.shows(box(0, 0, WIDTH, HEIGHT))
    drawn.press("Control+z")
    assert drawn.shows(~box(10, 10, 50, 50))
    drawn.press("Control+z", "Control+z", "Control+z", "b")
    before = drawn.pixels()
    drawn.page.mouse.move(*drawn.at(20, 20))
    drawn.page.mouse.down()
    drawn.page.mouse.move(*drawn.at(60, 20))
    assert web.wait_until(lambda: drawn.pixels() != before)
    drawn.page.keyboard.press("Escape")  # cancels the stroke
    drawn.page.mouse.up()
    assert web.wait_until(lambda: drawn.pixels() == before)


def captured(session):
    """What is on the screen, in device pixels; a screenshot of playwright's own would reset their ratio."""
    content = base64.b64decode(session.send("Page.captureScreenshot")["data"])
    return Image.open(io.BytesIO(content)).convert("RGB")


@pytest.mark.parametrize("ratio", [1, 2])
def test_stroke_is_where_the_pointer_is_on_the_enlarged_canvas(drawn, ratio):
    """The image fills the middle of the canvas; what is painted on the screen is under the pointer."""
    page = drawn.page
    session = page.context.new_cdp_session(page)
    size = page.viewport_size
    session.send("Emulation.setDeviceMetricsOverride", {**size, "deviceScaleFactor": ratio, "mobile": False})
    small = drawn.canvas.bounding_box()
    for enlarged in (False, True):
        if enlarged:
            drawn.press("f")
            assert web.wait_until(lambda: drawn.canvas.bounding_box()["width"] > 1.2 * small["width"])
            page.wait_for_timeout(300)
        box_on_screen = drawn.canvas.bounding_box()
        scale = min(box_on_screen["width"] / WIDTH, box_on_screen["height"] / HEIGHT)
        left = box_on_screen["x"] + (box_on_screen["width"] - scale * WIDTH) / 2
        upper = box_on_screen["y"] + (box_on_screen["height"] - scale * HEIGHT) / 2
        screen = [(left + (x + 0.5) * scale, upper + (y + 0.5) * scale) for x, y in ((20, 30), (60, 35))]
        before = captured(session)
        page.mouse.move(*screen[0])
        page.mouse.down()
        page.mouse.move(*screen[1])
        page.mouse.up()
        assert drawn.shows(stroke([(20, 30), (60, 35)]))
        page.mouse.move(5, 5)
        page.wait_for_timeout(300)
        after = captured(session)
        assert after.width == ratio * size["width"]
        for x, y in screen:
            at = (round(ratio * x), round(ratio * y))
            assert np.abs(np.subtract(after.getpixel(at), before.getpixel(at), dtype=int)).sum() > 30
        neighbor = (round(ratio * screen[0][0]), round(ratio * (screen[0][1] + 8 * scale)))
        assert after.getpixel(neighbor) == before.getpixel(neighbor)
        if enlarged:
            after.save(web.ARTEFACTS / f"editor-enlarged-{ratio}.png")
        drawn.press("Control+z")
        assert web.wait_until(lambda: drawn.count() == 0)
    drawn.press("Escape")
    assert web.wait_until(lambda: drawn.canvas.bounding_box() == small)
    session.send("Emulation.clearDeviceMetricsOverride")
    for width in (size["width"] - 100, size["width"]):  # the other views get to know the ratio when they are resized
        page.set_viewport_size({**size, "width": width})
        page.wait_for_timeout(300)


def test_zoom_keeps_the_point_under_the_mouse_and_exact_strokes(drawn):
    stage = drawn.root.locator(".et-stage")
    point = tuple(map(round, drawn.at(30, 40)))
    under = drawn.under(*point)
    drawn.page.mouse.move(*point)
    drawn.page.keyboard.down("Control")
    for _ in range(4):
        drawn.page.mouse.wheel(0, -60)
    drawn.page.keyboard.up("Control")
    fitted = stage.bounding_box()["height"] / HEIGHT
    assert web.wait_until(lambda: float(stage.get_attribute("data-view").split()[0]) > 3 * fitted)
    assert drawn.under(*point) == pytest.approx(under, abs=0.001)
    drawn.drag((28, 38), (32, 41))
    expected = stroke([(28, 38), (32, 41)])
    assert drawn.shows(expected)
    before = drawn.at(30, 40)
    drawn.page.mouse.move(*point)
    drawn.page.keyboard.down(" ")
    drawn.page.mouse.down()
    drawn.page.mouse.move(point[0] + 40, point[1] - 30)
    drawn.page.mouse.up()
    drawn.page.keyboard.up(" ")
    assert drawn.at(30, 40) == pytest.approx((before[0] + 40, before[1] - 30), abs=0.01)
    assert drawn.shows(expected)
    drawn.press("0")
    assert float(stage.get_attribute("data-view").split()[0]) == pytest.approx(fitted)


def test_two_fingers_zoom_and_move_the_image_and_draw_nothing(drawn):
    session = drawn.page.context.new_cdp_session(drawn.page)

    def touch(kind, *points):
        fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    def draw(*points):
        touch("touchStart", drawn.at(*points[0]))
        for point in points[1:]:
            touch("touchMove", drawn.at(*point))
        touch("touchEnd")

    draw((20, 10), (30, 12))
    expected = stroke([(20, 10), (30, 12)])
    assert drawn.shows(expected)
    x, y = drawn.at(48, 32)
    fitted, _, _ = drawn.corner()
    under = drawn.under(x, y)
    touch("touchStart", (x - 20, y))
    touch("touchMove", (x - 25, y))  # a stroke, until there is a second finger
    touch("touchStart", (x - 25, y), (x + 25, y))
    touch("touchMove", (x - 50, y - 30), (x + 50, y - 30))
    assert web.wait_until(lambda: drawn.corner()[0] == pytest.approx(2 * fitted))
    assert drawn.under(x, y - 30) == pytest.approx(under, abs=0.01)  # the image follows the fingers
    touch("touchEnd", (x - 50, y - 30))
    touch("touchMove", (x - 90, y))  # the finger that is left does not draw
    touch("touchEnd")
    assert drawn.shows(expected)
    draw((50, 40), (60, 41))
    expected |= stroke([(50, 40), (60, 41)])
    assert drawn.shows(expected)
    drawn.press("p")
    for corner in ((40, 30), (55, 30), (55, 44)):
        draw(corner)
    touch("touchStart", (x - 20, y + 60))
    touch("touchStart", (x - 20, y + 60), (x + 60, y + 60))
    touch("touchEnd")
    drawn.press("Enter")  # the polygon is as it was before
    assert drawn.shows(expected | filled([(40, 30), (55, 30), (55, 44)]))


def test_mask_is_drawn_by_keyboard_and_no_key_reaches_jupyterlab(drawn):
    page = drawn.page
    drawn.root.locator("[data-tool=brush]").focus()
    stops = []
    while len(stops) < 30 and not drawn.canvas.evaluate("e => e === document.activeElement"):
        name = "document.activeElement.closest('[role=group]')?.ariaLabel ?? document.activeElement.ariaLabel"
        stops.append(page.evaluate(name))
        page.keyboard.press("Tab")
    assert stops == ["Tools", "Undo and redo", "Change the mask", "Help", "Size", "Opacity"]
    for key in ["r", "Home", "PageUp", *["PageUp"] * 8, *["Shift+ArrowRight"] * 2, *["ArrowDown"] * 3, "Enter"]:
        page.keyboard.press(key)
    for key in [*["Shift+ArrowRight"] * 4, "ArrowLeft", *["Shift+ArrowDown"] * 3, "Enter"]:
        page.keyboard.press(key)
    rectangle = box(20, 3, 59, 33)
    assert drawn.shows(rectangle)
    drawn.press("p")
    drawn.click(20, 20)
    for key in [*["Shift+ArrowRight"] * 3, "Enter", *["Shift+ArrowDown"] * 2, "Enter", "Enter"]:
        page.keyboard.press(key)
    assert drawn.shows(rectangle | filled([(20, 20), (50, 20), (50, 40)]))
    for focused in (drawn.canvas, drawn.root.locator("[data-tool=brush]"), drawn.root.get_by_label("Size")):
        focused.focus()
        for key in ("m", "y", "d", "d", "a", "c", "z", "Shift+Enter"):
            page.keyboard.press(key)
    cells = page.evaluate("jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model.type)")
    assert cells == ["code"] * len(CELLS)


def test_mask_stands_out_without_colors_and_can_be_faint_or_hidden(drawn):
    blank = drawn.pixels()
    drawn.drag(*STROKE)
    assert drawn.shows(stroke(STROKE))
    assert web.wait_until(lambda: drawn.pixels() != blank)
    pixels = drawn.canvas.evaluate("""top => { const layer = top.parentElement.querySelector('.et-mask');
        const { data } = layer.getContext('2d').getImageData(0, 0, layer.width, layer.height);
        const colors = [...new Set(new Uint32Array(data.buffer))];
        return colors.map(color => [...new Uint8Array(new Uint32Array([color]).buffer)]); }""")
    outline = [color for *color, alpha in pixels if alpha > 200]
    assert max(web.contrast(one, other) for one in outline for other in outline) > 7
    opaque = drawn.pixels()
    drawn.root.get_by_label("Opacity").fill("10")
    assert web.wait_until(lambda: drawn.pixels() != opaque)
    assert web.in_kernel(drawn.page, "print(editor.opacity)") == "0.1"
    drawn.python("editor.opacity = 0.45")
    assert web.wait_until(lambda: drawn.pixels() == opaque)
    drawn.canvas.focus()
    drawn.page.keyboard.down("h")
    assert web.wait_until(lambda: drawn.pixels() == blank)
    drawn.page.keyboard.up("h")
    assert web.wait_until(lambda: drawn.pixels() == opaque)


def test_mask_of_a_large_image_has_its_full_size(drawn):
    page = drawn.page
    page.evaluate(
        "jupyterapp.shell.currentWidget.content.widgets.forEach((cell, i) => i < 1 && (cell.outputHidden = true))"
    )
    assert web.run_cell(page, 1)
    cell = page.locator(".jp-Cell").nth(1)
    cell.locator(".et-stage[data-view]").wait_for()
    view = EditorView(page, page.locator(".et-editor").count() - 1, "large")
    view.canvas.scroll_into_view_if_needed()
    view.press("r")
    view.drag((200, 300), (3000, 700))
    upper, left = (int(numbers.min()) for numbers in np.nonzero(view.mask(3000, 4000)))
    lower, right = (int(numbers.max()) for numbers in np.nonzero(view.mask(3000, 4000)))
    assert [left, upper, right, lower] == pytest.approx([200, 300, 3000, 700], abs=5)
    assert view.count() == (right - left + 1) * (lower - upper + 1)
    page.evaluate("jupyterapp.shell.currentWidget.content.widgets.forEach(cell => (cell.outputHidden = false))")


def is_inside_the_window(page, part):
    area = part.bounding_box()
    window = page.viewport_size
    right, lower = area["x"] + area["width"], area["y"] + area["height"]
    return area["x"] >= 0 and area["y"] >= 0 and right <= window["width"] and lower <= window["height"]


def test_help_fits_into_a_small_window_and_the_editor_follows_the_theme(drawn, request):
    page = drawn.page
    before = page.viewport_size
    request.addfinalizer(lambda: page.set_viewport_size(before))
    page.set_viewport_size({"width": 420, "height": 400})
    page.wait_for_timeout(400)
    drawn.canvas.scroll_into_view_if_needed()
    height = drawn.root.bounding_box()["height"]
    shortcuts = drawn.root.locator(".et-help")
    drawn.press("?")
    assert web.wait_until(lambda: shortcuts.is_visible() and is_inside_the_window(page, shortcuts))
    assert drawn.root.bounding_box()["height"] == height
    is_cut_off = "list => [...list.querySelectorAll('dd, kbd')].some(e => e.scrollWidth > e.clientWidth + 1)"
    assert not shortcuts.evaluate(is_cut_off) and not shortcuts.locator("section").last.is_visible()
    page.keyboard.press("Escape")
    assert web.wait_until(lambda: not shortcuts.is_visible())
    backgrounds = []
    for theme in ("Dark", "Light"):
        page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
        page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
        page.wait_for_timeout(700)  # the theme's sheet arrives after its name
        drawn.root.screenshot(path=web.ARTEFACTS / f"editor-{theme.lower()}.png")
        backgrounds.append(drawn.root.evaluate("root => getComputedStyle(root).backgroundColor"))
    dark, light = (sum(map(int, color.strip("rgba()").split(",")[:3])) for color in backgrounds)
    assert dark < 200
    assert light > 600


def test_mask_is_equal_in_two_views_and_after_a_reload_of_the_page(drawn):
    page = drawn.page
    assert web.run_cell(page, 2)
    page.locator(".jp-Cell").nth(2).locator(".et-stage[data-view]").wait_for()
    other = EditorView(page, page.locator(".et-editor").count() - 1)
    drawn.canvas.scroll_into_view_if_needed()
    drawn.drag(*STROKE)
    assert drawn.shows(stroke(STROKE))
    assert web.wait_until(lambda: other.count() == drawn.count())
    other.canvas.scroll_into_view_if_needed()
    other.press("r")
    other.drag((5, 5), (60, 20))
    assert other.shows(stroke(STROKE) | box(5, 5, 60, 20))
    assert web.wait_until(lambda: other.count() == drawn.count())
    other.press("Control+z")
    assert other.shows(stroke(STROKE))
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    web.open_notebook(page, page.base, "editor/draw.ipynb")
    page.wait_for_selector(".et-editor .et-stage[data-view]")
    drawn.canvas.scroll_into_view_if_needed()
    drawn.press("r")
    drawn.drag((0, 0), (9, 9))
    assert drawn.shows(stroke(STROKE) | box(0, 0, 9, 9))
