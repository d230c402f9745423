"""A verdict: the worst word of its checks, its three lines, and the numbers of images that would decide."""

from itertools import product
from math import comb

import pytest

from edittools.selection import Check
from edittools.selection.verdict import (
    DO_NOT_USE,
    FINETUNE,
    LINES,
    NOTICE,
    UNCLEAR,
    USE,
    WORDS,
    fewest_images,
    notices,
    verdict_of,
)

# --- the fold ---------------------------------------------------------------------------------------------------------


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
def test_check_allows_at_best_its_word_and_never_forbids_what_was_not_measured(holds, at_best, word):
    assert Check("a", holds, at_best=at_best).allows == word


def test_check_prints_its_advice_only_if_it_does_not_hold():
    texts = [str(Check("a name", holds, "7 images", "Pass more.")) for holds in (True, False, None)]
    assert texts[0] == "pass: a name (7 images)"
    assert texts[1] == "fail: a name (7 images). Pass more."
    assert texts[2] == "not measured: a name (7 images). Pass more."


def test_fold_gives_the_worst_word_of_all_checks():
    for allowed in product(WORDS, repeat=3):
        checks = [Check(f"{number}", False, at_best=word) for number, word in enumerate(allowed)]
        assert verdict_of(checks).word == min(allowed, key=WORDS.index)
        assert verdict_of(checks).checks == tuple(checks)


def test_fold_gives_the_figures_and_the_advice_of_the_checks_that_decide():
    checks = [
        Check("informs", False, "1 image", "A"),
        Check("unclear", None, "2 images", "B", UNCLEAR),
        Check("bad", False, "3 images", "C", DO_NOT_USE),
        Check("good", True, "4 images", "D", DO_NOT_USE),
        Check("also bad", False, "5 images", "E", DO_NOT_USE),
    ]
    verdict = verdict_of(checks)
    assert (verdict.reason, verdict.advice) == ("3 images; 5 images", "C")
    also_unclear = Check("also unclear", False, "6 images", "F", UNCLEAR)
    unclear = verdict_of([*checks[:2], also_unclear])
    assert (unclear.reason, unclear.advice) == ("2 images; 6 images", "B F")  # what to collect, all at once
    use = verdict_of([checks[0], checks[3]])
    assert use.word == USE and use.reason and use.advice == ""


def test_use_names_each_cost_that_was_not_measured():
    unknown = [
        Check("b", None, "nothing is known", "Pass more.", line="costs"),
        Check("c", None, "5 scenes", "Pass 15.", line="costs"),
    ]
    verdict = verdict_of([Check("a", True, "1 image"), *unknown])
    assert verdict.word == USE and verdict.reason.endswith("; nothing is known; 5 scenes")
    assert verdict.advice == "Pass more. Pass 15."
    again = Check("d", None, "6 scenes", "Pass more. Wait.", line="costs")
    assert verdict_of([*unknown, again]).advice == "Pass more. Pass 15. Wait."


def test_lines_of_a_verdict_have_the_figures_of_their_checks_in_order():
    checks = [
        Check("a", False, "1 image", "A", DO_NOT_USE, "costs"),
        Check("b", True, "2 images", "B", UNCLEAR, "helps"),
        Check("c", None, "3 images", line="costs"),
        Check("d", True, "4 images"),  # in no line
        Check("e", True, line="helps"),  # without a figure
    ]
    lines = verdict_of(checks).lines
    assert tuple(lines) == LINES
    assert lines == {"helps": "2 images", "costs": "1 image; 3 images", "instead": "not measured"}


# --- how many images would decide -------------------------------------------------------------------------------------


def test_notices_sums_the_probabilities_of_more_losses_than_allowed():
    found = set()
    for images, loss, allowed in product((30, 60, 100, 400), (0.01, 0.06), (0, 1, 3)):
        chances = [comb(images, lost) * loss**lost * (1 - loss) ** (images - lost) for lost in range(allowed + 1)]
        expected = 1 - sum(chances) >= NOTICE
        assert notices(images, loss, allowed) == expected
        found.add(expected)
    assert found == {True, False}


@pytest.mark.parametrize("too_few", [0, 1, 99, 1000])
def test_fewest_images_is_the_first_number_that_decides(too_few):
    assert fewest_images(lambda images: images >= 1001, too_few) == 1001
    assert fewest_images(lambda images: images >= 100_001, too_few) is None
