"""The desk: from the last stroke to new predictions of 24 pictures, and to the counts of all of them.

A stroke is set in the mask editor, as it comes from the page; the worker makes x and x', solves the edit of one layer,
and reads the pictures anew. Images are run up to the layer before. The median of 20 strokes is bound: 0.3 s on
MiniWorld's `mini_vgg`, 1 s on EfficientNet-Lite0 at 224 pixels, on 2 idle cores; on a busy machine seconds are upper
bounds. EfficientNet is measured where `EDITTOOLS_PHOTOS` names a folder of photographs.
"""

import os
import statistics
import threading
import time
from pathlib import Path

from common import finish, parser, start

from edittools.lab import Desk
from edittools.stories import DeskStory, desk_story

BOUNDS = {"mini": 0.3, "lite": 1.0}
STROKES = 20


def strokes(story: DeskStory, count: int) -> dict[str, float]:
    """Seconds from a stroke to new predictions and to new counts, medians of so many strokes."""
    desk = Desk(story.classifier, story.images, story.everyday, story.keep, shown=24)
    desk.choose(story.picture)
    desk.controls.layer.value = story.layer
    desk.editor.mask = story.mask
    desk.rewrite()
    desk.wait()
    read, told = [], threading.Event()
    desk.results.pictures.observe(lambda change: (read.append(time.perf_counter()), told.set()), "cards")
    seen, counted = [], []
    for number in range(count):
        told.clear()
        started = time.perf_counter()
        desk.editor.brush([(number, number % 7)], radius=1)
        if not told.wait(120) or desk.trouble:
            raise RuntimeError(f"stroke {number}: no new predictions within 120 seconds. {desk.trouble}")
        seen.append(read[-1] - started)
        desk.wait()
        counted.append(time.perf_counter() - started)
    if len(desk.results.pictures.cards) != 24:
        raise RuntimeError(f"{len(desk.results.pictures.cards)} pictures are shown: expected 24")
    return {
        "predictions": statistics.median(seen),
        "slowest": max(seen),
        "counts": statistics.median(counted),
        "images": len(desk.bench.images),
        "everyday": len(desk.bench.everyday),
        "keep": len(desk.bench.keep),
    }


def main() -> None:
    """Measure both tiers, and say why where one is left out."""
    arguments = parser(__doc__)
    arguments.add_argument("--strokes", type=int, default=STROKES, help="so many strokes (default: 20)")
    options = arguments.parse_args()
    start(options)
    photos = os.environ.get("EDITTOOLS_PHOTOS")
    figures: dict[str, object] = {"strokes": options.strokes, "load": os.getloadavg()[0], "cores": os.cpu_count()}
    for tier, bound in BOUNDS.items():
        if tier == "lite" and not (photos and Path(photos).is_dir()):
            figures[tier] = {"skipped": "no photographs: EDITTOOLS_PHOTOS names no folder"}
            print("lite: skipped, EDITTOOLS_PHOTOS names no folder of photographs")
            continue
        story = desk_story(tier)
        found = strokes(story, options.strokes)
        figures[tier] = found | {"bound": bound, "within": found["predictions"] < bound}
        print(f"{tier}: {story.classifier}, layer {story.layer}")
        images = sum(found[name] for name in ("images", "everyday", "keep"))
        print(f"  new predictions of 24 pictures: {found['predictions']:.3f} s, bound {bound:g} s", end="")
        print(f" (slowest of {options.strokes}: {found['slowest']:.3f} s)")
        print(f"  counts of all {images:,}: {found['counts']:.3f} s, at a load of {os.getloadavg()[0]:.1f}")
    finish(options, figures)


if __name__ == "__main__":
    main()
