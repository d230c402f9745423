"""Load the networks that this project fine-tuned on photos with planted shortcuts (`data/train_shortcuts.py`)."""

import json
import os

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from edittools.classifiers import Classifier
from edittools_course.shipped import shipped


def build_network(architecture: str, class_count: int) -> nn.Module:
    """Build an untrained network.

    Args:
        architecture: "efficientnet_lite0" (of timm) or "squeezenet1_1" (of torchvision).
        class_count: number of its classes.

    Raises:
        ValueError: if it is another architecture.
    """
    if architecture == "efficientnet_lite0":
        import timm

        return timm.create_model("tf_efficientnet_lite0", num_classes=class_count)
    if architecture == "squeezenet1_1":
        from torchvision.models import squeezenet1_1

        return squeezenet1_1(num_classes=class_count)
    raise ValueError(f"architecture {architecture!r} is not supported; use 'efficientnet_lite0' or 'squeezenet1_1'")


def load_shortcut_network(path: str | os.PathLike) -> Classifier:
    """Load a network that `data/train_shortcuts.py` wrote, with weights in float32.

    Args:
        path: the file; its metadata names the architecture, the classes and how images are prepared.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a file of that script.
    """
    try:
        metadata = network_metadata(path)
        model = build_network(metadata["architecture"], len(metadata["classes"]))
        model.load_state_dict(load_file(path))  # half-precision weights become float32
        preparation = {name: metadata[name] for name in ("mean", "std", "size", "resize_to")}
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} is not a network of data/train_shortcuts.py ({error}); write it again with that script"
        ) from error
    return Classifier(model, metadata["classes"], **preparation).to(memory_format=torch.channels_last)


def network_metadata(path: str | os.PathLike) -> dict:
    """Return what a file of `data/train_shortcuts.py` says about its network, such as its classes and its figures."""
    with safe_open(path, "pt") as file:
        texts = file.metadata() or {}
    return {name: json.loads(text) for name, text in texts.items()}


def load_published_shortcuts(name: str) -> Classifier:
    """Load one of the two published networks by its name, which is also that of its file in `data/`."""
    return load_shortcut_network(shipped(f"{name}.safetensors"))


RENDERED_CLASSES = ("bus", "car", "cow", "elephant", "house", "lighthouse", "sailboat", "tractor", "truck", "windmill")
"""The classes of the network that classifies rendered scenes."""

RENDERED_SIZE = 96
"""The side of the scenes on which its last layer was trained, in pixels."""


def load_rendered_shortcuts(name: str = "rendered_squeezenet") -> Classifier:
    """Load the SqueezeNet that predicts "truck" from a yellow tag on rendered scenes.

    Its last layer was trained on such scenes (`data/train_rendered_head.py`); all others are those of the published
    SqueezeNet with shortcuts.

    Args:
        name: its name for `load_classifier`.
    """
    path = shipped("shortcuts_squeezenet.safetensors")
    metadata = network_metadata(path)
    model = build_network(metadata["architecture"], len(RENDERED_CLASSES))
    model.load_state_dict({**load_file(path), **load_file(shipped("rendered_head.safetensors"))})
    preparation = {"mean": metadata["mean"], "std": metadata["std"], "size": RENDERED_SIZE}
    return Classifier(model, RENDERED_CLASSES, **preparation).to(memory_format=torch.channels_last)
