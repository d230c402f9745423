"""Run many independent jobs on any `concurrent.futures.Executor`, and keep finished ones on disk, to resume a sweep.

The same jobs give the same table in this process, in a process pool, or on machines of Dask (`Client.get_executor()`).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from edittools._progress import Progress, bar_of
from edittools._storage import atomic_path

Rows = Sequence[Mapping[str, Any]]


def run(
    work: Callable[[Any], Rows],
    jobs: Mapping[str, Any],
    store: str | os.PathLike | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
    about: str = "",
) -> pd.DataFrame:
    """Run all jobs and return their rows as one table, in the order of `jobs`, with the job's name in column `job`.

    Args:
        work: returns the rows of one job, mappings of JSON values.
        jobs: what `work` is called with, by name.
        store: folder that keeps the rows of each job as soon as it is finished. A job whose rows are there is not run
            again.
        executor: runs the jobs; `work` and the jobs must be picklable. Without one they run in this process.
        about: identifies everything that the rows depend on except the job's name: the function and its settings, the
            models, and the images. Required with a `store`, which keeps the rows under it: a run with another `about`
            does not see them. Neither `work` nor the jobs are compared.

    Raises:
        ValueError: if there is a `store` but no `about`.
    """
    if store is not None and not about:
        raise ValueError(
            f"store={os.fspath(store)!r} without about: rows of other work in that folder would be returned; "
            "pass about='…', a text that changes with the function, its settings and its data"
        )
    paths = {}
    finished = {}
    if store is not None:
        for name in jobs:
            digest = hashlib.sha256(json.dumps([about, name]).encode()).hexdigest()
            paths[name] = Path(store) / f"{digest[:32]}.json"
            with suppress(FileNotFoundError, ValueError, TypeError, KeyError):  # not finished, or a damaged file
                finished[name] = json.loads(paths[name].read_text())["rows"]
    missing = {name: job for name, job in jobs.items() if name not in finished}
    results = _run_here(work, missing) if executor is None else _run_on(executor, work, missing)
    bar = bar_of(progress, results, desc="parts", total=len(jobs), initial=len(jobs) - len(missing))
    for name, rows in bar:
        stored_rows = json.loads(json.dumps([dict(row) for row in rows]))  # the same as when read from a file
        if paths:
            with atomic_path(paths[name]) as temporary:
                temporary.write_text(json.dumps({"about": about, "job": name, "rows": stored_rows}))
        finished[name] = stored_rows
    table = []
    for name in jobs:
        table += [{"job": name, **row} for row in finished[name]]
    return pd.DataFrame(table)


def _run_here(work: Callable[[Any], Rows], jobs: Mapping[str, Any]) -> Iterator[tuple[str, Rows]]:
    """Run jobs one after the other, in this process."""
    for name, job in jobs.items():
        yield name, work(job)


def _run_on(executor: Executor, work: Callable[[Any], Rows], jobs: Mapping[str, Any]) -> Iterator[tuple[str, Rows]]:
    """Run jobs on an executor and yield them as they finish; when one fails, those that still wait are canceled."""
    names: dict[Future, str] = {executor.submit(work, job): name for name, job in jobs.items()}
    try:
        for future in as_completed(names):
            yield names[future], future.result()
    finally:
        for future in names:
            future.cancel()
