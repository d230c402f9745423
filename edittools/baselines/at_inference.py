"""No weight is changed: each picture is read together with its mirror image, or the writing on it is blurred first.

Both are cheap answers to typographic attacks. A mirrored object is the same object, mirrored writing is
no word; this is the idea of MirrorCLIP (Wang et al., NeurIPS 2024), in its plainest form.
"""

from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from edittools.checks import check_amount
from edittools.classifiers import Classifier


class Mirrored(nn.Module):
    """The mean of a model's logits for each picture and for its mirror image."""

    def __init__(self, model: nn.Module) -> None:
        """Hold the model, which is not copied."""
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """The logits `(B, classes)` of normalised images `(B, 3, H, W)`."""
        return (self.model(images) + self.model(images.flip(-1))) / 2


def mirrored(classifier: Classifier) -> Classifier:
    """A classifier that reads each picture together with its mirror image; its weights are the same tensors.

    For a CLIP, whose logits are cosines, the class of the mean logits is that of the mean of both image features.
    """
    like = {"size": classifier.size, "resize_to": classifier.resize_to}
    mean, std = (part.flatten().tolist() for part in (classifier.mean, classifier.std))
    return Classifier(Mirrored(classifier.model), classifier.classes, mean, std, **like)


def blurred(images: Tensor, masks: Tensor, spread: float = 0.05) -> Tensor:
    """Blur images `(B, 3, H, W)` where `masks` `(B, H, W)` are 1, such as what a text detector gives.

    `spread` is the standard deviation of the Gaussian as a share of the shorter side. Raises `ValueError` for masks of
    another shape or a spread that is not above 0.
    """
    if masks.shape != (len(images), *images.shape[2:]):
        raise ValueError(f"masks of shape {tuple(masks.shape)}: expected {(len(images), *images.shape[2:])}")
    if not check_amount(spread, "spread") > 0:
        raise ValueError(f"spread {spread!r}: expected a share of the image's side above 0")
    sigma = spread * min(images.shape[2:])
    size = min(2 * round(3 * sigma) + 1, 2 * min(images.shape[2:]) - 1)
    mask = masks[:, None].to(images)
    return images + mask * (gaussian_blur(images, [size, size], [sigma, sigma]) - images)
