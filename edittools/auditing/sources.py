"""Load a classifier by a name that can be written on the command line."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edittools._checks import extra
from edittools.classifiers import IMAGENET_MEAN, IMAGENET_STD, Classifier
from edittools.models.imagenet import imagenet_classes
from edittools.models.load import current_device, load_classifier


def load_model(source: str, device: str | torch.device | None = None) -> Classifier:
    """Load a classifier by name, from another library, or from a Python file.

    Args:
        source: one of
            a name of `edittools.models`, such as "efficientnet_lite0";
            "timm:NAME", a model of timm, or a folder in which timm has saved one;
            "hf:NAME", a model of transformers on the hub, or a folder in which transformers has saved one;
            "FILE.py:FUNCTION", a function without arguments that returns a `Classifier`, or a torch module and its
            class names.
        device: device on which it is loaded; by default that of `EDITTOOLS_DEVICE`.

    Returns:
        The classifier.

    Raises:
        KeyError: if there is no classifier of that name.
        FileNotFoundError: if there is no such file, or if weights are not available.
        ModuleNotFoundError: if timm or transformers is needed and not installed.
        TypeError: if the function returns something else.
        ValueError: if no classifier can be made from `source`.
    """
    library, _, name = source.partition(":")
    path, _, function = source.rpartition(":")
    device = torch.device(current_device() if device is None else device)
    if library == "timm" and name:
        classifier = _from_timm(name)
    elif library == "hf" and name:
        classifier = _from_transformers(name)
    elif path.endswith(".py"):
        classifier = _from_file(Path(path).expanduser(), function)
    else:
        return load_classifier(source, device)
    return classifier.to(device)


def _from_timm(name: str) -> Classifier:
    """Load a model of timm with its weights, by name or from a folder."""
    with extra("auditing", "scenarios"):
        import timm
    folder = Path(name).expanduser()
    model = timm.create_model(f"local-dir:{folder}" if folder.is_dir() else name, pretrained=True)
    config = timm.data.resolve_model_data_config(model)
    height, width = config["input_size"][1:]
    if height != width:
        raise ValueError(f"timm:{name} takes images of {height} × {width} pixels; pass a model of square images")
    classes = model.pretrained_cfg.get("label_names") or _class_names(model.num_classes)
    resize_to = round(height / config["crop_pct"])
    return Classifier(model, classes, config["mean"], config["std"], height, resize_to)


def _from_transformers(name: str) -> Classifier:
    """Load an image classifier of transformers with its weights, which must be safetensors."""
    with extra("auditing", "segmentation"):
        from transformers import AutoImageProcessor, AutoModelForImageClassification
    folder = Path(name).expanduser()
    address = str(folder) if folder.is_dir() else name
    model = AutoModelForImageClassification.from_pretrained(address, use_safetensors=True)
    processor = AutoImageProcessor.from_pretrained(address)
    size, resize_to = _size_of(processor, name)
    labels = model.config.id2label
    classes = [str(labels[number]) for number in sorted(labels)]
    normalizes = getattr(processor, "do_normalize", True)
    mean = processor.image_mean if normalizes else (0.0,) * 3
    std = processor.image_std if normalizes else (1.0,) * 3
    return Classifier(model, classes, mean or IMAGENET_MEAN, std or IMAGENET_STD, size, resize_to)


def _size_of(processor: Any, name: str) -> tuple[int, int]:
    """Read the side of the input and the short side before the crop from an image processor, in pixels."""
    size = dict(processor.size)
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else {}
    resize_to = size.get("shortest_edge") or size.get("height")
    if resize_to is None or crop.get("height") != crop.get("width") or size.get("height") != size.get("width"):
        raise ValueError(f"hf:{name} resizes images to {size} and crops them to {crop}; pass a model of square images")
    return crop.get("height") or resize_to, resize_to


def _from_file(path: Path, function: str) -> Classifier:
    """Call a function of a Python file."""
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} is not a file; pass FILE.py:FUNCTION")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
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


def _class_names(count: int) -> list[str]:
    """Return the class names of ImageNet for a thousand classes; otherwise name classes by their numbers."""
    return list(imagenet_classes()) if count == 1000 else [f"class {number}" for number in range(count)]
