"""The image sets of the desk: disjoint, kept at a few layers, and compared before and after an edit."""

import os
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from itertools import combinations

import torch
from torch import Tensor

from edittools._caching import digest_tensors
from edittools.classifiers import Classifier, check_classifier, remap_labels
from edittools.cut import Cut, editable_layers
from edittools.edits import Edit, applied_edits, unedited_fingerprint
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, LazyImages, evenly_spaced, resized, stratified
from edittools.metrics import Comparison, misclassified, predict
from edittools.moments import SecondMoment, keys_of, measure
from edittools.rewriting import SAMPLE, rewrite
from edittools.selection import BUDGET, CachedStates, Repair, cache_states, most_broken, repair
from edittools.selection.splits import check_apart, distinct
from edittools.selection.trials import later_layers
from edittools.widgets.folders import pictures_in, read_folder

ImageSource = LabelledImages | LazyImages | Tensor | str | os.PathLike
"""Images with or without labels, or the path of a folder."""

PIXELS = 20_000_000
"""At most so many pixels of a set are used (400 images of 224 × 224), evenly spread over it, to keep the desk fast."""

REFERENCE_SHARE = 1 / 4
"""So large a part of the `clean` images are reference images; accuracy is measured on the others."""

REFERENCE_WEIGHT = 30.0
"""The `reference_weight` of a rewrite at the desk."""

LAYERS_KEPT = 3
"""The images stay in memory as the states at so many layers."""


@dataclass(frozen=True, eq=False)
class Result:
    """What an edit does to the image sets.

    Args:
        edit: the edit.
        after: logits `(N, classes)` of all `data`, with the edit.
        images: comparison of the images, without those that were drawn on.
        keep: comparison of the images to keep; None if there are none.
        everyday: comparison of the images on which accuracy is measured; None if there are none.
        verdict: the figures in sentences, one per line.
        held_out: whether the figures in the verdict are of images that were not used to select the edit; those of the
            comparisons are of images that were.
        data: the images and labels that it was computed with.
    """

    edit: Edit
    after: Tensor = field(repr=False)
    images: Comparison = field(repr=False)
    retain: Comparison | None = field(repr=False)
    clean: Comparison | None = field(repr=False)
    verdict: str = ""
    held_out: bool = False
    data: LabelledImages | None = field(default=None, repr=False)


@dataclass(frozen=True)
class LayerStates:
    """The image sets at one layer: its cut, the second moment of the reference images, and the states of each set."""

    cut: Cut
    moment: SecondMoment
    sets: dict[str, CachedStates]


@dataclass(frozen=True)
class _Weights:
    """What predictions depend on: the unedited weights, all buffers, and the edits that are applied, by digest."""

    fingerprint: str
    buffers: str
    applied: frozenset[str]

    @classmethod
    def of(cls, classifier: Classifier) -> "_Weights":
        applied = frozenset(edit.digest for edit in applied_edits(classifier))
        return cls(unedited_fingerprint(classifier), digest_tensors(classifier.buffers()), applied)

    def without(self, edit: Edit) -> "_Weights":
        return replace(self, applied=self.applied - {edit.digest})


class DeskSets:
    """A classifier, the images to correct, and perhaps images whose accuracy is measured and images to keep.

    Labels change by `relabel`, images by `add`. The classifier's weights may not change: what was predicted, and what
    serves as a label, comes from those at the beginning.

    Args:
        classifier: the classifier; it is not changed.
        images: the images to correct.
        everyday: images whose accuracy is measured. A quarter of them are reference images instead, which define C;
            without any, `images` are the reference images.
        keep: images whose predictions should not change.

    Raises:
        TypeError: if the classifier is not a `Classifier`, or if a set is not a `ImageSource`.
        ValueError: if a set is empty or cannot be used, or if two sets share an image.
        FileNotFoundError: if there is no such folder.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: ImageSource,
        clean: ImageSource | None = None,
        retain: ImageSource | None = None,
    ) -> None:
        self.classifier = check_classifier(classifier)
        self.notes: list[str] = []
        self._weights = _Weights.of(classifier)
        sources = {"images": images, "clean": clean, "retain": retain}
        self.given: dict[str, LabelledImages] = {}
        for name, source in sources.items():
            if source is not None:
                self.given[name] = read_set(name, source, classifier, self.notes)
        check_apart(self.given, combinations(self.given, 2))
        self.images = self.given["images"]
        self.retain = self.given.get("retain")
        self.clean = None
        self.reference = self.images.images
        if "clean" in self.given:
            self._split_clean(self.given["clean"])
        self.layers = tuple(editable_layers(self.classifier).layer)
        self.later = tuple(later_layers(self.classifier))
        self.before = predict(self.classifier, self.images).float()
        self._states: dict[str, LayerStates] = {}

    def _split_clean(self, data: LabelledImages) -> None:
        """Take the reference images out of a set; a single image is a reference image."""
        is_reference = stratified(data.labels, REFERENCE_SHARE, seed=0)
        if not is_reference.any():
            is_reference[0] = True
        self.reference = data.images[is_reference]
        if not is_reference.all():
            self.clean = data.subset(~is_reference)

    def __repr__(self) -> str:
        wrong = sum(self.is_misclassified(index) for index in range(len(self.images)))
        return f"{self.classifier}, {len(self.images)} images, {wrong} misread"

    @property
    def order(self) -> list[int]:
        """The indices of the images, by how far the labeled class is behind the best other one, the worst first."""
        labels = self.images.labels[:, None]
        labeled = self.before.gather(1, labels)[:, 0]
        best_other = self.before.scatter(1, labels, float("-inf")).amax(dim=1)
        return (labeled - best_other).argsort(stable=True).tolist()

    def shows(self, index: int) -> str:
        """Return the name of the class that an image shows."""
        return self.classifier.classes[int(self.images.labels[index])]

    def is_misclassified(self, index: int) -> bool:
        """Return whether an image is misclassified before any edit."""
        return int(self.before[index].argmax()) != int(self.images.labels[index])

    def check_weights(self) -> None:
        """Refuse to go on with other weights.

        Raises:
            ValueError: if weights, buffers or applied edits are not those of when the images were read.
        """
        if _Weights.of(self.classifier) != self._weights:
            raise ValueError(
                f"weights or buffers of the {type(self.classifier.model).__name__} were changed since the images were "
                "read, by training, by an edit that is applied or undone, or by another precision; undo that, or read "
                "the images again"
            )

    def is_current(self, result: Result) -> bool:
        """Return whether a result is of the images, labels and weights as they are now.

        The weights may have the result's own edit applied.
        """
        if result.data is not self.images:
            return False
        try:
            weights = _Weights.of(self.classifier)
        except ValueError:  # something else changed a parameter that an applied edit changes
            return False
        return weights.without(result.edit) == self._weights.without(result.edit)

    def relabel(self, index: int, name: str) -> None:
        """Set the class that an image shows, by its name.

        Raises:
            KeyError: if there is no such class; the message lists similar names.
        """
        labels = self.images.labels.clone()
        labels[index] = self.classifier.index(name)
        self.images = replace(self.images, labels=labels)

    def add(self, picture: Tensor) -> int:
        """Add an image `(3, H, W)`; the current prediction serves as its label.

        Returns:
            The index of the image.

        Raises:
            ValueError: if the image is in one of the sets, or if the weights were changed.
        """
        self.check_weights()
        new = read_set("picture", picture[None], self.classifier, [])
        sets = {**self.given, "images": self.images, "picture": new}
        check_apart(sets, combinations(sets, 2))
        pixels = torch.cat([self.images.images, new.images])
        labels = torch.cat([self.images.labels, new.labels])
        self.before = torch.cat([self.before, predict(self.classifier, new).float()])
        self.images = LabelledImages(pixels, labels, self.classifier.classes)
        self._states.clear()
        return len(self.images) - 1

    def at(self, layer: str) -> LayerStates:
        """Run the sets up to a layer; the states at the last few layers stay in memory.

        Raises:
            KeyError: if there is no such layer.
            ValueError: if the weights were changed.
        """
        self.check_weights()
        if layer not in self._states:
            sets = {"images": self.images}
            if self.retain is not None:
                sets["retain"] = self.retain
            if self.clean is not None:
                sets["clean"] = self.clean
            cuts, states = cache_states(self.classifier, [layer], **sets)
            moment = measure(self.classifier, [layer], self.reference)[layer]
            moment = replace(moment, sample=keys_of(cuts[layer], evenly_spaced(self.reference, SAMPLE)))
            while len(self._states) >= LAYERS_KEPT:
                oldest = next(iter(self._states))
                del self._states[oldest]
            self._states[layer] = LayerStates(cuts[layer], moment, states)
        return self._states[layer]

    def rewrite(self, exemplar: Exemplar, layer: str, strength: float = 1.0) -> Edit:
        """Rewrite one layer by one exemplar, by least squares: exact, and in milliseconds.

        Raises:
            ValueError: if the exemplar or the strength cannot be used, or if the weights were changed.
        """
        states = self.at(layer)
        edit = rewrite(
            self.classifier,
            states.cut,
            exemplar,
            states.moment,
            objective="least_squares",
            reference_weight=REFERENCE_WEIGHT if "clean" in self.given else 0.0,
        )
        return edit if strength == 1 else strength * edit

    def result(self, edit: Edit, drawn_on: Collection[int] = ()) -> Result:
        """Compare the sets before and after an edit.

        Args:
            edit: the edit.
            drawn_on: indices of images that do not count, since the edit was made from them.

        Raises:
            ValueError: if the edit is of another model, or if the weights were changed.
        """
        first_layer = next((layer for layer in self.layers if layer in edit.layers), edit.layers[0])
        data = self.images
        states = self.at(first_layer).sets
        after = states["images"].logits(edit)
        counted = [index for index in range(len(data)) if index not in drawn_on]
        wrong_before = misclassified(states["images"].original, data.labels)
        wrong_after = misclassified(after, data.labels)
        result = Result(
            edit=edit,
            after=after,
            images=Comparison(wrong_before[counted], wrong_after[counted]),
            retain=states["retain"].compare(edit) if "retain" in states else None,
            clean=states["clean"].compare(edit) if "clean" in states else None,
            data=data,
        )
        return replace(result, verdict=verdict(result))

    def search(self, exemplar: Exemplar, drawn_on: int, told: Callable[[str, int, int | None], None]) -> Repair:
        """Search for the best edit with `repair`, on the images without the one that the exemplar was made from.

        Args:
            exemplar: the exemplar.
            drawn_on: index of the image that it was made from.
            told: is called with the method, the number of candidates done, and their total, before each candidate.

        Raises:
            ValueError: if there are no `clean` images, or if the weights were changed.
        """
        if "clean" not in self.given:
            raise ValueError("no everyday images were given, so the cost of an edit is not known; pass everyday=")
        self.check_weights()
        failing = self.images.subset([index for index in range(len(self.images)) if index != drawn_on])
        clean = self.given["clean"]
        return repair(self.classifier, exemplar, failing, clean, self.retain, baselines=False, progress=told)


def read_set(name: str, source: ImageSource, classifier: Classifier, notes: list[str]) -> LabelledImages:
    """Load a set at the classifier's size, each image once, and at most `PIXELS` of it.

    Args:
        name: of the set, used in notes and error messages.
        source: the images. Without labels, the current predictions serve as labels.
        classifier: gives size, class names and predictions.
        notes: a line is added for whatever is left out or predicted.

    Raises:
        TypeError: if `source` is anything else.
        ValueError: if it is empty or cannot be used.
        FileNotFoundError: if there is no such folder.
    """
    if not isinstance(source, str | os.PathLike | LabelledImages | Tensor | LazyImages):
        raise TypeError(
            f"{name} are a {type(source).__name__}; pass LabelledImages, a tensor (N, 3, H, W), LazyImages or the path "
            "of a folder"
        )
    is_folder = isinstance(source, str | os.PathLike)
    count = len(pictures_in(source)) if is_folder else len(source)
    step = max(1, -(-count * classifier.size**2 // PIXELS))
    if step > 1:
        notes.append(f"{name}: one picture in {step} is used.")
    if is_folder:
        data, left_out = read_folder(source, classifier, step)
        if left_out:
            notes.append(f"{name}: {len(left_out)} files left out ({'; '.join(left_out[:3])}).")
    else:
        data = _labeled_set(name, source, classifier, step, notes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        data = distinct(name, data)
    notes += [f"{warning.message}." for warning in caught]
    return data


def _labeled_set(
    name: str, source: LabelledImages | LazyImages | Tensor, classifier: Classifier, step: int, notes: list[str]
) -> LabelledImages:
    """Take one image in `step` at the classifier's size; without labels, the predictions serve as labels."""
    if isinstance(source, LabelledImages):
        data = remap_labels(name, source, classifier)
    else:
        data = LabelledImages.unlabeled(source, classifier.classes)
    if not len(data):
        raise ValueError(f"no {name} were given; pass at least one image")
    data = data.subset(range(0, len(data), step))
    data = replace(data, images=resized(data.images[:], classifier.size))
    if not isinstance(source, LabelledImages):
        data = replace(data, labels=predict(classifier, data).argmax(dim=1))
        notes.append(f"{name} have no labels: they are held to what is read now.")
    return data


def verdict(result: Result) -> str:
    """Describe what an edit corrects, what it costs, and what to try next; one sentence per line."""
    wrong = int(result.images.before.sum())
    corrected = result.images.corrected
    broken = result.images.broken
    lines = [f"{corrected} of {wrong} misread pictures are corrected, {broken} of the others broke."]
    within_constraints = True
    if result.clean is not None:
        count = len(result.clean.before)
        change = result.clean.accuracy_change
        allowed = max(BUDGET, 100 / count)
        within_constraints = within_constraints and change >= -allowed - 1e-9
        lines.append(f"{change:+.2f} points of accuracy on {count:,} everyday pictures ({allowed:.2g} may be lost).")
    if result.retain is not None:
        count = len(result.retain.before)
        most = most_broken(count)
        within_constraints = within_constraints and result.retain.broken <= most
        lines.append(f"{result.retain.broken} of {count:,} pictures to keep broke ({most or 'none'} may).")
    missing = [name for name in ("clean", "retain") if getattr(result, name) is None]
    if missing:
        lines.append(f"What it costs elsewhere is not known: give {' and '.join(missing)} pictures.")
    advice = "“Find the best” tries other layers, ranks and strengths."
    if corrected <= broken:
        lines.append(f"That is no gain. {advice}")
    elif not within_constraints:
        lines.append(f"That is too much: lower the strength. {advice}")
    return "\n".join(lines)
