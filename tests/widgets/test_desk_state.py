"""What a person does at the desk: pure functions of a state, without a browser, a model, or files."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from edittools.widgets.desk.state import (
    MarkedArea,
    Question,
    QuestionKind,
    State,
    check,
    draw,
    look_back,
    look_elsewhere,
    questions,
    remembered,
    replace_by,
    rewrite,
    select,
    show_heat,
    stop,
    undo,
    weaken,
)
from edittools.widgets.materials import SURROUNDINGS

MASK = torch.zeros(8, 6)
MASK[2:4, 1:4] = 1
SMALL = MarkedArea.of(MASK)
LARGE = MarkedArea.of(torch.ones(8, 6))
OFFERED = ("b.png", "c.png")


@pytest.fixture
def marked():
    return draw(select(State(), "a.png"), "a.png", SMALL)


def kinds(state):
    return [question.kind for question in questions(state)]


def test_mark_holds_the_mask_and_is_equal_if_the_mask_is():
    assert torch.equal(SMALL.mask, MASK) and int(SMALL.mask.sum()) == 6
    assert MarkedArea.of(MASK.clone()) == SMALL and hash(MarkedArea.of(MASK.clone())) == hash(SMALL)
    assert MarkedArea.of(torch.zeros(8, 6)).is_empty and not SMALL.is_empty


def test_state_cannot_be_changed_in_place(marked):
    with pytest.raises(FrozenInstanceError):
        marked.selected = "b.png"


def test_nothing_is_asked_of_a_state_in_which_nothing_is_marked():
    assert questions(State()) == questions(select(State(), "a.png")) == []


def test_mark_stays_with_its_image(marked):
    other = select(marked, "b.png")
    assert other.marked is None and other.next_edit is None
    assert select(other, "a.png") == marked
    both = draw(other, "b.png", LARGE)
    assert both.marks == {"a.png": SMALL, "b.png": LARGE}


def test_empty_mark_takes_the_mark_away(marked):
    assert draw(marked, "a.png", MarkedArea.of(torch.zeros(8, 6))) == select(State(), "a.png")


def test_mark_is_replaced_by_what_is_around_it_until_another_material_is_selected(marked):
    assert marked.marked.material == SURROUNDINGS
    snow = replace_by(marked, "snow")
    assert snow.marked.material == draw(snow, "a.png", LARGE).marked.material == "snow"


def test_rewrite_asks_for_a_first_edit_and_a_selected_one(marked):
    state = rewrite(marked)
    assert kinds(state) == [QuestionKind.PAIR, QuestionKind.FIRST, QuestionKind.SELECTION]
    assert state.is_rewritten and rewrite(state) is state
    assert rewrite(State()) == State()


def test_rewrite_with_checked_images_asks_for_a_verdict_on_the_same_selection(marked):
    first = rewrite(marked)
    state = rewrite(check(look_elsewhere(first), ["b.png", "c.png"], OFFERED))
    assert kinds(state) == [QuestionKind.PAIR, QuestionKind.FIRST, QuestionKind.SELECTION, QuestionKind.VERDICT]
    assert questions(state)[:3] == questions(first)
    assert not state.is_checking and state.edit.checked == {"b.png", "c.png"}


def test_checked_images_do_not_change_the_edit_that_is_shown(marked):
    state = check(rewrite(marked), ["b.png"], OFFERED)
    assert not state.is_rewritten and kinds(state) == [QuestionKind.PAIR, QuestionKind.FIRST, QuestionKind.SELECTION]


def test_edit_that_is_shown_stays_while_another_image_is_marked(marked):
    state = draw(select(rewrite(marked), "b.png"), "b.png", LARGE)
    assert state.edit == rewrite(marked).edit and not state.is_rewritten
    assert [question.about.image for question in questions(state)[:2]] == ["b.png", "a.png"]


def test_look_elsewhere_needs_a_mark(marked):
    assert kinds(look_elsewhere(marked)) == [QuestionKind.PAIR, QuestionKind.ELSEWHERE]
    assert look_back(look_elsewhere(marked)) == marked
    assert not look_elsewhere(State("a.png")).is_checking


def test_stop_keeps_the_first_edit_only(marked):
    state = stop(rewrite(marked))
    assert kinds(state) == [QuestionKind.PAIR, QuestionKind.FIRST] and not state.is_rewritten
    assert kinds(rewrite(state)) == [QuestionKind.PAIR, QuestionKind.FIRST, QuestionKind.SELECTION]
    assert stop(State()) == State()


def test_weaker_edit_comes_from_the_stronger_one_and_is_not_rewritten(marked):
    strong = rewrite(check(marked, ["b.png"], OFFERED))
    weak = weaken(strong)
    assert weak.edit == strong.edit._replace(weaker=1) and weak.is_rewritten
    assert questions(weak)[:-1] == questions(strong)[:-1] and questions(weak)[-1] != questions(strong)[-1]
    assert undo(weak) == strong
    assert weaken(State()) == State()


def test_undo_goes_back_one_press_and_then_to_none(marked):
    first = rewrite(marked)
    second = rewrite(check(first, ["b.png"], OFFERED))
    third = rewrite(check(second, ["c.png"], OFFERED))
    assert third.history == (second.edit, third.edit)
    assert undo(third).edit == second.edit
    assert undo(undo(third)).edit is None


def test_heat_is_asked_of_the_selected_image(marked):
    state = show_heat(marked, True)
    assert Question(QuestionKind.HEAT, "a.png") in questions(state)
    assert Question(QuestionKind.HEAT, "b.png") in questions(select(state, "b.png"))
    assert show_heat(state, False) == marked


def test_answers_are_remembered_that_the_next_press_asks_for(marked):
    first = rewrite(marked)
    second = rewrite(check(first, ["b.png"], OFFERED))
    assert remembered(second) >= {
        *questions(second),
        *questions(first),
        Question(QuestionKind.ELSEWHERE, marked.marked),
    }
    forgotten = replace(second, history=())
    assert not {QuestionKind.FIRST, QuestionKind.SELECTION} & {question.kind for question in remembered(forgotten)}


def test_check_leaves_names_that_are_not_offered(marked):
    """A name of `checked.txt` stays, although the image is not among those that are found for another mark."""
    restored = replace(marked, checked=frozenset(["gone.png", "b.png"]))
    assert check(restored, ["c.png"], OFFERED).checked == {"gone.png", "c.png"}
    assert check(restored, [], OFFERED).checked == {"gone.png"}
    assert check(restored, ["b.png"], OFFERED) == restored
