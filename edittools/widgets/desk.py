"""The desk: select a misclassified image, mark what misleads, rewrite, and see what that changes on other images.

    desk = et.widgets.Desk(classifier, images, clean=clean, retain=retain)
    desk                                   # in a notebook: the panel
    desk.choose(3)
    desk.editor.mask = mask
    desk.rewrite()
    desk.wait()
    print(desk.result.verdict)             # the same from Python, on the same path as by hand

The desk is a panel around an `EditSession`, which holds the images, the marks and the edits. Whatever takes long runs
in one thread, one request after the other, so the page never waits for it.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import load_image
from edittools.plots import predictions
from edittools.widgets import desk_panel as panel
from edittools.widgets.desk_sets import DeskSets, ImageSource, Result
from edittools.widgets.editor import MaskEditor
from edittools.widgets.pixels import Pictured
from edittools.widgets.session import EditSession

MOST_PICTURES = 60
"""So many images are shown at most, those with the worst predictions."""

PAIR = {
    (True, False): "x is read rightly and x' is not: what is marked misleads. Rewrite!",
    (True, True): "Both are read rightly: what is marked hardly misleads. Try another picture, material or mask.",
    (False, True): "x is misclassified and x' is not: try another material.",
    (False, False): "Both are misclassified: mark all that misleads, or try another material.",
}
"""Whether x and x', classified correctly or not, show a rule."""


class Desk(Pictured, ipywidgets.VBox):
    """A panel on which a classifier's rule is rewritten from one image, without writing code.

    By hand, errors are shown below the buttons. From Python, the methods do the same as the buttons, and `wait` raises
    the errors. The classifier is not changed.

    Args:
        classifier: the classifier.
        images: images of which some are misclassified.
        everyday: images whose accuracy should stay; without them, the desk cannot say what an edit costs.
        keep: images whose predictions should not change.
        materials: own textures `(3, h, w)` by name.

    Each set is `LabelledImages`, a tensor `(N, 3, H, W)`, `LazyImages` or a folder (`read_folder`). Without labels, the
    current predictions serve as labels.

    `result` says what the edit that is shown does to the images as they are now; it is None if there is no edit, and
    while it is computed again because images or labels have changed. `session` is what the desk does without widgets.

    Raises:
        TypeError: if a set is none of these.
        ValueError: if a set cannot be used, or if two sets share an image.
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
    ) -> None:
        self.session = EditSession(classifier, images, clean, retain, materials=materials)
        self.order = self.sets.order[:MOST_PICTURES]
        self._editors: dict[int, MaskEditor] = {}
        self._worker = ThreadPoolExecutor(1, "edittools desk")
        self._last_request: Future = Future()
        self._stop_requested = False
        self._exemplar_in_view: Exemplar | None = None
        self.controls = panel.Controls(self.session.material_names, self.sets)
        self.box = panel.column(panel.heading("2 Mark what misleads"))
        self.pictures = panel.Pictures(selectable=True, label="pictures, the most wrong first")
        super().__init__(panel.layout(self))
        self.add_class("et-desk")
        self._connect_controls()
        self.pictures.show(self.sets.images.images[self.order])
        self._show()
        self.choose(self.order[0])
        self._prepare()

    def __repr__(self) -> str:
        return f"Desk({self.session.description})"

    # --- what the session holds ---------------------------------------------------------------------------------------

    @property
    def sets(self) -> DeskSets:
        """The image sets."""
        return self.session.sets

    @property
    def materials(self) -> dict[str, Tensor]:
        """The own textures by name."""
        return self.session.materials

    @property
    def index(self) -> int:
        """The index of the image in the editor."""
        return self.session.index

    @property
    def edit(self) -> Edit | None:
        """The edit that is shown; None if there is none."""
        return self.session.edit

    @property
    def result(self) -> Result | None:
        """What the edit does to the images as they are now; None if there is no edit, or if it is not yet known."""
        return self.session.result

    @property
    def exemplar(self) -> Exemplar:
        """X, x' and the mask as they are drawn now, see `EditSession.exemplar`.

        Raises:
            ValueError: if nothing is marked.
        """
        self.session.mark(self.editor.mask)
        self.session.material = self.controls.material.value
        return self.session.exemplar

    # --- what a person does -------------------------------------------------------------------------------------------

    def choose(self, index: int) -> None:
        """Put an image into the editor, with what was drawn on it.

        Raises:
            IndexError: if there is no such image.
        """
        self.session.select(index)
        if index not in self._editors:
            editor = MaskEditor(self.session.image)
            editor.observe(lambda change: self._show_exemplar(), "_masks")
            self._editors[index] = editor
        self.editor = self._editors[index]
        self.box.children = [self.box.children[0], self.editor]
        self.pictures.selected = self.order.index(index) if index in self.order else -1
        self.controls.shows.value = self.sets.shows(index)
        self._show_exemplar()

    def rewrite(self) -> None:
        """Rewrite one layer by what is marked, and show what that does; the result before can be gone back to.

        Raises:
            ValueError: if nothing is marked.
        """
        layer = self.controls.layer.value
        strength = self.controls.strength.value
        self._submit(partial(self._rewrite, layer, strength, self.exemplar, self.index), "rewriting …")

    def find_best(self) -> None:
        """Search with `repair` for the best edit by what is marked, until it is done or stopped.

        Raises:
            ValueError: if nothing is marked.
        """
        exemplar = self.exemplar
        self._stop_requested = False
        self.controls.searching(0.0)
        self._submit(partial(self._search, exemplar, self.index), "searching …")

    def stop(self) -> None:
        """End the search with the best so far."""
        self._stop_requested = True

    def undo(self) -> None:
        """Go back to the edit that was shown before."""
        self.session.undo()
        self._show()
        if self.edit is not None and self.result is None:
            self._submit(self._update, "looking …")

    def save(self, path: str | os.PathLike) -> None:
        """Write `edit` as a safetensors file.

        Raises:
            ValueError: if there is none.
        """
        path = self.session.save(path)
        self.controls.said.say(f"Saved as {path}.")

    def load(self, path: str | os.PathLike) -> None:
        """Show the edit of a file; raises what `Edit.load` raises."""
        edit = self.session.read_edit(path)
        self._submit(partial(self._show_edit, edit), "looking …")

    def wait(self, seconds: float | None = 600) -> None:
        """Wait until all requests are done; raise the error of the last one.

        Raises:
            TimeoutError: if that takes longer than so many `seconds`.
        """
        self._last_request.result(seconds)

    def figure(self) -> Figure:
        """Draw the images with the worst predictions, with what is predicted before and after the edit."""
        result = self.result
        before = self.sets.before
        after = before if result is None else result.after
        return predictions(self.sets.images, after, before, indices=self.order[:12], columns=6, width=1.5)

    # --- the worker ---------------------------------------------------------------------------------------------------

    def _submit(self, work: Callable[[], str | None], doing: str = "") -> None:
        """Let the worker do something after all that was requested before.

        Args:
            work: returns what to say when it is done, if anything.
            doing: what to say meanwhile.
        """
        self._last_request = self._worker.submit(self._do, work, doing)

    def _do(self, work: Callable[[], str | None], doing: str) -> None:
        if doing:
            self.controls.said.say(doing)
        try:
            outcome = work()
        except Exception as error:  # models and files fail in any way
            self._show()
            self.controls.said.say(_message(error), alarm=True)
            raise
        if outcome or doing:
            self.controls.said.say(outcome or "Done.")

    def _rewrite(self, layer: str, strength: float, exemplar: Exemplar, drawn_on: int) -> str:
        self.session.rewrite(layer, strength, exemplar, drawn_on)
        self._show()
        return f"Rewritten: {layer}, strength {strength:g}."

    def _search(self, exemplar: Exemplar, drawn_on: int) -> str:
        try:
            fix = self.session.search(exemplar, drawn_on, self._show_progress)
        except KeyboardInterrupt:
            return "The search was ended before anything was tried."
        finally:
            self.controls.searching(None)
        if not fix.methods["edit"].found:
            return fix.verdict
        self._show()
        return "Found."

    def _show_progress(self, method: str, done: int, total: int | None) -> None:
        """Show how far the search is; end it if that was requested."""
        self.controls.searching(done / total if total else 0.0)
        if self._stop_requested:
            raise KeyboardInterrupt

    def _show_edit(self, edit: Edit) -> None:
        self.session.show(edit)
        self._show()

    def _relabel(self, index: int, name: str) -> str:
        self.session.relabel(index, name)
        self._update()
        self._show_exemplar()
        return f"Picture {index} shows {name}."

    def _add_image(self, image: Tensor) -> str:
        self.order.insert(0, self.session.add(image))
        self.pictures.show(self.sets.images.images[self.order])
        self._update()
        self.choose(self.order[0])
        return "Added. Say what it shows, if that is not what is read."

    def _update(self) -> None:
        """Clear a result of other images or labels, then compute it again."""
        self._show()
        self.session.update()
        self._show()

    def _prepare(self) -> None:
        """Run the sets up to the layer that is selected, so that the next rewrite is fast."""
        self._submit(partial(self.session.prepare, self.controls.layer.value))

    # --- what is shown ------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        """Show the verdict, and below each image what is predicted before and after the edit."""
        result = self.result
        self.controls.show(result, can_undo=self.session.can_undo, can_save=self.edit is not None)
        classes = self.sets.classifier.classes
        labels = self.sets.images.labels.tolist()
        before = self.sets.before.argmax(dim=1).tolist()
        after = before if result is None else result.after.argmax(dim=1).tolist()
        self.pictures.cards = [panel.card(classes, labels[i], before[i], after[i]) for i in self.order]

    def _show_exemplar(self) -> None:
        """Show x and x' as they are drawn now, and whether they show a rule."""
        self._exemplar_in_view = None
        if not self.editor.mask.any():
            self.controls.pair.show([])
            self.controls.said.say("Mark on the picture what misleads.")
            return
        exemplar = self.exemplar
        self._exemplar_in_view = exemplar
        self._submit(partial(self._show_pair, exemplar))

    def _show_pair(self, exemplar: Exemplar) -> str | None:
        if exemplar is not self._exemplar_in_view:  # drawn on since
            return None
        original, changed = self.session.predictions_of(exemplar)
        classes = self.sets.classifier.classes
        label = exemplar.label
        self.controls.pair.cards = [
            panel.card(classes, label, original, original, "x: aim"),
            panel.card(classes, label, changed, changed, "x': mistake"),
        ]
        self.controls.pair.show(torch.stack([exemplar.image, exemplar.changed]))
        return PAIR[original == label, changed == label]

    # --- what the controls do -----------------------------------------------------------------------------------------

    def _connect_controls(self) -> None:
        """Connect every control with what it does."""
        controls = self.controls
        controls.rewrite.on_click(self._by_hand(lambda _: self.rewrite()))
        controls.search.on_click(self._by_hand(lambda _: self.find_best()))
        controls.stop.on_click(self._by_hand(lambda _: self.stop()))
        controls.undo.on_click(self._by_hand(lambda _: self.undo()))
        controls.save.on_click(self._by_hand(lambda _: self.save(controls.path.value)))
        controls.upload.observe(self._by_hand(lambda change: self._add_files(change["new"])), "value")
        controls.shows.observe(self._by_hand(lambda change: self._label_entered(change["new"])), "value")
        controls.material.observe(self._by_hand(lambda _: self._show_exemplar()), "value")
        controls.layer.observe(self._by_hand(lambda _: self._prepare()), "value")
        self.pictures.observe(self._by_hand(lambda change: self._picture_clicked(change["new"])), "selected")

    def _by_hand(self, act: Callable[[Any], None]) -> Callable[[Any], None]:
        """Let an error be shown below the buttons."""

        def guarded(change: Any) -> None:
            try:
                act(change)
            except Exception as error:  # models and files fail in any way
                self.controls.said.say(_message(error), alarm=True)

        return guarded

    def _picture_clicked(self, place: int) -> None:
        if place >= 0 and self.order[place] != self.index:
            self.choose(self.order[place])

    def _label_entered(self, name: str) -> None:
        if name != self.sets.shows(self.index):
            self._submit(partial(self._relabel, self.index, name))

    def _add_files(self, uploads: tuple[dict, ...]) -> None:
        """Add the images, or show the edit, that were selected or dropped in the page."""
        for upload in uploads:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / Path(upload["name"]).name
                path.write_bytes(bytes(upload["content"]))
                if path.suffix == ".safetensors":
                    self.load(path)
                else:
                    image = load_image(path, self.sets.classifier)
                    self._submit(partial(self._add_image, image), "adding …")


def _message(error: Exception) -> str:
    """Return the message of an error, or its type if it has none."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error  # a KeyError quotes its message
    return str(message) or type(error).__name__
