"""The verdict on an edit: the checks and their fold, the three lines, and the numbers of images that would decide."""

import inspect
import re
import warnings
from dataclasses import replace
from functools import cache
from itertools import product
from math import comb
from types import SimpleNamespace

import pytest
import torch
from conftest import bars_that_call
from scipy.stats import binomtest
from torch import nn

import edittools
from edittools.classifiers import Classifier
from edittools.course.miniworld.scenes import scenes
from edittools.course.scenarios.snow import car_exemplars
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.methods import METHODS
from edittools.metrics import (
    Comparison,
    accuracy_interval,
    difference_interval,
    mcnemar,
    misclassified,
    predict,
    wilson,
)
from edittools.moments import second_moments
from edittools.rewriting import rewrite
from edittools.selection import Assessment, Check, Constraints, Evaluation, Outcomes, Search, Splits, repair
from edittools.selection.checks import (
    WEAKER,
    accuracy_check,
    breakable_check,
    change_inside_mask,
    completeness_check,
    cost_checks,
    exemplar_checks,
    finetuning_check,
    gain_check,
    help_checks,
    instead_checks,
    is_within_limits,
    labels_checks,
    limiting_constraint,
    mistakes_check,
    own_class_check,
    random_check,
    reliability_check,
    retained_check,
    used_exemplars,
)
from edittools.selection.evaluation import DRAWS, random_directions
from edittools.selection.finetuning import Finetuned
from edittools.selection.verdict import (
    DO_NOT_USE,
    FINETUNE,
    LINES,
    NOTICE,
    POWER,
    UNCLEAR,
    USE,
    WORDS,
    fewest_images,
    images_needed,
    notices,
    power,
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


# --- the checklist on constructed cases -------------------------------------------------------------------------------


def comparison(corrected, broken, images, errors=None):
    """A comparison of images, `errors` of which are misclassified before."""
    errors = corrected if errors is None else errors
    before = torch.arange(images) < errors
    after = before.clone()
    after[:corrected] = False
    after[errors : errors + broken] = True
    return Comparison(before, after)


def lost(images, total):
    """A comparison of images that were all correct, some of which are misclassified with the edit."""
    return comparison(0, images, total)


def correct_of(count, total=100):
    """Which images without the concept are correct."""
    return torch.arange(total) < count


def on_concept(corrected, broken=0, errors=24):
    """An evaluation of 60 images with the concept alone."""
    return Evaluation(comparison(corrected, broken, 60, errors), None)


def finetuned(evaluation):
    """A network that was fine-tuned, with this evaluation."""
    return Finetuned(None, {}, evaluation, 27)


GOOD = Evaluation(
    comparison(18, 1, 60, 24),
    lost(20, 10_000),
    {"huskies": lost(10, 1000), "ski slopes": lost(30, 1000)},
    comparison(0, 2, 100, 10),
)
"""Everything is within the limits: 25 of 10,000 clean, 30 of 1000 retained, and 13 of 100 own-class images."""

WITHOUT_CONCEPT = correct_of(90)
DRAWN = [on_concept(corrected).target for corrected in (4, 10, 16)]
ALL_CORRECTED = replace(GOOD, target=comparison(24, 0, 60, 24))
CASES = {
    "all holds": ({}, {}, "use"),
    "nothing was compared but the edit": ({"retained": {}, "own_class": None}, {"drawn": []}, "use"),
    "it breaks as many as it corrects": ({"target": comparison(3, 3, 60, 24)}, {"drawn": []}, "do not use"),
    "it changes nothing": ({"target": comparison(0, 0, 60, 24)}, {"drawn": []}, "do not use"),
    "too few change": ({"target": comparison(5, 0, 60, 24)}, {"drawn": []}, "unclear"),
    "just enough change": ({"target": comparison(6, 0, 60, 24)}, {"drawn": []}, "use"),
    "nothing can break": ({"target": comparison(20, 0, 30, 24)}, {}, "unclear"),
    "all were chosen since they fail": ({}, {"source": "failures"}, "unclear"),
    "one random direction corrects more": ({}, {"drawn": [on_concept(19).target, *DRAWN[:2]]}, "use"),
    "random directions correct as many on average": ({}, {"drawn": [on_concept(17).target] * 3}, "unclear"),
    "no image with the concept is held out": ({"target": None}, {"drawn": []}, "unclear"),
    "no clean image is held out": ({"clean": None}, {}, "unclear"),
    "a retained set is empty": ({"retained": {"huskies": lost(10, 1000), "ski slopes": None}}, {}, "unclear"),
    "interrupted": ({}, {"complete": False}, "unclear"),
    "accuracy is lost": ({"clean": lost(60, 10_000)}, {}, "do not use"),
    "accuracy may be lost": ({"clean": lost(26, 10_000)}, {}, "unclear"),
    "too few clean images": ({"clean": lost(0, 200)}, {}, "unclear"),
    "a retained set breaks": ({"retained": {"huskies": lost(0, 1000), "slopes": lost(60, 1000)}}, {}, "do not use"),
    "a retained set may break": ({"retained": {"huskies": lost(0, 1000), "slopes": lost(31, 1000)}}, {}, "unclear"),
    "too few retained images": ({"retained": {"huskies": lost(0, 63)}}, {}, "unclear"),
    "the own class is lost": ({"own_class": comparison(0, 20, 100, 10)}, {}, "do not use"),
    "the own class may be lost": ({"own_class": comparison(0, 5, 100, 10)}, {}, "unclear"),
    "too few own-class images": ({"own_class": lost(19, 19)}, {}, "use"),
    "fine-tuning corrects significantly more": ({}, {"networks": {"fine-tuning": ALL_CORRECTED}}, "fine-tune instead"),
    "fine-tuning corrects more": ({}, {"networks": {"fine-tuning": replace(GOOD, target=DRAWN[-1])}}, "use"),
    "fine-tuning corrects more at a cost": (
        {},
        {"networks": {"fine-tuning": replace(ALL_CORRECTED, clean=lost(26, 10_000))}},
        "use",
    ),
    "the edit is bad and fine-tuning good": (
        {"target": comparison(3, 3, 60, 24)},
        {"networks": {"fine-tuning": ALL_CORRECTED}, "drawn": []},
        "fine-tune instead",
    ),
    "only the second network corrects more": (
        {},
        {"networks": {"fine-tuning": GOOD, "pasted": ALL_CORRECTED}},
        "use",
    ),
    "another alternative corrects more": ({}, {"others": {"retrained": ALL_CORRECTED}}, "use"),
}


def judged(changes, drawn=DRAWN, networks=None, others=None, complete=True, source="sample", not_compared=""):
    """The verdict if the evaluation was as in `GOOD`, but for some changes."""
    found = replace(GOOD, **changes)
    rivals = {name: finetuned(evaluation) for name, evaluation in (networks or {}).items()}
    checks = [completeness_check(100, complete)]
    checks += help_checks(found, drawn, source)
    checks += cost_checks(found, WITHOUT_CONCEPT)
    checks += instead_checks(found, rivals, others or {}, WITHOUT_CONCEPT, not_compared)
    return verdict_of(checks)


@pytest.mark.parametrize(("changes", "options", "word"), CASES.values(), ids=CASES)
def test_verdict_on_constructed_cases(changes, options, word):
    verdict = judged(changes, **options)
    assert verdict.word == word and str(verdict).startswith(f"{word}: ")
    assert verdict.advice or word == "use"
    unknown_costs = [check.figure for check in verdict.checks if check.line == "costs" and check.holds is None]
    if word == "use" and unknown_costs:
        assert unknown_costs[0] in verdict.reason


def test_verdict_names_the_numbers_behind_it():
    retained = {"huskies": lost(0, 1000), "ski slopes": lost(31, 1000)}
    one = judged({"retained": retained}).reason
    assert "'ski slopes'" in one and "31 of 1,000" in one and "'huskies'" not in one
    both = judged({"clean": lost(200, 10_000), "own_class": comparison(0, 20, 100, 10)}).reason
    assert "-2.00" in both and "70% of 100" in both


def test_lines_give_every_cost_with_its_interval_and_all_alternatives():
    networks = {"fine-tuning": GOOD, "pasted": replace(GOOD, target=comparison(7, 2, 60, 24))}
    others = {"retrained": replace(GOOD, clean=lost(123, 10_000), retained={})}
    lines = judged({}, networks=networks, others=others).lines
    low, high = GOOD.target.corrected_interval()
    assert f"[{low:.0%}, {high:.0%}]" in lines["helps"] and "18 of 24" in lines["helps"]
    assert "10.0 net" in lines["helps"]  # the mean of 4, 10, and 16
    low, high = GOOD.clean.accuracy_interval()
    assert f"[{low:+.2f}, {high:+.2f}]" in lines["costs"]
    assert "3.0% [2.1%, 4.3%]" in lines["costs"]  # the retained ski slopes, of 1000
    assert "88% of 100" in lines["costs"] and "90% of 100" in lines["costs"]
    assert "18 of 24 corrected" in lines["instead"] and "7 of 24 corrected" in lines["instead"]
    assert "-1.23 points" in lines["instead"] and "40 of 2,000" in lines["instead"]
    assert "88 of 100" in lines["instead"]  # images of the concept's own class
    assert lines["instead"].count("(p ") == 1  # only fine-tuning is tested


def test_line_instead_tells_which_fine_tuning_was_not_compared():
    assert judged({}, not_compared="it was interrupted").lines["instead"] == "it was interrupted"
    rest = judged({}, networks={"fine-tuning": GOOD}, not_compared="the other was interrupted").lines["instead"]
    assert "18 of 24 corrected" in rest and rest.endswith("; the other was interrupted")
    assert "not compared" in judged({}).lines["instead"]
    assert "not compared" not in judged({}, networks={"fine-tuning": GOOD}).lines["instead"]


# --- helps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("corrected", "allows"), [(5, "unclear"), (6, "use")])
def test_gain_check_at_the_boundary_of_the_exact_test(corrected, allows):
    """5 of 5 have p 0.0625, 6 of 6 have p 0.03125."""
    check = gain_check(on_concept(corrected))
    assert check.allows == allows and f"p {mcnemar(corrected, 0):.2g}" in check.figure


def test_gain_check_that_is_unclear_names_about_how_many_images_would_decide():
    check = gain_check(on_concept(4, 1, errors=10))
    needed = images_needed(4, 1, 60)
    assert needed > 60 and f" {needed:,} " in check.advice


def test_gain_check_counts_a_scene_once():
    """24 frames of four scenes are corrected, and one image of each of the other 36 scenes is unchanged."""
    target = on_concept(24).target
    scenes_of_each = torch.cat([torch.arange(4).repeat_interleave(6), torch.arange(4, 40)])
    check = gain_check(Evaluation(target, None, scenes=scenes_of_each))
    assert check.allows == "unclear" and f"p {mcnemar(4, 0):.2g}" in check.figure and "24 of 24" in check.figure
    assert "40 scenes" in check.figure and f" {images_needed(4, 0, 40)} scenes" in check.advice
    alone = gain_check(Evaluation(target, None, scenes=torch.arange(60)))
    assert alone == gain_check(Evaluation(target, None)) and alone.allows == "use"


def test_gain_check_asks_for_no_number_of_scenes_if_no_number_decides():
    """Four frames of one scene are corrected, and one frame of each of two other scenes is broken."""
    scenes_of_each = torch.cat([torch.zeros(4).long(), torch.arange(1, 57)])
    check = gain_check(Evaluation(comparison(4, 2, 60, 4), None, scenes=scenes_of_each))
    assert check.allows == "unclear" and check.advice and not re.search(r"\d", check.advice)


@pytest.mark.parametrize(("correct", "allows"), [(9, "unclear"), (10, "use")])
def test_breakable_check_asks_for_images_that_are_right(correct, allows):
    found = Evaluation(comparison(20, 0, 20 + correct, 20), None)
    assert breakable_check(found, "sample").allows == allows
    assert breakable_check(found, "failures").allows == "unclear"


@pytest.mark.parametrize(
    ("nets", "holds"), [((2, 2, 2), False), ((5, 0, 0), True), ((2, 3, 4), False), ((1, 2, 2), True)]
)
def test_random_check_compares_the_net_with_the_mean_of_the_draws(nets, holds):
    """The edit corrects 3 and breaks 1; a draw corrects 10 and breaks the others."""
    draws = [comparison(10, 10 - net, 60, 24) for net in nets]
    assert random_check(on_concept(3, 1), draws).holds is holds


# --- costs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "may_lose"), [(50, 1), (799, 1), (800, 2), (2000, 5)])
def test_accuracy_check_lets_one_image_be_lost_or_a_quarter_point(images, may_lose):
    assert "exceeds" not in accuracy_check(lost(may_lose, images)).figure
    exceeding = accuracy_check(lost(may_lose + 1, images))
    assert not exceeding.holds and "exceeds" in exceeding.figure


@pytest.mark.parametrize(("images", "allows"), [(387, "unclear"), (388, "use"), (10_000, "use")])
def test_accuracy_check_needs_enough_images_to_notice_a_loss_of_one_percent(images, allows):
    """Of 388 images, one may be lost: with a loss of 1%, two or more are lost with a probability of 90%."""
    check = accuracy_check(lost(0, images))
    assert check.allows == allows
    noticed = 1 - 0.99**images - images * 0.01 * 0.99 ** (images - 1)
    assert images > 388 or (noticed >= NOTICE) == (allows == "use")
    if allows == "unclear":
        assert "388" in check.figure and " 518 " in check.advice  # three quarters of 518 are 388


@pytest.mark.parametrize(("lost_images", "images", "allows"), [(2, 135, "unclear"), (12, 135, "do not use")])
def test_accuracy_check_forbids_only_if_the_interval_excludes_the_limit(lost_images, images, allows):
    check = accuracy_check(lost(lost_images, images))
    assert check.status == "fail" and check.allows == allows
    assert (check.figure.count("-1.48 points [-4.31, +1.39]") == 1) == (lost_images == 2)


def test_accuracy_check_that_is_unclear_names_about_how_many_images_would_decide():
    advice = accuracy_check(lost(2, 135)).advice
    needed = int(re.search(r"about (\d+) held-out", advice)[1])
    assert 135 < needed < 1000
    share = 2 / 135
    for images, decides in ((needed, True), (needed - 1, False)):
        _, most = accuracy_interval(0, share * images, images)
        assert (most < -max(images // 400, 1) / images * 100) == decides


@pytest.mark.parametrize(
    ("broken", "images", "allows"),
    [
        *[(0, 63, "unclear"), (0, 64, "use"), (0, 87, "unclear"), (3, 110, "use"), (4, 110, "unclear")],
        *[(30, 1000, "use"), (31, 1000, "unclear"), (60, 1000, "do not use"), (20, 50, "do not use")],
    ],
)
def test_retained_check_allows_what_the_number_of_images_can_show(broken, images, allows):
    check = retained_check("huskies", lost(broken, images))
    assert check.allows == allows and "'huskies'" in check.name
    assert f"{broken} of {images:,}" in check.figure and f"{broken / images:.1%}" in check.figure
    assert ("exceeds" in check.figure) == (broken > 3 * images // 100)
    low, high = wilson(broken, images)
    assert f"[{low:.1%}, {high:.1%}]" in check.figure
    assert (allows == "do not use") == (low > 0.03)


@pytest.mark.parametrize(("check", "images"), [("clean", 60), ("clean", 387), ("huskies", 18), ("huskies", 70)])
def test_cost_checks_of_too_few_images_name_more_that_would_be_enough(check, images):
    """Of 64 images, one may break, of 70, two: more images are not always enough."""

    def checked(count):
        return accuracy_check(lost(0, count)) if check == "clean" else retained_check(check, lost(0, count))

    result = checked(images)
    needed = int(re.search(r"noticed with ([\d,]+)", result.figure)[1].replace(",", ""))
    assert not result.holds and needed > images and checked(needed).holds


def test_retained_check_that_is_unclear_names_about_how_many_images_would_decide():
    advice = retained_check("huskies", lost(5, 100)).advice
    needed = int(re.search(r"about (\d+) retained", advice)[1])
    assert wilson(round(0.05 * needed), needed)[0] > 0.03 and needed > 100


def test_retained_images_with_wrong_labels_are_not_measured():
    """Labels that are counted from 1: nearly all images are wrong before the edit, so that they cannot break."""
    check = retained_check("huskies", comparison(0, 0, 200, 190))
    assert check.allows == "unclear" and "of 10 " in check.figure and "labels right?" in check.advice


@pytest.mark.parametrize(
    ("right_without", "wrong", "allows"),
    [(90, 13, "use"), (90, 14, "unclear"), (90, 40, "do not use"), (50, 53, "use"), (50, 54, "unclear")],
)
def test_own_class_check_compares_with_images_without_the_concept(right_without, wrong, allows):
    """It does not matter how many are correct before: a mark may make all of them correct, which should not last."""
    check = own_class_check(comparison(0, wrong, 100, 0), correct_of(right_without))
    _, high = difference_interval(100 - wrong, 100, right_without, 100)
    assert check.allows == allows == own_class_check(comparison(5, wrong, 100, 5), correct_of(right_without)).allows
    assert f"{100 - wrong}% of 100" in check.figure and f"{right_without}% of 100" in check.figure
    assert (allows == "do not use") == (high < -0.03)


@pytest.mark.parametrize(("count", "others"), [(20, 40), (40, 20)])
def test_own_class_check_that_is_unclear_names_about_how_many_images_of_either_kind_would_decide(count, others):
    """Of those with the concept, 75% are correct, and of those without it, 90%."""
    check = own_class_check(lost(count // 4, count), correct_of(9 * others // 10, others))
    needed = int(re.search(r"about (\d+)", check.advice)[1])
    assert check.allows == "unclear" and needed > 20
    for images, decides in ((needed, True), (needed - 1, False)):
        _, high = difference_interval(round(0.75 * images), images, round(0.9 * images), images)
        assert (high < -0.03) == decides


@pytest.mark.parametrize(
    "check",
    [
        accuracy_check(lost(26, 10_000)),
        retained_check("huskies", lost(31, 1000)),
        own_class_check(lost(131, 1000), correct_of(900, 1000)),
    ],
)
def test_cost_at_its_limit_asks_for_no_number_of_images(check):
    """More than 100,000 would be needed."""
    assert check.allows == "unclear" and check.advice and not re.search(r"about [\d,]+", check.advice)


def test_advice_on_an_exceeded_limit_is_a_call_of_repair():
    assert WEAKER in accuracy_check(lost(20, 100)).advice
    arguments = eval(WEAKER.replace("repair(…, ", "dict("), {"et": edittools})
    assert set(arguments) <= set(inspect.signature(repair).parameters)
    for setting in arguments["settings"]:
        assert set(setting) <= set(inspect.signature(rewrite).parameters)
    assert max(arguments["strengths"]) < 1


@pytest.mark.parametrize(
    ("images", "others", "status"), [(20, 20, "fail"), (19, 20, "not measured"), (20, 19, "not measured")]
)
def test_own_class_check_of_few_images_is_not_measured(images, others, status):
    check = own_class_check(lost(images, images), torch.ones(others).bool())
    assert check.status == status and (check.allows == "use") == (status == "not measured")
    assert own_class_check(None, torch.ones(0).bool()).status == "not measured"


@pytest.mark.parametrize(
    ("changes", "is_within"),
    [
        ({}, True),
        ({"clean": None, "retained": {"huskies": None}, "own_class": None}, True),
        ({"clean": lost(25, 10_000)}, True),
        ({"clean": lost(26, 10_000)}, False),
        ({"retained": {"huskies": lost(30, 1000)}}, True),
        ({"retained": {"huskies": lost(31, 1000)}}, False),
        ({"own_class": comparison(0, 3, 100, 10)}, True),
        ({"own_class": comparison(0, 4, 100, 10)}, False),
        ({"own_class": lost(19, 19)}, True),
    ],
)
def test_limits_hold_if_no_cost_check_finds_more(changes, is_within):
    found = replace(GOOD, **changes)
    assert is_within_limits(found, WITHOUT_CONCEPT) == is_within
    checks = cost_checks(found, WITHOUT_CONCEPT)
    assert any("exceeds" in check.figure for check in checks) != is_within


# --- instead ----------------------------------------------------------------------------------------------------------


def of(wrong):
    """An evaluation of misclassified images, of which those with these indices still are with the edit."""
    before = torch.ones(30, dtype=torch.bool)
    after = torch.zeros(30, dtype=torch.bool)
    after[list(wrong)] = True
    return Evaluation(Comparison(before, after), None)


def test_finetuning_check_is_the_exact_test_of_paired_outcomes():
    """Both correct 18 and 24 of 30, but the pairs decide: 0 and 6 differ, or 6 and 12."""

    def check(rival, edit):
        return finetuning_check("fine-tuning", rival, edit, WITHOUT_CONCEPT)

    nested = check(of(range(6)), of(range(12)))
    crossed = check(of(range(6)), of(range(18, 30)))
    assert nested.allows == "fine-tune instead" and f"p {mcnemar(6, 0):.2g}" in nested.figure
    assert crossed.allows == "use" and f"p {mcnemar(12, 6):.2g}" in crossed.figure
    assert check(of(range(12)), of(range(6))).allows == "use"
    in_pairs = replace(of(range(6)), scenes=torch.arange(30) // 2)  # the six are of three scenes
    assert check(in_pairs, of(range(12))).allows == "use"
    costly = replace(of(range(6)), clean=lost(26, 10_000))
    assert check(costly, of(range(12))).allows == "use"


@pytest.mark.parametrize(("reliable", "exemplars", "status"), [(0, 1, "fail"), (1, 3, "fail"), (3, 3, "pass")])
def test_reliability_informs(reliable, exemplars, status):
    check = reliability_check(reliable, exemplars)
    assert check.status == status and check.allows == "use"


# --- how many images would decide -------------------------------------------------------------------------------------


exact_test = cache(binomtest)


def enumerated_power(images, corrected_share, broken_share):
    """By the definition: every outcome of every image, with the p-value of scipy's test."""
    total = 0.0
    unchanged_share = 1 - corrected_share - broken_share
    for outcomes in product((1, -1, 0), repeat=images):
        corrected, broken = outcomes.count(1), outcomes.count(-1)
        changed = corrected + broken
        if changed and corrected > broken and exact_test(corrected, changed).pvalue <= 0.05:
            total += corrected_share**corrected * broken_share**broken * unchanged_share ** outcomes.count(0)
    return total


@pytest.mark.parametrize("shares", [(0.7, 0.1), (0.5, 0.0), (1.0, 0.0)])
@pytest.mark.parametrize("images", [5, 6])
def test_power_is_the_sum_over_all_outcomes(images, shares):
    assert power(images, *shares) == pytest.approx(enumerated_power(images, *shares), abs=1e-12)


def test_images_needed_are_just_enough():
    for corrected, broken, images in ((1, 0, 1), (4, 1, 10), (3, 1, 40), (20, 15, 100)):
        needed = images_needed(corrected, broken, images)
        shares = corrected / images, broken / images
        assert power(needed, *shares) >= POWER > power(needed - 1, *shares)
    assert images_needed(5, 0, 5) == 6  # all are corrected: six are the fewest with p ≤ 0.05
    assert images_needed(2, 2, 9) is None and images_needed(1, 0, 1_000_000) is None


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


# --- before the search ------------------------------------------------------------------------------------------------


def statuses(checks):
    return {check.name: check.status for check in checks}


def predictions(correct, images, probability):
    """Cached activations of images of two classes, some correct, whose predictions have this probability."""
    logits = torch.tensor([probability, 1 - probability]).log().expand(images, 2)
    return SimpleNamespace(before=~correct_of(correct, images), original=logits)


@pytest.mark.parametrize(("kind", "name"), [("clean", "clean"), ("retain", "retained")])
@pytest.mark.parametrize(
    ("correct", "probability", "of_concept", "plausible"),
    [(46, 0.9, 50, True), (44, 0.9, 50, False), (31, 0.55, 60, True), (29, 0.55, 60, False), (0, 0.6, 0, False)],
)
def test_labels_are_doubted_below_half_of_what_is_expected(kind, name, correct, probability, of_concept, plausible):
    """Expected are the mean probability of the predictions, and the accuracy on images with the concept."""
    activations = {
        "target": predictions(of_concept, 100, 0.9),
        kind: predictions(correct, 100, probability),
    }
    checks = [check for check in labels_checks(activations) if f"the {name} images" in check.name]
    assert [check.allows for check in checks] == (["unclear"] if not plausible else ["use"] if kind == "clean" else [])
    assert plausible or "labels right?" in checks[0].advice


def test_labels_of_retained_images_are_doubted_if_clean_images_are_correct():
    activations = {
        "target": predictions(30, 100, 0.9),
        "clean": predictions(98, 100, 0.6),
        "retain": predictions(40, 100, 0.6),
    }
    clean, retained = labels_checks(activations)
    assert clean.holds and not retained.holds and retained.allows == "unclear"
    assert "40% of 100" in retained.figure and "98%" in retained.figure


def one_hot(classes, count=4):
    return nn.functional.one_hot(torch.tensor(classes), count).float()


@pytest.mark.parametrize(("alike", "holds"), [(2, True), (1, False)])
def test_mistakes_check_counts_errors_that_are_predicted_as_x_changed(alike, holds):
    """Of 20 errors, a tenth must be predicted as x' of an exemplar is; images that are correct do not count."""
    target = SimpleNamespace(
        original=one_hot([3] * alike + [1] * (20 - alike) + [3] * 10), before=torch.arange(30) < 20
    )
    members = [("one", None), ("other", None)]
    search = SimpleNamespace(
        exemplar_activations=SimpleNamespace(original=one_hot([3, 2])), exemplar_members=members, target=target
    )
    check = mistakes_check(search)
    assert check.holds is holds and f"{alike} of 20" in check.figure and check.allows == "use"
    assert not mistakes_check(search, [1]).holds  # no image is predicted as x' of the other exemplar
    target.before = torch.zeros(30).bool()
    assert mistakes_check(search).holds is None


class LeftHalf(nn.Module):
    """Tells whether the left half of an image is bright."""

    def forward(self, images):
        brightness = images[..., : images.shape[-1] // 2].mean(dim=(1, 2, 3))
        return torch.stack([0.7 - brightness, brightness - 0.7], dim=1)


@pytest.mark.parametrize(("halves", "kept"), [(["left"], 0), (["right"], 1), (["left", "right"], 1), (["left"] * 2, 0)])
def test_mask_that_covers_the_object_is_noticed(halves, kept):
    """The object is the bright left half; an exemplar covers the left or the right half."""
    classifier = Classifier(LeftHalf(), ("dark", "bright"), (0.0,) * 3, (1.0,) * 3, size=8)
    image = torch.full((3, 8, 8), 0.1)
    image[..., :4] = 0.9
    members = []
    for half in halves:
        mask = torch.zeros(8, 8)
        mask[:, slice(0, 4) if half == "left" else slice(4, 8)] = 1
        members.append((half, Exemplar(image, torch.where(mask > 0, 1 - image, image), mask, 1)))
    changed = torch.stack([exemplar.changed for _, exemplar in members])
    labels = torch.ones(len(members)).long()
    logits = predict(classifier, changed)
    cached = SimpleNamespace(original=logits, labels=labels, before=logits.argmax(1) != labels)
    search = SimpleNamespace(classifier=classifier, exemplar_activations=cached, exemplar_members=members)
    [check] = [check for check in exemplar_checks(search) if "object" in check.name]
    assert check.status == ("pass" if kept else "fail") and check.allows == "use"
    assert f"{kept} of {len(halves)} x " in check.figure


def test_change_inside_mask_is_the_share_of_the_difference(exemplar):
    assert change_inside_mask(exemplar) == pytest.approx(1)
    half = torch.zeros(32, 32)
    half[16:, :16] = exemplar.mask[16:, :16]
    difference = (exemplar.changed - exemplar.image).abs().sum(0)
    expected = float(difference[:, :16].sum() / difference.sum())
    assert change_inside_mask(replace(exemplar, mask=half)) == pytest.approx(expected)
    assert change_inside_mask(replace(exemplar, changed=exemplar.image)) == 0


@pytest.mark.parametrize(("count", "warns"), [(49, True), (50, False)])
def test_rewrite_warns_about_few_reference_images(tiny, exemplar, count, warns):
    images = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rewrite(tiny, "conv1", exemplar, images, steps=1)
        rewrite(tiny, "conv1", exemplar, second_moments(tiny, ["conv1"], images)["conv1"], steps=1)
    about_images = [warning for warning in caught if f"{count} reference images" in str(warning.message)]
    assert len(about_images) == warns
    assert all(warning.filename == __file__ for warning in about_images)


# --- repair -----------------------------------------------------------------------------------------------------------


def with_edit(classifier, edit, images):
    """Which images are misclassified by the model itself with an edit."""
    with edit.applied(classifier):
        return misclassified(predict(classifier, images), images.labels)


def test_summary_begins_with_the_verdict_and_has_each_check_once(fix):
    lines = fix.summary().splitlines()
    assert lines[0] == str(fix.verdict)
    assert lines[1:4] == [f"{name}: {text}." for name, text in fix.verdict.lines.items()]
    others = [str(check) for check in fix.checks if not check.line]
    assert lines[-len(others) :] == others
    for check in fix.checks:
        text = "\n".join(lines[1:])
        assert check.figure in text


def test_reliability_is_what_the_edited_model_predicts(snow, fix):
    exemplar = snow["exemplars"]
    original = predict(snow["classifier"], exemplar.image[None]).argmax()
    with fix.edit.applied(snow["classifier"]):
        changed = predict(snow["classifier"], exemplar.changed[None]).argmax()
    [check] = [check for check in fix.checks if check.name == "x' is predicted as x with the edit"]
    assert check.holds == bool(changed == original)


def test_each_image_is_evaluated_with_an_edit_that_was_selected_without_it(snow, fix):
    """By hand, with the model itself: the edit that was selected without a fold, on the images of that fold."""
    splits = fix.search.splits
    found = fix.evaluation
    evaluated = {"target": found.target, "clean": found.clean, "retain": found.all_retained}
    changed = 0
    for name, one in evaluated.items():
        images = splits.labeled[name]
        expected = misclassified(predict(snow["classifier"], images), images.labels)
        assert torch.equal(one.before, expected) and len(splits.folds[name].unique()) == 6
        for fold, selection in enumerate(fix.selection.fold_selections):
            is_member = splits.folds[name] == fold
            if selection.feasible:
                expected[is_member] = with_edit(snow["classifier"], selection.edit, images)[is_member]
        assert torch.equal(one.after, expected)
        changed += int((one.before != one.after).sum())
    assert changed


def test_named_retained_sets_have_a_check_each(snow, fix):
    retained = fix.evaluation.retained
    assert {name: len(one.before) for name, one in retained.items()} == {"sleds": 20, "penguins": 11}
    correct = {name: int((~one.before).sum()) for name, one in retained.items()}
    for name in correct:
        [check] = [check for check in fix.checks if f"{name!r}" in check.name]
        assert f"of {correct[name]}" in check.figure
    assert fix.table.loc["selected", "retained"] == sum(correct.values())
    splits = fix.search.splits
    for name, label in (("sleds", "sled"), ("penguins", "penguin")):
        labels = splits.retain.labels[splits.retain_sets[name]].unique().tolist()
        assert [splits.retain.classes[index] for index in labels] == [label]


def test_names_of_retained_sets_do_not_change_the_edit(snow, fix):
    """The selection sees the sets together, whatever their names."""
    sets = snow["retain"]
    joined = repair(**{**snow, "retain": {"a": sets["sleds"], "b": sets["penguins"]}})
    assert joined.edit.digest == fix.edit.digest


def test_named_retained_sets_that_share_an_image_are_refused(snow):
    sleds = snow["retain"]["sleds"]
    with pytest.raises(ValueError, match="share 1 images"):
        repair(**{**snow, "retain": {"a": sleds, "b": sleds.subset([3])}})


def test_retained_sets_with_the_same_name_are_refused(snow):
    sleds = snow["retain"]["sleds"]
    with pytest.raises(ValueError, match="'1'"):
        repair(**{**snow, "retain": {1: sleds.subset(range(5)), "1": sleds.subset(range(5, 10))}})


def test_retained_set_of_one_image_is_evaluated_without_it(snow):
    retain = {**snow["retain"], "one": scenes(1, 7_400_000, ["sled"])}
    again = repair(**{**snow, "retain": retain})
    [check] = [check for check in again.checks if "'one'" in check.name]
    assert check.allows == "unclear" and len(again.evaluation.retained["one"].before) == 1
    assert len(again.evaluation.all_retained.before) == 32


def test_poor_exemplar_is_not_used_and_says_why(snow):
    """x and x' are predicted alike: a corner of the road, hardly changed."""
    image = snow["exemplars"].image
    mask = torch.zeros_like(snow["exemplars"].mask)
    mask[-4:, :6] = 1
    poor = Exemplar(image, torch.where(mask > 0, 0.8 * image, image), mask, snow["exemplars"].label)
    with pytest.warns(UserWarning, match="x' is predicted otherwise than x"):
        again = repair(**{**snow, "exemplars": poor})
    assert again.verdict.word == "do not use" and "x' is predicted as car" in again.verdict.reason
    assert again.summary().startswith("do not use: ")
    assert statuses(again.checks)["x' is predicted otherwise than x"] == "fail"


def test_repair_without_retained_images_says_that_they_were_not_measured(snow):
    again = repair(**{**snow, "retain": None})
    assert statuses(again.checks)["retained images are given"] == "not measured"
    assert again.evaluation.retained == {} and "retained" not in again.table.columns


def test_failing_images_are_unclear_at_best(snow, fix):
    """The same edit is selected, whatever is said about the images; but what it breaks is not seen."""
    again = repair(**snow, source="failures")
    name = "some images with the concept are correct without the edit"
    assert again.edit.digest == fix.edit.digest
    assert statuses(fix.checks)[name] == "pass" and statuses(again.checks)[name] == "fail"
    assert again.verdict.word != "use"
    assert again.report_data()["settings"]["source"] == "failures"
    with pytest.raises(ValueError, match="'fails'"):
        repair(**snow, source="fails")


def test_random_direction_in_the_table_is_the_mean_of_three_draws(snow, fix):
    """By hand, with the model itself: for each seed and fold, a random direction in the layer that was selected."""
    target = fix.search.splits.target
    site = fix.search.site("features.10", [snow["exemplars"]])
    corrected = []
    broken = []
    assert len(fix.random_directions) == DRAWS == 3
    for seed, draw in enumerate(fix.random_directions):
        [edit] = METHODS["random direction"].edits(site, seed=seed)
        after = with_edit(snow["classifier"], edit, target)
        before = misclassified(predict(snow["classifier"], target), target.labels)
        for fold, selection in enumerate(fix.selection.fold_selections):
            if not selection.feasible:
                after = torch.where(fix.search.splits.folds["target"] == fold, before, after)
        assert torch.equal(draw.before, before) and torch.equal(draw.after, after)
        corrected.append(int((before & ~after).sum()))
        broken.append(int((~before & after).sum()))
    row = fix.table.loc["random direction"]
    assert len(set(corrected)) > 1  # the draws differ
    assert row.corrected == pytest.approx(sum(corrected) / 3) and row.broken == pytest.approx(sum(broken) / 3)
    net = (sum(corrected) - sum(broken)) / 3
    assert row["share"] == pytest.approx(net / 17)
    [check] = [check for check in fix.checks if "random directions" in check.name]
    assert f"{net:.1f} net" in check.figure


def test_alternative_is_evaluated_on_the_same_images_and_informs(snow, fix):
    """By hand: a network that was made elsewhere, here with the edit at another strength, classifies the images."""
    other = (0.5 * fix.edit).edited(snow["classifier"])
    again = repair(**snow, alternatives={"retrained": other})
    found = again.others["retrained"]
    splits = again.search.splits
    for name, one in (("target", found.target), ("clean", found.clean), ("retain", found.all_retained)):
        images = splits.labeled[name]
        assert torch.equal(one.before, misclassified(predict(snow["classifier"], images), images.labels))
        assert torch.equal(one.after, misclassified(predict(other, images), images.labels))
    assert {name: len(one.before) for name, one in found.retained.items()} == {"sleds": 20, "penguins": 11}
    row = again.table.loc["retrained"]
    assert row.corrected == found.target.corrected > 0 and row["accuracy change"] == found.clean.accuracy_change
    assert again.edit.digest == fix.edit.digest and again.verdict.word == fix.verdict.word
    assert f"{found.target.corrected} of 17 corrected" in again.verdict.lines["instead"]
    assert not again.alternatives  # it holds edits of networks that were fine-tuned here


def test_alternative_with_other_classes_is_refused_before_the_search(snow):
    classes = snow["classifier"].classes
    counted = []
    for names in (classes[::-1], classes[:-1]):
        other = Classifier(snow["classifier"].model, names, size=64)
        bars = bars_that_call(lambda bar: counted.append(bar.desc))
        with pytest.raises(ValueError, match=f"{len(names)} classes"):
            repair(**{**snow, "progress": bars}, alternatives={"other": other})
    assert "edit" not in "".join(counted)


def test_edit_of_repair_has_its_verdict(fix, tmp_path):
    fix.edit.save(tmp_path / "edit.safetensors")
    loaded = Edit.load(tmp_path / "edit.safetensors")
    assert loaded.verdict == fix.edit.verdict == str(fix.verdict)
    assert loaded.digest == fix.edit.digest


def test_check_of_ones_own_comes_first_and_counts_in_the_verdict(fix):
    looked = Check("a person has looked", None, "nobody has", "Look at the images.", UNCLEAR)
    harmful = Check("it does no harm", False, "it does", "Do not use it.", DO_NOT_USE)
    assert fix.with_check(replace(looked, holds=True)).verdict.word == fix.verdict.word
    assert fix.with_check(looked).verdict.word == min("unclear", fix.verdict.word, key=WORDS.index)
    both = fix.with_check(looked).with_check(harmful)
    assert both.checks == both.verdict.checks == (harmful, looked, *fix.checks)
    assert both.verdict.word == "do not use" and both.verdict.reason.startswith("it does")
    assert both.edit.verdict == str(both.verdict) and both.edit.digest == fix.edit.digest
    lines = both.summary().splitlines()
    assert lines[0] == str(both.verdict) and str(harmful) in lines and str(looked) in lines
    assert [check["name"] for check in both.report_data()["checks"][:2]] == [harmful.name, looked.name]
    assert both.table.equals(fix.table) and looked not in fix.checks  # the original stays as it was


@pytest.fixture(scope="module")
def whole(snow):
    """What `repair` finds with two strengths, when nothing ends it."""
    return repair(**{**snow, "strengths": (0.5, 1.0)})


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_repair_that_a_bar_ends_gives_the_best_so_far_and_is_unclear_at_best(snow, whole, part):
    """After the first candidate, half of them, or all but one."""
    outcomes = whole.selection.outcomes
    count = max(1, round(part * (len(outcomes) - 1)))

    def end(bar):
        if bar.n == count:
            raise InterruptedError

    fix = repair(**{**snow, "strengths": (0.5, 1.0), "progress": bars_that_call(end)})
    expected = whole.search.cross_validated(outcomes.of_candidates(range(count)))
    assert not fix.complete and fix.selection.n_candidates == count < len(outcomes)
    assert fix.selection.params == expected.params and fix.edit.digest == expected.edit.digest
    assert torch.equal(fix.evaluation.target.after, expected.held_out["target"].after)
    assert torch.equal(fix.evaluation.clean.after, expected.held_out["clean"].after)
    assert statuses(fix.checks)["the search is complete"] == "fail"
    assert fix.verdict.advice == verdict_of(fix.checks).advice  # a limit may concern what was tried only
    assert fix.verdict.word in ("unclear", "do not use") and fix.edit.verdict == str(fix.verdict)
    assert fix.summary() and fix.report_data()["complete"] is False


def test_bar_without_a_method_of_tqdm_raises_and_does_not_end_the_repair(snow):
    class Bar(bars_that_call(lambda bar: None)):
        set_postfix = None

    with pytest.raises(TypeError, match="not callable"):
        repair(**{**snow, "progress": Bar})


def test_swapped_exemplar_is_not_used_and_asks_whether_it_is(snow):
    exemplar = snow["exemplars"]
    swapped = replace(exemplar, image=exemplar.changed, changed=exemplar.image)
    with pytest.warns(UserWarning, match="swapped"):
        again = repair(**{**snow, "exemplars": swapped})
    assert again.verdict.word == "do not use" and "swapped" in again.verdict.advice


def shifted(data):
    """Images with labels that are counted from 1 instead of 0."""
    return replace(data, labels=(data.labels + 1) % len(data.classes))


def test_clean_images_with_wrong_labels_are_doubted(snow):
    with pytest.warns(UserWarning, match="labels right"):
        again = repair(**{**snow, "clean": shifted(snow["clean"]), "retain": None})
    [check] = [check for check in again.checks if "labels of the clean images" in check.name]
    assert check.allows == "unclear" and "labels right" in check.advice


def test_retained_images_with_wrong_labels_are_doubted(snow):
    with pytest.warns(UserWarning, match="retained images are plausible.*labels right"):
        again = repair(**{**snow, "retain": {"sleds": shifted(snow["retain"]["sleds"])}})
    [check] = [check for check in again.checks if "labels of the retained images" in check.name]
    assert check.allows == "unclear"


# --- searches ---------------------------------------------------------------------------------------------------------


def scored(search, snow, name="edit"):
    """The outcomes of a method with the settings of `snow`."""
    return search.score(METHODS[name].trying(snow["settings"]))


def selected(search, snow):
    """The best edit of a search with the settings of `snow`."""
    return search.select(scored(search, snow))


@pytest.fixture(scope="module")
def search(snow):
    vehicles = scenes(90, 7_500_000, [("van", "tractor", "bicycle")[i % 3] for i in range(90)], ground="snow")
    clean = snow["clean"]
    splits = Splits(
        reference=clean.images[:50],
        target=vehicles.subset(range(45)),
        clean=clean.subset(range(50, 80)),
        target_test=vehicles.subset(range(45, 90)),
        clean_test=scenes(20, 7_600_000),
    )
    loose = Constraints(max_accuracy_drop=5.0)
    return Search(snow["classifier"], snow["exemplars"], splits, ["features.10"], loose)


@pytest.fixture(scope="module")
def selection(snow, search):
    return selected(search, snow)


def test_evaluation_uses_the_test_splits(snow, search, selection):
    evaluation = Evaluation.of(search, selection)
    splits = search.splits
    assert torch.equal(evaluation.target.after, with_edit(snow["classifier"], selection.edit, splits.target_test))
    assert torch.equal(evaluation.clean.after, with_edit(snow["classifier"], selection.edit, splits.clean_test))
    other = selection.edit.edited(snow["classifier"])
    network = Evaluation.of_network(search, other)
    assert torch.equal(network.target.after, evaluation.target.after)
    assert torch.equal(network.clean.after, evaluation.clean.after)


def test_random_directions_of_a_search_are_evaluated_on_its_test_images(snow, search, selection):
    site = search.site("features.10", [snow["exemplars"]])
    for seed, draw in enumerate(random_directions(search, selection)):
        [edit] = METHODS["random direction"].edits(site, seed=seed)
        assert torch.equal(draw.after, with_edit(snow["classifier"], edit, search.splits.target_test))


def test_assessment_of_a_search_compares_what_was_measured(search, selection):
    other = Evaluation.of(search, selection)
    assessment = Assessment(search, selection, others={"mine": other})
    assert list(assessment.table.index) == ["selected", "random direction", "mine"]
    same = [name for name in assessment.evaluation.row() if name in assessment.table]
    assert assessment.table.loc["mine", same].equals(assessment.table.loc["selected", same])
    assert assessment.verdict.word in WORDS and " min " not in assessment.verdict.lines["instead"]
    with pytest.raises(TypeError, match="dict"):
        Assessment(search, {"selected": selection})


def test_assessment_without_held_out_images_is_unclear(snow, search):
    splits = replace(search.splits, target_test=None, clean_test=None)
    other = Search(snow["classifier"], snow["exemplars"], splits, ["features.10"], search.constraints)
    selection = selected(other, snow)
    assessment = Assessment(other, selection)
    assert selection.feasible and assessment.verdict.word == "unclear"
    assert assessment.evaluation.target is None and assessment.evaluation.clean is None
    assert assessment.random_directions == []
    folded = Search(snow["classifier"], snow["exemplars"], splits.with_folds(3), ["features.10"], search.constraints)
    crossed = folded.cross_validated(scored(folded, snow))
    assert len(crossed.fold_selections) == 3
    assert torch.equal(Evaluation.of(folded, crossed).target.after, crossed.held_out["target"].after)


def test_infeasible_selection_is_not_used_and_says_what_stands_in_the_way(snow, search):
    target = search.splits.target
    correct = ~misclassified(predict(snow["classifier"], target), target.labels)
    splits = replace(search.splits, target=target.subset(correct.nonzero()[:, 0]))  # nothing to correct
    other = Search(snow["classifier"], snow["exemplars"], splits, ["features.10"], search.constraints)
    nothing = selected(other, snow)
    verdict = Assessment(other, nothing).verdict
    assert not nothing.feasible and verdict.word == "do not use"
    assert f"{nothing.n_candidates} candidates" in verdict.reason and verdict.advice
    assert statuses(verdict.checks)["a candidate is feasible"] == "fail"


@pytest.mark.parametrize(
    ("needed", "names"),
    [
        (["max_retain_broken"], ["retained images"]),
        (["max_accuracy_drop"], ["accuracy"]),
        (["max_own_drop"], ["own class"]),
        (["max_retain_broken", "max_own_drop"], ["no limit alone"]),
    ],
)
def test_limiting_constraint_is_the_first_without_which_clearly_more_is_corrected(needed, names):
    """Of 24 errors, 3 are corrected, or 20 if some of the limits are left out."""
    limits = Constraints()
    outcomes = Outcomes([None, None], torch.zeros(2, 60), torch.zeros(2, 60).bool(), on_concept(0).target.before)
    costs = {"clean": lost(60, 10_000), "retain": lost(50, 1000), "own_class": lost(30, 100)}

    def select(_, constraints):
        is_loosened = all(getattr(constraints, name) > getattr(limits, name) for name in needed)
        corrected = 20 if is_loosened else 3
        wrong = on_concept(corrected).target.after
        return SimpleNamespace(scores={"corrected": corrected}, wrong=wrong, costs=costs)

    splits = SimpleNamespace(retain=None, retain_sets={}, scenes=None)
    search = SimpleNamespace(
        constraints=limits, activations=costs, accuracy_without_concept=0.9, select=select, splits=splits
    )
    selection = SimpleNamespace(scores={"corrected": 3}, outcomes=outcomes)
    text = limiting_constraint(search, selection)
    assert all(name in text.split(":")[0] for name in names)
    for figure in ("20 of 24", "-0.60 points", "50 of 1,000", "70 of 100"):
        assert figure in text
    selection.scores["corrected"] = 11  # 20 are less than twice as many
    assert limiting_constraint(search, selection) == ""


def test_exemplars_that_go_into_one_edit_are_all_counted(snow, search):
    pair = list(car_exemplars(snow["classifier"]).values())[:2]
    both = Search(snow["classifier"], {"pair": pair}, search.splits, ["features.10"], search.constraints)
    selection = selected(both, snow)
    assert selection.feasible and used_exemplars(both, selection) == [0, 1]
    assert [name for name, _ in both.exemplar_members] == ["pair", "pair"]
    assert any("2 exemplars" in check.figure for check in Assessment(both, selection).checks)


def test_check_of_x_without_labels_is_not_measured(snow, search):
    unlabeled = replace(snow["exemplars"], label=None)
    other = Search(snow["classifier"], unlabeled, search.splits, ["features.10"], search.constraints)
    checks = Assessment(other, selected(other, snow)).checks
    assert statuses(checks)["x is classified correctly"] == "not measured"
