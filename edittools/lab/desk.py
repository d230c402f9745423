"""The desk: pick a picture that is misread, draw on it, rewrite, and see at once what that changes everywhere.

    desk = et.lab.Desk(classifier, images, everyday=everyday, keep=keep)
    desk                                   # in a notebook: the panel
    desk.choose(3); desk.editor.mask = mask; desk.rewrite(); desk.wait()
    desk.verdict, desk.edit                # the same by Python, on the same path as by hand

The panel only shows and asks. `bench.py` computes, in a thread of `worker.py`, so the page never waits for it.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from pathlib import Path

import ipywidgets as w

from edittools.classifiers import Classifier, check_classifier
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.images import load_image
from edittools.lab import desk_panel as panel
from edittools.lab import words
from edittools.lab.bench import Bench, Counts, Settings, Source
from edittools.lab.cards import Pictures, Said, card
from edittools.lab.desk_shows import Shown
from edittools.lab.desk_work import Drawing, Request, Work
from edittools.lab.editor import MaskEditor
from edittools.lab.palette import Recipe
from edittools.lab.steps import Step, Steps, code, total
from edittools.lab.worker import Worker

STRIP = 60
"""So many pictures are in the strip, the most wrong ones."""


class Desk(w.VBox):
    """A panel on which a classifier's rule is rewritten from one picture, without writing code.

    `images` are pictures of which some are misread, `everyday` ones whose accuracy must stay, `keep` ones that must be
    read as they are now: each `LabelledImages`, a tensor `(N, 3, H, W)` or a folder, see `Bench`. Both are optional;
    the desk then says what it cannot tell. `shown` is how many pictures are shown with every edit.

    `.edit` is the sum of the edits that are on, `.counts` and `.verdict` say what it does, `.code` is Python that makes
    it. What goes wrong is said in the panel, and is in `.trouble`; only what is no classifier raises `TypeError`. The
    classifier is not changed.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Source,
        everyday: Source | None = None,
        keep: Source | None = None,
        *,
        shown: int = 24,
    ) -> None:
        """Read the pictures once, and lay out the panel."""
        self._given = check_classifier(classifier), images, everyday, keep, shown
        self.bench: Bench | None = None
        self.trouble, self.verdict = "", ""
        self.counts: Counts | None = None
        self.steps = Steps()
        self._open: str | None = None
        self._index, self._masks, self._here = 0, {}, threading.local()
        self._work: Work | None = None
        self._worker = Worker(lambda request, stale: self._work.do(request, stale), self._fail)
        self._alarm = Said(role="alert")
        self._again = panel.button("Try again", "read the classifier and the pictures again, and begin anew")
        self._again.on_click(lambda _: self._begin())
        super().__init__()
        self.add_class("et-desk")
        self._begin()

    # --- by Python, on the same path as by hand --------------------------------------------------------------------

    @property
    def edit(self) -> Edit | None:
        """The sum of the edits that are on, each times its strength; None where there is none."""
        return total(self.steps.now)

    @property
    def exemplar(self) -> Exemplar | None:
        """X, x' and the mask as they are drawn now; None where nothing is drawn. What cannot be made raises."""
        drawing = self._drawing()
        label = int(self.bench.images.labels[drawing.index])
        picture = self.bench.images.images[drawing.index]
        return drawing.recipe.exemplar(picture, drawing.mask, label) if drawing.mask.any() else None

    @property
    def code(self) -> str:
        """Python that makes `.edit`; it runs where the desk's arguments have the names they have here."""
        return code(self.bench, self.steps.now)

    def choose(self, index: int) -> None:
        """Put the picture `index` of `images` into the editor, with what was drawn on it; begins another edit."""
        if not 0 <= index < len(self.bench.images):
            raise IndexError(f"picture {index}: expected 0 to {len(self.bench.images) - 1}")
        self._masks[self._index] = self.editor.masks, self.editor.active
        self._put_up(index)

    def rewrite(self) -> None:
        """Solve the edit of the picture in the editor, in place of the one that was begun, if there is one."""
        self._open = self._open or self.steps.new_name()
        self._ask(self._open)

    def new_edit(self) -> None:
        """Leave the edit that was begun as it is: what is rewritten next is another one, and both are added up."""
        self._open = None
        self.say("The next rewrite is another edit, beside those below.")

    def find_best(self) -> None:
        """Search for the best edit of this exemplar with `repair`, until it is done or stopped."""
        self._open = None
        self._ask(self.steps.new_name(), search=True)

    def stop(self) -> None:
        """End the search with the best so far."""
        self._work.ended.set()

    def undo(self) -> None:
        """Take back the last change of the edits."""
        self._place(self.steps.undo)

    def save(self, path: str | os.PathLike) -> None:
        """Write `.edit` as a safetensors file; what goes wrong is said in the panel."""
        with self._telling("not saved"):
            if self.edit is None:
                raise ValueError("no edit is on: expected at least one")
            path = Path(path).expanduser()
            self.edit.save(path)
            self.say(f"Saved as {path}.")

    def load(self, path: str | os.PathLike) -> None:
        """Add an edit from a file; what goes wrong, such as an edit of another model, is said in the panel."""
        with self._telling("not loaded"):
            path = Path(path).expanduser()
            self._add(path, str(path))

    def wait(self, seconds: float | None = 600) -> bool:
        """Wait until all that was asked for is done; False where it is not after so many seconds."""
        return self._worker.wait(seconds)

    def __repr__(self) -> str:
        """Say in a line what is on the desk (the same in every run)."""
        if self.bench is None:
            return f"Desk({self.trouble})"
        said = f"{self._given[0]}, {len(self.bench.images)} images, {int(self.bench.wrong.sum())} misread"
        made = [f"{step.strength:g} × {step.about}" for step in self.steps.now if step.on]
        return f"Desk({said}{'; ' if made else ''}{', '.join(made)})"

    # --- the panel -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Read everything and lay out the panel, or say what is in the way."""
        self._calm()
        if self._work:
            self._work.drop()
        self.bench, self.steps, self._open, self._masks = None, Steps(), None, {}
        try:
            self.bench = Bench(*self._given)
        except Exception as error:  # models and files fail in any way
            self._fail(error)
            self.children = [self._alarm, self._again]
            return
        self._order, self._work = self.bench.order[:STRIP], Work(self.bench, self.steps, Shown(self), self._fail)
        self._build()
        self._wire()
        self._fill_strip()
        self._put_up(self._order[0])

    def _build(self) -> None:
        """The panel's parts, not yet at work."""
        bench = self.bench
        self.palette = panel.Palette(_named(bench))
        self.controls = panel.Controls(bench.table(), bench.all_everyday is not None)
        self.shelf, self.results, self.editor = panel.Shelf(), panel.Results(), None
        self.strip = Pictures(selectable=True, label="pictures, the most wrong first", size=64)
        self.pair = Pictures(label="x and x'", size=110)
        self.shows = w.Text(description="it shows", continuous_update=False, style=panel.WIDE, layout={"width": "100%"})
        self._editor_box, self.pair_words = panel.column(), Said()
        title = panel.heading("Pictures, the most wrong first")
        left = panel.column(title, self.strip, self._editor_box, self.shows, name="et-left")
        change = panel.heading("Change what is masked"), self.palette, self.pair, self.pair_words
        columns = panel.column(left, panel.column(*change, self.controls), self.results, name="et-columns")
        notes = panel.text("<br>".join(map(escape, words.notes(bench))), "et-quiet")
        self.children = [notes, self._alarm, self._again, columns, self.shelf]

    def _wire(self) -> None:
        """Say what every control does."""
        controls, shelf = self.controls, self.shelf
        self.strip.observe(
            lambda change: self._unless_quiet(lambda: self.choose(self._order[change["new"]])), "selected"
        )
        self.shows.observe(lambda change: self._unless_quiet(self._relabel), "value")
        for one in (*self.palette.inputs, *controls.inputs):
            one.observe(lambda change: self._unless_quiet(self._follow), "value")
        controls.strength.observe(
            lambda change: self._unless_quiet(lambda: self._change(self._open, strength=controls.strength.value)),
            "value",
        )
        clicks = {
            controls.rewrite: self.rewrite,
            controls.fresh: self.new_edit,
            controls.search: self.find_best,
            controls.stop: self.stop,
            shelf.undo: self.undo,
            shelf.save: lambda: self.save(shelf.path.value),
            shelf.load: lambda: self.load(shelf.path.value),
        }
        for one, act in clicks.items():
            one.on_click(lambda _, act=act: act())
        shelf.upload.observe(lambda change: self._load_upload(change["new"]), "value")

    def _unless_quiet(self, act: Callable[[], None]) -> None:
        if not getattr(self._here, "quiet", False):
            act()

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """Set controls without their doing anything; what comes from the page meanwhile is heard all the same."""
        before, self._here.quiet = getattr(self._here, "quiet", False), True
        try:
            yield
        finally:
            self._here.quiet = before

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Say in the panel what goes wrong."""
        self._calm()
        try:
            yield
        except Exception as error:  # files and models fail in any way
            self._fail(error, what)

    def say(self, said: str) -> None:
        """Say in the status line what is going on."""
        if self.bench is not None:
            self.results.status.text = said

    def _calm(self) -> None:
        self.trouble = self._alarm.text = ""
        self._again.layout.display = "none"

    def _fail(self, error: BaseException, what: str = "") -> None:
        """Say in the panel what went wrong; the desk goes on."""
        moved = self.bench is not None and not self.bench.same
        self.trouble = ": ".join(filter(None, (what, words.MOVED if moved else words.of(error))))
        self._alarm.text = self.trouble
        self._again.layout.display = "" if moved or self.bench is None else "none"
        self.say("")

    # --- pictures --------------------------------------------------------------------------------------------------

    def _fill_strip(self) -> None:
        chances, images = self.bench.logits.softmax(dim=1), self.bench.images
        classes = self.bench.classifier.classes
        cards = [card(chances[i], None, classes, int(images.labels[i]), top=1) for i in self._order]
        self.strip.show(images.images[self._order], cards)

    def _put_up(self, index: int) -> None:
        """A new editor, on the picture `index`."""
        bench, old = self.bench, self.editor
        self._index, self._open = index, None
        with self._silent():
            self.strip.selected = self._order.index(index) if index in self._order else -1
            self.palette.misread.value = bool(bench.wrong[index])
            self.shows.value = bench.classifier.classes[int(bench.images.labels[index])]
        masks, active = self._masks.get(index, (None, None))
        self.editor = MaskEditor(bench.images.images[index], masks)
        self.editor.active = active or self.editor.active
        self.editor.observe(lambda change: self._unless_quiet(self._follow), "_masks")
        self._editor_box.children = [self.editor]
        if old is not None:
            old.close()
        self._ask()

    def _relabel(self) -> None:
        with self._telling("“it shows”"):
            self.bench.relabel(self._index, self.shows.value)
            self._order = self.bench.order[:STRIP]
            self._fill_strip()
            self.show_steps()
            self.choose(self._index)

    def _load_upload(self, uploads: tuple[dict, ...]) -> None:
        """Add the edit that was dropped or chosen in the page."""
        for upload in uploads:
            with self._telling("not loaded"), tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / Path(upload["name"]).name
                path.write_bytes(bytes(upload["content"]))
                self._add(path, path.name, "# this file must lie beside the notebook\n")

    def _add(self, path: Path, called: str, note: str = "") -> None:
        """Add the edit of a file, which is `called` so in the code."""
        edit, name = Edit.load(path, self.bench.classifier), self.steps.new_name()
        line = f"{note}{name} = et.Edit.load({called!r}, classifier)"
        self._work.change(lambda: self.steps.put(Step(name, edit, code=line, about=f"from {path.name}")))
        self._open = None
        self._refresh()

    # --- what is asked for -----------------------------------------------------------------------------------------

    def _drawing(self) -> Drawing:
        """What is drawn now."""
        p = self.palette
        recipe = Recipe(
            p.kind.value,
            p.style_name.value,
            p.variant.value - 1,
            p.shading.value,
            None,
            p.part.value,
            p.word.value,
            p.misread.value,
        )
        source = None
        if recipe.kind == "patch" and p.file.value.strip():
            path = str(Path(p.file.value.strip()).expanduser())
            recipe, source = replace(recipe, source=load_image(path)), f"et.load_image({path!r})"
        elif recipe.kind == "patch":
            name, place = p.source.value
            recipe = replace(recipe, source=getattr(self.bench, name).images[place])
            source = f"bench.{name}.images[{place}]"
        return Drawing(self._index, self.editor.mask, recipe, source)

    def _follow(self) -> None:
        """Something was drawn or set: look again, and solve again where that is wanted."""
        self._ask(self._open if self.controls.live.value else None)

    def _refresh(self) -> None:
        """The edits have changed: look again."""
        self.show_steps()
        self._ask()

    def _change(self, name: str | None, **changes: float | bool) -> None:
        """Set the strength of an edit, or whether it is on."""
        if self.steps.named(name):
            self._work.change(lambda: self.steps.change(name, **changes))
            self._refresh()

    def _place(self, act: Callable[[], None]) -> None:
        """Move an edit, take it away or a change back."""
        if self._open in self._work.change(act):
            self._open = None
        self._refresh()

    def _ask(self, name: str | None = None, search: bool = False) -> None:
        """Ask the worker to solve the edit `name` of what is drawn, to search for it, or without a name to look."""
        with self._telling("this change"):
            c = self.controls
            settings = Settings(c.layer.value, c.rank.value, c.masked.value, c.objective.value, c.spare.value)
            request = Request(self._drawing(), settings, c.strength.value, name, search)
            self._work.want(request)
            self.begun()
            self._worker.ask(request)

    def begun(self) -> None:
        """Say what is being done, which may be what was asked for before."""
        self.say("searching …" if self._work.searching else "looking …")

    def show_steps(self) -> None:
        """Show a chip for each edit, its strength also above, and the code."""
        chips = {chip.name: chip for chip in self.shelf.chips.children}
        shown = [chips.get(step.name) or self._chip(step.name) for step in self.steps.now]
        with self._silent():
            for chip, step in zip(shown, self.steps.now, strict=True):
                chip.on.value, chip.strength.value, chip.about.value = step.on, step.strength, escape(step.about)
            if step := self.steps.named(self._open):
                self.controls.strength.value = step.strength
        if self.shelf.chips.children != tuple(shown):
            self.shelf.chips.children = shown
        self.shelf.undo.disabled, self.shelf.code.text = not self.steps.can_undo, self.code

    def _chip(self, name: str) -> panel.Chip:
        """A chip at work."""
        chip = panel.Chip(name)
        change = lambda **changes: self._unless_quiet(lambda: self._change(name, **changes))  # noqa: E731
        chip.on.observe(lambda event: change(on=event["new"]), "value")
        chip.strength.observe(lambda event: change(strength=event["new"]), "value")
        steps = self.steps
        for one, act in (
            (chip.remove, lambda: steps.remove(name)),
            (chip.earlier, lambda: steps.move(name, -1)),
            (chip.later, lambda: steps.move(name, 1)),
        ):
            one.on_click(lambda _, act=act: self._place(act))
        return chip


def _named(bench: Bench, most: int = 300) -> list[tuple[str, tuple[str, int]]]:
    """The pictures that can be pasted from, by set and place: by their names, or by what they show."""
    found = []
    for name, data in (("images", bench.images), ("everyday", bench.everyday)):
        labels = [] if data is None else data.labels.tolist()[:most]
        for i, label in enumerate(labels):
            found.append((f"{name} {i}: {data.names[i] if data.names else data.classes[label]}", (name, i)))
    return found
