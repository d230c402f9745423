"""Networks that tell melanomas from benign lesions, each with a twin that never saw a photo with a sticker."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from _lib.skin_photos import CLASSES, SIZE, labels_of, photos, pixels_of
from edittools._storage import atomic_path
from edittools.classifiers import Classifier
from edittools.models import load_classifier
from edittools_course.networks.finetuned import build_network

BATCH = 32
"""The number of photos in a batch."""

SHIFT = 12
"""The largest shift of a photo in training, in pixels."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: all weights, by AdamW with a one-cycle learning rate.

    Attributes:
        epochs: the number of passes over the training photos.
        rate: the highest learning rate.
        decay: the weight decay.
    """

    epochs: int
    rate: float
    decay: float = 0.01


RECIPES = {"squeezenet1_1": Recipe(epochs=14, rate=3e-4), "efficientnet_lite0": Recipe(epochs=10, rate=1e-3)}
"""The recipe of each architecture, selected by the AUC on photos of the development."""


class Network(NamedTuple):
    """A network that is trained on all folds but one.

    Attributes:
        architecture: the name of the architecture, whose ImageNet weights it starts from.
        fold: the fold that is held out, which is also the seed of the training.
        is_twin: whether photos with a sticker are left out in training.
    """

    architecture: str
    fold: int
    is_twin: bool = False

    @property
    def name(self) -> str:
        """The name of the network, and of its file."""
        return f"{self.architecture}_{self.fold}{'_twin' if self.is_twin else ''}"

    @property
    def twin(self) -> "Network":
        """The twin of the network."""
        return self._replace(is_twin=True)


def training_photos(network: Network, folds: Sequence[Sequence[str]]) -> list[str]:
    """List the photos that a network is trained on."""
    names = [name for number, fold in enumerate(folds) if number != network.fold for name in fold]
    has_sticker = photos().sticker[names].to_numpy() == 1
    return [name for name, left_out in zip(names, has_sticker & network.is_twin, strict=True) if not left_out]


def trained(folder: Path, network: Network, folds: Sequence[Sequence[str]], recipe: Recipe) -> Classifier:
    """Load a network; train it if its file is not there.

    Args:
        folder: the folder of the files.
        network: the network.
        folds: the photos of each fold.
        recipe: how it is trained.
    """
    path = folder / f"{network.name}.safetensors"
    if not path.exists():
        names = training_photos(network, folds)
        model = _finetuned(network, pixels_of(names), labels_of(names), recipe)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            save_file(weights, temporary, {"recipe": json.dumps(asdict(recipe))})
    model = build_network(network.architecture, len(CLASSES))
    model.load_state_dict(load_file(path))
    return _classifier(network.architecture, model).to(memory_format=torch.channels_last)


def _classifier(architecture: str, model: nn.Module) -> Classifier:
    """Wrap a network, with the normalization of its ImageNet weights."""
    source = load_classifier(architecture)
    return Classifier(model, CLASSES, source.mean.flatten().tolist(), source.std.flatten().tolist(), size=SIZE)


def _pretrained(architecture: str) -> nn.Module:
    """Build a network with ImageNet weights and a new last layer."""
    model = build_network(architecture, len(CLASSES))
    weights = model.state_dict()
    for name, tensor in load_classifier(architecture).model.state_dict().items():
        if tensor.shape == weights[name].shape:
            weights[name] = tensor
    model.load_state_dict(weights)
    return model


def _finetuned(network: Network, images: Tensor, labels: Tensor, recipe: Recipe) -> nn.Module:
    """Train a network; the two classes have equal weight, and photos are flipped, turned, and shifted at random."""
    torch.manual_seed(network.fold)
    generator = torch.Generator().manual_seed(network.fold)
    model = _pretrained(network.architecture).train().to(memory_format=torch.channels_last)
    classifier = _classifier(network.architecture, model)
    model.requires_grad_(True)
    model.train()
    weight = len(labels) / (2 * labels.bincount().float())
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    steps = recipe.epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    for _ in range(recipe.epochs):
        order = torch.randperm(len(images), generator=generator)
        for members in order[: len(order) // BATCH * BATCH].split(BATCH):
            shown = torch.stack([_moved(image, generator) for image in images[members]])
            inputs = classifier.normalize(shown).contiguous(memory_format=torch.channels_last)
            loss = cross_entropy(model(inputs), labels[members], weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval().to(memory_format=torch.contiguous_format)


def _moved(image: Tensor, generator: torch.Generator) -> Tensor:
    """Turn an image by a multiple of 90°, flip it, and shift it, at random; its border is repeated."""
    turns, flips = torch.randint(4, (2,), generator=generator).tolist()
    turned = image.rot90(turns, (1, 2))
    if flips % 2:
        turned = turned.flip(2)
    top, left = torch.randint(2 * SHIFT + 1, (2,), generator=generator).tolist()
    padded = torch.nn.functional.pad(turned[None], (SHIFT,) * 4, mode="replicate")[0]
    return padded[:, top : top + image.shape[1], left : left + image.shape[2]]
