"""Hosts: ordinary images with the mark of an exemplar pasted on them, which select an edit without labels.

With its mark pasted on an ordinary image, the network should predict what it predicts without the mark. That holds
whatever the image shows, so ordinary images need no labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edittools._checks import warn
from edittools.classifiers import Classifier, check_size
from edittools.exemplars import Exemplar, Pairs, all_exemplars
from edittools.images import Images, LabeledImages, check_images, pixels_of
from edittools.metrics import predict, predicted_classes
from edittools.scenes import first_of_each, scenes_of, thumbnails_are_shared

FEWEST_IMAGES = 50
"""Fewer ordinary images cannot be divided."""

MOST_IMAGES = 1000
"""The largest number of ordinary images that are looked at."""

MOST_REFERENCE = 200
"""The largest number of ordinary images that define C."""

SOLVE, SELECT, MEASURE = 24, 60, 60
"""The numbers of hosts of other classes than the mark's: to solve with, to select an edit, and to measure it."""

OWN_SOLVE, OWN_SELECT, OWN_MEASURE = 8, 24, 24
"""The same numbers for hosts of the mark's own class, by prediction."""

ENOUGH_IMAGES = 200
"""With fewer ordinary images of other classes, the numbers are in proportion."""

FEW_OWN = 8
"""With fewer hosts of the mark's own class that select, the cost on this class is selected for only roughly."""

MOST_OF_ONE_CLASS = 0.25
"""Ordinary images are doubted if more than this share of them is predicted as one class."""

LEAST_CHANGED = 0.3
"""The mark is doubted if it changes the predictions of less than this share of the ordinary images of other classes."""

UNCHANGED = 0.01
"""A pasted mark changes nothing if the divergence of the prediction is at most this much."""


@dataclass(frozen=True, eq=False)
class HostSet:
    """Hosts with what the network predicts for them without an edit.

    Attributes:
        images: the images without the mark, `(N, 3, H, W)`.
        marked: the images with the mark, `(N, 3, H, W)`.
        original: the log-probabilities of the images without the mark, `(N, classes)`.
        with_mark: the log-probabilities of the images with the mark, `(N, classes)`.
        is_own: which hosts are predicted as the class of their mark, `(N,)` booleans.
    """

    images: Tensor
    marked: Tensor
    original: Tensor
    with_mark: Tensor
    is_own: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @property
    def before(self) -> Tensor:
        """The divergence of the prediction with the mark from that without it, without an edit, `(N,)`."""
        return divergence(self.original, self.with_mark)

    @property
    def shows_mark(self) -> Tensor:
        """Which images may show the mark already, `(N,)` booleans: of its class, and a pasted one changes nothing."""
        return self.is_own & (self.before <= UNCHANGED)


@dataclass(frozen=True, eq=False)
class Hosts:
    """Ordinary images, divided by what they are used for: the parts share no scene.

    Attributes:
        solve: the hosts of other classes to solve with, by the name of the exemplars whose marks they show.
        solve_own: the hosts of the mark's own class to solve with, by the same names.
        select: the hosts that select an edit.
        measure: the hosts on which the selected edit is measured.
        reference: the images that define C.
        own_classes: the classes of the marks, what x' of the exemplars are predicted as: indices.
        classes: what the ordinary images are predicted as, one of each scene, `(M,)` class indices.
        where: where the marks are pasted, see `Exemplar.hosts`.
        vary: whether they vary from host to host.
    """

    solve: Mapping[str, Pairs]
    solve_own: Mapping[str, Pairs]
    select: HostSet
    measure: HostSet
    reference: Tensor
    own_classes: tuple[int, ...]
    classes: Tensor
    where: str
    vary: bool

    def warn_about_images(self, classifier: Classifier) -> None:
        """Warn about the first of what can be seen of the images and the mark without labels.

        Warns:
            UserWarning: if too many images are predicted as one class (they show the mark already, or are not what the
                classifier is used for), if the mark changes few predictions (x and x' are swapped, or the mask is
                not on the mark), or if fewer than `FEW_OWN` of the images that select are of the mark's class.
        """
        of_class = self.classes.bincount(minlength=len(classifier.classes)) / len(self.classes)
        most = int(of_class.argmax())
        if of_class[most] > max(MOST_OF_ONE_CLASS, 2 / len(classifier.classes)):
            remedy = "which tells little about other classes; pass images such as the classifier is used for"
            if most in self.own_classes:
                remedy = "the class of the mark; leave out those that show the mark already, or pass more other images"
            warn(f"{of_class[most]:.0%} of the ordinary images are predicted as {classifier.classes[most]}, {remedy}")
            return
        names = ", ".join(sorted(classifier.classes[index] for index in self.own_classes))
        is_other = ~self.select.is_own
        is_changed = predicted_classes(self.select.original) != predicted_classes(self.select.with_mark)
        changed = int((is_changed & is_other).sum())
        if changed < LEAST_CHANGED * int(is_other.sum()):
            warn(
                f"the mark changes the predictions of {changed} of {int(is_other.sum())} ordinary images of other "
                "classes; check that x' is the misleading image, and that the mask covers the mark"
            )
            return
        count = int(self.select.is_own.sum())
        if count < FEW_OWN:
            warn(
                f"only {count} of {len(self.select)} ordinary images that select are predicted as {names}, the class "
                f"of the mark, so the cost on it hardly counts; pass about {7 * FEW_OWN // 3 + 1} such images"
            )

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        exemplars: Mapping[str, Sequence[Exemplar]],
        images: Images,
        where: str = "anywhere",
        seed: int = 0,
        vary: bool = False,
    ) -> "Hosts":
        """Divide ordinary images by scene, and paste the marks on them.

        Args:
            classifier: the classifier.
            exemplars: the exemplars of each edit, by name.
            images: ordinary images without labels; at most `MOST_IMAGES` of them are used, one for each scene.
            where: where marks are pasted, see `Exemplar.hosts`.
            seed: seed of the division, of the places, and of what varies.
            vary: whether marks vary from host to host, see `Exemplar.hosts`.

        Raises:
            TypeError: if the images have labels, or are no set of images.
            ValueError: if they do not have the size of the classifier's input, if they show fewer than `FEWEST_IMAGES`
                scenes, or if they show nothing but the mark's class.
        """
        pixels = sample_of(classifier, exemplars, images, seed)
        predicted = predict(classifier, pixels).log_softmax(dim=1)
        classes = predicted_classes(predicted)
        marks = [(name, exemplar) for name, group in exemplars.items() for exemplar in group]
        own_classes = classes_of_marks(classifier, [exemplar for _, exemplar in marks])
        is_own = torch.isin(classes, torch.tensor(own_classes))
        others = (~is_own).nonzero()[:, 0]
        own = is_own.nonzero()[:, 0]
        share = min(len(others) / ENOUGH_IMAGES, 1.0)
        sizes = [max(round(share * size), 1) for size in (SOLVE, SELECT, MEASURE)]
        own_sizes = _own_sizes(len(own))
        if len(others) <= sum(sizes):
            names = ", ".join(sorted({classifier.classes[index] for index in own_classes}))
            raise ValueError(
                f"{len(own)} of {len(pixels)} ordinary images are predicted as {names}, the class of the mark; pass "
                "images of other classes as well"
            )
        parts = others.split([*sizes, len(others) - sum(sizes)])
        own_parts = own.split([*own_sizes, len(own) - sum(own_sizes)])
        sets = []
        for number, (part, own_part) in enumerate(zip(parts[1:3], own_parts[1:3], strict=True)):
            members = torch.cat([part, own_part])
            assigned = _assigned(classes[members], own_classes)
            shown = [marks[index][1] for index in assigned]
            hosts = _paste(pixels[members], shown, where, 7 * seed + number, vary)
            with_mark = predict(classifier, hosts.changed).log_softmax(dim=1)
            sets.append(HostSet(hosts.images, hosts.changed, predicted[members], with_mark, is_own[members]))
        solve = {}
        solve_own = {}
        for name, group in exemplars.items():
            in_turn = _in_turn(group, len(parts[0]))
            solve[name] = _paste(pixels[parts[0]], in_turn, where, 7 * seed + 2, vary)
            own_in_turn = _in_turn(group, len(own_parts[0]))
            solve_own[name] = _paste(pixels[own_parts[0]], own_in_turn, where, 7 * seed + 3, vary)
        reference = pixels[parts[3][:MOST_REFERENCE]]
        return cls(solve, solve_own, sets[0], sets[1], reference, tuple(set(own_classes)), classes, where, vary)


def check_ordinary(classifier: Classifier, images: Images) -> None:
    """Check ordinary images, which select an edit without labels.

    Raises:
        TypeError: if they have labels, or are no set of images.
        ValueError: if they do not have the size of the classifier's input.
    """
    check_images(images, "images")
    if isinstance(images, LabeledImages):
        raise TypeError(
            "images has labels, but ordinary images select an edit without labels; pass their pixels as images= "
            "(data.images), and labeled images that measure as concept=, clean=, or retain="
        )
    check_size("ordinary", images, classifier)


def sample_of(
    classifier: Classifier, exemplars: Mapping[str, Sequence[Exemplar]], images: Images, seed: int = 0
) -> Tensor:
    """Load at most `MOST_IMAGES` ordinary images in random order, one for each scene, without those of the exemplars.

    Raises:
        TypeError: if the images have labels, or are no set of images.
        ValueError: if they do not have the size of the classifier's input, or show fewer than `FEWEST_IMAGES` scenes.
    """
    check_ordinary(classifier, images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    pixels = pixels_of(images)[order[:MOST_IMAGES].tolist()]
    shown = [image for one in all_exemplars(exemplars) for image in (one.image, one.changed)]
    is_shown = thumbnails_are_shared(torch.stack(shown), pixels)
    is_used = first_of_each(scenes_of(pixels)) & ~is_shown
    scenes = int(is_used.sum())
    if scenes < FEWEST_IMAGES:
        raise ValueError(
            f"{len(images)} ordinary images show {scenes} scenes besides those of the exemplars; pass images of at "
            f"least {FEWEST_IMAGES} scenes, better {ENOUGH_IMAGES} or more"
        )
    return pixels[is_used]


def _own_sizes(count: int) -> list[int]:
    """Return how many of the images of the mark's class solve, select, and measure."""
    total = OWN_SOLVE + OWN_SELECT + OWN_MEASURE
    share = min(count / total, 1.0)
    solve, select = (int(share * size) for size in (OWN_SOLVE, OWN_SELECT))
    return [solve, select, min(count - solve - select, OWN_MEASURE)]


def classes_of_marks(classifier: Classifier, exemplars: Sequence[Exemplar]) -> list[int]:
    """Return the class of each exemplar's mark: what x' is predicted as."""
    changed = torch.stack([exemplar.changed for exemplar in exemplars])
    return predicted_classes(predict(classifier, changed)).tolist()


def _assigned(classes: Tensor, own_classes: Sequence[int]) -> list[int]:
    """Assign a mark to each image: in turn, but to an image of the class of a mark only a mark of that class."""
    turns = dict.fromkeys([-1, *own_classes], 0)
    of_class = {-1: list(range(len(own_classes)))}
    for number, index in enumerate(own_classes):
        of_class.setdefault(index, []).append(number)
    assigned = []
    for index in classes.tolist():
        key = index if index in of_class else -1
        assigned.append(of_class[key][turns[key] % len(of_class[key])])
        turns[key] += 1
    return assigned


def _in_turn(exemplars: Sequence[Exemplar], count: int) -> list[Exemplar]:
    """Return so many exemplars, each of several in turn."""
    return [exemplars[number % len(exemplars)] for number in range(count)]


def _paste(images: Tensor, exemplars: Sequence[Exemplar], where: str, seed: int, vary: bool) -> Pairs:
    """Paste the mark of one exemplar on each image."""
    hosts = [Pairs(images[:0], images[:0], torch.zeros(0, *images.shape[2:]), ())]
    for number, (image, exemplar) in enumerate(zip(images, exemplars, strict=True)):
        hosts.append(exemplar.hosts(image[None], where, 10_007 * seed + number, vary))
    return Pairs.joined(hosts)


def divergence(target: Tensor, predicted: Tensor) -> Tensor:
    """Compute the Kullback-Leibler divergence of log-probabilities `(N, classes)` from others, `(N,)`, in nats.

    Args:
        target: the log-probabilities that there should be.
        predicted: those that there are; where they are not finite, the divergence is infinite.
    """
    sums = (target.exp() * (target - predicted)).sum(dim=1)
    return torch.where(sums.isfinite(), sums, torch.inf)
