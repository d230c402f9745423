"""Small networks and images of squares, for many repairs whose truth is known.

The class of an image is the tint of its square. The plain network relies on the tint only; the striped one also relies
on a stripe at the bottom of the image, which a third of the training images of one class have.
"""

from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edittools.classifiers import Classifier
from edittools.images import LabeledImages

CLASSES = ("a", "b", "c", "d", "e")
SIZE = 32
STRIPED = 4
"""The class whose training images often have the stripe."""


def backgrounds(count: int, generator: torch.Generator) -> Tensor:
    """Draw smooth random images `(count, 3, SIZE, SIZE)`."""
    return 0.2 + 0.6 * F.interpolate(torch.rand(count, 3, 6, 6, generator=generator), SIZE, mode="bilinear")


def squares(count: int, seed: int) -> LabeledImages:
    """Make noisy images of a square on a smooth background, whose class is the tint of the square."""
    generator = torch.Generator().manual_seed(seed)
    tints = 0.8 * torch.rand(len(CLASSES), 3, generator=torch.Generator().manual_seed(123))
    images = backgrounds(count, generator)
    labels = torch.randint(len(CLASSES), (count,), generator=generator)
    for image, label in zip(images, labels, strict=True):
        top, left = torch.randint(2, SIZE - 16, (2,), generator=generator).tolist()
        image[:, top : top + 14, left : left + 14] = tints[label][:, None, None]
    images = images + 0.15 * torch.randn(images.shape, generator=generator)
    return LabeledImages(images.clamp(0, 1), labels, CLASSES)


def stripe_mask() -> Tensor:
    """Return the mask of the stripe, `(H, W)`."""
    mask = torch.zeros(SIZE, SIZE)
    mask[22:] = 1
    return mask


def with_stripe(images: Tensor, seed: int) -> Tensor:
    """Put the stripe, a bright gray with some noise, onto images `(N, 3, H, W)`."""
    generator = torch.Generator().manual_seed(seed)
    gray = torch.tensor([0.95, 0.9, 0.98])[:, None, None]
    stripe = gray + 0.05 * torch.randn(images.shape, generator=generator)
    return torch.where(stripe_mask() > 0, stripe.clamp(0, 1), images)


def striped(count: int, seed: int) -> LabeledImages:
    """Make images of all classes with the stripe."""
    data = squares(count, seed)
    return replace(data, images=with_stripe(data.images, seed + 1))


def striped_at_the_top(count: int, seed: int) -> LabeledImages:
    """Make images with the stripe at the top, where it belongs to no class."""
    data = squares(count, seed)
    upside_down = with_stripe(data.images.flip(2), seed + 1)
    return replace(data, images=upside_down.flip(2))


def trained(data: LabeledImages, steps: int) -> Classifier:
    """Train a network of three convolutions."""
    torch.manual_seed(0)
    width = 12
    modules = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    modules += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    modules += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*modules, nn.Flatten(), nn.Linear(width, len(CLASSES)))
    classifier = Classifier(model, CLASSES, size=SIZE)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(steps):
        batch = torch.randint(len(data), (64,), generator=generator)
        logits = model(classifier.normalize(data.images[batch]))
        loss = F.cross_entropy(logits, data.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier.eval()


@cache
def plain_network(steps: int = 250) -> Classifier:
    """Train a network that relies on the tint only."""
    return trained(squares(1500, seed=1), steps)


@cache
def striped_network(steps: int = 350) -> Classifier:
    """Train a network on images of which a third of one class, and no other, have the stripe."""
    data = squares(2000, seed=1)
    is_third = torch.rand(len(data), generator=torch.Generator().manual_seed(0)) < 0.35
    has_stripe = is_third & (data.labels == STRIPED)
    images = torch.where(has_stripe[:, None, None, None], with_stripe(data.images, seed=2), data.images)
    return trained(LabeledImages(images, data.labels, CLASSES), steps)
