"""The parts of the desk's panel, without their callbacks; every control has a label that screen readers announce."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import anywidget
import ipywidgets
import traitlets
from torch import Tensor

from edittools.images import resized
from edittools.widgets.desk_sets import DeskSets, Result
from edittools.widgets.pixels import to_base64, to_pixels, to_png

HELD_OUT = "Result, held out"
NOT_HELD_OUT = "Result, on the images used for selection"
BY_CHANGE = "changes first"
WORST_FIRST = "worst first"


@dataclass(frozen=True)
class Outcome:
    """What a request says when it is done: a sentence, and details on demand."""

    text: str
    details: str = ""


class _DeskWidget(anywidget.AnyWidget):
    """A widget that `desk.js` draws, by its kind."""

    _esm = Path(__file__).parent / "desk.js"
    _css = Path(__file__).parent / "desk.css"
    _kind = traitlets.Unicode().tag(sync=True)


class Gallery(_DeskWidget):
    """Small images with captions, one of which can be selected if they are `selectable`.

    `cards` holds the texts below the images, see `card`. `order` holds the positions of the images that are visible, in
    the order on the screen; if it is empty, all are, as they were added. `selected` is the position of the selected
    image, -1 for none. `label` names the gallery for screen readers. `size` is the width of an image on the screen, in
    pixels.
    """

    _kind = traitlets.Unicode("gallery").tag(sync=True)
    _images = traitlets.List().tag(sync=True)
    cards = traitlets.List().tag(sync=True)
    order = traitlets.List().tag(sync=True)
    selected = traitlets.Int(-1).tag(sync=True)
    selectable = traitlets.Bool(False).tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    size = traitlets.Int(72).tag(sync=True)

    def show(self, images: Tensor | Sequence[Tensor]) -> None:
        """Show other images, each `(3, H, W)`."""
        self._images = [_small_png(image, 2 * self.size) for image in images]

    @property
    def has_images(self) -> bool:
        """Whether there is an image."""
        return bool(self._images)

    def add(self, images: Tensor | Sequence[Tensor]) -> None:
        """Add images, each `(3, H, W)`, after those that there are."""
        self._images = self._images + [_small_png(image, 2 * self.size) for image in images]


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


class Controls(ipywidgets.VBox):
    """The controls of a desk (label, material, layer, strength, buttons) and its messages.

    Args:
        materials: names of the materials.
        sets: the image sets, which determine the layers and whether a search is possible.
    """

    def __init__(self, materials: Sequence[str], sets: DeskSets) -> None:
        self._can_search = sets.has_clean
        wide = {"style": {"description_width": "76px"}, "layout": {"width": "100%"}}
        narrow = {"style": {"description_width": "24px"}, "layout": {"width": "170px"}}
        self.class_name = ipywidgets.Text(description="label", continuous_update=False, **wide)
        self.material = ipywidgets.Dropdown(options=materials, description="replace by", **wide)
        self.layer = ipywidgets.Dropdown(options=_layer_options(sets), description="layer", **wide)
        self.layer.value = _default_layer(sets)
        self.strength = ipywidgets.BoundedFloatText(1.0, min=0, max=2, step=0.25, description="strength", **wide)
        self.pair = Gallery(label="x and x'", size=84)
        self.rewrite = button("Rewrite", "rewrite this layer by the marked image", "primary")
        self.search = button("Find the best", "try three methods in all starred layers, and take the best edit")
        self.stop = button("Stop", "end the search with the best edit so far")
        self.progress = ipywidgets.FloatProgress(
            0, max=1, style={"description_width": "initial"}, layout={"width": "100%"}
        )
        self.heat = ipywidgets.ToggleButton(
            description="Where to mark?",
            tooltip="highlight where the selected layer argues for the predicted class, against the label",
            layout={"width": "auto"},
        )
        self.sort = ipywidgets.Dropdown(
            options=(BY_CHANGE, WORST_FIRST),
            description="sort",
            style={"description_width": "28px"},
            layout={"width": "168px"},
        )
        self.message = Message()
        self.title = heading("")
        self.title_text = ""
        self.verdict = Message()
        self.undo = button("Undo edit", "go back to the previous result")
        self.path = ipywidgets.Text("edit.safetensors", description="file", continuous_update=False, **narrow)
        self.save = button("Save", "save the edit as a file")
        self.report = button("Save report", "save the report of the search as an HTML page")
        self.upload = ipywidgets.FileUpload(
            accept=".safetensors,image/*",
            multiple=True,
            description="Add files",
            tooltip="add images, or show a saved edit",
            layout={"width": "auto"},
        )
        self.show_search(None)
        super().__init__(
            [
                heading("3 Replace it, and rewrite"),
                self.class_name,
                self.material,
                self.pair,
                self.layer,
                self.strength,
                row(self.rewrite, self.search, self.stop),
                self.progress,
                self.message,
                self.title,
                self.verdict,
                row(self.undo, self.path, self.save, self.report, self.upload),
            ]
        )
        self.add_class("et-box")

    def show_search(self, progress: float | None, method: str = "") -> None:
        """Show the progress of a method of a search, from 0 to 1; None if there is no search."""
        is_searching = progress is not None
        self.rewrite.disabled = is_searching
        self.search.disabled = is_searching or not self._can_search
        self.stop.disabled = not is_searching
        self.progress.layout.display = "" if is_searching else "none"
        self.progress.value = progress or 0.0
        self.progress.description = method

    def show(self, result: Result | None, can_undo: bool, can_save: bool) -> None:
        """Show the verdict on an edit, and whether its figures are held out.

        Args:
            result: the result of the edit; nothing is shown for None.
            can_undo: whether there is an edit to undo.
            can_save: whether there is an edit to save.
        """
        if result is None:
            self.title_text = ""
            self.title.value = ""
            self.verdict.show("")
        else:
            self.title_text = HELD_OUT if result.held_out else NOT_HELD_OUT
            self.title.value = f"<h4>{self.title_text}</h4>"
            self.verdict.show(result.verdict, details=result.details)
        self.undo.disabled = not can_undo
        self.save.disabled = not can_save
        self.report.disabled = result is None or not result.held_out


def _layer_options(sets: DeskSets) -> list[tuple[str, str]]:
    """List the text that is shown for each layer, with the layer; a star marks the layers to try first."""
    starred = [(f"★ {layer}", layer) for layer in sets.later_layers]
    others = [(layer, layer) for layer in sets.layers if layer not in sets.later_layers]
    return starred + others


def _default_layer(sets: DeskSets) -> str:
    """Return the layer that is selected at the beginning."""
    if not sets.later_layers:
        return sets.layers[-1]
    return sets.later_layers[len(sets.later_layers) // 3]


STATES = {
    (True, True): "correct",
    (True, False): "broken",
    (False, True): "corrected",
    (False, False): "misclassified",
}
"""The state of an image by whether it is classified correctly before and after an edit."""


def card(classes: Sequence[str], label: int, before: int, after: int, caption: str = "") -> dict[str, str]:
    """Describe an image in the texts below it.

    Args:
        classes: the names of the classes.
        label: index of the class that the image shows.
        before: index of the class that is predicted without the edit.
        after: index of the class that is predicted with the edit.
        caption: the first line; by default the name of the class that the image shows.

    Returns:
        The caption, the prediction (before → after), the state, and a description of all three for screen readers.
    """
    state = STATES[before == label, after == label]
    prediction = classes[after] if after == before else f"{classes[before]} → {classes[after]}"
    caption = caption or classes[label]
    description = f"{caption}, classified as {prediction}: {state}"
    return {"caption": caption, "prediction": prediction, "state": state, "description": description}


def layout(desk: ipywidgets.VBox) -> list[ipywidgets.Widget]:
    """Lay out a desk: the notes on its sets; below them, side by side, the images, the editor and the controls."""
    lines = [f"{desk.sets}.", *desk.sets.notes]
    notes = ipywidgets.HTML("<br>".join(escape(line) for line in lines))
    notes.add_class("et-quiet")
    images = column(row(heading("1 Select an image"), desk.controls.sort), desk.gallery, name="et-pick")
    return [notes, column(images, desk.box, desk.controls, name="et-columns")]


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
