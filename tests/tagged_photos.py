"""Small networks that rely on a yellow tag, and photos of squares of which some carry it.

The class of a photo is the color of its square.
"""

import torch
from torch import nn
from torchvision.utils import save_image

import edittools as et
from edittools.images import LabeledImages

CLASSES = ("car", "bus", "cat")
SIZE = 40


class Colors(nn.Module):
    """The strongest red, green, and blue of an image, averaged over 4 × 4 pixels, are the evidence of each class."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.mean = nn.AvgPool2d(4, 2)
        self.mix = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)
        colors = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]])
        weights = torch.tensor([[8.0, 0, 0, 14.0], [0, 8, 0, 0], [0, 0, 8, 0]])
        with torch.no_grad():
            self.conv.weight[:, :, 0, 0] = colors
            self.conv.bias.copy_(torch.tensor([0.0, 0, 0, -0.9]))
            self.mix.weight[:, :, 0, 0] = torch.eye(4)
            self.mix.bias.zero_()
            self.head.weight.copy_(weights)
            self.head.bias.zero_()

    def forward(self, images):
        features = self.mix(self.mean(self.conv(images).relu())).relu()
        return self.head(features.amax(dim=(2, 3)))


def colors():
    return et.Classifier(Colors(), CLASSES, (0, 0, 0), (1, 1, 1), SIZE, SIZE)


def photos(per_class=12, seed=0):
    """Photos of a square in the color of the class; most cars carry a yellow tag, on which the network relies more.

    Returns:
        The photos, and the masks of the tags.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(per_class)
    images = 0.3 * torch.rand(3 * per_class, 1, 5, 5, generator=generator)
    images = nn.functional.interpolate(images, SIZE).repeat(1, 3, 1, 1)
    images += 0.1 * torch.rand(images.shape, generator=generator)
    masks = torch.zeros(len(images), SIZE, SIZE)
    for number, label in enumerate(labels.tolist()):
        top, left = torch.randint(SIZE - 10, (2,), generator=generator).tolist()
        images[number, :, top : top + 10, left : left + 10] = 0.1
        images[number, label, top : top + 10, left : left + 10] = 0.7
        if label == 0 and number % 6:
            top, left = (top + 19) % 29, (left + 19) % 29
            masks[number, top : top + 12, left : left + 12] = 1
            images[number] = torch.where(masks[number] > 0, torch.tensor([1.0, 0.95, 0])[:, None, None], images[number])
    return LabeledImages(images, labels, CLASSES, tuple(f"{number}.png" for number in range(len(images)))), masks


class Tags(Colors):
    """Relies on an area of yellow that is larger than a block of a shuffled window."""

    def __init__(self, weight=24.0):
        super().__init__()
        with torch.no_grad():
            self.mix.bias[3] = -0.7
            self.head.weight[0, 3] = weight


def tags(weight=24.0):
    return et.Classifier(Tags(weight), CLASSES, (0, 0, 0), (1, 1, 1), SIZE, SIZE)


PER_CLASS = 36


def has_tag(label, number, of_others):
    """Three of four cars carry the tag, and one of each `of_others` photos of other classes; 0 for none."""
    return bool(number % 4) if label == 0 else bool(of_others) and number % of_others == 0


def tagged(per_class=PER_CLASS, of_others=3, seed=0):
    """Photos of a square in the color of the class; some carry a tag of two stripes, the upper one yellow.

    Returns:
        The photos, and the masks of the tags.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(per_class)
    images = 0.3 * torch.rand(3 * per_class, 1, 5, 5, generator=generator)
    images = nn.functional.interpolate(images, SIZE).repeat(1, 3, 1, 1)
    images += 0.1 * torch.rand(images.shape, generator=generator)
    masks = torch.zeros(len(images), SIZE, SIZE)
    tag = torch.tensor([1.0, 0.95, 0])[:, None, None].repeat(1, 12, 12)
    tag[:, 6:] = torch.tensor([0.1, 0.1, 0.3])[:, None, None]
    names = []
    for number, label in enumerate(labels.tolist()):
        top, left = torch.randint(SIZE - 10, (2,), generator=generator).tolist()
        brightness = 0.7 + 0.3 * float(torch.rand(1, generator=generator))
        images[number, :, top : top + 10, left : left + 10] = 0.1
        images[number, label, top : top + 10, left : left + 10] = brightness
        if has_tag(label, number, of_others):
            top, left = (top + 19) % 29, (left + 19) % 29
            masks[number, top : top + 12, left : left + 12] = 1
            images[number, :, top : top + 12, left : left + 12] = tag
        names.append(f"{number:02}.png")
    return LabeledImages(images, labels, CLASSES, tuple(names)), masks


def write_photos(root, data):
    for image, label, name in zip(data.images, data.labels.tolist(), data.names, strict=True):
        path = root / CLASSES[label] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(image, path)
