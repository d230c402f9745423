"""Results kept on disk: written in one step, checked when they are read, and never needed.

A file is found by a hash of everything that its tensors depend on. A damaged one, or a folder that cannot be written,
is a warning; then the tensors are computed again, and replace the damaged file where that can be done.
"""

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edittools.classifiers import fingerprint
from edittools.images import atomic_path, cache_folder, digest_tensors

Tensors = dict[str, Tensor]


def load_or_compute(
    kind: str, content: str, compute: Callable[[], Tensors], cache: str | os.PathLike | None = None
) -> Tensors:
    """Do what `load_or_compute_all` does for one result."""
    return load_or_compute_all(kind, {"": content}, lambda _: {"": compute()}, cache)[""]


def load_or_compute_all(
    kind: str,
    contents: Mapping[str, str],
    compute: Callable[[list[str]], Mapping[str, Tensors]],
    cache: str | os.PathLike | None = None,
) -> dict[str, Tensors]:
    """Named tensors for each key, from the disk where they are known, else computed and kept there.

    `contents` says, by key, all that its tensors depend on. `compute` makes those that are missing, contiguous and on
    the CPU, in one call. They are kept in the subfolder `kind` of `cache` (default: `cache_folder()`).
    """
    folder = Path(cache or cache_folder()) / kind
    paths = {
        key: folder / f"{hashlib.sha256(f'v2 {content}'.encode()).hexdigest()}.safetensors"
        for key, content in contents.items()
    }
    known = {key: found for key in paths if (found := _read(paths[key], contents[key])) is not None}
    missing = [key for key in paths if key not in known]
    known |= compute(missing) if missing else {}
    for key in missing:
        try:
            _write(paths[key], contents[key], known[key])
        except (OSError, SafetensorError) as error:  # a full disk or a folder without permission costs no result
            warnings.warn(f"what was computed could not be kept in {str(folder)!r}: {error}", stacklevel=2)
            break
    return known


def _write(path: Path, content: str, tensors: Tensors) -> None:
    header = {"names": json.dumps(list(tensors)), "digest": _digest(content, tensors)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, header)


def _read(path: Path, content: str) -> Tensors | None:
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in json.loads(header["names"])}
        if header["digest"] == _digest(content, tensors):
            return tensors
        problem = "its checksum is another one"
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        problem = str(error)
    warnings.warn(f"{str(path)!r} is damaged ({problem}): computed again", stacklevel=2)
    return None


def _digest(content: str, tensors: Tensors) -> str:
    return digest_tensors(tensors.values(), [f"{content} {name} " for name in tensors])


def identify_network(network: nn.Module) -> str:
    """Name a network that is no image classifier: its package's version, its modules and its weights."""
    package = type(network).__module__.partition(".")[0]
    version = getattr(sys.modules[package], "__version__", "")
    return f"{package} {version} {network} {fingerprint(network)}"
