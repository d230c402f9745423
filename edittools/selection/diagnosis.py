"""The diagnosis before a search: do the exemplars show the mistake, and are there enough images?"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.metrics import predict
from edittools.moments import FEW_IMAGES
from edittools.selection.verdict import FAIL, SIGNIFICANCE, Condition, condition

COVERED = 0.9
"""The mask covers the change if at least this share of |x' − x| is inside of it."""

FEWEST_ERRORS = 6
"""With fewer misclassified images no edit reaches p ≤ 0.05, even if it corrects all: 2 · 0.5⁵ is 0.06."""


@dataclass(frozen=True)
class ExemplarDiagnosis:
    """What an exemplar shows before any edit.

    Attributes:
        name: name of the exemplar.
        original: class index that x is predicted as.
        changed: class index that x' is predicted as.
        label: class index of both, if it is known.
        inside_mask: share of |x' − x| inside the mask; 0 if x and x' do not differ.
        size: height and width in pixels.
    """

    name: str
    original: int
    changed: int
    label: int | None
    inside_mask: float
    size: tuple[int, int]

    @property
    def alike(self) -> bool:
        """Whether x' is predicted as x."""
        return self.changed == self.original


def diagnose_exemplars(
    classifier: Classifier, exemplars: Mapping[str, Sequence[Exemplar]]
) -> tuple[ExemplarDiagnosis, ...]:
    """Classify x and x' of each exemplar, and compare their difference with the mask.

    Args:
        classifier: the classifier.
        exemplars: the exemplars of each edit that is tried, by name.
    """
    named = [(name, exemplar) for name, group in exemplars.items() for exemplar in group]
    diagnoses = []
    for name, exemplar in named:
        pair = torch.stack([exemplar.image, exemplar.changed])
        original, changed = predict(classifier, pair).argmax(dim=1).tolist()
        difference = (exemplar.changed - exemplar.image).abs().sum(dim=0)
        total = float(difference.sum())
        inside = float((difference * exemplar.mask).sum()) / total if total else 0.0
        height, width = exemplar.mask.shape
        diagnoses.append(ExemplarDiagnosis(name, original, changed, exemplar.label, inside, (height, width)))
    return tuple(diagnoses)


def exemplar_conditions(classifier: Classifier, diagnoses: Sequence[ExemplarDiagnosis]) -> list[Condition]:
    """List the conditions on the exemplars, all of which must satisfy them; see `diagnose_exemplars`."""
    classes = classifier.classes
    labeled = [one for one in diagnoses if one.label is not None]
    correct = [one for one in labeled if one.original == one.label]
    differing = [one for one in diagnoses if not one.alike]
    covered = [one for one in diagnoses if one.inside_mask >= COVERED]
    fitting = [one for one in diagnoses if one.size == (classifier.size, classifier.size)]
    sizes = sorted({f"{height} × {width}" for height, width in (one.size for one in diagnoses)})
    return [
        condition(
            "x is classified correctly",
            len(correct) == len(labeled) if labeled else None,
            _predicted(diagnoses, "x", [classes[one.original] for one in diagnoses]),
            "Take an image that is classified correctly without the concept."
            if labeled
            else "Give the exemplar its label, Exemplar(image, changed, mask, label).",
        ),
        condition(
            "x' is predicted otherwise than x",
            len(differing) == len(diagnoses),
            _predicted(diagnoses, "x'", [classes[one.changed] for one in diagnoses]),
            "Mark all of what misleads, or take another image or material.",
        ),
        condition(
            "the mask covers the change",
            len(covered) == len(diagnoses),
            f"{min(one.inside_mask for one in diagnoses):.0%} of the difference between x and x' is inside of it",
            "Pass a mask of all pixels that differ, or make x' by Exemplar.paste.",
        ),
        condition(
            "image and mask have the classifier's size",
            len(fitting) == len(diagnoses),
            f"{', '.join(sizes)} pixels; the classifier's images have {classifier.size} × {classifier.size}",
            "Load both by load_image(path, classifier) and load_mask(path, classifier).",
        ),
    ]


def _predicted(diagnoses: Sequence[ExemplarDiagnosis], what: str, names: Sequence[str]) -> str:
    """Say what x or x' of each exemplar is predicted as."""
    if len(diagnoses) == 1:
        return f"{what} is predicted as {names[0]}"
    pairs = [f"{one.name} as {name}" for one, name in zip(diagnoses, names, strict=True)]
    listed = ", ".join(pairs[:5])
    return f"{what} is predicted: {listed}" + (", …" if len(pairs) > 5 else "")


def image_conditions(clean: int, errors: int | None, retained: int | None) -> list[Condition]:
    """List the conditions on the numbers of images.

    Args:
        clean: number of clean images, reference images included.
        errors: number of misclassified images with the concept; None if none are held out.
        retained: number of retained images; None if there are none.
    """
    return [
        condition(
            f"at least {FEW_IMAGES} clean images",
            clean >= FEW_IMAGES,
            f"{clean:,} images",
            "Pass more images of everyday use, better hundreds; without labels, the current predictions serve.",
        ),
        condition(
            f"at least {FEWEST_ERRORS} misclassified images with the concept",
            None if errors is None else errors >= FEWEST_ERRORS,
            "" if errors is None else f"{errors:,} images",
            f"Pass more failing images: with fewer, no edit can reach p ≤ {SIGNIFICANCE}.",
        ),
        condition(
            "retained images are given",
            True if retained else None,
            f"{retained:,} images" if retained else "none",
            "Pass images that legitimately rely on the concept as retain=, so that their cost is known.",
        ),
    ]


def warn_about(conditions: Sequence[Condition], stacklevel: int) -> None:
    """Warn about each condition that fails.

    Args:
        conditions: the conditions.
        stacklevel: as of `warnings.warn`, counted from the caller.

    Warns:
        UserWarning: for each condition that fails, with its number and advice.
    """
    for one in conditions:
        if one.status == FAIL:
            warnings.warn(f"This does not hold: {one.name} ({one.number}). {one.advice}", stacklevel=stacklevel + 1)
