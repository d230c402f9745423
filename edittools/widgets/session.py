"""A session of edits: what the desk does, without its widgets.

    session = EditSession(classifier, images, clean=clean, retain=retain)
    session.select(3)
    session.mark(mask)
    session.rewrite("features.10", strength=0.5)
    print(session.result.verdict)

A session never returns a result that was computed with other images, labels or weights than it holds now: such a result
is cleared, and `update` computes it again. The session has no widgets and no threads. The desk makes the calls that
take long in a single thread, one after the other.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import check_mask
from edittools.metrics import predict
from edittools.selection import RepairResult
from edittools.selection.repair import Callback
from edittools.widgets.desk_sets import DeskSets, ImageSource, Preview, Result, with_held_out_verdict
from edittools.widgets.materials import MATERIALS, replace_by_material


@dataclass(eq=False)
class _Step:
    """An edit of the session, the images that it was made from, its last result, and its strength α."""

    edit: Edit
    drawn_on: tuple[int, ...]
    result: Result
    strength: float = 1.0


class EditSession:
    """Images, the marks on them, and the edits that were made from them, one after the other.

    Args:
        classifier: the classifier; it is not changed.
        images: images of which some are misclassified.
        clean: images on which accuracy is measured; needed by `search`.
        retain: images whose predictions should not change.
        materials: textures `(3, h, w)` by name, in addition to `MATERIALS`.

    Each set is `LabelledImages`, a tensor `(N, 3, H, W)`, `LazyImages` or a folder; `DeskSets` documents the errors.
    `sets` holds the sets, `index` is the index of the selected image, and `material` is the name of the material that
    replaces its marked area.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: ImageSource,
        clean: ImageSource | None = None,
        retain: ImageSource | None = None,
        *,
        materials: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.sets = DeskSets(classifier, images, clean, retain)
        self.materials = dict(materials or {})
        self.material = self.material_names[0]
        self.index = self.sets.order[0]
        self._masks: dict[int, Tensor] = {}
        self._steps: list[_Step] = []
        self._fix: RepairResult | None = None

    def __repr__(self) -> str:
        return f"EditSession({self.description})"

    @property
    def description(self) -> str:
        """The classifier, the images and the edit in a few words."""
        return f"{self.sets}" if self.edit is None else f"{self.sets}; {self.edit}"

    # --- images and marks ---------------------------------------------------------------------------------------------

    @property
    def image(self) -> Tensor:
        """The selected image `(3, H, W)`."""
        return self.sets.images.images[self.index]

    def select(self, index: int) -> None:
        """Select the image that is marked next.

        Raises:
            IndexError: if there is no such image.
        """
        if not 0 <= index < len(self.sets.images):
            raise IndexError(f"there is no image {index}; pass an index from 0 to {len(self.sets.images) - 1}")
        self.index = index

    def relabel(self, index: int, name: str) -> None:
        """Set the label of an image by the name of the class; the result is cleared.

        Raises:
            KeyError: if there is no such class.
        """
        if name != self.sets.class_name(index):
            self.sets.relabel(index, name)

    def add(self, image: Tensor, name: str = "") -> int:
        """Add an image `(3, H, W)` with the current prediction as its label; the result is cleared.

        Args:
            image: the image.
            name: its name, such as that of its file; by default "image" and its index.

        Returns:
            The index of the image.

        Raises:
            ValueError: if the image is in one of the sets.
        """
        return self.sets.add(image, name)

    @property
    def mask(self) -> Tensor:
        """The marked area of the selected image, `(H, W)` of 0 and 1."""
        return self._masks.get(self.index, torch.zeros(self.image.shape[1:]))

    def mark(self, mask: Tensor) -> None:
        """Mark the area that misleads the classifier on the selected image, instead of the area that was marked before.

        Args:
            mask: `(H, W)` of 0 and 1; may be empty.

        Raises:
            ValueError: if it is not such a mask, or if it does not fit the image.
        """
        self._masks[self.index] = check_mask(mask, self.image, allow_empty=True)

    # --- the exemplar -------------------------------------------------------------------------------------------------

    @property
    def material_names(self) -> tuple[str, ...]:
        """The names of the materials that can replace the marked area, those of `materials` first."""
        return (*self.materials, *MATERIALS)

    @property
    def exemplar(self) -> Exemplar:
        """The exemplar that the selected image, its marked area and `material` make.

        A misclassified image is x', and with its marked area replaced by the material it is x. An image that is
        classified correctly is x, and with its marked area replaced it is x'.

        Raises:
            ValueError: if nothing is marked.
            KeyError: if there is no such material.
        """
        mask = self.mask
        if not mask.any():
            raise ValueError("nothing is marked; mark the area of the image that misleads")
        image = self.image
        replaced = replace_by_material(image, mask, self.material, self.materials)
        label = int(self.sets.images.labels[self.index])
        if self.sets.is_misclassified(self.index):
            return Exemplar(image=replaced, changed=image, mask=mask, label=label)
        return Exemplar(image=image, changed=replaced, mask=mask, label=label)

    def probabilities_of(self, exemplar: Exemplar) -> Tensor:
        """Predict the probabilities `(2, classes)` of x and x', without an edit.

        Raises:
            ValueError: if the weights were changed.
        """
        self.sets.check_weights()
        pair = torch.stack([exemplar.image, exemplar.changed])
        return predict(self.sets.classifier, pair).float().softmax(dim=1)

    # --- edits and their results --------------------------------------------------------------------------------------

    @property
    def edit(self) -> Edit | None:
        """The last edit; None if there is none."""
        return self._steps[-1].edit if self._steps else None

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
        return result if self.sets.is_current(result) else None

    def update(self) -> Result | None:
        """Compute the result of the last edit again if images or labels have changed; None if there is no edit.

        The verdict on an edit that a search has found stays, marked as measured before the change, since the search
        would have to be repeated for another one.

        Raises:
            ValueError: if the weights were changed.
        """
        if self._steps and self.result is None:
            step = self._steps[-1]
            fix = step.result.repair
            charts = step.result.charts
            self.sets.check_weights()
            step.result = self.sets.result(step.edit, step.drawn_on)
            if fix is not None:
                step.result = replace(with_held_out_verdict(step.result, fix, before_change=True), charts=charts)
        return self.result

    def prepare(self, layer: str) -> None:
        """Run the images up to a layer, so that the next rewrite of this layer is fast."""
        self.sets.check_weights()
        self.sets.states_at(layer)

    def evidence(self, layer: str) -> tuple[Tensor, str, str]:
        """Map where a layer argues for the predicted class of the selected image, see `probing.evidence_map`.

        It argues against the label; if the image is classified correctly, against the second most likely class.

        Args:
            layer: name of the layer.

        Returns:
            The map `(H, W)`, and the names of both classes.

        Raises:
            KeyError: if there is no such layer.
            ValueError: if the weights were changed.
        """
        return self.sets.evidence(self.index, layer)

    def rewrite(
        self,
        layer: str,
        strength: float = 1.0,
        exemplar: Exemplar | None = None,
        drawn_on: int | None = None,
        preview: Preview | None = None,
    ) -> Result:
        """Rewrite one layer by an exemplar; the edit replaces the last one.

        Args:
            layer: name of the layer.
            strength: α.
            exemplar: by default, the one of the selected image.
            drawn_on: index of the image that the exemplar was made from, which does not count; the selected one by
                default.
            preview: is called with the result before the clean and retained images are measured.

        Raises:
            ValueError: if nothing is marked, if an argument cannot be used, or if the weights were changed.
        """
        exemplar = self.exemplar if exemplar is None else exemplar
        drawn_on = self.index if drawn_on is None else drawn_on
        self.sets.check_weights()
        edit = self.sets.rewrite(exemplar, layer, strength)
        return self._add_step(edit, (drawn_on,), self.sets.result(edit, (drawn_on,), preview), strength)

    def search(
        self,
        exemplar: Exemplar | None = None,
        drawn_on: int | None = None,
        callback: Callback | None = None,
    ) -> RepairResult:
        """Search for the best edit with `repair`; if one is found, it replaces the last one.

        Args:
            exemplar: by default, the one of the selected image.
            drawn_on: index of the image that the exemplar was made from, which is not used; the selected one by
                default.
            callback: is called with the `Progress` before each candidate; the search ends when it returns False.

        Returns:
            The outcome. The verdict of `result` has the same figures, of images that were not used to select the edit.

        Raises:
            ValueError: if nothing is marked, if there are no `clean` images, or if the weights were changed.
            KeyboardInterrupt: if `callback` ended the search before the first candidate was done.
        """
        exemplar = self.exemplar if exemplar is None else exemplar
        drawn_on = self.index if drawn_on is None else drawn_on
        fix = self.sets.search(exemplar, drawn_on, callback)
        self._fix = fix
        if fix.selection.feasible:
            result = with_held_out_verdict(self.sets.result(fix.edit, (drawn_on,)), fix)
            self._add_step(fix.edit, (drawn_on,), result, fix.selection.params["strength"])
        return fix

    def draw_charts(self) -> None:
        """Draw the charts of the search that has found the last edit, for its result; this takes some seconds."""
        if not self._steps:
            return
        step = self._steps[-1]
        if step.result.repair is not None and not step.result.charts:
            step.result = replace(step.result, charts=step.result.repair.charts_html())

    def load(self, path: str | os.PathLike) -> Result:
        """Load a saved edit, which replaces the last one.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not an edit of this classifier, or if the weights were changed.
        """
        return self.show(self.read_edit(path))

    def read_edit(self, path: str | os.PathLike) -> Edit:
        """Read a saved edit of this classifier, without using it; raises what `Edit.load` raises."""
        return Edit.load(Path(path).expanduser(), self.sets.classifier)

    def show(self, edit: Edit) -> Result:
        """Replace the last edit by one that was made elsewhere.

        Raises:
            ValueError: if it was made for another classifier, or if the weights were changed.
        """
        self.sets.check_weights()
        return self._add_step(edit, (), self.sets.result(edit))

    def save(self, path: str | os.PathLike) -> Path:
        """Write the last edit as a safetensors file.

        Returns:
            The path of the file.

        Raises:
            ValueError: if there is no edit.
        """
        if self.edit is None:
            raise ValueError("there is no edit to save; mark an image and rewrite a layer first")
        path = Path(path).expanduser()
        self.edit.save(path)
        return path

    def save_report(self, path: str | os.PathLike) -> Path:
        """Write the report of the search that found the last edit, see `RepairResult.report`.

        Returns:
            The path of the file.

        Raises:
            ValueError: if the last edit was not found by a search.
        """
        if self._fix is None or self._fix.edit is not self.edit:
            raise ValueError("a report is of an edit that a search has found; search for the best one first")
        return self._fix.report(path)

    @property
    def can_undo(self) -> bool:
        """Whether there is an edit to undo."""
        return bool(self._steps)

    def undo(self) -> None:
        """Go back to the edit before, if there is one; after a change of images or labels its result is cleared."""
        if self._steps:
            self._steps.pop()

    def _add_step(self, edit: Edit, drawn_on: tuple[int, ...], result: Result, strength: float = 1.0) -> Result:
        self._steps.append(_Step(edit, drawn_on, result, strength))
        return result
