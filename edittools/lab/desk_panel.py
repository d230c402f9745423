"""The parts of a desk's panel, without what they do; every control has its words, which screen readers read as well."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import anywidget
import ipywidgets as w
import traitlets
from torch import Tensor

from edittools.images import resized
from edittools.lab.desk_sets import DeskSets, Result
from edittools.lab.pixels import to_pixels, to_png

HELD_OUT = "Result, held out"
CHOSEN_BY = "Result, on the pictures that chose"
WIDE = {"style": {"description_width": "66px"}, "layout": {"width": "100%"}}


class _Small(anywidget.AnyWidget):
    _esm = Path(__file__).parent / "desk.js"
    _css = Path(__file__).parent / "desk.css"
    _kind = traitlets.Unicode().tag(sync=True)


class Pictures(_Small):
    """Show pictures with what they are and what is read in them, to choose one from if `selectable`.

    `selected` is the place of the one that is chosen, -1 for none; `label` names the whole for screen readers; `size`
    is the width of a picture on the screen.
    """

    _kind = traitlets.Unicode("pictures").tag(sync=True)
    _pictures = traitlets.List().tag(sync=True)
    cards = traitlets.List().tag(sync=True)
    selected = traitlets.Int(-1).tag(sync=True)
    selectable = traitlets.Bool(False).tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    size = traitlets.Int(72).tag(sync=True)

    def show(self, images: Tensor | Sequence[Tensor]) -> None:
        """Show other pictures `(3, H, W)`; what stands below them are the `cards`, see `card`."""
        self._pictures = [_small_png(image, 2 * self.size) for image in images]


class Said(_Small):
    """Show words that screen readers read out when they change; `alarm` shows that something went wrong."""

    _kind = traitlets.Unicode("said").tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)
    alarm = traitlets.Bool(False).tag(sync=True)

    def say(self, text: str, alarm: bool = False) -> None:
        """Show other words."""
        with self.hold_sync():
            self.text, self.alarm = text, alarm


class Controls(w.VBox):
    """Hold what a desk is asked with (what the picture shows, material, layer, strength, buttons) and what it says."""

    def __init__(self, materials: Sequence[str], sets: DeskSets) -> None:
        """Build the controls; a star marks the layers worth trying first."""
        layers, later, self._can_search = sets.layers, sets.later, "everyday" in sets.given
        self.shows = w.Text(description="it shows", continuous_update=False, **WIDE)
        self.material = w.Dropdown(options=materials, description="turn it to", **WIDE)
        options = [(f"★ {name}", name) for name in later] + [(name, name) for name in layers if name not in later]
        start = later[len(later) // 3] if later else layers[-1]
        self.layer = w.Dropdown(options=options, value=start, description="layer", **WIDE)
        self.strength = w.BoundedFloatText(1.0, min=0, max=2, step=0.25, description="strength", **WIDE)
        self.pair = Pictures(label="x and x'", size=84)
        self.rewrite = button("Rewrite", "rewrite this layer by the marked picture", "primary")
        self.search = button("Find the best", "try the starred layers, several ranks and strengths")
        self.stop = button("Stop", "end the search with the best so far")
        self.progress = w.FloatProgress(0, max=1, layout={"width": "100%"})
        self.searching(None)
        self.said, self.title, self.verdict = Said(), heading(""), Said()
        self.undo = button("Undo edit", "go back to the result before")
        self.save = button("Save", "write the edit as a file")
        small = {"style": {"description_width": "24px"}, "layout": {"width": "170px"}}
        self.path = w.Text("edit.safetensors", description="file", continuous_update=False, **small)
        look = {"tooltip": "add pictures, or show a saved edit", "layout": {"width": "auto"}}
        self.upload = w.FileUpload(accept=".safetensors,image/*", multiple=True, description="Add files", **look)
        asked = [self.shows, self.material, self.pair, self.layer, self.strength]
        asked += [row(self.rewrite, self.search, self.stop), self.progress, self.said]
        came = [self.title, self.verdict, row(self.undo, self.path, self.save, self.upload)]
        super().__init__([heading("3 Change it, and rewrite"), *asked, *came])
        self.add_class("et-box")

    def searching(self, share: float | None) -> None:
        """Show how far a search is, 0 to 1, or that there is none."""
        self.rewrite.disabled, self.stop.disabled = share is not None, share is None
        self.search.disabled = share is not None or not self._can_search
        self.progress.layout.display, self.progress.value = "none" if share is None else "", share or 0.0

    def show(self, result: Result | None, can_undo: bool) -> None:
        """Show what an edit did, and whether its figures are held out."""
        where = "" if result is None else HELD_OUT if result.held_out else CHOSEN_BY
        self.title.value, self.verdict.text = where and f"<h4>{where}</h4>", "" if result is None else result.verdict
        self.undo.disabled, self.save.disabled = not can_undo, result is None


def card(classes: Sequence[str], label: int, before: int, after: int, caption: str = "") -> dict:
    """What stands below a picture: the class it shows (or a `caption`), what is read before → after, and the state."""
    state = {(0, 1): "corrected", (1, 0): "broken", (1, 1): "right"}.get((before == label, after == label), "wrong")
    reads = classes[after] if after == before else f"{classes[before]} → {classes[after]}"
    caption = caption or classes[label]
    return {"caption": caption, "reads": reads, "state": state, "said": f"{caption}, read as {reads}: {state}"}


def layout(desk: w.VBox) -> list[w.Widget]:
    """Lay out a desk: what it works with; below, pictures, editor and controls beside each other."""
    notes = w.HTML("<br>".join(escape(note) for note in (f"{desk.sets}.", *desk.sets.notes))).add_class("et-quiet")
    pick = column(heading("1 Pick a picture"), desk.pictures, name="et-pick")
    return [notes, column(pick, desk.box, desk.controls, name="et-columns")]


def heading(words: str) -> w.HTML:
    """A heading."""
    return w.HTML(f"<h4>{words}</h4>")


def row(*children: w.Widget) -> w.Box:
    """Widgets beside each other, as many as fit."""
    return w.Box(children).add_class("et-row")


def column(*children: w.Widget, name: str = "et-box") -> w.VBox:
    """Widgets below each other."""
    return w.VBox(children).add_class("et-box").add_class(name)


def button(words: str, hint: str, style: str = "") -> w.Button:
    """A button as wide as its words."""
    return w.Button(description=words, tooltip=hint, button_style=style, layout={"width": "auto"})


def _small_png(image: Tensor, most: int) -> str:
    """A square image as a PNG of at most so many pixels across, in base64."""
    small = resized(image[None].float().clamp(0, 1), min(most, image.shape[1]))[0]
    return base64.b64encode(to_png(to_pixels(small))).decode()
