"""Shows in a desk's panel what its worker tells, from the worker's thread."""

import ipywidgets
from torch import Tensor

from edittools.exemplars import Exemplar
from edittools.lab import words
from edittools.lab.bench import Counts
from edittools.lab.cards import card, counts_html
from edittools.lab.desk_work import Told

KINDS = {"images": "pictures, the most wrong first", "keep": "must stay as they are", "everyday": "everyday"}


class Shown(Told):
    """Shows in a desk's panel what its worker tells."""

    def __init__(self, desk: ipywidgets.VBox) -> None:
        self._desk, self._classes = desk, desk.bench.classifier.classes

    def pair(self, exemplar: Exemplar | None, read: Tensor | None, label: int) -> None:
        """Show x and x' beside each other, and say whether they show a rule."""
        desk = self._desk
        if exemplar is None:
            desk.pair.show([], [])
            desk.pair_words.text = "Draw on the picture: mark what misleads. Below you then see it changed."
            return
        captions = ("x, the aim", "x', the mistake")
        cards = [card(read[i], None, self._classes, label, caption) for i, caption in enumerate(captions)]
        desk.pair.show([exemplar.image, exemplar.changed], cards)
        desk.pair_words.text = words.pair_words(read, self._classes, label)

    def steps(self) -> None:
        """Show the chips of the edits, and their code."""
        self._desk.begun()
        self._desk.show_steps()

    def readings(self, now: Tensor, before: Tensor | None) -> None:
        """Move the bars of the shown pictures."""
        desk, bench = self._desk, self._desk.bench
        cards = []
        for i, ((name, _), label) in enumerate(zip(bench.shown, bench.labels.tolist(), strict=True)):
            one = card(now[i], None if before is None else before[i], self._classes, label)
            cards.append(one | {"kind": KINDS[name], "said": f"{KINDS[name]}: {one['said']}"})
        desk.results.fill(bench, cards)

    def counts(self, counts: Counts | None, verdict: str) -> None:
        """Show the counts as bars with their bounds, and the verdict."""
        desk = self._desk
        desk.counts, desk.verdict = counts, verdict
        desk.results.counts.value = "" if counts is None else counts_html(counts)
        desk.results.verdict.text = verdict
        desk.say("" if counts is None else f"{counts.images.corrected} corrected, {counts.images.broken} broken.")

    def firing(self, maps: Tensor) -> None:
        """Lay the firing over the shown pictures."""
        self._desk.results.pictures.lay(maps)

    def search(self, share: float | None) -> None:
        """Move the bar of a search."""
        self._desk.begun()
        self._desk.controls.searching(share)
