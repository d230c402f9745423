"""`edittools desk`: a page with one's own model and folders in a browser, without code; and errors in one line."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import needs_browser, save_image

from edittools.cli import main
from edittools.course.miniworld.scenes import scenes
from edittools.widgets.desk import Desk
from edittools.widgets.desk_page import ADDRESS, FIRST_PORT, NO_CLEAN, SAME_MACHINE, desk_notebook, desk_or_error

MODEL = """
import torch
import edittools as et

def load():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.Conv2d(8, 12, 3), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(12, 2),
    )
    return et.Classifier(net, ["van", "bus"], size=64)
"""


@pytest.fixture
def photos(tmp_path):
    """A folder of six small photos, one of 40 clean ones, and a file with a model."""
    (tmp_path / "model.py").write_text(MODEL)
    for folder, count, offset in (("photos", 6, 5_000), ("clean", 40, 6_000)):
        names = ["van", "bus"] * (count // 2)
        rendered = scenes(count, offset, names, ground="snow")
        for number, name in enumerate(names):
            save_image(tmp_path / folder / name / f"{number}.png", rendered.images[number])
    return tmp_path


@contextmanager
def serving(folder, *arguments):
    """Run the command in a folder until the end of the context; give its address and its process."""
    environment = {**os.environ, "BROWSER": "true", "JUPYTER_CONFIG_DIR": str(folder), "IPYTHONDIR": str(folder)}
    command = [sys.executable, "-m", "edittools.cli", "desk", *arguments]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores Ctrl-C
    )
    try:
        printed = ""
        while "http://" not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        yield re.search(r"http://\S+", printed)[0], process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@needs_browser
def test_desk_command_shows_the_images_and_takes_a_free_port(photos, chromium):
    import web

    outside = []
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((ADDRESS, FIRST_PORT))
            taken.listen()
        except OSError:
            pass  # something else has it, which serves as well
        with serving(photos, "photos", "--model", "model.py:load") as (address, process):
            assert int(re.search(r":(\d+)/", address)[1]) > FIRST_PORT
            base = address.partition("?")[0].rstrip("/")
            with web.browser_page(chromium, base, outside) as page:
                page.set_default_timeout(180_000)
                page.goto(address, wait_until="domcontentloaded")
                page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
                images = page.locator(".et-pick [role=option]")
                assert web.wait_until(lambda: images.count() == 6)
                assert NO_CLEAN in page.locator(".et-desk").inner_text()
                assert page.get_by_role("button", name="Find the best", exact=True).is_disabled()
                assert "desk_or_error" not in page.locator("body").inner_text()
                web.ARTEFACTS.mkdir(exist_ok=True)
                page.screenshot(path=web.ARTEFACTS / "desk-command.png", full_page=True)
        assert process.returncode == 0
    assert outside == []


def test_voila_of_the_notebook_has_the_policy_of_the_command():
    settings = json.loads((Path(__file__).parent.parent / "voila.json").read_text())["Voila"]["tornado_settings"]
    assert settings == {"headers": {"Content-Security-Policy": SAME_MACHINE}}


def run_cell(notebook):
    names = {}
    *lines, last = notebook.cells[0].source.splitlines()
    exec("\n".join(lines), names)
    return eval(last, names)


def test_desk_notebook_makes_a_desk_that_saves_where_the_command_was_called(photos, monkeypatch):
    monkeypatch.chdir("/")
    notebook = desk_notebook(photos, photos / "photos", "model.py:load", photos / "clean")
    desk = run_cell(notebook)
    assert isinstance(desk, Desk)
    desk.wait()
    assert len(desk.session.images) == 6 and desk.session.has_clean
    desk.session.mark(torch.ones(64, 64))
    desk.session.rewrite(desk.session.layers[0])
    desk.save("edit.safetensors")
    assert (photos / "edit.safetensors").exists()


def test_desk_or_error_of_a_missing_model_says_why(photos):
    shown = desk_or_error(str(photos / "photos"), "no<b>model")
    assert "no&lt;b&gt;model" in shown.value


@pytest.mark.parametrize(
    ("arguments", "quoted"),
    [
        (["nowhere", "--model", "mini_vgg"], "'nowhere' is not a folder"),
        (["photos", "--model", "mini_vgg", "--clean", "nowhere"], "'nowhere' is not a folder"),
        (["photos", "--model", "mini_vg"], "did you mean 'mini_vgg'"),
        (["photos", "--model", "model.py:other"], "has no function 'other'"),
        (["photos", "--model", "model.py:load", "--retain", "empty"], "'retain' has no images in"),
    ],
)
def test_desk_command_with_wrong_arguments_is_one_line(photos, arguments, quoted, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    (photos / "empty").mkdir()
    assert main(["desk", *arguments]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1].startswith("edittools: ") and quoted in printed[-1]


def test_desk_command_names_a_missing_folder_before_torch_is_imported(tmp_path):
    code = (
        "import sys; from edittools.cli import main; "
        "code = main(['desk', 'nowhere', '--model', 'mini_vgg']); sys.exit(code if 'torch' not in sys.modules else 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 2
