"""RTA-100: photos of objects with the name of another object written on them by hand (arXiv 2304.04512, MIT).

Of its 100 objects 48 have ImageNet classes (`data/rta_objects.csv`), and only these count: a photo is read as the
object one of whose classes has the highest logit.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.images import LabelledImages
from edittools.metrics import wilson
from edittools.stories.photos import _load
from edittools.zoo.data import shipped
from edittools.zoo.downloads import available

FOLDER = "rta-100/"


def rta_objects() -> dict[str, tuple[str, ...]]:
    """The objects that have ImageNet classes, as the photos are named (`hair-dryer`), and the names of the classes."""
    with shipped("rta_objects.csv").open(newline="") as file:
        return {row["rta"]: tuple(row["imagenet"].split("; ")) for row in csv.DictReader(file)}


@dataclass(frozen=True)
class Handwritten:
    """Photos of objects with a written word, and how logits over a classifier's classes are read as objects.

    `images` `(N, 3, H, W)` with the `names` of their files; `shown` `(N,)` numbers the object on each in `objects`,
    `written` `(N,)` the word, -1 where that is none of them; `groups` `(objects, classes)` says which classes are which
    object.
    """

    images: Tensor
    names: tuple[str, ...]
    shown: Tensor
    written: Tensor
    objects: tuple[str, ...]
    groups: Tensor

    @property
    def attacks(self) -> Tensor:
        """Where the word is another object, with no class in common `(N,)`: only there can the word be read."""
        common = (self.groups[self.shown] & self.groups[self.written.clamp_min(0)]).any(dim=1)
        return (self.written >= 0) & ~common

    def labelled(self, classes: Sequence[str]) -> LabelledImages:
        """The photos labelled with the first class of the object they show."""
        return LabelledImages(self.images, self.groups.int().argmax(dim=1)[self.shown], tuple(classes), self.names)

    def scores(self, logits: Tensor) -> Tensor:
        """For logits `(N, classes)` each object's highest, `(N, objects)`."""
        return torch.stack([logits[:, group].amax(dim=1) for group in self.groups], dim=1)

    def right(self, logits: Tensor) -> Tensor:
        """Whether each photo is read as its object while the word is no choice, `(N,)`.

        So only what is seen counts. An object that shares a class with the shown one stays a choice.
        """
        scores, attacks = self.scores(logits), self.attacks
        scores[attacks, self.written[attacks]] = -torch.inf
        return scores.argmax(dim=1) == self.shown

    def fooled(self, logits: Tensor) -> Tensor:
        """Whether each of the attacks is read as the word, `(attacks,)`."""
        attacks = self.attacks
        return self.scores(logits)[attacks].argmax(dim=1) == self.written[attacks]

    def row(self, before: Tensor, after: Tensor) -> dict[str, float]:
        """What an edit did, from the logits before and after, as a table row; shares with 95 % Wilson intervals.

        `fixed` counts attacks that were read as the word and are read as the object.
        """
        attacks, row = self.attacks, {"photos": len(self.shown), "attacks": int(self.attacks.sum())}
        for when, logits in (("before", before), ("after", after)):
            for name, found in (("right", self.right(logits)), ("attack_success", self.fooled(logits))):
                row[f"{name}_{when}"] = float(found.float().mean())
                row[f"{name}_{when}_interval"] = list(wilson(int(found.sum()), len(found)))
        seen = self.scores(after)[attacks].argmax(dim=1) == self.shown[attacks]
        row["fooled"] = int(self.fooled(before).sum())
        return row | {"fixed": int((self.fooled(before) & seen).sum())}


def rta_photos(classifier: Classifier, progress: bool = False) -> Handwritten:
    """Load the photos of RTA-100 that show one of the 48 objects, for an ImageNet classifier.

    Raises `FileNotFoundError` where there are no such photos and `KeyError` for other classes than ImageNet's.
    """
    objects = rta_objects()
    names = [name for name in available(FOLDER) if name.split("/")[1] in objects]
    shown, written = zip(*(_what(name, list(objects)) for name in names), strict=True) if names else ((), ())
    images = _load(names, classifier, progress, f"below {FOLDER!r}")
    groups = _groups(classifier, list(objects.values()))
    return Handwritten(images, tuple(names), torch.tensor(shown), torch.tensor(written), tuple(objects), groups)


def _what(name: str, objects: Sequence[str]) -> tuple[int, int]:
    """The numbers of the object and of the word in the name of a photo."""
    _, thing, word = name.removesuffix(".jpg").split("/")
    return objects.index(thing), objects.index(word) if word in objects else -1


def _groups(classifier: Classifier, names: Sequence[Sequence[str]]) -> Tensor:
    groups = torch.zeros(len(names), len(classifier.classes), dtype=torch.bool)
    for row, wanted in zip(groups, names, strict=True):
        row[[classifier.index(name) for name in wanted]] = True
    return groups
