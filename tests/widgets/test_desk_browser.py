"""The desk in a browser: the journey from a mistake to saved files, wide and narrow, by mouse and by keyboard."""

import os
import signal
from pathlib import Path

import pytest
from conftest import needs_browser
from desk_photos import desk_folder

pytest.importorskip("playwright", reason="the browser tests need playwright: pip install 'edittools[dev]'")

import web
from desk_server import ARGUMENTS, desk_page

pytestmark = needs_browser

OVERFLOWING = """root => { const right = (e) => e.getBoundingClientRect().right, edge = right(root) + 1;
    const outside = [...root.querySelectorAll('*')].filter(e => right(e) > edge);
    return outside.filter(e => !e.closest('.et-pick .et-gallery, select')).map(e => e.className); }"""

COLORS_OF_PREDICTIONS = """root => { const context = document.createElement('canvas').getContext('2d');
    const shown = color => { context.fillStyle = getComputedStyle(root).backgroundColor; context.fillRect(0, 0, 1, 1);
        context.fillStyle = color; context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3); };
    return [...root.querySelectorAll('.et-prediction .et-name')].map(e => [
        shown(getComputedStyle(e).color), shown(getComputedStyle(e.closest('.et-card')).backgroundColor)]); }"""

NAME_OF_FOCUSED = """() => { const e = document.activeElement;
    if (!e.closest('.et-desk')) return null;
    const text = e.labels?.length ? [...e.labels].map(l => l.textContent).join(' ') : e.textContent;
    return (e.ariaLabel || e.closest('.et-group')?.ariaLabel || text || e.title || '?').trim(); }"""


@pytest.fixture
def photos(tmp_path, monkeypatch):
    return desk_folder(tmp_path, monkeypatch)


def check_layout(page, name, theme="light"):
    """Save a screenshot, and check that nothing is cut off and that predictions can be read."""
    page.emulate_media(color_scheme=theme)
    page.wait_for_timeout(300)
    web.ARTEFACTS.mkdir(exist_ok=True)
    width = page.viewport_size["width"]
    page.screenshot(path=web.ARTEFACTS / f"desk-{width}-{theme}-{name}.png", full_page=True)
    root = page.locator(".et-desk")
    assert root.evaluate(OVERFLOWING) == [], name
    assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    assert all(web.contrast(*colors) >= 4.5 for colors in root.evaluate(COLORS_OF_PREDICTIONS)), (name, theme)


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def says(page, part, text):
    return web.wait_until(lambda: text in page.locator(part).inner_text(), 120)


def drag_over_the_middle(page):
    """Mark the middle quarter of the image with a rectangle."""
    canvas = page.locator(".et-marks")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    corners = [(box["x"] + share * box["width"], box["y"] + share * box["height"]) for share in (0.26, 0.70)]
    page.mouse.move(*corners[0])
    page.mouse.down()
    page.mouse.move(*corners[1], steps=4)
    page.mouse.up()


def journey(page, photos, width):
    page.set_viewport_size({"width": width, "height": 900})
    assert web.wait_until(button(page, "Rewrite").is_enabled, 120)
    check_layout(page, "mistakes")
    check_layout(page, "mistakes", "dark")
    button(page, "Rewrite").click()
    assert says(page, ".et-says", "Mark")
    page.get_by_role("button", name="Rectangle").click()
    drag_over_the_middle(page)
    assert web.wait_until(lambda: len(list(photos.glob("marks/*/*.png"))) == 1)
    assert says(page, ".et-pair-message", "the mark misleads")
    button(page, "Where to mark?").click()
    assert says(page, ".et-draw", "of the logit of")
    check_layout(page, "marked")
    button(page, "Where to mark?").click()
    button(page, "Rewrite").click()
    word = page.locator(".et-word:visible")
    assert web.wait_until(lambda: word.count() and word.inner_text() in ("First edit", "Selected edit"), 120)
    check_layout(page, "first")
    button(page, "Find it elsewhere").click()
    offered = page.locator(".et-shelf [role=checkbox]")
    assert web.wait_until(lambda: offered.count() > 50, 120)
    for number in (0, 1, 1):
        offered.nth(number).click()
    offered.nth(29).click(modifiers=["Shift"])
    assert says(page, ".et-shelf .et-message", "1 of ")
    offered.nth(2).click()
    offered.nth(29).click(modifiers=["Shift"])
    assert says(page, ".et-shelf .et-message", "29 of ")
    check_layout(page, "elsewhere")
    check_layout(page, "elsewhere", "dark")
    button(page, "Rewrite").click()
    assert web.wait_until(lambda: word.inner_text() in ("use", "unclear", "do not use"), 300)
    check_layout(page, "verdict")
    check_layout(page, "verdict", "dark")
    button(page, "Save").click()
    assert says(page, ".et-says", "Saved in")
    assert (photos / "edit" / "report.html").is_file()
    assert len((photos / "marks" / "checked.txt").read_text().splitlines()) == 29
    check_layout(page, "saved")


@pytest.mark.parametrize("width", [1400, 390])
def test_journey_by_mouse(photos, chromium, width):
    with desk_page(chromium, photos, *ARGUMENTS) as (page, _):
        journey(page, photos, width)


def test_journey_by_keyboard(photos, chromium):
    """Every control has a name, and the focus is never lost."""
    with desk_page(chromium, photos, *ARGUMENTS) as (page, _):
        page.set_viewport_size({"width": 1400, "height": 900})
        assert web.wait_until(button(page, "Rewrite").is_enabled, 120)
        first = page.locator(".et-pick [role=option]").first
        second = page.locator(".et-pick [role=option]").nth(1)
        first.focus()
        names = []
        while len(names) < 60 and (not names or names[-1] is not None):
            names.append(page.evaluate(NAME_OF_FOCUSED))
            page.keyboard.press("Tab")
        assert names[-1] is None and not {"", "?"} & set(names[:-1]), names
        for expected in ("Brush", "Where to mark?", "All tools", "Rewrite"):
            assert expected in names[:-1], (expected, names)
        first.focus()
        page.keyboard.press("ArrowRight")
        assert second.get_attribute("aria-selected") == "true"
        page.keyboard.press("ArrowLeft")
        assert first.get_attribute("aria-selected") == "true"
        page.wait_for_timeout(2000)  # the editor of the other image was shown
        page.locator(".et-marks").focus()
        to_corner = ["Home", "PageUp", "PageUp", *["ArrowRight"] * 8]  # from the middle; a page is an eighth
        to_other_corner = ["ArrowRight", "ArrowDown"] * 14
        for key in ("r", *to_corner, "Enter", *to_other_corner, "Enter"):
            page.keyboard.press(key)
        assert says(page, ".et-pair-message", "the mark misleads")
        button(page, "Rewrite").focus()
        page.keyboard.press("Enter")
        has_focus = "message => message === document.activeElement"
        assert web.wait_until(lambda: page.locator(".et-says .et-message").evaluate(has_focus))  # Rewrite is disabled
        button(page, "Find it elsewhere").focus()
        page.keyboard.press("Enter")
        offered = page.locator(".et-shelf [role=checkbox]")
        assert web.wait_until(lambda: offered.count() > 50, 120)
        offered.first.focus()
        page.keyboard.press("Space")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+Space")
        assert says(page, ".et-shelf .et-message", "3 of ")
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.getAttribute('role')") == "checkbox"
        assert page.locator(".et-shelf [role=checkbox][tabindex='0']").count() == 1
        button(page, "Rewrite").focus()
        page.keyboard.press("Enter")
        word = page.locator(".et-word:visible")
        assert web.wait_until(lambda: word.inner_text() in ("use", "unclear", "do not use"), 300)
        button(page, "Save").focus()
        page.keyboard.press("Enter")
        assert says(page, ".et-says", "Saved in")


def test_kernel_that_is_killed_while_it_selects_loses_no_mark_and_no_checked_image(photos, chromium):
    with desk_page(chromium, photos, *ARGUMENTS) as (page, process):
        assert web.wait_until(button(page, "Rewrite").is_enabled, 120)
        page.get_by_role("button", name="Rectangle").click()
        drag_over_the_middle(page)
        assert says(page, ".et-pair-message", "the mark misleads")
        editor = page.locator(".et-editor")
        count = editor.get_attribute("data-count")
        button(page, "Find it elsewhere").click()
        page.locator(".et-shelf [role=checkbox]").first.click()
        assert web.wait_until((photos / "marks" / "checked.txt").is_file)
        button(page, "Rewrite").click()
        word = page.locator(".et-word:visible")
        assert web.wait_until(lambda: word.count() and word.inner_text() == "First edit", 120)
        [kernel] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(kernel), signal.SIGKILL)
        page.locator(".et-ended").wait_for(timeout=30_000)
        page.reload(wait_until="domcontentloaded")
        assert web.wait_until(button(page, "Rewrite").is_enabled, 120) and editor.get_attribute("data-count") == count
        button(page, "Rewrite").click()
        assert web.wait_until(lambda: word.count() and word.inner_text() in ("use", "unclear", "do not use"), 300)
