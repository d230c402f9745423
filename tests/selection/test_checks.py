"""The checks of a verdict, on effects that are made by hand: their limits, and how many images they ask for."""

import pytest
import torch
from colors import color_network, marked_exemplar
from effects_by_hand import effect, effect_of

from edittools.exemplars import Exemplar
from edittools.images import LabeledImages
from edittools.reports.words import DESK, SAVE, WEAKER, verdict_words
from edittools.selection import Effect, Splits
from edittools.selection.checks import (
    ENOUGH_CLEAN,
    ENOUGH_OWN,
    ENOUGH_RETAINED,
    accuracy_check,
    breakable_check,
    change_inside_mask,
    clean_of_own_class,
    cost_checks,
    coverage_check,
    exemplar_checks,
    gain_check,
    help_checks,
    images_checks,
    instead_check,
    is_within_limits,
    objective_check,
    own_class_check,
    own_hosts_check,
    random_check,
    retained_check,
)
from edittools.stats import accuracy_interval


def splits_of(retain=(), **options):
    """Make splits whose images do not matter."""
    return Splits(torch.zeros(0, 3, 16, 16), retain=dict.fromkeys(retain), **options)


# --- helps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("corrected", "allows"), [(5, "unclear"), (6, "use")])
def test_gain_check_at_the_boundary_of_the_exact_test(corrected, allows):
    assert gain_check(effect(20, corrected=corrected)).allows == allows


def test_gain_check_of_a_loss_forbids():
    assert gain_check(effect(20, broken=3, corrected=3)).allows == "do not use"


def test_gain_check_counts_the_frames_of_a_scene_once():
    assert gain_check(effect(20, corrected=5, frames=8)).allows == "unclear"


def test_gain_check_that_is_unclear_knows_how_many_images_would_decide():
    assert gain_check(effect(10, corrected=5)).numbers["needed"] == 14
    assert gain_check(effect(10, corrected=5, frames=2)).numbers["unit"] == "scenes"


@pytest.mark.parametrize(("correct", "allows"), [(9, "unclear"), (10, "use")])
def test_breakable_check_asks_for_images_that_are_correct(correct, allows):
    assert breakable_check(effect(30, wrong=30 - correct), "sample").allows == allows
    assert breakable_check(effect(30, wrong=30 - correct), "failures").allows == "unclear"


@pytest.mark.parametrize(
    ("nets", "holds"), [([5, 5, 5], True), ([7, 7, 7], False), ([18, 0, 0], True), ([19, 1, 1], False)]
)
def test_random_check_compares_with_the_mean_of_the_draws(nets, holds):
    assert random_check(effect(30, corrected=7), [effect(30, corrected=net) for net in nets]).holds == holds


def test_without_images_with_the_concept_it_is_not_known_whether_the_edit_helps():
    [check] = help_checks(None, [], "sample")
    assert check.holds is None and check.allows == "unclear"


# --- costs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "may_lose"), [(388, 1), (799, 1), (800, 2), (2000, 5)])
def test_accuracy_check_lets_one_image_be_lost_or_a_quarter_point(images, may_lose):
    assert accuracy_check(effect(images, broken=may_lose)).allows == "use"
    assert accuracy_check(effect(images, broken=may_lose + 1)).allows != "use"
    assert accuracy_check(effect(images, broken=may_lose + 3, corrected=3)).allows == "use"


@pytest.mark.parametrize(("images", "allows"), [(387, "unclear"), (388, "use"), (10_000, "use")])
def test_accuracy_check_needs_enough_images_to_notice_a_loss_of_one_percent(images, allows):
    check = accuracy_check(effect(images))
    assert check.allows == allows
    assert check.cost.needed == 388 and check.cost.is_enough == (allows == "use")


@pytest.mark.parametrize(("lost", "allows"), [(2, "unclear"), (12, "do not use")])
def test_accuracy_check_forbids_only_if_the_interval_excludes_the_limit(lost, allows):
    assert accuracy_check(effect(135, broken=lost)).allows == allows
    assert (accuracy_interval(0, lost, 135)[1] < -100 / 135) == (allows == "do not use")


@pytest.mark.parametrize("scenes", [8, 20, 65])
def test_accuracy_check_of_frames_of_few_scenes_is_unclear(scenes):
    """With eight frames per scene, 160 and 520 images are no more evidence than 20 and 65."""
    check = accuracy_check(effect(scenes, frames=8))
    assert check.allows == "unclear" and check.cost.total == scenes


def test_accuracy_check_counts_a_scene_that_is_lost_once():
    """Eight frames of one scene are lost: 8 of 520 images, but one of 65 scenes, which may be lost in any case."""
    frames = effect(65, broken=1, frames=8)
    assert frames.comparison.broken == 8
    assert accuracy_check(frames).allows == "unclear"
    assert accuracy_check(effect(400, broken=1, frames=8)).allows == "use"
    assert accuracy_check(effect(400, broken=8)).allows == "do not use"


@pytest.mark.parametrize(
    ("broken", "images", "allows"),
    [
        *[(0, 63, "unclear"), (0, 64, "use"), (0, 87, "unclear"), (3, 110, "use"), (4, 110, "unclear")],
        *[(30, 1000, "use"), (31, 1000, "unclear"), (60, 1000, "do not use"), (20, 50, "do not use")],
    ],
)
def test_retained_check_allows_what_the_number_of_images_can_show(broken, images, allows):
    assert retained_check("huskies", effect(images, broken=broken)).allows == allows
    assert retained_check("huskies", effect(images, broken=broken, frames=4)).allows == allows


@pytest.mark.parametrize("images", range(ENOUGH_RETAINED, 400, 7))
def test_numbers_that_are_enough_stay_enough(images):
    assert retained_check("huskies", effect(images)).cost.is_enough
    assert accuracy_check(effect(images + ENOUGH_CLEAN - ENOUGH_RETAINED)).cost.is_enough


def test_retained_images_that_are_all_wrong_are_not_measured():
    check = retained_check("huskies", effect(30, wrong=30))
    assert check.holds is None and check.allows == "unclear"


def test_use_takes_the_mark_class_measured():
    """Without it, the best is "unclear", whatever else holds."""
    for own_class in (None, effect(20), effect(54)):
        check = own_class_check(own_class, effect(100), ["a"])
        assert check.holds is None and check.allows == "unclear"
    assert own_class_check(effect(ENOUGH_OWN), None, ["a"]).allows == "use"


@pytest.mark.parametrize(
    ("images", "broken", "corrected", "allows"),
    [
        *[
            (60, 0, 0, "use"),
            (60, 1, 0, "unclear"),
            (60, 12, 0, "do not use"),
            (120, 1, 0, "use"),
            (120, 2, 0, "unclear"),
        ],
        *[(400, 4, 0, "use"), (400, 20, 0, "unclear"), (400, 40, 0, "do not use"), (400, 30, 30, "unclear")],
        (2000, 20, 20, "use"),
    ],
)
@pytest.mark.parametrize("clean", [None, 400])
def test_own_class_that_falls_is_a_cost(images, broken, corrected, allows, clean):
    """Three points, and one image, may be lost: the interval has to be below that for "use", and above it to forbid."""
    own_class = effect(images, broken=broken, corrected=corrected)
    check = own_class_check(own_class, None if clean is None else effect(clean), ["a"])
    assert check.allows == allows
    assert check.cost.before - check.cost.after == broken - corrected


def test_bound_on_the_mark_class_excludes_the_limit_where_it_is_measured():
    """At a true fall of six points, at most one sample in 20 gets "use"."""
    generator = torch.Generator().manual_seed(0)
    passed = 0
    for _ in range(400):
        broken = int((torch.rand(100, generator=generator) < 0.06).sum())
        passed += own_class_check(effect(100, broken=broken), None, ["a"]).allows == "use"
    assert passed <= 20


@pytest.mark.parametrize(
    ("correct_without", "lost", "allows"),
    [(400, 0, "use"), (300, 60, "use"), (300, 95, "unclear"), (300, 160, "do not use"), (400, 60, "do not use")],
)
def test_own_class_may_lose_what_the_mark_has_given_it(correct_without, lost, allows):
    """All 400 images with the mark are correct before; without it, some are not."""
    without = effect(400, wrong=400 - correct_without)
    assert own_class_check(effect(400, broken=lost), without, ["a"]).allows == allows


@pytest.mark.parametrize(("count", "correct"), [(60, 45), (60, 50), (200, 180)])
def test_edit_that_changes_nothing_costs_the_mark_class_nothing(count, correct):
    """With the mark, fewer are correct than without it, but that is not what the edit does."""
    check = own_class_check(effect(count, wrong=count - correct), effect(100, wrong=4), ["a"])
    assert check.allows == "use" and check.cost.lost <= 0


def test_number_of_images_that_is_asked_for_is_enough():
    for broken, images in ((0, 20), (1, 60), (3, 160)):
        asked = own_class_check(effect(images, broken=broken), None, ["a"])
        assert asked.holds is None and not asked.numbers["needs_clean"]
        needed = asked.cost.needed
        expected = round(broken / images * needed)
        assert own_class_check(effect(needed, broken=expected), None, ["a"]).allows == "use"
    taken = own_class_check(effect(100, broken=30), effect(30, wrong=10), ["a"])
    assert taken.holds is None and taken.numbers["needs_clean"]


def test_cost_on_the_own_class_counts_scenes():
    """One of 60 scenes breaks: with eight frames each, this is no more evidence than one of 60 images."""
    allowed = [own_class_check(effect(60, broken=1, frames=frames), effect(60), ["a"]).allows for frames in (1, 8)]
    assert allowed[0] == allowed[1] == "unclear"


@pytest.mark.parametrize(
    ("changes", "is_within"),
    [
        ({}, True),
        ({"clean": effect(400, broken=2)}, False),
        ({"huskies": effect(110, broken=4)}, False),
        ({"own_class": effect(60, broken=12)}, False),
        ({"own_class": effect(19, broken=2)}, False),
        ({"own_class": effect(19, broken=1)}, True),
    ],
)
def test_limits_hold_exactly_if_no_cost_check_finds_more(changes, is_within):
    splits = splits_of(["huskies"], own_classes=(2,))
    effects = {"clean": effect(400), "huskies": effect(110), "own_class": effect(60)} | changes
    assert is_within_limits(splits, effects, "abc") == is_within
    assert all(check.holds is not False for check in cost_checks(splits, effects, "abc")) == is_within


def test_clean_images_of_the_own_class_are_those_with_its_label():
    clean = effect_of("xvxv", "vvvv")  # labels 0, 1, 0, 1
    assert len(clean_of_own_class(splits_of(own_classes=(0,)), {"clean": clean})) == 2
    assert clean_of_own_class(splits_of(own_classes=(2,)), {"clean": clean}) is None


# --- the classes that clean images show -------------------------------------------------------------------------------


def coverage(clean, concept, own, scenes=None, classes=20):
    """Check whether clean images of these labels cover the classes."""
    sets = {}
    for name, labels in (("clean", clean), ("concept", concept)):
        sets[name] = LabeledImages(
            torch.zeros(len(labels), 3, 1, 1), torch.tensor(labels), [f"c{i}" for i in range(classes)]
        )
    numbers = torch.arange(len(clean)) if scenes is None else scenes
    return coverage_check(splits_of(**sets, own_classes=own, scenes={"clean": numbers}), sets["clean"].classes)


def test_clean_images_of_one_class_do_not_cover_the_classes():
    check = coverage([0] * 520, [1, 2, 3] * 20, (4,))
    assert check.allows == "unclear"
    assert set(check.numbers["missing"]) >= {"c1", "c2", "c3", "c4"}


def test_clean_images_of_all_classes_but_the_own_one_do_not_cover_them():
    shown = [index for index in range(20) if index != 4]
    check = coverage(shown * 20, [1, 2, 3], (4,))
    assert check.allows == "unclear" and check.numbers["missing"] == ["c4"]


@pytest.mark.parametrize(("shown", "allows"), [(10, "unclear"), (13, "unclear"), (14, "use"), (20, "use")])
def test_two_thirds_of_the_classes_are_enough(shown, allows):
    assert coverage([*range(shown)] * 40, [1], (4,)).allows == allows


def test_a_random_sample_of_few_images_covers_enough_classes():
    """Thirty images cannot show a thousand classes, so fewer are expected of them."""
    labels = torch.randint(1000, (30,), generator=torch.Generator().manual_seed(0)).tolist()
    assert coverage(labels, labels[:3], (labels[5],), classes=1000).allows == "use"
    few_scenes = torch.zeros(30, dtype=torch.long)
    assert coverage([7] * 30, [7], (7,), few_scenes, classes=1000).allows == "use"  # one scene shows one class


# --- the images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alike", "holds"), [(2, True), (1, False)])
def test_mistakes_are_those_of_the_exemplar_if_a_tenth_is_predicted_as_x_changed(alike, holds):
    predicted = torch.tensor([2] * alike + [1] * (20 - alike))
    concept = Effect(torch.zeros(20, dtype=torch.long), predicted, predicted, torch.arange(20))
    [check] = images_checks(color_network(), splits_of(own_classes=(2,)), {"concept": concept})
    assert check.holds == holds


@pytest.mark.parametrize(("correct", "allows"), [(45, "use"), (39, "unclear")])
def test_labels_are_doubted_if_images_are_correct_half_as_often_as_others(correct, allows):
    effects = {"clean": effect(100, wrong=20), "huskies": effect(100, wrong=100 - correct)}
    checks = images_checks(color_network(), splits_of(["huskies"]), effects)
    assert [check.allows for check in checks] == ["use", allows]


def test_labels_of_a_single_set_cannot_be_compared():
    [check] = images_checks(color_network(), splits_of(), {"clean": effect(100, wrong=90)})
    assert check.holds is None and check.allows == "use"


def test_fine_tuning_is_not_compared_on_images_that_are_too_few_to_tell():
    few = {"concept": effect(5, corrected=5)}
    assert instead_check(splits_of(), few, few, "abc").holds is None


# --- the exemplars ----------------------------------------------------------------------------------------------------


def statuses(exemplar):
    return {
        check.kind: check.allows for check in exemplar_checks(color_network(), {"e": [exemplar]}) if not check.holds
    }


def test_exemplar_that_shows_the_mistake_passes_all_checks():
    assert not statuses(marked_exemplar())


def test_exemplar_whose_x_changed_is_predicted_as_x_forbids():
    exemplar = marked_exemplar()
    assert "do not use" in statuses(Exemplar(exemplar.image, exemplar.image, exemplar.mask, 1)).values()
    assert "do not use" in statuses(Exemplar(exemplar.changed, exemplar.image, exemplar.mask, 1)).values()  # swapped


def test_change_inside_mask_is_the_share_of_the_difference():
    exemplar = marked_exemplar()
    assert change_inside_mask(exemplar) == 1
    half = exemplar.mask.clone()
    half[8:] = 0
    difference = (exemplar.changed - exemplar.image).abs().sum(0)
    expected = float(difference[6:8].sum() / difference.sum())
    assert change_inside_mask(Exemplar(exemplar.image, exemplar.changed, half)) == pytest.approx(expected)
    assert change_inside_mask(Exemplar(exemplar.image, exemplar.image, half)) == 0


# --- the selection, and what could be done instead --------------------------------------------------------------------


def test_edit_that_does_not_lower_the_objective_is_not_used():
    assert objective_check(1.0, 0.5).allows == "use"
    assert objective_check(1.0, 1.0).allows == "do not use"


@pytest.mark.parametrize(
    ("corrected", "lost", "word"), [(30, 0, "fine-tune instead"), (12, 0, "use"), (30, 12, "use"), (10, 0, "use")]
)
def test_fine_tuning_is_better_if_it_corrects_significantly_more_within_the_limits(corrected, lost, word):
    splits = splits_of()
    edit = {"concept": effect(60, corrected=10, wrong=30), "clean": effect(400)}
    other = effect(60, corrected=corrected, wrong=40 - corrected)
    finetuned = {"concept": other, "clean": effect(400, broken=lost)}
    assert instead_check(splits, edit, finetuned, "abc").allows == word


def test_fine_tuning_that_was_not_compared_is_said():
    check = instead_check(splits_of(), {"concept": effect(9)}, {}, "abc")
    assert check.holds is None and check.allows == "use"


@pytest.mark.parametrize(
    ("before", "after", "allows"),
    [(14, 7, "unclear"), (16, 14, "use"), (7, 14, "use"), (9, 9, "use"), (6, 0, "unclear")],
)
def test_ordinary_images_of_the_own_class_show_a_clear_fall(before, after, allows):
    fall = before - after
    hosts = effect(20, broken=max(fall, 0), corrected=max(-fall, 0), wrong=20 - max(before, after))
    check = own_hosts_check(hosts, ["a"])
    assert check.allows == allows
    assert check.holds is (allows == "use") and check.numbers["alike"] == after


@pytest.mark.parametrize("hosts", [1, 5])
def test_hosts_that_are_too_few_to_show_a_fall_pass_no_check(hosts):
    assert own_hosts_check(effect(hosts, broken=hosts), ["a"]).holds is None


def test_without_hosts_the_own_class_is_not_judged_by_them():
    for hosts in (None, effect(0)):
        check = own_hosts_check(hosts, ["a"])
        assert check.holds is None and check.allows == "use"


# --- the next step on the desk ----------------------------------------------------------------------------------------


def test_desk_has_one_next_step_of_those_that_decide():
    splits = splits_of()
    unclear = [gain_check(effect(20, corrected=5)), *cost_checks(splits, {"clean": effect(20)}, "ab")]
    on_desk, in_python = verdict_words(unclear, DESK), verdict_words(unclear)
    assert on_desk.word == in_python.word == "unclear"
    assert on_desk.next_step and len(on_desk.next_step) < len(in_python.next_step)
    assert "=" not in str(on_desk)


def test_desk_offers_a_weaker_edit_for_a_cost_and_to_save_an_edit_that_may_be_used():
    helps = gain_check(effect(20, corrected=8))
    costs = [objective_check(1.0, 0.5, weaker=8.0), helps, accuracy_check(effect(2000, broken=100))]
    assert verdict_words(costs, DESK).next_action == WEAKER
    assert verdict_words([helps, accuracy_check(effect(2000))], DESK).next_action == SAVE
