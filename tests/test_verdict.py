"""The verdict on an edit: the rule, the checklist, and the numbers of images that would decide."""

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
from edittools.metrics import mcnemar, misclassified, predict
from edittools.miniworld.scenes import scenes
from edittools.moments import second_moments
from edittools.rewriting import rewrite
from edittools.scenarios.snow import car_exemplars
from edittools.selection import Constraints, EditSearch, Evidence, Splits, assess, judge, repair
from edittools.selection.diagnosis import FEWEST_ERRORS, diagnose_exemplars
from edittools.selection.verdict import POWER, images_needed, power

GOOD = Evidence(
    corrected=20,
    broken=1,
    images=24,
    controls={"random direction": 15},
    accuracy_change=-0.2,
    accuracy_limit=0.25,
    retained={"huskies": 1.0, "ski slopes": 3.0},
)
CASES = {
    "all holds": ({}, "use"),
    "no retained images": ({"retained": {}}, "use"),
    "too few images": ({"corrected": 4, "broken": 0, "images": 5, "controls": {"random direction": 1}}, "unclear"),
    "no control": ({"controls": {}}, "unclear"),
    "no clean image held out": ({"accuracy_change": None}, "unclear"),
    "no image held out": ({"corrected": 0, "broken": 0, "images": 0, "controls": {}}, "unclear"),
    "a retained set too small": ({"retained": {"huskies": 1.0, "ski slopes": None}}, "unclear"),
    "interrupted": ({"complete": False}, "unclear"),
    "a control corrects as many": ({"controls": {"random direction": 19}}, "do not use"),
    "accuracy is lost": ({"accuracy_change": -0.26}, "do not use"),
    "one retained set breaks": ({"retained": {"huskies": 0.0, "ski slopes": 3.1}}, "do not use"),
    "x' is predicted as x": ({"alike": True}, "do not use"),
    "nothing is feasible": ({"feasible": False, "obstacle": "Try another exemplar."}, "do not use"),
    "it breaks as many as it corrects": ({"corrected": 3, "broken": 3, "controls": {}}, "do not use"),
    "few images and a control corrects as many": (
        {"corrected": 2, "broken": 0, "images": 22, "controls": {"random direction": 7}},
        "do not use",
    ),
}


@pytest.mark.parametrize(("changes", "word"), CASES.values(), ids=CASES)
def test_judge_on_constructed_cases(changes, word):
    verdict = judge(replace(GOOD, **changes))
    assert verdict.word == word and str(verdict).startswith(f"{word}: ")
    assert bool(verdict.advice) == (word != "use")


def test_judge_names_the_numbers_behind_it():
    assert "'ski slopes'" in judge(replace(GOOD, retained={"huskies": 0.0, "ski slopes": 3.1})).reason
    assert "random direction" in judge(replace(GOOD, controls={"logit correction": 2, "random direction": 19})).reason
    both = judge(replace(GOOD, accuracy_change=-2.0, controls={"random direction": 30}))
    assert "-2.00" in both.reason and "30" in both.reason
    assert judge(replace(GOOD, feasible=False, obstacle="The layer 7.")).advice == "The layer 7."


@pytest.mark.parametrize(("corrected", "word"), [(5, "unclear"), (6, "use")])
def test_judge_at_the_boundary_of_the_exact_test(corrected, word):
    """5 of 5 have p 0.0625, 6 of 6 have p 0.03125; 6 is what the diagnosis asks for."""
    few = replace(GOOD, corrected=corrected, broken=0, images=corrected, controls={"random direction": 0})
    assert judge(few).word == word
    assert mcnemar(FEWEST_ERRORS, 0) <= 0.05 < mcnemar(FEWEST_ERRORS - 1, 0)


def test_unclear_verdict_names_about_how_many_images_would_decide():
    few = replace(GOOD, corrected=4, broken=1, images=10, controls={"random direction": 1})
    verdict = judge(few)
    assert verdict.images_needed == images_needed(4, 1, 10) > 10
    assert f"{verdict.images_needed}" in verdict.advice
    assert judge(replace(GOOD, controls={})).images_needed is None


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


# --- the diagnosis ----------------------------------------------------------------------------------------------------


def statuses(conditions):
    return {one.name: one.status for one in conditions}


def test_diagnosis_measures_the_mask(tiny, exemplar):
    [one] = diagnose_exemplars(tiny, {"a": [exemplar]})
    assert one.inside_mask == pytest.approx(1) and one.size == (32, 32)
    half = torch.zeros(32, 32)
    half[16:, :16] = exemplar.mask[16:, :16]
    [cut] = diagnose_exemplars(tiny, {"a": [replace(exemplar, mask=half)]})
    difference = (exemplar.changed - exemplar.image).abs().sum(0)
    assert cut.inside_mask == pytest.approx(float(difference[:, :16].sum() / difference.sum()))
    [same] = diagnose_exemplars(tiny, {"a": [replace(exemplar, changed=exemplar.image)]})
    assert same.inside_mask == 0 and same.alike


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


def test_summary_begins_with_the_verdict_and_has_the_three_numbers(fix):
    lines = fix.summary().splitlines()
    assert lines[0] == str(fix.verdict)
    for name in ("Reliability", "Generality", "Locality"):
        [line] = [line for line in lines if line.startswith(name)]
        figure, definition = fix.assessment.measures[name.lower()]
        assert figure in line and definition in line


def test_reliability_is_what_the_edited_model_predicts(snow, fix):
    exemplar = snow["exemplars"]
    original = predict(snow["classifier"], exemplar.image[None]).argmax()
    with fix.edit.applied(snow["classifier"]):
        changed = predict(snow["classifier"], exemplar.changed[None]).argmax()
    assert fix.assessment.reliable == (bool(changed == original),)


def test_locality_counts_correct_images_that_stay_correct(snow, fix):
    splits = fix.search.splits
    kept = correct = 0
    for images in (splits.clean_test, splits.retain_test):
        before = misclassified(predict(snow["classifier"], images), images.labels)
        with fix.edit.applied(snow["classifier"]):
            after = misclassified(predict(snow["classifier"], images), images.labels)
        correct += int((~before).sum())
        kept += int((~before & ~after).sum())
    assert fix.assessment.effect.locality == (kept, correct)


def test_named_retained_sets_have_a_condition_each(snow, fix):
    sizes = {name: len(one.before) for name, one in fix.assessment.effect.retained.items()}
    assert sizes == {"sleds": 10, "penguins": 5}
    for name in sizes:
        assert sum(f"{name!r}" in one.name for one in fix.conditions) == 1
        assert f"{name!r} broken" in fix.summary()
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
    [one] = [condition for condition in again.conditions if "'one'" in condition.name]
    assert one.status == "not measured" and again.verdict.word != "use"
    assert sum(len(effect.before) for effect in again.assessment.effect.retained.values() if effect is not None) == 15


def test_poor_exemplar_is_not_used_and_says_why(snow):
    """x and x' are predicted alike: a corner of the road, hardly changed."""
    image = snow["exemplars"].image
    mask = torch.zeros_like(snow["exemplars"].mask)
    mask[-4:, :6] = 1
    poor = Exemplar(image, torch.where(mask > 0, 0.8 * image, image), mask, snow["exemplars"].label)
    with pytest.warns(UserWarning, match="x' is predicted otherwise than x"):
        again = repair(**{**snow, "exemplars": poor, "baselines": False})
    assert again.verdict.word == "do not use" and "x' is predicted as x" in again.verdict.reason
    assert again.summary().startswith("do not use: ")
    assert statuses(again.conditions)["x' is predicted otherwise than x"] == "fail"


def test_repair_without_controls_is_unclear_at_best(snow):
    again = repair(**{**snow, "baselines": False, "retain": None})
    assert again.verdict.word in ("unclear", "do not use")
    assert statuses(again.conditions)["it corrects more than every control"] == "not measured"
    assert statuses(again.conditions)["retained images are given"] == "not measured"


def test_verdict_follows_from_the_table(fix):
    """By hand, from the figures that the table shows."""
    table = fix.table
    net = table.corrected - table.broken
    controls = net[["random direction", "local fine-tuning", "logit correction"]]
    row = table.loc["selected"]
    one_image = 100 / len(fix.search.splits.clean_test)
    holds = row["accuracy change"] >= -max(fix.search.constraints.max_accuracy_drop, one_image) - 1e-9
    retained = fix.assessment.effect.retained.values()
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


def test_assess_evaluates_on_the_test_splits(snow, search):
    selection = search.select(search.candidates("rewrite", snow["settings"]))
    control = search.select(search.candidates("random_direction", snow["settings"]))
    assessment = assess(search, selection, {"random direction": control})
    test = search.activations["target_test"]
    assert torch.equal(assessment.effect.target.after, test.compare(selection.edit).after)
    expected = test.compare(control.edit)
    assert assessment.controls["random direction"].target.corrected == expected.corrected
    assert assessment.verdict.word in ("use", "unclear", "do not use")


def test_assess_without_held_out_images_is_unclear(snow, search):
    splits = replace(search.splits, target_test=None, clean_test=None)
    other = EditSearch(snow["classifier"], snow["exemplars"], splits, ["features.10"], search.constraints)
    selection = other.select(other.candidates("rewrite", snow["settings"]))
    assessment = assess(other, selection)
    assert selection.feasible and assessment.verdict.word == "unclear"
    assert assessment.effect.target is None and assessment.effect.clean is None
    cv = other.select(other.candidates("rewrite", snow["settings"]), cv=3)
    assert torch.equal(assess(other, cv).effect.target.after, cv.held_out.after)


def test_exemplars_that_go_into_one_edit_are_all_counted(snow, search):
    pair = list(car_exemplars(snow["classifier"], 2).values())
    both = EditSearch(
        snow["classifier"], {"pair": pair}, search.splits, ["features.10"], search.constraints, activations=None
    )
    selection = both.select(both.candidates("rewrite", snow["settings"]))
    assert selection.feasible and len(assess(both, selection).reliable) == 2


def test_diagnosis_without_labels_is_not_measured(snow, search):
    unlabeled = replace(snow["exemplars"], label=None)
    other = EditSearch(snow["classifier"], unlabeled, search.splits, ["features.10"], search.constraints)
    selection = other.select(other.candidates("rewrite", snow["settings"]))
    assert statuses(assess(other, selection).conditions)["x is classified correctly"] == "not measured"


def test_classifier_and_labels_are_left_as_they_were(snow, fix):
    assert isinstance(snow["classifier"], Classifier) and isinstance(snow["failing"], LabelledImages)
    assert torch.equal(snow["failing"].labels, fix.search.splits.target.labels)
