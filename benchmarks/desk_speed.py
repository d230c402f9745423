"""Measure how long the desk takes from a stroke to its answers, at 224 pixels: wall clock and CPU seconds, medians.

    python benchmarks/desk_speed.py --threads 2

On EfficientNet-Lite0 and rendered scenes, three answers are measured: x and x' with their predictions after a stroke,
the corrected and broken images after *Rewrite*, and the whole verdict, with clean and retained images. What the browser
does is not included.
"""

import argparse
import json
import statistics
import time

import torch

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
    mask = torch.zeros(desk.sets.classifier.size, desk.sets.classifier.size)
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


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strokes", type=int, default=12)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--clean", type=int, default=160)
    parser.add_argument("--retain", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    classifier = load_classifier("efficientnet_lite0")
    pixels = scenes(arguments.images + arguments.clean + arguments.retain, size=classifier.size).images
    images, clean, retain = pixels.split([arguments.images, arguments.clean, arguments.retain])
    desk = widgets.Desk(classifier, images, clean, retain)
    desk.wait()
    seconds: dict[str, list[Seconds]] = {"x and x'": [], "corrected and broken": [], "verdict": []}
    for number in range(arguments.strokes + 1):
        seconds["x and x'"].append(stroke(desk, 60 + 3 * number))
        images_shown, verdict_shown = rewrite(desk)
        seconds["corrected and broken"].append(images_shown)
        seconds["verdict"].append(verdict_shown)
    record = {"threads": arguments.threads, "layer": desk.controls.layer.value}
    for name, measured in seconds.items():
        walls, cpus = zip(*measured[1:], strict=True)  # the first one warms up
        record[f"{name}, wall s"] = round(statistics.median(walls), 3)
        record[f"{name}, CPU s"] = round(statistics.median(cpus), 3)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
