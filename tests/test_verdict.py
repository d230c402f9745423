"""The verdict on an edit: the checks, their fold, and the numbers of images that would decide."""

import re
import warnings
from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import torch
from conftest import bars_that_call
from scipy.stats import binomtest

from edittools.course.miniworld.scenes import scenes
from edittools.course.scenarios.snow import car_exemplars
from edittools.edits import Edit
from edittools.exemplars import Exemplar
from edittools.methods import METHODS
from edittools.metrics import Comparison, accuracy_interval, mcnemar, misclassified, predict, wilson
from edittools.moments import second_moments
from edittools.rewriting import rewrite
from edittools.selection import (
    Assessment,
    Check,
    Constraints,
    Evaluation,
    Search,
    Splits,
    repair,
    stratified_folds,
)
from edittools.selection.checks import (
    DRAWS,
    FEWEST_ERRORS,
    accuracy_check,
    baseline_check,
    change_inside_mask,
    completeness_check,
    evaluation_checks,
    random_check,
    reliability_check,
    retained_check,
    used_exemplars,
)
from edittools.selection.verdict import (
    DO_NOT_USE,
    POWER,
    UNCLEAR,
    USE,
    WORDS,
    images_needed,
    power,
    verdict_of,
)

# --- the fold ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holds", "at_best", "word"),
    [
        (True, DO_NOT_USE, USE),
        (False, USE, USE),
        (False, UNCLEAR, UNCLEAR),
        (False, DO_NOT_USE, DO_NOT_USE),
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


def test_fold_gives_the_figures_of_the_checks_that_decide_and_the_first_advice():
    checks = [
        Check("informs", False, "1 image", "A"),
        Check("unclear", None, "2 images", "B", UNCLEAR),
        Check("bad", False, "3 images", "C", DO_NOT_USE),
        Check("good", True, "4 images", "D", DO_NOT_USE),
        Check("also bad", False, "5 images", "E", DO_NOT_USE),
    ]
    verdict = verdict_of(checks)
    assert (verdict.reason, verdict.advice) == ("3 images; 5 images", "C")
    assert verdict_of(checks[:2]).reason == "2 images" and verdict_of(checks[:2]).advice == "B"
    use = verdict_of([checks[0], checks[3]])
    assert (use.word, use.reason, use.advice) == (USE, "4 images", "")


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


def draws(*comparisons):
    """Draws of random directions, by name."""
    return {f"random direction {number}": one for number, one in enumerate(comparisons, 1)}


TARGET = comparison(20, 1, 30, 24)
CONTROL = comparison(10, 0, 30, 24)
RANDOM = draws(*[CONTROL] * DRAWS)
GOOD = Evaluation(TARGET, lost(20, 10_000), {"huskies": lost(10, 1000), "ski slopes": lost(30, 1000)})
CASES = {
    "all holds": ({}, {}, "use"),
    "no retained images": ({"retained": {}}, {}, "use"),
    "too few images": (
        {"target": comparison(4, 0, 5)},
        {"drawn": draws(*[comparison(0, 0, 5, 4)] * DRAWS)},
        "unclear",
    ),
    "no draw": ({}, {"drawn": {}}, "unclear"),
    "no clean image held out": ({"clean": None}, {}, "unclear"),
    "no image held out": ({"target": None}, {"drawn": {}}, "unclear"),
    "a retained set too small": ({"retained": {"huskies": lost(10, 1000), "ski slopes": None}}, {}, "unclear"),
    "interrupted": ({}, {"complete": False}, "unclear"),
    "one random direction corrects more": (
        {},
        {"drawn": RANDOM | draws(comparison(20, 0, 30, 24))},
        "do not use",
    ),
    "one random direction corrects hardly less": (
        {},
        {"drawn": RANDOM | draws(comparison(18, 0, 30, 24))},
        "unclear",
    ),
    "fewer than five random directions": ({}, {"drawn": draws(*[CONTROL] * (DRAWS - 1))}, "unclear"),
    "an alternative corrects more": ({}, {"alternatives": {"logit correction": comparison(22, 0, 30, 24)}}, "use"),
    "an alternative corrects significantly more": (
        {"target": comparison(14, 1, 30, 24)},
        {
            "drawn": draws(*[comparison(3, 0, 30, 24)] * DRAWS),
            "alternatives": {"logit correction": comparison(24, 0, 30, 24)},
        },
        "do not use",
    ),
    "accuracy is lost": ({"clean": lost(60, 10_000)}, {}, "do not use"),
    "accuracy may be lost": ({"clean": lost(26, 10_000)}, {}, "unclear"),
    "one retained set breaks": (
        {"retained": {"huskies": lost(0, 1000), "ski slopes": lost(60, 1000)}},
        {},
        "do not use",
    ),
    "one retained set may break": (
        {"retained": {"huskies": lost(0, 1000), "ski slopes": lost(31, 1000)}},
        {},
        "unclear",
    ),
    "it breaks as many as it corrects": ({"target": comparison(3, 3, 24)}, {"drawn": {}}, "do not use"),
    "few images and a draw corrects more": (
        {"target": comparison(2, 0, 22)},
        {"drawn": draws(*[comparison(7, 0, 22)] * DRAWS)},
        "do not use",
    ),
}


def judged(changes, drawn=RANDOM, alternatives=None, complete=True):
    """The verdict if the evaluation was as in `GOOD`, but for some changes."""
    found = replace(GOOD, **changes)
    others = alternatives or {}
    checks = evaluation_checks(found.target, found.clean, found.retained, drawn, others, Constraints())
    return verdict_of([completeness_check(100, complete), *checks])


@pytest.mark.parametrize(("changes", "options", "word"), CASES.values(), ids=CASES)
def test_verdict_on_constructed_cases(changes, options, word):
    verdict = judged(changes, **options)
    assert verdict.word == word and str(verdict).startswith(f"{word}: ")
    assert bool(verdict.advice) == (word != "use")


def test_verdict_names_the_numbers_behind_it():
    retained = {"huskies": lost(0, 1000), "ski slopes": lost(31, 1000)}
    assert "'ski slopes'" in judged({"retained": retained}).reason
    drawn = RANDOM | draws(comparison(24, 0, 30, 24))
    others = {"logit correction": comparison(2, 0, 30, 24)}
    assert "random directions corrects 24 net" in judged({}, drawn, others).reason
    both = judged({"clean": lost(200, 10_000)}, RANDOM | draws(comparison(24, 0, 30, 24)))
    assert "-2.00" in both.reason and "24" in both.reason


def test_verdict_to_use_gives_the_intervals_and_names_the_best_baseline():
    verdict = judged({}, alternatives={"logit correction": comparison(22, 0, 30, 24)})
    low, high = GOOD.clean.accuracy_interval()
    assert verdict.word == "use"
    assert f"[{low:+.2f}, {high:+.2f}]" in verdict.reason  # accuracy
    assert "3.0% [2.1%, 4.3%]" in verdict.reason  # the retained ski slopes, of 1000
    assert "logit correction" in verdict.reason and "22 net" in verdict.reason


@pytest.mark.parametrize(("corrected", "word"), [(5, "unclear"), (6, "use")])
def test_verdict_at_the_boundary_of_the_exact_test(corrected, word):
    """5 of 5 have p 0.0625, 6 of 6 have p 0.03125; 6 is what the check before the search asks for."""
    few = {"target": comparison(corrected, 0, corrected)}
    drawn = draws(*[comparison(0, 0, corrected, corrected)] * DRAWS)
    assert judged(few, drawn).word == word
    assert mcnemar(FEWEST_ERRORS, 0) <= 0.05 < mcnemar(FEWEST_ERRORS - 1, 0)


def test_unclear_verdict_names_about_how_many_images_would_decide():
    verdict = judged({"target": comparison(4, 1, 10)}, draws(*[comparison(0, 0, 10, 4)] * DRAWS))
    needed = images_needed(4, 1, 10)
    assert needed > 10 and f" {needed} " in verdict.advice


@pytest.mark.parametrize(("images", "may_lose"), [(50, 1), (799, 1), (800, 2), (2000, 5)])
def test_accuracy_check_lets_one_image_be_lost_or_a_quarter_point(images, may_lose):
    assert accuracy_check(lost(may_lose, images), Constraints()).holds
    assert not accuracy_check(lost(may_lose + 1, images), Constraints()).holds


@pytest.mark.parametrize("lost_images", [0, 49])
def test_accuracy_check_of_fewer_than_50_images_is_not_measured(lost_images):
    check = accuracy_check(lost(lost_images, 49), Constraints())
    assert check.status == "not measured" and check.allows == "unclear"
    assert "49 clean images" in check.figure and "200" in check.advice


@pytest.mark.parametrize(("lost_images", "images", "allows"), [(2, 135, "unclear"), (12, 135, "do not use")])
def test_accuracy_check_forbids_only_if_the_interval_excludes_the_limit(lost_images, images, allows):
    check = accuracy_check(lost(lost_images, images), Constraints())
    assert check.status == "fail" and check.allows == allows
    assert (check.figure.count("-1.48 points [-4.31, +1.39]") == 1) == (lost_images == 2)


def test_unclear_accuracy_names_about_how_many_images_would_decide():
    advice = accuracy_check(lost(2, 135), Constraints()).advice
    needed = int(re.search(r"about (\d+) held-out", advice)[1])
    assert 135 < needed < 1000
    share = 2 / 135
    for images, decides in ((needed, True), (needed - 1, False)):
        _, most = accuracy_interval(0, share * images, images)
        assert (most < -max(0.25, 100 / images)) == decides
    assert "more than 100,000" in accuracy_check(lost(26, 10_000), Constraints()).advice


@pytest.mark.parametrize(
    ("broken", "images", "allows"),
    [
        *[(0, 19, "unclear"), (0, 20, "use"), (1, 98, "unclear"), (0, 98, "use"), (2, 99, "use"), (3, 99, "unclear")],
        *[(3, 100, "use"), (12, 100, "do not use"), (20, 50, "do not use")],
    ],
)
def test_retained_check_allows_what_the_number_of_images_can_show(broken, images, allows):
    assert retained_check("huskies", lost(broken, images), Constraints()).allows == allows


@pytest.mark.parametrize(
    ("percent", "broken", "images", "allows"),
    [(100, 3, 50, "use"), (20, 2, 60, "use"), (20, 1, 20, "use"), (1, 1, 150, "unclear"), (0, 1, 500, "do not use")],
)
def test_retained_check_follows_the_constraint(percent, broken, images, allows):
    """At 20%, 14 images are enough (0.8¹⁴ < 0.05); at 1%, 299 are, so 150 may not lose one."""
    constraints = Constraints(max_retain_broken=percent)
    assert retained_check("huskies", lost(broken, images), constraints).allows == allows


def test_unclear_retained_check_names_about_how_many_images_would_decide():
    assert " 99 held-out" in retained_check("huskies", lost(1, 50), Constraints()).advice
    advice = retained_check("huskies", lost(5, 100), Constraints()).advice
    needed = int(re.search(r"about (\d+) held-out", advice)[1])
    assert wilson(round(0.05 * needed), needed)[0] > 0.03 and needed > 100


def test_retained_images_with_wrong_labels_are_not_measured():
    """Labels that are counted from 1: nearly all images are wrong before the edit, so that they cannot break."""
    check = retained_check("huskies", comparison(0, 0, 200, 190), Constraints())
    assert check.allows == "unclear" and "of 10 " in check.figure and "labels right?" in check.advice
    half = retained_check("huskies", comparison(0, 4, 200, 100), Constraints())
    assert half.allows == "unclear" and "4 of 100 " in half.figure


@pytest.mark.parametrize(("broken", "holds"), [(3, True), (4, False)])
def test_retained_check_names_the_set_and_how_many_may_break(broken, holds):
    check = retained_check("huskies", lost(broken, 100), Constraints())
    assert check.holds == holds and "'huskies'" in check.name
    assert f"{broken} of 100" in check.figure and f"{broken}.0%" in check.figure


def of(wrong):
    """A comparison of misclassified images, of which those with these indices still are with the edit."""
    before = torch.ones(30, dtype=torch.bool)
    after = torch.zeros(30, dtype=torch.bool)
    after[list(wrong)] = True
    return Comparison(before, after)


def test_random_check_is_the_exact_test_of_paired_outcomes_against_the_best_draw():
    """Both correct 24 and 18 of 30, but the pairs decide: 6 and 0 differ, or 12 and 6."""
    edit = of(range(6))
    nested = random_check(edit, draws(of(range(12)), *[of(range(20))] * 4))
    crossed = random_check(edit, draws(of(range(18, 30)), *[of(range(20))] * 4))
    assert nested.holds and f"p {mcnemar(6, 0):.2g}" in nested.figure
    assert crossed.allows == "unclear" and f"p {mcnemar(12, 6):.2g}" in crossed.figure
    assert f" {images_needed(12, 6, 30)} " in crossed.advice
    equal = random_check(edit, draws(*[edit] * 5))
    assert equal.allows == "unclear" and equal.advice
    assert random_check(edit, draws(of(range(5)), *[of(range(20))] * 4)).allows == "do not use"


def test_baseline_check_forbids_only_what_is_significantly_better():
    edit = of(range(10))
    better = baseline_check(edit, {"logit correction": of(range(5)), "local fine-tuning": of(range(8))})
    assert better.holds and "logit correction" in better.figure and "25 net" in better.figure
    much_better = baseline_check(edit, {"logit correction": of(range(4))})
    assert much_better.allows == "do not use" and "logit correction" in much_better.advice
    assert baseline_check(edit, {}).allows == "use"


@pytest.mark.parametrize(("reliable", "exemplars", "allows"), [(0, 1, "unclear"), (0, 3, "unclear"), (1, 3, "use")])
def test_reliability_of_no_exemplar_is_at_best_unclear(reliable, exemplars, allows):
    check = reliability_check(reliable, exemplars)
    assert check.status == "fail" and check.allows == allows


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


# --- before the search ------------------------------------------------------------------------------------------------


def statuses(checks):
    return {check.name: check.status for check in checks}


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


def test_summary_begins_with_the_verdict_and_has_all_checks(fix):
    lines = fix.summary().splitlines()
    assert lines[0] == str(fix.verdict)
    assert lines[-len(fix.checks) :] == [str(check) for check in fix.checks]
    assert sum(fix.evaluation.describe_locality() in line for line in lines) == 1


def test_reliability_is_what_the_edited_model_predicts(snow, fix):
    exemplar = snow["exemplars"]
    original = predict(snow["classifier"], exemplar.image[None]).argmax()
    with fix.edit.applied(snow["classifier"]):
        changed = predict(snow["classifier"], exemplar.changed[None]).argmax()
    [check] = [check for check in fix.checks if check.name == "x' is predicted as x with the edit"]
    assert check.holds == bool(changed == original)


def test_locality_counts_correct_images_that_stay_correct(snow, fix):
    splits = fix.search.splits
    kept = correct = 0
    for images in (splits.clean_test, splits.retain_test):
        before = misclassified(predict(snow["classifier"], images), images.labels)
        with fix.edit.applied(snow["classifier"]):
            after = misclassified(predict(snow["classifier"], images), images.labels)
        correct += int((~before).sum())
        kept += int((~before & ~after).sum())
    assert fix.evaluation.locality == (kept, correct)


def test_named_retained_sets_have_a_check_each(snow, fix):
    retained = fix.evaluation.retained
    assert {name: len(one.before) for name, one in retained.items()} == {"sleds": 10, "penguins": 5}
    correct = {name: int((~one.before).sum()) for name, one in retained.items()}
    for name in correct:
        [check] = [check for check in fix.checks if f"{name!r}" in check.name]
        assert f"of {correct[name]}" in check.figure
    assert fix.table.loc["selected", "retained"] == sum(correct.values())
    members = fix.search.splits.retain_test.labels
    classes = fix.search.splits.retain_test.classes
    assert [classes[i] for i in members.tolist()] == ["sled"] * 10 + ["penguin"] * 5


def test_names_of_retained_sets_do_not_change_the_edit(snow, fix):
    """The selection sees the sets together, whatever their names."""
    sets = snow["retain"]
    joined = repair(**{**snow, "retain": {"a": sets["sleds"], "b": sets["penguins"]}, "baselines": False})
    assert joined.edit.digest == fix.edit.digest


def test_named_retained_sets_that_share_an_image_are_refused(snow):
    sleds = snow["retain"]["sleds"]
    with pytest.raises(ValueError, match="share 1 images"):
        repair(**{**snow, "retain": {"a": sleds, "b": sleds.subset([3])}})


def test_retained_set_of_one_image_is_not_measured(snow):
    retain = {**snow["retain"], "one": scenes(1, 7_400_000, ["sled"])}
    again = repair(**{**snow, "retain": retain, "baselines": False})
    [check] = [check for check in again.checks if "'one'" in check.name]
    assert check.status == "not measured" and again.verdict.word != "use"
    assert len(again.evaluation.all_retained.before) == 15


def test_poor_exemplar_is_not_used_and_says_why(snow):
    """x and x' are predicted alike: a corner of the road, hardly changed."""
    image = snow["exemplars"].image
    mask = torch.zeros_like(snow["exemplars"].mask)
    mask[-4:, :6] = 1
    poor = Exemplar(image, torch.where(mask > 0, 0.8 * image, image), mask, snow["exemplars"].label)
    with pytest.warns(UserWarning, match="x' is predicted otherwise than x"):
        again = repair(**{**snow, "exemplars": poor, "baselines": False})
    assert again.verdict.word == "do not use" and "x' is predicted as car" in again.verdict.reason
    assert again.summary().startswith("do not use: ")
    assert statuses(again.checks)["x' is predicted otherwise than x"] == "fail"


def test_repair_without_controls_is_unclear_at_best(snow):
    again = repair(**{**snow, "baselines": False, "retain": None})
    assert again.verdict.word in ("unclear", "do not use")
    assert statuses(again.checks)["it corrects more than random directions, with p ≤ 0.05"] == "not measured"
    assert statuses(again.checks)["retained images are given"] == "not measured"


def test_random_direction_in_the_table_is_the_best_of_five_draws(snow, fix):
    """By hand: for each seed, the same selection as for the edit, in a search of the same sets."""
    search = Search(snow["classifier"], snow["exemplars"], fix.search.splits, snow["layers"], fix.search.constraints)
    folds = fix.selection.folds
    nets = []
    for seed in range(DRAWS):
        seeded = [{**setting, "seed": seed} for setting in snow["settings"]]
        outcomes = search.score(METHODS["random direction"].trying(seeded, snow["strengths"]))
        held_out = search.cross_validated(outcomes, folds).held_out
        nets.append(held_out.corrected - held_out.broken)
        of_repair = fix.selections[f"random direction {seed + 1}"]
        assert torch.equal(of_repair.held_out.after, held_out.after)
        assert {candidate.params["seed"] for candidate in of_repair.outcomes.candidates} == {seed}
    row = fix.table.loc["random direction"]
    assert row.corrected - row.broken == max(nets)
    assert fix.rows["random direction"] == f"random direction {nets.index(max(nets)) + 1}"
    [check] = [check for check in fix.checks if "random directions" in check.name]
    assert f"best of 5 random directions corrects {max(nets)} net" in check.figure


def test_verdict_follows_from_the_table(fix):
    """By hand: 20 clean images and 15 retained images are held out, so the verdict is at best unclear."""
    table = fix.table
    net = table.corrected - table.broken
    assert fix.verdict.word == ("do not use" if net.selected < net["random direction"] else "unclear")
    assert statuses(fix.checks)["accuracy on clean images is kept"] == "not measured"


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
    assert lines[0] == str(both.verdict) and lines[-len(both.checks) :] == [str(check) for check in both.checks]
    assert [check["name"] for check in both.report_data()["checks"][:2]] == [harmful.name, looked.name]
    assert both.table.equals(fix.table) and looked not in fix.checks  # the original stays as it was


@pytest.fixture(scope="module")
def whole(snow):
    """What `repair` finds with two strengths and without controls, when nothing ends it."""
    return repair(**{**snow, "strengths": (0.5, 1.0), "baselines": False})


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_repair_that_a_bar_ends_gives_the_best_so_far_and_is_unclear_at_best(snow, whole, part):
    """After the first candidate, half of them, or all but one."""
    outcomes = whole.selection.outcomes
    count = max(1, round(part * (len(outcomes) - 1)))

    def end(bar):
        if bar.n == count:
            raise InterruptedError

    fix = repair(**{**snow, "strengths": (0.5, 1.0), "progress": bars_that_call(end)})
    tried = outcomes.of_candidates(range(count))
    expected = whole.search.cross_validated(tried, whole.search.splits.folds)
    assert not fix.complete and fix.selection.n_candidates == count < len(outcomes)
    assert fix.selection.params == expected.params and fix.edit.digest == expected.edit.digest
    assert torch.equal(fix.evaluation.target.after, expected.held_out.after)
    assert statuses(fix.checks)["the search is complete"] == "fail"
    assert fix.verdict.word in ("unclear", "do not use") and fix.edit.verdict == str(fix.verdict)
    assert fix.summary() and fix.report_data()["complete"] is False


def test_bar_without_a_method_of_tqdm_raises_and_does_not_end_the_repair(snow):
    class Bar(bars_that_call(lambda bar: None)):
        set_postfix = None

    with pytest.raises(TypeError, match="not callable"):
        repair(**{**snow, "progress": Bar, "baselines": False})


def test_swapped_exemplar_is_not_used_and_asks_whether_it_is(snow):
    exemplar = snow["exemplars"]
    swapped = replace(exemplar, image=exemplar.changed, changed=exemplar.image)
    with pytest.warns(UserWarning, match="swapped"):
        again = repair(**{**snow, "exemplars": swapped, "baselines": False})
    assert again.verdict.word == "do not use" and "swapped" in again.verdict.advice


def test_clean_images_with_wrong_labels_are_doubted(snow):
    clean = snow["clean"]
    shifted = replace(clean, labels=(clean.labels + 1) % len(clean.classes))
    with pytest.warns(UserWarning, match="labels right"):
        again = repair(**{**snow, "clean": shifted, "baselines": False, "retain": None})
    [check] = [check for check in again.checks if "labels of the clean images" in check.name]
    assert check.allows == "unclear" and "labels right" in check.advice


def test_retained_images_with_wrong_labels_are_doubted(snow):
    sleds = snow["retain"]["sleds"]
    shifted = replace(sleds, labels=(sleds.labels + 1) % len(sleds.classes))
    with pytest.warns(UserWarning, match="retained images are plausible.*labels right"):
        again = repair(**{**snow, "retain": {"sleds": shifted}, "baselines": False})
    [check] = [check for check in again.checks if "labels of the retained images" in check.name]
    assert check.allows == "unclear"


# --- searches ---------------------------------------------------------------------------------------------------------


def scored(search, snow, name="edit"):
    """The outcomes of a method with the settings of `snow`."""
    return search.score(METHODS[name].trying(snow["settings"]))


def selected(search, snow):
    """The best edit of a search with the settings of `snow`."""
    return search.select(scored(search, snow))


def assessed(search, selection):
    """The assessment of a selection that is compared with no other one."""
    return Assessment(search, {"selected": selection})


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


def test_evaluation_uses_the_test_splits(search, selection):
    evaluation = Evaluation.of(search, selection)
    test = search.activations["target_test"]
    assert torch.equal(evaluation.target.after, test.compare(selection.edit).after)
    assert torch.equal(evaluation.clean.after, search.activations["clean_test"].compare(selection.edit).after)


@pytest.fixture(scope="module")
def others(snow, search):
    """Selections of five draws of random directions, an alternative, and another candidate, by name."""
    random = METHODS["random direction"].trying(snow["settings"])
    methods = [random.draw(seed) for seed in range(DRAWS)]
    methods += [METHODS["logit correction"], METHODS["projection"]]
    outcomes = search.score(methods)
    return {name: search.select(outcomes.of(name)) for name in outcomes.methods}


def test_assessment_compares_the_edit_with_draws_of_the_same_search(search, selection, others):
    assessment = Assessment(search, {"selected": selection, **others})
    names = [f"random direction {number}" for number in range(1, DRAWS + 1)]
    nets = {}
    for name in names:
        target = Evaluation.of(search, others[name]).target
        nets[name] = target.corrected - target.broken
    most = max(nets.values())
    [check] = [check for check in assessment.checks if "random directions" in check.name]
    assert check.status != "not measured" and f"{most} net" in check.figure
    assert nets[assessment.rows["random direction"]] == most
    row = assessment.table.loc["random direction"]
    assert row.corrected - row.broken == most
    one_draw = Assessment(search, {"selected": selection, names[0]: others[names[0]]})
    [alone] = [check for check in one_draw.checks if "random" in check.name]
    assert alone.allows != "use"
    assert assessment.verdict.word in WORDS


def test_assessment_compares_each_selection_by_the_role_of_its_method(search, selection, others):
    assessment = Assessment(search, {"selected": selection, "of my own": selection, **others})
    draws_by_name = [f"random direction {number}" for number in range(1, DRAWS + 1)]
    assert list(assessment.compared("control")) == draws_by_name
    assert list(assessment.compared("alternative")) == ["logit correction"]
    rows = ["selected", "of my own", "random direction", "logit correction", "projection"]
    assert list(assessment.table.index) == list(assessment.rows) == rows
    assert assessment.compared_rows == ["random direction", "logit correction"]
    unknown = {f"mine {number}": other for number, other in enumerate(others.values())}
    checks = statuses(Assessment(search, {"selected": selection, **unknown}).checks)
    assert checks["it corrects more than random directions, with p ≤ 0.05"] == "not measured"
    assert checks["no baseline corrects significantly more"] == "not measured"


def test_assessment_without_held_out_images_is_unclear(snow, search):
    splits = replace(search.splits, target_test=None, clean_test=None)
    other = Search(snow["classifier"], snow["exemplars"], splits, ["features.10"], search.constraints)
    outcomes = scored(other, snow)
    selection = other.select(outcomes)
    assessment = assessed(other, selection)
    assert selection.feasible and assessment.verdict.word == "unclear"
    assert assessment.evaluation.target is None and assessment.evaluation.clean is None
    crossed = other.cross_validated(outcomes, stratified_folds(splits.target.labels, 3))
    assert torch.equal(Evaluation.of(other, crossed).target.after, crossed.held_out.after)


def test_infeasible_selection_is_not_used_and_says_what_stands_in_the_way(snow, search):
    target = search.splits.target
    correct = ~misclassified(predict(snow["classifier"], target), target.labels)
    splits = replace(search.splits, target=target.subset(correct.nonzero()[:, 0]))  # nothing to correct
    other = Search(snow["classifier"], snow["exemplars"], splits, ["features.10"], search.constraints)
    nothing = selected(other, snow)
    verdict = assessed(other, nothing).verdict
    assert not nothing.feasible and verdict.word == "do not use"
    assert f"{nothing.n_candidates} candidates" in verdict.reason and verdict.advice
    assert statuses(verdict.checks)["a candidate is feasible"] == "fail"


def test_exemplars_that_go_into_one_edit_are_all_counted(snow, search):
    pair = list(car_exemplars(snow["classifier"]).values())[:2]
    both = Search(snow["classifier"], {"pair": pair}, search.splits, ["features.10"], search.constraints)
    selection = selected(both, snow)
    assert selection.feasible and used_exemplars(both, selection) == [0, 1]
    assert [name for name, _ in both.exemplar_members] == ["pair", "pair"]
    assert any("2 exemplars" in check.figure for check in assessed(both, selection).checks)


def test_check_of_x_without_labels_is_not_measured(snow, search):
    unlabeled = replace(snow["exemplars"], label=None)
    other = Search(snow["classifier"], unlabeled, search.splits, ["features.10"], search.constraints)
    assert statuses(assessed(other, selected(other, snow)).checks)["x is classified correctly"] == "not measured"
