"""Keep results on disk: files are written in one step, and no result depends on them.

A file's name is a hash of everything that its tensors depend on. If a file is damaged, or if the folder cannot be
written, there is a warning and the tensors are computed again; they replace the damaged file where possible.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edittools._checks import warn


def cache_folder() -> Path:
    """Return the folder of results and downloads: `EDITTOOLS_CACHE`, or `edittools` in the user's cache folder."""
    folder = os.environ.get("EDITTOOLS_CACHE")
    if folder:
        return Path(folder)
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user_cache) / "edittools"


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield the path of an empty file next to `path`; on success it replaces `path` in one step, else it is removed.

    The file has the permissions of any new file of the user, even if its writer (such as safetensors) sets others.

    Raises:
        OSError: if the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid4().hex}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise type(error)(f"{str(path)!r} cannot be written ({error.strerror}); pass another path") from error
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{str(path)!r} is a folder; pass the path of a file")
        permissions = temporary.stat().st_mode
        yield temporary
        temporary.chmod(permissions)
        os.replace(temporary, path)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(f"{str(path)!r} cannot be written ({error}); pass another path") from error
    finally:
        temporary.unlink(missing_ok=True)


def digest_tensors(tensors: Iterable[Tensor], names: Iterable[str] | None = None) -> str:
    """Hash the shapes, types and contents of tensors by SHA-256.

    Args:
        names: one name per tensor, hashed as well.

    Returns:
        The hash, as 64 hexadecimal digits.

    Raises:
        ValueError: if there is not one name per tensor.
    """
    digest = hashlib.sha256()
    pairs = zip(repeat(""), tensors, strict=False) if names is None else zip(names, tensors, strict=True)
    for name, tensor in pairs:
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


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
