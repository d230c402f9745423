"""Keep named tensors that take long to compute on the disk.

A file's name is a hash of everything that its tensors depend on. If a file is damaged, or if the folder cannot be
written, there is a warning, and the tensors are computed.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edittools._checks import warn
from edittools._storage import atomic_path


def cache_folder() -> Path:
    """Return the folder of results and downloads: `EDITTOOLS_CACHE`, or `edittools` in the user's cache folder."""
    folder = os.environ.get("EDITTOOLS_CACHE")
    if folder:
        return Path(folder)
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user_cache) / "edittools"


def load_or_compute(
    kind: str, content: str, compute: Callable[[], dict[str, Tensor]], cache: str | os.PathLike | None = None
) -> dict[str, Tensor]:
    """Load named tensors from the disk, or compute them and save them there.

    Args:
        kind: subfolder of the cache.
        content: a text that names everything on which the tensors depend.
        compute: makes the tensors, contiguous and on the CPU.
        cache: the folder, by default `cache_folder()`.

    Returns:
        The tensors by name.

    Warns:
        UserWarning: if the file is damaged or cannot be written.
    """
    folder = Path(cache or cache_folder()) / kind
    key = hashlib.sha256(f"v3 {content}".encode()).hexdigest()
    path = folder / f"{key}.safetensors"
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in json.loads(file.metadata()["names"])}
    except FileNotFoundError:
        pass
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        warn(f"{str(path)!r} is damaged ({error}); its tensors are computed again")
    tensors = compute()
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {"names": json.dumps(list(tensors))})
    except OSError as error:  # a full disk or a folder without permission costs no result
        warn(f"results could not be kept in {str(folder)!r}: {error}")
    return tensors
