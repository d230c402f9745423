"""What the benchmarks share: tables on stdout, one JSON line at the end, times in one run."""

import argparse
import json
import platform
import sys
import time
import timeit
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from edittools.images import atomic_path


def parser(description: str) -> argparse.ArgumentParser:
    """A command line with `--json`, `--output` and `--threads`."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments.add_argument("--output", type=Path, help="file to write that object to, see benchmarks/tables.py")
    arguments.add_argument("--threads", type=int, default=None, help="torch threads (default: as many as cores)")
    return arguments


def start(arguments: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line, set the threads, say what machine this is, and begin to count the seconds."""
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    options.started = time.perf_counter()
    return options


def finish(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Print the seconds and, when asked to, write the figures as one JSON line, with the day and the call."""
    seconds = round(time.perf_counter() - options.started, 1)
    print(f"\n{seconds:.0f} s in all")
    line = json.dumps({"seconds": seconds} | figures | {"date": str(date.today()), "call": call()})
    if options.json:
        print(line)
    if options.output:
        write_line(options.output, line)


def call() -> str:
    """Return the command of this run, without the arguments that say nothing of what was measured."""
    here = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    here.add_argument("--json", action="store_true")
    for name in ("--output", "--store"):
        here.add_argument(name)
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *here.parse_known_args()[1]])


def write_line(path: Path, line: str) -> None:
    """Write a results file at once, so that a run that is cut off leaves the previous one."""
    with atomic_path(path) as temporary:
        temporary.write_text(line + "\n")


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """The least of `repeats` times of `work`, after one run to warm up."""
    return min(timeit.repeat(work, number=1, repeat=1 + repeats)[1:])
