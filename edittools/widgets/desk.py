"""The desk: mark what misleads in a misclassified image, rewrite, and see the effect on other images.

    desk = et.widgets.Desk(classifier, images, clean=clean, retain=retain)
    desk                                   # in a notebook, shows the panel
    desk.choose(3)
    desk.editor.mask = mask
    desk.rewrite()
    desk.wait()
    print(desk.result.verdict)             # the methods do the same as the controls of the panel

The desk is a panel around an `EditSession`, which holds the images, the marks and the edits. Requests that take long
run in a single thread, one after the other, so the page never waits for them. The first one reads and classifies the
images; a script that uses the desk waits for it. What a person expects at once, x and x' and the heat map, has a thread
of its own.
"""

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from functools import partial
from pathlib import Path
from threading import Event, RLock
from typing import Any

import ipywidgets
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate

from edittools.classifiers import Classifier, check_classifier
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.reports.words import FIND
from edittools.selection.splits import FAILURES, SAMPLE
from edittools.widgets import desk_panel as panel
from edittools.widgets.drawing import image_grid, titles_and_states
from edittools.widgets.editor import MaskEditor, strongest_heat
from edittools.widgets.image_sets import ImageSource, check_source, counted
from edittools.widgets.pixels import StaticFigure, plain_text
from edittools.widgets.result import SELECT, Result
from edittools.widgets.session import EditSession, Sighting, describe_checked

MAX_IMAGES = 60
"""The largest number of images that are shown, the first ones of the order that is selected."""

FIGURE_IMAGES = 14
"""The largest number of images of the gallery in the figure of the desk."""

FIGURE_COLUMNS = 8
"""The number of images side by side in the figure of the desk."""

PAIR_MESSAGES = {
    (True, False): "x is classified correctly and x' is not: the marked area misleads. Rewrite!",
    (True, True): "Both are classified correctly: the marked area hardly misleads. Try another image or material.",
    (False, True): "x is misclassified and x' is not: try another material.",
    (False, False): "Both are misclassified: mark the whole area, or try another material or image.",
}
"""The message about a pair by whether x and x' are classified correctly."""

LARGEST_SHARE = 0.5
"""A pair whose mask covers more of the image than this share says nothing about what misleads."""

LARGE_MASK = "{share:.0%} is marked: replacing so much may change any prediction. Mark less."
"""The warning about such a pair, whatever is predicted."""

SELECTED = "The selected edit is shown; “Undo edit” goes back to the one before."
"""The message after an edit was selected."""

STOPPED_SELECTION = "Stopped; no other edit is selected."
"""The message after the selection of an edit was stopped; a first edit is still shown."""

UNDONE = {True: "The edit is undone; there is none now.", False: "The edit is undone; the one before is shown."}
"""The message after *Undo edit*, by whether there is no edit left."""

MARK_MESSAGE = "Mark the area of the image that misleads."
"""The message about an image on which nothing is marked."""

LABEL_MESSAGE = "This image has no label: mark another one."
"""The message about a marked image that has no label, so that nobody knows whether it is misclassified."""

SIGHTINGS = (
    "The most similar ones come first, whatever is predicted of them. Check those that show the mark, right (✓) and "
    "wrong (✗) ones: an edit is then selected and measured on these images. Click or press Space for one, with Shift "
    "for all from the last one on; or check all, and click those that do not show the mark."
)
"""What is said above the images that may hold the mark."""

STOPPED = "Stopped; nothing has changed."
"""The message after something that takes long was stopped."""

WAITING = "This is done when all images are read and classified."
"""The message about a request that waits for the images."""


class Desk(StaticFigure, ipywidgets.VBox):
    """A panel on which a classifier's rule is rewritten from one image, without writing code.

    The panel shows the images at once. They can be marked when they are classified; an edit waits for the clean and
    retained images, which are then read and classified in the background. What is found only then, such as an image in
    two sets, is shown on the panel, and raised by `wait` and by whatever needs the session.

    Errors of the controls are shown below the buttons. The methods do the same as the controls, and `wait` raises their
    errors. The classifier is not changed.

    Args:
        classifier: the classifier.
        images: images of which some are misclassified.
        clean: images on which accuracy is measured; without them, the cost of an edit is unknown.
        retain: images whose predictions should not change.
        materials: textures `(3, h, w)` by name, in addition to the materials of every desk.

    Each set is `LabelledImages`, a tensor `(N, 3, H, W)`, `LazyImages` or a folder (`read_folder`). Without labels, the
    current predictions serve as labels.

    `result` describes the effect of the edit on the current images; it is None if there is no edit, and while it is
    computed again because images or labels have changed. `session` is the `EditSession` behind the panel. `shown` holds
    the indices of the images in the gallery, as it shows them.

    Raises:
        TypeError: if the classifier is not a `Classifier`, or if a set is none of these.
        ValueError: if a set is empty, or if it can be seen without reading an image that it cannot be used.
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
        sources = {"images": images, "clean": clean, "retain": retain}
        check_classifier(classifier)
        for name, source in sources.items():
            if source is not None:
                check_source(name, source, classifier)
        self._session: EditSession | None = None
        self._editor: MaskEditor | None = None
        self._ranking: list[int] = []
        self.shown: list[int] = []
        self._pictured: list[int] = []  # the index of the image at each position of the gallery
        self._editors: dict[int, MaskEditor] = {}
        self._worker = ThreadPoolExecutor(1, "edittools desk")
        self._first_worker = ThreadPoolExecutor(1, "edittools desk, first")
        self._last_requests: dict[ThreadPoolExecutor, Future] = {}
        self._last_request: Future = Future()
        self._display = RLock()
        self._stop_requested = False
        self._search_waits = False
        self._sightings: list[Sighting] = []
        self._own_class = 0  # of the mark that they may hold
        self._displayed_exemplar: Exemplar | None = None
        self._notes = ipywidgets.HTML().add_class("et-quiet")
        self._busy = panel.Busy()
        self._controls = panel.Controls()
        where = (self._controls.heat, self._controls.find)
        self.box = panel.column(panel.row(panel.heading("2 Mark what misleads"), *where))
        self.gallery = panel.Gallery(selectable=True, label="images")
        select = panel.row(panel.heading("1 Select an image"))
        pick = panel.column(select, self.gallery, self._controls.failures, name="et-pick")
        columns = panel.column(pick, self.box, self._controls, name="et-columns")
        self._use_checked = panel.button("Use the checked images", "make these the concept images", "primary")
        offered = panel.Gallery(checkable=True, label="Images that may hold the mark", size=panel.MEDIUM)
        self._check_all = panel.button("Check all", "then click those that do not show the mark")
        self._check_none = panel.button("Check none", "begin again")
        self.elsewhere = panel.Shelf(offered, self._check_all, self._check_none, self._use_checked)
        shelves = (self.elsewhere,)
        notice = panel.Notice()
        notice.on_msg(lambda *_: self._send_again())
        super().__init__([self._notes, self._busy, columns, *shelves, notice])
        self.add_class("et-desk")
        make_session = partial(
            EditSession,
            classifier,
            **sources,
            materials=materials,
            progress=self._busy_bar,
            on_classified=self._open,
        )
        is_complete = Event()  # the thread may run before the next line
        self._starting = self._worker.submit(self._begin, make_session, is_complete)
        self._last_request = self._starting
        is_complete.set()

    def __repr__(self) -> str:
        return f"Desk({self.session.description})" if self.is_started else "Desk(starting)"

    @property
    def has_figure(self) -> bool:
        """Whether there is something to draw for a saved notebook."""
        return self.is_started

    # --- the state of the session -------------------------------------------------------------------------------------

    @property
    def is_started(self) -> bool:
        """Whether the images are read and classified, without an error."""
        return self._starting.done() and self._starting.exception() is None

    @property
    def session(self) -> EditSession:
        """The session behind the panel; like `controls` and `editor`, it waits until the desk has started.

        Raises the error because of which it could not start.
        """
        self._starting.result()
        return self._session

    @property
    def controls(self) -> panel.Controls:
        """The controls of the panel."""
        self._starting.result()
        return self._controls

    @property
    def editor(self) -> MaskEditor:
        """The mask editor with the selected image."""
        self._starting.result()
        return self._editor

    @property
    def order(self) -> list[int]:
        """The indices of the images with the worst predictions, the worst first."""
        self._starting.result()
        return self._ranking[:MAX_IMAGES]

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
        """The effect of the edit on the current images; None if there is no edit, or until it is computed."""
        return self.session.result

    @property
    def exemplar(self) -> Exemplar:
        """The exemplar that the image in the editor, its mask and the material make, see `EditSession.exemplar`.

        Raises:
            ValueError: if nothing is marked.
        """
        self._starting.result()
        return self._session.exemplar

    @property
    def pair(self) -> Exemplar | None:
        """The exemplar that is shown as x and x'; None if nothing is marked, or until it is computed."""
        return self._displayed_exemplar if self.controls.pair.has_images else None

    # --- actions ------------------------------------------------------------------------------------------------------

    def choose(self, index: int) -> None:
        """Put an image into the editor, with the mask that was drawn on it.

        Raises:
            IndexError: if there is no such image.
        """
        self._starting.result()
        self._choose(index)

    def rewrite(self) -> None:
        """Make an edit of the exemplar, and show the effect; `undo` goes back to the previous edit.

        If there are enough clean images, a better edit is then selected, as by `find_best`.

        Raises:
            ValueError: if nothing is marked.
        """
        self._starting.result()
        self._request_rewrite()

    def find_best(self) -> None:
        """Select an edit by ordinary images with the mark, see `EditSession.search`, unless this is stopped.

        Raises:
            ValueError: if nothing is marked.
        """
        self._request_search(self.exemplar)

    def find_elsewhere(self) -> None:
        """Offer the images that hold the mark by its appearance, until all are searched or this is stopped.

        Raises:
            ValueError: if nothing is marked.
        """
        work = partial(self._find_elsewhere, self.exemplar)
        self._submit_search(work, "looking for the mark …", STOPPED)

    def use_checked(self) -> None:
        """Make the images that are checked the concept images; without any, all images with a label count again."""
        checked = [self._sightings[position] for position in self.elsewhere.gallery.checked]
        self._submit(partial(self._use_as_concept, checked), "computing …")

    def stop(self) -> None:
        """End what takes long; the edit that is shown stays."""
        self._stop_requested = True
        self._controls.show_stopping()

    def undo(self) -> None:
        """Go back to the previous edit."""
        self.session.undo()
        self._show()
        self._controls.message.show(UNDONE[self.edit is None])
        if self.edit is not None and self.result is None:
            self._submit(self._update, "computing …")

    def save(self, path: str | os.PathLike | None = None) -> None:
        """Write `edit` as a safetensors file, see `EditSession.save`.

        Raises:
            ValueError: if there is no edit.
        """
        path = self.session.save(path)
        self._controls.message.show(f"Saved as {path}.")

    def save_report(self, path: str | os.PathLike | None = None) -> None:
        """Write the report of the selected edit as an HTML page, see `EditSession.save_report`.

        Raises:
            ValueError: if the edit was not selected by `find_best`.
        """
        self.session.check_has_report()  # refuses an edit that was not selected at once
        self._submit(partial(self._save_report, path), "writing the report …")

    def wait(self, seconds: float | None = 600) -> None:
        """Wait until all requests are done; raise the error of the last one.

        Args:
            seconds: the longest time to wait; None for no limit.

        Raises:
            TimeoutError: if the requests take longer.
        """
        self._starting.result(seconds)
        _, running = wait_for(list(self._last_requests.values()), seconds)
        if running:
            raise TimeoutError(f"the desk is still at work after {seconds} s; wait longer, or pass None for no limit")
        self._last_request.result()

    def figure(self) -> Figure:
        """Draw x and x', the first images of the gallery with their predictions, and the verdict, as they are now."""
        session = self.session
        result = self.result
        classes = session.classifier.classes
        shown = [index for index in self.shown if session.has_label(index)][:FIGURE_IMAGES]
        after = session.before if result is None else result.after
        titles, states = titles_and_states(classes, session.images.labels[shown], session.before[shown], after[shown])
        images = list(session.images.images[shown])
        pair = self.pair
        if pair is not None:
            images = [pair.image, pair.changed, *images]
            titles = ["x", "x'", *titles]
            states = [*(card["state"] for card in self.controls.pair.cards), *states]
        figure = image_grid(images, list(map(plain_text, titles)), columns=FIGURE_COLUMNS, width=1.5, states=states)
        if result is not None:
            lines = [self.controls.title_text, *result.verdict.split("\n")]
            text = "\n".join(textwrap.fill(line, 150) for line in lines)
            figure.text(0.01, 1.02, plain_text(text), va="bottom", size=9)
        return figure

    # --- the worker ---------------------------------------------------------------------------------------------------

    def _begin(self, make_session: Callable[[], EditSession], is_complete: Event) -> None:
        """Make the session and show it, then prepare for the first rewrite; or show why this has failed.

        Args:
            make_session: makes the session.
            is_complete: is set when the constructor of the desk is done, before which nothing is begun.
        """
        is_complete.wait()
        try:
            session = make_session()
        except Exception as error:  # models and files fail in any way
            self._controls.disable()
            self._busy.show_error(f"The desk cannot start: {_message(error)}")
            raise
        self._notes.value = panel.notes_html(session)
        self._controls.complete()
        self._busy.hide()
        self._submit(self._prepare)

    def _open(self, session: EditSession) -> None:
        """Show a session whose images are classified."""
        self._session = session
        self._ranking = session.order
        index = self._ranking[0]
        self._controls.fill(session)
        self._connect_controls()
        with self.gallery.hold_sync():
            self.gallery.show([])
            self._show()
        self._choose(index)
        self._controls.enable()  # not before, or the message of a button that was pressed would be cleared

    def _busy_bar(self, *arguments: Any, **options: Any) -> panel.Bar:
        """Make a bar of the panel for the next step that takes long."""
        return panel.Bar(*arguments, show=lambda bar: self._busy.show(bar.what, bar.n, bar.total), **options)

    def _submit(self, work: Callable[[], panel.Outcome], running_message: str = "", is_first: bool = False) -> None:
        """Queue a request.

        Args:
            work: the request; returns what is said when it is done.
            running_message: the message that is shown while it runs.
            is_first: whether it runs at once, next to what takes long.
        """
        if running_message:  # said at once: the request may wait for one that prepares a layer, which takes long
            self._controls.message.show(running_message if self._starting.done() else WAITING)
        worker = self._first_worker if is_first else self._worker
        self._last_request = worker.submit(self._run, work, running_message)
        self._last_requests[worker] = self._last_request

    def _submit_search(self, work: Callable[[], panel.Outcome], running_message: str, stopped_message: str) -> None:
        """Queue a request that takes long and that *Stop* ends; no layer is prepared until it is done.

        Args:
            work: the request; returns what is said when it is done.
            running_message: the message that is shown while it runs.
            stopped_message: the message after it was stopped.
        """
        self._stop_requested = False
        self._search_waits = True
        self._controls.show_search(0.0)
        self._submit(partial(self._run_search, work, stopped_message), running_message)

    def _run_search(self, work: Callable[[], panel.Outcome], stopped_message: str) -> panel.Outcome:
        """Run a request that *Stop* ends, see `_submit_search`."""
        self._search_waits = False
        try:
            return work()
        except KeyboardInterrupt:
            return panel.Outcome(stopped_message)
        finally:
            self._controls.show_search(None)

    def _request_rewrite(self) -> None:
        """Queue an edit of the exemplar, and the selection of a better one."""
        exemplar = self._session.exemplar
        self._submit(partial(self._rewrite, exemplar), "rewriting …")
        if not self.is_started or self._session.can_search:
            self._request_search(exemplar, is_optional=True)

    def _request_search(self, exemplar: Exemplar, is_optional: bool = False) -> None:
        """Queue the selection of an edit; an optional one is left out if there are too few clean images."""
        self._session.source = FAILURES if self._controls.failures.value else SAMPLE
        self._submit_search(partial(self._search, exemplar, is_optional), "", STOPPED_SELECTION)

    def _run(self, work: Callable[[], panel.Outcome], running_message: str) -> None:
        """Run a request, and show its messages or its error."""
        if running_message:
            self._controls.message.show(running_message)
        try:
            if self._starting.done():
                self._starting.result()  # without its images, nothing can be done
            outcome = work()
        except Exception as error:  # models and files fail in any way
            self._controls.message.show(_message(error), alarm=True)
            self._show()
            raise
        if outcome.text:
            self._controls.message.show(outcome.text, details=outcome.details)

    def _rewrite(self, exemplar: Exemplar) -> panel.Outcome:
        result = self._session.rewrite(exemplar=exemplar, preview=self._show_result)
        self._show()
        return panel.Outcome(f"Rewrote {result.edit.layers[0]}.")

    def _search(self, exemplar: Exemplar, is_optional: bool) -> panel.Outcome:
        session = self._session
        if is_optional and not session.can_search:
            return panel.Outcome()
        session.search(exemplar, self._work_bar)
        self._show()
        return panel.Outcome(SELECTED)

    def _work_bar(self, *arguments: Any, **options: Any) -> panel.Bar:
        """Make a bar where the bar of a search is, which *Stop* ends."""

        def show(bar: panel.Bar) -> None:
            left = (
                bar.format_interval((bar.total - bar.n) / bar.format_dict["rate"]) if bar.format_dict["rate"] else "?"
            )
            self._controls.show_search(bar.share, f"{bar.what}: {bar.n} of {bar.total}, {left} left")

        return panel.Bar(*arguments, show=show, is_stopped=lambda: self._stop_requested, **options)

    def _find_elsewhere(self, exemplar: Exemplar) -> panel.Outcome:
        self._sightings = self._session.find_elsewhere(exemplar, self._work_bar)
        classes = self._session.classifier.classes
        images = [sighting.box.outlined_on(sighting.image) for sighting in self._sightings]
        cards = []
        for sighting in self._sightings:
            probabilities = sighting.logits.softmax(dim=0)
            cards.append(panel.card(classes, sighting.label, probabilities, probabilities, name=sighting.name))
        self._own_class = self._session.own_class(exemplar)
        own = sum(sighting.label == self._own_class for sighting in self._sightings)
        images_offered = counted(len(self._sightings), "image")
        own_name = classes[self._own_class]
        counts = f"{images_offered}, {own} of them labeled {own_name}, the class that x' is predicted as."
        self.elsewhere.show(f"{counts} {SIGHTINGS}", images, cards)
        is_checked = map(self._session.is_concept, self._sightings)
        self.elsewhere.gallery.check(position for position, checked in enumerate(is_checked) if checked)
        self._say_checked()
        return panel.Outcome("Below: the images that may hold the mark.")

    def _say_checked(self) -> None:
        """Say how many images are checked, and how many more a verdict needs."""
        checked = [self._sightings[position] for position in self.elsewhere.gallery.checked]
        class_name = self._session.classifier.classes[self._own_class]
        self.elsewhere.count.show(describe_checked(checked, self._own_class, class_name))

    def _use_as_concept(self, sightings: Sequence[Sighting]) -> panel.Outcome:
        indices = self._session.use_as_concept(sightings)
        self._ranking = self._session.order
        self._update()
        self._submit(self._prepare)

        self.elsewhere.hide()
        if not indices:
            return panel.Outcome("No image is checked: all images with a label count.")
        wrong = sum(map(self._session.is_misclassified, indices))
        number = counted(len(indices), "concept image")
        return panel.Outcome(f"{number}, {wrong} of them misclassified; the others do not count.")

    def _save_report(self, path: str | os.PathLike | None) -> panel.Outcome:
        return panel.Outcome(f"Saved as {self._session.save_report(path)}.")

    def _update(self) -> panel.Outcome:
        """Clear a result that was computed with other images or labels, then compute it again."""
        self._show()
        self._session.update()
        self._show()
        return panel.Outcome("The result of the edit is computed again.")

    def _prepare(self) -> panel.Outcome:
        """Compute what makes the next rewrite fast, see `EditSession.prepare`, until a search needs the same."""
        try:
            self._session.prepare(progress=partial(self._busy_bar, is_stopped=lambda: self._search_waits))
        except KeyboardInterrupt:
            return panel.Outcome()
        finally:
            self._busy.hide()
        return panel.Outcome()

    # --- display ------------------------------------------------------------------------------------------------------

    def _send_again(self) -> None:
        """Send all that is shown to a page that has just been opened."""
        with self._display:
            panel.send_again(self)

    def _show(self) -> None:
        """Show the verdict, and the predictions below each image."""
        self._show_result(self._session.result)

    def _choose(self, index: int) -> None:
        """Put an image into the editor, with the mask that was drawn on it."""
        self._session.select(index)
        if index not in self._editors:
            photo = self._session.photo
            mask = interpolate(self._session.mask[None, None], photo.shape[1:])[0, 0]
            editor = MaskEditor(photo, mask)
            editor.observe(self._with_errors_shown(lambda _: self._show_exemplar()), "_mask")
            self._editors[index] = editor
        if self._editor is not None:
            self._editors[index].opacity = self._editor.opacity
        self._editor = self._editors[index]
        self.box.children = [self.box.children[0], self._editor, self._controls.heat_bar]
        self._show_selected()
        self._show_exemplar()
        if self._controls.heat.value:
            self._request_heat()

    def _show_selected(self) -> None:
        """Show in the gallery which image is selected, if it has shown this image."""
        index = self._session.index
        self.gallery.selected = self._pictured.index(index) if index in self._pictured else -1

    def _show_result(self, result: Result | None) -> None:
        """Show a result, which may be one whose clean and retained images are not measured yet."""
        with self._display:
            self._show_cards(result)

    def _show_cards(self, result: Result | None) -> None:
        """Show the verdict and the gallery, in one thread at a time."""
        has_edit = self._session.edit is not None
        self._controls.show(result, has_edit, self._session.file_name if has_edit else "")
        if self.is_started:
            self._notes.value = panel.notes_html(self._session)
        classes = self._session.classifier.classes
        before = self._session.before.softmax(dim=1)
        after = before if result is None else result.after.float().softmax(dim=1)
        self._sort(result)
        marked = set(self._session.marked)
        cards = []
        for index in self._pictured:
            name = self._session.name(index)
            label = int(self._session.images.labels[index]) if self._session.has_label(index) else None
            card = panel.card(classes, label, before[index], after[index], name=name, marked=index in marked)
            cards.append(card)
        self.gallery.cards = cards

    def _sort(self, result: Result | None) -> None:
        """Order the images, and show those that the gallery has not shown yet."""
        order = self._ranking
        if result is not None:
            order = self._session.by_change(result)
        self.shown = order[:MAX_IMAGES]
        added = [index for index in self.shown if index not in self._pictured]
        if added:
            self.gallery.add(self._session.images.images[added])
            self._pictured += added
        self.gallery.order = [self._pictured.index(index) for index in self.shown]

    def _request_heat(self) -> None:
        """Show the heat map of the image in the editor, or take it away."""
        controls = self._controls
        if controls.heat.value:
            layer = self._session.default_layer
            work = partial(self._show_heat, self._editor, self._session.index, layer)
            self._submit(work, is_first=True)
        else:
            self._editor.show_heat(None)
            controls.show_heat(None)
            self._show_exemplar()

    def _show_heat(self, editor: MaskEditor, index: int, layer: str) -> panel.Outcome:
        if editor is not self._editor or not self._controls.heat.value:  # something else is shown by now
            return panel.Outcome()
        heat, favored, against = self._session.evidence(layer, index)
        size = editor.mask.shape
        editor.show_heat(interpolate(heat[None, None], size, mode="bilinear")[0, 0] if heat.shape != size else heat)
        self._controls.show_heat(strongest_heat(heat), favored, against)
        text = f"Bright: where {layer} sees {favored} rather than {against}."
        misleads = favored != self._session.class_name(index)
        return panel.Outcome(f"{text} Mark there what misleads." if misleads else text)

    def _show_exemplar(self) -> None:
        """Show x and x', and whether they are classified correctly."""
        self._displayed_exemplar = None
        self._controls.message.show("")
        marked = self._session.marked
        self._session.mark(self._editor.mask)
        self._controls.show_materials(self._session.material_names, self._session.material)
        if marked != self._session.marked:
            self._show()
        if not self._session.mask.any():
            self._controls.pair.placeholder = panel.UNMARKED
            self._controls.pair.show([])
            self._controls.pair_message.show(MARK_MESSAGE)
            return
        if not self._session.has_label(self._session.index):
            self._controls.pair.show([])
            self._controls.pair_message.show(LABEL_MESSAGE)
            return
        exemplar = self._session.exemplar
        self._displayed_exemplar = exemplar
        self._controls.pair.placeholder = panel.CLASSIFYING_PAIR
        self._submit(partial(self._show_pair, exemplar), is_first=True)

    def _show_pair(self, exemplar: Exemplar) -> panel.Outcome:
        if exemplar is not self._displayed_exemplar:  # the mask has changed since the request
            return panel.Outcome()
        original, changed = self._session.probabilities_of(exemplar)
        classes = self._session.classifier.classes
        label = exemplar.label
        self._controls.pair.cards = [
            panel.card(classes, label, original, original, "x: aim"),
            panel.card(classes, label, changed, changed, "x': mistake"),
        ]
        self._controls.pair.show(torch.stack([exemplar.image, exemplar.changed]))
        share = float(exemplar.mask.mean())
        if share > LARGEST_SHARE:
            self._controls.pair_message.show(LARGE_MASK.format(share=share), alarm=True)
        else:
            message = PAIR_MESSAGES[int(original.argmax()) == label, int(changed.argmax()) == label]
            self._controls.pair_message.show(message)
        return panel.Outcome()

    # --- callbacks of the controls ------------------------------------------------------------------------------------

    def _connect_controls(self) -> None:
        """Connect every control with its callback."""
        controls = self._controls
        controls.rewrite.on_click(self._with_errors_shown(lambda _: self._request_rewrite()))
        controls.next_step.on_click(self._with_errors_shown(lambda _: self._take_next_step()))
        controls.stop.on_click(self._with_errors_shown(lambda _: self.stop()))
        controls.find.on_click(self._with_errors_shown(lambda _: self.find_elsewhere()))
        self._check_all.on_click(lambda _: self.elsewhere.gallery.check(range(len(self._sightings))))
        self._check_none.on_click(lambda _: self.elsewhere.gallery.check(()))
        self.elsewhere.gallery.observe(lambda _: self._say_checked(), "checked")
        self._use_checked.on_click(self._with_errors_shown(lambda _: self.use_checked()))
        controls.undo.on_click(self._with_errors_shown(lambda _: self.undo()))
        controls.save.on_click(self._with_errors_shown(lambda _: self.save(controls.path.value or None)))
        controls.report.on_click(self._with_errors_shown(lambda _: self.save_report(self._report_path())))
        controls.material.observe(self._with_errors_shown(lambda _: self._material_selected()), "value")
        controls.heat.observe(self._with_errors_shown(lambda _: self._request_heat()), "value")

        self.gallery.observe(self._with_errors_shown(lambda change: self._image_selected(change["new"])), "selected")

    def _with_errors_shown(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        """Wrap a callback so that its errors are shown below the buttons."""

        def guarded(change: Any) -> None:
            try:
                callback(change)
            except Exception as error:  # models and files fail in any way
                self._controls.message.show(_message(error), alarm=True)

        return guarded

    def _take_next_step(self) -> None:
        """Do what the verdict suggests."""
        steps = {SELECT: self.find_best, FIND: self.find_elsewhere}
        result = self._session.result
        if result is not None:
            steps[result.action]()

    def _report_path(self) -> Path | None:
        """Return the path of the report next to the file that is entered; None if there is none."""
        path = self._controls.path.value
        return Path(path).with_suffix(".html") if path else None

    def _image_selected(self, position: int) -> None:
        if position >= 0 and self._pictured[position] != self._session.index:
            self._choose(self._pictured[position])

    def _material_selected(self) -> None:
        if not self._controls.is_filling:
            self._session.material = self._controls.material.value
            self._show_exemplar()


def _message(error: Exception) -> str:
    """Return the message of an error, or its type if it has none."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error  # a KeyError quotes its message
    return str(message) or type(error).__name__
