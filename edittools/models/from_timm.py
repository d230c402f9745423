"""Load models of timm whose images a `Classifier` prepares as timm does."""

import math
from pathlib import Path

from edittools._checks import extra, suggestion
from edittools.classifiers import Classifier
from edittools.models.imagenet import imagenet_classes


def load_timm(name: str) -> Classifier:
    """Load a model of timm with its weights, by name or from a folder in which timm has saved one.

    Raises:
        KeyError: if timm has no model of that name.
        FileNotFoundError: if the weights are neither on this machine nor can be downloaded.
        ModuleNotFoundError: if timm is not installed.
        ValueError: if the model comes with preprocessing that a `Classifier` does not have, such as resizing without
            keeping proportions.
    """
    with extra("models", "notebooks"):
        import timm
    folder = Path(name).expanduser()
    architecture = name.partition(".")[0]
    if not folder.is_dir() and ":" not in name and not timm.is_model(architecture):
        remedy = suggestion(architecture, timm.list_models()) or (
            "pass one of timm.list_models(), or a folder in which timm has saved a model"
        )
        raise KeyError(f"timm has no model {name!r}; {remedy}")
    model = timm.create_model(f"local-dir:{folder}" if folder.is_dir() else name, pretrained=True)
    config = timm.data.resolve_model_data_config(model)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise ValueError(
            f"timm:{name} takes images of {channels} channels and {height} × {width} pixels; pass a model of square "
            "images with 3 channels"
        )
    if config["crop_mode"] != "center":
        raise ValueError(
            f"timm:{name} prepares a photo in its own way (crop_mode {config['crop_mode']!r}), but a Classifier "
            "resizes its short side and crops the center. To use the model in this way, return "
            "Classifier(model, classes, mean, std, size, resize_to) from a function, and pass FILE.py:FUNCTION"
        )
    classes = model.pretrained_cfg.get("label_names") or _class_names(model.num_classes)
    resize_to = math.floor(height / config["crop_pct"])
    return Classifier(model, classes, config["mean"], config["std"], height, resize_to)


def _class_names(count: int) -> list[str]:
    """Return the class names of ImageNet for a thousand classes; otherwise name classes by their numbers."""
    return list(imagenet_classes()) if count == 1000 else [f"class {number}" for number in range(count)]
