"""A session of edits: what the desk does, without its widgets.

    session = EditSession(classifier, images, clean=clean, retain=retain)
    session.select(3)
    session.mark(mask)
    session.rewrite("features.10", strength=0.5)
    print(session.result.verdict)

A session never returns a result that was computed with other images, labels or weights than it holds now: such a result
is cleared, and `update` computes it again. The session has no widgets and no threads. The desk makes the calls that
take long in a single thread, one after the other; `probabilities_of` and `evidence` may be called in another one
meanwhile.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from edittools._graph import quiet_exports
from edittools._image_checks import check_mask
from edittools._progress import Progress, bar_of
from edittools.activations import StateMemory, memory_for_states
from edittools.auditing import windows
from edittools.auditing.finding import Finding, are_sources
from edittools.classifiers import Classifier, check_classifier
from edittools.cut import Cut, editable_layers
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages, evenly_spaced
from edittools.locate import Box, find_alike
from edittools.metrics import Comparison, label_margins, misclassified, predict, predicted_classes
from edittools.moments import SecondMoment, measure
from edittools.probing import evidence_map
from edittools.rewriting import REFERENCE_WEIGHT, rewrite_at
from edittools.scenes import scenes_of
from edittools.selection import (
    Assessment,
    CachedActivations,
    cache_activations,
    candidate_layers,
    repair,
)
from edittools.selection.checks import ENOUGH_OWN, FEWEST_CORRECT
from edittools.selection.effects import Effect
from edittools.selection.hosts import FEWEST_IMAGES, MOST_REFERENCE, sample_of
from edittools.selection.select import EXEMPLAR, select
from edittools.selection.splits import RETAINED, SAMPLE, check_disjoint
from edittools.site import LayerReference, site_at
from edittools.widgets.clean_images import CleanImages
from edittools.widgets.image_sets import (
    ImageSource,
    ReadSet,
    counted,
    files_of,
    load_detailed,
    read_set,
    with_names,
)
from edittools.widgets.initial_weights import InitialWeights
from edittools.widgets.materials import MATERIALS, default_material, replace_by_material
from edittools.widgets.result import (
    Preview,
    Result,
    described,
    preview_of,
    with_verdict,
)

NO_LABEL = "no label"
"""What is said of an image without a label."""

CONCEPT = "concept images"
"""What images that a person has confirmed to hold the mark are called."""

MOST_SIGHTINGS = 240
"""The largest number of images that are offered as holding a mark."""

MOST_OF_OWN_CLASS = 60
"""The number of those that are of the mark's own class, if there are as many: the cost on it needs them."""

FEWEST_WRONG = 6
"""With fewer misclassified images of other classes, no edit corrects significantly more than it breaks."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """An image of a session that may hold a mark.

    Attributes:
        is_clean: whether it is one of the clean images.
        index: its index in its set.
        box: the place of the mark.
        image: the image `(3, H, W)`.
        name: its name.
        label: the index of its class; None if it has no label.
        logits: those of the image `(classes,)`, without an edit.
    """

    is_clean: bool
    index: int
    box: Box
    image: Tensor = field(repr=False)
    name: str
    label: int | None
    logits: Tensor = field(repr=False)


def describe_checked(checked: Sequence[Sighting], own_class: int, class_name: str) -> str:
    """Say how many images are checked that hold a mark, and how many more a verdict needs at least.

    Args:
        checked: these images.
        own_class: the index of the mark's own class.
        class_name: its name.
    """
    labeled = [sighting for sighting in checked if sighting.label is not None]
    others = [sighting for sighting in labeled if sighting.label != own_class]
    wrong = sum(int(sighting.logits.argmax()) != sighting.label for sighting in others)
    correct = len(others) - wrong
    own = len(labeled) - len(others)
    parts = [f"{wrong} misclassified and {correct} correct ones of other classes", f"{own} labeled {class_name}"]
    if len(labeled) < len(checked):
        parts.append(f"{len(checked) - len(labeled)} without a label")
    missing = {
        "misclassified": FEWEST_WRONG - wrong,
        "correct": FEWEST_CORRECT - correct,
        f"labeled {class_name}, for the cost on this class": ENOUGH_OWN - own,
    }
    needed = [f"{number} more {what}" for what, number in missing.items() if number > 0]
    text = f"{len(checked)} checked: {', '.join(parts)}."
    if needed:
        return f"{text} A verdict needs at least {', and '.join(needed)}."
    return f"{text} That is enough for a verdict; more make it more certain."


@dataclass(frozen=True)
class _LayerStates:
    """The image sets at one layer: its cut, the memory of the states, and the sets that were run up to it."""

    cut: Cut
    memory: StateMemory
    sets: dict[str, CachedActivations] = field(default_factory=dict)


@dataclass(eq=False)
class _Step:
    """The names of the images that an edit of the session was made from, its last result, and its strength α."""

    sources: tuple[str, ...]
    result: Result
    strength: float = 1.0


class EditSession:
    """Images, the marks on them, and the edits that were made from them, one after the other.

    The classifier's weights must not change: the predictions, and the labels that were predicted, are those of the
    weights at the beginning.

    Args:
        classifier: the classifier; it is not changed.
        images: images of which some are misclassified.
        clean: ordinary images; needed by `search`. Half of them select an edit and define C, and accuracy is measured
            on the others; without any, `images` are the reference images.
        retain: images whose predictions should not change.
        materials: textures `(3, h, w)` by name, in addition to `MATERIALS`.
        progress: a class like `tqdm.tqdm`, for bars while the images are read and classified. They also take the place
            of the warning that a large model is read, which takes some seconds.
        on_classified: is called with the session when `images` are classified, before the other sets are read. From
            then on, images can be selected and marked, and `probabilities_of` and `evidence` can be called.

    Each set is `LabelledImages`, a tensor `(N, 3, H, W)`, `LazyImages` or a folder (`read_folder`). Without labels, the
    current predictions serve as labels.

    `images`, `clean`, `retain` and `reference` hold the sets, and `before` the logits `(N, classes)` of the images
    without an edit. `notes` says how the images were divided, and what was left out. `layers` names the layers that can
    be rewritten, and `candidate_layers` those of them from which one is selected. `index` is the index of the selected
    image. `source` says how the images were chosen, "sample" or "failures", see `repair`.

    Raises:
        TypeError: if the classifier is not a `Classifier`, or if a set is none of these.
        ValueError: if a set is empty or cannot be used, or if two sets share an image.
        FileNotFoundError: if there is no such folder.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: ImageSource,
        clean: ImageSource | None = None,
        retain: ImageSource | None = None,
        *,
        materials: Mapping[str, Tensor] | None = None,
        progress: Progress | None = None,
        on_classified: "Callable[[EditSession], None] | None" = None,
    ) -> None:
        self.classifier = check_classifier(classifier)
        self.source = SAMPLE
        self._notes: list[str] = []
        self._weights = InitialWeights(self.classifier)
        self._marks: dict[int, Tensor] = {}
        self._clean_source = clean
        self._unlabeled: set[int] = set()
        self._concept: frozenset[int] | None = None
        self.retain: LabelledImages | None = None
        self._clean: CleanImages | None = None
        self._taken: dict[int, int] = {}  # the index among the images of each clean image that was taken out
        self._key_cut: Cut | None = None
        self._states: _LayerStates | None = None  # at the layer that was edited last
        self._moments: dict[str, SecondMoment] = {}
        self._steps: list[_Step] = []
        self.materials = dict(materials or {})
        self._material: str | None = None
        read = {"images": read_set("images", images, self.classifier, self._notes, progress)}
        self.before = self._classify("images", read["images"], progress)
        self.images = with_names(read["images"].labeled(self.before))
        self._files = files_of(images, self.images.names)
        self.index = self.order[0]
        reading = bar_of(progress, total=1, desc="reading the model", unit="model")
        with quiet_exports(progress is not None), reading:
            self.layers = tuple(editable_layers(self.classifier).layer)
            self.candidate_layers = candidate_layers(self.classifier)
            reading.update()
        self.default_layer = self.candidate_layers[2 * len(self.candidate_layers) // 3]
        if on_classified is not None:
            on_classified(self)
        for name, source in (("clean", clean), ("retain", retain)):
            if source is not None:
                read[name] = read_set(name, source, self.classifier, self._notes, progress)
        check_disjoint({name: image_set.data for name, image_set in read.items()})
        if clean is not None:
            self._clean = CleanImages(self._labeled("clean", read["clean"], progress), read["clean"].is_labeled)
        if retain is not None:
            self.retain = self._labeled("retain", read["retain"], progress)

    def __repr__(self) -> str:
        return f"EditSession({self.description})"

    @property
    def description(self) -> str:
        """The classifier, the images and the edit in a few words."""
        text = self.description_of_images
        return text if self.edit is None else f"{text}; {self.edit}"

    @property
    def description_of_images(self) -> str:
        """The classifier and the images in a few words."""
        count = sum(self.is_misclassified(index) for index in range(len(self.images)))
        return f"{self.classifier}, {counted(len(self.images), 'image')}, {count} misclassified"

    def _labeled(self, name: str, image_set: ReadSet, progress: Progress | None) -> LabelledImages:
        """Label a set; if an image has no label, the current predictions serve."""
        if image_set.is_labeled.all():
            return image_set.data
        return image_set.labeled(self._classify(name, image_set, progress))

    def _classify(self, name: str, image_set: ReadSet, progress: Progress | None) -> Tensor:
        """Compute the logits `(N, classes)` of a set."""
        return predict(self.classifier, image_set.data, bar=f"classifying {name}", progress=progress).float()

    @property
    def notes(self) -> list[str]:
        """What is said of the sets: how they are divided, what is left out, and which are the concept images."""
        notes = [] if self._clean is None else [self._clean.note]
        if self._concept is not None:
            number = len(self._concept)
            verb = "is a concept image" if number == 1 else "are concept images"
            notes.append(f"Of {counted(len(self.images), 'image')}, {number} {verb}; the others do not count.")
        return [*notes, *self._notes]

    # --- images and marks ---------------------------------------------------------------------------------------------

    @property
    def has_clean(self) -> bool:
        """Whether clean images were passed."""
        return self._clean is not None

    @property
    def can_search(self) -> bool:
        """Whether there are enough clean images to select an edit."""
        return self._clean is not None and self._clean.reference_scenes >= FEWEST_IMAGES

    @property
    def clean(self) -> LabelledImages | None:
        """The clean images on which accuracy is measured; None if there are none."""
        return None if self._clean is None else self._clean.measured

    @property
    def reference(self) -> Tensor:
        """The reference images `(N, 3, H, W)`."""
        return self.images.images if self._clean is None else self._clean.reference.images

    @property
    def order(self) -> list[int]:
        """The indices of the images by the margin of the label's logit over the largest other logit, ascending."""
        return label_margins(self.before, self.images.labels).argsort(stable=True).tolist()

    def name(self, index: int) -> str:
        """Return the name of an image: that of its file, or "image" and its index."""
        return self.images.names[index]

    def has_label(self, index: int) -> bool:
        """Return whether an image has a label; a clean image that was taken out may have none."""
        return index not in self._unlabeled

    def class_name(self, index: int) -> str:
        """Return the name of the class that an image is labeled with, `NO_LABEL` if it has no label."""
        return self.classifier.classes[int(self.images.labels[index])] if self.has_label(index) else NO_LABEL

    def is_misclassified(self, index: int) -> bool:
        """Return whether an image has a label, and is misclassified before any edit."""
        return self.has_label(index) and int(self.before[index].argmax()) != int(self.images.labels[index])

    @property
    def image(self) -> Tensor:
        """The selected image `(3, H, W)`."""
        return self.images.images[self.index]

    @property
    def photo(self) -> Tensor:
        """The selected image `(3, H, W)` with the detail of its file, if it has one, see `load_detailed`."""
        if self.index not in self._files:
            return self.image
        try:
            return load_detailed(self._files[self.index], self.classifier)
        except (OSError, ValueError):  # the file is gone by now
            return self.image

    def select(self, index: int) -> None:
        """Select the image that is marked next.

        Raises:
            IndexError: if there is no such image.
        """
        if not 0 <= index < len(self.images):
            raise IndexError(f"there is no image {index}; pass an index from 0 to {len(self.images) - 1}")
        self.index = index

    def _append(self, added: LabelledImages, logits: Tensor) -> list[int]:
        """Add images with names, whose logits without an edit are `(N, classes)`; return their indices."""
        first = len(self.images)
        pixels = torch.cat([self.images.images, added.images])
        labels = torch.cat([self.images.labels, added.labels])
        names = list(self.images.names)
        for index, name in enumerate(added.names, start=first):
            names.append(f"{name} ({index})" if name in names else name)  # names tell what an exemplar came from
        self.before = torch.cat([self.before, logits])
        self.images = LabelledImages(pixels, labels, self.classifier.classes, tuple(names))
        self._states = None
        return list(range(first, len(self.images)))

    @property
    def mask(self) -> Tensor:
        """The marked area of the selected image, `(H, W)` of 0 and 1; at first, an empty one."""
        return self._marks.get(self.index, torch.zeros(self.image.shape[1:]))

    def mark(self, mask: Tensor) -> None:
        """Mark the area that misleads the classifier on the selected image.

        Args:
            mask: `(H, W)` of 0 and 1, of the size of `image` or of `photo`; may be empty.

        Raises:
            ValueError: if it is not such a mask, or if it does not fit the image.
        """
        size = self.image.shape[1:]
        if mask.shape != size and mask.shape == self.photo.shape[1:]:
            share = interpolate(check_mask(mask, allow_empty=True)[None, None], size, mode="area")[0, 0]
            mask = (share >= share.max().clamp(1e-6, 0.5)).float()  # a thin mark is not lost
        self._marks[self.index] = check_mask(mask, self.image, allow_empty=True)

    @property
    def marked(self) -> list[int]:
        """The indices of the images on which an area is marked, in the order in which they were marked first."""
        return [index for index, mask in list(self._marks.items()) if mask.any()]

    def evidence(self, layer: str, index: int | None = None) -> tuple[Tensor, str, str]:
        """Map where a layer argues for the prediction of an image, and against its label.

        If the prediction is the label, the second most likely class takes the place of the label.

        Args:
            layer: name of the layer.
            index: index of the image; the selected one by default.

        Returns:
            The map `(H, W)`, see `probing.evidence_map`, and the names of both classes.

        Raises:
            KeyError: if there is no such layer.
            ValueError: if the weights were changed.
        """
        index = self.index if index is None else index
        predicted, second = self.before[index].argsort(descending=True)[:2].tolist()
        label = int(self.images.labels[index])
        against = second if predicted == label else label
        self._weights.check()
        heat = evidence_map(self._weights.cut_at(layer), self.images.images[index], predicted, against)
        return heat, self.classifier.classes[predicted], self.classifier.classes[against]

    # --- the exemplar -------------------------------------------------------------------------------------------------

    @property
    def material_names(self) -> tuple[str, ...]:
        """The names of the materials that can replace the marked area: `materials` and `MATERIALS`."""
        return (*self.materials, *MATERIALS)

    @property
    def material(self) -> str:
        """The name of the material that replaces the marked area of the selected image.

        Until one is selected, it is the first of `materials`; without any, it is what is around the area, or a texture
        if the area is large.
        """
        if self._material is not None:
            return self._material
        return next(iter(self.materials), default_material(self.mask))

    @material.setter
    def material(self, name: str) -> None:
        self._material = name

    @property
    def exemplar(self) -> Exemplar:
        """The exemplar that the selected image, its marked area and `material` make.

        A misclassified image is x', and with its marked area replaced by the material it is x. An image that is
        classified correctly is x, and with its marked area replaced it is x'. Its source, which does not
        count, is the name of the image.

        Raises:
            ValueError: if nothing is marked, or if the image has no label.
            KeyError: if there is no such material.
        """
        mask = self.mask
        if not mask.any():
            raise ValueError("nothing is marked; mark the area of the image that misleads")
        if not self.has_label(self.index):
            raise ValueError(f"{self.name(self.index)!r} has no label")
        image = self.image
        label = int(self.images.labels[self.index])
        replaced = replace_by_material(image, mask, self.material, self.materials)
        original, changed = (replaced, image) if self.is_misclassified(self.index) else (image, replaced)
        return Exemplar(original, changed, mask, label, (self.name(self.index),))

    def probabilities_of(self, exemplar: Exemplar) -> Tensor:
        """Predict the probabilities `(2, classes)` of x and x', without an edit.

        Raises:
            ValueError: if the weights were changed.
        """
        self._weights.check()
        pair = torch.stack([exemplar.image, exemplar.changed])
        return predict(self.classifier, pair).float().softmax(dim=1)

    # --- images that hold the mark ------------------------------------------------------------------------------------

    @property
    def concept(self) -> list[int]:
        """The indices of the concept images: those that a person has confirmed, until then all images with a label."""
        return self._counted(())

    def find_elsewhere(self, exemplar: Exemplar | None = None, progress: Progress | None = None) -> list[Sighting]:
        """Find images that may hold a mark by its appearance, right and wrong ones, for a person to confirm.

        The mark is what x' shows at the mask. It is looked for in the images and in the clean images, by the keys of a
        layer, see `locate.find_alike`; predictions and labels play no part in that. Of the images of the mark's own
        class, `MOST_OF_OWN_CLASS` are offered even if others are more similar.

        Args:
            exemplar: by default, the one of the selected image. The images that it was made from are not looked at.
            progress: a class like `tqdm.tqdm`, for a bar; an exception of its `update` ends this as Ctrl-C does.

        Returns:
            At most `MOST_SIGHTINGS` images, the most similar one first.

        Raises:
            ValueError: if nothing is marked, or if the weights were changed.
        """
        exemplar = exemplar or self.exemplar
        self._weights.check()
        if self._key_cut is None:
            self._key_cut = windows.key_layer(self.classifier)
        images = (~are_sources(exemplar, self.images)).nonzero()[:, 0].tolist()
        pixels = [self.images.images[images]]
        labels = [self.images.labels[images]]
        if self._clean is not None:
            pixels.append(self._clean.current.images)
            labels.append(self._clean.current.labels)
        searched = torch.cat(pixels)
        example = (exemplar.changed, exemplar.mask)
        found = find_alike(self._key_cut, [example], searched, progress).places
        is_own = torch.cat(labels) == self.own_class(exemplar)
        own = [rank for rank, place in enumerate(found) if is_own[place.index]][:MOST_OF_OWN_CLASS]
        others = [rank for rank in range(len(found)) if rank not in own][: MOST_SIGHTINGS - len(own)]
        found = [found[rank] for rank in sorted([*own, *others])]
        logits = predict(self.classifier, searched[[place.index for place in found]]).float()
        sightings = []
        for place, of_image in zip(found, logits, strict=True):
            is_clean = place.index >= len(images)
            index = self._clean.left[place.index - len(images)] if is_clean else images[place.index]
            sightings.append(self._sighting(is_clean, index, place.box, of_image))
        return sightings

    def own_class(self, exemplar: Exemplar) -> int:
        """Return the index of a mark's own class: the one that x' is predicted as."""
        return int(predict(self.classifier, exemplar.changed[None])[0].argmax())

    def _sighting(self, is_clean: bool, index: int, box: Box, logits: Tensor) -> Sighting:
        """Describe an image of a set, which may hold a mark; its logits are `(classes,)`."""
        data = self._clean.data if is_clean else self.images
        has_label = bool(self._clean.is_labeled[index]) if is_clean else self.has_label(index)
        label = int(data.labels[index]) if has_label else None
        return Sighting(is_clean, index, box, data.images[index], data.names[index], label, logits)

    def is_concept(self, sighting: Sighting) -> bool:
        """Return whether a person has made an image a concept image."""
        index = self._taken.get(sighting.index) if sighting.is_clean else sighting.index
        return self._concept is not None and index in self._concept

    def use_as_concept(self, sightings: Sequence[Sighting]) -> list[int]:
        """Make images the concept images, on which edits are selected and measured; the result is cleared.

        Other images no longer count. Clean images are taken out of the clean images; one whose label is a prediction
        does not count.

        Args:
            sightings: the images, from `find_elsewhere`, right and wrong ones; without any, all images with a label
                count again.

        Returns:
            The indices of these images.

        Raises:
            ValueError: if the weights were changed, or if too few clean images would be left.
        """
        self._weights.check()
        self._take([sighting.index for sighting in sightings if sighting.is_clean])
        indices = []
        for sighting in sightings:
            indices.append(self._taken[sighting.index] if sighting.is_clean else sighting.index)
        self._concept = frozenset(indices) if indices else None
        self.images = replace(self.images)  # a result that was computed before is of other images
        return indices

    def _take(self, indices: Sequence[int]) -> None:
        """Take images out of the clean images, and add them to the images.

        Args:
            indices: their indices among all clean images; those that were taken out before stay where they are.

        Raises:
            ValueError: if too few clean images would be left.
        """
        new = [index for index in indices if index not in self._taken]
        if not new:
            return
        taken = self._clean.take_out(new)
        self._moments = {}  # an image that shows the mark says nothing about which keys are typical
        added = self._append(taken, predict(self.classifier, taken).float())
        self._taken |= dict(zip(new, added, strict=True))
        files = files_of(self._clean_source, self._clean.data.names)
        self._files |= {self._taken[index]: files[index] for index in new if index in files}
        self._unlabeled |= {self._taken[index] for index in new if not self._clean.is_labeled[index]}

    # --- edits and their results --------------------------------------------------------------------------------------

    @property
    def edit(self) -> Edit | None:
        """The last edit; None if there is none."""
        return self._steps[-1].result.edit if self._steps else None

    @property
    def strength(self) -> float:
        """The factor α by which the last edit was scaled when it was made; 1 if there is none, or for a loaded one."""
        return self._steps[-1].strength if self._steps else 1.0

    @property
    def result(self) -> Result | None:
        """The effect of the last edit on the images; None if there is none, or if `update` has to compute it again."""
        if not self._steps:
            return None
        result = self._steps[-1].result
        is_current = result.data is self.images and self._weights.are_below(result.edit)
        return result if is_current else None

    def update(self) -> Result | None:
        """Compute the result of the last edit again if images or labels have changed; None if there is no edit.

        An edit that a search has found goes, since it was measured on other images; the edit before it comes back.

        Raises:
            ValueError: if the weights were changed.
        """
        if not self._steps:
            return None
        result = self.result
        if result is not None:
            return result
        self._weights.check()
        step = self._steps[-1]
        outdated = step.result
        if isinstance(outdated.repair, Assessment):
            self._steps.pop()  # other images would have measured it; the first edit before it is measured again
            return self.update()
        step.result = self.measure(outdated.edit, step.sources)
        return self.result

    def prepare(self, layer: str | None = None, progress: Progress | None = None) -> None:
        """Compute what the next rewrite needs, so that it is fast.

        Args:
            layer: name of the layer, up to which the images are run; None to measure the second moments of all
                candidate layers, by which one of them is selected.
            progress: a class like `tqdm.tqdm`, for bars.
        """
        self._weights.check()
        if layer is not None:
            for name in self._sets:
                self._cached_set(layer, name, progress)
        elif not self._moments:
            cuts = self._weights.cuts_at(self.candidate_layers)
            self._moments = measure(cuts, evenly_spaced(self.reference, MOST_REFERENCE), progress)

    def select_layer(self, exemplar: Exemplar | None = None) -> str:
        """Select a layer without labels: the one in which an edit makes the prediction of x' most like that of x.

        With fewer than 50 scenes of reference images, it is `default_layer`.

        Args:
            exemplar: by default, the one of the selected image.
        """
        exemplar = exemplar or self.exemplar
        self._weights.check()
        try:
            sample_of(self.classifier, {"exemplar": [exemplar]}, self.reference)
        except ValueError:
            return self.default_layer
        self.prepare()
        selection = select(
            self.classifier,
            exemplar,
            self.reference,
            layers=self.candidate_layers,
            moments=self._moments,
            select_by=EXEMPLAR,
        )
        return selection.candidate.params["layer"]

    def rewrite(
        self,
        layer: str | None = None,
        strength: float = 1.0,
        exemplar: Exemplar | None = None,
        preview: Preview | None = None,
    ) -> Result:
        """Rewrite one layer by an exemplar, by least squares, in milliseconds; the edit replaces the last one.

        Args:
            layer: name of the layer; by default, it is selected without labels, see `select_layer`.
            strength: α.
            exemplar: by default, the one of the selected image.
            preview: is called with the result before the clean and retained images are measured.

        Raises:
            ValueError: if nothing is marked, if an argument cannot be used, or if the weights were changed.
        """
        exemplar = exemplar or self.exemplar
        self._weights.check()
        layer = layer or self.select_layer(exemplar)
        cut = self._states_at(layer).cut
        site = site_at(cut, [exemplar], LayerReference(cut, self.reference, self._moments.get(layer)))
        [edit] = rewrite_at(site, reference_weight=REFERENCE_WEIGHT if self.has_clean else 0.0)
        edit = edit if strength == 1 else strength * edit
        return self._add_step(self.measure(edit, exemplar.sources, preview), exemplar.sources, strength)

    def finding(self, exemplar: Exemplar) -> Finding:
        """Collect what a search gets: the exemplar, and the images that select an edit and measure it.

        Raises:
            ValueError: if there are no `clean` images.
        """
        if not self.has_clean:
            raise ValueError("no clean images were given, so the cost of an edit is unknown; pass clean=")
        counted_indices = self._counted(exemplar.sources)
        concept = self.images.subset(counted_indices) if counted_indices else None
        return Finding(exemplar, concept, self._clean.measured, self.retain, self._clean.reference.images)

    def search(self, exemplar: Exemplar | None = None, progress: Progress | None = None) -> Assessment:
        """Select an edit with `repair`, by half of the clean images, and measure it; it replaces the last one.

        Args:
            exemplar: by default, the one of the selected image. The images that it was made from are not used.
            progress: a class like `tqdm.tqdm`, for bars.

        Returns:
            The assessment of the edit.

        Raises:
            ValueError: if nothing is marked, if there are no `clean` images or too few of them, or if the weights were
                changed.
        """
        exemplar = exemplar or self.exemplar
        finding = self.finding(exemplar)
        self._weights.check()
        fix = repair(
            self.classifier,
            finding.exemplar,
            finding.images,
            concept=finding.concept,
            clean=finding.clean,
            retain=finding.retain,
            source=self.source,
            layers=self.candidate_layers,
            progress=progress,
        )
        result = self._result_of_search(fix, exemplar.sources)
        self._add_step(result, exemplar.sources, fix.selection.candidate.strength)
        return fix

    def _result_of_search(self, fix: Assessment, sources: Collection[str]) -> Result:
        """Describe the edit that a search has found; only the images are run again, for their frames.

        Args:
            fix: what the search has found.
            sources: names of images that do not count, since the edit was made from them.

        """
        after = predict(fix.edit.edited(self.classifier), self.images).float()
        costs = {"retain": fix.effects.get(RETAINED), "clean": fix.effects.get("clean")}
        result = replace(self._compare(fix.edit, after, sources), **costs)
        return with_verdict(result, fix)

    def measure(self, edit: Edit, sources: Collection[str] = (), preview: Preview | None = None) -> Result:
        """Compare the sets before and after an edit.

        Args:
            edit: the edit.
            sources: names of images that do not count, since the edit was made from them.
            preview: is called with the result before the clean and retained images are measured.

        Raises:
            ValueError: if the edit was made for another model.
        """
        layer = next((layer for layer in self.layers if layer in edit.layers), edit.layers[0])
        result = self._compare(edit, self._cached_set(layer, "images").logits(edit), sources)
        others = [name for name in self._sets if name != "images"]
        if preview is not None and others:
            preview(preview_of(result))
        for name in others:
            cached = self._cached_set(layer, name)
            after = predicted_classes(cached.logits(edit))
            effect = Effect(cached.labels, predicted_classes(cached.original), after, scenes_of(self._sets[name]))
            result = replace(result, **{name: effect})
        return described(result, can_select=self.can_search)

    def _compare(self, edit: Edit, after: Tensor, sources: Collection[str]) -> Result:
        """Compare the images before and after an edit, whose logits with it are `after`."""
        labels = self.images.labels
        counted_indices = self._counted(sources)
        before = misclassified(self.before, labels)[counted_indices]
        images = Comparison(before, misclassified(after, labels)[counted_indices])
        noun = "images" if self._concept is None else CONCEPT
        if len(counted_indices) < len(self._counted(())):
            noun += " besides the pair"
        return Result(edit, after, images, None, None, data=self.images, counted=noun)

    def _counted(self, sources: Collection[str]) -> list[int]:
        """List the indices of the images that count.

        They have a label, a person has confirmed them if any were confirmed, and no edit was made from them.

        """
        members = range(len(self.images)) if self._concept is None else self._concept

        return sorted(index for index in members if self.has_label(index) and self.name(index) not in sources)

    def by_change(self, result: Result) -> list[int]:
        """Order the indices of the images by what an edit changes.

        Images whose predicted class changes come first; then those whose margin, the label's logit over the largest
        other one, changes most.
        """
        labels = self.images.labels
        change = (label_margins(result.after, labels) - label_margins(self.before, labels)).abs()
        is_changed = result.after.argmax(dim=1) != self.before.argmax(dim=1)
        return sorted(range(len(labels)), key=lambda index: (not is_changed[index], -float(change[index])))

    @property
    def _numbers(self) -> dict[str, int]:
        """The index of each image by its name."""
        return {name: index for index, name in enumerate(self.images.names)}

    @property
    def file_name(self) -> str:
        """A name for the file of the last edit: the model, the class of the marked image, and the layers.

        Raises:
            ValueError: if there is no edit.
        """
        if self.edit is None:
            raise ValueError("there is no edit to save; mark an image and rewrite a layer first")
        numbers = self._numbers
        class_names = [self.class_name(numbers[name]) for name in self._steps[-1].sources if name in numbers]
        parts = [type(self.classifier.model).__name__, *class_names, *self.edit.layers]
        name = re.sub(r"[^\w.-]+", "_", "-".join(parts))
        return f"{name}.safetensors"

    def save(self, path: str | os.PathLike | None = None) -> Path:
        """Write the last edit as a safetensors file.

        Args:
            path: the file; by default `file_name` in the current folder.

        Returns:
            The whole path of the file.

        Raises:
            ValueError: if there is no edit.
        """
        file_name = self.file_name  # refuses to save if there is no edit
        path = Path(file_name if path is None else path).expanduser().absolute()
        self.edit.save(path)
        return path

    def save_report(self, path: str | os.PathLike | None = None) -> Path:
        """Write the report of the search that found the last edit, see `Assessment.report`.

        Args:
            path: the page; by default that of `file_name`.


        Returns:
            The whole path of the page.

        Raises:
            ValueError: if the last edit was not found by a search.
        """
        self.check_has_report()
        path = Path(self.file_name).with_suffix(".html") if path is None else path
        return self._steps[-1].result.repair.report(Path(path).expanduser().absolute())

    def check_has_report(self) -> None:
        """Check that the last edit has a report.

        Raises:
            ValueError: if it was not found by a search.

        """
        if not self._steps or self._steps[-1].result.repair is None:
            raise ValueError("a report is of an edit that a search has found; search for the best one first")

    def undo(self) -> None:
        """Go back to the edit before, if there is one; after a change of images or labels its result is cleared."""
        if self._steps:
            self._steps.pop()

    def _add_step(self, result: Result, sources: tuple[str, ...], strength: float = 1.0) -> Result:
        self._steps.append(_Step(sources, result, strength))
        return result

    @property
    def _sets(self) -> dict[str, LabelledImages]:
        """The sets that measure an edit, by name."""
        sets = {"images": self.images, "retain": self.retain, "clean": self.clean}
        return {name: data for name, data in sets.items() if data is not None}

    def _states_at(self, layer: str) -> _LayerStates:
        """Return the states at a layer; those at the former one are discarded.

        Args:
            layer: name of the layer.

        Raises:
            KeyError: if there is no such layer.
        """
        if self._states is None or self._states.cut.layer != layer:
            cut = self._weights.cut_at(layer)
            memory = StateMemory(memory_for_states(self.classifier.device), (layer,))
            self._states = _LayerStates(cut, memory)
        return self._states

    def _cached_set(self, layer: str, name: str, progress: Progress | None = None) -> CachedActivations:
        """Run a set up to a layer, if it was not run yet."""
        states = self._states_at(layer)
        data = self._sets[name]
        if name not in states.sets:
            cuts = {layer: states.cut}
            cached = cache_activations(cuts, {name: data}, progress=progress, memory=states.memory)
            states.sets[name] = cached[name]
        return states.sets[name]
