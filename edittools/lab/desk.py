"""The desk: pick a picture that is misread, mark what misleads, rewrite, and see what that changes everywhere.

    desk = et.lab.Desk(classifier, images, everyday=everyday, keep=keep)
    desk                                   # in a notebook: the panel
    desk.choose(3); desk.editor.mask = mask; desk.rewrite(); desk.wait()
    print(desk.result.verdict)             # the same by Python, on the same path as by hand

What takes long runs in one thread, one request after the other, so the page never waits for it.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import ipywidgets as w
import torch
from matplotlib.figure import Figure
from torch import Tensor

from edittools.classifiers import Classifier
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import load_image
from edittools.lab import desk_panel as panel
from edittools.lab.desk_sets import DeskSets, Result, Source
from edittools.lab.editor import MaskEditor
from edittools.lab.materials import MATERIALS, turned
from edittools.lab.pixels import Pictured
from edittools.lab.plots import predictions
from edittools.metrics import predict

SHOWN = 60  # so many pictures are shown, the most wrong ones
PAIR = {
    (True, False): "x is read rightly and x' is not: what is marked misleads. Rewrite!",
    (True, True): "Both are read rightly: what is marked hardly misleads. Try another picture, material or mask.",
    (False, True): "x is misread and x' is not: try another material.",
    (False, False): "Both are misread: mark all that misleads, or try another material.",
}
"""Whether x and x', read rightly or not, show a rule."""


class Desk(Pictured, w.VBox):
    """A panel on which a classifier's rule is rewritten from one picture, without writing code.

    `images` are pictures of which some are misread, `everyday` ones whose accuracy must stay, `keep` ones that must be
    read as they are now. Each is `LabelledImages`, a tensor `(N, 3, H, W)`, `LazyImages` or a folder (`read_folder`);
    without labels it is held to what is read now. `materials` are textures `(3, h, w)` of your own, by name.

    `.result` says what the edit that is shown does, None where there is none. By hand, what goes wrong is said below
    the buttons. The classifier is not changed. Raises `TypeError` or `ValueError` for sets that are none and for an
    image that is in two of them, and `FileNotFoundError` for a folder that is not there.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Source,
        everyday: Source | None = None,
        keep: Source | None = None,
        *,
        materials: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.sets, self.materials = DeskSets(classifier, images, everyday, keep), dict(materials or {})
        self.order = self.sets.order[:SHOWN]
        self.result: Result | None = None
        self._past: list[Result | None] = []
        self._editors: dict[int, MaskEditor] = {}
        self._worker, self._asked, self._stopped = ThreadPoolExecutor(1, "edittools desk"), Future(), False
        self.controls = panel.Controls((*self.materials, *MATERIALS), self.sets)
        self.box = panel.column(panel.heading("2 Mark what misleads"))
        self.pictures = panel.Pictures(selectable=True, label="pictures, the most wrong first")
        super().__init__(panel.layout(self))
        self.add_class("et-desk")
        _wire(self)
        self.pictures.show(self.sets.images.images[self.order])
        self._show()
        self.choose(self.order[0])
        _prepare(self)

    @property
    def edit(self) -> Edit | None:
        """The edit that is shown; None where there is none."""
        return None if self.result is None else self.result.edit

    @property
    def exemplar(self) -> Exemplar:
        """X, x' and the mask as they are drawn now; `ValueError` where nothing is marked.

        A misread picture is x', and turned to the material it is x, as it should look. One that is read rightly is x.
        """
        mask, sets = self.editor.mask, self.sets
        if not mask.any():
            raise ValueError("nothing is marked: mark on the picture what misleads")
        picture = sets.images.images[self.index]
        other = turned(picture, mask, self.controls.material.value, self.materials)
        pair = (other, picture) if sets.misread(self.index) else (picture, other)
        return Exemplar(*pair, mask, int(sets.images.labels[self.index]))

    def choose(self, index: int) -> None:
        """Put the picture `index` of the images into the editor, with what was drawn on it."""
        if not 0 <= index < len(self.sets.images):
            raise IndexError(f"picture {index}: expected 0 to {len(self.sets.images) - 1}")
        self.index = index
        if index not in self._editors:
            self._editors[index] = MaskEditor(self.sets.images.images[index])
            self._editors[index].observe(lambda change: _look(self), "_masks")
        self.editor = self._editors[index]
        self.box.children = [self.box.children[0], self.editor]
        self.pictures.selected = self.order.index(index) if index in self.order else -1
        self.controls.shows.value = self.sets.shows(index)
        _look(self)

    def rewrite(self) -> None:
        """Rewrite one layer by what is marked, and show what that does in place of what is shown."""
        index, exemplar = self.index, self.exemplar
        layer, strength = self.controls.layer.value, self.controls.strength.value

        def work() -> str:
            self._show(self.sets.result(self.sets.rewrite(exemplar, layer, strength), [index]))
            return f"Rewritten: {layer}, strength {strength:g}."

        self._ask(work, "rewriting …")

    def find_best(self) -> None:
        """Search with `repair` for the best edit by what is marked, until it is done or stopped."""
        index, exemplar = self.index, self.exemplar
        self._stopped = False
        self.controls.searching(0.0)
        self._ask(lambda: _search(self, exemplar, index), "searching …")

    def stop(self) -> None:
        """End the search with the best so far."""
        self._stopped = True

    def undo(self) -> None:
        """Go back to the result that was shown before."""
        if self._past:
            self.result = self._past.pop()
            self._show()

    def save(self, path: str | os.PathLike) -> None:
        """Write `.edit` as a safetensors file; `ValueError` where there is none."""
        if self.edit is None:
            raise ValueError("there is no edit yet: mark a picture and rewrite first")
        path = Path(path).expanduser()
        self.edit.save(path)
        self.controls.said.say(f"Saved as {path}.")

    def load(self, path: str | os.PathLike) -> None:
        """Show the edit of a file; raises what `Edit.load` raises."""
        edit = Edit.load(Path(path).expanduser(), self.sets.classifier)
        self._ask(lambda: self._show(self.sets.result(edit)), "looking …")

    def wait(self, seconds: float | None = 600) -> None:
        """Wait until all that was asked for is done, and raise what went wrong in what was asked for last."""
        self._asked.result(seconds)

    def __repr__(self) -> str:
        return f"Desk({self.sets}{'' if self.edit is None else f'; {self.edit}'})"

    def figure(self) -> Figure:
        """Draw the most wrong pictures with what is read in them, before and after the edit."""
        before, indices = self.sets.before, self.order[:12]
        after = before if self.result is None else torch.cat([self.result.after, before[len(self.result.after) :]])
        return predictions(self.sets.images, after, before, indices=indices, columns=6, width=1.5)

    def _ask(self, work: Callable[[], str | None], doing: str = "") -> None:
        """Do some work after all that was asked for before, and say what is done and what came of it, if anything."""
        self._asked = self._worker.submit(_done, self, work, doing)

    def _show(self, result: Result | None = None) -> None:
        """Show a new result, or what there is again: the verdict, and below each picture what is read in it."""
        if result is not None:
            self._past.append(self.result)
            self.result = result
        self.controls.show(self.result, bool(self._past))
        before, labels = self.sets.before.argmax(dim=1).tolist(), self.sets.images.labels.tolist()
        after = [] if self.result is None else self.result.after.argmax(dim=1).tolist()
        after += before[len(after) :]
        classes = self.sets.classifier.classes
        self.pictures.cards = [panel.card(classes, labels[i], before[i], after[i]) for i in self.order]


# --- what the worker does -------------------------------------------------------------------------------------------


def _done(desk: Desk, work: Callable[[], str | None], doing: str) -> None:
    """Do some work and say what came of it."""
    if doing:
        desk.controls.said.say(doing)
    try:
        said = work() or ("Done." if doing else "")
    except Exception as error:  # models and files fail in any way
        desk.controls.said.say(_words(error), alarm=True)
        raise
    if said:
        desk.controls.said.say(said)


def _search(desk: Desk, exemplar: Exemplar, index: int) -> str:
    """Search with `repair` and show what is found, with its verdict on pictures that did not choose it."""

    def told(method: str, done: int, whole: int | None) -> None:
        desk.controls.searching(done / whole if whole else 0.0)
        if desk._stopped:
            raise KeyboardInterrupt

    try:
        fix = desk.sets.search(exemplar, index, told)
        if not fix.methods["edit"].found:
            return fix.verdict
        desk._show(replace(desk.sets.result(fix.edit, [index]), verdict=fix.verdict, held_out=True))
        return "Found."
    except KeyboardInterrupt:
        return "The search was ended before anything was tried."
    finally:
        desk.controls.searching(None)


def _look(desk: Desk) -> None:
    """Show x and x' as they are drawn now, with what is read in them."""
    pair, sets, desk.looked_at = desk.controls.pair, desk.sets, None
    if not desk.editor.mask.any():
        pair.show([])
        desk.controls.said.say("Mark on the picture what misleads.")
        return
    exemplar = desk.looked_at = desk.exemplar

    def work() -> str | None:
        if exemplar is not desk.looked_at:  # drawn on since
            return None
        both = torch.stack([exemplar.image, exemplar.changed])
        read, label = predict(sets.classifier, both).argmax(dim=1).tolist(), exemplar.label
        names = ("x: aim", "x': mistake")
        pair.cards = [panel.card(sets.classifier.classes, label, *two) for two in zip(read, read, names, strict=True)]
        pair.show(both)
        return PAIR[read[0] == label, read[1] == label]

    desk._ask(work)


def _prepare(desk: Desk) -> None:
    """Run the sets up to the layer that is chosen, so that the next rewrite is fast."""
    layer = desk.controls.layer.value

    def work() -> None:
        desk.sets.at(layer)

    desk._ask(work)


# --- what a hand does -----------------------------------------------------------------------------------------------


def _wire(desk: Desk) -> None:
    """Say what every control does; what goes wrong is said below the buttons."""
    controls = desk.controls

    def by_hand(act: Callable[..., None]) -> Callable[..., None]:
        def acted(change: object) -> None:
            try:
                act(change)
            except Exception as error:  # models and files fail in any way
                controls.said.say(_words(error), alarm=True)

        return acted

    controls.rewrite.on_click(by_hand(lambda _: desk.rewrite()))
    controls.search.on_click(by_hand(lambda _: desk.find_best()))
    controls.stop.on_click(lambda _: desk.stop())
    controls.undo.on_click(lambda _: desk.undo())
    controls.save.on_click(by_hand(lambda _: desk.save(controls.path.value)))
    controls.upload.observe(by_hand(lambda change: _add(desk, change["new"])), "value")
    desk.pictures.observe(by_hand(lambda change: _pick(desk, change["new"])), "selected")
    controls.shows.observe(lambda change: _relabel(desk, change["new"]), "value")
    controls.material.observe(by_hand(lambda _: _look(desk)), "value")
    controls.layer.observe(lambda _: _prepare(desk), "value")


def _pick(desk: Desk, place: int) -> None:
    if place >= 0 and desk.order[place] != desk.index:
        desk.choose(desk.order[place])


def _relabel(desk: Desk, name: str) -> None:
    """Say what the picture in the editor shows."""
    index = desk.index
    if name == desk.sets.shows(index):
        return

    def work() -> str:
        desk.sets.relabel(index, name)
        desk._show()
        _look(desk)
        return f"Picture {index} shows {name}."

    desk._ask(work)


def _add(desk: Desk, uploads: tuple[dict, ...]) -> None:
    """Add the pictures, or show the edit, that were chosen or dropped in the page."""
    for upload in uploads:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(upload["name"]).name
            path.write_bytes(bytes(upload["content"]))
            if path.suffix == ".safetensors":
                desk.load(path)
            else:
                picture = load_image(path, desk.sets.classifier.size, desk.sets.classifier.resize_to)
                desk._ask(lambda picture=picture: _added(desk, picture), "adding …")


def _added(desk: Desk, picture: Tensor) -> str:
    desk.order.insert(0, desk.sets.add(picture))
    desk._show()
    desk.pictures.show(desk.sets.images.images[desk.order])
    desk.choose(desk.order[0])
    return "Added. Say what it shows, if that is not what is read."


def _words(error: Exception) -> str:
    """What went wrong, in the error's own words, or its kind where it has none."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error) or type(error).__name__
