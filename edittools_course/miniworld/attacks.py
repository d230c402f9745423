"""Render what the small CLIP is trained on and attacked with: objects of MiniWorld with and without written words.

`data/train_mini_clip.py` trains it; `load_classifier("mini_clip")` gives the trained model.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from edittools_course.miniworld.contexts import SPLITS
from edittools_course.miniworld.scenes import HOUSEHOLD, Scene, scene
from edittools_course.miniworld.stored import render_set
from edittools_course.miniworld.typography import Sticker, random_sticker, stick
from edittools_course.networks.embedded import CLIP_SIZE

OBJECTS = tuple(HOUSEHOLD)
ATTACKED = ("teapot", "mug", "vase", "bottle", "lamp", "clock")
"""Objects that never carry a word in training; all others, except the iPod, do."""
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Bold",
    "DejaVuSans-Oblique",
    "STIXGeneralBol",
    "STIXGeneralItalic",
)
"""Fonts of the stickers on attacked objects; training uses others, `typography.FONTS`."""
OTHER_WORDS = (
    "orange pizza apple banana lemon bread cheese coffee sugar milk honey chocolate toaster library piano guitar "
    "violin camera phone television computer dog cat tiger dollar hammer umbrella"
).split()


def attacks(
    count: int,
    split: str | int,
    words: Sequence[str | None],
    workers: int = 1,
    cache: str | os.PathLike | None = None,
) -> dict[str | None, Tensor]:
    """Render the objects `ATTACKED` in turn, with a sticker on them.

    All sets show the same scenes. In training, no attacked object carries a word, and the fonts are different. Sets of
    50 to 10,000 scenes are kept on disk and read from there the next time.

    Args:
        count: number of scenes.
        split: the split whose seeds are used, or the first seed.
        words: the word of each set; "" for a blank sticker, None for no sticker.
        workers: number of processes.
        cache: folder of the cache (default: `EDITTOOLS_CACHE` or the user's cache folder); "" uses none.

    Returns:
        Images `(count, 3, 96, 96)` by word.
    """
    start = SPLITS[split].start if isinstance(split, str) else split
    first_seed = start + 800_000
    seeds = range(first_seed, first_seed + count)
    objects = [ATTACKED[i % len(ATTACKED)] for i in range(count)]
    render = partial(_attacked, words=tuple(words))
    [pixels] = render_set(render, f"attacks {list(words)}", seeds, objects, workers, cache=cache)
    return {word: pixels[:, number].float() / 255 for number, word in enumerate(words)}


def sticker_on(picture: Scene, rng: np.random.Generator, hand: int = 0) -> Sticker:
    """Make a random blank sticker on the middle of the object.

    Args:
        picture: the scene.
        hand: number of a handwriting; 0 for one of `FONTS`.
    """
    row, column = picture.masks["object"].nonzero().float().mean(dim=0).tolist()
    x = np.clip(column / CLIP_SIZE, 0.26, 0.74)
    y = np.clip(row / CLIP_SIZE + rng.uniform(-0.02, 0.08), 0.15, 0.85)
    font = str(rng.choice(FONTS))
    sticker = random_sticker("", rng, handwritten=0.0, width=(0.36, 0.5))
    return replace(sticker, center=(float(x), float(y)), font=font, hand=hand)


def _attacked(seed: int, thing: str, words: Sequence[str | None]) -> tuple[np.ndarray]:
    """Render one scene with each word on its object: 8-bit images `(len(words), 3, 96, 96)`."""
    picture = scene(seed, label=thing, size=CLIP_SIZE)
    sticker = sticker_on(picture, np.random.default_rng((seed, 78)))
    images = []
    for word in words:
        image = picture.image
        if word is not None:
            image, _, _ = stick(image, replace(sticker, text=word))
        images.append((image.numpy() * 255).round().astype(np.uint8))
    return (np.stack(images),)
