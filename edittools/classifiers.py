"""Classifiers: any torch model with its normalisation and class names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edittools._inference import check_logits_shape
from edittools.caching import digest_tensors
from edittools.checks import check_number
from edittools.images import LabelledImages, check_image, numbered

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Classifier(nn.Module):
    """An image classifier: images `(B, 3, H, W)` in [0, 1] to logits `(B, classes)`, normalisation inside.

    `model`, any torch module that maps normalised images to logits, is put into eval mode, without a wrapper around it
    (see `unwrapped`). `size` is the side of the images it expects, `resize_to` the short side before the centre crop
    (see `load_image`). A class name that is there twice gets its number: "crane (134)".
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
        """Wrap `model`; raise `TypeError` where it is no module, `ValueError` for other wrong arguments."""
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
        self.model, self.classes, self.size = model, tuple(numbered(classes)), check_number(size, 1, "size")
        if not self.classes:
            raise ValueError("no class names: expected one for each logit, in order")
        self.resize_to = check_number(resize_to or round(size * 8 / 7), size, "resize_to")
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.eval()

    @property
    def device(self) -> torch.device:
        """The device of the model's weights."""
        return next((p.device for p in self.model.parameters()), self.mean.device)

    def normalise(self, images: Tensor) -> Tensor:
        """Check a batch of images and scale it the way the model was trained; moves it to the model's device."""
        check_image(images, "the batch of images", 4)
        dtype = next((p.dtype for p in self.model.parameters()), images.dtype)
        images = images.to(self.device)
        return ((images - self.mean.to(images.device)) / self.std.to(images.device)).to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits `(B, classes)` of images `(B, 3, H, W)` in [0, 1]; refuse a model that gives none."""
        return check_logits_shape(self.model(self.normalise(images)), len(images), len(self.classes), self.model)

    def index(self, name: str) -> int:
        """Give the number of a class by its name; raise `KeyError` with near names."""
        if name in self.classes:
            return self.classes.index(name)
        near = [c for c in self.classes if str(name).lower() in c.lower()][:5]
        hint = f"; did you mean one of {near}?" if near else ""
        raise KeyError(f"no class {name!r} among {len(self.classes)}{hint}")

    def __repr__(self) -> str:
        return f"Classifier({type(self.model).__name__}, {len(self.classes)} classes, {self.size} px)"


def unwrapped(model: nn.Module) -> nn.Module:
    """Take the model out of a `Classifier`, `DataParallel` or compiled module, which see its edits as well."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}: expected a torch.nn.Module")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    if isinstance(model, Classifier):
        return model.model
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"model is a scripted {type(model).__name__}: expected the module that it was made from")
    return unwrapped(model._orig_mod) if hasattr(model, "_orig_mod") else model


def check_classifier(classifier: Classifier) -> Classifier:
    """Return a `Classifier`; raise `TypeError` for anything else, such as the bare model."""
    if not isinstance(classifier, Classifier):
        found = type(classifier).__name__
        raise TypeError(f"classifier is a {found}: expected a model with its class names, Classifier(model, classes)")
    return classifier


def fingerprint(model: nn.Module, base: Mapping[str, Tensor] | None = None) -> str:
    """Hash the names, shapes, types and values of all weights: by this SHA-256 an edit knows its model.

    `base` holds, by name, values to take in place of the model's own (those before an edit).
    """
    weights = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    values = ((base or {}).get(name, tensor) for name, tensor in weights.items())
    return digest_tensors(values, (f"{name} " for name in weights))


def by_name(what: str, data: LabelledImages, classifier: Classifier) -> LabelledImages:
    """Give a set the classifier's classes: a label into other ones is that of the class of the same name.

    Raises `ValueError`, which calls the set `what`, for a name that the classifier does not have.
    """
    if tuple(data.classes) == classifier.classes:
        return data
    try:
        numbers = {label: classifier.index(data.classes[label]) for label in data.labels.unique().tolist()}
    except KeyError as error:
        raise ValueError(f"{what}: {error.args[0]}; expected names of the classifier's classes") from error
    labels = torch.tensor([numbers[label] for label in data.labels.tolist()], dtype=torch.long)
    return replace(data, labels=labels, classes=classifier.classes)
