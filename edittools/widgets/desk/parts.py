"""The parts of the desk's page that a browser draws by `desk.js`: galleries of images, messages, and a notice."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets
from torch import Tensor

from edittools.images import resized
from edittools.metrics import SIGNS, state_of
from edittools.widgets.pixels import to_base64, to_jpeg, to_pixels, to_png

SMALL, MEDIUM = 88, 112
"""The width of an image of a gallery on the screen, in pixels."""

ENDED = (
    "The desk has ended, or cannot be reached.\nWhat is shown stays on this page, but nothing can be changed. Start it "
    "again, and open the address that it prints: marks are kept."
)


class _DeskWidget(anywidget.AnyWidget):
    """A widget that `desk.js` draws, by its kind."""

    _esm = Path(__file__).parent / "desk.js"
    _css = Path(__file__).parent / "desk.css"
    _kind = traitlets.Unicode().tag(sync=True)


class Gallery(_DeskWidget):
    """Small images with captions, of which one can be selected, or each can be checked.

    `cards` holds what is below each image, see `card`. `selected` is the position of the selected image, -1 for none;
    `checked` holds the positions of those that are checked. `enlarged` is that of the image that is shown in the large
    view, -1 if it is closed. `label` names the gallery for screen readers. `size` is the width of an image on the
    screen, in pixels. `placeholder` is shown while there is no image.
    """

    _kind = traitlets.Unicode("gallery").tag(sync=True)
    _images = traitlets.List().tag(sync=True)
    cards = traitlets.List().tag(sync=True)
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
        self.shown: object = None
        self._full_images: Sequence[Tensor] = []
        super().__init__(**options)

    def show(self, what: object, images: Sequence[Tensor], cards: Sequence[dict[str, Any]]) -> None:
        """Show images with their cards.

        Args:
            what: what is shown; while it is the same, the images are as well, and only the cards may change.
            images: the images, each `(3, H, W)`.
            cards: what is below each of them.
        """
        with self.hold_sync():
            if what is not self.shown:
                self.shown = what
                self._full_images = images
                self._images = [_small_jpeg(image, 2 * self.size) for image in images]
                self.enlarged = -1
            self.cards = list(cards)

    @traitlets.observe("enlarged")
    def _send_large_image(self, change: dict) -> None:
        """Send the image that is enlarged in its full resolution."""
        is_open = 0 <= self.enlarged < len(self._full_images)
        self._large_png = to_base64(to_png(to_pixels(self._full_images[self.enlarged]))) if is_open else ""


class Message(_DeskWidget):
    """A text that screen readers announce when it changes.

    `alarm` marks an error, and `word` comes first, in the color of `tone`: "good", "bad", or neither if it is empty.
    """

    _kind = traitlets.Unicode("message").tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)
    alarm = traitlets.Bool(False).tag(sync=True)
    word = traitlets.Unicode().tag(sync=True)
    tone = traitlets.Unicode().tag(sync=True)

    def show(self, text: str, alarm: bool = False, word: str = "", tone: str = "") -> None:
        """Show another text."""
        with self.hold_sync():
            self.text = text
            self.alarm = alarm
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


def card(
    classes: Sequence[str],
    label: int,
    before: Tensor,
    after: Tensor | None = None,
    *,
    caption: str = "",
    name: str = "",
    is_marked: bool = False,
) -> dict[str, Any]:
    """Describe an image in the lines below it.

    Args:
        classes: the names of the classes.
        label: index of the class that the image shows.
        before: probabilities `(classes,)` without an edit.
        after: probabilities `(classes,)` with the edit; None without one.
        caption: the first line; by default, the class that the image shows.
        name: the name of the image, for the large view and screen readers.
        is_marked: whether an area of the image is marked.

    Returns:
        `state`, see `metrics.state_of`; `lines`, each with a text, a probability, and whether it is right: what the
        image shows, and what it is predicted as, before and with the edit; `name`; `marked`; and `description`, all of
        this in words.
    """
    predicted = [(int(row.argmax()), float(row.max())) for row in (before, after) if row is not None]
    is_right = [index == label for index, _ in predicted]
    state = state_of(is_right[0], is_right[-1])
    words = ["predicted"] if after is None else ["before", "now"]
    if after is not None and predicted[0][0] == predicted[1][0]:
        words, predicted, is_right = ["still"], predicted[1:], is_right[1:]
    lines: list[list[Any]] = [[caption or classes[label], "", None]]
    for word, (index, probability), right in zip(words, predicted, is_right, strict=True):
        sign = SIGNS["correct" if right else "misclassified"]
        lines.append([f"{sign} {word} {classes[index]}", f"{probability:.0%}", right])
    said = "; ".join(f"{text} {probability}".strip() for text, probability, _ in lines)
    facts = [name, said, *(["marked"] if is_marked else [])]
    return {
        "state": state,
        "lines": lines,
        "name": name,
        "marked": is_marked,
        "description": ": ".join(fact for fact in facts if fact),
    }


def heading(text: str) -> ipywidgets.HTML:
    """Make a heading."""
    return ipywidgets.HTML(f"<h4>{text}</h4>")


def row(*children: ipywidgets.Widget) -> ipywidgets.Box:
    """Put widgets side by side; those that do not fit go to the next line."""
    return ipywidgets.Box(children).add_class("et-row")


def column(*children: ipywidgets.Widget, name: str) -> ipywidgets.VBox:
    """Put widgets below each other."""
    return ipywidgets.VBox(children).add_class("et-box").add_class(name)


def button(text: str, hint: str) -> ipywidgets.Button:
    """Make a button as wide as its text."""
    return ipywidgets.Button(description=text, tooltip=hint, layout={"width": "auto"})


def switch(text: str, hint: str) -> ipywidgets.ToggleButton:
    """Make a button that stays pressed."""
    return ipywidgets.ToggleButton(description=text, tooltip=hint, layout={"width": "auto"})


def set_visible(widget: ipywidgets.Widget, is_visible: bool) -> None:
    """Show or hide a widget."""
    widget.layout.display = "" if is_visible else "none"


def _small_jpeg(image: Tensor, max_side: int) -> str:
    """Encode a square image as a JPEG of at most `max_side` pixels on each side, in base64."""
    side = min(max_side, image.shape[1])
    small = resized(image[None].float().clamp(0, 1), side)[0]
    return to_base64(to_jpeg(to_pixels(small)))
