"""The command line that every benchmark has: a table on stdout, results in files, one JSON object as the last line."""

import argparse
import hashlib
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

import edittools
from _lib.methods import OTHERS
from _lib.results import METHODS, Results, write_results
from edittools.models.downloads import available, registry
from edittools.probing import jobs

ROOT = Path(__file__).resolve().parent.parent.parent


def parser(description: str) -> argparse.ArgumentParser:
    """Make a command line with `--json`, `--output`, `--store`, `--quick` and `--threads`."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments.add_argument("--output", type=Path, metavar="CSV", help="write the results there, see results/README.md")
    arguments.add_argument("--store", type=Path, metavar="FOLDER", help="keep what is finished, and resume from it")
    arguments.add_argument("--quick", action="store_true", help="try it in about a minute: few images, few candidates")
    arguments.add_argument("--threads", type=int, default=None, help="torch threads (default: as many as cores)")
    return arguments


def add_methods(arguments: argparse.ArgumentParser) -> None:
    """Add `--methods`."""
    arguments.add_argument(
        "--methods",
        nargs="+",
        default=(),
        choices=sorted({*METHODS, *OTHERS}),
        metavar="METHOD",
        help="select only these and the edit; the other methods' rows in --output stay as they are",
    )


def nothing_else(options: argparse.Namespace) -> str:
    """Say that results depend on nothing but the command, the code and the photos."""
    return ""


def run(
    arguments: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], Results],
    about: Callable[[argparse.Namespace], str] = nothing_else,
) -> Results:
    """Read the command line, measure, print and write the results, and return them.

    Args:
        arguments: the command line, from `parser`.
        measure: what the benchmark does with the options. With `--store` it is not called again for the same command,
            code and photos.
        about: identifies what else the results depend on, such as files that the options name.
    """
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    started = time.perf_counter()
    results = measure(options) if options.store is None else measure_once(options, measure, about(options))
    results.seconds = round(time.perf_counter() - started, 1) if results.seconds is None else results.seconds
    finish(options, results)
    return results


def measure_once(options: argparse.Namespace, measure: Callable[[argparse.Namespace], Results], others: str) -> Results:
    """Measure, or take the results of the same command from the store; `others` is what else they depend on."""
    code = code_digest(Path(edittools.__file__).parent, ROOT / "benchmarks")
    photos = [registry()[name][0] for name in available("")]
    about = f"{call()} {code} {hashlib.sha256(json.dumps(photos).encode()).hexdigest()} {others}"
    started = time.perf_counter()

    def work(_: None) -> list[dict[str, Any]]:
        results = measure(options)
        results.seconds = round(time.perf_counter() - started, 1) if results.seconds is None else results.seconds
        return [{"results": vars(results)}]

    [kept] = jobs.run(work, {call(): None}, options.store, about=about)["results"]
    return Results(**kept)


def code_digest(*places: Path) -> str:
    """Digest Python files, and all of those in folders."""
    digest = hashlib.sha256()
    for place in places:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def finish(options: argparse.Namespace, results: Results) -> None:
    """Print the results and the seconds; write them, and print the JSON line, where that is asked for."""
    day = str(date.today())
    print(results.overview())
    print(f"\n{results.seconds:.0f} s in all")
    if options.output:
        write_results(options.output, results, call(), day, getattr(options, "methods", ()))
    if options.json:
        figures = {"results": results.rows} if results.line is None else results.line
        print(json.dumps({"seconds": results.seconds} | figures | {"date": day, "call": call()}))


def call() -> str:
    """Return the command of this run, without the arguments that say nothing of what was measured."""
    here = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    here.add_argument("--json", action="store_true")
    for name in ("--output", "--store", "--weights"):
        here.add_argument(name)
    script = Path(sys.argv[0]).resolve()
    place = script.relative_to(ROOT) if script.is_relative_to(ROOT) else Path("benchmarks", script.name)
    return " ".join(["python", place.as_posix(), *here.parse_known_args()[1]])


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """Return the least of `repeats` times of `work`, after one run to warm up."""
    return min(timeit.repeat(work, number=1, repeat=1 + repeats)[1:])
