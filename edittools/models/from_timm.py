"""Load models of timm, and check that a `Classifier` prepares images as timm does."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from edittools._checks import extra, suggestion
from edittools.classifiers import Classifier
from edittools.geometry import InputGeometry
from edittools.models.imagenet import imagenet_classes

PREPROCESSING_TOLERANCE = 0.012
"""How much a model's own preprocessing of a photo may differ from ours: root mean square, for pixels in [0, 1].

For the photo of `_waves`, another interpolation differs by up to 0.011, and an input that is moved by one of its 224
pixels by 0.02.
"""


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
    if not folder.is_dir():
        architecture = name.partition(".")[0]
        if ":" not in name and not timm.is_model(architecture):
            remedy = suggestion(architecture, timm.list_models()) or (
                "pass one of timm.list_models(), or a folder in which timm has saved a model"
            )
            raise KeyError(f"timm has no model {name!r}; {remedy}")
        _check_hub(f"timm:{name}", _timm_repository(name))
    model = timm.create_model(f"local-dir:{folder}" if folder.is_dir() else name, pretrained=True)
    config = timm.data.resolve_model_data_config(model)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise ValueError(
            f"timm:{name} takes images of {channels} channels and {height} × {width} pixels; pass a model of square "
            "images with 3 channels"
        )
    classes = model.pretrained_cfg.get("label_names") or _class_names(model.num_classes)
    resize_to = math.floor(height / config["crop_pct"])
    classifier = Classifier(model, classes, config["mean"], config["std"], height, resize_to)
    settings = f"crop_mode {config['crop_mode']!r}, crop_pct {config['crop_pct']}"
    transform = timm.data.create_transform(**config, is_training=False)
    _check_preprocessing(f"timm:{name}", settings, transform, classifier)
    return classifier


def _timm_repository(name: str) -> str | None:
    """Return the name on the Hugging Face hub of a model of timm; None if it is not there."""
    import timm

    library, _, repository = name.partition(":")
    if library in ("hf-hub", "hf_hub"):
        return repository
    config = timm.get_pretrained_cfg(name)
    return None if config is None else config.hf_hub_id


def _check_hub(source: str, repository: str | None) -> None:
    """Check that a model is in the cache of the Hugging Face hub, or that the hub can be reached.

    Without this check, timm tries to connect for a minute.

    Raises:
        FileNotFoundError: if neither is the case.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import get_session

    if repository is None:
        return
    folder = repo_folder_name(repo_id=repository.partition("@")[0], repo_type="model")
    if any(Path(constants.HF_HUB_CACHE, folder).glob("snapshots/*/*")):
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as error:  # versions of the hub's client differ in the exceptions that they raise
        raise FileNotFoundError(
            f"{source} is not on this machine, and {constants.ENDPOINT} cannot be reached ({error}); connect to a "
            "network, or pass the path of a folder that holds the model"
        ) from None


def _check_preprocessing(
    source: str, settings: str, prepare: Callable[[Image.Image], Tensor], classifier: Classifier
) -> None:
    """Compare a model's own preprocessing of a photo with that of its `Classifier`.

    Args:
        source: the model as on the command line, for the error message.
        settings: the model's own settings, for the error message.
        prepare: the model's own preprocessing, from a photo to the input `(3, H, W)` of the model.

    Raises:
        ValueError: if the inputs differ by more than `PREPROCESSING_TOLERANCE`.
    """
    photo = _waves()
    own = prepare(photo)
    pixels = to_tensor(InputGeometry.of(classifier).crop(photo, Image.Resampling.BICUBIC))
    ours = classifier.normalize(pixels[None])[0]
    if own.shape == ours.shape:
        difference = float(((own - ours) * classifier.std).square().mean().sqrt())
        if difference <= PREPROCESSING_TOLERANCE:
            return
        found = f"differ by {difference:.3f} (root mean square; at most {PREPROCESSING_TOLERANCE} is allowed)"
    else:
        found = f"have the shapes {tuple(own.shape)} and {tuple(ours.shape)}"
    raise ValueError(
        f"{source} prepares a photo in its own way ({settings}), a Classifier in another: it resizes the short side to "
        f"{classifier.resize_to} pixels and crops {classifier.size} × {classifier.size}. For a photo of 300 × 400 "
        f"pixels, the inputs {found}. To use the model with the Classifier's way, return Classifier(model, classes, "
        "mean, std, size, resize_to) from a function, and pass FILE.py:FUNCTION"
    )


def _waves() -> Image.Image:
    """Make a photo of 300 × 400 pixels whose channels are smooth waves in different directions."""
    row = np.arange(300)[:, None]
    column = np.arange(400)[None]
    turns = np.stack([column / 90 + row / 400, row / 80 - column / 500, column / 140 + row / 110], axis=2)
    return Image.fromarray(np.round(127.5 + 127.5 * np.sin(2 * np.pi * turns)).astype(np.uint8))


def _class_names(count: int) -> list[str]:
    """Return the class names of ImageNet for a thousand classes; otherwise name classes by their numbers."""
    return list(imagenet_classes()) if count == 1000 else [f"class {number}" for number in range(count)]
