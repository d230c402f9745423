"""The controls of a desk, without what they do: every widget has its words, which screen readers read as well."""

from collections.abc import Sequence

import ipywidgets as w
import pandas as pd

from edittools.lab.bench import Bench
from edittools.lab.cards import Code, Pictures, Said, Slider
from edittools.lab.palette import KINDS, PARTS
from edittools.rewriting import OBJECTIVES
from edittools.world.textures import STYLES, VARIANTS

MISREAD, READ_RIGHTLY = "x' (it is misread)", "x (it is read rightly)"
WIDE = {"description_width": "74px"}
READS = {"texture": ("style", "variant", "shading"), "patch": ("source", "part", "file", "shading"), "word": ("text",)}
"""Which controls each kind of change has, beside the mask."""


def text(value: str = "", *classes: str) -> w.HTML:
    """Some words."""
    shown = w.HTML(value)
    for name in classes:
        shown.add_class(name)
    return shown


def heading(words: str) -> w.HTML:
    """A heading."""
    return text(f"<h4>{words}</h4>")


def row(*children: w.Widget) -> w.Box:
    """Widgets beside each other, as many as fit."""
    return _boxed(w.Box, children, "et-row")


def column(*children: w.Widget, name: str = "et-box") -> w.VBox:
    """Widgets below each other."""
    return _boxed(w.VBox, children, "et-box", name)


def _boxed(kind: type, children: Sequence[w.Widget], *classes: str) -> w.Box:
    box = kind(list(children))
    for name in classes:
        box.add_class(name)
    return box


def button(words: str, hint: str = "", style: str = "") -> w.Button:
    """A button as wide as its words."""
    return w.Button(description=words, tooltip=hint, button_style=style, layout={"width": "auto"})


class Palette(w.VBox):
    """What is done to what the mask covers, and which of x and x' the picture is."""

    def __init__(self, pictures: Sequence[tuple[str, tuple[str, int]]]) -> None:
        """Build the controls; `pictures` are what can be pasted from, by name."""
        full = {"style": WIDE, "layout": {"width": "100%"}}
        self.kind = w.Dropdown(options=[(does, name) for name, does in KINDS.items()], description="change", **full)
        self.misread = w.Dropdown(
            options=[(MISREAD, True), (READ_RIGHTLY, False)],
            description="picture is",
            **full,
        )
        self.style_name = w.Dropdown(options=STYLES, value="gravel", description="material", **full)
        self.variant = w.BoundedIntText(min=1, max=VARIANTS, value=1, description="variant", **full)
        self.shading = w.BoundedFloatText(min=0, max=1, step=0.1, value=0.7, description="shading", **full)
        self.source = w.Dropdown(options=list(pictures), description="picture", **full)
        self.part = w.Dropdown(options=list(PARTS), description="its part", **full)
        self.file = w.Text(description="or a file", placeholder="path of a picture", continuous_update=False, **full)
        self.word = w.Text(value="ipod", description="word", continuous_update=False, **full)
        self._named = {
            "style": self.style_name,
            "variant": self.variant,
            "shading": self.shading,
            "text": self.word,
            "source": self.source,
            "part": self.part,
            "file": self.file,
        }
        self._options = column()
        super().__init__([self.kind, self._options, self.misread])
        self.add_class("et-box")
        self.kind.observe(lambda change: self._arrange(), "value")
        self._arrange()

    @property
    def inputs(self) -> tuple[w.Widget, ...]:
        """All controls."""
        return (self.kind, self.misread, *self._named.values())

    def _arrange(self) -> None:
        """Show the controls of the kind of change that is chosen."""
        self._options.children = [self._named[name] for name in READS.get(self.kind.value, ())]
        self.misread.layout.display = "none" if self.kind.value in ("word", "blank") else ""


class Controls(w.VBox):
    """How the edit is solved: layer, rank, mask, objective, α."""

    def __init__(self, layers: pd.DataFrame, everyday: bool) -> None:
        """Build the controls; `layers` is `Bench.table()`."""
        full = {"style": WIDE, "layout": {"width": "100%"}}
        worth = layers[layers["worth trying"]]
        options = [(f"★ {name}", name) for name in worth.layer]
        options += [(name, name) for name in layers[~layers["worth trying"]].layer]
        start = worth.layer.iloc[len(worth) // 3] if len(worth) else layers.layer.iloc[-1]
        self.layer = w.Dropdown(options=options, value=start, description="layer", **full)
        self.rank = w.BoundedIntText(min=1, max=64, value=1, description="rank", **full)
        objectives = [(one.replace("_", " "), one) for one in reversed(OBJECTIVES)]
        self.objective = w.Dropdown(options=objectives, description="objective", **full)
        tick = {"indent": False, "layout": {"width": "auto"}}
        self.masked = w.Checkbox(True, description="at the mask only", **tick)
        self.spare = w.Checkbox(True, description="spare the other images", **tick)
        self.live = w.Checkbox(True, description="rewrite as I draw", **tick)
        self.strength = Slider()
        self.rewrite = button("Rewrite", "solve the edit of this picture (again)", "primary")
        self.fresh = button("New edit", "leave this edit as it is and begin another one")
        self.search = button("Find the best", "try the starred layers, ranks and strengths on all pictures")
        self.stop = button("Stop", "end the search with the best so far")
        self.search.disabled, self.stop.disabled = not everyday, True
        self.progress = w.FloatProgress(0, max=1, layout={"width": "100%", "display": "none"})
        hint = "★ worth trying first: the later half of the network, where rules of whole things are made."
        super().__init__(
            [
                heading("Edit"),
                self.layer,
                text(hint, "et-quiet"),
                self.rank,
                self.objective,
                self.masked,
                self.spare,
                self.strength,
                self.live,
                row(self.rewrite, self.fresh),
                heading("Let it be found"),
                row(self.search, self.stop),
                self.progress,
            ]
        )
        self.add_class("et-box")

    def searching(self, share: float | None) -> None:
        """Show how far a search is, or None: that there is none."""
        self.search.disabled, self.stop.disabled = share is not None, share is None
        self.progress.layout.display, self.progress.value = "none" if share is None else "", share or 0.0

    @property
    def inputs(self) -> tuple[w.Widget, ...]:
        """The controls that make another edit."""
        return self.layer, self.rank, self.objective, self.masked, self.spare


class Chip(w.Box):
    """One edit that was made: on or off, its strength, its place, and away with it."""

    def __init__(self, name: str) -> None:
        """Build the controls of the edit `name`."""
        self.name = name
        self.on = w.Checkbox(True, description=name, indent=False, layout={"width": "auto"})
        self.about = text("", "et-quiet")
        self.strength = Slider(label=f"strength α of {name}", layout={"width": "170px"})
        self.earlier, self.later = button("◀", f"{name}: earlier"), button("▶", f"{name}: later")
        self.remove = button("✕", f"remove {name}")
        super().__init__([self.on, self.about, self.strength, self.earlier, self.later, self.remove])
        self.add_class("et-row")
        self.add_class("et-chip")


class Shelf(w.VBox):
    """Below: the edits made, undo, files, code."""

    def __init__(self) -> None:
        """Build the controls."""
        path = {"continuous_update": False, "layout": {"width": "300px"}, "style": {"description_width": "30px"}}
        self.chips = column()
        self.undo = button("Undo edit", "take back the last change of the edits")
        self.path = w.Text("edit.safetensors", description="file", **path)
        self.save, self.load = button("Save", "write the sum of the edits that are on"), button("Load", "read an edit")
        self.upload = w.FileUpload(accept=".safetensors", description="Load from here", layout={"width": "auto"})
        self.code = Code()
        super().__init__(
            [
                heading("Edits made; those that are on are added up"),
                self.chips,
                row(self.undo, self.path, self.save, self.load, self.upload),
                self.code,
            ]
        )
        self.add_class("et-box")


class Results(w.VBox):
    """Right: counts, the verdict, pictures before and after."""

    def __init__(self) -> None:
        """Build what is shown."""
        self.status, self.counts, self.verdict = Said(), text(), Said()
        self.status.add_class("et-status-line")
        self.firing = w.Checkbox(False, description="show where the key fires", indent=False, layout={"width": "auto"})
        self.pictures = Pictures(label="what is read in some pictures, now and before", size=104)
        self.firing.observe(lambda change: setattr(self.pictures, "show_overlays", change["new"]), "value")
        note = text("Bars: what is read now; the mark: what it was before.", "et-quiet")
        self._shown = None
        super().__init__(
            [heading("Before and after"), self.status, self.counts, self.verdict, row(self.firing, note), self.pictures]
        )
        self.add_class("et-box")
        self.add_class("et-right")

    def fill(self, bench: Bench, cards: Sequence[dict]) -> None:
        """Set what is read in the shown pictures; the pictures themselves are sent once."""
        if self._shown is bench.some:
            self.pictures.cards = list(cards)
        else:
            self.pictures.show(bench.some, cards)
            self._shown = bench.some
