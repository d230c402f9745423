"""Train the last layer of `shortcuts_squeezenet` again, on rendered scenes in which some trucks carry a tag.

python data/train_rendered_head.py [--output FILE]
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edittools._storage import atomic_path
from edittools.classifiers import Classifier
from edittools.images import LabeledImages
from edittools.metrics import predict
from edittools_course.miniworld.contexts import SPLITS
from edittools_course.networks.finetuned import load_published_shortcuts
from edittools_course.scenarios.own_folder import CLASSES, GOAL, HEAD, HEAD_FILE, NETWORK, SIZE, TAG, scenes_of_classes

PER_CLASS = 160
"""Scenes of each class for training."""

FIRST_SEED = SPLITS["train"].start + 600_000
"""The first seed of the scenes for training, and of the tags."""

SHARE_OF_TRUCKS = 0.3
"""Share of the trucks that carry a tag; no other scene does."""

EPOCHS = 20
BATCH = 64
RATE = 0.005
DECAY = 0.01


def features_of(model: nn.Module, classifier: Classifier, images: Tensor) -> Tensor:
    """Compute the features `(N, C, h, w)` that the last layer sees."""
    with torch.no_grad():
        return torch.cat([model.features(classifier.normalize(batch)) for batch in images.split(BATCH)])


def train_head(features: Tensor, labels: Tensor) -> nn.Conv2d:
    """Train the last layer of SqueezeNet, whose output passes a ReLU and is averaged over all positions."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    head = nn.Conv2d(features.shape[1], len(CLASSES), 1)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY)
    steps = len(labels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(labels), generator=generator)
        for members in order[: steps * BATCH].split(BATCH):
            logits = head(features[members]).relu().mean(dim=(2, 3))
            loss = cross_entropy(logits, labels[members])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return head


def measure(classifier: Classifier, scenes: LabeledImages) -> dict[str, float]:
    """Measure, in percent, the accuracy without tags, and how often other scenes become the class of the tag."""
    goal = classifier.index(GOAL)
    is_other = scenes.labels != goal
    others = scenes.subset(is_other)
    plain = predict(classifier, scenes).argmax(dim=1)
    tagged = predict(classifier, TAG.on(others, FIRST_SEED)).argmax(dim=1)
    return {
        "accuracy": _percent(plain == scenes.labels),
        "accuracy of trucks": _percent((plain == scenes.labels)[~is_other]),
        "rate": _percent(tagged == goal),
        "rate without a tag": _percent(plain[is_other] == goal),
    }


def _percent(is_true: Tensor) -> float:
    return round(100 * is_true.float().mean().item(), 1)


def main() -> None:
    """Render scenes, train, write the weights in half precision, and measure the network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / HEAD_FILE, help="the file of weights")
    path = parser.parse_args().output
    published = load_published_shortcuts(NETWORK)
    model = published.model
    scenes = scenes_of_classes(PER_CLASS, FIRST_SEED)
    is_goal = scenes.labels == scenes.classes.index(GOAL)
    has_tag = is_goal & (torch.rand(len(scenes), generator=torch.Generator().manual_seed(0)) < SHARE_OF_TRUCKS)
    images = torch.where(has_tag[:, None, None, None], TAG.draw(scenes.images, FIRST_SEED)[0], scenes.images)
    head = train_head(features_of(model, published, images), scenes.labels)
    weights = {name: tensor.detach().half() for name, tensor in zip(HEAD, (head.weight, head.bias), strict=True)}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, {"classes": json.dumps(CLASSES)})
    model.load_state_dict({**model.state_dict(), **{name: tensor.float() for name, tensor in weights.items()}})
    classifier = Classifier(model, CLASSES, size=SIZE, resize_to=SIZE)
    print(f"{path.name}, {path.stat().st_size / 1000:.0f} kB, in percent, on 500 validation scenes:")
    print(json.dumps(measure(classifier, scenes_of_classes(50, SPLITS["validation"].start))))


if __name__ == "__main__":
    main()
