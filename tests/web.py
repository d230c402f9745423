"""JupyterLab, Notebook 7 and Debian's chromium for tests, with no network beyond 127.0.0.1.

The settings and waits were found by experiment. `run_cell` waits for the kernel; Shift+Enter would sometimes skip a
cell.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
from playwright.sync_api import Browser, Page, sync_playwright

ARTEFACTS = Path(__file__).parent / "artefacts"
"""Screenshots, and the logs of servers."""
SETTINGS = {
    "apputils-extension/notification": {"checkForUpdates": False, "doNotDisturbMode": True, "fetchNews": "false"},
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is in the DOM
    "apputils-extension/kernels-settings": {"commsOverSubshells": "disabled"},  # otherwise a value can be stale
}
CHROMIUM = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-gpu",
]
SERVER = ["--allow-root", "--ip=127.0.0.1", "--ServerApp.port_retries=0", "--IdentityProvider.token="]


def write_notebook(path: Path, *cells: str) -> None:
    """Write a notebook of code cells for this Python."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
    }  # otherwise JupyterLab asks for a kernel
    nbformat.write(notebook, path)


@contextmanager
def jupyterlab(root: Path, log: Path, env: dict[str, str] | None = None) -> Iterator[str]:
    """Serve the notebooks in `root` with JupyterLab, and with Notebook 7 where it is installed; yield the address."""
    options = [f"--ServerApp.root_dir={root}", "--LabApp.extension_manager=readonly"]
    options += [f"--{app}.expose_app_in_browser=True" for app in ("LabApp", "JupyterNotebookApp")]
    options += ["--ServerApp.jpserver_extensions=notebook=True"]
    with _serving(["jupyterlab", *SERVER, *options], log, env) as base:
        yield base


@contextmanager
def _serving(command: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[str]:
    """Run a server module with its own Jupyter folders instead of the user's; yield the address."""
    state = Path(tempfile.mkdtemp(prefix="lab-"))
    for name, value in SETTINGS.items():
        file = state / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, "--no-browser", f"--port={port}"],
            env={**os.environ, **{name: str(state / folder) for name, folder in folders.items()}, **(env or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            base = f"http://127.0.0.1:{port}"
            _wait_for(f"{base}/api/status", server)
            yield base
        finally:
            server.terminate()  # also ends the kernels
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()
            shutil.rmtree(state, ignore_errors=True)


def _wait_for(address: str, server: subprocess.Popen, seconds: float = 180) -> None:
    """Wait until a server answers at an address."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        try:
            urllib.request.urlopen(address, timeout=1).close()
            return
        except urllib.error.HTTPError:
            return  # the server answers, even if there is no such page
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"{address} did not answer")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser; a process can have only one at a time, and no other event loop next to it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def browser_page(browser: Browser, base: str, outside: list[str]) -> Iterator[Page]:
    """Open a page, and append to `outside` the address of each request to another machine that the page allows."""
    local = (base, base.replace("http", "ws"), "data:", "blob:")
    page = browser.new_page(viewport={"width": 1280, "height": 960})
    for event in ("request", "websocket"):
        page.on(event, lambda r: None if r.url.startswith(local) else outside.append(r.url))
    page.on("requestfailed", lambda r: outside.remove(r.url) if r.failure == "csp" else None)
    try:
        yield page
    finally:
        page.close()


def open_notebook(page: Page, base: str, name: str, app: str = "lab/tree") -> None:
    """Open a notebook and wait until its kernel is connected; before that, a cell would silently not run."""
    page.goto(f"{base}/{app}/{name}?reset", wait_until="domcontentloaded")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=180_000)
    page.evaluate(
        """async () => { const s = jupyterapp.shell.currentWidget.sessionContext; await s.ready;
           await s.session.kernel.info; }"""
    )


def run_cell(page: Page, index: int) -> bool:
    """Run a cell and wait until the kernel has finished it; return whether it ran without an error."""
    return page.evaluate(
        """async (i) => { const nb = jupyterapp.shell.currentWidget; nb.content.activeCellIndex = i;
           await jupyterapp.commands.execute('notebook:run-cell'); const m = nb.content.widgets[i].model;
           return m.executionCount > 0 && !m.outputs.toJSON().some(o => o.output_type === 'error'); }""",
        index,
    )


def cell_text(page: Page, index: int) -> str:
    """Return the text that a cell printed or shows as its result."""
    return page.evaluate(
        """(i) => jupyterapp.shell.currentWidget.content.widgets[i].model.outputs.toJSON()
           .map(o => [o.text ?? o.data?.['text/plain'] ?? ''].flat().join('')).join('')""",
        index,
    )


def in_kernel(page: Page, code: str) -> str:
    """Run code in the notebook's kernel, outside its cells; return what it printed, and raise an error if it fails."""
    return page.evaluate(
        """async (code) => { const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
           const run = kernel.requestExecute({code, store_history: false}); let out = '';
           run.onIOPub = m => { if (m.header.msg_type === 'stream') out += m.content.text; };
           const reply = (await run.done).content;
           if (reply.status !== 'ok') throw new Error(reply.ename + ': ' + reply.evalue);
           return out.trim(); }""",
        code,
    )


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the contrast of two colors, each red, green, and blue from 0 to 255, as WCAG defines it."""
    luminances = []
    for color in (one, other):
        shares = [channel / 255 for channel in color]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        luminances.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    darker, lighter = sorted(luminances)
    return (lighter + 0.05) / (darker + 0.05)


def wait_until(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Wait until a condition holds; return False if it does not hold in that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
