"""What a person has done at the desk, as one value; an action is a pure function from a state to the next one.

    state = select(state, "photos/bus/7.png")
    state = draw(state, "photos/bus/7.png", MarkedArea.of(mask))
    state = rewrite(state)
    questions(state)    # what has to be computed to show this state

Images are named by their files, so a state fits the same folder after a restart. What is computed from a state is no
part of it: the engine answers the questions that a state asks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from edittools.widgets.editor import pack_mask, unpack_mask
from edittools.widgets.materials import SURROUNDINGS


@dataclass(frozen=True)
class MarkedArea:
    """The marked area of a photo, in the photo's own size.

    Attributes:
        height: the height of the photo, in pixels.
        width: its width.
        bits: one bit for each pixel, see `editor.pack_mask`.
    """

    height: int
    width: int
    bits: bytes = field(repr=False)

    @classmethod
    def of(cls, mask: Tensor) -> "MarkedArea":
        """Take the area where a mask `(H, W)` is 1."""
        height, width = mask.shape
        return cls(height, width, pack_mask(mask.numpy() > 0))

    @property
    def mask(self) -> Tensor:
        """The area as a mask `(H, W)` of 0 and 1."""
        return torch.from_numpy(self.pixels).float()

    @property
    def pixels(self) -> np.ndarray:
        """The area as booleans `(H, W)`."""
        return unpack_mask(self.bits, (self.height, self.width))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is marked."""
        return not any(self.bits)


class Marked(NamedTuple):
    """What an exemplar is made of: an image, its mark, and the material that replaces the mark."""

    image: str
    mark: MarkedArea
    material: str


class Rewriting(NamedTuple):
    """What a press of *Rewrite* asks for.

    Attributes:
        marked: what the edit is made from.
        checked: the names of the images that show the mark, on which the edit is measured; without any, it is not.
        weaker: how often a weaker edit was asked for after that.
        is_stopped: whether *Stop* has ended the selection, so that the first edit stays.
    """

    marked: Marked
    checked: frozenset[str] = frozenset()
    weaker: int = 0
    is_stopped: bool = False


@dataclass(frozen=True)
class State:
    """All that a person has done.

    Attributes:
        selected: the name of the image that is looked at; empty if no image is misclassified.
        marks: the mark of each image that has one, by its name.
        material: what replaces the mark.
        checked: the names of the images that are checked to show the mark.
        is_checking: whether the images that may show the mark are looked at, instead of the mistakes.
        shows_heat: whether the heat map is shown that suggests where to mark.
        history: the last two presses of *Rewrite*; the last of them is the one whose outcome is shown.
    """

    selected: str = ""
    marks: Mapping[str, MarkedArea] = field(default_factory=dict)
    material: str = SURROUNDINGS
    checked: frozenset[str] = frozenset()
    is_checking: bool = False
    shows_heat: bool = False
    history: tuple[Rewriting, ...] = ()

    @property
    def marked(self) -> Marked | None:
        """The selected image with its mark and what replaces it; None if nothing is marked on it."""
        mark = self.marks.get(self.selected)
        return None if mark is None else Marked(self.selected, mark, self.material)

    @property
    def edit(self) -> Rewriting | None:
        """The press of *Rewrite* whose outcome is shown; None if there was none."""
        return self.history[-1] if self.history else None

    @property
    def next_edit(self) -> Rewriting | None:
        """What a press of *Rewrite* would ask for now; None if nothing is marked."""
        return None if self.marked is None else Rewriting(self.marked, self.checked)

    @property
    def is_rewritten(self) -> bool:
        """Whether the edit that is shown, or a stronger one that it came from, is what *Rewrite* would ask for."""
        return self.edit is not None and self.edit._replace(weaker=0) == self.next_edit


# --- actions ----------------------------------------------------------------------------------------------------------


def select(state: State, name: str) -> State:
    """Look at an image."""
    return replace(state, selected=name)


def draw(state: State, name: str, mark: MarkedArea) -> State:
    """Mark an area of an image; an empty one takes its mark away."""
    marks = {other: of_other for other, of_other in state.marks.items() if other != name}
    if not mark.is_empty:
        marks[name] = mark
    return replace(state, marks=marks)


def replace_by(state: State, material: str) -> State:
    """Replace marks by a material."""
    return replace(state, material=material)


def show_heat(state: State, is_shown: bool) -> State:
    """Show where to mark, or no longer."""
    return replace(state, shows_heat=is_shown)


def look_elsewhere(state: State) -> State:
    """Look at the images that may show the mark."""
    return replace(state, is_checking=state.marked is not None)


def look_back(state: State) -> State:
    """Look at the mistakes again."""
    return replace(state, is_checking=False)


def check(state: State, names: Iterable[str], offered: Iterable[str]) -> State:
    """Say which of the images that are offered show the mark; what is checked besides stays."""
    return replace(state, checked=state.checked.difference(offered).union(names))


def rewrite(state: State) -> State:
    """Ask for an edit of what is marked, measured on the images that are checked."""
    if state.next_edit is None or state.is_rewritten:
        return state
    return replace(_with_edit(state, state.next_edit), is_checking=False)


def weaken(state: State) -> State:
    """Ask for a weaker edit in place of the one that is shown."""
    return state if state.edit is None else _with_edit(state, state.edit._replace(weaker=state.edit.weaker + 1))


def stop(state: State) -> State:
    """End the selection of an edit; the first edit stays."""
    if state.edit is None:
        return state
    return replace(state, history=(*state.history[:-1], state.edit._replace(is_stopped=True)))


def undo(state: State) -> State:
    """Go back to the outcome of the press of *Rewrite* before."""
    return replace(state, history=state.history[:-1])


def _with_edit(state: State, edit: Rewriting) -> State:
    """Ask for an edit, unless it is the one that is shown; one edit before it is remembered."""
    if edit == state.edit:
        return state
    return replace(state, history=(*state.history, edit)[-2:])


# --- what has to be known ---------------------------------------------------------------------------------------------


class QuestionKind(Enum):
    """The kinds of questions."""

    PAIR = "x and x'"
    HEAT = "where to mark"
    ELSEWHERE = "looking for the mark"
    FIRST = "a first edit"
    SELECTION = "selecting an edit"
    VERDICT = "measuring the edit"


class Question(NamedTuple):
    """Something that has to be computed to show a state: its kind, and what the answer depends on."""

    kind: QuestionKind
    about: Any


URGENT = (QuestionKind.PAIR, QuestionKind.HEAT, QuestionKind.ELSEWHERE)
"""The kinds of questions whose answers a person waits for: what takes long waits as well, while they are answered."""


def questions(state: State) -> list[Question]:
    """List what has to be known to show a state, in the order in which it is computed."""
    asked = []
    if state.marked is not None:
        asked.append(Question(QuestionKind.PAIR, state.marked))
        if state.is_checking:
            asked.append(Question(QuestionKind.ELSEWHERE, state.marked))
    if state.shows_heat and state.selected:
        asked.append(Question(QuestionKind.HEAT, state.selected))
    return asked + (questions_about(state.edit) if state.edit is not None else [])


def questions_about(edit: Rewriting) -> list[Question]:
    """List what has to be known to show the outcome of a press of *Rewrite*."""
    asked = [Question(QuestionKind.FIRST, edit.marked)]
    if edit.is_stopped:
        return asked
    asked.append(Question(QuestionKind.SELECTION, edit.marked))
    if edit.checked:
        asked.append(Question(QuestionKind.VERDICT, edit))
    return asked


def remembered(state: State) -> set[Question]:
    """Return the questions whose answers are kept: those of a state, and of those that the next press goes back to."""
    return {*questions(state), *questions(look_elsewhere(state)), *questions(undo(state))}
