"""What is seen of the desk: widgets that show a state and what is known of it, and turn what is pressed into actions.

`View.render` sets everything, once. What can be pressed is computed from the state, and stored nowhere.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from html import escape

import ipywidgets

from edittools.reports.words import SAVE, WEAKER
from edittools.widgets.desk import parts, words
from edittools.widgets.desk.engine import Engine, Heat, Outcome, PredictedPair, Seen
from edittools.widgets.desk.parts import set_visible
from edittools.widgets.desk.state import (
    MarkedArea,
    Question,
    QuestionKind,
    State,
    check,
    draw,
    look_back,
    look_elsewhere,
    questions_about,
    replace_by,
    select,
    show_heat,
    stop,
    undo,
    weaken,
)
from edittools.widgets.editor import MaskEditor, strongest_heat
from edittools.widgets.materials import MATERIALS

MOST_MISTAKES = 60
"""The largest number of mistakes that are shown, the first ones."""

REWRITE = "rewrite"
"""The next step that *Rewrite* takes; the others are those of `words.Said`."""

READING = "The images are being read and classified …"
PAIR_MISSING = "x and x' are shown here when a part of the image is marked."

Action = Callable[[State], State]
"""Makes the next state of a state."""


@dataclass(frozen=True)
class Progress:
    """How far something has come that takes long.

    Attributes:
        what: what is counted.
        done: how much is done.
        total: of how much; None if that is not known.
        left: the time that is left, as tqdm writes it; may be empty.
    """

    what: str
    done: int
    total: int | None
    left: str

    def __str__(self) -> str:
        text = f"{self.what[:1].upper()}{self.what[1:]}"
        if self.total:
            text += f": {self.done:,} of {self.total:,}"
        return f"{text}, {self.left} left" if self.left else text


@dataclass(frozen=True)
class News:
    """What the desk has to say besides the state: how far something has come, and a message.

    Attributes:
        progress: how far what runs has come; None if nothing does.
        message: what has happened, or gone wrong; may be empty.
        is_alarm: whether it has gone wrong.
        running: the kinds of questions that are being answered, or wait for that.
    """

    progress: Progress | None = None
    message: str = ""
    is_alarm: bool = False
    running: frozenset[QuestionKind] = frozenset()


def outcome_of(state: State, engine: Engine) -> Outcome | None:
    """Return what is known of the edit that is shown: the last answer that there is; None if there is none yet."""
    if state.edit is None:
        return None
    known = [engine.known(question) for question in questions_about(state.edit)]
    return next((outcome for outcome in reversed(known) if outcome is not None), None)


def pair_of(state: State, engine: Engine) -> PredictedPair | None:
    """Return x and x' of what is marked; None if they are not known."""
    return None if state.marked is None else engine.known(Question(QuestionKind.PAIR, state.marked))


def shows_mistake(state: State, engine: Engine) -> bool:
    """Tell whether x and x' show the mistake: only then is there something to rewrite, or to look for."""
    pair = pair_of(state, engine)
    return pair is not None and pair.shows_mistake


def can_press_rewrite(state: State, engine: Engine) -> bool:
    """Tell whether *Rewrite* does something: it makes another edit, or asks for what is missing on the image."""
    is_pair_missing = state.marked is not None and pair_of(state, engine) is None
    return engine.is_complete and bool(state.selected) and not is_pair_missing and not state.is_rewritten


def missing(state: State, engine: Engine) -> str:
    """Return what *Rewrite* asks for before there is something to rewrite; empty if nothing is missing."""
    pair = pair_of(state, engine)
    if pair is None:
        return words.UNMARKED
    return "" if pair.shows_mistake else words.of_pair(pair, engine.classifier.classes)


def next_step(state: State, engine: Engine) -> str | None:
    """Return the next step, whose button stands out; None if there is none."""
    if can_press_rewrite(state, engine):
        return REWRITE if shows_mistake(state, engine) else None
    outcome = outcome_of(state, engine)
    return None if outcome is None else words.of_edit(state.edit, outcome, engine.mistakes).action


class View(ipywidgets.VBox):
    """The widgets of the desk.

    Args:
        act: is called with what a person does.
        request_rewrite: is called when *Rewrite* is pressed.
        save: is called when the edit is to be saved.
    """

    def __init__(
        self, act: Callable[[Action], None], request_rewrite: Callable[[], None], save: Callable[[], None]
    ) -> None:
        self._act = act
        self._editors: dict[str, MaskEditor] = {}
        self._found: list[Seen] = []
        self._shown: list[str] = []
        self.notes = ipywidgets.HTML().add_class("et-quiet")
        self.mistakes = parts.Gallery(selectable=True, label="Mistakes", placeholder=READING)
        self.heat = parts.switch("Where to mark?", "show where the network sees the class that it predicts")
        self.tools = parts.switch("All tools", "show all tools of the mask editor")
        self.heat_bar = ipywidgets.HTML()
        self.found = parts.Gallery(checkable=True, label="Images that may show the mark", size=parts.MEDIUM)
        self.check_all = parts.button("Check all", "then click those that do not show the mark")
        self.check_none = parts.button("Check none", "begin again")
        self.back = parts.button("Back to the marks", "go on without these images")
        self.count = parts.Message()
        self.pair = parts.Gallery(label="x and x'", size=parts.MEDIUM)
        self.pair_message = parts.Message().add_class("et-pair-message")
        self.other_material = parts.switch("Replace it otherwise", "choose what replaces the mark")
        self.material = ipywidgets.Dropdown(options=MATERIALS, description="replace by", layout={"width": "100%"})
        self.rewrite = parts.button("Rewrite", "make an edit of what is marked")
        self.find = parts.button("Find it elsewhere", "find the images that show the mark, right and wrong ones")
        self.stop = parts.button("Stop", "end the selection; the first edit stays")
        self.progress = ipywidgets.FloatProgress(0, max=1, layout={"width": "100%"})
        self.progress_text = ipywidgets.HTML().add_class("et-quiet")
        self.message = parts.Message().add_class("et-says")
        self.outcome = parts.Message()
        self.weaker = parts.button("Weaker edit", "select an edit that changes ordinary images less, and measure it")
        self.save = parts.button("Save", "save the edit with its report, x, x', and the mask")
        self.undo = parts.button("Undo", "go back to the edit before")
        self.editor_box = ipywidgets.VBox()
        self.pick = parts.column(parts.heading("1 Look at the mistakes"), self.mistakes, name="et-pick")
        tools = parts.row(parts.heading("2 Mark what misleads"), self.heat, self.tools)
        self.box = parts.column(tools, self.editor_box, self.heat_bar, name="et-draw")
        check_buttons = parts.row(
            parts.heading("Check the images that show the mark, right and wrong ones"),
            self.check_all,
            self.check_none,
            self.back,
        )
        self.shelf = parts.column(check_buttons, self.count, self.found, name="et-shelf")
        controls = parts.column(
            parts.row(parts.heading("3 See whether it misleads, and rewrite"), self.other_material),
            self.material,
            self.pair,
            self.pair_message,
            parts.row(self.rewrite, self.find, self.stop),
            self.progress,
            self.progress_text,
            self.message,
            self.outcome,
            parts.row(self.weaker, self.save, self.undo),
            name="et-controls",
        )
        columns = parts.column(self.pick, self.box, self.shelf, controls, name="et-columns")
        notice = parts.Notice()
        notice.on_msg(lambda *_: parts.send_again(self))
        super().__init__([self.notes, columns, notice])
        self.add_class("et-desk")
        self.rewrite.on_click(lambda _: request_rewrite())
        self.save.on_click(lambda _: save())
        self._connect()

    def _connect(self) -> None:
        """Turn what is pressed into actions."""
        presses = {
            self.find: look_elsewhere,
            self.back: look_back,
            self.stop: stop,
            self.weaker: weaken,
            self.undo: undo,
        }
        for pressed, action in presses.items():
            pressed.on_click(lambda _, action=action: self._act(action))
        self.check_all.on_click(lambda _: self._check(range(len(self._found))))
        self.check_none.on_click(lambda _: self._check(()))
        self.mistakes.observe(self._selected, "selected")
        self.found.observe(lambda change: self._check(change["new"]), "checked")
        self.heat.observe(lambda change: self._act(partial(show_heat, is_shown=change["new"])), "value")
        self.material.observe(lambda change: self._act(partial(replace_by, material=change["new"])), "value")
        self.tools.observe(lambda change: self._show_tools(change["new"]), "value")
        self.other_material.observe(lambda change: set_visible(self.material, change["new"]), "value")
        self._show_tools(False)
        set_visible(self.material, False)

    def _selected(self, change: dict) -> None:
        if change["new"] >= 0:
            self._act(partial(select, name=self._shown[change["new"]]))

    def _check(self, positions: Iterable[int]) -> None:
        offered = [seen.name for seen in self._found]
        self._act(partial(check, names=[offered[position] for position in positions], offered=offered))

    def _drawn(self, name: str, editor: MaskEditor) -> None:
        self._act(partial(draw, name=name, mark=MarkedArea.of(editor.mask)))

    def _show_tools(self, is_shown: bool) -> None:
        """Show all tools of the mask editor, or those that are needed most."""
        (self.box.remove_class if is_shown else self.box.add_class)("et-few-tools")

    # --- showing a state ----------------------------------------------------------------------------------------------

    def render(self, state: State, engine: Engine | None, news: News) -> None:
        """Show a state.

        Args:
            state: the state.
            engine: the engine, which knows what was computed; None while the images are read.
            news: what there is to say besides.
        """
        self.render_news(news)
        if engine is None:
            for part in (self.heat, self.tools, self.other_material, self.rewrite, self.find, self.save):
                part.disabled = True
            for part in (self.shelf, self.stop, self.weaker, self.undo):
                set_visible(part, False)
            return
        outcome = outcome_of(state, engine)
        self._render_notes(engine)
        self._render_mistakes(state, engine, outcome)
        self._render_editor(state, engine)
        self._render_found(state, engine)
        self._render_pair(state, engine)
        self._render_outcome(state, engine, outcome)
        self._render_buttons(state, engine, outcome, news)

    def render_news(self, news: News) -> None:
        """Show how far something has come, and a message."""
        progress = news.progress
        for part in (self.progress, self.progress_text):
            set_visible(part, progress is not None)
        if progress is not None:
            self.progress.value = progress.done / progress.total if progress.total else 0.0
            self.progress_text.value = escape(str(progress))
        self.message.show(news.message, news.is_alarm)

    def _render_notes(self, engine: Engine) -> None:
        number = len(engine.images)
        text = f"{engine.classifier}: {len(engine.mistakes):,} of {number:,} images are misclassified."
        self.notes.value = "<br>".join(escape(line) for line in (text, *engine.notes))

    def _render_mistakes(self, state: State, engine: Engine, outcome: Outcome | None) -> None:
        mistakes = engine.mistakes
        names = mistakes.names
        positions = [number for number, name in enumerate(names) if number < MOST_MISTAKES or name in state.marks]
        shown = [names[number] for number in positions]
        cards = []
        for number, name in zip(positions, shown, strict=True):
            after = None if outcome is None else outcome.after[number]
            label = int(mistakes.labels[number])
            before = engine.probabilities(name)
            classes = mistakes.classes
            cards.append(parts.card(classes, label, before, after, name=name, is_marked=name in state.marks))
        if shown != self._shown:
            self._shown = shown
        self.mistakes.placeholder = words.NO_MISTAKE
        self.mistakes.show(self._shown, [mistakes.images[number] for number in positions], cards)
        self.mistakes.selected = shown.index(state.selected) if state.selected in shown else -1

    def _render_editor(self, state: State, engine: Engine) -> None:
        self.heat.value = state.shows_heat
        if not state.selected:
            return
        editor = self._editor(state, engine)
        if self.editor_box.children != (editor,):
            for other in self._editors.values():
                editor.opacity = other.opacity
            self.editor_box.children = [editor]
        heat: Heat | None = engine.known(Question(QuestionKind.HEAT, state.selected)) if state.shows_heat else None
        values = None if heat is None else heat.values
        if editor.heat is not values:
            editor.show_heat(values)
        self.heat_bar.value = "" if heat is None else _legend(heat)

    def _editor(self, state: State, engine: Engine) -> MaskEditor:
        """Return the mask editor of the selected image."""
        name = state.selected
        if name not in self._editors:
            mark = state.marks.get(name)
            editor = MaskEditor(engine.photo(name), None if mark is None else mark.mask)
            editor.observe(lambda _: self._drawn(name, editor), "_mask")
            self._editors[name] = editor
        return self._editors[name]

    def _render_found(self, state: State, engine: Engine) -> None:
        for part in (self.pick, self.box):
            set_visible(part, not state.is_checking)
        set_visible(self.shelf, state.is_checking)
        if not state.is_checking:
            return
        found: list[Seen] | None = engine.known(Question(QuestionKind.ELSEWHERE, state.marked))
        pair = pair_of(state, engine)
        self.found.placeholder = "Looking for the mark …"
        if found is None or pair is None:
            self._found = []
            self.count.show("")
            self.found.show(None, [], [])
            return
        classes = engine.classifier.classes
        self._found = found
        cards = [parts.card(classes, seen.label, seen.probabilities, name=seen.name) for seen in found]
        self.found.show(found, [seen.image for seen in found], cards)
        self.found.checked = [number for number, seen in enumerate(found) if seen.name in state.checked]
        own_class = int(pair.changed.argmax())
        self.count.show(words.of_checked(state.checked, found, own_class, classes[own_class]))

    def _render_pair(self, state: State, engine: Engine) -> None:
        self.material.value = state.material
        pair = pair_of(state, engine)
        self.pair.placeholder = PAIR_MISSING
        if pair is None:
            self.pair.show(None, [], [])
            self.pair_message.show(words.UNMARKED if state.selected and state.marked is None else "")
            return
        exemplar = pair.exemplar
        classes = engine.classifier.classes
        captions = {"x: without the mark": pair.original, "x': with the mark": pair.changed}
        cards = [parts.card(classes, exemplar.label, row, caption=text) for text, row in captions.items()]
        self.pair.show(pair, [exemplar.image, exemplar.changed], cards)
        self.pair_message.show(words.of_pair(pair, classes), alarm=not pair.shows_mistake)

    def _render_outcome(self, state: State, engine: Engine, outcome: Outcome | None) -> None:
        if outcome is None:
            self.outcome.show("")
            return
        said = words.of_edit(state.edit, outcome, engine.mistakes)
        self.outcome.show("\n".join(said.lines), word=said.word, tone=said.tone)

    def _render_buttons(self, state: State, engine: Engine, outcome: Outcome | None, news: News) -> None:
        for part in (self.heat, self.tools, self.other_material):
            part.disabled = not state.selected
        self.rewrite.disabled = not can_press_rewrite(state, engine)
        self.find.disabled = state.is_checking or not engine.is_complete or not shows_mistake(state, engine)
        self.save.disabled = outcome is None or outcome.fix is None
        step = next_step(state, engine)
        advised = None if outcome is None else words.of_edit(state.edit, outcome, engine.mistakes).action
        asked = [] if state.edit is None else questions_about(state.edit)
        is_selecting = QuestionKind.SELECTION in news.running and any(
            question.kind == QuestionKind.SELECTION for question in asked
        )
        set_visible(self.stop, is_selecting)
        set_visible(self.weaker, advised == WEAKER)
        set_visible(self.undo, len(state.history) > 1)
        steps = {REWRITE: self.rewrite, words.FIND: self.find, WEAKER: self.weaker, SAVE: self.save}
        for name, part in steps.items():
            part.button_style = "primary" if name == step else ""


def _legend(heat: Heat) -> str:
    """Say what the colors of a heat map mean, as HTML."""
    unit = escape(f"of the logit of {heat.favored}, less that of {heat.against}")
    return f'0 <span class="et-bar"></span> {strongest_heat(heat.values):.2g} or more, {unit}'
