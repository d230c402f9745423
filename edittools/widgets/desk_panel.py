"""The parts of the desk's panel, without their callbacks; every control has a label that screen readers announce."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets
from torch import Tensor
from tqdm import tqdm

from edittools.auditing.sheet import WindowGroup, describe
from edittools.images import resized
from edittools.metrics import SIGNS, state_of
from edittools.widgets.pixels import to_base64, to_pixels, to_png
from edittools.widgets.result import Result
from edittools.widgets.session import ALL, NO_LABEL, EditSession

HELD_OUT = "Result, held out"
NOT_HELD_OUT = "Result, on the images used for selection"
BY_CHANGE = "changes first"
WORST_FIRST = "worst first"
SIZES = {"small": 72, "medium": 112, "large": 150}
"""The width of the images of the gallery on the screen, in pixels, by the name of the size."""
PREDICTED = "the prediction"
LAYERS = "Layers of the search"
UNREAD = "The images are being read and classified; then an area can be marked."
UNMARKED = "x and x' are shown here when an area is marked."
CLASSIFYING_PAIR = "x and x' are being classified …"
STOPPING = "Stopping after this candidate; then the best edit is checked."
STOPPING_WORK = "Stopping …"

LEAST_SHARE = 0.02
"""The share of a search that is done before the time that is left is estimated: its first candidates take longest."""

SMOOTHING = 0.05
"""The smoothing of tqdm's estimate; with more weight on the last candidates, it jumps by a factor of ten."""


@dataclass(frozen=True)
class Outcome:
    """What a request says when it is done: a sentence, empty if there is nothing to say, and details on demand."""

    text: str = ""
    details: str = ""


class _DeskWidget(anywidget.AnyWidget):
    """A widget that `desk.js` draws, by its kind."""

    _esm = Path(__file__).parent / "desk.js"
    _css = Path(__file__).parent / "desk.css"
    _kind = traitlets.Unicode().tag(sync=True)


class Gallery(_DeskWidget):
    """Small images with captions, of which one can be selected (`selectable`), or each can be checked (`checkable`).

    `cards` holds what is below each image, see `card`. `order` holds the positions of the images that are visible, in
    the order on the screen; if it is empty, all are, as they were added. `selected` is the position of the selected
    image, -1 for none; `checked` holds the positions of those that are checked. `enlarged` is that of the image that is
    shown in the large view, -1 if it is closed. `label` names the gallery for screen readers. `size` is the width of an
    image on the screen, in pixels. `placeholder` is shown while there is no image.
    """

    _kind = traitlets.Unicode("gallery").tag(sync=True)
    _images = traitlets.List().tag(sync=True)
    cards = traitlets.List().tag(sync=True)
    order = traitlets.List().tag(sync=True)
    selected = traitlets.Int(-1).tag(sync=True)
    selectable = traitlets.Bool(False).tag(sync=True)
    checked = traitlets.List().tag(sync=True)
    checkable = traitlets.Bool(False).tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    size = traitlets.Int(SIZES["small"]).tag(sync=True)
    enlarged = traitlets.Int(-1).tag(sync=True)
    placeholder = traitlets.Unicode().tag(sync=True)
    _large_png = traitlets.Unicode(help="the enlarged image in base64").tag(sync=True)

    def __init__(self, **options: Any) -> None:
        self._full_images: list[Tensor] = []
        super().__init__(**options)

    def show(self, images: Tensor | Sequence[Tensor]) -> None:
        """Show other images, each `(3, H, W)`."""
        self._full_images = list(images)
        self._images = [_small_png(image, 2 * self.size) for image in images]
        self.enlarged = -1

    @property
    def has_images(self) -> bool:
        """Whether there is an image."""
        return bool(self._images)

    def add(self, images: Tensor | Sequence[Tensor]) -> None:
        """Add images, each `(3, H, W)`, after those that there are."""
        self._full_images += list(images)
        self._images = self._images + [_small_png(image, 2 * self.size) for image in images]

    @traitlets.observe("size")
    def _resize(self, change: dict) -> None:
        """Send the images in the resolution of another size."""
        self._images = [_small_png(image, 2 * self.size) for image in self._full_images]

    @traitlets.observe("enlarged")
    def _send_large_image(self, change: dict) -> None:
        """Send the image that is enlarged in its full resolution."""
        is_open = 0 <= self.enlarged < len(self._full_images)
        self._large_png = to_base64(to_png(to_pixels(self._full_images[self.enlarged]))) if is_open else ""


class Message(_DeskWidget):
    """A text that screen readers announce when it changes; `alarm` marks an error, `details` are shown on demand."""

    _kind = traitlets.Unicode("message").tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)
    alarm = traitlets.Bool(False).tag(sync=True)
    details = traitlets.Unicode().tag(sync=True)

    def show(self, text: str, alarm: bool = False, details: str = "") -> None:
        """Show another text."""
        with self.hold_sync():
            self.text = text
            self.alarm = alarm
            self.details = details


class Busy(ipywidgets.HBox):
    """A bar that shows how far the background thread has come with what takes long, and what has gone wrong.

    It is visible while there is something to show, on top of the notes of the desk, so that nothing moves.
    """

    def __init__(self) -> None:
        self.progress = ipywidgets.FloatProgress(
            0, max=1, style={"description_width": "90px"}, layout={"flex": "1", "width": "auto"}
        )
        self.message = Message()
        super().__init__([self.progress, self.message])
        self.add_class("et-busy")
        self.hide()

    def hide(self) -> None:
        """Show that nothing is computed."""
        self.layout.display = "none"

    def show(self, what: str, done: int, total: int | None) -> None:
        """Show what is computed, and how much of it is done.

        Args:
            what: what is computed.
            done: number of parts that are done.
            total: number of all parts; None if they are not counted.
        """
        self.layout.display = ""
        self.progress.layout.display = ""
        self.progress.value = done / total if total else 0.0
        self.progress.description = f"{done} of {total}" if total else ""
        self.message.show(f"{what[:1].upper()}{what[1:]} …")

    def show_error(self, message: str) -> None:
        """Show instead why it has failed."""
        self.layout.display = ""
        self.progress.layout.display = "none"
        self.message.show(message, alarm=True)


class Shelf(ipywidgets.VBox):
    """Images that the desk offers below its columns, with what they are and what to do; hidden until there are some.

    Args:
        gallery: where the images are shown.
        buttons: what can be done with them, besides closing the shelf.
    """

    def __init__(self, gallery: Gallery, *buttons: ipywidgets.Button) -> None:
        self.gallery = gallery
        self.title = heading(gallery.label)
        self.note = ipywidgets.HTML().add_class("et-quiet")
        self.close_button = button("Close", "hide these images")
        self.close_button.on_click(lambda _: self.hide())
        super().__init__([row(self.title, *buttons, self.close_button), self.note, gallery])
        self.add_class("et-box").add_class("et-shelf")
        self.hide()

    def show(self, note: str, images: Sequence[Tensor], cards: Sequence[dict[str, Any]]) -> None:
        """Show other images, none of them selected or checked.

        Args:
            note: what they are, and what to do.
            images: the images, each `(3, H, W)`.
            cards: what is below each image.
        """
        self.note.value = escape(note)
        self.gallery.selected = -1
        self.gallery.checked = []
        self.gallery.cards = list(cards)
        self.gallery.show(images)
        self.layout.display = ""

    def hide(self) -> None:
        """Hide the images."""
        self.layout.display = "none"


class Controls(ipywidgets.VBox):
    """The controls of a desk (label, material, layer, strength, buttons) and its messages.

    They are disabled until there is a session, see `enable`; `is_started` tells whether there is one. What needs all
    sets is enabled later, see `complete`. `is_filling` tells whether a menu is being filled, which changes its value on
    the way.
    """

    def __init__(self) -> None:
        self._can_search = False
        self._is_complete = False
        self._stopping = ""
        self.is_filling = False
        wide = {"style": {"description_width": "76px"}, "layout": {"width": "100%"}}
        narrow = {"style": {"description_width": "24px"}, "layout": {"width": "170px"}}
        self.class_name = ipywidgets.Text(description="label", placeholder=NO_LABEL, continuous_update=False, **wide)
        self.material = ipywidgets.Dropdown(description="replace by", **wide)
        self.layer = ipywidgets.Dropdown(
            description="layer",
            style={"description_width": "76px"},
            layout={"flex": "1 1 150px", "width": "auto", "min_width": "0"},
        ).add_class("et-layer")
        self.strength = ipywidgets.BoundedFloatText(
            1.0,
            min=0,
            max=2,
            step=0.25,
            description="strength",
            style={"description_width": "56px"},
            layout={"width": "108px"},
        )
        self.pair = Gallery(label="x and x'", size=66, placeholder=UNREAD)
        self.pair_message = Message().add_class("et-pair-message")
        self.rewrite = button("Rewrite", "rewrite this layer by the marked image", "primary")
        self.search = button("Find the best", "try edits and projections in every layer, and take the best")
        self.stop = button("Stop", "end the search with the best edit so far")
        self.failures = ipywidgets.Checkbox(
            description="images chosen because they fail",
            tooltip="so nothing can break among them, and the verdict of a search says so",
            indent=False,
            layout={"width": "auto"},
        )
        self.finetuning = ipywidgets.Checkbox(
            description="compare fine-tuning",
            tooltip="also train the whole network on the same images, which takes minutes, and say which does better",
            indent=False,
            layout={"width": "auto"},
        )
        self.find = button("Find it elsewhere", "find the images that hold the mark of x', right and wrong ones")
        self.sheet = button("Contact sheet", "what carries each class: parts of photos that turn other photos into it")
        self.progress = ipywidgets.FloatProgress(0, max=1, layout={"width": "100%"})
        self.status = ipywidgets.HTML().add_class("et-quiet")
        self.heat = ipywidgets.ToggleButton(
            description="Where to mark?",
            tooltip="highlight where the selected layer argues for the predicted class, against the label",
            layout={"width": "auto"},
        )
        self.heat_class = ipywidgets.Dropdown(
            options=(PREDICTED,),
            description="argues for",
            style={"description_width": "76px"},
            layout={"width": "240px"},
        )
        self.heat_edit = ipywidgets.Checkbox(description="with the edit", indent=False, layout={"width": "110px"})
        self.heat_bar = ipywidgets.HTML()
        self.heat_scale = row(self.heat_class, self.heat_edit, self.heat_bar)
        self.sort = ipywidgets.Dropdown(
            options=(BY_CHANGE, WORST_FIRST),
            description="sort",
        )
        self.size = ipywidgets.Dropdown(
            options=tuple(SIZES.items()),
            description="size",
        )
        self.group = ipywidgets.Dropdown(
            options=(ALL,),
            description="show",
        )
        self.message = Message()
        self.title = heading("")
        self.title_text = ""
        self.verdict = Message()
        self.layers = ipywidgets.HTML()
        self.undo = button("Undo edit", "go back to the previous result")
        self.path = ipywidgets.Text(description="file", continuous_update=False, **narrow)
        self.save = button("Save", "save the edit as a file")
        self.report = button("Save report", "save the report of the search as an HTML page")
        self.upload = ipywidgets.FileUpload(
            accept=".safetensors,image/*",
            multiple=True,
            description="Add files",
            tooltip="add images, or show a saved edit",
            layout={"width": "auto"},
        )
        self.show_heat(None)
        self.show(None, has_edit=False, file_name="")
        self.disable()
        super().__init__(
            [
                heading("3 Replace it, and rewrite"),
                self.class_name,
                self.material,
                self.pair,
                self.pair_message,
                row(self.layer, self.strength),
                row(self.rewrite, self.search, self.stop),
                self.progress,
                self.status,
                self.message,
                self.title,
                self.verdict,
                self.layers,
                row(self.undo, self.path, self.save, self.report, self.upload),
            ]
        )
        self.add_class("et-box")

    @property
    def _inputs(self) -> tuple[ipywidgets.Widget, ...]:
        """The controls that are disabled before there is a session, and only then."""
        return (
            self.class_name,
            self.material,
            self.layer,
            self.strength,
            self.heat,
            self.sort,
            self.group,
            self.failures,
            self.finetuning,
        )

    def fill(self, session: EditSession) -> None:
        """Offer what a session has when its images are classified: its materials and layers."""
        self.material.options = session.material_names
        self.material.value = session.material
        self.layer.options = session.layers
        self.layer.value = session.default_layer

    def enable(self) -> None:
        """Enable what needs the classified images only."""
        for control in self._inputs:
            control.disabled = False
        self.is_started = True
        self.show_search(None)

    def disable(self) -> None:
        """Disable everything, before there is a session or if it cannot be used."""
        self.is_started = False
        for control in (*self._inputs, self.upload):
            control.disabled = True
        self.show_search(None)

    def complete(self, session: EditSession) -> None:
        """Offer what needs all sets: to add files, to find what they show, and a search if there are clean images."""
        self._is_complete = True
        self._can_search = session.has_clean
        self.upload.disabled = False
        self.show_search(None)

    def show_search(self, share: float | None, status: str = "") -> None:
        """Show how far a search has come: of edits, of the mark, or of what carries each class.

        Args:
            share: the share of it that is done, from 0 to 1; None if there is no search.
            status: what is known of it, one line per fact.
        """
        is_searching = share is not None
        self._stopping = self._stopping if is_searching else ""
        self.rewrite.disabled = is_searching or not self.is_started
        self.search.disabled = is_searching or not self._can_search
        for control in (self.find, self.sheet):
            control.disabled = is_searching or not self._is_complete
        self.stop.disabled = bool(self._stopping) or not is_searching
        for part in (self.progress, self.status):
            part.layout.display = "" if is_searching else "none"
        self.progress.value = share or 0.0
        self.status.value = escape(self._stopping or status).replace("\n", "<br>")

    def show_stopping(self, message: str) -> None:
        """Show that the search ends, until it has ended, with a message that says when."""
        self._stopping = message
        self.stop.disabled = True
        self.status.value = escape(message)

    def show_materials(self, names: Sequence[str], selected: str) -> None:
        """Offer other materials, one of which is selected."""
        self.is_filling = True
        self.material.options = names
        self.material.value = selected
        self.is_filling = False

    def show(self, result: Result | None, has_edit: bool, file_name: str) -> None:
        """Show the verdict on an edit, and whether its figures are held out.

        Args:
            result: the result of the edit; nothing is shown for None.
            has_edit: whether there is an edit, which can be undone and saved.
            file_name: the name of its file if none is entered.
        """
        if result is None:
            self.title_text = ""
            self.title.value = ""
            self.verdict.show("")
            self.show_layers("")
        else:
            self.title_text = HELD_OUT if result.held_out else NOT_HELD_OUT
            self.title.value = f"<h4>{self.title_text}</h4>"
            self.verdict.show(result.verdict, details=result.details)
            self.show_layers(result.repair.layers_html() if result.held_out else "")
        self.heat_edit.disabled = result is None
        self.path.placeholder = file_name
        self.undo.disabled = not has_edit
        self.save.disabled = not has_edit
        self.report.disabled = result is None or not result.held_out

    def show_heat_classes(self, names: Sequence[str]) -> None:
        """Offer the classes that a layer may argue for in an image; the one that is predicted is selected."""
        self.is_filling = True
        self.heat_class.options = (PREDICTED, *names)
        self.heat_class.value = PREDICTED
        self.is_filling = False

    def show_heat(self, strongest: float | None, favored: str = "", against: str = "") -> None:
        """Show what the colors of a heat map mean, and the controls of the map.

        Args:
            strongest: the value with the full color, see `strongest_heat`; None if no map is shown.
            favored: the class that the layer argues for.
            against: the class that it argues against.
        """
        self.heat_scale.layout.display = "none" if strongest is None else ""
        unit = escape(f"of the logit of {favored}, less that of {against}")
        self.heat_bar.value = (
            "" if strongest is None else f'0 <span class="et-bar"></span> {strongest:.2g} or more, {unit}'
        )

    def show_groups(self, groups: Mapping[str, Sequence[int]]) -> None:
        """Offer groups of images with their sizes; the one that is selected stays if it is among them.

        Args:
            groups: see `EditSession.groups`.
        """
        selected = self.group.value
        options = tuple((f"{name} ({len(indices)})", name) for name, indices in groups.items())
        if options != self.group.options:
            self.is_filling = True
            self.group.options = options
            self.group.value = selected if selected in groups else ALL
            self.is_filling = False

    def show_layers(self, chart: str) -> None:
        """Show on demand what the search has found in each layer.

        Args:
            chart: HTML; empty if there is none.
        """
        self.layers.layout.display = "" if chart else "none"
        self.layers.value = f"<details><summary>{LAYERS}</summary>{chart}</details>" if chart else ""


class StoppableBar(tqdm):
    """A progress bar that ends what it counts when this was requested.

    Args:
        arguments: those of `tqdm`.
        is_stopped: tells whether what it counts should end.
        options: those of `tqdm`.
    """

    def __init__(self, *arguments: Any, is_stopped: Callable[[], bool], **options: Any) -> None:
        self._is_stopped = is_stopped
        super().__init__(*arguments, **options)

    def update(self, n: float | None = 1) -> bool | None:
        """Count what is done; raise `KeyboardInterrupt` if it should end."""
        shown = super().update(n)
        if self._is_stopped():
            raise KeyboardInterrupt
        return shown


class BusyBar(StoppableBar):
    """A progress bar that the panel shows.

    Args:
        arguments: those of `tqdm`.
        busy: where it is shown.
        is_stopped: tells whether what it counts should end.
        options: those of `tqdm`.
    """

    def __init__(
        self, *arguments: Any, busy: Busy, is_stopped: Callable[[], bool] = lambda: False, **options: Any
    ) -> None:
        self._busy = busy
        super().__init__(*arguments, is_stopped=is_stopped, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar in the panel, and print nothing."""
        self._busy.show((self.desc or "").removesuffix(": "), self.n, self.total)


class WorkBar(StoppableBar):
    """A progress bar of something that the panel shows where it shows a search.

    Args:
        arguments: those of `tqdm`.
        show: is called with the share that is done, and with what is done at the moment.
        is_stopped: tells whether it should end.
        options: those of `tqdm`.
    """

    def __init__(
        self, *arguments: Any, show: Callable[[float, str], None], is_stopped: Callable[[], bool], **options: Any
    ) -> None:
        self._show = show
        super().__init__(*arguments, is_stopped=is_stopped, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar in the panel, and print nothing."""
        what = (self.desc or "").removesuffix(": ")
        self._show(self.n / self.total if self.total else 0.0, f"{what}: {self.n} of {self.total}")


class SearchBar(StoppableBar):
    """A progress bar of a search that the panel shows.

    Args:
        arguments: those of `tqdm`.
        show: is called with the share that is done, and with what is done at the moment, one line per fact.
        is_stopped: tells whether the search should end.
        images: number of images on which the search selects.
        options: those of `tqdm`.
    """

    def __init__(
        self,
        *arguments: Any,
        show: Callable[[float, str], None],
        is_stopped: Callable[[], bool],
        images: int,
        **options: Any,
    ) -> None:
        self._show = show
        self._images = images
        self._counts: Mapping[str, int] = {}
        super().__init__(*arguments, is_stopped=is_stopped, smoothing=SMOOTHING, **options)

    def set_postfix(self, counts: Mapping[str, int], refresh: bool = True) -> None:
        """Set the numbers of images that the best candidate so far corrects and breaks."""
        self._counts = counts
        if refresh:
            self.refresh()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar in the panel, and print nothing."""
        self._show(self._share, self._describe())

    @property
    def _counts_candidates(self) -> bool:
        """Whether the bar counts candidates, and not images that the search reads first."""
        return self.unit == "candidate" and bool(self.total)

    @property
    def _share(self) -> float:
        """The share of the candidates that is done; 0 for the other bars."""
        return min(self.n / self.total, 1.0) if self._counts_candidates else 0.0

    def _describe(self) -> str:
        """Say how long the search will take, what it tries at the moment, and what the best candidate so far does."""
        left = self._time_left()
        now = (self.desc or "").removesuffix(": ")
        if not self._counts_candidates and self.total:
            now = f"{now}, {self.n} of {self.total}"
        lines = [f"{left}; now: {now}" if left else f"now: {now}"]
        if self._counts:
            counts = f"corrects {self._counts['corrected']}, breaks {self._counts['broken']} of {self._images}"
            lines.append(f"so far: {counts}, before its cost is checked")
        return "\n".join(lines)

    def _time_left(self) -> str:
        """Say how long the search will take at tqdm's estimate of its speed; empty before there is one, and at the end.

        The number of all candidates is an estimate as well, so a search may go on after the last one that was expected.
        """
        rate = self.format_dict["rate"]
        if not rate or not LEAST_SHARE <= self._share < 1:
            return ""
        return f"{tqdm.format_interval((self.total - self.n) / rate)} left"


def card(
    classes: Sequence[str],
    label: int | None,
    before: Tensor,
    after: Tensor,
    caption: str = "",
    name: str = "",
    marked: bool = False,
) -> dict[str, Any]:
    """Describe an image in the lines below it.

    Args:
        classes: the names of the classes.
        label: index of the class that the image shows; None if it has no label.
        before: probabilities `(classes,)` without the edit.
        after: probabilities `(classes,)` with the edit.
        caption: the first line, before that of the label; may be empty.
        name: the name of the image.
        marked: whether an area of the image is marked.

    Returns:
        The `state` of the image, empty without a label; whether it is `marked`; `lines`, each with a text and a
        probability, which is empty where a line above has it: those of the label, and of the prediction before and
        after; `name` and `full`, the name and the lines with all probabilities, for the large view; and `description`,
        all of this in full, for screen readers and the mouse.
    """
    first = int(before.argmax())
    last = int(after.argmax())
    if label is None:
        state = ""
        sign = ""
        lines = [[NO_LABEL, ""]]
    else:
        state = state_of(first == label, last == label)
        sign = f"{SIGNS[state]} "
        lines = [[classes[label], _percent(before[label], after[label])]]
    if first == last:
        lines.append([f"{sign}{classes[first]}", _percent(before[first], after[first])])
    else:
        lines.append([f"{sign}{classes[first]} →", _percent(before[first])])
        lines.append([classes[last], _percent(after[last])])
    full = [list(line) for line in lines]
    in_words = ", ".join(f"{text} {probability}".strip() for text, probability in lines)
    for line, index in zip(lines[1:], (first, last), strict=False):
        if index == label:
            line[1] = ""
    facts = [fact for fact in (state, "marked" if marked else "") if fact]
    heads = [head for head in (name, caption) if head]
    return {
        "state": state,
        "lines": [[caption, ""], *lines] if caption else lines,
        "name": ": ".join(heads),
        "full": full,
        "marked": marked,
        "description": ": ".join([*heads, "; ".join([in_words, *facts])]),
    }


def window_card(name: str, group: WindowGroup, photos: int) -> dict[str, Any]:
    """Describe a window of a contact sheet in the lines below it, see `card`.

    Args:
        name: its name, such as "garbage truck:1".
        group: the window, and those that resemble it.
        photos: the number of photos of the class whose windows were tried.
    """
    share = f"{group.share:.0%}"
    return {
        "state": "",
        "lines": [[name, ""], ["turns photos", share], ["in photos", f"{len(group.windows)} of {photos}"]],
        "name": name,
        "full": [
            ["photos that it turns into the class", share],
            ["random windows of the class", f"{group.random_share:.0%}"],
            ["windows of other classes", f"{group.other_share:.0%}"],
        ],
        "marked": False,
        "description": f"{name}: {describe(group, photos)}",
    }


def unclassified_card(number: int) -> dict[str, Any]:
    """Describe an image that is not classified yet, by its number in the order in which the images are read."""
    return {
        "state": "",
        "lines": [["…", ""]],
        "name": f"image {number}",
        "full": [],
        "marked": False,
        "description": f"image {number}, not classified yet",
    }


def _percent(before: Tensor, after: Tensor | None = None) -> str:
    """Write a probability in percent, or two of them if they differ, such as "3→81%"."""
    first = f"{100 * float(before):.0f}"
    last = first if after is None else f"{100 * float(after):.0f}"
    return f"{first}%" if first == last else f"{first}→{last}%"


def notes_html(session: EditSession) -> str:
    """Write the notes on the sets of a session as HTML, one line each."""
    return "<br>".join(escape(line) for line in (f"{session.description_of_images}.", *session.notes))


def heading(text: str) -> ipywidgets.HTML:
    """Make a heading."""
    return ipywidgets.HTML(f"<h4>{text}</h4>")


def row(*children: ipywidgets.Widget) -> ipywidgets.Box:
    """Put widgets side by side; those that do not fit go to the next line."""
    return ipywidgets.Box(children).add_class("et-row")


def column(*children: ipywidgets.Widget, name: str = "et-box") -> ipywidgets.VBox:
    """Put widgets below each other."""
    return ipywidgets.VBox(children).add_class("et-box").add_class(name)


def button(text: str, hint: str, style: str = "") -> ipywidgets.Button:
    """Make a button as wide as its text."""
    return ipywidgets.Button(description=text, tooltip=hint, button_style=style, layout={"width": "auto"})


def _small_png(image: Tensor, max_side: int) -> str:
    """Encode a square image as a PNG of at most `max_side` pixels on each side, in base64."""
    side = min(max_side, image.shape[1])
    small = resized(image[None].float().clamp(0, 1), side)[0]
    return to_base64(to_png(to_pixels(small)))
