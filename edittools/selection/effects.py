"""What edits and other networks do to labeled images: predictions before and after, counted by scene."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edittools._progress import Progress
from edittools.classifiers import usual_batch_size
from edittools.cut import Cut
from edittools.edits import Edit
from edittools.images import Images
from edittools.metrics import Comparison
from edittools.states import StateMemory, States


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


def predictions_of(cut: Cut, edits: Sequence[Edit], images: Images, progress: Progress | None = None) -> Tensor:
    """Predict the classes of images without an edit, and with several edits of one layer, in one pass.

    Args:
        cut: the classifier, cut at the layer, with a copy of its weights.
        edits: edits that change the weight of the layer.
        images: the images, at least one.
        progress: a class like `tqdm.tqdm`, for a bar.

    Returns:
        The predicted classes, `(1 + edits, N)`: without an edit first; -1 where logits hold NaN.
    """
    states = States({cut.layer: cut}, images, batch_size=usual_batch_size(cut.classifier), memory=StateMemory(0))
    return states.predictions([None, *edits], progress, "measuring the edit")


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
