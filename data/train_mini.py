"""Train the mini models on MiniWorld and write their weights beside this script.

python data/train_mini.py mini_vgg|mini_resnet|mini_vgg_balanced|all [--workers 2] [--float32] [--output FOLDER]
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from edittools.classifiers import Classifier
from edittools.images import LabelledImages, atomic_path
from edittools.metrics import error_rate
from edittools.world.contexts import SPLITS, contexts
from edittools.world.miniworld import CLASSES, scenes
from edittools.zoo import embedded as mini_models
from edittools.zoo.embedded import MEAN, SIZE, STD

NAMES = ("mini_vgg", "mini_resnet", "mini_vgg_balanced")
VEHICLES = tuple(contexts().query("family == 'vehicle'").index)
POLAR = tuple(contexts().query("family == 'polar'").index)
CARD = {  # set: what it holds
    "natural": "4,000 scenes as in the world",
    "vehicles on road": "1,050 scenes, the seven vehicle classes in turn",
    "vehicles on snow": "the same scenes, only the look of the ground changed",
    "polar classes": "300 scenes of penguin, igloo and sled, where they live",
    "balanced": "2,000 scenes in which class, ground and surroundings are independent",
}


def training_scenes(
    count: int = 16_000, rare: int = 1_200, workers: int = 1, progress: bool = False, balanced: bool = False
) -> LabelledImages:
    """Paint the training set: `count` scenes as in `contexts()`, and `rare` more of the classes that live on snow.

    Those are a two-hundredth of the world; without more of them a model this small hardly learns them. With `balanced`
    there are as many scenes in all, but class, ground and surroundings are independent: no rule is planted.
    """
    if balanced:
        return scenes(count + rare, "train", balanced=True, workers=workers, progress=progress)
    polar = contexts().query("family == 'polar'").index
    labels = [polar[i % len(polar)] for i in range(rare)]
    common = scenes(count, "train", workers=workers, progress=progress)
    extra = scenes(rare, SPLITS["train"].start + 500_000, label=labels, workers=workers, progress=progress)
    return LabelledImages(torch.cat([common.images, extra.images]), torch.cat([common.labels, extra.labels]), CLASSES)


def train(
    model: nn.Module,
    data: LabelledImages,
    epochs: int = 6,
    rate: float = 2e-3,
    batch: int = 64,
    seed: int = 0,
    precision: torch.dtype = torch.bfloat16,
    progress: bool = False,
) -> nn.Module:
    """Train in place by AdamW with a one-cycle rate and random mirroring; returns the model in eval mode.

    `precision` is that of the products inside the layers; bfloat16 is three times faster on processors that have it,
    float32 gives the same accuracy everywhere. Weights stay float32.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout
    model.train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    steps = epochs * (len(data) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.2)
    bar = tqdm(total=steps, desc="training", disable=not progress)
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=generator)
        for chosen in order[: len(order) // batch * batch].split(batch):
            images, labels = (data.images[chosen] - 0.5) / 0.25, data.labels[chosen]
            mirrored = torch.rand(batch, generator=generator) < 0.5
            images[mirrored] = images[mirrored].flip(3)
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                logits = model(images.contiguous(memory_format=torch.channels_last))
            loss = cross_entropy(logits.float(), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    bar.close()
    return model.eval().to(memory_format=torch.contiguous_format)


def evaluation_sets(split: str, workers: int) -> dict[str, LabelledImages]:
    """Paint the sets of the model card with the seeds of a split."""
    first = SPLITS[split].start
    vehicles = [VEHICLES[i % len(VEHICLES)] for i in range(1050)]
    polar = [POLAR[i % len(POLAR)] for i in range(300)]
    return {
        "natural": scenes(4000, split, workers=workers),
        "vehicles on road": scenes(1050, first + 500_000, label=vehicles, ground="road", workers=workers),
        "vehicles on snow": scenes(1050, first + 500_000, label=vehicles, ground="snow", workers=workers),
        "polar classes": scenes(300, first + 600_000, label=polar, workers=workers),
        "balanced": scenes(2000, first + 700_000, balanced=True, workers=workers),
    }


def main() -> None:
    """Paint, train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=(*NAMES, "all"))
    parser.add_argument("--workers", type=int, default=2, help="processes that paint scenes")
    parser.add_argument("--float32", action="store_true", help="for processors without bfloat16")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    started = time.perf_counter()
    names = NAMES if options.model == "all" else (options.model,)
    kinds = {name.endswith("_balanced") for name in names}
    painted = {kind: training_scenes(workers=options.workers, progress=True, balanced=kind) for kind in kinds}
    sets = {split: evaluation_sets(split, options.workers) for split in ("validation", "test")}
    print(f"painted in {time.perf_counter() - started:.0f} s")
    for name in names:
        started = time.perf_counter()
        torch.manual_seed(0)
        model = getattr(mini_models, name.removesuffix("_balanced"))(len(CLASSES))
        precision = torch.float32 if options.float32 else torch.bfloat16
        train(model, painted[name.endswith("_balanced")], precision=precision, progress=True)
        seconds = time.perf_counter() - started
        classifier = Classifier(model, CLASSES, MEAN, STD, SIZE)
        figures = {
            split: {name: round(100 - 100 * error_rate(classifier, images), 2) for name, images in by_name.items()}
            for split, by_name in sets.items()
        }
        weights = {key: value.contiguous() for key, value in model.state_dict().items()}
        metadata = {"classes": json.dumps(CLASSES), "accuracy": json.dumps(figures)}
        with atomic_path(options.output / f"{name}.safetensors") as path:
            save_file(weights, path, metadata)
        print(f"\n{name}: {sum(p.numel() for p in model.parameters()):,} weights, trained in {seconds:.0f} s")
        print("| accuracy, % | validation | test | set |\n| --- | --- | --- | --- |")
        for key, held in CARD.items():
            print(f"| {key} | {figures['validation'][key]:.2f} | {figures['test'][key]:.2f} | {held} |")


if __name__ == "__main__":
    main()
