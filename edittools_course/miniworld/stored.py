"""Render sets of scenes block by block, and keep the blocks on disk.

A block's file is named after the code that renders it and after what its scenes are rendered from, so a change of
either renders them again. What is read from a file equals what is rendered, to the last bit.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, suppress
from functools import cache, partial
from pathlib import Path

import matplotlib
import numpy as np
import PIL
import skimage
import torch
from torch import Tensor

from edittools._progress import Progress, bar_of
from edittools_course.caching import cache_folder, load_or_compute

BLOCK = 100
"""Number of scenes in a file. A set shares the blocks of a longer one that starts with the same scenes."""
FEWEST = 50
MOST = 10_000
"""Sets of fewer or of more scenes are not kept: the first are rendered in no time, the others are for training."""
LIMIT = 2**30
"""Size in bytes beyond which the files that were not used for the longest time are removed."""
FOLDER = "scenes"


def source_digest(folder: Path) -> str:
    """Hash the names and the contents of the modules in a folder by SHA-256."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)};".encode())
        digest.update(content)
    return digest.hexdigest()


@cache
def _renderer() -> str:
    """Name the code that renders: the modules of this subpackage, and the versions of the packages that paint."""
    versions = {package.__name__: package.__version__ for package in (np, PIL, matplotlib, skimage)}
    return f"{source_digest(Path(__file__).parent)} {versions}"


def render_set(
    render: Callable[[int, str | None], tuple[np.ndarray, ...]],
    description: str,
    seeds: range,
    labels: Sequence[str | None],
    workers: int = 1,
    progress: Progress | None = None,
    cache: str | os.PathLike | None = None,
) -> list[Tensor]:
    """Render a set of scenes, or read its blocks from the disk.

    Args:
        render: renders the scene of a seed and a label, as arrays; it can be pickled.
        description: a text that names everything else on which the arrays depend.
        seeds: the seeds.
        labels: one label per seed.
        workers: number of processes that render.
        cache: folder of the cache (default: `EDITTOOLS_CACHE` or the user's cache folder); "" uses none.

    Returns:
        For each array that `render` returns, a tensor `(len(seeds), ...)`.
    """
    count = len(seeds)
    is_kept = cache != "" and FEWEST <= count <= MOST
    block_size = BLOCK if is_kept else count
    blocks = []
    with (
        ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool,
        bar_of(progress, total=count, desc="scenes") as bar,
    ):
        render_all = map if pool is None else partial(pool.map, chunksize=min(64, -(-block_size // workers)))

        def render_block(block_seeds: range, block_labels: Sequence[str | None]) -> dict[str, Tensor]:
            scenes = []
            for arrays in render_all(render, block_seeds, block_labels):
                scenes.append(arrays)
                bar.update()
            stacks = [np.stack(arrays) for arrays in zip(*scenes, strict=True)]
            return {str(number): torch.from_numpy(stack) for number, stack in enumerate(stacks)}

        for start in range(0, count, block_size):
            block_seeds = seeds[start : start + block_size]
            block_labels = labels[start : start + block_size]
            compute = partial(render_block, block_seeds, block_labels)
            if is_kept:
                content = f"{_renderer()} {description} {block_seeds} {list(block_labels)}"
                block = load_or_compute(FOLDER, content, compute, cache)
            else:
                block = compute()
            blocks.append(block.values())
            bar.update(start + len(block_seeds) - bar.n)
    if is_kept:
        remove_least_recent(FOLDER, LIMIT, cache)
    return [torch.cat(tensors) for tensors in zip(*blocks, strict=True)]


def remove_least_recent(kind: str, most_bytes: int, cache: str | os.PathLike | None = None) -> None:
    """Remove the files of a subfolder that were not used for the longest time, until the others fit a size.

    Args:
        kind: subfolder of the cache.
        most_bytes: the size in bytes.
        cache: the folder, by default `cache_folder()`.
    """
    files = []
    for path in (Path(cache or cache_folder()) / kind).glob("*.safetensors"):
        with suppress(OSError):  # another process may remove it as well
            status = path.stat()
            files.append((max(status.st_atime_ns, status.st_mtime_ns), status.st_size, path))
    excess = sum(size for _, size, _ in files) - most_bytes
    for _, size, path in sorted(files):
        if excess <= 0:
            break
        with suppress(OSError):
            path.unlink()
        excess -= size
