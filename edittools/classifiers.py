"""Classifiers: any torch model with its normalization and class names; their fingerprints, and labels by name."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edittools._checks import suggestion
from edittools._image_checks import check_image
from edittools._inference import eval_copy, logits_of, without_autocast
from edittools._storage import digest_tensors
from edittools.geometry import InputGeometry
from edittools.images import Images, LabeledImages, numbered, size_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET_SIZE = 224

MOST_IMAGES = 64
"""Images in a batch by default, unless they are large."""

MOST_PIXELS_ON_CPU = 8 * IMAGENET_SIZE**2
"""Pixels in a batch by default on a CPU.

The C library fetches the memory of larger tensors from the operating system each time, which takes longer than the
computation.
"""


class Classifier(nn.Module):
    """A torch model with its normalization and class names.

    It maps images `(B, 3, H, W)` in [0, 1] to logits `(B, classes)`.

    Args:
        model: any torch module that maps normalized images to logits, but not a `Classifier`. It is put into eval mode,
            and taken out of a wrapper such as `DataParallel`.
        classes: one name per logit, in order. A name that occurs more than once gets its number: "crane (134)".
        mean: mean of each color channel, which is subtracted from the image; by default ImageNet's.
        std: standard deviation of each color channel, by which the image is then divided; by default ImageNet's.
        size: side of the images that the model expects, in pixels; 224 by default.
        resize_to: short side of a photo before its center is cropped, in pixels, see `load_image`; `size * 8 / 7` by
            default.

    Raises:
        TypeError: if `model` is not a torch module, or if it is scripted or a `Classifier`.
        ValueError: if no class names are given, if the class names, a mean, a standard deviation, or a size are not
            valid, if the model was made under `torch.inference_mode()`, or if a batch norm keeps no running statistics.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        size: int = IMAGENET_SIZE,
        resize_to: int | None = None,
    ) -> None:
        super().__init__()
        inner = _without_wrappers(model)
        if isinstance(inner, Classifier):
            raise TypeError(
                f"the model is already a {inner}; use it as it is, or pass the classifier's .model with class names "
                "and settings"
            )
        model = unwrapped(inner)
        if any(parameter.is_inference() for parameter in model.parameters()):
            raise ValueError(
                f"the {type(model).__name__} was made under torch.inference_mode(), which forbids gradients; build or "
                "load it outside of it (torch.no_grad() is enough to run it)"
            )
        _check_batch_norms(model)
        if mean is None or std is None:
            raise ValueError(f"mean {mean} and std {std} do not fit; pass three numbers each, or leave them out")
        has_three = torch.as_tensor(mean).shape == (3,) and torch.as_tensor(std).shape == (3,)
        if not has_three or not all(deviation > 0 for deviation in std):
            raise ValueError(f"mean {mean} and std {std} do not fit; pass three numbers each, std above 0")
        if not all(value <= 1 for value in (*mean, *std)):
            raise ValueError(
                f"mean {tuple(mean)} and std {tuple(std)} are not those of images in [0, 1]; if they belong to pixels "
                "from 0 to 255, divide both by 255"
            )
        if isinstance(classes, str):
            raise ValueError(f"the class names are one text, {classes!r}; pass a sequence of names")
        if classes is None or not len(classes):
            raise ValueError("no class names were given; pass one per logit, in order")
        geometry = InputGeometry.of(size, resize_to)
        self.model = model
        self.classes = tuple(numbered(classes))
        self.size = geometry.size
        self.resize_to = geometry.resize_to
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.eval()

    @property
    def device(self) -> torch.device:
        """The device of the model's weights."""
        return next((parameter.device for parameter in self.model.parameters()), self.mean.device)

    def normalize(self, images: Tensor) -> Tensor:
        """Check a batch of images, move it to the model's device, and normalize it for the model.

        Args:
            images: `(B, 3, H, W)` in [0, 1].

        Returns:
            The images, normalized by `mean` and `std`, in the precision of the model's first floating-point weight.

        Raises:
            ValueError: if the images do not have this shape or range.
        """
        floating_types = (parameter.dtype for parameter in self.model.parameters() if parameter.is_floating_point())
        dtype = next(floating_types, images.dtype)
        return normalize_images(images, self.mean, self.std, self.device, dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits `(B, classes)` of images `(B, 3, H, W)` in [0, 1].

        Raises:
            ValueError: if the images do not fit, or if the model does not return one logit per class name.
        """
        return logits_of(self.model, self.normalize(images), len(self.classes))

    def index(self, name: str) -> int:
        """Return the index of a class by its name.

        Raises:
            KeyError: if there is no such class; the message suggests similar names.
        """
        if name in self.classes:
            return self.classes.index(name)
        remedy = suggestion(name, self.classes) or "see the classifier's .classes"
        raise KeyError(f"no class {name!r} among {len(self.classes)}; {remedy}")

    def __repr__(self) -> str:
        return f"Classifier({type(self.model).__name__}, {len(self.classes)} classes, {self.size} px)"


def _check_batch_norms(model: nn.Module) -> None:
    """Check that the batch norms of a model keep running statistics, so that predictions do not depend on the batch.

    Raises:
        ValueError: if one of them does not; the message names it.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"layer {name!r} ({type(module).__name__}) of {type(model).__name__} keeps no running statistics, so "
                "the prediction for an image depends on the other images of its batch; build the model with "
                "track_running_stats=True, and run training images through it in train mode once"
            )


def normalize_images(images: Tensor, mean: Tensor, std: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Check a batch of images `(B, 3, H, W)` in [0, 1], and normalize it; see `Classifier.normalize`."""
    check_image(images, "the batch of images", 4)
    return ((images.to(device) - mean.to(device)) / std.to(device)).to(dtype)


def usual_batch_size(classifier: Classifier) -> int:
    """Choose how many images to run at once: 64, but fewer large images on a CPU (8 of 224 pixels)."""
    if classifier.device.type != "cpu":
        return MOST_IMAGES
    return max(1, min(MOST_IMAGES, MOST_PIXELS_ON_CPU // classifier.size**2))


def _without_wrappers(model: nn.Module) -> nn.Module:
    """Take a model out of `DataParallel`, `DistributedDataParallel` and `torch.compile`."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _without_wrappers(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return model if compiled is None else _without_wrappers(compiled)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the bare model inside a `Classifier`, a `DataParallel`, or a compiled module, which share its weights.

    Raises:
        TypeError: if `model` is not a torch module, or if the bare model is scripted.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model is a {type(model).__name__}; pass a torch.nn.Module")
    model = _without_wrappers(model)
    if isinstance(model, Classifier):
        return unwrapped(model.model)
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"the model is a scripted {type(model).__name__}; pass the module that it was made from")
    return model


def check_classifier(classifier: Classifier) -> Classifier:
    """Return the argument if it is a `Classifier`.

    Raises:
        TypeError: if it is anything else, such as a model without class names.
    """
    if not isinstance(classifier, Classifier):
        name = type(classifier).__name__
        raise TypeError(f"the classifier is a {name}; give it class names, Classifier(model, classes)")
    return classifier


def check_size(what: str, images: Images, classifier: Classifier) -> None:
    """Check that images have the size of a classifier's input.

    Args:
        what: name of the images, used in the error message.
        images: the images; an empty set fits any size.

    Raises:
        ValueError: if they have another size.
    """
    size = size_of(images)
    if size not in (None, (classifier.size, classifier.size)):
        raise ValueError(
            f"{what}: images of {size} pixels do not fit a classifier of {(classifier.size, classifier.size)}; load "
            f"images with load_image(path, classifier), and resize an exemplar with exemplar.sized({classifier.size})"
        )


def fingerprint(model: nn.Module, base: Mapping[str, Tensor] | None = None) -> str:
    """Compute the SHA-256 of what identifies a classifier, or the weights of a bare model.

    For a bare model, these are the names, shapes, types, and values of all weights, by which an edit recognizes its
    model. For a `Classifier`, it is everything that its predictions depend on: weights, buffers that are not saved with
    them, preprocessing, class names, and modules as torch prints them. Other differences, such as a hook or another
    forward pass, change the logits of two images, and three coarse statistics of these are hashed as well.

    Args:
        model: the classifier, or a bare model.
        base: values, by name, that replace weights of a bare model, such as the values before an edit.

    Returns:
        The hash, in hexadecimal digits.
    """
    if isinstance(model, Classifier):
        parts = (
            fingerprint(model.model),
            fingerprint_beside_weights(model),
            f"{model.classes} {model.size} {model.resize_to}",
            str(model.model),
            _logit_statistics(model),
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    weights = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    values = [(base or {}).get(name, tensor) for name, tensor in weights.items()]
    return digest_tensors(values, [f"{name} " for name in weights])


def normalization_of(model: nn.Module) -> str | None:
    """Describe the normalization of a classifier, "mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225)".

    Returns:
        The description, or None for a bare model, which does not normalize.
    """
    classifier = _without_wrappers(model)
    if not isinstance(classifier, Classifier):
        return None
    mean = ", ".join(f"{value:.3g}" for value in classifier.mean.flatten().tolist())
    std = ", ".join(f"{value:.3g}" for value in classifier.std.flatten().tolist())
    return f"mean ({mean}) and std ({std})"


def fingerprint_beside_weights(classifier: Classifier, weights: Mapping[str, Tensor] | None = None) -> str:
    """Hash what the fingerprint of the bare model leaves out: buffers that are not saved, and the normalization.

    Args:
        weights: a copy of its parameters and buffers, by name; by default, those that it has now.
    """
    saved = classifier.model.state_dict()
    tensors = dict(classifier.model.named_buffers()) if weights is None else weights
    names = [name for name, _ in classifier.model.named_buffers() if name not in saved]
    buffers = {name: tensors[name] for name in names}
    normalization = f"{classifier.mean.flatten().tolist()} {classifier.std.flatten().tolist()}"
    content = f"{digest_tensors(buffers.values(), buffers)} {normalization}"
    return hashlib.sha256(content.encode()).hexdigest()


@torch.no_grad()
@without_autocast()
def _logit_statistics(classifier: Classifier) -> str:
    """Summarize the logits of two images by three numbers, so coarse that rounding errors hardly ever show."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, classifier.size, classifier.size, generator=generator)
    answer = eval_copy(classifier.model)(classifier.normalize(images))
    logits = getattr(answer, "logits", answer).float()
    spread = float(logits.std())
    mean = round(float(logits.mean()) / max(spread, 1e-12), 2)
    return f"{mean + 0.0:.2f} {spread:.2e} {float(logits.abs().max()):.2e}"


def remap_labels(what: str, data: LabeledImages, classifier: Classifier) -> LabeledImages:
    """Map labels to the classifier's class indices by class name.

    Args:
        what: name of the set, used in error messages.
        data: images with labels into `data.classes`.
        classifier: the classifier whose class indices are wanted.

    Returns:
        The images with labels into `classifier.classes`.

    Raises:
        TypeError: if the images have no labels.
        ValueError: if the class name of a label is not among `classifier.classes`.
    """
    if not isinstance(data, LabeledImages):
        raise TypeError(f"{what}: a {type(data).__name__} has no labels; pass LabeledImages(images, labels, classes)")
    if tuple(data.classes) == classifier.classes:
        return data
    indices = {}
    for label in data.labels.unique().tolist():
        try:
            indices[label] = classifier.index(data.classes[label])
        except KeyError as error:
            raise ValueError(f"{what}: {error.args[0]}; use the names of the classifier's classes") from error
    labels = torch.tensor([indices[label] for label in data.labels.tolist()], dtype=torch.long)
    return replace(data, labels=labels, classes=classifier.classes)
