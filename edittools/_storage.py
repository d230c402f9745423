"""Write files in one step, and identify tensors by a hash of their bits."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from torch import Tensor


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
