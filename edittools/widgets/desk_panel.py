"""The parts of the desk's panel, without what they do; every control has a text that screen readers read as well."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import anywidget
import ipywidgets
import traitlets
from torch import Tensor

from edittools.images import resized
from edittools.widgets.desk_sets import DeskSets, Result
from edittools.widgets.pixels import to_pixels, to_png

HELD_OUT = "Result, held out"
NOT_HELD_OUT = "Result, on the pictures that chose"


class _Small(anywidget.AnyWidget):
    _esm = Path(__file__).parent / "desk.js"
    _css = Path(__file__).parent / "desk.css"
    _kind = traitlets.Unicode().tag(sync=True)


class Pictures(_Small):
    """Small images with what stands below them; one can be selected if they are `selectable`.

    `cards` is what stands below them, see `card`. `selected` is the place of the selected one, -1 for none. `label`
    names the whole for screen readers. `size` is the width of an image on the screen, in pixels.
    """

    _kind = traitlets.Unicode("pictures").tag(sync=True)
    _pictures = traitlets.List().tag(sync=True)
    cards = traitlets.List().tag(sync=True)
    selected = traitlets.Int(-1).tag(sync=True)
    selectable = traitlets.Bool(False).tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    size = traitlets.Int(72).tag(sync=True)

    def show(self, images: Tensor | Sequence[Tensor]) -> None:
        """Show other images, each `(3, H, W)`."""
        self._pictures = [_small_png(image, 2 * self.size) for image in images]


class Said(_Small):
    """A text that screen readers read out when it changes; `alarm` marks an error."""

    _kind = traitlets.Unicode("said").tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)
    alarm = traitlets.Bool(False).tag(sync=True)

    def say(self, text: str, alarm: bool = False) -> None:
        """Show another text."""
        with self.hold_sync():
            self.text = text
            self.alarm = alarm


class Controls(ipywidgets.VBox):
    """The controls of a desk (what the image shows, material, layer, strength, buttons) and what it says."""

    def __init__(self, materials: Sequence[str], sets: DeskSets) -> None:
        """Build the controls; a star marks the layers that are worth trying first."""
        self._can_search = "clean" in sets.given
        wide = {"style": {"description_width": "66px"}, "layout": {"width": "100%"}}
        narrow = {"style": {"description_width": "24px"}, "layout": {"width": "170px"}}
        self.shows = ipywidgets.Text(description="it shows", continuous_update=False, **wide)
        self.material = ipywidgets.Dropdown(options=materials, description="turn it to", **wide)
        self.layer = ipywidgets.Dropdown(options=_layer_options(sets), description="layer", **wide)
        self.layer.value = sets.later[len(sets.later) // 3] if sets.later else sets.layers[-1]
        self.strength = ipywidgets.BoundedFloatText(1.0, min=0, max=2, step=0.25, description="strength", **wide)
        self.pair = Pictures(label="x and x'", size=84)
        self.rewrite = button("Rewrite", "rewrite this layer by the marked picture", "primary")
        self.search = button("Find the best", "try the starred layers, several ranks and strengths")
        self.stop = button("Stop", "end the search with the best so far")
        self.progress = ipywidgets.FloatProgress(0, max=1, layout={"width": "100%"})
        self.said = Said()
        self.title = heading("")
        self.verdict = Said()
        self.undo = button("Undo edit", "go back to the result before")
        self.path = ipywidgets.Text("edit.safetensors", description="file", continuous_update=False, **narrow)
        self.save = button("Save", "write the edit as a file")
        self.upload = ipywidgets.FileUpload(
            accept=".safetensors,image/*",
            multiple=True,
            description="Add files",
            tooltip="add pictures, or show a saved edit",
            layout={"width": "auto"},
        )
        self.searching(None)
        super().__init__(
            [
                heading("3 Change it, and rewrite"),
                self.shows,
                self.material,
                self.pair,
                self.layer,
                self.strength,
                row(self.rewrite, self.search, self.stop),
                self.progress,
                self.said,
                self.title,
                self.verdict,
                row(self.undo, self.path, self.save, self.upload),
            ]
        )
        self.add_class("et-box")

    def searching(self, progress: float | None) -> None:
        """Show how far a search is, from 0 to 1; None if there is no search."""
        is_searching = progress is not None
        self.rewrite.disabled = is_searching
        self.search.disabled = is_searching or not self._can_search
        self.stop.disabled = not is_searching
        self.progress.layout.display = "" if is_searching else "none"
        self.progress.value = progress or 0.0

    def show(self, result: Result | None, can_undo: bool, can_save: bool) -> None:
        """Show what an edit does, and whether the figures are held out; nothing for None."""
        if result is None:
            self.title.value = ""
            self.verdict.text = ""
        else:
            title = HELD_OUT if result.held_out else NOT_HELD_OUT
            self.title.value = f"<h4>{title}</h4>"
            self.verdict.text = result.verdict
        self.undo.disabled = not can_undo
        self.save.disabled = not can_save


def _layer_options(sets: DeskSets) -> list[tuple[str, str]]:
    """List the layers with the text that is shown for each, those that are worth trying first with a star."""
    starred = [(f"★ {layer}", layer) for layer in sets.later]
    others = [(layer, layer) for layer in sets.layers if layer not in sets.later]
    return starred + others


def card(classes: Sequence[str], label: int, before: int, after: int, caption: str = "") -> dict[str, str]:
    """Describe what stands below an image.

    Args:
        classes: the names of the classes.
        label: the class that the image shows.
        before: the class that it is classified as before an edit.
        after: the class that it is classified as with the edit.
        caption: stands first; the name of the label by default.

    Returns:
        The caption, the predictions before → after, the state, and all of it for screen readers.
    """
    states = {
        (True, True): "right",
        (True, False): "broken",
        (False, True): "corrected",
        (False, False): "wrong",
    }
    state = states[before == label, after == label]
    reads = classes[after] if after == before else f"{classes[before]} → {classes[after]}"
    caption = caption or classes[label]
    return {"caption": caption, "reads": reads, "state": state, "said": f"{caption}, read as {reads}: {state}"}


def layout(desk: ipywidgets.VBox) -> list[ipywidgets.Widget]:
    """Lay out a desk: the notes on its sets; below them, side by side, the images, the editor and the controls."""
    lines = [f"{desk.sets}.", *desk.sets.notes]
    notes = ipywidgets.HTML("<br>".join(escape(line) for line in lines))
    notes.add_class("et-quiet")
    images = column(heading("1 Pick a picture"), desk.pictures, name="et-pick")
    return [notes, column(images, desk.box, desk.controls, name="et-columns")]


def heading(text: str) -> ipywidgets.HTML:
    """Make a heading."""
    return ipywidgets.HTML(f"<h4>{text}</h4>")


def row(*children: ipywidgets.Widget) -> ipywidgets.Box:
    """Put widgets side by side, as many as fit."""
    return ipywidgets.Box(children).add_class("et-row")


def column(*children: ipywidgets.Widget, name: str = "et-box") -> ipywidgets.VBox:
    """Put widgets below each other."""
    return ipywidgets.VBox(children).add_class("et-box").add_class(name)


def button(text: str, hint: str, style: str = "") -> ipywidgets.Button:
    """Make a button as wide as its text."""
    return ipywidgets.Button(description=text, tooltip=hint, button_style=style, layout={"width": "auto"})


def _small_png(image: Tensor, most: int) -> str:
    """Write a square image as a PNG of at most `most` pixels on each side, in base64."""
    side = min(most, image.shape[1])
    small = resized(image[None].float().clamp(0, 1), side)[0]
    return base64.b64encode(to_png(to_pixels(small))).decode()
