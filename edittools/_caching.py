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
from functools import cache
from itertools import repeat
from pathlib import Path
from uuid import uuid4

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_BLOCK = 2**14
"""Words per partial sum of a checksum: few enough for the processor's cache, and for one thread."""


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


def checksum_tensor(tensor: Tensor) -> int:
    """Compute a checksum of a tensor's contents that is faster than a hash and depends on the order of entries.

    The contents are read as words of 32 bits. Each is multiplied by an odd 64-bit number of its place, and the products
    are added modulo 2^64, so one changed bit always changes the sum. A tensor on the meta device has no contents; its
    checksum is 0.
    """
    if tensor.is_meta:
        return 0
    words = _words(tensor)
    factors = _factors(words.device)
    sums = [(block.long() * factors[: len(block)]).sum() for block in words.split(_BLOCK)]
    return hash(tuple(torch.stack(sums).tolist()))


def _words(tensor: Tensor) -> Tensor:
    """View the contents of a tensor as 32-bit integers `(N,)`, with zeros at the end where they do not fill one."""
    contents = tensor.detach().contiguous().flatten().view(torch.uint8)
    missing = -contents.numel() % 4
    if missing or contents.storage_offset() % 4:
        contents = F.pad(contents, (0, missing))
    return contents.view(torch.int32)


@cache
def _factors(device: torch.device) -> Tensor:
    """Draw the odd numbers by which the words of a block are multiplied, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False):
        drawn = torch.randint(-(2**63), 2**63 - 1, (_BLOCK,), generator=generator, device="cpu")
        return (drawn | 1).to(device)


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
