"""The parts of the desk's panel, without their callbacks; every control has a label that screen readers announce."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets
from torch import Tensor
from tqdm import tqdm

from edittools.images import resized
from edittools.metrics import SIGNS, state_of
from edittools.reports.words import FIND
from edittools.verdict import DO_NOT_USE, USE
from edittools.widgets.pixels import to_base64, to_jpeg, to_pixels, to_png
from edittools.widgets.result import BETTER, NO_BETTER, SELECT, TOO_COSTLY, Result
from edittools.widgets.session import NO_LABEL, EditSession

HELD_OUT = "Selected edit"
NOT_HELD_OUT = "First edit"
SMALL, MEDIUM = 72, 112
"""The width of an image of a gallery on the screen, in pixels."""
UNREAD = "The images are being read and classified; then an area can be marked."
UNMARKED = "x and x' are shown here when an area is marked."
CLASSIFYING_PAIR = "x and x' are being classified …"
ENDED = (
    "The desk has ended, or cannot be reached.\nWhat is shown stays on this page, but nothing can be changed. Start it "
    "again, and open the address that it prints."
)
STOPPING = "Stopping …"

NEXT_STEPS = {
    SELECT: ("Find the best", "select layer, rank, and strength by ordinary images with the mark"),
    FIND: ("Find it elsewhere", "find the images that hold the mark of x', right and wrong ones"),
}
"""The name and the hint of the button that takes a next step."""

TONES = {USE: "good", BETTER: "good", DO_NOT_USE: "bad", NO_BETTER: "bad", TOO_COSTLY: "bad"}
"""The color of the word of a verdict; the other words are neither good nor bad."""


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
    """Small images with captions.

    One can be selected (`selectable`), or each can be checked (`checkable`).

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
    size = traitlets.Int(SMALL).tag(sync=True)
    enlarged = traitlets.Int(-1).tag(sync=True)
    placeholder = traitlets.Unicode().tag(sync=True)
    _large_png = traitlets.Unicode(help="the enlarged image in base64").tag(sync=True)

    def __init__(self, **options: Any) -> None:
        self._full_images: list[Tensor] = []
        super().__init__(**options)

    def show(self, images: Tensor | Sequence[Tensor]) -> None:
        """Show other images, each `(3, H, W)`."""
        self._full_images = list(images)
        self._images = [_small_jpeg(image, 2 * self.size) for image in images]
        self.enlarged = -1

    def check(self, positions: Iterable[int]) -> None:
        """Check the images at these positions, and no others."""
        self.checked = list(positions)

    @property
    def has_images(self) -> bool:
        """Whether there is an image."""
        return bool(self._images)

    def add(self, images: Tensor | Sequence[Tensor]) -> None:
        """Add images, each `(3, H, W)`, after those that there are."""
        self._full_images += list(images)
        self._images = self._images + [_small_jpeg(image, 2 * self.size) for image in images]

    @traitlets.observe("enlarged")
    def _send_large_image(self, change: dict) -> None:
        """Send the image that is enlarged in its full resolution."""
        is_open = 0 <= self.enlarged < len(self._full_images)
        self._large_png = to_base64(to_png(to_pixels(self._full_images[self.enlarged]))) if is_open else ""


class Message(_DeskWidget):
    """A text that screen readers announce when it changes.

    `alarm` marks an error, `details` are shown on demand, and `word` comes first, in the color of `tone`: "good",
    "bad", or neither if it is empty.
    """

    _kind = traitlets.Unicode("message").tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)
    alarm = traitlets.Bool(False).tag(sync=True)
    details = traitlets.Unicode().tag(sync=True)
    word = traitlets.Unicode().tag(sync=True)
    tone = traitlets.Unicode().tag(sync=True)

    def show(self, text: str, alarm: bool = False, details: str = "", word: str = "", tone: str = "") -> None:
        """Show another text."""
        with self.hold_sync():
            self.text = text
            self.alarm = alarm
            self.details = details
            self.word = word
            self.tone = tone


class Notice(_DeskWidget):
    """A notice that appears when the kernel or the server of the desk has ended; then nothing can be pressed.

    The browser finds out on its own. `text` is what it says. When a page shows the notice, it asks for the values of
    all widgets around it: a page that is loading loses those that a thread changes meanwhile.
    """

    _kind = traitlets.Unicode("notice").tag(sync=True)
    text = traitlets.Unicode(ENDED).tag(sync=True)


def send_again(widget: ipywidgets.Widget) -> None:
    """Send to the page what a widget shows, and before it the widgets that are part of it."""
    for name in widget.keys:
        value = getattr(widget, name)
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, ipywidgets.Widget):
                send_again(part)
    widget.send_state()


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

    `count` says what was done with them so far.

    Args:
        gallery: where the images are shown.
        buttons: what can be done with them, besides closing the shelf.
    """

    def __init__(self, gallery: Gallery, *buttons: ipywidgets.Button) -> None:
        self.gallery = gallery
        self.title = heading(gallery.label)
        self.note = ipywidgets.HTML().add_class("et-quiet")
        self.count = Message()
        self.close_button = button("Close", "hide these images")
        self.close_button.on_click(lambda _: self.hide())
        super().__init__([row(self.title, *buttons, self.close_button), self.note, self.count, gallery])
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
    """The controls of a desk (material, buttons) and its messages.

    They are disabled until there is a session, see `enable`; `is_started` tells whether there is one. What needs all
    sets is enabled later, see `complete`. `is_filling` tells whether a menu is being filled, which changes its value on
    the way.
    """

    def __init__(self) -> None:
        self._is_complete = False
        self._stopping = ""
        self.is_filling = False
        wide = {"style": {"description_width": "76px"}, "layout": {"width": "100%"}}
        narrow = {"style": {"description_width": "24px"}, "layout": {"width": "170px"}}
        self.material = ipywidgets.Dropdown(description="replace by", **wide)
        self.pair = Gallery(label="x and x'", size=66, placeholder=UNREAD)
        self.pair_message = Message().add_class("et-pair-message")
        self.rewrite = button("Rewrite", "make an edit of the marked image; then select a better one", "primary")
        self.stop = button("Stop", "end what is running; the edit that is shown stays")
        self.failures = ipywidgets.Checkbox(
            description="images chosen because they fail",
            tooltip="so nothing can break among them, and the verdict of a search says so",
            indent=False,
            layout={"width": "auto"},
        )
        self.find = button(*NEXT_STEPS[FIND])
        self.progress = ipywidgets.FloatProgress(0, max=1, layout={"width": "100%"})
        self.status = ipywidgets.HTML().add_class("et-quiet")
        self.heat = ipywidgets.ToggleButton(
            description="Where to mark?",
            tooltip="highlight where a layer argues for the predicted class, against the label",
            layout={"width": "auto"},
        )
        self.heat_bar = ipywidgets.HTML()
        self.message = Message().add_class("et-says")
        self.title = heading("")
        self.title_text = ""
        self.verdict = Message()
        self.next_step = button("", "")
        self.undo = button("Undo edit", "go back to the previous result")
        self.path = ipywidgets.Text(description="file", continuous_update=False, **narrow)
        self.save = button("Save", "save the edit as a file")
        self.report = button("Save report", "save the report of the selected edit as an HTML page")

        self.show_heat(None)
        self.show(None, has_edit=False, file_name="")
        self.disable()
        super().__init__(
            [
                heading("3 Replace it, and rewrite"),
                self.material,
                self.pair,
                self.pair_message,
                row(self.rewrite, self.stop),
                self.progress,
                self.status,
                self.message,
                self.title,
                self.verdict,
                row(self.next_step),
                row(self.undo, self.path, self.save, self.report),
            ]
        )
        self.add_class("et-box")

    @property
    def _inputs(self) -> tuple[ipywidgets.Widget, ...]:
        """The controls that are disabled before there is a session, and only then."""
        return (
            self.material,
            self.heat,
            self.failures,
        )

    def fill(self, session: EditSession) -> None:
        """Offer what a session has when its images are classified: its materials."""
        self.material.options = session.material_names
        self.material.value = session.material

    def enable(self) -> None:
        """Enable what needs the classified images only."""
        for control in self._inputs:
            control.disabled = False
        self.material.send_state()  # a page that opened while they were filled may have missed their options
        self.is_started = True
        self.show_search(None)

    def disable(self) -> None:
        """Disable everything, before there is a session or if it cannot be used."""
        self.is_started = False
        for control in self._inputs:
            control.disabled = True
        self.show_search(None)

    def complete(self) -> None:
        """Offer what needs all sets: to find what they show, and to select an edit."""
        self._is_complete = True
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
        for control in (self.find, self.next_step):
            control.disabled = is_searching or not self._is_complete
        self.stop.disabled = bool(self._stopping) or not is_searching
        for part in (self.progress, self.status):
            part.layout.display = "" if is_searching else "none"
        self.progress.value = share or 0.0
        self.status.value = escape(self._stopping or status).replace("\n", "<br>")

    def show_stopping(self) -> None:
        """Show that the search ends, until it has ended."""
        self._stopping = STOPPING
        self.stop.disabled = True
        self.status.value = STOPPING

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
            self.next_step.layout.display = "none"
        else:
            self.title_text = HELD_OUT if result.repair is not None else NOT_HELD_OUT
            self.title.value = f"<h4>{self.title_text}</h4>"
            text = "\n".join(line for line in (result.reason, result.step) if line)
            self.verdict.show(text, details=result.details, word=result.word, tone=TONES.get(result.word, ""))
            self.next_step.layout.display = "" if result.action else "none"
            self.next_step.description, self.next_step.tooltip = NEXT_STEPS.get(result.action, ("", ""))
        self.path.placeholder = file_name
        self.undo.disabled = not has_edit
        self.save.disabled = not has_edit
        self.report.disabled = result is None or result.repair is None

    def show_heat(self, strongest: float | None, favored: str = "", against: str = "") -> None:
        """Show what the colors of a heat map mean.

        Args:
            strongest: the value with the full color, see `strongest_heat`; None if no map is shown.
            favored: the class that the layer argues for.
            against: the class that it argues against.
        """
        unit = escape(f"of the logit of {favored}, less that of {against}")
        self.heat_bar.value = (
            "" if strongest is None else f'0 <span class="et-bar"></span> {strongest:.2g} or more, {unit}'
        )


class Bar(tqdm):
    """A progress bar on the panel; it ends what it counts when this was requested.

    Args:
        arguments: those of `tqdm`.
        show: is called with the bar instead of printing it.
        is_stopped: tells whether what it counts should end.
        options: those of `tqdm`.
    """

    def __init__(
        self,
        *arguments: Any,
        show: Callable[["Bar"], None],
        is_stopped: Callable[[], bool] = lambda: False,
        **options: Any,
    ) -> None:
        self._show = show
        self._is_stopped = is_stopped
        super().__init__(*arguments, **options)

    @property
    def what(self) -> str:
        """What is counted."""
        return (self.desc or "").removesuffix(": ")

    @property
    def share(self) -> float:
        """The share that is done, 0 if the total is not known."""
        return self.n / self.total if self.total else 0.0

    def update(self, n: float | None = 1) -> bool | None:
        """Count what is done; raise `KeyboardInterrupt` if it should end."""
        shown = super().update(n)
        if self._is_stopped():
            raise KeyboardInterrupt
        return shown

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar in the panel, and print nothing."""
        self._show(self)


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
        probability, which is empty where the line above has it: those of the label, of the prediction before, and, if
        it is another one, of the prediction after; `name` and `full`, the name and the lines with all probabilities,
        for the large view; and `description`, all of this in full, for screen readers and the mouse.
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
        lines.append([f"{sign}{classes[first]}", _percent(before[first])])
        lines.append([f"→ {classes[last]}", _percent(after[last])])
    full = [list(line) for line in lines]
    in_words = ", ".join(f"{text} {probability}".strip() for text, probability in lines)
    if first == last == label:
        lines[1][1] = ""
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


def _small_jpeg(image: Tensor, max_side: int) -> str:
    """Encode a square image as a JPEG of at most `max_side` pixels on each side, in base64."""
    side = min(max_side, image.shape[1])
    small = resized(image[None].float().clamp(0, 1), side)[0]
    return to_base64(to_jpeg(to_pixels(small)))
