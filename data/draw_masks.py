"""Draw the road masks in `masks` that have an outline in `masks/road_polygons.json`.

python data/draw_masks.py [--output FOLDER]

The file maps the name of a sample photo to polygons with corners (x, y) in pixels of the 224 x 224 crop, from its upper
left corner. They are drawn one after the other: "add" makes the inside ground, "remove" takes it away.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from edittools.image_files import save_mask

MASKS = Path(__file__).parent / "masks"
SIZE = 224
FINE = 8  # the side of a pixel in finer pixels: one belongs to the ground if at least half of its area does


def outlines() -> dict[str, list[dict[str, list]]]:
    """Return name of the photo -> its polygons, each `{"add": corners}` or `{"remove": corners}`."""
    return json.loads((MASKS / "road_polygons.json").read_text())


def drawn(polygons: list[dict[str, list]]) -> Tensor:
    """Return the `(224, 224)` float mask of 0 and 1 that polygons make, in their order."""
    picture = Image.new("1", (SIZE * FINE, SIZE * FINE))
    pen = ImageDraw.Draw(picture)
    for polygon in polygons:
        [(kind, corners)] = polygon.items()
        if kind not in ("add", "remove"):
            raise ValueError(f"polygon of kind {kind!r}: expected 'add' or 'remove'")
        pen.polygon([(x * FINE - 0.5, y * FINE - 0.5) for x, y in corners], fill=int(kind == "add"))
    share = np.asarray(picture, dtype=np.float32).reshape(SIZE, FINE, SIZE, FINE).mean(axis=(1, 3))
    return torch.from_numpy(share >= 0.5).float()


def main() -> None:
    """Draw all masks that have an outline; print which share of the pixels each one covers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=MASKS)
    options = parser.parse_args()
    for name, polygons in outlines().items():
        mask = drawn(polygons)
        save_mask(options.output / f"{name}_road.png", mask)
        print(f"{name}_road.png: {100 * mask.mean():.1f}%")


if __name__ == "__main__":
    main()
