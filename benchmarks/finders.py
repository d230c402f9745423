"""How well DeepLab finds concepts in MSRC v2's photos, against masks made by hand; with and without a voucher."""

import time

import numpy as np
import pandas as pd
import torch
from common import finish, parser, start
from torch import Tensor
from tqdm.auto import tqdm

from edittools.images import load_image
from edittools.models.downloads import available, photo
from edittools.probing.counterfactuals import LEAST_AREA
from edittools.probing.segmentation import Gated, deeplab
from edittools.scenarios.photos import MSRC, msrc_classes


def row_of(concept: str, seen: list[Tensor], shown: list[Tensor]) -> dict[str, float]:
    """Count photos in which a concept is seen and shown, on `LEAST_AREA`, and take the IoU where it is shown."""
    pairs = list(zip(seen, shown, strict=True))
    overlap = [float((s & t).sum() / (s | t).sum()) for s, t in pairs if t.any()]
    sees, shows = (np.array([float(mask.float().mean()) >= LEAST_AREA for mask in masks]) for masks in (seen, shown))
    right = int((sees & shows).sum())
    counts = {"photos": int(shows.sum()), "seen": int(sees.sum()), "rightly": right}
    shares = {"precision": right / max(int(sees.sum()), 1), "recall": right / max(int(shows.sum()), 1)}
    return {"concept": concept, "IoU": np.mean(overlap), "median": np.median(overlap)} | counts | shares


def main() -> None:
    """Find concepts in each photo and print the tables."""
    given = start(parser(__doc__))
    photos = {name: load_image(photo(name))[None] for name in available("msrc-v2/Images/")}
    files = [photo(name.replace("Images/", "newsegmentations_mats/")[:-4] + "_GT.mat") for name in photos]
    truths, rows, seconds, seen_by = [torch.from_numpy(msrc_classes(file)) for file in files], [], {}, {}
    for label in ("cityscapes", "pascal"):
        started, finder = time.perf_counter(), deeplab(label)
        seen_by[label] = [finder(picture) for picture in tqdm(photos.values(), label, unit="photo", leave=False)]
        seconds[label] = (time.perf_counter() - started) / len(photos)
    pairs = zip(photos.values(), seen_by["cityscapes"], seen_by["pascal"], strict=True)
    again = lambda found: lambda images: found  # noqa: E731
    seen_by["cityscapes, vouched"] = [Gated(again(street), again(things))(p) for p, street, things in pairs]
    for label, found in seen_by.items():
        for number, concept in enumerate(MSRC, 1):
            if any(concept in one for one in found):
                shown = [truth == number for truth in truths]
                seen = [one.get(concept, torch.zeros(1, *t.shape))[0] > 0 for one, t in zip(found, truths, strict=True)]
                rows.append({"finder": label} | row_of(concept, seen, shown))
    table = pd.DataFrame(rows)
    print(table.round(2).to_string(index=False))
    print("\nseconds a photo:", ", ".join(f"{label} {one:.2f}" for label, one in seconds.items()))
    finish(given, {"photos": len(photos), "finders": rows})


if __name__ == "__main__":
    main()
