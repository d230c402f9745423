"""The command line that every benchmark has: a table on stdout, and results in files."""

import argparse
import hashlib
import platform
import shlex
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import torch

from _lib.results import Results, write_results

ROOT = Path(__file__).resolve().parent.parent.parent


def parser(description: str) -> argparse.ArgumentParser:
    """Make a command line with `--output`, `--quick` and `--threads`."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--output", type=Path, metavar="CSV", help="write the results there, see results/README.md")
    arguments.add_argument("--quick", action="store_true", help="try it in about a minute: few images, few candidates")
    arguments.add_argument("--threads", type=int, default=None, help="torch threads (default: as many as cores)")
    return arguments


def add_store(arguments: argparse.ArgumentParser) -> None:
    """Add `--store`, for a run of several parts: each finished part is a file in the folder."""
    arguments.add_argument("--store", type=Path, metavar="FOLDER", help="keep finished parts, and resume from them")


def run(arguments: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], Results]) -> Results:
    """Read the command line, measure, print and write the results, and return them.

    Args:
        arguments: the command line, from `parser`.
        measure: what the benchmark does with the options.
    """
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    started = time.perf_counter()
    results = measure(options)
    results.seconds = round(time.perf_counter() - started, 1) if results.seconds is None else results.seconds
    finish(options, results)
    return results


def code_digest(*places: Path) -> str:
    """Digest Python files, and all of those in folders."""
    digest = hashlib.sha256()
    for place in places:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def finish(options: argparse.Namespace, results: Results) -> None:
    """Print the results and the seconds, and write them if that is asked for."""
    print(results.overview())
    print(f"\n{results.seconds:.0f} s in all")
    if options.output:
        write_results(options.output, results, call(), str(date.today()))


def call() -> str:
    """Return the command of this run, without the arguments that say nothing of what was measured."""
    here = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--output", "--store", "--weights"):
        here.add_argument(name)
    script = Path(sys.argv[0]).resolve()
    place = script.relative_to(ROOT) if script.is_relative_to(ROOT) else Path("benchmarks", script.name)
    return shlex.join(["python", place.as_posix(), *here.parse_known_args()[1]])


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """Return the least of `repeats` times of `work`, after one run to warm up."""
    return min(timeit.repeat(work, number=1, repeat=1 + repeats)[1:])


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread, so that results do not depend on the machine's number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
