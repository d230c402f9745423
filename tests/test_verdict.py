"""The verdict on an edit: the checks, their fold, and the numbers of images that would decide."""

import warnings
from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import torch
from scipy.stats import binomtest

from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import Comparison, mcnemar, misclassified, predict
from edittools.miniworld.scenes import scenes
from edittools.moments import second_moments
from edittools.rewriting import rewrite
from edittools.scenarios.snow import car_exemplars
from edittools.selection import Check, Constraints, EditSearch, Evaluation, Splits, judge, repair
from edittools.selection.judgment import (
    DO_NOT_USE,
    FEWEST_ERRORS,
    POWER,
    UNCLEAR,
    USE,
    WORDS,
    accuracy_check,
    change_inside_mask,
    completeness_check,
    evaluate,
    evaluation_checks,
    fold,
    images_needed,
    named_members,
    power,
    retained_check,
    used_exemplars,
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
        assert fold(checks).word == min(allowed, key=WORDS.index)
        assert fold(checks).checks == tuple(checks)


def test_fold_gives_the_figures_of_the_checks_that_decide_and_the_first_advice():
    checks = [
        Check("informs", False, "1 image", "A"),
        Check("unclear", None, "2 images", "B", UNCLEAR),
        Check("bad", False, "3 images", "C", DO_NOT_USE),
        Check("good", True, "4 images", "D", DO_NOT_USE),
        Check("also bad", False, "5 images", "E", DO_NOT_USE),
    ]
    verdict = fold(checks)
    assert (verdict.reason, verdict.advice) == ("3 images; 5 images", "C")
    assert fold(checks[:2]).reason == "2 images" and fold(checks[:2]).advice == "B"
    use = fold([checks[0], checks[3]])
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


TARGET = comparison(20, 1, 24)
CONTROL = comparison(15, 0, 24)
GOOD = Evaluation(TARGET, lost(20, 10_000), {"huskies": lost(10, 1000), "ski slopes": lost(30, 1000)})
CASES = {
    "all holds": ({}, {}, "use"),
    "no retained images": ({"retained": {}}, {}, "use"),
    "too few images": (
        {"target": comparison(4, 0, 5)},
        {"controls": {"random direction": comparison(1, 0, 5)}},
        "unclear",
    ),
    "no control": ({}, {"controls": {}}, "unclear"),
    "no clean image held out": ({"clean": None}, {}, "unclear"),
    "no image held out": ({"target": None}, {"controls": {}}, "unclear"),
    "a retained set too small": ({"retained": {"huskies": lost(10, 1000), "ski slopes": None}}, {}, "unclear"),
    "interrupted": ({}, {"complete": False}, "unclear"),
    "a control corrects as many": ({}, {"controls": {"random direction": comparison(19, 0, 24)}}, "do not use"),
    "accuracy is lost": ({"clean": lost(26, 10_000)}, {}, "do not use"),
    "one retained set breaks": (
        {"retained": {"huskies": lost(0, 1000), "ski slopes": lost(31, 1000)}},
        {},
        "do not use",
    ),
    "it breaks as many as it corrects": ({"target": comparison(3, 3, 24)}, {"controls": {}}, "do not use"),
    "few images and a control corrects as many": (
        {"target": comparison(2, 0, 22)},
        {"controls": {"random direction": comparison(7, 0, 22)}},
        "do not use",
    ),
}


def judged(changes, controls=None, complete=True):
    """The verdict if the evaluation was as in `GOOD`, but for some changes."""
    targets = {"random direction": CONTROL} if controls is None else controls
    evaluations = {name: Evaluation(target, None) for name, target in targets.items()}
    checks = evaluation_checks(replace(GOOD, **changes), evaluations, Constraints())
    return fold([completeness_check(100, complete), *checks])


@pytest.mark.parametrize(("changes", "options", "word"), CASES.values(), ids=CASES)
def test_verdict_on_constructed_cases(changes, options, word):
    verdict = judged(changes, **options)
    assert verdict.word == word and str(verdict).startswith(f"{word}: ")
    assert bool(verdict.advice) == (word != "use")


def test_verdict_names_the_numbers_behind_it():
    retained = {"huskies": lost(0, 1000), "ski slopes": lost(31, 1000)}
    assert "'ski slopes'" in judged({"retained": retained}).reason
    controls = {"logit correction": comparison(2, 0, 24), "random direction": comparison(19, 0, 24)}
    assert "random direction" in judged({}, controls).reason
    both = judged({"clean": lost(200, 10_000)}, {"random direction": comparison(24, 0, 24)})
    assert "-2.00" in both.reason and "24" in both.reason


@pytest.mark.parametrize(("corrected", "word"), [(5, "unclear"), (6, "use")])
def test_verdict_at_the_boundary_of_the_exact_test(corrected, word):
    """5 of 5 have p 0.0625, 6 of 6 have p 0.03125; 6 is what the check before the search asks for."""
    few = {"target": comparison(corrected, 0, corrected)}
    controls = {"random direction": comparison(0, 0, corrected)}
    assert judged(few, controls).word == word
    assert mcnemar(FEWEST_ERRORS, 0) <= 0.05 < mcnemar(FEWEST_ERRORS - 1, 0)


def test_unclear_verdict_names_about_how_many_images_would_decide():
    verdict = judged({"target": comparison(4, 1, 10)}, {"random direction": comparison(1, 0, 10)})
    needed = images_needed(4, 1, 10)
    assert needed > 10 and f" {needed} " in verdict.advice


@pytest.mark.parametrize(("images", "may_lose"), [(100, 1), (799, 1), (800, 2), (2000, 5)])
def test_accuracy_check_lets_one_image_be_lost_or_a_quarter_point(images, may_lose):
    assert accuracy_check(lost(may_lose, images), Constraints()).holds
    assert not accuracy_check(lost(may_lose + 1, images), Constraints()).holds


@pytest.mark.parametrize(("broken", "holds"), [(3, True), (4, False)])
def test_retained_check_names_the_set_and_how_many_may_break(broken, holds):
    check = retained_check("huskies", lost(broken, 100), 3)
    assert check.holds == holds and "'huskies'" in check.name
    assert f"{broken} of 100" in check.figure and f"{broken}.0%" in check.figure


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


@pytest.mark.parametrize("shares", [(0.7, 0.1), (0.5, 0.0), (1.0, 0.0), (0.9, 0.1)])
@pytest.mark.parametrize("images", [5, 6, 9])
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
    assert sum(fix.evaluations["selected"].describe_locality() in line for line in lines) == 1


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
    assert fix.evaluations["selected"].locality == (kept, correct)


def test_named_retained_sets_have_a_check_each(snow, fix):
    sizes = {name: len(one.before) for name, one in fix.evaluations["selected"].retained.items()}
    assert sizes == {"sleds": 10, "penguins": 5}
    for name in sizes:
        [check] = [check for check in fix.checks if f"{name!r}" in check.name]
        assert f"of {sizes[name]}" in check.figure
    assert fix.table.loc["selected", "retained"] == 15
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
    assert len(again.evaluations["selected"].all_retained.before) == 15


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
    assert statuses(again.checks)["it corrects more than every control"] == "not measured"
    assert statuses(again.checks)["retained images are given"] == "not measured"


def test_verdict_follows_from_the_table(fix):
    """By hand, from the figures that the table shows."""
    table = fix.table
    net = table.corrected - table.broken
    controls = net[["random direction", "local fine-tuning", "logit correction"]]
    row = table.loc["selected"]
    one_image = 100 / len(fix.search.splits.clean_test)
    holds = row["accuracy change"] >= -max(fix.search.constraints.max_accuracy_drop, one_image) - 1e-9
    retained = fix.evaluations["selected"].retained.values()
    holds = holds and all(one.broken <= 0.03 * len(one.before) for one in retained)
    if net.selected <= controls.max() or not holds:
        assert fix.verdict.word == "do not use"
    else:
        assert fix.verdict.word == ("use" if row.p <= 0.05 else "unclear")


# --- searches ---------------------------------------------------------------------------------------------------------


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
    return EditSearch(snow["classifier"], snow["exemplars"], splits, ["features.10"], loose)


@pytest.fixture(scope="module")
def selection(snow, search):
    return search.select(search.candidates("rewrite", snow["settings"]))


def test_evaluate_uses_the_test_splits(search, selection):
    evaluation = evaluate(search, selection)
    test = search.activations["target_test"]
    assert torch.equal(evaluation.target.after, test.compare(selection.edit).after)
    assert torch.equal(evaluation.clean.after, search.activations["clean_test"].compare(selection.edit).after)


def test_judge_compares_the_edit_with_controls_of_the_same_search(snow, search, selection):
    control = search.select(search.candidates("random_direction", snow["settings"]))
    verdict = judge(search, selection, {"random direction": control})
    of_control = evaluate(search, control).target
    [check] = [check for check in verdict.checks if check.name == "it corrects more than every control"]
    assert check.status != "not measured" and f"{of_control.corrected - of_control.broken} net" in check.figure
    assert verdict.word in WORDS


def test_judge_without_held_out_images_is_unclear(snow, search):
    splits = replace(search.splits, target_test=None, clean_test=None)
    other = EditSearch(snow["classifier"], snow["exemplars"], splits, ["features.10"], search.constraints)
    selection = other.select(other.candidates("rewrite", snow["settings"]))
    assert selection.feasible and judge(other, selection).word == "unclear"
    evaluation = evaluate(other, selection)
    assert evaluation.target is None and evaluation.clean is None
    cv = other.select(other.candidates("rewrite", snow["settings"]), cv=3)
    assert torch.equal(evaluate(other, cv).target.after, cv.held_out.after)


def test_infeasible_selection_is_not_used_and_says_what_stands_in_the_way(snow, search):
    target = search.splits.target
    correct = ~misclassified(predict(snow["classifier"], target), target.labels)
    splits = replace(search.splits, target=target.subset(correct.nonzero()[:, 0]))  # nothing to correct
    other = EditSearch(snow["classifier"], snow["exemplars"], splits, ["features.10"], search.constraints)
    nothing = other.select(other.candidates("rewrite", snow["settings"]))
    verdict = judge(other, nothing)
    assert not nothing.feasible and verdict.word == "do not use"
    assert f"{nothing.n_candidates} candidates" in verdict.reason and verdict.advice
    assert statuses(verdict.checks)["a candidate is feasible"] == "fail"


def test_exemplars_that_go_into_one_edit_are_all_counted(snow, search):
    pair = list(car_exemplars(snow["classifier"], 2).values())
    both = EditSearch(snow["classifier"], {"pair": pair}, search.splits, ["features.10"], search.constraints)
    selection = both.select(both.candidates("rewrite", snow["settings"]))
    assert selection.feasible and used_exemplars(both, selection) == [0, 1]
    assert [name for name, _ in named_members(both)] == ["pair", "pair"]
    assert any("2 exemplars" in check.figure for check in judge(both, selection).checks)


def test_check_of_x_without_labels_is_not_measured(snow, search):
    unlabeled = replace(snow["exemplars"], label=None)
    other = EditSearch(snow["classifier"], unlabeled, search.splits, ["features.10"], search.constraints)
    selection = other.select(other.candidates("rewrite", snow["settings"]))
    assert statuses(judge(other, selection).checks)["x is classified correctly"] == "not measured"


def test_classifier_and_labels_are_left_as_they_were(snow, fix):
    assert isinstance(snow["classifier"], Classifier) and isinstance(snow["failing"], LabelledImages)
    assert torch.equal(snow["failing"].labels, fix.search.splits.target.labels)
