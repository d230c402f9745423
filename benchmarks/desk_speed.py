"""The desk: from pressing Rewrite to what the edit does to all pictures.

The worker solves the edit of one layer, and reads all sets anew from that layer on; images were run up to the layer
before. The median of 20 rewrites is bound: 0.5 s on MiniWorld's `mini_vgg`, 1 s on EfficientNet-Lite0 at 224 pixels, on
2 idle cores; on a busy machine seconds are upper bounds. EfficientNet is measured where `EDITTOOLS_PHOTOS` names a
folder of photographs.
"""

import os
import statistics
import time
from pathlib import Path

import torch
from common import finish, parser, start

from edittools.lab import Desk
from edittools.stories import desk_story

BOUNDS = {"mini": 0.5, "lite": 1.0}


def seconds(tier: str, count: int) -> dict[str, float]:
    """Seconds from pressing Rewrite to the result, of so many rewrites that follow a stroke."""
    classifier, sets = desk_story(tier)
    desk = Desk(classifier, sets["images"], sets["everyday"], sets["keep"])
    mask = torch.zeros(classifier.size, classifier.size)
    mask[-classifier.size // 3 :] = 1
    taken = []
    for number in range(count):
        mask[: number + 1] = 1
        desk.editor.mask = mask
        desk.wait()
        started = time.perf_counter()
        desk.rewrite()
        desk.wait()
        taken.append(time.perf_counter() - started)
    images = sum(len(data) for data in (desk.sets.images, desk.sets.everyday, desk.sets.keep))
    return {"median": statistics.median(taken), "slowest": max(taken), "images": images}


def main() -> None:
    """Measure both tiers, and say why where one is left out."""
    arguments = parser(__doc__)
    arguments.add_argument("--rewrites", type=int, default=20, help="so many rewrites (default: 20)")
    options = arguments.parse_args()
    start(options)
    photos = os.environ.get("EDITTOOLS_PHOTOS")
    figures: dict[str, object] = {"rewrites": options.rewrites, "load": os.getloadavg()[0], "cores": os.cpu_count()}
    for tier, bound in BOUNDS.items():
        if tier == "lite" and not (photos and Path(photos).is_dir()):
            figures[tier] = {"skipped": "no photographs: EDITTOOLS_PHOTOS names no folder"}
            print("lite: skipped, EDITTOOLS_PHOTOS names no folder of photographs")
            continue
        found = seconds(tier, options.rewrites)
        figures[tier] = found | {"bound": bound, "within": found["median"] < bound}
        print(f"{tier}: {found['median']:.3f} s to the result on {found['images']:,} images, bound {bound:g} s", end="")
        print(f" (slowest of {options.rewrites}: {found['slowest']:.3f} s), at a load of {os.getloadavg()[0]:.1f}")
    finish(options, figures)


if __name__ == "__main__":
    main()
