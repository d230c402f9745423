"""The command `edittools desk` in a process, and its page in a browser."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

ARGUMENTS = ("photos", "--model", "model.py:load", "--clean", "clean")


@contextmanager
def serving(folder, *arguments, browser="true"):
    """Run the command in a folder until the end of the context; give its address and its process.

    Afterwards, `printed` of the process holds what it has printed after its address.
    """
    settings = str(folder / "settings")
    environment = {**os.environ, "BROWSER": browser, "JUPYTER_CONFIG_DIR": settings, "IPYTHONDIR": settings}
    command = [sys.executable, "-P", "-m", "edittools.cli", "desk", *arguments]  # as the script `edittools`
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
        process.printed, _ = process.communicate(timeout=60)


@contextmanager
def desk_page(chromium, folder, *arguments):
    """Open the page of the command; give the page, when the images are classified, and the process of the server."""
    import web

    outside = []
    with serving(folder, *arguments) as (address, process):
        base = address.partition("?")[0].rstrip("/")
        with web.browser_page(chromium, base, outside) as page:
            page.set_default_timeout(180_000)
            page.goto(address, wait_until="domcontentloaded")
            page.wait_for_selector(".et-desk .et-editor .et-stage[data-view]")
            yield page, process
    assert outside == []
