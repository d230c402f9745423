"""`edittools desk`: a page with one's own model and folders in a browser, without code; and errors in one line."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import needs_browser
from desk_photos import MASK, desk_folder
from desk_server import ARGUMENTS, desk_page, serving

from edittools.cli import main
from edittools.widgets.desk.desk import desk_or_error
from edittools.widgets.desk.page import ADDRESS, FIRST_PORT, desk_notebook
from edittools.widgets.desk.view import View

HARMFUL = """
import pathlib
pathlib.Path(__file__).with_name("hit").touch()
"""


@pytest.fixture
def photos(tmp_path, monkeypatch):
    return desk_folder(tmp_path, monkeypatch)


@needs_browser
def test_desk_command_shows_the_images_and_takes_a_free_port(photos, chromium):
    """Nothing in the current folder is run but the file of the model."""
    import web

    for name in ("ipywidgets", "anywidget", "sitecustomize", "voila", "jupyter_config", "ipython_config"):
        (photos / f"{name}.py").write_text(HARMFUL)
    outside = []
    lowest = FIRST_PORT + 1
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((ADDRESS, FIRST_PORT))
            taken.listen()
        except OSError:
            lowest = FIRST_PORT  # the desk of another test has it, which may end before this one looks for a port
        with serving(photos, *ARGUMENTS) as (address, process):
            assert int(re.search(r":(\d+)/", address)[1]) >= lowest
            base = address.partition("?")[0].rstrip("/")
            with web.browser_page(chromium, base, outside) as page:
                blocked = []
                page.on("requestfailed", lambda request: blocked.append(request.url))
                page.set_default_timeout(180_000)
                page.goto(address, wait_until="domcontentloaded")
                page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
                assert blocked == []
                images = page.locator(".et-pick [role=option]")
                assert web.wait_until(lambda: images.count() > 5)
                assert "desk_or_error" not in page.locator("body").inner_text()
                web.ARTEFACTS.mkdir(exist_ok=True)
                page.screenshot(path=web.ARTEFACTS / "desk-command.png", full_page=True)
        assert process.returncode == 0 and "ping" not in process.printed
    assert outside == [] and not (photos / "hit").exists()


@needs_browser
def test_desk_without_its_server_says_so_and_cannot_be_pressed(photos, chromium):
    import web

    with desk_page(chromium, photos, *ARGUMENTS) as (page, process):
        notice = page.locator(".et-ended")
        rewrite = page.get_by_role("button", name="Rewrite", exact=True)
        assert web.wait_until(rewrite.is_enabled) and not notice.is_visible()
        editor = page.locator(".et-editor")
        page.locator(".et-marks").focus()
        for key in ("r", "Home", "PageUp", "Enter", "End", "PageDown", "Enter", "f"):
            page.keyboard.press(key)
        assert web.wait_until(lambda: int(editor.get_attribute("data-count")) > 100)
        count = editor.get_attribute("data-count")
        page.context.set_offline(True)
        notice.wait_for(timeout=10_000)
        is_inert = "part => part.closest('[inert]') !== null"
        assert rewrite.evaluate(is_inert) and editor.evaluate(is_inert)
        assert editor.get_attribute("popover") is None  # it was enlarged, over the notice
        page.context.set_offline(False)
        assert web.wait_until(lambda: not notice.is_visible()) and not rewrite.evaluate(is_inert)
        process.send_signal(signal.SIGINT)
        notice.wait_for(timeout=10_000)
        page.locator(".et-desk").get_by_text("Rewrite", exact=True).click(force=True)
        web.ARTEFACTS.mkdir(exist_ok=True)
        page.screenshot(path=web.ARTEFACTS / "desk-ended.png")
        assert rewrite.evaluate(is_inert) and editor.get_attribute("data-count") == count


@needs_browser
def test_page_of_an_earlier_desk_asks_a_new_one_at_its_address_once(photos, chromium):

    with desk_page(chromium, photos, *ARGUMENTS) as (page, _):
        asked = []
        page.on("request", lambda request: asked.append(request.url) if "no_track_activity" in request.url else None)
        page.route("**/api/kernels/**", lambda route: route.fulfill(status=403))  # as the new desk does
        page.locator(".et-ended").wait_for(timeout=10_000)
        asked.clear()
        page.wait_for_timeout(2000)
        assert not asked and page.locator(".et-ended").is_visible()


def test_desk_command_keeps_the_token_from_the_command_line_of_the_browser(photos):
    browser = photos / "browser"
    arguments = photos / "arguments"
    browser.write_text(f'#!/bin/sh\necho "$@" > {arguments}.part\nmv {arguments}.part {arguments}\n')
    browser.chmod(0o700)
    with serving(photos, *ARGUMENTS, browser=f"{browser} %s") as (address, _):
        deadline = time.monotonic() + 60
        while not arguments.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        token = address.partition("token=")[2]
        opened = arguments.read_text().strip()
        assert token and token not in opened and opened.startswith("file:///")
        redirect = Path(opened.removeprefix("file://"))
        assert address in redirect.read_text() and redirect.stat().st_mode & 0o777 == 0o600
    assert not redirect.exists()


@needs_browser
def test_desk_is_dark_while_the_browser_prefers_that(photos, chromium):
    import web

    with desk_page(chromium, photos, *ARGUMENTS) as (page, _):
        lightness = """() => { const context = document.createElement('canvas').getContext('2d');
            context.fillStyle = getComputedStyle(document.querySelector('.et-desk')).backgroundColor;
            context.fillRect(0, 0, 1, 1); return context.getImageData(0, 0, 1, 1).data[0]; }"""
        assert page.evaluate(lightness) > 200
        page.emulate_media(color_scheme="dark")
        assert web.wait_until(lambda: page.evaluate(lightness) < 60)
        page.reload(wait_until="domcontentloaded")
        page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
        assert page.evaluate(lightness) < 60 and page.evaluate("document.body.dataset.jpThemeLight") == "false"
        page.goto(f"{page.url}&theme=light", wait_until="domcontentloaded")
        page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
        assert page.evaluate(lightness) > 200


def run_cell(notebook):
    names = {}
    *lines, last = notebook.cells[0].source.splitlines()
    exec("\n".join(lines), names)
    return eval(last, names)


def test_desk_notebook_makes_a_desk_that_saves_where_the_command_was_called(photos, monkeypatch):
    monkeypatch.chdir("/")
    notebook = desk_notebook(photos, photos / "photos", "model.py:load", photos / "clean", Path("marks"))
    view = run_cell(notebook)
    assert isinstance(view, View)
    deadline = time.monotonic() + 120
    while view.rewrite.disabled and time.monotonic() < deadline:
        time.sleep(0.1)
    [editor] = view.editor_box.children
    editor.mask = MASK
    assert len(list(photos.glob("marks/*/*.png"))) == 1


def test_desk_or_error_of_a_missing_model_says_why(photos):
    shown = desk_or_error("no<b>model", str(photos / "photos"), str(photos / "clean"), None, "marks")
    assert "no&lt;b&gt;model" in shown.value


@pytest.mark.parametrize(
    ("arguments", "quoted"),
    [
        (["nowhere", "--model", "mini_vgg", "--clean", "clean"], "'nowhere' is not a folder"),
        (["photos", "--model", "mini_vgg"], "--clean"),
        (["photos", "--model", "mini_vgg", "--clean", "nowhere"], "'nowhere' is not a folder"),
        (["photos", "--model", "mini_vg", "--clean", "clean"], "did you mean 'mini_vgg'"),
        (["photos", "--model", "model.py:other", "--clean", "clean"], "has no function 'other'"),
        ([*ARGUMENTS, "--retain", "empty"], "folder 'empty' contains no images"),
    ],
)
def test_desk_command_with_wrong_arguments_is_one_line(photos, arguments, quoted, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    (photos / "empty").mkdir()
    assert main(["desk", *arguments]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1].startswith("edittools: ") and quoted in printed[-1]


def test_desk_command_looks_at_the_folders_before_it_loads_the_model(photos, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    (photos / "empty").mkdir()
    (photos / "model.py").write_text("raise RuntimeError('the model was loaded')")
    assert main(["desk", "photos", "--model", "model.py:load", "--clean", "empty"]) == 2
    assert "'empty'" in capsys.readouterr().err


def test_desk_command_names_a_missing_folder_before_torch_is_imported(tmp_path):
    command = ["desk", "nowhere", "--model", "mini_vgg", "--clean", "nowhere"]
    code = (
        f"import sys; from edittools.cli import main; code = main({command}); "
        "sys.exit(code if 'torch' not in sys.modules else 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 2
