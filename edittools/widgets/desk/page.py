"""The desk as a page: what `edittools desk` serves to a browser, with one's own model and folders.

The page is a notebook of a few lines, which voila runs in a kernel of its own each time that the page is opened. The
server does not import the desk, and the kernel not the server: each would take seconds.
"""

import os
import signal
import tempfile
import threading
import webbrowser
from collections.abc import Iterable
from html import escape
from pathlib import Path

import nbformat
from jupyter_core.paths import jupyter_config_path
from nbformat import NotebookNode
from tornado.ioloop import IOLoop
from traitlets.config import Config
from voila.app import Voila

FIRST_PORT = 8866
"""The port of the page; if it is in use, the next one is taken."""

ADDRESS = "127.0.0.1"
"""The page can be opened on this machine only."""

SAME_MACHINE = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    f"connect-src 'self' ws://{ADDRESS}:* data: blob:; form-action 'self'; base-uri 'self'; frame-ancestors 'self'"
)
"""The policy that keeps the page from requests to any other machine."""

TEMPLATE = Path(__file__).parent / "template"
"""The folder of the page's template."""

KERNELS = {} if os.name == "nt" else {"KernelManager": {"transport": "ipc"}}
"""Settings of the kernel: where there are sockets in the file system, no other user of this machine can reach it."""

CLOSED_PAGES = {"MappingKernelManager": {"cull_idle_timeout": 75, "cull_interval": 15}}
"""Settings that end the kernel of a closed page within two minutes."""

SERVER = {"headers": {"Content-Security-Policy": SAME_MACHINE}, "ws_ping_interval": 0}
"""Settings of the server; connections on one machine need no pings, of whose default times Tornado warns."""

REDIRECT = (
    '<!DOCTYPE html><meta charset="utf-8"><title>The desk</title><a href="{address}">The desk</a>'
    '<script>location.replace(document.querySelector("a").href);</script>'
)
"""A page that leads to the desk."""


class DeskServer(Voila):
    """A server of the page, which prints its address and opens it in a browser, if there is one."""

    redirect = Path("redirect.html")
    """The file that the browser is started with, so that the token is not on a command line, which all users see."""

    def setup_template_dirs(self) -> None:
        """Put the page's own template before that of voila."""
        super().setup_template_dirs()
        self.template_paths.insert(0, str(TEMPLATE))

    def random_ports(self, port: int, n: int) -> Iterable[int]:
        """Return the ports that are tried, one after the other."""
        return range(port, port + n)

    def launch_browser(self) -> None:
        """Print the address of the page, and open it."""
        self.ioloop = IOLoop.current()
        signal.signal(signal.SIGINT, self._handle_signal_stop)  # a KeyboardInterrupt could be lost in a callback
        address = f"{self.connection_url}?token={self.identity_provider.token}"
        print(f"The desk is at {address} (Ctrl-C ends it)", flush=True)
        self.redirect.touch(mode=0o600)
        self.redirect.write_text(REDIRECT.format(address=escape(address)), encoding="utf-8")
        threading.Thread(target=webbrowser.open, args=[self.redirect.as_uri()], daemon=True).start()


def serve_desk(folder: Path, model: str, clean: Path, marks: Path, retain: Path | None = None) -> None:
    """Serve the desk to a browser until Ctrl-C.

    Nothing in the current folder is run or read as a setting, since it may be a download; the file of a model is.

    Args:
        folder: folder of images, some of which are misclassified.
        model: the classifier, as for `load_classifier`.
        clean: folder of ordinary images.
        marks: folder of the marks.
        retain: folder of images whose predictions should not change.
    """
    os.environ["PYTHONSAFEPATH"] = "1"  # for the kernels: no modules from the current folder
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary).resolve() / "desk.ipynb"
        nbformat.write(desk_notebook(Path.cwd(), folder, model, clean, marks, retain), path)
        config = Config({**KERNELS, **CLOSED_PAGES})
        server = DeskServer(log_level="ERROR", config=config, config_file_paths=jupyter_config_path())
        server.redirect = path.with_name("redirect.html")
        server.initialize([str(path)])
        server.ip = ADDRESS
        server.port = FIRST_PORT
        server.auto_token = True
        server.tornado_settings = SERVER
        server.start()


def desk_notebook(
    working_folder: Path,
    folder: Path,
    model: str,
    clean: Path,
    marks: Path,
    retain: Path | None = None,
) -> NotebookNode:
    """Write the notebook of the page.

    Args:
        working_folder: the folder that relative paths begin in.
        folder: as for `serve_desk`, like all others.
        model: the classifier.
        clean: folder of ordinary images.
        marks: folder of the marks.
        retain: folder of retained images.
    """
    folders = [None if path is None else str(path) for path in (folder, clean, retain, marks)]
    lines = [
        "import os, sys",
        "sys.path[:] = filter(None, sys.path)",  # '' is the current folder, which comes next
        f"os.chdir({str(working_folder)!r})",
        "from edittools.widgets.desk.desk import desk_or_error",
        f"desk_or_error({model!r}, *{folders!r})",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("\n".join(lines))])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return notebook
