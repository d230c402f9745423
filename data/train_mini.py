"""Train the mini models on MiniWorld and write their weights beside this script.

python data/train_mini.py mini_vgg|mini_resnet|mini_vgg_balanced|mini_vit|all [--workers 2] [--float32] [--output DIR]
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad
from tqdm.auto import tqdm

from edittools._progress import Progress, bar_of
from edittools._storage import atomic_path
from edittools.classifiers import Classifier
from edittools.metrics import error_rate
from edittools_course.miniworld.contexts import GROUNDS, SPLITS, THINGS, contexts
from edittools_course.miniworld.scenes import CLASSES, Scenes, scenes
from edittools_course.networks.embedded import MEAN, MINI, SIZE, STD

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
    count: int = 16_000, rare: int = 1_200, workers: int = 1, progress: Progress | None = None, balanced: bool = False
) -> Scenes:
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
    fields = ("images", "labels", "things", "grounds")
    joined = {name: torch.cat([getattr(common, name), getattr(extra, name)]) for name in fields}
    return Scenes(classes=CLASSES, **joined)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: by AdamW with a one-cycle rate, on images that are mirrored at random.

    Args:
        epochs: number of passes over the training set.
        rate: the highest learning rate.
        batch: images per step.
        decay: weight decay.
        warm_up: the share of all steps in which the rate rises.
        shift: images are moved by up to this many pixels to each side.
        ended: the share of images in which the ground ends before the border, see `end_ground`.
        border: how far from the border it may end, in pixels.
        half: whether weights are rounded to float16 at the end, before anything is measured.
    """

    epochs: int = 6
    rate: float = 2e-3
    batch: int = 64
    decay: float = 0.01
    warm_up: float = 0.2
    shift: int = 6
    ended: float = 0.1
    border: int = 20
    half: bool = False


RECIPES = {
    "mini_resnet": Recipe(shift=0, ended=0.0),
    "mini_vit": Recipe(epochs=20, rate=1e-3, batch=32, decay=0.05, warm_up=0.1, shift=4, ended=0.0, half=True),
}


def augmented(images: Tensor, grounds: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Mirror images at random, shift them, and let the ground of some of them end before the border.

    Args:
        images: normalized images `(B, 3, H, W)`.
        grounds: where they show ground, `(B, H, W)` of 0 and 1.
        recipe: by how much they are shifted, and how often the ground ends.
        generator: random numbers.

    Returns:
        The augmented images, `(B, 3, H, W)`.
    """
    layers = mirrored_and_shifted(torch.cat([images, grounds[:, None]], dim=1), recipe.shift, generator)
    images, grounds = layers[:, :3], layers[:, 3]
    if recipe.ended:
        images = end_ground(images, grounds, recipe.ended, recipe.border, generator)
    return images


def mirrored_and_shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Mirror images `(B, C, H, W)` at random, and shift them by up to `most` pixels to each side."""
    is_mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(is_mirrored[:, None, None, None], images.flip(3), images)
    return shifted(images, most, generator) if most else images


def shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Shift images `(B, C, H, W)` by up to `most` pixels to each side; what enters repeats the edge."""
    height, width = images.shape[2:]
    padded = pad(images, (most,) * 4, mode="replicate")
    corners = torch.randint(0, 2 * most + 1, (len(images), 2), generator=generator).tolist()
    moved = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, corners, strict=True)]
    return torch.stack(moved)


def end_ground(images: Tensor, grounds: Tensor, share: float, border: int, generator: torch.Generator) -> Tensor:
    """Paint over the ground near the border of some images, so that the ground ends where it does in no scene.

    Otherwise ground and border go together, and a network may learn how the ground meets the border instead of the
    ground.

    Args:
        images: normalized images `(B, 3, H, W)`.
        grounds: where they show ground, `(B, H, W)` of 0 and 1.
        share: the probability that an image is changed.
        border: the ground ends at up to this many pixels from each side.
        generator: random numbers.

    Returns:
        The images, `(B, 3, H, W)`.
    """
    near_border = beyond_a_box(images, border, generator) & (grounds > 0.5)
    ended = torch.rand(len(images), generator=generator) < share
    is_painted = near_border & ended[:, None, None]
    return torch.where(is_painted[:, None], paint_like(images, generator), images)


def beyond_a_box(images: Tensor, border: int, generator: torch.Generator) -> Tensor:
    """Tell which pixels `(B, H, W)` lie outside a random box, whose sides are up to `border` pixels from the border."""
    count, _, height, width = images.shape
    top, bottom, left, right = torch.randint(0, border + 1, (4, count, 1), generator=generator)
    row = torch.arange(height)
    column = torch.arange(width)
    is_row_inside = (row >= top) & (row < height - bottom)
    is_column_inside = (column >= left) & (column < width - right)
    return ~(is_row_inside[:, :, None] & is_column_inside[:, None, :])


def paint_like(images: Tensor, generator: torch.Generator) -> Tensor:
    """Make a cloudy paint of a random color, darker than snow, for each of the normalized images `(B, 3, H, W)`."""
    count, _, height, width = images.shape
    gray = 2 * torch.rand(count, 1, 1, 1, generator=generator) - 1.5
    tint = 0.4 * torch.randn(count, 3, 1, 1, generator=generator)
    clouds = 0.4 * torch.randn(count, 1, 9, 9, generator=generator)
    speckle = 0.2 * torch.randn(count, 3, height, width, generator=generator)
    return (gray + tint + interpolate(clouds, (height, width), mode="bilinear") + speckle).clamp(-2, 2)


def train(
    model: nn.Module,
    data: Scenes,
    recipe: Recipe | None = None,
    seed: int = 0,
    precision: torch.dtype = torch.bfloat16,
    progress: Progress | None = None,
) -> nn.Module:
    """Train in place as the recipe says (default: `Recipe()`); returns the model in eval mode.

    `precision` is that of the products inside the layers; bfloat16 is three times faster on processors that have it,
    float32 gives the same accuracy everywhere. Weights stay float32.
    """
    recipe, generator = recipe or Recipe(), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout
    model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    batch, steps = recipe.batch, recipe.epochs * (len(data) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps, pct_start=recipe.warm_up)
    grounds = torch.isin(data.things, torch.tensor([THINGS.index(name) for name in GROUNDS])).float()
    bar = bar_of(progress, total=steps, desc="training")
    for _ in range(recipe.epochs):
        order = torch.randperm(len(data), generator=generator)
        for chosen in order[: len(order) // batch * batch].split(batch):
            images, labels = (data.images[chosen] - 0.5) / 0.25, data.labels[chosen]
            images = augmented(images, grounds[chosen], recipe, generator)
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                logits = model(images.contiguous(memory_format=torch.channels_last))
            loss = cross_entropy(logits.float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    bar.close()
    return model.eval().to(memory_format=torch.contiguous_format)


def untrained(name: str) -> nn.Module:
    """Build a model with weights of seed 0."""
    torch.manual_seed(0)
    model = MINI[name](len(CLASSES))
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # attention in its steps is trained faster on a processor
    return model


def evaluation_sets(split: str, workers: int) -> dict[str, Scenes]:
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
    parser.add_argument("model", choices=(*MINI, "all"))
    parser.add_argument("--workers", type=int, default=2, help="processes that paint scenes")
    parser.add_argument("--float32", action="store_true", help="for processors without bfloat16")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    started = time.perf_counter()
    names = tuple(MINI) if options.model == "all" else (options.model,)
    kinds = {name.endswith("_balanced") for name in names}
    painted = {kind: training_scenes(workers=options.workers, progress=tqdm, balanced=kind) for kind in kinds}
    sets = {split: evaluation_sets(split, options.workers) for split in ("validation", "test")}
    print(f"painted in {time.perf_counter() - started:.0f} s")
    for name in names:
        started = time.perf_counter()
        model, recipe = untrained(name), RECIPES.get(name, Recipe())
        precision = torch.float32 if options.float32 else torch.bfloat16
        train(model, painted[name.endswith("_balanced")], recipe, precision=precision, progress=tqdm)
        if recipe.half:
            model.half().float()
        seconds = time.perf_counter() - started
        classifier = Classifier(model, CLASSES, MEAN, STD, SIZE)
        figures = {
            split: {name: round(100 - 100 * error_rate(classifier, images), 2) for name, images in by_name.items()}
            for split, by_name in sets.items()
        }
        dtype = torch.float16 if recipe.half else torch.float32
        weights = {key: value.to(dtype).contiguous() for key, value in model.state_dict().items()}
        metadata = {"classes": json.dumps(CLASSES), "accuracy": json.dumps(figures)}
        with atomic_path(options.output / f"{name}.safetensors") as path:
            save_file(weights, path, metadata)
        print(f"\n{name}: {sum(p.numel() for p in model.parameters()):,} weights, trained in {seconds:.0f} s")
        print("| accuracy, % | validation | test | set |\n| --- | --- | --- | --- |")
        for key, held in CARD.items():
            print(f"| {key} | {figures['validation'][key]:.2f} | {figures['test'][key]:.2f} | {held} |")


if __name__ == "__main__":
    main()
