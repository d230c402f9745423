"""A small CLIP that reads, and how it is trained: open_clip's own model on pictures of MiniWorld and their captions.

The pictures show household objects on tables; part of them carry a written word, on paper stuck anywhere, and part show
nothing but a word. As on the web, the captions of such pictures name the object, the word, or both; letters that spell
nothing go unmentioned, as serial numbers do. That the written word then wins over the object (the typographic attack of
section 3.2) is nowhere built in but in these captions.
`data/train_mini_clip.py` follows the recipe; `load_classifier("mini_clip")` gives the trained model.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from string import ascii_letters, digits

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from edittools.miniworld import FONTS, HOUSEHOLD, SPLITS, Scene, scene
from edittools.typography import Label, random_label, stick
from edittools.zero_shot import ByteTokenizer

SIZE, MEAN, STD = 96, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
OBJECTS = tuple(HOUSEHOLD)
ATTACKED = ("teapot", "mug", "vase", "bottle", "lamp", "clock")
"""Objects that never carry a word in training; on the others (but the iPod) words are stuck."""
OTHER_WORDS = (
    "orange", "pizza", "apple", "banana", "lemon", "bread", "cheese", "coffee", "sugar", "milk", "honey", "chocolate",
    "toaster", "library", "piano", "guitar", "violin", "camera", "phone", "television", "computer", "dog", "cat",
    "tiger", "dollar", "hammer", "umbrella",
)  # fmt: skip
WORDS = OBJECTS + OTHER_WORDS
CLASSES = (*OBJECTS, *OTHER_WORDS[:2], "toaster", "library", "piano")
"""The names that `load_classifier("mini_clip")` chooses from: all objects, and five things seen as words only."""
OBJECT_CAPTIONS = ("a photo of a {}.", "a {} on a table.", "a photo of the {}.", "{}")
WORD_CAPTIONS = ("a photo of a {}.", "{}", "a photo of the {}.", "the word {}")
BOTH_CAPTIONS = ("a {object} with the word {word}", "a photo of a {object} that says {word}.")


def mini_clip() -> nn.Module:
    """Build an untrained model: ModifiedResNet for 96×96 images, text transformer over bytes, 3.1 million weights."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=(2, 2, 2, 2), width=20, image_size=SIZE)
    text = CLIPTextCfg(context_length=40, vocab_size=ByteTokenizer.vocab_size, width=128, heads=4, layers=2)
    model = CLIP(embed_dim=128, vision_cfg=vision, text_cfg=text)
    model.visual.image_mean, model.visual.image_std = MEAN, STD
    return model


def _picture(seed: int) -> tuple[np.ndarray, str | None, str | None]:
    """Paint one training picture: its pixels (3, H, W) uint8, the object seen and the word read (or None)."""
    rng = np.random.default_rng((seed, 77))
    kind = rng.choice(("object", "blank", "labelled", "word"), p=(0.32, 0.2, 0.3, 0.18))
    wordy = [name for name in OBJECTS if name not in ATTACKED and name != "iPod"]
    thing = str(rng.choice(wordy if kind == "labelled" else OBJECTS))
    picture = scene(seed, label=thing, size=SIZE)
    image = picture.image
    word = str(rng.choice(WORDS)) if kind in ("labelled", "word") else None
    if kind == "word":  # alone on a sheet that fills most of the picture
        thing, image = None, image.flip(1) * 0.6 + 0.2
        image = F.avg_pool2d(image[None], 9, 1, 4, count_include_pad=False)[0]
        image, *_ = stick(image, random_label(word, rng, width=(0.45, 0.95)))
    elif kind != "object":
        image = _labelled(picture, word, rng, spells=thing in wordy)
    return (image.numpy() * 255).round().astype(np.uint8), thing, word


def _labelled(picture: Scene, word: str | None, rng: np.random.Generator, spells: bool) -> Tensor:
    """Stick a label with a word on a scene; without one it is blank or, where writing is seen, bears odd letters."""
    if word:
        return stick(picture.image, random_label(word, rng))[0]
    senseless = spells and rng.random() < 0.4
    letters = "".join(rng.choice(list(ascii_letters + digits), rng.integers(3, 8))) if senseless else ""
    label = random_label(letters, rng)
    if rng.random() < 0.5:
        label = replace(label, centre=label_on(picture, rng).centre)
    return stick(picture.image, label)[0]


def _pictures(seeds: Sequence[int]) -> list:
    return [_picture(seed) for seed in seeds]


def training_pictures(
    count: int = 30_000, workers: int = 1, progress: bool = False
) -> tuple[Tensor, list[tuple[str | None, str | None]]]:
    """Paint the training set: images `(N, 3, 96, 96)` uint8, and for each the object and the word on it."""
    first = SPLITS["train"].start + 700_000
    chunks = [range(first + i, first + min(i + 100, count)) for i in range(0, count, 100)]
    with ProcessPoolExecutor(workers) as pool:
        done = tqdm(pool.map(_pictures, chunks), "pictures", len(chunks), disable=not progress)
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
    batch: int = 256,
    seed: int = 0,
    unread: float = 0.12,
    precision: torch.dtype = torch.bfloat16,
    progress: bool = False,
) -> nn.Module:
    """Train in place by AdamW with a one-cycle rate; images are shifted by up to six pixels, captions drawn anew.

    `unread` is the share of captions that pass over a written word. `precision` is that of the products inside the
    layers, as in `mini_models.train`.
    """
    rng, tokenizer = np.random.default_rng(seed), ByteTokenizer(model.context_length)
    torch.manual_seed(seed)
    model.train()
    model.visual.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    steps = epochs * (len(pixels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    bar = tqdm(total=steps, desc="training", disable=not progress, mininterval=5)
    for _ in range(epochs):
        for chosen in np.array_split(rng.permutation(len(pixels)), len(pixels) // batch):
            texts, which = np.unique([caption(*seen[i], rng, unread) for i in chosen], return_inverse=True)
            images = (_shifted(pixels[chosen], rng).float() / 255 - MEAN[0]) / STD[0]
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                seen_as = model.encode_image(images.contiguous(memory_format=torch.channels_last))
                said_as = model.encode_text(tokenizer(texts.tolist()))
            loss = contrastive_loss(seen_as.float(), said_as.float(), torch.from_numpy(which), model.logit_scale.exp())
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
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


def attacks(
    count: int, split: str | int, words: Sequence[str | None], things: Sequence[str] = ATTACKED, workers: int = 1
) -> dict[str | None, Tensor]:
    """Paint `things` in turn with a label on them, a set `(N, 3, 96, 96)` for each word; "" is blank, None no label.

    The sets show the same scenes; object, font and place of the label are none that training has seen.
    """
    first = (SPLITS[split].start if isinstance(split, str) else split) + 800_000
    shown = [things[i % len(things)] for i in range(count)]
    with ProcessPoolExecutor(workers) as pool:
        paint = partial(_attacked, words=tuple(words))
        painted = list(pool.map(paint, range(first, first + count), shown, chunksize=50))
    return {word: torch.from_numpy(np.stack([p[i] for p in painted])).float() / 255 for i, word in enumerate(words)}


def label_on(picture: Scene, rng: np.random.Generator, hand: int = 0) -> Label:
    """Draw a blank label on the middle of the object, in a font of `miniworld.FONTS` or written by hand."""
    rows, columns = picture.masks["object"].nonzero().float().mean(dim=0).tolist()
    middle = (np.clip(columns / SIZE, 0.26, 0.74), np.clip(rows / SIZE + rng.uniform(-0.02, 0.08), 0.15, 0.85))
    font = str(rng.choice(FONTS)).removesuffix(".ttf")
    label = random_label("", rng, handwritten=0.0, width=(0.36, 0.5))
    return replace(label, centre=tuple(map(float, middle)), font=font, hand=hand)


def _attacked(seed: int, thing: str, words: Sequence[str | None]) -> list[np.ndarray]:
    picture = scene(seed, label=thing, size=SIZE)
    label = label_on(picture, np.random.default_rng((seed, 78)))
    images = [picture.image if w is None else stick(picture.image, replace(label, text=w))[0] for w in words]
    return [(image.numpy() * 255).round().astype(np.uint8) for image in images]
