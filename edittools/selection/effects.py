"""What edits and other networks do to labeled images: predictions before and after, counted by scene."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edittools._inference import without_autocast
from edittools._ledger import Weights
from edittools._progress import Progress
from edittools.classifiers import Classifier, usual_batch_size
from edittools.cut import Cut
from edittools.edits import Edit
from edittools.images import Images, in_batches
from edittools.metrics import Comparison, predicted_classes


@dataclass(frozen=True, eq=False)
class Effect:
    """What an edit does to a set of N labeled images.

    Attributes:
        labels: the class of each image, `(N,)`.
        before: the predicted class without an edit, `(N,)`.
        after: the predicted class with the edit, `(N,)`.
        scenes: the number of each image's scene, `(N,)`.
    """

    labels: Tensor
    before: Tensor
    after: Tensor
    scenes: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def scene_count(self) -> int:
        """The number of scenes."""
        return len(self.scenes.unique())

    @property
    def comparison(self) -> Comparison:
        """Which images are misclassified before and after, image by image."""
        return Comparison(self.before != self.labels, self.after != self.labels)

    @property
    def by_scene(self) -> Comparison:
        """Which scenes are misclassified before and after; a scene is one observation, however many frames show it.

        A scene in which more images are corrected than broken counts as corrected, one in which more are broken as
        broken, and any other one as misclassified if one of its images was.
        """
        comparison = self.comparison
        gains = _sum_of_scenes(self.scenes, comparison.before.long() - comparison.after.long())
        has_error = _sum_of_scenes(self.scenes, comparison.before.long()) > 0
        is_shown = _sum_of_scenes(self.scenes, torch.ones_like(self.scenes)) > 0
        before = (gains > 0) | ((gains == 0) & has_error)
        after = (gains < 0) | ((gains == 0) & has_error)
        return Comparison(before[is_shown], after[is_shown])

    @property
    def broken_by_scene(self) -> tuple[int, int]:
        """In how many scenes a correct image breaks, and in how many scenes an image was correct before."""
        comparison = self.comparison
        is_broken = ~comparison.before & comparison.after
        broken = _sum_of_scenes(self.scenes, is_broken.long()) > 0
        correct = _sum_of_scenes(self.scenes, (~comparison.before).long()) > 0
        return int(broken.sum()), int(correct.sum())

    @property
    def changed_by_scene(self) -> int:
        """In how many scenes a prediction changes, right or wrong."""
        return int((_sum_of_scenes(self.scenes, (self.before != self.after).long()) > 0).sum())

    def of(self, is_member: Tensor) -> "Effect":
        """Return the effect on some of the images, `(N,)` booleans."""
        return Effect(self.labels[is_member], self.before[is_member], self.after[is_member], self.scenes[is_member])


def _sum_of_scenes(scenes: Tensor, values: Tensor) -> Tensor:
    """Sum values `(N,)` over the images of each scene."""
    count = int(scenes.max()) + 1 if len(scenes) else 0
    return torch.zeros(count, dtype=values.dtype).index_add(0, scenes, values)


def changed_images(before: Tensor, after: Tensor) -> list[int]:
    """Return the indices of the images whose prediction changes, the most confident change first.

    Args:
        before: logits or probabilities without the edit, `(N, classes)`.
        after: probabilities with it, `(N, classes)`.
    """
    indices = (before.argmax(dim=1) != after.argmax(dim=1)).nonzero()[:, 0]
    return indices[after[indices].amax(dim=1).argsort(descending=True, stable=True)].tolist()


class EditedPredictions:
    """Predict the classes of images without an edit, and with several edits of one layer, in one pass.

    Everything is computed with a copy of the weights that the classifier has when this is made.

    Args:
        classifier: the classifier.
        edits: edits that change the weight of one layer, the same for all.
    """

    def __init__(self, classifier: Classifier, edits: Sequence[Edit]) -> None:
        [layer] = {layer for edit in edits for layer in edit.layers}
        self.cut = Cut(classifier, layer, weights=Weights(classifier))
        self.edits = list(edits)
        for edit in edits:
            edit.check_fits_copy(self.cut.weights, classifier.model)

    @torch.no_grad()
    @without_autocast()
    def of(self, images: Images, progress: Progress | None = None) -> Tensor:
        """Return the predicted classes, `(1 + edits, N)`: without an edit first; -1 where logits hold NaN."""
        name = f"{self.cut.layer}.weight"
        parts = []
        for batch in in_batches(images, usual_batch_size(self.cut.classifier), "measuring the edit", progress):
            state = self.cut.prefix(batch)
            output = self.cut.output(state)
            keys = self.cut.keys(state)
            outputs = [output, *(output + edit.changes[name].added(self.cut, keys) for edit in self.edits)]
            classes = [predicted_classes(self.cut.logits(state, one)).cpu() for one in outputs]
            parts.append(torch.stack(classes))
        return torch.cat(parts, dim=1) if parts else torch.zeros(1 + len(self.edits), 0, dtype=torch.long)


def rows_of(effects: Mapping[str, Effect], retained: Sequence[str]) -> dict[str, float]:
    """Summarize effects by the name of the set as a table row; what was not measured is left out.

    Args:
        effects: the effects on "concept", "own_class", "clean", and the retained sets.
        retained: the names of the retained sets.
    """
    row: dict[str, float] = {}
    if "concept" in effects:
        concept = effects["concept"].by_scene
        low, high = concept.corrected_interval()
        row["errors"] = int(concept.before.sum())
        row["corrected"] = concept.corrected
        row["broken"] = concept.broken
        row["share"] = concept.errors_corrected
        row["low"] = low
        row["high"] = high
    if "clean" in effects:
        clean = effects["clean"].by_scene
        low, high = clean.accuracy_interval()
        row["accuracy change"] = clean.accuracy_change
        row["accuracy low"] = low
        row["accuracy high"] = high
        row["predictions changed"] = effects["clean"].changed_by_scene / max(len(clean.before), 1)
    if "own_class" in effects:
        own = effects["own_class"].by_scene
        row["own class"] = len(own.after)
        row["own class correct"] = int((~own.after).sum())
    kept = [effects[name].broken_by_scene for name in retained if name in effects]
    if kept:
        row["retained"] = sum(correct for _, correct in kept)
        row["retained broken"] = sum(broken for broken, _ in kept)
    return row
