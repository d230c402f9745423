"""The image sets of the desk: disjoint, cached at a few layers, and compared before and after an edit."""

import os
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from edittools._caching import digest_tensors
from edittools._ledger import Weights, ledger_of
from edittools.classifiers import Classifier, check_classifier, remap_labels
from edittools.cut import Cut, cut_all, editable_layers
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.folders import image_files, read_folder
from edittools.images import LabelledImages, LazyImages, resized
from edittools.metrics import Comparison, label_margins, misclassified, predict
from edittools.probing import evidence_map
from edittools.rewriting import REFERENCE_WEIGHT, rewrite_at
from edittools.selection import (
    CachedActivations,
    Constraints,
    RepairResult,
    cache_activations,
    candidate_layers,
    repair,
)
from edittools.selection.judgment import (
    RETAINED,
    USE,
    accuracy_check,
    describe_effect,
    fit_check,
    retained_check,
)
from edittools.selection.repair import Callback
from edittools.selection.splits import check_disjoint, label_by_prediction, split_clean, without_duplicates
from edittools.site import LayerReference, site_at

ImageSource = LabelledImages | LazyImages | Tensor | str | os.PathLike
"""Images with or without labels, or the path of a folder."""

MAX_PIXELS = 20_000_000
"""The largest size of a set (400 images of 224 × 224), which keeps the desk fast; larger sets are thinned evenly."""

BEFORE_CHANGE = "Measured before images or labels were changed:"
"""The first line of the verdict on an edit that a search has found, after a change of images or labels."""

CROSS_VALIDATED = "These figures are cross-validated: each image counts with an edit that was selected without it."
"""The line of a verdict that says which edits its figures are of."""

MEASURING = "The cost on other images is being measured …"
"""The last line of a verdict before the clean and retained images are measured."""

CACHED_LAYERS = 3
"""The number of layers at which the states of the images stay in memory."""


@dataclass(frozen=True, eq=False)
class Result:
    """What an edit does to the image sets.

    Args:
        edit: the edit.
        after: logits `(N, classes)` of all `data`, with the edit.
        images: comparison of the images, without those that the edit was made from.
        retain: comparison of the retained images; None if there are none.
        clean: comparison of the clean images; None if there are none.
        verdict: the figures in sentences for someone who writes no code, one per line.
        details: the edit, and how it was selected, one sentence per line.
        repair: what the search has found, if the edit comes from one. The figures in the verdict then come from images
            that were not used to select the edit; those of the comparisons come from images that were.
        data: the images and labels that it was computed with.
        charts: the charts of the search as HTML, if the edit comes from one; empty until they are drawn.
    """

    edit: Edit
    after: Tensor = field(repr=False)
    images: Comparison = field(repr=False)
    retain: Comparison | None = field(repr=False)
    clean: Comparison | None = field(repr=False)
    verdict: str = ""
    details: str = field(default="", repr=False)
    repair: RepairResult | None = field(default=None, repr=False)
    data: LabelledImages | None = field(default=None, repr=False)
    charts: str = field(default="", repr=False)

    @property
    def held_out(self) -> bool:
        """Whether the figures in the verdict come from images that were not used to select the edit."""
        return self.repair is not None


Preview = Callable[[Result], None]
"""Takes a result whose clean and retained images are not measured yet."""


@dataclass(frozen=True)
class LayerStates:
    """The image sets at one layer: its cut, what the reference images say about it, and the states of each set."""

    cut: Cut
    reference: LayerReference
    sets: dict[str, CachedActivations]


class DeskSets:
    """A classifier, the images to correct and, optionally, clean images and retained images.

    `relabel` changes a label, and `add` adds an image. The classifier's weights must not change: the predictions, and
    the labels that were predicted, are those of the weights at the beginning.

    Args:
        classifier: the classifier; it is not changed.
        images: the images to correct.
        clean: images on which accuracy is measured. A quarter of them serve as reference images instead, which define
            C; without any, `images` are the reference images.
        retain: images whose predictions should not change.

    Raises:
        TypeError: if the classifier is not a `Classifier`, or if a set is not an `ImageSource`.
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
        self._weights = Weights(classifier)
        self._buffers = digest_tensors(classifier.buffers())
        sources = {"images": images, "clean": clean, "retain": retain}
        self.initial_sets: dict[str, LabelledImages] = {}
        for name, source in sources.items():
            if source is not None:
                self.initial_sets[name] = read_set(name, source, classifier, self.notes)
        check_disjoint(self.initial_sets)
        self.initial_sets["images"] = _named(self.initial_sets["images"])
        self.images = self.initial_sets["images"]
        self.retain = self.initial_sets.get("retain")
        self.clean = None
        self.reference = self.images.images
        if self.has_clean:
            reference, clean, _ = split_clean(self.initial_sets["clean"], test_share=0)
            self.reference = reference.images
            self.clean = clean if len(clean) else None
            self.notes.insert(0, self._describe_division())
        self.layers = tuple(editable_layers(self.classifier).layer)
        candidates = candidate_layers(self.classifier)
        self.default_layer = candidates[2 * len(candidates) // 3]
        self.before = predict(self.classifier, self.images).float()
        self._states: dict[str, LayerStates] = {}

    def __repr__(self) -> str:
        count = sum(self.is_misclassified(index) for index in range(len(self.images)))
        return f"{self.classifier}, {len(self.images)} images, {count} misclassified"

    def _describe_division(self) -> str:
        """Say in one sentence which clean images define what an edit keeps, and which ones measure its cost."""
        measured = 0 if self.clean is None else len(self.clean)
        return (
            f"Of {len(self.initial_sets['clean'])} clean images, {len(self.reference)} are reference images, which an "
            f"edit should keep; accuracy is measured on the other {measured}."
        )

    @property
    def has_clean(self) -> bool:
        """Whether clean images were passed."""
        return "clean" in self.initial_sets

    @property
    def order(self) -> list[int]:
        """The indices of the images by the margin of the label's logit over the largest other logit, ascending."""
        return label_margins(self.before, self.images.labels).argsort(stable=True).tolist()

    def name(self, index: int) -> str:
        """Return the name of an image: that of its file, or "image" and its index."""
        return self.images.names[index]

    def class_name(self, index: int) -> str:
        """Return the name of the class that an image is labeled with."""
        return self.classifier.classes[int(self.images.labels[index])]

    def is_misclassified(self, index: int) -> bool:
        """Return whether an image is misclassified before any edit."""
        return int(self.before[index].argmax()) != int(self.images.labels[index])

    def check_weights(self) -> None:
        """Check that the weights are those at the beginning.

        Raises:
            ValueError: if weights, buffers or applied edits have changed since the images were loaded.
        """
        if not self._has_initial_weights():
            raise ValueError(
                f"the weights or buffers of the {type(self.classifier.model).__name__} have changed since the images "
                "were loaded, by training, by an edit that was applied or undone, or by a change of precision; undo "
                "the change, or load the images again"
            )

    def is_current(self, result: Result) -> bool:
        """Return whether a result was computed with the current images, labels and weights.

        The result's own edit may be applied to the weights.
        """
        if result.data is not self.images:
            return False
        try:
            return self._has_initial_weights(result.edit)
        except ValueError:  # a parameter that an applied edit changes was also changed by something else
            return False

    def _has_initial_weights(self, edit: Edit | None = None) -> bool:
        """Return whether the weights are those at the beginning, or these with one edit on top."""
        if digest_tensors(self.classifier.buffers()) != self._buffers:
            return False
        with ledger_of(self.classifier) as ledger:
            fingerprints = list(ledger.fingerprints())
            applied = ledger.edits
        if fingerprints[0] == self._weights.fingerprint:
            return True
        is_own = edit is not None and bool(applied) and applied[-1].digest == edit.digest
        return is_own and fingerprints[-1] == self._weights.fingerprint  # that below the last edit

    def relabel(self, index: int, name: str) -> None:
        """Set the label of an image by the name of the class.

        Raises:
            KeyError: if there is no such class; the message lists similar names.
        """
        labels = self.images.labels.clone()
        labels[index] = self.classifier.index(name)
        self.images = replace(self.images, labels=labels)

    def add(self, image: Tensor, name: str = "") -> int:
        """Add an image; the current prediction serves as its label.

        Args:
            image: `(3, H, W)`.
            name: its name, such as that of its file; by default "image" and its index.

        Returns:
            The index of the image.

        Raises:
            ValueError: if the image is in one of the sets, or if the weights were changed.
        """
        self.check_weights()
        added = read_set("added image", image[None], self.classifier, [])
        sets = {**self.initial_sets, "images": self.images, "added image": added}
        check_disjoint(sets)
        pixels = torch.cat([self.images.images, added.images])
        labels = torch.cat([self.images.labels, added.labels])
        self.before = torch.cat([self.before, predict(self.classifier, added).float()])
        names = (*self.images.names, name or f"image {len(self.images)}")
        self.images = LabelledImages(pixels, labels, self.classifier.classes, names)
        self._states.clear()
        return len(self.images) - 1

    def states_at(self, layer: str) -> LayerStates:
        """Run the sets up to a layer; the states at the last few layers stay in memory.

        Raises:
            KeyError: if there is no such layer.
        """
        if layer not in self._states:
            sets = {"images": self.images}
            if self.retain is not None:
                sets["retain"] = self.retain
            if self.clean is not None:
                sets["clean"] = self.clean
            cuts = cut_all(self.classifier, [layer], self._weights)
            states = cache_activations(cuts, sets)
            while len(self._states) >= CACHED_LAYERS:
                oldest = next(iter(self._states))
                del self._states[oldest]
            reference = LayerReference(cuts[layer], self.reference)
            self._states[layer] = LayerStates(cuts[layer], reference, states)
        return self._states[layer]

    def rewrite(self, exemplar: Exemplar, layer: str, strength: float = 1.0) -> Edit:
        """Rewrite one layer by one exemplar, by least squares: exact, and in milliseconds.

        Args:
            exemplar: the exemplar.
            layer: name of the layer.
            strength: α.

        Raises:
            ValueError: if the exemplar or the strength cannot be used.
        """
        states = self.states_at(layer)
        site = site_at(states.cut, [exemplar], states.reference)
        [edit] = rewrite_at(site, reference_weight=REFERENCE_WEIGHT if self.has_clean else 0.0)
        return edit if strength == 1 else strength * edit

    def evidence(self, index: int, layer: str) -> tuple[Tensor, str, str]:
        """Map where a layer argues for the predicted class of an image, and against its label.

        Args:
            index: index of the image. If it is classified correctly, the second most likely class takes the place of
                the label.
            layer: name of the layer.

        Returns:
            The map `(H, W)`, see `probing.evidence_map`, and the names of both classes.

        Raises:
            KeyError: if there is no such layer.
            ValueError: if the weights were changed.
        """
        label = int(self.images.labels[index])
        ranking = self.before[index].argsort(descending=True).tolist()
        against = label if self.is_misclassified(index) else ranking[1]
        self.check_weights()
        cut = self.states_at(layer).cut
        heat = evidence_map(self.classifier, cut, self.images.images[index], ranking[0], against)
        return heat, self.classifier.classes[ranking[0]], self.classifier.classes[against]

    def by_change(self, result: Result) -> list[int]:
        """Order the indices of the images by what an edit changes.

        Images whose predicted class changes come first; then those whose margin, the label's logit over the largest
        other one, changes most.
        """
        labels = self.images.labels
        change = (label_margins(result.after, labels) - label_margins(self.before, labels)).abs()
        is_changed = result.after.argmax(dim=1) != self.before.argmax(dim=1)
        return sorted(range(len(labels)), key=lambda index: (not is_changed[index], -float(change[index])))

    def result(self, edit: Edit, drawn_on: Collection[int] = (), preview: Preview | None = None) -> Result:
        """Compare the sets before and after an edit.

        Args:
            edit: the edit.
            drawn_on: indices of images that do not count, since the edit was made from them.
            preview: is called with the result before the clean and retained images are measured.

        Raises:
            ValueError: if the edit was made for another model.
        """
        first_layer = next((layer for layer in self.layers if layer in edit.layers), edit.layers[0])
        data = self.images
        states = self.states_at(first_layer).sets
        after = states["images"].logits(edit)
        counted = [index for index in range(len(data)) if index not in drawn_on]
        misclassified_before = misclassified(states["images"].original, data.labels)
        misclassified_after = misclassified(after, data.labels)
        result = Result(
            edit=edit,
            after=after,
            images=Comparison(misclassified_before[counted], misclassified_after[counted]),
            retain=None,
            clean=None,
            details=describe(edit),
            data=data,
        )
        if preview is not None and len(states) > 1:
            preview(replace(result, verdict=f"{_sentence(describe_effect(result.images, 'images'))}\n{MEASURING}"))
        for name in ("retain", "clean"):
            if name in states:
                logits = states[name].logits(edit)
                comparison = Comparison(states[name].before, misclassified(logits, states[name].labels))
                result = replace(result, **{name: comparison})
        return replace(result, verdict=verdict(result))

    def search(self, exemplar: Exemplar, drawn_on: int, callback: Callback | None = None) -> RepairResult:
        """Search for the best edit with `repair`, on the images without the one that the exemplar was made from.

        Args:
            exemplar: the exemplar.
            drawn_on: index of the image that it was made from.
            callback: is called with the `Progress` before each candidate; the search ends when it returns False.

        Raises:
            ValueError: if there are no `clean` images, or if the weights were changed.
            KeyboardInterrupt: if the search was ended before the first candidate.
        """
        if not self.has_clean:
            raise ValueError("no clean images were given, so the cost of an edit is unknown; pass clean=")
        self.check_weights()
        target = self.images.subset([index for index in range(len(self.images)) if index != drawn_on])
        return repair(
            self.classifier,
            exemplar,
            target,
            self.initial_sets["clean"],
            self.retain,
            callback=callback,
            progress=False,
        )


def read_set(
    name: str, source: ImageSource, classifier: Classifier, notes: list[str], max_pixels: int = MAX_PIXELS
) -> LabelledImages:
    """Load a set at the classifier's size, each image once.

    Args:
        name: name of the set, used in notes and error messages.
        source: the images. Without labels, the current predictions serve as labels.
        classifier: the classifier, which gives the size, the class names and the predictions.
        notes: a line is appended about images that are left out, and about labels that are predicted.
        max_pixels: the largest size of the set; of a larger one, every second, third, … image is used.

    Raises:
        TypeError: if `source` is anything else.
        ValueError: if it is empty or cannot be used.
        FileNotFoundError: if there is no such folder.
    """
    if not isinstance(source, str | os.PathLike | LabelledImages | Tensor | LazyImages):
        raise TypeError(
            f"{name!r} is a {type(source).__name__}; pass LabelledImages, a tensor (N, 3, H, W), LazyImages or the "
            "path of a folder"
        )
    is_folder = isinstance(source, str | os.PathLike)
    count = len(image_files(source)) if is_folder else len(source)
    step = max(1, -(-count * classifier.size**2 // max_pixels))
    if step > 1:
        notes.append(f"{name}: one image in {step} is used.")
    if is_folder:
        data, left_out = read_folder(source, classifier, step)
        if left_out:
            notes.append(f"{name}: {len(left_out)} files are left out ({'; '.join(left_out[:3])}).")
    else:
        data = _labeled_set(name, source, classifier, step, notes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        data = without_duplicates(name, data)
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
        raise ValueError(f"{name!r} is empty; pass at least one image")
    data = data.subset(range(0, len(data), step))
    data = replace(data, images=resized(data.images[:], classifier.size))
    if not isinstance(source, LabelledImages):
        data = label_by_prediction(data, classifier)
        notes.append(f"{name}: there are no labels, so the current predictions serve as labels.")
    return data


def _named(data: LabelledImages) -> LabelledImages:
    """Name images that have no names by their indices."""
    return data if data.names else replace(data, names=tuple(f"image {index}" for index in range(len(data))))


def _sentence(clause: str) -> str:
    """Capitalize a clause, and add a period."""
    return f"{clause[:1].upper()}{clause[1:]}."


def describe(edit: Edit) -> str:
    """Describe an edit for someone who writes code: its layers, and how well it fits the exemplar."""
    check = fit_check(edit)
    return f"{edit}." if check.holds is None else f"{edit}.\n{_sentence(check.figure)}"


def with_held_out_verdict(result: Result, fix: RepairResult, before_change: bool = False) -> Result:
    """Give a result the verdict on the edit that the search has found, and the figures it depends on, one per line.

    They come from images that were not used to select the edit. The last line has those of the edit that is applied,
    which the frames of the images show.

    Args:
        result: the result of the edit that is applied.
        fix: what the search has found.
        before_change: whether images or labels have changed since the search.
    """
    lines = [BEFORE_CHANGE] if before_change else []
    lines.append(str(fix.verdict))
    for check in fix.checks:
        is_in_reason = check.allows == fix.verdict.word
        if check.at_best != USE and check.figure and not is_in_reason:
            lines.append(_sentence(check.figure))
    lines.append(f"It is the best of {fix.selection.n_candidates:,} edits and projections.")
    lines.append(CROSS_VALIDATED)
    applied = describe_effect(result.images, "images")
    lines.append(f"The frames show the edit that is applied, which was selected on all images: {applied}.")
    return replace(result, verdict="\n".join(lines), details=fix.summary(), repair=fix)


def verdict(result: Result) -> str:
    """Describe what an edit corrects, what it costs, and what to try next; one sentence per line."""
    costs = []
    unknown = []
    if result.clean is None:
        unknown.append("clean")
    else:
        costs.append(accuracy_check(result.clean, Constraints()))
    if result.retain is None:
        unknown.append("retained")
    else:
        costs.append(retained_check(RETAINED, result.retain, Constraints()))
    lines = [_sentence(describe_effect(result.images, "images"))]
    lines += [_sentence(check.figure) for check in costs]
    if unknown:
        lines.append(f"The cost on {' and '.join(unknown)} images is unknown, since none were given.")
    advice = "“Find the best” tries other layers and methods."
    if result.images.corrected <= result.images.broken:
        lines.append(f"The edit is no improvement. {advice}")
    elif any(check.status == "fail" for check in costs):
        lines.append(f"The cost is too high, or may be; lower the strength. {advice}")
    return "\n".join(lines)
