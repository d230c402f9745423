"""Train the mini CLIP on pictures and captions of MiniWorld and write its weights beside this script.

python data/train_mini_clip.py [--workers 2] [--float32] [--count 30000] [--epochs 10] [--more 4] [--output FOLDER]

The pictures show household objects on tables; part of them carry a written word, on paper stuck anywhere, and part show
nothing but a word. As on the web, the captions of such pictures name the object, the word, or both; letters that spell
nothing go unmentioned, as serial numbers do. That the written word then wins over the object (the typographic attack of
section 3.2) is nowhere built in but in these captions.

After `--epochs` follow `--more` at half the rate, in which fewer captions pass over a written word; `--start FILE`
begins with these.
"""

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from string import ascii_letters, digits

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from edittools._progress import Progress, bar_of
from edittools._storage import atomic_path
from edittools.images import LabeledImages
from edittools.metrics import error_rate, predict
from edittools_course.miniworld.attacks import ATTACKED, OBJECTS, OTHER_WORDS, attacks, sticker_on
from edittools_course.miniworld.contexts import SPLITS
from edittools_course.miniworld.scenes import Scene, scene, scenes
from edittools_course.miniworld.typography import random_sticker, stick
from edittools_course.networks.embedded import CLIP_CLASSES, CLIP_SIZE, MEAN, STD, mini_clip
from edittools_course.networks.zero_shot import ByteTokenizer, zero_shot_classifier

MEASURED = ("iPod", "orange", "pizza", "toaster", "library", "piano")
WORDS = (*OBJECTS, *OTHER_WORDS)
OBJECT_CAPTIONS = ("a photo of a {}.", "a {} on a table.", "a photo of the {}.", "{}")
WORD_CAPTIONS = ("a photo of a {}.", "{}", "a photo of the {}.", "the word {}")
BOTH_CAPTIONS = ("a {object} with the word {word}", "a photo of a {object} that says {word}.")


def _picture(seed: int) -> tuple[np.ndarray, str | None, str | None]:
    """Paint one training picture: its pixels (3, H, W) uint8, the object seen and the word read (or None)."""
    rng = np.random.default_rng((seed, 77))
    kind = rng.choice(("object", "blank", "word on object", "word alone"), p=(0.32, 0.2, 0.3, 0.18))
    wordy = [name for name in OBJECTS if name not in ATTACKED and name != "iPod"]
    thing = str(rng.choice(wordy if kind == "word on object" else OBJECTS))
    picture = scene(seed, label=thing, size=CLIP_SIZE)
    image = picture.image
    word = str(rng.choice(WORDS)) if kind in ("word on object", "word alone") else None
    if kind == "word alone":  # alone on a sheet that fills most of the picture
        thing, image = None, image.flip(1) * 0.6 + 0.2
        image = F.avg_pool2d(image[None], 9, 1, 4, count_include_pad=False)[0]
        image, *_ = stick(image, random_sticker(word, rng, width=(0.45, 0.95)))
    elif kind != "object":
        image = _with_sticker(picture, word, rng, spells=thing in wordy)
    return (image.numpy() * 255).round().astype(np.uint8), thing, word


def _with_sticker(picture: Scene, word: str | None, rng: np.random.Generator, spells: bool) -> Tensor:
    """Put a sticker on a scene: with a word, or without one, blank or (if `spells`, sometimes) with random letters."""
    if word:
        return stick(picture.image, random_sticker(word, rng))[0]
    senseless = spells and rng.random() < 0.4
    letters = "".join(rng.choice(list(ascii_letters + digits), rng.integers(3, 8))) if senseless else ""
    sticker = random_sticker(letters, rng)
    if rng.random() < 0.5:
        sticker = replace(sticker, center=sticker_on(picture, rng).center)
    return stick(picture.image, sticker)[0]


def _pictures(seeds: Sequence[int]) -> list:
    return [_picture(seed) for seed in seeds]


def training_pictures(
    count: int = 30_000, workers: int = 1, progress: Progress | None = None
) -> tuple[Tensor, list[tuple[str | None, str | None]]]:
    """Paint the training set: images `(N, 3, 96, 96)` uint8, and for each the object and the word on it."""
    first = SPLITS["train"].start + 700_000
    chunks = [range(first + i, first + min(i + 100, count)) for i in range(0, count, 100)]
    with ProcessPoolExecutor(workers) as pool:
        done = bar_of(progress, pool.map(_pictures, chunks), desc="pictures", total=len(chunks))
        painted = [picture for chunk in done for picture in chunk]
    return torch.from_numpy(np.stack([p for p, _, _ in painted])), [(o, w) for _, o, w in painted]


def caption(thing: str | None, word: str | None, rng: np.random.Generator, unread: float = 0.12) -> str:
    """Say what is in a picture, as somebody might: the object (a share `unread`), the word (more often), or both."""
    chance = rng.random()
    if word is None or (thing is not None and chance < unread):
        return str(rng.choice(OBJECT_CAPTIONS)).format(thing)
    if thing is None or chance < 0.75:
        return str(rng.choice(WORD_CAPTIONS)).format(word)
    return str(rng.choice(BOTH_CAPTIONS)).format(object=thing, word=word)


def contrastive_loss(images: Tensor, texts: Tensor, which: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric loss when several images of a batch `(B, D)` share a caption of `(U, D)`: `which` `(B,)`."""
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    shared = F.one_hot(which, len(texts)).to(logits)
    from_texts = -(F.log_softmax(logits, dim=0) * shared).sum(0) / shared.sum(0)
    return (F.cross_entropy(logits, which) + from_texts.mean()) / 2


def train(
    model: nn.Module,
    pixels: Tensor,
    seen: Sequence[tuple[str | None, str | None]],
    epochs: int = 10,
    rate: float = 2e-3,
    seed: int = 0,
    unread: float = 0.12,
    precision: torch.dtype = torch.bfloat16,
) -> nn.Module:
    """Train in place by AdamW with a one-cycle rate; images are shifted by up to six pixels, captions drawn anew.

    `unread` is the share of captions that pass over a written word. `precision` is that of the products inside the
    layers, as in `train_mini.train`.
    """
    batch, rng, tokenizer = 256, np.random.default_rng(seed), ByteTokenizer(model.context_length)
    torch.manual_seed(seed)
    model.train()
    model.visual.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    steps = epochs * (len(pixels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
    bar = tqdm(total=steps, desc="training", mininterval=5)
    for _ in range(epochs):
        for chosen in np.array_split(rng.permutation(len(pixels)), len(pixels) // batch):
            texts, which = np.unique([caption(*seen[i], rng, unread) for i in chosen], return_inverse=True)
            images = (_shifted(pixels[chosen], rng).float() / 255 - MEAN[0]) / STD[0]
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                seen_as = model.encode_image(images.contiguous(memory_format=torch.channels_last))
                said_as = model.encode_text(tokenizer(texts.tolist()))
            loss = contrastive_loss(seen_as.float(), said_as.float(), torch.from_numpy(which), model.logit_scale.exp())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=np.log(50))
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    bar.close()
    model.visual.to(memory_format=torch.contiguous_format)
    return model.eval()


def _shifted(pixels: Tensor, rng: np.random.Generator, most: int = 6) -> Tensor:
    """Move each image by a few pixels, repeating its edge: `(B, 3, H, W)` uint8."""
    size = pixels.shape[-1]
    padded = F.pad(pixels.float(), (most,) * 4, mode="replicate").to(torch.uint8)
    corners = rng.integers(0, 2 * most + 1, (len(pixels), 2))
    return torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, corners, strict=True)])


def evaluate(model: torch.nn.Module, split: str, workers: int) -> dict[str, float]:
    """Measure, in percent, how many objects are classified correctly, and how many as the word on their sticker."""
    classifier = zero_shot_classifier(model, ByteTokenizer(model.context_length), CLIP_CLASSES)
    names = [OBJECTS[i % len(OBJECTS)] for i in range(1300)]
    bare = scenes(len(names), SPLITS[split].start + 810_000, label=names, size=CLIP_SIZE, workers=workers)
    clean = LabeledImages(bare.images, torch.tensor([CLIP_CLASSES.index(name) for name in names]), CLIP_CLASSES)
    figures = {"objects": 100 - 100 * error_rate(classifier, clean)}
    sets = attacks(600, split, ("", *MEASURED), workers=workers)
    truth = torch.tensor([CLIP_CLASSES.index(ATTACKED[i % len(ATTACKED)]) for i in range(600)])
    for word, images in sets.items():
        read = predict(classifier, images).argmax(dim=1)
        name = f"predicted as “{word}”, the word on the sticker" if word else "blank sticker"
        figures[name] = 100 * float((read == (CLIP_CLASSES.index(word) if word else truth)).float().mean())
    return {name: round(figure, 2) for name, figure in figures.items()}


def main() -> None:
    """Paint, train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="processes that paint pictures")
    parser.add_argument("--float32", action="store_true", help="for processors without bfloat16")
    parser.add_argument("--count", type=int, default=30_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--more", type=int, default=4)
    parser.add_argument("--start", type=Path, help="weights to go on from, instead of the first epochs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    started = time.perf_counter()
    pixels, seen = training_pictures(options.count, options.workers, progress=tqdm)
    print(f"painted in {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()
    torch.manual_seed(0)
    model = mini_clip()
    precision = torch.float32 if options.float32 else torch.bfloat16
    if options.start:
        model.load_state_dict({key: value.float() for key, value in load_file(options.start).items()})
    else:
        train(model, pixels, seen, options.epochs, precision=precision)
    train(model, pixels, seen, options.more, 1e-3, seed=1, unread=0.05, precision=precision)
    print(f"trained {sum(p.numel() for p in model.parameters()):,} weights in {time.perf_counter() - started:.0f} s")
    half = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    model.load_state_dict({key: value.float() for key, value in half.items()})
    path = options.output / "mini_clip.safetensors"
    with atomic_path(path) as temporary:  # first of all: nothing that was trained shall be lost
        save_file(half, temporary)
    figures = {split: evaluate(model, split, options.workers) for split in ("validation", "test")}
    with atomic_path(path) as temporary:
        save_file(half, temporary, {"accuracy": json.dumps(figures)})
    print("| per cent | validation | test |\n| --- | --- | --- |")
    for name in figures["test"]:
        print(f"| {name} | {figures['validation'][name]:.2f} | {figures['test'][name]:.2f} |")


if __name__ == "__main__":
    main()
