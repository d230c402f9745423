"""What the benchmarks share: tables on stdout, one JSON line at the end, times and memory in one run."""

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
    call = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_without_files(sys.argv[1:])])
    line = json.dumps({"seconds": seconds} | figures | {"date": str(date.today()), "call": call})
    if options.json:
        print(line)
    if options.output:
        with atomic_path(options.output) as temporary:
            temporary.write_text(line + "\n")


def _without_files(words: list[str]) -> list[str]:
    """The words of a call that say what was measured, without the files of this machine that it wrote to."""
    files = ("--output", "--store")
    named = [i for i, word in enumerate(words) if word in files]
    left_out = {*named, *(i + 1 for i in named)}
    kept = [word for i, word in enumerate(words) if i not in left_out]
    return [word for word in kept if word != "--json" and not word.startswith(tuple(f"{name}=" for name in files))]


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """The least of `repeats` times of `work`, after one run to warm up."""
    return min(timeit.repeat(work, number=1, repeat=1 + repeats)[1:])


def extra_memory(work: Callable[[], Any]) -> float:
    """The MB by which `work` raises this process's memory at its peak (Linux; NaN elsewhere)."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        return float("nan")
    clear.write_text("5")  # the peak is counted from now on
    before = _kilobytes(status, "VmRSS")
    work()
    return (_kilobytes(status, "VmHWM") - before) / 1024


def _kilobytes(status: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))
