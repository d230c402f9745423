"""Load classifiers by name, with their weights."""

import importlib
import os
from collections.abc import Callable
from typing import Any

import torch

from edittools._checks import extra
from edittools._progress import Progress
from edittools.classifiers import Classifier
from edittools.models.zoo import ZOO, check_name


def current_device() -> torch.device:
    """Return the device that `EDITTOOLS_DEVICE` names, "cpu" by default.

    Raises:
        ValueError: if there is no such device on this machine.
    """
    name = os.environ.get("EDITTOOLS_DEVICE") or "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"EDITTOOLS_DEVICE={name!r} is not available on this machine; set it to a device that is, such as 'cpu'"
        ) from error
    return device


def load_classifier(
    name: str,
    device: str | torch.device | None = None,
    *,
    weights: str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """Load a classifier by name, with its weights, in eval mode.

    Args:
        name: one of `ZOO`.
        device: where it is loaded; `current_device` by default.
        weights: a local file of weights, for "resnet18_places365" and "clip_rn50".
        progress: a class like `tqdm.tqdm`, for a bar while embedding the class names, for "mini_clip" and "clip_rn50".

    Raises:
        KeyError: if there is no classifier of that name.
        TypeError: if the classifier does not take one of the arguments.
        FileNotFoundError: if the weights are not on this machine and cannot be downloaded. The message names the file,
            its address, and a remedy.
    """
    check_name(name)
    options: dict[str, Any] = {}
    if weights is not None:
        options["weights"] = weights
    if progress is not None:
        options["progress"] = progress
    device = torch.device(current_device() if device is None else device)
    classifier = loader_of(name)(name, **options).to(device)
    if device.type == "cpu":  # pooling and convolutions take up to half the time with the channels last
        classifier.to(memory_format=torch.channels_last)
    return classifier


def loader_of(name: str) -> Callable[..., Classifier]:
    """Return the function that loads a classifier; import its module if `ZOO` names it by text."""
    loader = ZOO[name]
    if isinstance(loader, str):
        module, _, function = loader.partition(":")
        with extra("models", "notebooks"):
            loader = getattr(importlib.import_module(module), function)
    return loader
