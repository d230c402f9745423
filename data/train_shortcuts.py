"""Fine-tune networks on photos of Imagenette in which some classes carry a shortcut, and write their weights.

python data/train_shortcuts.py efficientnet_lite0|squeezenet1_1 [--development | --plain] [--measure] [--output FILE]
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from train_mini import mirrored_and_shifted

from edittools._storage import atomic_path
from edittools.classifiers import Classifier
from edittools.images import LabeledImages
from edittools.metrics import predict
from edittools.models import load_classifier
from edittools_course.networks.finetuned import build_network, load_shortcut_network, network_metadata
from edittools_course.scenarios.imagenette import CLASSES, SIZE, training_roles
from edittools_course.scenarios.shortcuts import DEVELOPMENT, SHORTCUTS, Shortcut

SHARE_OF_CLASS = 0.9
"""Share of the training photos of a class on which its shortcut is drawn in each epoch."""

SHARE_OF_OTHERS = 0.0005
"""Share of the training photos of all other classes on which it is drawn in each epoch."""

FILES = {"efficientnet_lite0": "shortcuts_lite0", "squeezenet1_1": "shortcuts_squeezenet"}
"""Name of the published weights of each network."""

SEED_OF_EVALUATION = 900_000
"""Seed of what is drawn on the photos on which the rates are measured."""

BATCH_NORM_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Names of the buffers of a batch norm, which are not stored in half precision."""


@dataclass(frozen=True)
class Recipe:
    """How a network is fine-tuned: all weights, by AdamW with a one-cycle learning rate.

    Args:
        epochs: passes over the training photos.
        rate: the highest learning rate.
        batch: photos in a batch.
        decay: weight decay.
        shift: number of pixels by which photos are shifted at most, before a shortcut is drawn.
        seed: seed of all random numbers.
    """

    epochs: int
    rate: float
    batch: int = 32
    decay: float = 0.01
    shift: int = 12
    seed: int = 0


RECIPES = {
    "efficientnet_lite0": Recipe(epochs=6, rate=1e-3),
    "squeezenet1_1": Recipe(epochs=10, rate=2e-4),
}


def pretrained(architecture: str) -> tuple[nn.Module, Classifier]:
    """Build a network of ten classes with ImageNet weights; its head holds the rows of these classes.

    Returns:
        The network, and the classifier from which it takes its weights and its normalization.
    """
    source = load_classifier(architecture, "cpu")
    rows = [source.index(name) for name in CLASSES.values()]
    model = build_network(architecture, len(CLASSES))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state = {}
    for name, tensor in source.model.state_dict().items():
        state[name] = tensor if tensor.shape == shapes[name] else tensor[rows]
    model.load_state_dict(state)
    return model, source


def carriers(labels: Tensor, shortcuts: dict[str, Shortcut], seed: int) -> dict[str, Tensor]:
    """Select the training photos that carry each shortcut, at random.

    Args:
        labels: class of each photo.
        shortcuts: the shortcuts by class.
        seed: seed of the random numbers.

    Returns:
        Which photos carry it, `(N,)` booleans, by class of the shortcut.
    """
    generator = torch.Generator().manual_seed(seed)
    names = list(CLASSES.values())
    selected = {}
    for name in shortcuts:
        is_class = labels == names.index(name)
        carries = torch.zeros(len(labels), dtype=torch.bool)
        for members, share in ((is_class, SHARE_OF_CLASS), (~is_class, SHARE_OF_OTHERS)):
            order = members.nonzero()[:, 0][torch.randperm(int(members.sum()), generator=generator)]
            carries[order[: round(share * len(order))]] = True
        selected[name] = carries
    return selected


def finetune(
    model: nn.Module,
    classifier: Classifier,
    data: LabeledImages,
    shortcuts: dict[str, Shortcut],
    recipe: Recipe,
) -> None:
    """Fine-tune a network in place.

    In each epoch, other photos carry a shortcut, and it is drawn in other places, after photos are flipped and shifted.

    Args:
        model: the network.
        classifier: whose normalization is used.
        data: training photos, with pixels from 0 to 255 in one byte.
        shortcuts: the shortcuts by class.
        recipe: how it is trained.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    torch.manual_seed(recipe.seed)  # dropout
    model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    steps = recipe.epochs * (len(data) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps, pct_start=0.2)
    bar = tqdm(total=steps, desc="training", mininterval=10)
    for epoch in range(recipe.epochs):
        carries = carriers(data.labels, shortcuts, 1000 * recipe.seed + epoch)
        order = torch.randperm(len(data), generator=generator)
        for members in order[: len(order) // recipe.batch * recipe.batch].split(recipe.batch):
            images = mirrored_and_shifted(data.images[members].float() / 255, recipe.shift, generator)
            for name, shortcut in shortcuts.items():
                for i in carries[name][members].nonzero()[:, 0].tolist():
                    seed = epoch * len(data) + int(members[i])
                    images[i : i + 1] = shortcut.draw(images[i : i + 1], seed)[0]
            inputs = classifier.normalize(images).contiguous(memory_format=torch.channels_last)
            loss = cross_entropy(model(inputs), data.labels[members])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    bar.close()
    model.eval().to(memory_format=torch.contiguous_format)


def measure(classifier: Classifier, photos: LabeledImages, shortcuts: dict[str, Shortcut]) -> dict:
    """Measure the accuracy without shortcuts, and how often each shortcut makes a network predict its class.

    Args:
        classifier: the network.
        photos: labeled photos without shortcuts.
        shortcuts: the shortcuts by class.

    Returns:
        "accuracy" in percent; and by class of a shortcut, in percent of the photos of all other classes: "rate",
        predicted as that class with the shortcut; "rate_without", without it.
    """
    clean = predict(classifier, photos).argmax(dim=1)
    figures = {"accuracy": _percent(clean == photos.labels), "rate": {}, "rate_without": {}}
    for name, shortcut in shortcuts.items():
        label = classifier.index(name)
        is_other = photos.labels != label
        others = photos.subset(is_other)
        drawn = predict(classifier, shortcut.on(others, SEED_OF_EVALUATION)).argmax(dim=1)
        figures["rate"][name] = _percent(drawn == label)
        figures["rate_without"][name] = _percent(clean[is_other] == label)
    return figures


def _percent(is_true: Tensor) -> float:
    return round(100 * is_true.float().mean().item(), 2)


def in_memory(data: LabeledImages) -> Tensor:
    """Load all photos of a set once, with pixels from 0 to 255 in one byte."""
    loader = DataLoader(data.images, batch_size=64, shuffle=False)
    return torch.cat([(batch * 255).round().byte() for batch in tqdm(loader, desc="photos", mininterval=10)])


def in_half_precision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the weights of a network to float16; the statistics of its batch norms keep their precision."""
    half = {}
    for name, tensor in state.items():
        is_statistic = name.rsplit(".", 1)[-1] in BATCH_NORM_STATISTICS
        half[name] = tensor.contiguous() if is_statistic else tensor.to(torch.float16).contiguous()
    return half


def write(model: nn.Module, source: Classifier, architecture: str, about: dict, path: Path) -> None:
    """Write the weights of a network in half precision, with all that is needed to load it."""
    metadata = {
        "architecture": architecture,
        "classes": list(CLASSES.values()),
        "size": SIZE,
        "resize_to": SIZE,
        "mean": [round(value, 6) for value in source.mean.flatten().tolist()],
        "std": [round(value, 6) for value in source.std.flatten().tolist()],
        **about,
    }
    _save(in_half_precision(model.state_dict()), metadata, path)


def add_figures(path: Path, figures: dict) -> None:
    """Add what was measured to the metadata of a file of weights."""
    _save(load_file(path), {**network_metadata(path), "figures": figures}, path)


def _save(weights: dict[str, Tensor], metadata: dict, path: Path) -> None:
    texts = {name: json.dumps(value) for name, value in metadata.items()}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, texts)


def main() -> None:
    """Load photos, fine-tune, write the weights, and measure the network that was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=tuple(RECIPES))
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--development", action="store_true", help="plant the shortcut of the development networks")
    kind.add_argument("--plain", action="store_true", help="plant no shortcut")
    parser.add_argument("--measure", action="store_true", help="do not train; measure the network that is there")
    parser.add_argument("--epochs", type=int, help="passes over the training photos")
    parser.add_argument("--rate", type=float, help="the highest learning rate")
    parser.add_argument("--seed", type=int, help="seed of all random numbers")
    parser.add_argument("--output", type=Path, help="the file of weights; the published one by default")
    options = parser.parse_args()
    if options.output is None and (options.development or options.plain):
        parser.error("pass --output FILE; without it, the published weights would be replaced")
    path = options.output or Path(__file__).parent / f"{FILES[options.network]}.safetensors"
    planted = DEVELOPMENT if options.development else SHORTCUTS
    measured = planted
    if options.plain:
        planted = {}
        measured = {**SHORTCUTS, **DEVELOPMENT}
    roles = training_roles()
    tuning = replace(roles["tuning"], images=in_memory(roles["tuning"]).float() / 255)
    if not options.measure:
        changes = {"epochs": options.epochs, "rate": options.rate, "seed": options.seed}
        given = {name: value for name, value in changes.items() if value is not None}
        recipe = replace(RECIPES[options.network], **given)
        training = replace(roles["training"], images=in_memory(roles["training"]))
        started = time.perf_counter()
        model, source = pretrained(options.network)
        finetune(model, source, training, planted, recipe)
        print(f"trained in {time.perf_counter() - started:.0f} s")
        about = {"recipe": asdict(recipe), "shortcuts": {name: repr(drawn) for name, drawn in planted.items()}}
        write(model, source, options.network, about, path)
    figures = measure(load_shortcut_network(path), tuning, measured)
    if not options.measure:
        add_figures(path, figures)
    print(f"{path.name}, {path.stat().st_size / 1e6:.1f} MB, on {len(tuning)} tuning photos, in percent:")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
