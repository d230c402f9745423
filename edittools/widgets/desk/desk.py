"""The desk: what a person does makes a state, what the state asks is answered in the background, and both are shown.

    desk = Desk(classifier, Path("photos/tagged"), Path("photos/clean"))
    desk.act(partial(select, name="photos/tagged/bus/7.png"))
    desk.wait()

`desk.view` is the widget. All that is computed runs in the threads of a `Worker`; when an answer is there, the state is
shown again. Something that runs ends when the state no longer asks for it.
"""

from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from threading import RLock

from ipywidgets import HTML, Widget

from edittools.classifiers import Classifier
from edittools.models.load import load_classifier
from edittools.widgets.desk.engine import Engine, Outcome
from edittools.widgets.desk.files import MarkFiles
from edittools.widgets.desk.state import (
    URGENT,
    Question,
    QuestionKind,
    Rewriting,
    State,
    questions,
    remembered,
    rewrite,
)
from edittools.widgets.desk.view import Action, News, Progress, View, missing, outcome_of
from edittools.widgets.desk.worker import Worker, bars

MARKS = "marks"
"""The folder of the marks, in the current folder."""


class Desk:
    """A desk on a folder of images.

    Args:
        classifier: the classifier, which is not changed.
        folder: images, some of them misclassified, in one subfolder per class.
        clean: ordinary images; half of them select an edit, and accuracy is measured on the others.
        retain: images whose predictions should not change; None for none.
        marks: the folder of the marks.

    Attributes:
        view: the widget.
        state: what a person has done.
        engine: what computes; None while the images are read.
    """

    def __init__(
        self,
        classifier: Classifier,
        folder: Path,
        clean: Path,
        retain: Path | None = None,
        marks: Path = Path(MARKS),
    ) -> None:
        self.state = State()
        self.engine: Engine | None = None
        self.view = View(self.act, self.request_rewrite, self.save)
        self._files = MarkFiles(marks, folder)
        self._news = News()
        self._asked: set[Question] = set()
        self._failures: dict[Question, str] = {}
        self._worker = Worker()
        self._lock = RLock()
        self._render()
        self._worker.submit(partial(self._open, classifier, folder, clean, retain))

    def act(self, action: Action) -> None:
        """Do what a person has pressed, and show the state that follows."""
        with self._lock:
            before = self.state
            self.state = action(before)
            if self.state == before:
                return
            self._say("")
            try:
                self._files.write(before, self.state)
            except OSError as error:
                self._say(f"This cannot be saved: {error}", is_alarm=True)
            self._ask()
            self._render()

    def request_rewrite(self) -> None:
        """Rewrite, or ask for what is missing before there is something to rewrite."""
        with self._lock:
            request = missing(self.state, self.engine)
            if request:
                self._say(request, is_alarm=True)
                self._render()
            else:
                self.act(rewrite)

    def save(self) -> None:
        """Save the edit that is shown, with its report, x, x', and the mask."""
        with self._lock:
            outcome = outcome_of(self.state, self.engine)
            edit = self.state.edit
            self._say("Saving …")
            self._render()
        self._worker.submit(partial(self._save, outcome, edit))

    def wait(self, seconds: float | None = 600) -> None:
        """Wait until everything that the state asks for is known.

        Args:
            seconds: the longest time to wait for something that runs; None for no limit.

        Raises:
            TimeoutError: if it takes longer.
        """
        self._worker.wait(seconds)

    # --- in the background --------------------------------------------------------------------------------------------

    def _open(self, classifier: Classifier, folder: Path, clean: Path, retain: Path | None) -> None:
        """Read the images of the folder, so that they can be marked, and then the others."""
        everything = bars(self._show_progress, lambda: True)
        try:
            engine = Engine(classifier, folder, everything)
            marks, left_out = self._files.read(engine.mistakes.names)
            engine.notes += [f"Marks are saved in the folder {self._files.folder}.", *left_out]
            first = next(iter(marks), engine.mistakes.names[0] if len(engine.mistakes) else "")
            with self._lock:
                self.engine = engine
                self.state = State(first, marks)
                self._ask()
                self._render()
            engine.complete(clean, retain, everything)
            checked = self._files.read_checked(engine.offered_names)
            with self._lock:
                self.state = replace(self.state, checked=self.state.checked | checked)
        except Exception as error:  # models and files fail in any way
            self._say(f"The desk cannot start: {reason_of(error)}", is_alarm=True)
        with self._lock:
            self._news = replace(self._news, progress=None)
            self._render()

    def _ask(self) -> None:
        """Have everything answered that the state asks for, besides what has failed."""
        wanted = questions(self.state)
        self._failures = {question: text for question, text in self._failures.items() if question in wanted}
        for question in wanted:
            is_known = self.engine.known(question) is not None or question in self._failures
            if not is_known and question not in self._asked:
                self._asked.add(question)
                self._worker.submit(partial(self._answer, question), is_urgent=question.kind in URGENT)

    def _is_wanted(self, question: Question) -> bool:
        """Tell whether an answer is still asked for, after those that a person waits for."""
        if question.kind not in URGENT:
            self._worker.wait_for_urgent()
        return question in questions(self.state)

    def _has_failed_before(self, question: Question) -> bool:
        """Tell whether an edit cannot be measured because its selection has failed."""
        return (
            question.kind == QuestionKind.VERDICT
            and Question(QuestionKind.SELECTION, question.about.marked) in self._failures
        )

    def _answer(self, question: Question) -> None:
        """Answer a question, unless nobody asks for it any more, and show the state with the answer."""
        failure = ""
        try:
            if self._is_wanted(question) and not self._has_failed_before(question):
                self.engine.answer(question, bars(self._show_progress, lambda: self._is_wanted(question)))
        except KeyboardInterrupt:
            pass  # the state no longer asks for it
        except Exception as error:  # models fail in any way
            failure = reason_of(error)
        with self._lock:
            self._asked.discard(question)
            self._news = replace(self._news, progress=None)
            if failure:
                self._failures[question] = failure
                self._say(failure, is_alarm=True)
            self.engine.forget_all_but(remembered(self.state))
            self._ask()
            self._render()

    def _save(self, outcome: Outcome, edit: Rewriting) -> None:
        """Write the files of an edit, and say where they are."""
        try:
            folder = self._files.save(outcome.fix, self.engine.exemplar(edit.marked))
            self._say(f"Saved in {folder}.")
        except Exception as error:  # a disk may be full
            self._say(f"The edit cannot be saved: {reason_of(error)}", is_alarm=True)
        self._render()

    # --- what is shown ------------------------------------------------------------------------------------------------

    def _show_progress(self, what: str, done: int, total: int | None, left: str) -> None:
        with self._lock:
            self._news = replace(self._news, progress=Progress(what, done, total, left))
            self.view.render_news(self._news)

    def _say(self, message: str, is_alarm: bool = False) -> None:
        with self._lock:
            self._news = replace(self._news, message=message, is_alarm=is_alarm)

    def _render(self) -> None:
        with self._lock:
            self._news = replace(self._news, running=frozenset(question.kind for question in self._asked))
            self.view.render(self.state, self.engine, self._news)


def reason_of(error: Exception) -> str:
    """Return the message of an error, or its type if it has none."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error  # a KeyError quotes its message
    return str(message) or type(error).__name__


def desk_or_error(model: str, folder: str, clean: str, retain: str | None, marks: str) -> Widget:
    """Make the desk of the page, or a sentence that says why there is none."""
    try:
        classifier = load_classifier(model)
    except Exception as error:  # models fail in any way; voila would hide the error
        return HTML(f"<p role='alert'>The desk cannot start: {escape(reason_of(error))}</p>")
    retained = None if retain is None else Path(retain)
    return Desk(classifier, Path(folder), Path(clean), retained, Path(marks)).view
