"""Classifiers by name, with their weights."""

import difflib
import os
from collections.abc import Callable
from typing import Any

import torch

from edittools.classifiers import Classifier
from edittools.zoo.embedded import load_mini, load_mini_clip
from edittools.zoo.imagenet import load_efficientnet_lite, load_places365, load_squeezenet, load_torchvision
from edittools.zoo.zero_shot import load_clip

ZOO: dict[str, Callable[..., Classifier]] = {
    **dict.fromkeys(("mini_vgg", "mini_resnet", "mini_vit", "mini_vgg_balanced"), load_mini),
    "mini_clip": load_mini_clip,
    "clip_rn50": load_clip,
    **dict.fromkeys(("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"), load_efficientnet_lite),
    "squeezenet1_1": load_squeezenet,
    **dict.fromkeys(("vgg16", "vgg16_bn", "resnet18", "resnet50"), load_torchvision),
    "resnet18_places365": load_places365,
}


def current_device() -> torch.device:
    """Return the device that `EDITTOOLS_DEVICE` names ("cpu" by default); `ValueError` for one that is not here."""
    name = os.environ.get("EDITTOOLS_DEVICE") or "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"EDITTOOLS_DEVICE={name!r}: expected a device that is here, such as 'cpu'") from error
    return device


def load_classifier(name: str, device: str | torch.device | None = None, **options: Any) -> Classifier:
    """Load a classifier of the zoo by name, with its weights, in eval mode on `device` (`current_device` by default).

    Raises `KeyError` for an unknown name (it lists the known ones) and `FileNotFoundError` when weights are neither
    here nor to be downloaded; the message says which file, from where, and the ways out. `options` go to the loader:
    `resnet18_places365` and `clip_rn50` take `weights=` (a local file), the CLIPs `class_names=` and `progress=`.
    """
    if name not in ZOO:
        near = difflib.get_close_matches(str(name), ZOO, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise KeyError(f"no classifier {name!r}; {hint}known: {', '.join(ZOO)}. Your own: Classifier(model, classes)")
    device = torch.device(current_device() if device is None else device)
    classifier = ZOO[name](name, **options).to(device)
    if device.type == "cpu":  # pooling and convolutions take up to half the time with the channels last
        classifier.to(memory_format=torch.channels_last)
    return classifier
