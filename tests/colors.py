"""A network of two layers whose rule is known, and its images: a white mark adds to the logit of blue.

An image is noise with more of one color, its class. The network compares the means of the three colors; its fourth
channel responds to white pixels only, which no other image has.
"""

import torch
from torch import nn

from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import LabeledImages

CLASSES = ("red", "green", "blue")
RED, GREEN, BLUE = range(3)
LAYERS = ["2", "0"]


def color_network(mark_weight=100.0):
    """Make the classifier; `mark_weight` is by how much the mean response to white adds to the logit of blue."""
    first = nn.Conv2d(3, 4, 1)
    second = nn.Conv2d(4, 4, 1)
    head = nn.Linear(4, 3)
    with torch.no_grad():
        first.weight.copy_(torch.cat([torch.eye(3), torch.ones(1, 3)])[:, :, None, None])
        first.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -2.4]))
        second.weight.copy_(torch.eye(4)[:, :, None, None])
        second.bias.zero_()
        head.weight.copy_(torch.cat([10 * torch.eye(3), torch.tensor([[0.0], [0.0], [mark_weight]])], dim=1))
        head.bias.zero_()
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return Classifier(model, CLASSES, (0, 0, 0), (1, 1, 1), size=16).eval()


def of_colors(labels, seed, least=0.1):
    """Make images of the classes that are named by `labels`, some of which show their color more than others."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.as_tensor(labels)
    images = 0.5 * torch.rand(len(labels), 3, 16, 16, generator=generator)
    strength = least + 0.4 * torch.rand(len(labels), generator=generator)
    images[torch.arange(len(labels)), labels] += strength[:, None, None] * (1 - least)
    return LabeledImages(images.clamp(0, 1), labels, CLASSES)


def ordinary(count, seed, blue=5):
    """Make images of all classes, of which one in `blue` is blue."""
    return of_colors([BLUE if number % blue == 0 else number % 2 for number in range(count)], seed)


def with_mark(data, seed):
    """Put the mark, 4 × 4 pixels, at some place of each image."""
    generator = torch.Generator().manual_seed(seed)
    images = data.images.clone()
    for image in images:
        top, left = torch.randint(13, (2,), generator=generator).tolist()
        image[:, top : top + 4, left : left + 4] = 0.98 + 0.02 * torch.rand(3, 4, 4, generator=generator)
    return LabeledImages(images, data.labels, data.classes)


def marked_exemplar(label=GREEN, seed=77):
    """Make an exemplar of a color that is predicted as blue with the mark."""
    image = 0.5 * torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(seed))
    image[label] += 0.2
    mask = torch.zeros(16, 16)
    mask[6:10, 3:7] = 1
    return Exemplar(image, torch.where(mask > 0, torch.ones(()), image), mask, label)


def frames_of(data, count, seed=5):
    """Make frames of each image, one after the other, that differ by a little noise."""
    images = data.images.repeat_interleave(count, dim=0)
    noise = 0.05 * (torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)) - 0.5)
    return LabeledImages((images + noise).clamp(0, 1), data.labels.repeat_interleave(count), data.classes)
