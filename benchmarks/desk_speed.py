"""Claim: the desk answers within 0.3 s of a stroke at 224 pixels: wall clock and CPU seconds, medians.

On EfficientNet-Lite0 and rendered scenes, three answers are measured: x and x' with their predictions after a stroke,
the corrected and broken images after *Rewrite*, and the whole verdict, with clean and retained images. What the browser
does is not included.
"""

import argparse
import statistics
import time

import torch
from _lib.command import parser, run
from _lib.results import Results

from edittools import widgets
from edittools.miniworld import scenes
from edittools.models import load_classifier
from edittools.widgets.desk import Desk

Seconds = tuple[float, float]
"""Wall clock and CPU seconds, of all threads."""


def now() -> Seconds:
    """Read both clocks."""
    return time.perf_counter(), time.process_time()


def since(start: Seconds, end: Seconds) -> Seconds:
    """Subtract two readings of both clocks."""
    return end[0] - start[0], end[1] - start[1]


def stroke(desk: Desk, rows: int) -> Seconds:
    """Mark the lower rows of the image; return the seconds until x and x' are shown."""
    mask = torch.zeros(desk.session.classifier.size, desk.session.classifier.size)
    mask[-rows:, 20:-20] = 1
    start = now()
    desk.editor.mask = mask
    desk.wait()
    return since(start, now())


def rewrite(desk: Desk) -> tuple[Seconds, Seconds]:
    """Rewrite; return the seconds until the images are shown, and until the whole verdict is."""
    shown = []
    desk.controls.verdict.observe(lambda change: shown.append(now()), "text")
    start = now()
    desk.rewrite()
    desk.wait()
    end = now()
    desk.controls.verdict.unobserve_all("text")
    return since(start, shown[0] if shown else end), since(start, end)


def experiment(options: argparse.Namespace) -> Results:
    """Measure the three answers after several strokes."""
    classifier = load_classifier("efficientnet_lite0")
    images, clean, retain = (12, 20, 10) if options.quick else (48, 160, 40)
    pixels = scenes(images + clean + retain, size=classifier.size).images
    desk = widgets.Desk(classifier, *pixels.split([images, clean, retain]))
    desk.wait()
    seconds: dict[str, list[Seconds]] = {"x and x'": [], "corrected and broken": [], "verdict": []}
    for number in range((1 if options.quick else options.strokes) + 1):
        seconds["x and x'"].append(stroke(desk, 60 + 3 * number))
        images_shown, verdict_shown = rewrite(desk)
        seconds["corrected and broken"].append(images_shown)
        seconds["verdict"].append(verdict_shown)
    results = Results("desk_speed", "MiniWorld", notes={"layer": desk.controls.layer.value})
    for answer, measured in seconds.items():
        walls, cpus = zip(*measured[1:], strict=True)  # the first one warms up
        results.add("wall seconds", statistics.median(walls), method=answer, network="efficientnet_lite0")
        results.add("CPU seconds", statistics.median(cpus), method=answer, network="efficientnet_lite0")
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__)
    arguments.add_argument("--strokes", type=int, default=12, help="number of strokes")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
