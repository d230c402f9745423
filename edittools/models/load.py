"""Load classifiers by name, from timm, or from a Python file."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edittools._checks import extra
from edittools._progress import Progress
from edittools.classifiers import Classifier
from edittools.models.zoo import FILE, NAME, TIMM, ZOO, parse_source


def current_device() -> torch.device:
    """Return the device that `EDITTOOLS_DEVICE` names, "cpu" by default.

    Raises:
        ValueError: if there is no such device on this machine.
    """
    return _available_device(os.environ.get("EDITTOOLS_DEVICE") or "cpu", "EDITTOOLS_DEVICE")


def _available_device(name: str | torch.device, argument: str) -> torch.device:
    """Return a device after a check that it exists on this machine; the argument is named in the error message."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        available = ["cpu"]
        if torch.cuda.is_available():
            available += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        if torch.backends.mps.is_available():
            available.append("mps")
        raise ValueError(
            f"{argument}={str(name)!r} is not available on this machine, which has: {', '.join(available)}"
        ) from None
    return device


def load_classifier(
    source: str,
    device: str | torch.device | None = None,
    *,
    weights: str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """Load a classifier by name, from timm, or from a Python file, in eval mode.

    Args:
        source: one of
            a name of `ZOO`, such as "efficientnet_lite0";
            "timm:NAME", a model of timm, or a folder in which timm has saved one;
            "FILE.py:FUNCTION", a function without arguments that returns a `Classifier`, or a torch module and its
            class names. The file can import modules next to it, as a script can.
        device: where it is loaded; `current_device` by default.
        weights: a local file of weights, for "resnet18_places365" and "clip_rn50".
        progress: a class like `tqdm.tqdm`, for a bar while embedding the class names, for "mini_clip" and "clip_rn50".

    Raises:
        KeyError: if there is no classifier, or no model of timm, of that name.
        FileNotFoundError: if there is no such file, or if the weights are not on this machine and cannot be downloaded.
            The message names the file, its address, and a remedy.
        TypeError: if the classifier does not take one of the arguments, or if a function returns something else.
        ValueError: if the file has no such function, or if a model of timm comes with preprocessing that a `Classifier`
            does not have.
    """
    parsed = parse_source(source)
    device = current_device() if device is None else _available_device(device, "device")
    options: dict[str, Any] = {}
    if weights is not None:
        options["weights"] = weights
    if progress is not None:
        options["progress"] = progress
    load: Callable[..., Classifier]
    if parsed.kind == TIMM:
        from edittools.models.from_timm import load_timm

        load = partial(load_timm, parsed.name)
    elif parsed.kind == FILE:
        load = partial(_load_from_file, Path(parsed.name).expanduser(), parsed.function)
    else:
        load = partial(loader_of(parsed.name), parsed.name)
    classifier = load(**options).to(device)
    if device.type == "cpu" and parsed.kind == NAME:  # pooling and convolutions take up to half the time
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


def _load_from_file(path: Path, function: str) -> Classifier:
    """Call a function of a Python file."""
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    with _importable(path.parent):
        specification.loader.exec_module(module)
        if not hasattr(module, function):
            raise ValueError(f"{str(path)!r} has no function {function!r}; pass FILE.py:FUNCTION")
        made = getattr(module, function)()
    if isinstance(made, Classifier):
        return made
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return Classifier(*made)
    raise TypeError(
        f"{function}() of {str(path)!r} returned a {type(made).__name__}; return a Classifier, or a torch module and "
        "its class names"
    )


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Make the modules of a folder importable, as Python does for the folder of a script."""
    path = str(folder.resolve())
    sys.path.insert(0, path)
    try:
        yield
    finally:
        sys.path.remove(path)
