"""Results kept on disk: written in one step, and never needed.

A file is found by a hash of everything that its tensors depend on. A damaged one, or a folder that cannot be written,
is a warning; then the tensors are computed again, and replace the damaged file where that can be done.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def cache_folder() -> Path:
    """Say where results and downloads are kept: `EDITTOOLS_CACHE`, or `edittools` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("EDITTOOLS_CACHE") or Path(home) / "edittools")


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step, on failure it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def digest_tensors(tensors: Iterable[Tensor], names: Iterable[str] | None = None) -> str:
    """Hash shapes, types and contents of some tensors, and their `names`, by SHA-256."""
    digest = hashlib.sha256()
    for name, tensor in zip(repeat("") if names is None else names, tensors, strict=names is not None):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def load_or_compute(
    kind: str, content: str, compute: Callable[[], dict[str, Tensor]], cache: str | os.PathLike | None = None
) -> dict[str, Tensor]:
    """Give named tensors from the disk where they are known, else compute and keep them there.

    `content` says all that they depend on; `compute` makes them, contiguous and on the CPU. They are kept in the
    subfolder `kind` of `cache` (default: `cache_folder()`).
    """
    folder = Path(cache or cache_folder()) / kind
    path = folder / f"{hashlib.sha256(f'v3 {content}'.encode()).hexdigest()}.safetensors"
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in json.loads(file.metadata()["names"])}
    except FileNotFoundError:
        pass
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        warnings.warn(f"{str(path)!r} is damaged ({error}): computed again", stacklevel=2)
    found = compute()
    try:
        with atomic_path(path) as temporary:
            save_file(found, temporary, {"names": json.dumps(list(found))})
    except (OSError, SafetensorError) as error:  # a full disk or a folder without permission costs no result
        warnings.warn(f"what was computed could not be kept in {str(folder)!r}: {error}", stacklevel=2)
    return found
