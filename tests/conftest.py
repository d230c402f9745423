"""Small models and exemplars that need no download, made once a session."""

import os
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.stories import rules, tiers

os.environ["EDITTOOLS_DEVICE"] = "cpu"  # what is compared to the last digit is compared on one kind of machine
SHARED_PHOTOS = os.environ.get("EDITTOOLS_PHOTOS")
needs_photos = pytest.mark.skipif(
    not SHARED_PHOTOS or not Path(SHARED_PHOTOS).is_dir(),
    reason="no photographs here: set EDITTOOLS_PHOTOS to a folder of them (see docs/tiers.md)",
)
LONG = ("notebooks", "scenarios", "synthetic", "desk_browser", "browser", "desk_pages", "composites", "zero_shot")
LONG += ("cures", "counterfactuals", "cut", "own_models", "graph", "paper_rehearsal", "docs", "miniworld", "models")
"""Files that take longest: they start first, so that no process works on one of them when the others are done."""


def pytest_collection_modifyitems(items):
    files = [f"test_{name}.py" for name in LONG]
    items.sort(key=lambda item: files.index(item.path.name) if item.path.name in files else len(files))


class TinyNet(nn.Module):
    """Two convolutions, one residual block, a linear head: every kind of step a block may hold, 32 px, 5 classes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(8, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 8, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(2)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        y = self.relu(self.conv1(x))
        y = self.norm2(self.conv2(y))
        y += x
        y = self.pool(self.relu(y))
        y = self.grouped(y)
        return self.head(y.mean(dim=(2, 3)))


def randomise_norms(model, seed=0):
    """Give batch norms statistics that matter, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in (
                (module.weight, 0.5),
                (module.running_var, 0.5),
                (module.bias, -0.5),
                (module.running_mean, -0.5),
            ):
                tensor.data.copy_(low + torch.rand(tensor.shape, generator=generator))
    return model


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Classifier(randomise_norms(TinyNet()), ("ant", "bee", "cat", "dog", "elk"), size=32)


@pytest.fixture
def photos32():
    return torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def probing_story():
    """Make notebook 04's story in small, four scenes of each class: of every set at most 240, each painted once."""
    painted, paint = {}, tiers.scenes

    def few(count, first, label=None, **options):
        if (count, first) not in painted:
            painted[count, first] = paint(min(count, 240), first, label, **options)
        return painted[count, first]

    def make(split):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiers, "scenes", few)
            return rules.probing_story("mini", split, per_class=4)

    return make


@pytest.fixture(scope="session")
def story(probing_story):
    """The story on validation scenes. No test changes it."""
    return probing_story("validation")


def make_exemplar(seed=2, size=32, label=1):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, size, size, generator=generator)
    mask = torch.zeros(size, size)
    mask[size // 2 :, size // 8 : -size // 8] = 1
    snow = 0.7 + 0.3 * torch.rand(3, size, size, generator=generator)
    return Exemplar(image, torch.where(mask > 0, snow, image), mask, label)


def save_image(path, image):
    """Write a `(3, H, W)` image as a file of the kind that its name ends in."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torchvision.utils.save_image(image, path)


@pytest.fixture
def exemplar():
    return make_exemplar()
