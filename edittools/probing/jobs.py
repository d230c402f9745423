"""Many independent jobs on any `concurrent.futures.Executor`, finished ones kept on disk, so that a sweep can resume.

A job is a name and what `work` needs to know; it gives rows of a table. The same jobs give the same table whatever the
executor: in this process (`executor=None`), a process pool, or machines that Dask knows (`Client.get_executor()`).
"""

import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

Rows = Sequence[Mapping[str, Any]]


def run(
    work: Callable[[Any], Rows],
    jobs: Mapping[str, Any],
    store: str | os.PathLike | None = None,
    executor: Executor | None = None,
    progress: bool = False,
    about: str = "",
) -> pd.DataFrame:
    """Do all jobs and give their rows as one table, in the order of `jobs`, with the job's name in column `job`.

    `work(job)` gives the rows of one job: mappings of JSON values. With an `executor`, `work` and the jobs are sent
    away and must be picklable. Each finished job is appended to the file `store` at once; jobs found there are not
    done again. `about` says what sweep this is (settings, seed, model): a store of another one is refused with
    `ValueError`. When a job raises, or a worker is lost, the finished ones are in the store and the exception comes
    through.
    """
    kept = Store(store, about) if store is not None else None
    done = dict(kept.read()) if kept else {}
    missing = {name: job for name, job in jobs.items() if name not in done}
    here = ((name, work(job)) for name, job in missing.items())
    finished = here if executor is None else _there(executor, work, missing)
    bar = tqdm(finished, "jobs", len(jobs), initial=len(jobs) - len(missing), disable=not progress, leave=False)
    for name, rows in bar:
        rows = json.loads(json.dumps([dict(row) for row in rows]))  # as it will be read back
        if kept:
            kept.append(name, rows)
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


class Store:
    """A file of finished jobs, one JSON line each after a first line that says what sweep it belongs to.

    A line is written with one call and synced before the next job counts as done, and holds a checksum; one that was
    cut off or damaged is not read, and its job done again.
    """

    def __init__(self, path: str | os.PathLike, about: str = "") -> None:
        """Open or begin the file; raise `ValueError` when it belongs to another sweep."""
        self.path, self.about = Path(path), about
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = [line for line in self._lines() if line.endswith(b"\n")]
        if whole and _parsed(whole[0]) != {"about": about}:
            raise ValueError(
                f"{os.fspath(path)!r} holds another sweep ({whole[0].decode(errors='replace').strip()[:200]}), "
                f"expected {about!r}: give another file, or delete it"
            )
        started = b"".join(self._lines())
        if not whole and not _line({"about": about}).startswith(started):
            raise ValueError(f"{os.fspath(path)!r} is no file of a sweep: give another name, it would be overwritten")
        if not whole:
            self._write({"about": about}, "wb")
        else:
            os.truncate(self.path, sum(map(len, whole)))

    def read(self) -> Iterable[tuple[str, Rows]]:
        """The finished jobs: name and rows; a damaged line is skipped."""
        for line in self._lines()[1:]:
            entry = _parsed(line)
            if isinstance(entry, dict) and entry.pop("crc", None) == _checksum(entry):
                yield entry["job"], entry["rows"]

    def append(self, name: str, rows: Rows) -> None:
        """Add a finished job, and return when it is on disk."""
        entry = {"job": name, "rows": rows}
        self._write({**entry, "crc": _checksum(entry)}, "ab")

    def _lines(self) -> list[bytes]:
        return list(io.BytesIO(self.path.read_bytes())) if self.path.exists() else []

    def _write(self, entry: dict[str, Any], mode: str) -> None:
        with open(self.path, mode) as file:
            file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _checksum(entry: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(entry).encode())


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:  # no JSON, or no text at all
        return None


_ALONE = RLock()  # a model is edited in place now and then, so threads of one process take turns


@contextmanager
def alone(count: int) -> Iterator[None]:
    """Hold the process, with so many threads of torch, that digits do not depend on who computes."""
    _ALONE.acquire()
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _ALONE.release()
