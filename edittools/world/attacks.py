"""A small CLIP that reads: open_clip's own model, for pictures of MiniWorld with and without written words.

`data/train_mini_clip.py` trains it; `load_classifier("mini_clip")` gives the trained model.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from edittools.world.contexts import SPLITS
from edittools.world.miniworld import HOUSEHOLD, Scene, scene
from edittools.world.typography import Label, random_label, stick

SIZE, MEAN, STD = 96, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
OBJECTS = tuple(HOUSEHOLD)
ATTACKED = ("teapot", "mug", "vase", "bottle", "lamp", "clock")
"""Objects that never carry a word in training; on the others (but the iPod) words are stuck."""
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono-Bold")
FONTS += ("DejaVuSans-Oblique", "STIXGeneralBol", "STIXGeneralItalic")
"""Fonts of the labels on them; training has seen others, `typography.FONTS`."""
OTHER_WORDS = (
    "orange pizza apple banana lemon bread cheese coffee sugar milk honey chocolate toaster library piano guitar "
    "violin camera phone television computer dog cat tiger dollar hammer umbrella"
).split()
CLASSES = (*OBJECTS, *OTHER_WORDS[:2], "toaster", "library", "piano")
"""The names that `load_classifier("mini_clip")` chooses from: all objects, and five things seen as words only."""


def attacks(count: int, split: str | int, words: Sequence[str | None], workers: int = 1) -> dict[str | None, Tensor]:
    """Paint `ATTACKED` in turn with a label on them, a set `(N, 3, 96, 96)` for each word; "" is blank, None no label.

    The sets show the same scenes; object, font and place of the label are none that training has seen.
    """
    first = (SPLITS[split].start if isinstance(split, str) else split) + 800_000
    shown = [ATTACKED[i % len(ATTACKED)] for i in range(count)]
    with ProcessPoolExecutor(workers) as pool:
        paint = partial(_attacked, words=tuple(words))
        painted = list(pool.map(paint, range(first, first + count), shown, chunksize=50))
    return {word: torch.from_numpy(np.stack([p[i] for p in painted])).float() / 255 for i, word in enumerate(words)}


def label_on(picture: Scene, rng: np.random.Generator, hand: int = 0) -> Label:
    """Draw a blank label on the middle of the object, in one of `FONTS` or written by hand."""
    rows, columns = picture.masks["object"].nonzero().float().mean(dim=0).tolist()
    middle = (np.clip(columns / SIZE, 0.26, 0.74), np.clip(rows / SIZE + rng.uniform(-0.02, 0.08), 0.15, 0.85))
    font = str(rng.choice(FONTS))
    label = random_label("", rng, handwritten=0.0, width=(0.36, 0.5))
    return replace(label, centre=tuple(map(float, middle)), font=font, hand=hand)


def _attacked(seed: int, thing: str, words: Sequence[str | None]) -> list[np.ndarray]:
    picture = scene(seed, label=thing, size=SIZE)
    label = label_on(picture, np.random.default_rng((seed, 78)))
    images = [picture.image if w is None else stick(picture.image, replace(label, text=w))[0] for w in words]
    return [(image.numpy() * 255).round().astype(np.uint8) for image in images]
