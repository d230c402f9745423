"""Train the mini CLIP on pictures and captions of MiniWorld and write its weights beside this script.

python data/train_mini_clip.py [--workers 2] [--float32] [--count 30000] [--epochs 10] [--more 4] [--output FOLDER]

After `--epochs` follow `--more` at half the rate, in which fewer captions pass over a written word; `--start FILE`
begins with these.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from edittools import mini_clip
from edittools.images import LabelledImages, atomic_path
from edittools.metrics import error_rate, predict
from edittools.mini_clip import ATTACKED, CLASSES, OBJECTS, attacks, train, training_pictures
from edittools.miniworld import SPLITS, scenes
from edittools.zero_shot import ByteTokenizer, zero_shot_classifier

WORDS = ("iPod", "orange", "pizza", "toaster", "library", "piano")


def evaluate(model: torch.nn.Module, split: str, workers: int) -> dict[str, float]:
    """Measure, in per cent: objects read rightly, bare and with a blank label; words read instead of the object."""
    classifier = zero_shot_classifier(model, ByteTokenizer(model.context_length), CLASSES)
    names = [OBJECTS[i % len(OBJECTS)] for i in range(1300)]
    bare = scenes(len(names), SPLITS[split].start + 810_000, label=names, size=mini_clip.SIZE, workers=workers)
    clean = LabelledImages(bare.images, torch.tensor([CLASSES.index(name) for name in names]), CLASSES)
    figures = {"objects": 100 - 100 * error_rate(classifier, clean)}
    sets = attacks(600, split, ("", *WORDS), workers=workers)
    truth = torch.tensor([CLASSES.index(ATTACKED[i % len(ATTACKED)]) for i in range(600)])
    for word, images in sets.items():
        read = predict(classifier, images).argmax(dim=1)
        name = f"“{word}” read instead" if word else "blank label"
        figures[name] = 100 * float((read == (CLASSES.index(word) if word else truth)).float().mean())
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
    pixels, seen = training_pictures(options.count, options.workers, progress=True)
    print(f"painted in {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()
    torch.manual_seed(0)
    model = mini_clip.mini_clip()
    precision = torch.float32 if options.float32 else torch.bfloat16
    if options.start:
        model.load_state_dict({key: value.float() for key, value in load_file(options.start).items()})
    else:
        train(model, pixels, seen, options.epochs, precision=precision, progress=True)
    train(model, pixels, seen, options.more, 1e-3, seed=1, unread=0.05, precision=precision, progress=True)
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
