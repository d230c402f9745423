"""Many independent jobs on any `concurrent.futures.Executor`, finished ones kept on disk, so that a sweep can resume.

The same jobs give the same table in this process, in a process pool, or on machines of Dask (`Client.get_executor()`).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from edittools.images import atomic_path

Rows = Sequence[Mapping[str, Any]]


def run(
    work: Callable[[Any], Rows],
    jobs: Mapping[str, Any],
    store: str | os.PathLike | None = None,
    executor: Executor | None = None,
    progress: bool = False,
    about: str = "",
) -> pd.DataFrame:
    """Run all jobs and return their rows as one table, in the order of `jobs`, with the job's name in column `job`.

    Args:
        work: returns the rows of one job, mappings of JSON values.
        jobs: what `work` is called with, by name.
        store: folder that keeps the rows of each job as soon as it is finished. A job whose rows are there is not run
            again.
        executor: runs the jobs; `work` and the jobs must be picklable. Without one they run in this process.
        progress: show a progress bar.
        about: identifies everything that the rows depend on except the job's name: the function and its settings, the
            models and the images. Required with a `store`, which keeps the rows under it: a run with another `about`
            does not see them. Neither `work` nor the jobs are compared.

    Raises:
        ValueError: if there is a `store` but no `about`.
    """
    if store is not None and not about:
        raise ValueError(
            f"store={os.fspath(store)!r} without about: rows of other work in that folder would be returned; "
            "pass about='…', a text that changes with the function, its settings and its data"
        )
    paths, done = {}, {}
    for name in jobs if store is not None else ():
        digest = hashlib.sha256(json.dumps([about, name]).encode()).hexdigest()
        paths[name] = Path(store) / f"{digest[:32]}.json"
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):  # not done, or a damaged file
            done[name] = json.loads(paths[name].read_text())["rows"]
    missing = {name: job for name, job in jobs.items() if name not in done}
    here = ((name, work(job)) for name, job in missing.items())
    finished = here if executor is None else _there(executor, work, missing)
    bar = tqdm(finished, "jobs", len(jobs), initial=len(jobs) - len(missing), disable=not progress, leave=False)
    for name, rows in bar:
        rows = json.loads(json.dumps([dict(row) for row in rows]))  # as it will be read back
        if paths:
            with atomic_path(paths[name]) as temporary:
                temporary.write_text(json.dumps({"about": about, "job": name, "rows": rows}))
        done[name] = rows
    return pd.DataFrame([{"job": name, **row} for name in jobs for row in done[name]])


def _there(executor: Executor, work: Callable[[Any], Rows], jobs: Mapping[str, Any]) -> Iterator[tuple[str, Rows]]:
    """Yield what is finished first, first; when one job fails the others that wait are cancelled."""
    names: dict[Future, str] = {executor.submit(work, job): name for name, job in jobs.items()}
    try:
        for future in as_completed(names):
            yield names[future], future.result()
    finally:
        for future in names:
            future.cancel()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread, so that digits do not depend on who computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
