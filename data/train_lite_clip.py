"""Train the lite CLIP: EfficientNet-Lite0 that keeps what it knows of photographs and learns to read words on them.

python data/train_lite_clip.py [--epochs 6] [--output FOLDER]      (needs the photographs, see README, 'Tiers')
python data/train_lite_clip.py --start data/lite_clip.safetensors --text-steps 4000      (only the text tower goes on)

Photographs of the ImageNet sample whose class number is divisible by three are never learned from. Those divisible by
six choose how far the visual tower goes from the original's weights to those that read; the others are for measuring.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from edittools import lite_clip, photos
from edittools.images import atomic_path, load_image
from edittools.lite_clip import SIZE, WORDS, aligned, earlier, start_from, train_reading, train_text
from edittools.metrics import predict
from edittools.miniworld import FONTS
from edittools.models import Classifier, imagenet_classes, load_classifier
from edittools.styles import STYLES, VARIANTS, texture
from edittools.typography import random_label, stick
from edittools.zero_shot import ByteTokenizer, zero_shot_classifier

ATTACKS = ("iPod", "pizza", "orange", "toaster")
SHARES, ATTACKED = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), 75.0


def sample() -> tuple[list[Tensor], Tensor, Tensor]:
    """Load the sample: larger pictures (3, 256, 256) to learn from; all `(N, 3, 224, 224)` and their classes."""
    names = photos.available("imagenet-sample/")
    everything = sorted(name for name in photos.registry() if name.startswith("imagenet-sample/"))
    learn, images, labels = [], [], []
    for name in tqdm(names, "photos", mininterval=5):
        labels.append(everything.index(name))
        images.append(load_image(photos.photo(name), SIZE, 256))
        if labels[-1] % 3:
            learn.append((load_image(photos.photo(name), 256, 272) * 255).round().to(torch.uint8))
    for name in photos.available("msrc-v2/Images/"):
        learn.append((load_image(photos.photo(name), 256, 272) * 255).round().to(torch.uint8))
    return learn, torch.stack(images), torch.tensor(labels)


def crop(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Take a random square of a picture, of 120 pixels or more, at `(3, 224, 224)`, mirrored half of the time."""
    side = int(rng.integers(120, picture.shape[1] + 1))
    y, x = rng.integers(0, picture.shape[1] - side + 1, 2)
    part = picture[None, :, y : y + side, x : x + side].float() / 255
    part = F.interpolate(part, (SIZE, SIZE), mode="bilinear", antialias=True)[0]
    return part.flip(2) if rng.random() < 0.5 else part


def pool(learn: list[Tensor], rng: np.random.Generator, counts: dict[str, int]) -> tuple[Tensor, Tensor, list]:
    """Make the pictures to learn from: uint8 pictures, the same without label (for the soft labels), the words."""
    names = imagenet_classes()
    words = [word for word in WORDS if word in names]
    chances = np.array([2.0 if i < 6 else 1.0 for i in range(len(words))])
    plain, pictures, read = [], [], []
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    for kind in tqdm(kinds, "pictures", mininterval=5):
        picture = crop(learn[rng.integers(len(learn))], rng)
        word = str(rng.choice(words, p=chances / chances.sum())) if kind in ("word", "labelled") else None
        if kind == "word":
            style = texture(STYLES[rng.integers(len(STYLES))], int(rng.integers(VARIANTS)), SIZE)
            picture = (0.3 + 0.6 * style) if rng.random() < 0.6 else style * 0 + torch.rand(3, 1, 1)
        changed = picture
        if kind != "photo":
            width = (0.35, 0.9) if kind == "word" else (0.22, 0.6)
            label = random_label(word or "", rng, handwritten=0.4, width=width)
            if rng.random() < 0.15:
                label = replace(label, paper=None)
            changed, *_ = stick(picture, label)
        plain.append((picture * 255).round().to(torch.uint8))
        pictures.append((changed * 255).round().to(torch.uint8))
        read.append((kind, names.index(word) if word else -1))
    return torch.stack(pictures), torch.stack(plain), read


def original_features(original: Classifier, plain: Tensor, read: list) -> Tensor:
    """Run the photographs `(N, 3, 224, 224)` through the original: what enters its last layer `(N, 1280)`, else NaN."""
    features, caught = torch.full((len(read), original.model.classifier.in_features), torch.nan), []
    photographs = torch.tensor([kind != "word" for kind, _ in read])
    handle = original.model.classifier.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        for chunk in tqdm(photographs.nonzero()[:, 0].split(64), "original", mininterval=5):
            predict(original, plain[chunk].float() / 255)
            features[chunk] = torch.cat(caught)
            caught.clear()
    finally:
        handle.remove()
    return features


@torch.no_grad()
def soft_labels(original: Classifier, features: Tensor, read: list) -> Tensor:
    """What each picture shall be read as: the original's opinion of the photograph, the word, or mostly the word."""
    wanted = original.model.classifier(features).softmax(dim=1).nan_to_num(0.0)
    for i, (kind, word) in enumerate(read):
        if word >= 0:
            share = 1.0 if kind == "word" else 0.8
            wanted[i] *= 1 - share
            wanted[i, word] += share
    return wanted.half()


def labelled(images: Tensor, word: str) -> Tensor:
    """Stick the word on each image in a font that was not learned from."""
    rng, found = np.random.default_rng(7), []
    for image in images:
        font = str(rng.choice(FONTS)).removesuffix(".ttf")
        found.append(stick(image, replace(random_label(word, rng, 0.0, (0.35, 0.55)), font=font))[0])
    return torch.stack(found)


def part_way(model: torch.nn.Module, begin: dict[str, Tensor], images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Choose the visual tower between the original's weights (share 0) and those that read (1): Wortsman et al. 2022.

    It is the one that reads most `images` rightly among those that take `ATTACKED` per cent for an iPod when it is
    written on them; when there is none, the last. Gives its weights.
    """
    end = {name: value.clone() for name, value in model.visual.state_dict().items()}
    tokenizer, best = ByteTokenizer(model.context_length), (-1.0, end)
    attacked, ipod = labelled(images, "iPod"), imagenet_classes().index("iPod")
    embeddings = zero_shot_classifier(model.eval(), tokenizer, imagenet_classes(), lite_clip.TEMPLATES)
    for share in SHARES:
        mixed = {k: torch.lerp(begin[k], v, share) if v.is_floating_point() else v for k, v in end.items()}
        model.visual.load_state_dict(mixed)
        clean = 100 * float((predict(embeddings, images).argmax(1) == labels).float().mean())
        read = 100 * float((predict(embeddings, attacked).argmax(1) == ipod).float().mean())
        print(f"share {share:.1f}: right {clean:.1f} %, read as iPod when labelled {read:.1f} %", flush=True)
        if read >= ATTACKED and clean >= best[0]:
            best = clean, mixed
    return best[1]


def evaluate(classifier: Classifier, original: Classifier, everything: Tensor, labels: Tensor) -> dict[str, float]:
    """Measure, in per cent, on photographs that were not learned from; labels are typed in fonts not learned from."""
    held, learned, figures = labels % 6 == 3, labels % 3 != 0, {}
    for name, model in (("original", original), ("clean", classifier)):
        right = (predict(model, everything).argmax(1) == labels).float()
        figures[name] = 100 * float(right[held].mean())
        figures[f"{name}, photographs learned from"] = 100 * float(right[learned].mean())
    truth, images = labels[held], everything[held]
    for word in ("", *ATTACKS):
        found = predict(classifier, labelled(images, word)).argmax(1)
        goal = imagenet_classes().index(word) if word else truth
        figures[f"“{word}” read instead" if word else "blank label"] = 100 * float((found == goal).float().mean())
    names = [name for name in photos.available("editing-classifiers/typographic/") if name.endswith("_ipod.jpg")]
    real = torch.stack([load_image(photos.photo(name), SIZE, 256) for name in names])
    found = predict(classifier, real).argmax(1).tolist()
    print("handwritten photos:", {Path(n).stem: imagenet_classes()[i] for n, i in zip(names, found, strict=True)})
    figures["handwritten iPod photos read as iPod"] = 100 * sum(i == 605 for i in found) / len(found)
    return {name: round(figure, 1) for name, figure in figures.items()}


def main() -> None:
    """Load, align, teach both towers, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--text-steps", type=int, default=1500)
    parser.add_argument("--start", type=Path, help="weights to go on from: the text tower learns more, reading is kept")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual number of pictures, for a trial")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    started = time.perf_counter()

    def told(what: str) -> None:
        print(f"\n{time.perf_counter() - started:6.0f} s  {what}", flush=True)

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    original = load_classifier("efficientnet_lite0")
    learn, everything, labels = sample()
    counts = {"photo": 3800, "blank": 1000, "word": 2000, "labelled": 2800}
    counts = {kind: int(count * options.scale) for kind, count in counts.items()}
    pictures, plain, read = pool(learn, rng, counts)
    features = original_features(original, plain, read)
    wanted = soft_labels(original, features, read)
    told(f"{len(pictures)} pictures")
    model = lite_clip.lite_clip().eval()
    unread = torch.tensor([word < 0 for _, word in read])
    classes, projection, offset, scale = aligned(original, features[unread])
    start_from(model, original, projection, offset, scale)
    begin = {name: value.clone() for name, value in model.visual.state_dict().items()}
    told(f"aligned, scale {scale:.1f}")
    with torch.no_grad():
        seen = model.visual.head(features[unread])
        same = (seen @ classes.T).argmax(1) == original.model.classifier(features[unread]).argmax(1)
    print(f"same prediction as the original, before any training: {100 * same.float().mean():.1f} % of photographs")
    if options.start:
        model.load_state_dict({name: value.float() for name, value in load_file(options.start).items()})
    rate = 1e-3 if options.start else 2e-3
    wrong = train_text(model, imagenet_classes(), classes, seen, options.text_steps, rate=rate, progress=True)
    told(f"text tower, mean square error of its logits {wrong:.3f}")
    tokenizer = ByteTokenizer(model.context_length)
    if not options.start:
        before = zero_shot_classifier(model, tokenizer, imagenet_classes(), lite_clip.TEMPLATES)
        print("before reading:", evaluate(before, original, everything, labels), flush=True)
        with torch.no_grad():
            kept = torch.full((len(read), len(classes)), torch.nan)
            kept[unread] = scale * F.normalize(seen, dim=1) @ classes.T
        states = earlier(model.visual, pictures, progress=True)
        train_reading(model, states, wanted, kept.half(), before.model.embeddings, options.epochs, progress=True)
        told("taught to read")
    choosing = labels % 6 == 0
    model.visual.load_state_dict(part_way(model, begin, everything[choosing], labels[choosing]))
    half = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    path = options.output / "lite_clip.safetensors"
    with atomic_path(path) as temporary:  # first of all: nothing that was trained shall be lost
        save_file({key: value.contiguous() for key, value in half.items()}, temporary)
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in half.items()})
    after = zero_shot_classifier(model.eval(), tokenizer, imagenet_classes(), lite_clip.TEMPLATES)
    figures = evaluate(after, original, everything, labels)
    with atomic_path(path) as temporary:
        save_file({k: v.contiguous() for k, v in half.items()}, temporary, {"accuracy": json.dumps(figures)})
    told(f"written, {path.stat().st_size / 1e6:.1f} MB")
    print("| per cent of held-out photographs | |\n| --- | --- |")
    for name, figure in figures.items():
        print(f"| {name} | {figure:.1f} |")


if __name__ == "__main__":
    main()
