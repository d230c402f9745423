"""A verdict in numbers, and in words: the worst word decides, and every reader is told what to do."""

import re
from itertools import product

import pytest
from effects_by_hand import effect

from edittools.reports.words import ACTIONS, AUDIENCES, broken_sentence, check_words, name_of_set, verdict_words
from edittools.selection.checks import (
    accuracy_check,
    breakable_check,
    gain_check,
    help_checks,
    objective_check,
    own_class_check,
    retained_check,
)
from edittools.verdict import DO_NOT_USE, FINETUNE, UNCLEAR, USE, WORDS, Check, Cost, Kind, judge, word_of

HELPS = gain_check(effect(40, corrected=20))


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holds", "at_best", "word"),
    [
        (True, DO_NOT_USE, USE),
        (True, FINETUNE, USE),
        (False, USE, USE),
        (False, UNCLEAR, UNCLEAR),
        (False, DO_NOT_USE, DO_NOT_USE),
        (False, FINETUNE, FINETUNE),
        (None, USE, USE),
        (None, UNCLEAR, UNCLEAR),
        (None, DO_NOT_USE, UNCLEAR),
    ],
)
def test_check_allows_at_best_its_word_and_never_forbids_what_is_not_known(holds, at_best, word):
    assert Check(Kind.RANDOM, holds, at_best).allows == word


def test_word_is_the_worst_that_a_check_allows():
    for allowed in product(WORDS, repeat=3):
        checks = [Check(Kind.RANDOM, False, word) for word in allowed]
        assert word_of(checks) == min(allowed, key=WORDS.index)


@pytest.mark.parametrize(
    ("lost", "low", "is_enough", "holds", "allows"),
    [
        (2, 0, True, True, USE),
        (2, 0, False, None, UNCLEAR),
        (3, 0, True, False, UNCLEAR),
        (3, 0, False, False, UNCLEAR),
        (9, 2.5, False, False, DO_NOT_USE),
    ],
)
def test_judge_compares_what_is_lost_and_its_interval_with_the_limit(lost, low, is_enough, holds, allows):
    check = judge(Kind.ACCURACY, Cost(100, 100 - lost, 100, 100, lost, 2.4, (low, 20.0), is_enough))
    assert (check.holds, check.allows) == (holds, allows) and check.cost.allowed == 2


# --- words ------------------------------------------------------------------------------------------------------------


def numbers_in(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def test_cost_is_said_in_the_unit_of_its_limit():
    check = accuracy_check(effect(400, broken=3, corrected=1, wrong=10))
    found = check_words(check).found
    assert {389, 387, 400, 1} <= set(numbers_in(found)) and "point" not in found


def test_cost_on_the_mark_class_names_the_class_and_is_said_where_it_is_too_little_to_judge():
    few = own_class_check(effect(19, broken=5), None, ["church"])
    words = verdict_words([HELPS, few])
    [cost] = words.costs
    assert "church" in cost and {19, 14} <= set(numbers_in(cost)) and not words.unknown


def test_cost_near_its_limit_says_how_many_images_would_tell():
    near = own_class_check(effect(200, broken=5), None, ["church"])
    words = check_words(near)
    assert near.cost.needed > 2_000
    assert all(f"{near.cost.needed:,}" in text for text in (words.found, words.remedy))


def test_frames_are_counted_as_scenes():
    assert "scenes" in check_words(accuracy_check(effect(400, frames=2))).found


def test_a_set_has_one_name_in_all_sentences():
    retained = retained_check("retained images", effect(200, broken=1))
    sentence = broken_sentence({"retained images": (1, 200), "huskies": (0, 9), "clean": (2, 400)}, 12)
    for name in ("retained images", "huskies", "clean"):
        assert name_of_set(name) in sentence
    assert name_of_set("retained images") in check_words(retained).title and sentence.count("images") == 3


def test_use_names_its_price_and_each_cost_that_was_not_measured():
    unknown = Check(Kind.RETAINED, None)
    words = verdict_words([HELPS, accuracy_check(effect(400, broken=1)), unknown])
    assert words.word == USE and words.next_action == "save"
    assert 399 in numbers_in(words.costs[0])
    assert words.unknown == (check_words(unknown).found,)
    assert words.gain in str(words) and str(words).startswith("use")


def test_unclear_says_all_that_is_needed_at_once_and_nothing_twice():
    checks = [*help_checks(None, [], "sample"), accuracy_check(None), accuracy_check(None)]
    step = verdict_words(checks).next_step
    assert "concept=" in step and step.count("clean=") == 1


def test_exceeded_cost_does_not_ask_for_thousands_of_images():
    for check in (accuracy_check(effect(400, broken=2)), retained_check("huskies", effect(100, broken=6))):
        for audience in AUDIENCES:
            assert max(numbers_in(check_words(check, audience, objective_check(1, 0.5, 8)).remedy), default=0) < 1000


def test_what_else_decides_is_a_reason():
    changed = Check(Kind.CHANGED, False, DO_NOT_USE, numbers={"names": ["e"], "classes": ["red"], "alike": 1})
    words = verdict_words([changed, HELPS])
    assert words.word == DO_NOT_USE and "red" in words.reasons[0] and not words.costs


def all_checks():
    """A check of each kind that fails or is not known."""
    exemplars = {"names": ["one", "two"], "classes": ["red", "blue"], "alike": 1, "is_labeled": False}
    return [
        Check(Kind.LOOKED_AT, None, UNCLEAR),
        Check(
            Kind.CONFIRMED,
            None,
            UNCLEAR,
            numbers={"class": "red", "sources": 1, "hosts": 2, "fewest_sources": 5, "fewest_hosts": 10},
        ),
        Check(Kind.ORIGINAL, False, DO_NOT_USE, numbers=exemplars | {"is_swapped": True}),
        Check(Kind.CHANGED, False, DO_NOT_USE, numbers=exemplars),
        Check(Kind.MASK_COVERS_CHANGE, False, numbers={"inside": 0.5}),
        Check(Kind.MISTAKES, False, numbers={"alike": 1, "errors": 20, "classes": ["red"]}),
        Check(Kind.LABELS, False, UNCLEAR, "clean", numbers={"share": 0.2, "most": 0.9, "count": 50}),
        Check(Kind.COVERAGE, False, UNCLEAR, numbers={"shown": 3, "classes": 9, "missing": ["red", "blue"]}),
        objective_check(0.5, 0.5, 8.0),
        Check(Kind.ONE_EDIT, False, UNCLEAR),
        gain_check(effect(20, corrected=3)),
        *help_checks(None, [], "sample"),
        breakable_check(effect(20, wrong=15), "sample"),
        breakable_check(effect(20, wrong=15), "failures"),
        Check(Kind.RANDOM, False, UNCLEAR, numbers={"net": 1, "mean": 2.0, "draws": 3}),
        accuracy_check(None),
        accuracy_check(effect(50)),
        accuracy_check(effect(400, broken=100)),
        Check(Kind.RETAINED, None),
        retained_check("huskies", effect(9, wrong=9)),
        retained_check("huskies", effect(30)),
        retained_check("huskies", effect(200, broken=100)),
        own_class_check(None, None, ["red", "blue"]),
        own_class_check(effect(60, broken=30), effect(60), ["red"]),
        Check(
            Kind.OWN_HOSTS,
            False,
            UNCLEAR,
            numbers={"classes": ["red"], "alike_before": 20, "alike": 3, "total": 24},
        ),
        Check(Kind.FINETUNING, None, numbers={"is_made": False}),
        Check(Kind.FINETUNING, None, numbers={"is_made": True}),
    ]


@pytest.mark.parametrize("audience", AUDIENCES)
def test_every_check_has_words_for_every_reader(audience):
    for check in all_checks():
        words = check_words(check, audience, objective_check(1.0, 0.5, 8.0))
        assert words.title and words.found.endswith(".") and words.action in (None, *ACTIONS)
        if check.holds is not None or check.at_best != USE:
            assert words.remedy
        assert words.action is None or words.remedy
    assert {check.kind for check in all_checks()} == set(Kind)


@pytest.mark.parametrize(
    ("audience", "foreign"),
    [("shell", r"\w=|fix\."), ("page", r"\w=|fix\.|--(?!masks)"), ("desk", r"\w=|fix\.|--(?!masks)")],
)
def test_only_a_caller_in_python_is_told_names_of_python_and_only_the_shell_those_of_options(audience, foreign):
    for check in all_checks():
        words = check_words(check, audience, objective_check(1.0, 0.5, 8.0))
        assert not re.search(foreign, f"{words.found} {words.remedy}")


def test_audience_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="nobody"):
        check_words(HELPS, "nobody")
