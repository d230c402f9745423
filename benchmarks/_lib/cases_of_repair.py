"""Repairs whose truth is known: exemplars, images with the concept, and thousands of new images of the same kinds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from _lib.striped import (
    CLASSES,
    SIZE,
    STRIPED,
    plain_network,
    squares,
    stripe_mask,
    striped,
    striped_at_the_top,
    striped_network,
    with_stripe,
)
from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import LabeledImages
from edittools.metrics import Comparison, misclassified, predict
from edittools.selection.splits import FAILURES, SAMPLE

ORDINARY = 200
CLEAN = 600
RETAINED = 200
NEW = {"concept": 2_000, "retained": 2_000, "clean": 10_000}
"""The number of new images."""

OWN = 300
"""The number of images of the stripe's class that a sample of 200 holds besides, so that the cost on it is measured."""

FRAMES = 8
"""The number of frames of each image, where labeled images are shown in frames."""

SCENES = 12
"""The number of scenes, where all images are frames of few scenes."""

WRONG_LABELS = 0.1
"""The share of the labels that are wrong, where some are."""

SEED_OF_NEW = 900_000_000
"""The seed of the new images, beyond those of all cases."""

NULL_REASONS = (
    "labels at random",
    "another class labeled as the exemplar's",
    "heavy noise",
    "noise with labels at random",
    "low contrast",
)
"""Reasons to be misclassified that have nothing to do with the exemplar."""


# --- exemplars --------------------------------------------------------------------------------------------------------


def right_exemplar(classifier: Classifier, seed: int) -> Exemplar | None:
    """Make an exemplar whose stripe misleads the network; None if no image is found."""
    data = squares(200, seed)
    changed = with_stripe(data.images, seed + 1)
    is_correct = ~misclassified(predict(classifier, data), data.labels)
    is_misled = predict(classifier, changed).argmax(dim=1) == STRIPED
    for index in (is_correct & is_misled & (data.labels != STRIPED)).nonzero()[:, 0].tolist():
        return Exemplar(data.images[index], changed[index], stripe_mask(), int(data.labels[index]))
    return None


def noise_exemplar(classifier: Classifier, seed: int) -> Exemplar | None:
    """Paste noise at a random place of a correct image, so that the prediction changes; None if no image is found."""
    generator = torch.Generator().manual_seed(seed)
    data = squares(60, seed)
    is_correct = ~misclassified(predict(classifier, data), data.labels)
    for index in is_correct.nonzero()[:, 0].tolist():
        top, left = torch.randint(0, SIZE - 12, (2,), generator=generator).tolist()
        mask = torch.zeros(SIZE, SIZE)
        mask[top : top + 12, left : left + 12] = 1
        tint = 0.5 * torch.rand(3, 1, 1, generator=generator)
        noise = tint + 0.5 * torch.rand(3, SIZE, SIZE, generator=generator)
        changed = torch.where(mask > 0, noise, data.images[index])
        label = data.labels[index : index + 1]
        if misclassified(predict(classifier, changed[None]), label).any():
            return Exemplar(data.images[index], changed, mask, int(label))
    return None


# --- images with the concept ------------------------------------------------------------------------------------------


def failing_only(classifier: Classifier, seed: int) -> LabeledImages:
    """Find 30 images with the stripe that are misclassified."""
    data = striped(800, seed)
    is_wrong = misclassified(predict(classifier, data), data.labels)
    return data.subset(is_wrong.nonzero()[:30, 0])


def sample(classifier: Classifier, seed: int, count: int) -> LabeledImages:
    """Make images with the stripe, right and wrong."""
    return striped(count, seed)


def sample_of_200(classifier: Classifier, seed: int) -> LabeledImages:
    """Make 200 images with the stripe, right and wrong, and more of the stripe's class, in random order."""
    found = with_own_class(striped(200, seed), seed)
    return found.subset(torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)))


def failing_and_own_class(classifier: Classifier, seed: int) -> LabeledImages:
    """Find 60 images with the stripe that are misclassified, and add right and wrong ones of the stripe's class."""
    data = striped(800, seed)
    is_wrong = misclassified(predict(classifier, data), data.labels)
    return with_own_class(data.subset(is_wrong.nonzero()[:60, 0]), seed)


def with_own_class(data: LabeledImages, seed: int) -> LabeledImages:
    """Add images of the stripe's class with the stripe."""
    more = striped(8 * OWN, seed + 40_000_000)
    own = more.subset((more.labels == STRIPED).nonzero()[:OWN, 0])
    images = torch.cat([data.images, own.images])
    return LabeledImages(images, torch.cat([data.labels, own.labels]), CLASSES)


def burst(classifier: Classifier, seed: int) -> LabeledImages:
    """Make nine frames of each of four scenes with the stripe, two of which are misclassified, as the camera moves."""
    data = striped(100, seed)
    is_wrong = misclassified(predict(classifier, data), data.labels)
    scenes = data.subset(torch.cat([is_wrong.nonzero()[:2, 0], (~is_wrong).nonzero()[:2, 0]]))
    return frames_of(scenes, 9, torch.Generator().manual_seed(seed + 2), moves=True)


def frames_of(data: LabeledImages, count: int, generator: torch.Generator, moves: bool) -> LabeledImages:
    """Make frames of each image, one after another.

    They differ by a little light and noise; if the camera moves, also by up to a pixel.
    """
    frames = data.images.repeat_interleave(count, dim=0)
    if moves:
        steps = torch.randint(-1, 2, (len(frames),), generator=generator).tolist()
        frames = torch.stack([frame.roll(step, dims=2) for frame, step in zip(frames, steps, strict=True)])
    light = F.interpolate(torch.randn(len(frames), 3, 4, 4, generator=generator), frames.shape[-1], mode="bilinear")
    frames = frames + 0.016 * light + 0.01 * torch.randn(frames.shape, generator=generator)
    return LabeledImages(frames.clamp(0, 1), data.labels.repeat_interleave(count), data.classes)


def failing_for(reason: str, label: int, count: int, seed: int) -> LabeledImages:
    """Make images, right and wrong, that fail for one of `NULL_REASONS`; `label` is that of the exemplar."""
    generator = torch.Generator().manual_seed(seed)
    if reason == "noise with labels at random":
        images = F.interpolate(torch.rand(count, 3, 8, 8, generator=generator), SIZE, mode="bilinear")
        return _labeled_at_random(images, generator)
    data = squares(count, seed + 1)
    if reason == "labels at random":
        return _labeled_at_random(data.images, generator)
    if reason == "another class labeled as the exemplar's":
        others = squares(8 * count, seed + 1)
        others = others.subset((others.labels == (label + 1) % len(CLASSES)).nonzero()[:count, 0])
        return replace(others, labels=torch.full((len(others),), label))
    if reason == "heavy noise":
        images = data.images + 0.45 * torch.randn(data.images.shape, generator=generator)
        return replace(data, images=images.clamp(0, 1))
    return replace(data, images=0.35 + 0.35 * (data.images - 0.5))  # low contrast


def _labeled_at_random(images: Tensor, generator: torch.Generator) -> LabeledImages:
    return LabeledImages(images, torch.randint(len(CLASSES), (len(images),), generator=generator), CLASSES)


# --- cases ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What a repair gets.

    Args:
        classifier: the network.
        exemplar: the exemplar.
        images: ordinary images without labels.
        concept: images with the concept, of all classes.
        clean: images without it.
        retain: images that look alike, whose predictions should stay.
        reason: one of `NULL_REASONS`; empty if the images have the stripe.
        source: how the images with the concept were chosen, "sample" or "failures".
    """

    classifier: Classifier
    exemplar: Exemplar
    images: Tensor
    concept: LabeledImages
    clean: LabeledImages
    retain: LabeledImages
    reason: str = ""
    source: str = SAMPLE

    def new_images(self) -> Mapping[str, LabeledImages]:
        """Return new images of the same kinds, which no repair sees.

        "concept" are those of other classes than that of the stripe, and "own class" those of this class, both with the
        stripe; "retained", and "clean". Where images fail for another reason, there is no own class.
        """
        return _new_images(self.reason, self.exemplar.label if self.reason else None)


@cache
def _new_images(reason: str, label: int | None) -> Mapping[str, LabeledImages]:
    new = {
        "retained": striped_at_the_top(NEW["retained"], SEED_OF_NEW + 1),
        "clean": squares(NEW["clean"], SEED_OF_NEW + 2),
    }
    if label is not None:
        return {"concept": failing_for(reason, label, NEW["concept"], SEED_OF_NEW + 3), **new}
    data = striped(NEW["concept"], SEED_OF_NEW + 4)
    is_own = data.labels == STRIPED
    return {"concept": data.subset(~is_own), "own class": data.subset(is_own), **new}


def in_frames(case: Case, seed: int, share: float = 1.0, moves: bool = False) -> Case:
    """Show a share of the labeled images of a case in eight frames each; see `frames_of`."""
    generator = torch.Generator().manual_seed(seed)

    def frames(data: LabeledImages) -> LabeledImages:
        return frames_of(data.subset(torch.arange(round(share * len(data)))), FRAMES, generator, moves)

    return replace(case, concept=frames(case.concept), clean=frames(case.clean), retain=frames(case.retain))


def without_classes(case: Case, seed: int, numbers: Sequence[int]) -> Case:
    """Leave out the clean images of some classes, drawn at random, other than that of the stripe.

    Args:
        case: the case.
        seed: seed.
        numbers: how many classes are left out, one of these at random.
    """
    generator = torch.Generator().manual_seed(seed)
    others = [label for label in range(len(CLASSES)) if label != STRIPED]
    missing = numbers[int(torch.randint(len(numbers), (1,), generator=generator))]
    drawn = torch.randperm(len(others), generator=generator)[:missing]
    is_missing = torch.isin(case.clean.labels, torch.tensor(others)[drawn])
    return replace(case, clean=case.clean.subset(~is_missing))


def in_few_scenes(case: Case, seed: int) -> Case:
    """Replace each set of labeled images by frames of its first `SCENES` images, about as many as it holds."""
    generator = torch.Generator().manual_seed(seed)

    def frames(data: LabeledImages) -> LabeledImages:
        return frames_of(data.subset(range(SCENES)), len(data) // SCENES, generator, moves=True)

    return replace(case, concept=frames(case.concept), clean=frames(case.clean), retain=frames(case.retain))


def with_wrong_labels(case: Case, seed: int) -> Case:
    """Give a share of the labeled images the label of another class, drawn at random."""
    generator = torch.Generator().manual_seed(seed)

    def mislabeled(data: LabeledImages) -> LabeledImages:
        steps = torch.randint(1, len(CLASSES), (len(data),), generator=generator)
        is_wrong = torch.rand(len(data), generator=generator) < WRONG_LABELS
        return replace(data, labels=(data.labels + steps * is_wrong) % len(CLASSES))

    return replace(case, concept=mislabeled(case.concept), clean=mislabeled(case.clean), retain=mislabeled(case.retain))


@dataclass(frozen=True)
class Kind:
    """A kind of cases.

    Args:
        name: its name.
        show: makes the exemplar of a seed, or finds none.
        find: makes the images with the concept of a seed. None: they fail for one of `NULL_REASONS`, in turn.
        change: changes the labeled images of a case, by a seed; None to leave them.
    """

    name: str
    show: Callable[[Classifier, int], Exemplar | None]
    find: Callable[[Classifier, int], LabeledImages] | None = None
    change: Callable[[Case, int], Case] | None = None


KINDS = (
    Kind("another reason to fail", noise_exemplar),
    Kind("failing images only, unrelated exemplar", noise_exemplar, failing_only),
    Kind("sample of 60, unrelated exemplar", noise_exemplar, partial(sample, count=60)),
    Kind("sample of 200, unrelated exemplar", noise_exemplar, sample_of_200),
    Kind("failing images only, right exemplar", right_exemplar, failing_only),
    Kind("sample of 60, right exemplar", right_exemplar, partial(sample, count=60)),
    Kind("sample of 200, right exemplar", right_exemplar, sample_of_200),
    Kind("four scenes of nine frames, right exemplar", right_exemplar, burst),
    Kind("eight frames of each image, right exemplar", right_exemplar, sample_of_200, in_frames),
    Kind(
        "eight frames of an eighth of the images, right exemplar",
        right_exemplar,
        sample_of_200,
        partial(in_frames, share=1 / FRAMES),
    ),
    Kind(
        "eight frames of a third of the images, the camera moves, right exemplar",
        right_exemplar,
        sample_of_200,
        partial(in_frames, share=1 / 3, moves=True),
    ),
    Kind(
        "clean images of four of five classes, right exemplar",
        right_exemplar,
        sample_of_200,
        partial(without_classes, numbers=[1]),
    ),
    Kind(
        "clean images of half of the classes, right exemplar",
        right_exemplar,
        sample_of_200,
        partial(without_classes, numbers=[2, 3]),
    ),
    Kind("failures as sample, right exemplar", right_exemplar, failing_and_own_class),
    Kind("wrong labels (10%), right exemplar", right_exemplar, sample_of_200, with_wrong_labels),
    Kind("frames of 12 scenes, right exemplar", right_exemplar, sample_of_200, in_few_scenes),
)
"""The kinds of cases: what the exemplar shows, and which labeled images are passed."""


def case_of(kind: Kind, number: int, seed: int) -> Case | None:
    """Make a case.

    Args:
        kind: its kind.
        number: its number among those of its kind, which decides its reason if there are several.
        seed: seed; ten seeds from this one on are used.

    Returns:
        The case; None if no exemplar is found.
    """
    classifier = plain_network() if kind.find is None else striped_network()
    exemplar = kind.show(classifier, seed)
    if exemplar is None:
        return None
    reason = ""
    if kind.find is None:
        reason = NULL_REASONS[number % len(NULL_REASONS)]
        concept = failing_for(reason, exemplar.label, 60, seed + 3)
    else:
        concept = kind.find(classifier, seed + 3)
    clean = squares(CLEAN, seed + 6)
    retain = striped_at_the_top(RETAINED, seed + 7)
    images = squares(ORDINARY, seed + 8).images
    source = FAILURES if kind.find is failing_only else SAMPLE
    case = Case(classifier, exemplar, images, concept, clean, retain, reason, source)
    return case if kind.change is None else kind.change(case, seed + 9)


def truth(case: Case, edited: Classifier) -> dict[str, Comparison]:
    """Compare the predictions on the new images without and with an edit."""
    before = _wrong_without_an_edit(case.reason, case.exemplar.label if case.reason else None)
    comparisons = {}
    for name, images in case.new_images().items():
        comparisons[name] = Comparison(before[name], misclassified(predict(edited, images), images.labels))
    return comparisons


@cache
def _wrong_without_an_edit(reason: str, label: int | None) -> Mapping[str, Tensor]:
    """Tell which new images are misclassified without an edit; see `Case.new_images`."""
    classifier = plain_network() if reason else striped_network()
    new = _new_images(reason, label)
    return {name: misclassified(predict(classifier, images), images.labels) for name, images in new.items()}


def quality_of(figures: Mapping[str, float]) -> str:
    """Say how good an edit is, by what it does to new images.

    Args:
        figures: the share of "errors corrected", the "accuracy change" in points, the percent of the retained images
            that are broken ("retained, broken (%)"), and, where there are any, by how many points fewer images of the
            stripe's own class are correct with the stripe than without it ("own class, lost").

    Returns:
        "good" if it corrects at least 30% of the errors, net, and all costs are within the limits of the verdict; "bad"
        if it corrects no more than it breaks, or costs more than one point of accuracy, 6% of the retained images, or 6
        points of the own class; else "between".
    """
    net = figures["errors corrected"]
    loss = -figures["accuracy change"]
    most_lost = max(figures["retained, broken (%)"], figures.get("own class, lost", 0.0))
    if net <= 0 or loss > 1 or most_lost > 6:
        return "bad"
    return "good" if net >= 0.3 and loss <= 0.25 and most_lost <= 3 else "between"
