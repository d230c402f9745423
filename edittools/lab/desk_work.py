"""What a desk's worker does with a request: exemplar, edit, readings, counts, firing, each told at once."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
    """Does the requests of a desk. `ended` is set to end a search with the best so far."""

    def __init__(self, bench: Bench, steps: Steps, told: Told) -> None:
        self.bench, self.steps, self.told, self.ended = bench, steps, told, threading.Event()
        self._exemplar: tuple[Drawing, Exemplar | None] | None = None

    def do(self, request: Request, stale: Callable[[], bool]) -> None:
        """Do a request; what is no longer wanted (`stale`) is left, but a search goes on until it is ended."""
        exemplar, said = self.exemplar(request.drawing), ""
        if request.name is not None and exemplar is None:
            raise ValueError(NOTHING_DRAWN)
        if request.search:
            said = self._search(request, exemplar)
        elif request.name is not None and not stale():
            edit = self.bench.rewrite(exemplar, request.settings)
            if not stale():
                about = f"{request.drawing.recipe.words()} → {request.settings.layer}, rank {request.settings.rank}"
                self._put(request, edit, rewriting_code(request.name, request.settings), about)
        if not stale():
            self._look(exemplar, said, stale)

    def exemplar(self, drawing: Drawing) -> Exemplar | None:
        """The exemplar of a drawing; None where nothing is drawn. It is made, and told, once."""
        if self._exemplar and drawing.same(self._exemplar[0]):
            return self._exemplar[1]
        data, found, read = self.bench.images, None, None
        label = int(data.labels[drawing.index])
        if drawing.mask.any():
            found = drawing.recipe.exemplar(data.images[drawing.index], drawing.mask, label)
            read = self.bench.read(torch.stack([found.image, found.changed]))
        self.told.pair(found, read, label)
        self._exemplar = drawing, found
        return found

    def _put(self, request: Request, edit: Edit, lines: str, about: str) -> None:
        one = request.drawing
        lines = f"{exemplar_code(self.bench, one.index, one.mask, one.recipe, one.source)}\n{lines}"
        self.steps.put(Step(request.name, edit, request.strength, code=lines, drawn_on=(one.index,), about=about))
        self.told.steps()

    def _search(self, request: Request, exemplar: Exemplar) -> str:
        """Search with `repair`, and put what is found among the steps; gives the verdict on held-out pictures."""

        def progress(method: str, done: int, whole: int | None) -> None:
            self.told.search(done / whole if whole else 0.0)
            if self.ended.is_set():
                raise KeyboardInterrupt

        self.ended.clear()
        self.told.search(0.0)
        try:
            fix = self.bench.repair(exemplar, [request.drawing.index], progress)
        except KeyboardInterrupt:
            return "The search was ended before anything was tried."
        finally:
            self.told.search(None)
        chosen = fix.methods["edit"]
        if chosen.found:
            lines = search_code(request.name, request.drawing.index)
            self._put(replace(request, strength=1.0), fix.edit, lines, f"found in {chosen.settings['layer']}")
            self.steps.alone(request.name)
            self.told.steps()
        return f"Searched: {fix.verdict}"

    def _look(self, exemplar: Exemplar | None, said: str, stale: Callable[[], bool]) -> None:
        """Tell what the edits that are on do: to the shown pictures, to all, then where the key fires."""
        steps, before = self.steps.now, self.bench.readings()
        edit = total(steps)
        now = before if edit is None else self.bench.readings(edit)
        if stale():
            return
        self.told.readings(now, None if edit is None else before)
        if edit is None:
            self.told.counts(None, said)
            return
        counts = self.bench.counts(edit, drawn_on(steps), stale)
        if counts is None or stale():
            return
        self.told.counts(counts, said or self._verdict(counts, steps, exemplar))
        firing = edit.firing_maps(self.bench.classifier, self.bench.some)
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
