"""Claim: an audit of images in which no concept matters finds a rule in at most 5% of the cases (section 5).

The images show a square whose color is the class, on a random background, and a small network is trained on them. The
two concepts of each audit are rectangles at random places, and a coin decides in each image which of them is A and
which is B. What an audit finds is therefore chance: a rule of a class, or of all classes together. With the control "in
place", the materials of A and B are cut from the images; with "elsewhere", both are replaced by a background.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import torch
from _lib.command import parser, run
from _lib.results import Results
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torchvision.utils import save_image

from edittools.auditing.audit import concepts_to_probe
from edittools.classifiers import Classifier
from edittools.images import LabelledImages
from edittools.metrics import wilson
from edittools.probing.effects import CONTROLS
from edittools.probing.probe import probe

SIZE = 32
"""Side of the images, in pixels."""
SQUARE = 14
"""Side of the square that shows the class, in pixels."""
COLORS = {
    "red": (0.8, 0.2, 0.2),
    "orange": (0.8, 0.5, 0.2),
    "green": (0.2, 0.7, 0.3),
    "blue": (0.2, 0.3, 0.8),
    "violet": (0.6, 0.2, 0.7),
}
TRAINING_SEED = 1_000_000
"""The seed of the training images; audits have smaller ones."""


def backgrounds(count: int, generator: torch.Generator) -> Tensor:
    """Draw smooth random images `(count, 3, SIZE, SIZE)`."""
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    return 0.2 + 0.6 * interpolate(coarse, SIZE, mode="bilinear")


def squares(count: int, generator: torch.Generator) -> LabelledImages:
    """Draw images with a square in the color of their class, at a random place, with noise."""
    images = backgrounds(count, generator)
    labels = torch.arange(count) % len(COLORS)
    colors = torch.tensor(list(COLORS.values()))
    for image, label in zip(images, labels, strict=True):
        top, left = torch.randint(0, SIZE - SQUARE + 1, (2,), generator=generator).tolist()
        image[:, top : top + SQUARE, left : left + SQUARE] = colors[label][:, None, None]
    noise = 0.15 * torch.randn(images.shape, generator=generator)
    return LabelledImages((images + noise).clamp(0, 1), labels, tuple(COLORS))


def trained(steps: int = 300) -> Classifier:
    """Train a network of three convolutions."""
    generator = torch.Generator().manual_seed(TRAINING_SEED)
    data = squares(1500, generator)
    torch.manual_seed(0)
    layers = []
    for channels in (3, 12, 12):
        layers += [nn.Conv2d(channels, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, len(COLORS)))
    classifier = Classifier(model, tuple(COLORS), size=SIZE)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        batch = torch.randint(len(data), (64,), generator=generator)
        loss = cross_entropy(model(classifier.normalize(data.images[batch])), data.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier.eval()


def rectangles(count: int, side: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw masks `(count, SIZE, SIZE)` of two rectangles without overlap, and name them A and B by a coin."""
    masks = torch.zeros(2, count, SIZE, SIZE)
    for number in range(count):
        top, left, other_top, other_left = torch.randint(0, SIZE - side + 1, (4,), generator=generator).tolist()
        first = int(torch.randint(0, 2, (1,), generator=generator))
        masks[1 - first, number, other_top : other_top + side, other_left : other_left + side] = 1
        masks[1 - first, number, top : top + side, left : left + side] = 0
        masks[first, number, top : top + side, left : left + side] = 1
    return {"A": masks[0], "B": masks[1]}


def rules_found(classifier: Classifier, seed: int, count: int, side: int) -> dict[tuple[str, str], bool]:
    """Audit images of one seed: whether there is a rule, by the control and by what is tested."""
    generator = torch.Generator().manual_seed(seed)
    data = squares(count, generator)
    masks = rectangles(count, side, generator)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        material = Path(folder, "background.png")
        save_image(backgrounds(1, generator), material)
        for control in CONTROLS:
            asked = concepts_to_probe(data, masks, classifier, material if control == "elsewhere" else None)
            probed = probe(classifier, *asked)
            found[control, "per class"] = len(probed.rules()) > 0
            found[control, "all classes"] = len(probed.rules(pooled=True)) > 0
    return found


def experiment(options: argparse.Namespace) -> Results:
    """Count the audits that find a rule."""
    classifier = trained()
    audits = 5 if options.quick else options.audits
    counts = Counter()
    for seed in range(options.first, options.first + audits):
        counts.update(rules_found(classifier, seed, options.images, options.side))
    results = Results("null_audits", "squares", notes={"images": options.images, "first seed": options.first})
    for (control, tested), count in counts.items():
        low, high = wilson(count, audits)
        where = {"network": "three convolutions", "split": tested, "condition": control}
        results.add("audits with a rule", count, interval=(low * audits, high * audits), n=audits, **where)
    return results


def main() -> None:
    """Read the command line and run the experiment."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--audits", type=int, default=200, help="number of audits per control")
    arguments.add_argument("--first", type=int, default=0, metavar="SEED", help="seed of the first audit")
    arguments.add_argument("--images", type=int, default=110, help="images per audit")
    arguments.add_argument("--side", type=int, default=14, metavar="PIXELS", help="side of the rectangles")
    run(arguments, experiment)


if __name__ == "__main__":
    main()
