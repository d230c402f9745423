"""What a desk's worker does with a request: exemplar, edit, readings, counts, firing, each told at once."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.lab import words
from edittools.lab.bench import Bench, Counts, Settings
from edittools.lab.palette import Recipe
from edittools.lab.steps import Step, Steps, drawn_on, exemplar_code, rewriting_code, search_code, total

NOTHING_DRAWN = "nothing is drawn: mark on the picture what the edit is about"


@dataclass(frozen=True, eq=False)
class Drawing:
    """What is drawn: the picture's `index`, the mask, the change, and what the other picture is called in code."""

    index: int
    mask: Tensor
    recipe: Recipe
    source: str | None = None

    def same(self, other: "Drawing | None") -> bool:
        """Whether it gives the same exemplar."""
        if other is None or (self.index, self.recipe, self.source) != (other.index, other.recipe, other.source):
            return False
        return torch.equal(self.mask, other.mask)


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked for: to solve the edit `name` of a drawing, to `search` for it, or without a name to look only."""

    drawing: Drawing
    settings: Settings
    strength: float = 1.0
    name: str | None = None
    search: bool = False


class Told:
    """What is told while a request is done; a panel shows it, and without one nothing happens."""

    def pair(self, exemplar: Exemplar | None, read: Tensor | None, label: int) -> None:
        """X and x' are made, with what is read in them `(2, classes)`; None where nothing is drawn."""

    def steps(self) -> None:
        """The edits have changed."""

    def readings(self, now: Tensor, before: Tensor | None) -> None:
        """What is read in the shown pictures, `(shown, classes)`, and what was before if an edit is on."""

    def counts(self, counts: Counts | None, verdict: str) -> None:
        """What the edits that are on did to all pictures."""

    def firing(self, maps: Tensor) -> None:
        """Where the key fires in the shown pictures, `(shown, H, W)`."""

    def search(self, share: float | None) -> None:
        """How far a search is, 0 to 1; None where it has ended."""


class Work:
    """Does the requests of a desk. `ended` is set to end a search with the best so far.

    A request is wanted (`want`) until its edit is there, whatever is looked at meanwhile; `failed` is told why one
    cannot be had. All that changes the steps goes through `change`, from any thread.
    """

    def __init__(self, bench: Bench, steps: Steps, told: Told, failed: Callable[[BaseException], None]) -> None:
        self.bench, self.steps, self.told, self.ended = bench, steps, told, threading.Event()
        self._failed, self._lock = failed, threading.Lock()
        self._wanted: dict[str, Request] = {}
        self._doing: Request | None = None
        self._exemplar: tuple[Drawing, int, Exemplar | None] | None = None
        self._found: tuple[str, tuple[Step, ...]] = "", ()

    @property
    def searching(self) -> bool:
        """Whether a search is being done or waits."""
        with self._lock:
            return any(one.search for one in (*self._wanted.values(), self._doing) if one)

    def want(self, request: Request) -> None:
        """Have the edit of a request made, in place of what was wanted of that name, or searched for before."""
        with self._lock:
            if request.search:
                self._wanted = {name: one for name, one in self._wanted.items() if not one.search}
                self.ended.clear()
            if request.name is not None:
                self._wanted[request.name] = request

    def drop(self) -> None:
        """Want nothing any more, and end a search."""
        with self._lock:
            self._wanted, self._doing = {}, None
        self.ended.set()

    def change(self, act: Callable[[], None]) -> set[str]:
        """Change the steps; those that are gone by it are not wanted any more, and named."""
        with self._lock:
            before = {step.name for step in self.steps.now}
            act()
            gone = before - {step.name for step in self.steps.now}
            self._wanted = {name: one for name, one in self._wanted.items() if name not in gone}
            if self._doing and self._doing.name in gone:
                self._doing = None
        return gone

    def do(self, request: Request, stale: Callable[[], bool]) -> None:
        """Make the edits that are wanted, then look at what is drawn; once it is `stale` the next request goes on."""
        try:
            exemplar = self.exemplar(request.drawing)
        finally:  # what is wanted need not be of this drawing
            self._catch_up(stale)
        if not stale():
            self._look(exemplar, stale)

    def exemplar(self, drawing: Drawing) -> Exemplar | None:
        """The exemplar of a drawing; None where nothing is drawn. It is made, and told, once."""
        label, found, known = self._made(drawing)
        if not known:
            read = None if found is None else self.bench.read(torch.stack([found.image, found.changed]))
            self.told.pair(found, read, label)
            self._exemplar = drawing, label, found
        return found

    def _made(self, drawing: Drawing) -> tuple[int, Exemplar | None, bool]:
        """The label and the exemplar of a drawing, and whether it is the one that was told."""
        label = int(self.bench.images.labels[drawing.index])
        if self._exemplar and drawing.same(self._exemplar[0]) and label == self._exemplar[1]:
            return label, self._exemplar[2], True
        picture = self.bench.images.images[drawing.index]
        found = drawing.recipe.exemplar(picture, drawing.mask, label) if drawing.mask.any() else None
        return label, found, False

    def _catch_up(self, stale: Callable[[], bool]) -> None:
        """Make the edits that are wanted, one after the other; once a newer request has come it makes the rest."""
        while (request := self._begin()) is not None:
            try:
                self._make(request)
            except Exception as error:  # models fail in any way
                if self._still(request):
                    self._failed(error)
            if stale():
                return

    def _begin(self) -> Request | None:
        """What is wanted next, which is being done from now on."""
        with self._lock:
            self._doing = self._wanted.pop(next(iter(self._wanted))) if self._wanted else None
            return self._doing

    def _still(self, request: Request) -> bool:
        """Whether what is being done is wanted still: neither dropped nor asked for anew."""
        return self._doing is request and request.name not in self._wanted

    def _make(self, request: Request) -> None:
        drawing, settings = request.drawing, request.settings
        exemplar = self._made(drawing)[1]
        if exemplar is None:
            raise ValueError(NOTHING_DRAWN)
        if request.search:
            self._search(request, exemplar)
            return
        edit = self.bench.rewrite(exemplar, settings)
        about = f"{drawing.recipe.words()} → {settings.layer}, rank {settings.rank}"
        self._put(request, edit, rewriting_code(request.name, settings), about)

    def _put(self, request: Request, edit: Edit, lines: str, about: str, searched: Tensor | None = None) -> None:
        """Put an edit that is wanted still among the steps; what was searched for is on alone."""
        one, strength = request.drawing, 1.0 if request.search else request.strength
        lines = f"{exemplar_code(self.bench, one.index, one.mask, one.recipe, one.source)}\n{lines}"
        step = Step(request.name, edit, strength, True, lines, (one.index,), about, searched)
        with self._lock:
            if not self._still(request):
                return
            self.steps.put(step)
            if request.search:
                self.steps.alone(request.name)
        self.told.steps()

    def _search(self, request: Request, exemplar: Exemplar) -> None:
        """Search with `repair`, and put what is found among the steps; keeps the verdict on held-out pictures."""

        def progress(method: str, done: int, whole: int | None) -> None:
            self.told.search(done / whole if whole else 0.0)
            if self.ended.is_set():
                raise KeyboardInterrupt

        self.told.search(0.0)
        labels = self.bench.images.labels
        try:
            fix = self.bench.repair(exemplar, [request.drawing.index], progress)
        except KeyboardInterrupt:
            self._found = "The search was ended before anything was tried.", self.steps.now
            return
        finally:
            self.told.search(None)
        chosen = fix.methods["edit"]
        if chosen.found:
            lines = search_code(request.name, request.drawing.index)
            self._put(request, fix.edit, lines, f"found in {chosen.settings['layer']}", labels)
        self._found = f"Searched: {fix.verdict}", self.steps.now

    def _look(self, exemplar: Exemplar | None, stale: Callable[[], bool]) -> None:
        """Tell what the edits that are on do: to the shown pictures, to all, then where the key fires."""
        steps, looked = self.steps.now, self.bench.looked_at
        edit, before = total(steps), self.bench.readings()
        now = before if edit is None else self.bench.readings(edit)
        with self.bench.lock:  # what is read belongs to the pictures that are shown
            if stale() or looked is not self.bench.looked_at:
                return
            self.told.readings(now, None if edit is None else before)
        counts = None if edit is None else self.bench.counts(edit, drawn_on(steps), stale)
        if stale():
            return
        said, then = self._found
        if counts is not None and (not said or steps is not then):
            said = "\n".join(filter(None, (said, self._verdict(counts, steps, exemplar))))
        self.told.counts(counts, said)
        self._found = "", ()  # it was told: what comes next has its own verdict
        if edit is None:
            return
        firing = edit.firing_maps(self.bench.classifier, looked.images)
        if not stale():
            self.told.firing(firing)

    def _verdict(self, counts: Counts, steps: Sequence[Step], exemplar: Exemplar | None) -> str:
        """The words about the edits that are on; where there is one alone, also how it took and where it fires."""
        on = [step for step in steps if step.on and step.strength]
        one = on[0] if len(on) == 1 else None
        inside = ()
        if one and exemplar is not None and self._exemplar[0].index in one.drawn_on:
            inside = words.inside(one.edit.firing_map(self.bench.classifier, exemplar.changed), exemplar)
        return words.verdict(counts, one.edit if one else None, *inside)
