"""Small models and exemplars that need no download, made once a session."""

import os
import shutil
from collections import Counter
from functools import cache, partial
from pathlib import Path

import pytest
import torch
import torchvision
from snapshot import snapshot_of
from torch import nn
from tqdm import tqdm

from edittools._ledger import ATTRIBUTE, Weights
from edittools._storage import digest_tensors
from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.exemplars import Exemplar
from edittools.models import load_classifier
from edittools.moments import SecondMoment, fingerprint_at
from edittools.scenes import SAME_IMAGE, thumbnails
from edittools_course.miniworld.scenes import scenes
from edittools_course.scenarios import rules
from edittools_course.scenarios.snow import car_exemplars

os.environ["EDITTOOLS_DEVICE"] = "cpu"  # what is compared to the last digit is compared on one kind of machine
SHARED_PHOTOS = os.environ.get("EDITTOOLS_PHOTOS")
needs_photos = pytest.mark.skipif(
    not SHARED_PHOTOS or not Path(SHARED_PHOTOS).is_dir(),
    reason="no photographs here: set EDITTOOLS_PHOTOS to a folder of them (see docs/settings.md)",
)
needs_imagenette = pytest.mark.skipif(
    not SHARED_PHOTOS or not Path(SHARED_PHOTOS, "imagenette").is_dir(),
    reason="no photos of Imagenette here: set EDITTOOLS_PHOTOS to a folder that has them (see docs/settings.md)",
)
needs_browser = pytest.mark.skipif(
    shutil.which("chromium") is None and not os.environ.get("CI"),
    reason="chromium is not installed: apt-get install chromium",
)


def pytest_collection_modifyitems(items):
    """Start with the largest files: notebooks take longest, and no process should begin with one at the end."""
    items.sort(key=lambda item: item.path.stat().st_size, reverse=True)


def skipped_line(reasons):
    """Say in one line how many tests were skipped for each reason; a reason says how to run them."""
    counts = Counter(reason.removeprefix("Skipped: ") for reason in reasons)
    each = [f"{count} × {reason}" for reason, count in counts.most_common()]
    return f"{counts.total()} skipped: {'; '.join(each)}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    result = yield  # the summary of each skipped test comes before
    skipped = terminalreporter.stats.get("skipped", ())
    if skipped:
        terminalreporter.write_line(skipped_line([report.longrepr[2] for report in skipped]))
    return result


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


@cache
def made_tiny():
    """Make the classifier of `tiny`; its condition and torch's random numbers are those of that moment."""
    torch.manual_seed(0)
    classifier = Classifier(randomise_norms(TinyNet()), ("ant", "bee", "cat", "dog", "elk"), size=32)
    return classifier, condition(classifier), torch.get_rng_state()


def condition(classifier):
    """Whatever a test may change: tensors, modules, hooks, settings, modes, gradients, applied edits."""
    values = digest_tensors([*classifier.parameters(), *classifier.buffers()])
    flags = [(parameter.requires_grad, parameter.grad is None) for parameter in classifier.parameters()]
    modes = [(module.training, ATTRIBUTE in vars(module)) for module in classifier.modules()]
    return values, snapshot_of(classifier), flags, modes


def tiny_as_made():
    """Return the small classifier as it was made: exported once for all tests that leave it so."""
    classifier, before, numbers = made_tiny()
    if condition(classifier) != before:
        made_tiny.cache_clear()
        classifier, _, numbers = made_tiny()
    torch.set_rng_state(numbers)
    return classifier


@pytest.fixture
def tiny():
    return tiny_as_made()


def moment_of(classifier, layer, matrix):
    """A second moment with a given matrix, as if it had been measured, of keys that are independent at all offsets."""
    fingerprint = fingerprint_at(Cut(classifier, layer, weights=Weights(classifier)))
    kernel = classifier.model.get_submodule(layer).weight.shape[2:]
    return SecondMoment(matrix, layer, fingerprint, torch.eye(kernel.numel()).double())


@pytest.fixture
def photos32():
    return torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def noise(count, size=32, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def bars_that_call(function):
    """Make a class of bars that show nothing, and call a function with the bar when something is counted."""

    class Bar(tqdm):
        counts = None

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options, disable=True)
            self.desc = options.get("desc", "")
            self.unit = options.get("unit", "it")

        def set_postfix(self, counts, refresh=True):
            self.counts = counts

        def update(self, n=1):
            self.n += n
            function(self)

    return Bar


@pytest.fixture(scope="session")
def snow():
    """Arguments of `repair`: 30 vehicles on snow in MiniWorld, 17 misclassified; sleds and penguins live on snow."""
    classifier = load_classifier("mini_vgg")
    return {
        "classifier": classifier,
        "exemplars": car_exemplars(classifier)["car 1"],
        "images": scenes(160, 7_400_000).images,
        "concept": scenes(30, 7_000_000, ["van", "tractor", "bicycle"] * 10, ground="snow"),
        "clean": scenes(80, 7_100_000),
        "retain": {"sleds": scenes(20, 7_200_000, ["sled"] * 20), "penguins": scenes(11, 7_300_000, ["penguin"] * 11)},
        "layers": ["features.10"],
        "progress": None,
    }


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory):
    """Serve a folder with JupyterLab for all tests of this process; give the address and the folder."""
    import web

    folder = tmp_path_factory.mktemp("jupyterlab")
    web.ARTEFACTS.mkdir(exist_ok=True)
    log = web.ARTEFACTS / f"jupyterlab-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}.log"
    with web.jupyterlab(folder, log, {"EDITTOOLS_TIER": "mini"}) as base:
        yield base, folder


@pytest.fixture(scope="module")
def chromium():
    """The browser, for the tests of a file: other files may need an event loop of their own."""
    pytest.importorskip("playwright", reason="the browser tests need playwright: pip install 'edittools[dev]'")
    import web

    with web.chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def probing_setup():
    """Make a small scenario of notebook 04: four scenes of each class, at most 240 of every set."""
    return partial(rules.probing_setup, "mini", per_class=4, most_scenes=240)


@pytest.fixture(scope="session")
def story(probing_setup):
    """The scenario of notebook 04 on validation scenes. No test changes it."""
    return probing_setup("validation")


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


def shared_images(one, other):
    """Count the images of `other` that are also in `one`."""
    small = thumbnails(one)
    distances = torch.cdist(small, thumbnails(other))
    is_same = distances <= SAME_IMAGE * small.shape[1] ** 0.5
    return int(is_same.any(dim=0).sum())


@pytest.fixture
def exemplar():
    return make_exemplar()
