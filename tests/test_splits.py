"""Splits: named image sets that share no image; how the sets of a repair are labeled, checked and divided."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

from edittools.classifiers import Classifier
from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import predict
from edittools.scenes import thumbnails
from edittools.selection import Search, Splits, check_disjoint, label_by_prediction, split_clean, stratified_folds


@pytest.fixture
def splits(tiny, photos32):
    labeled = label_by_prediction(photos32, tiny)
    return Splits(
        reference=1 - photos32,
        target=labeled.subset(range(20)),
        clean=labeled.subset(range(20, 30)),
        target_test=labeled.subset(range(30, 40)),
    )


def _disjoint(count=14):
    """Splits of two images each, and exemplars; each image is of another brightness."""
    pairs = iter(torch.linspace(0, 1, 2 * count)[:, None, None, None].expand(-1, 3, 8, 8).split(2))

    def labeled():
        return LabelledImages(next(pairs), torch.zeros(2).long(), ["a", "b"])

    names = (*SELECTING, *EVALUATING[:-1])
    exemplars = [Exemplar(*next(pairs), torch.ones(8, 8)), Exemplar(*next(pairs), torch.ones(8, 8))]
    sets = {name: labeled() for name in names}
    return Splits(reference=labeled().images, extra={"bare": labeled()}, **sets), exemplars


def _with_first_of(splits, name, image):
    data = splits.labeled[name]
    changed = replace(data, images=torch.cat([image[None], data.images[1:]]))
    return replace(splits, extra={"bare": changed}) if name == "bare" else replace(splits, **{name: changed})


SOLVED = {
    "reference": lambda splits, exemplars: splits.reference[1],
    "x": lambda splits, exemplars: exemplars[0].image,
    "x'": lambda splits, exemplars: exemplars[1].changed,
}
SELECTING = ("target", "clean", "retain", "own_class")
EVALUATING = ("target_test", "clean_test", "retain_test", "same_class_test", "bare")


def test_splits_that_share_an_image_are_refused():
    splits, exemplars = _disjoint()
    splits.check_disjoint(exemplars)
    for one, other in product([*SOLVED, *SELECTING], [*SELECTING, *EVALUATING]):
        if one == other or (one, other) == ("x", "target"):
            continue
        image = SOLVED[one](splits, exemplars) if one in SOLVED else splits.labeled[one].images[1]
        shared = _with_first_of(splits, other, image)
        with pytest.raises(ValueError, match="share 1 images") as caught:
            shared.check_disjoint(exemplars)
        assert repr(one) in str(caught.value) and repr(other) in str(caught.value)


def test_splits_may_have_x_among_the_target_images():
    splits, exemplars = _disjoint()
    _with_first_of(splits, "target", exemplars[0].image).check_disjoint(exemplars)


def test_search_with_clean_images_among_the_reference_images_is_refused(tiny, exemplar, splits):
    with pytest.raises(ValueError, match="'reference' and 'clean' share 10 images"):
        Search(tiny, exemplar, replace(splits, reference=splits.clean), ["conv1"])


def test_extra_split_with_the_name_of_another_is_refused(splits):
    with pytest.raises(ValueError, match="'clean_test'"):
        replace(splits, extra={"clean_test": splits.clean})


def test_check_disjoint_of_sets_compares_all_pairs(photos32):
    sets = {"a": photos32[:3], "b": photos32[3:6], "c": photos32[5:8]}
    with pytest.raises(ValueError, match="'b' and 'c' share 1 images"):
        check_disjoint(sets)
    check_disjoint(sets, [("a", "b"), ("a", "c")])


def test_check_disjoint_names_at_most_three_shared_images(photos32):
    names = tuple(f"photo {number}.jpg" for number in range(10))
    named = LabelledImages(photos32[:10], torch.zeros(10).long(), ["a"], names)
    with pytest.raises(ValueError, match=r"share 2 images \('photo 3.jpg', 'photo 4.jpg'\)"):
        check_disjoint({"one": named, "other": photos32[[3, 20, 4]]})
    with pytest.raises(ValueError, match=r"share 10 images \('photo 0.jpg', 'photo 1.jpg', 'photo 2.jpg', …\)"):
        check_disjoint({"one": photos32, "other": named})


def test_splits_that_share_a_named_image_name_it(splits):
    named = replace(splits.clean, names=tuple(f"{number}.jpg" for number in range(10)))
    with pytest.raises(ValueError, match=r"'0\.jpg'"):
        replace(splits, reference=splits.clean.images, clean=named).check_disjoint()


def test_thumbnails_of_a_tensor_are_made_again_only_if_it_has_changed(photos32):
    images = photos32.clone()
    labeled = LabelledImages(images, torch.zeros(40).long(), ["a"])
    first = thumbnails(images)
    assert thumbnails(labeled) is first
    images[0] = 1 - images[0]
    changed = thumbnails(labeled)
    assert torch.equal(changed, thumbnails(images.clone()))
    assert not torch.equal(changed[0], first[0]) and torch.equal(changed[1:], first[1:])


def test_thumbnails_of_a_tensor_made_in_inference_mode(photos32):
    with torch.inference_mode():
        images = photos32.clone()
    assert torch.equal(thumbnails(images), thumbnails(photos32))


def test_label_by_prediction_replaces_labels_and_keeps_names(tiny, photos32):
    expected = predict(tiny, photos32).argmax(1)
    assert torch.equal(label_by_prediction(photos32, tiny).labels, expected)
    names = tuple(str(i) for i in range(40))
    labeled = LabelledImages(photos32, torch.zeros(40).long(), ["other"], names)
    again = label_by_prediction(labeled, tiny)
    assert torch.equal(again.labels, expected)
    assert again.names == names and again.classes == tiny.classes


@pytest.mark.parametrize("count", [1, 2, 5, 160])
def test_split_clean_gives_a_quarter_to_the_reference_and_no_image_twice(count):
    images = torch.linspace(0, 1, count)[:, None, None, None].expand(-1, 3, 4, 4)
    for labels in (torch.arange(count) % 4, torch.zeros(count).long()):
        reference, others = split_clean(LabelledImages(images, labels, list("abcd")))
        assert len(reference) >= 1
        assert count < 3 or abs(len(reference) - count / 4) <= 1
        values = torch.cat([reference.images[:, 0, 0, 0], others.images[:, 0, 0, 0]])
        assert torch.equal(values.sort().values, images[:, 0, 0, 0])


# --- folds ---


def test_stratified_folds_are_of_equal_size_and_hold_every_class():
    labels = torch.tensor([0] * 12 + [1] * 6 + [2] * 3)[torch.randperm(21, generator=torch.Generator().manual_seed(4))]
    folds = stratified_folds(labels)
    assert sorted(folds.bincount().tolist()) == [3, 3, 3, 4, 4, 4]
    assert torch.equal(folds, stratified_folds(labels))
    assert folds[labels == 0].bincount().tolist() == [2] * 6
    assert folds[labels == 1].bincount().tolist() == [1] * 6
    assert folds[labels == 2].bincount().max() == 1
    assert sorted(stratified_folds(labels[:2]).tolist()) == [0, 1]


def test_stratified_folds_with_groups_divide_no_group():
    """Groups of 1 to 4 images of two classes: the folds are balanced by groups, not by images."""
    groups = torch.tensor([0, 1, 1, 2, 0, 3, 3, 3, 4, 5, 6, 7, 7, 7, 7, 8])
    classes = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])
    folds = stratified_folds(classes[groups], 3, groups)
    of_groups = torch.tensor([folds[groups == group].unique().item() for group in range(9)])
    assert of_groups[classes == 0].bincount().tolist() == [2, 2, 2]
    assert of_groups[classes == 1].bincount().tolist() == [1, 1, 1]
    assert torch.equal(of_groups, stratified_folds(classes, 3))


def test_stratified_folds_with_groups_are_at_most_one_per_group():
    groups = torch.tensor([0, 0, 0, 1, 1, 0])
    folds = stratified_folds(torch.zeros(6).long(), 6, groups)
    assert folds.unique().tolist() == [0, 1]
    assert torch.equal(folds == folds[0], groups == 0)


def _frames(scenes, frames, seed, noise=0.05):
    """Make images of some scenes, each with frames that differ by a little noise, one scene after the other."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 0.1 + 0.8 * torch.rand(scenes, 3, 4, 4, generator=generator)
    images = coarse.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3).repeat_interleave(frames, dim=0)
    return images + noise * (torch.rand(images.shape, generator=generator) - 0.5)


def _set_of(scenes, frames, seed, **options):
    """Make a set whose images all have one label."""
    return LabelledImages(_frames(scenes, frames, seed, **options), torch.zeros(scenes * frames).long(), ("a", "b"))


def test_with_folds_divides_every_set_for_selection_and_no_scene():
    target = _set_of(12, 3, seed=1)
    splits = Splits(
        reference=_frames(2, 1, seed=2),
        target=target,
        clean=_set_of(30, 1, seed=3),
        own_class=_set_of(8, 1, seed=4),
        target_test=_set_of(4, 1, seed=5),
    ).with_folds()
    assert set(splits.folds) == {"target", "clean", "own_class"}
    assert torch.equal(splits.scenes, torch.arange(12).repeat_interleave(3))
    of_scenes = splits.folds["target"].view(12, 3)
    assert (of_scenes == of_scenes[:, :1]).all()
    assert of_scenes[:, 0].bincount().tolist() == [2] * 6
    assert splits.folds["clean"].bincount().tolist() == [5] * 6
    assert splits.folds["own_class"].unique().tolist() == [*range(6)]


def test_with_folds_of_few_scenes_holds_every_image_of_the_other_sets_out():
    """The target images show three scenes, so there are three folds of each set, and none has images of its own."""
    splits = Splits(
        reference=_frames(2, 1, seed=2), target=_set_of(3, 4, seed=1), clean=_set_of(30, 1, seed=3)
    ).with_folds()
    assert splits.folds["target"].unique().tolist() == [0, 1, 2]
    assert splits.folds["clean"].bincount().tolist() == [10, 10, 10]


def test_with_folds_of_a_single_scene_is_refused():
    target = _set_of(1, 5, seed=1, noise=0.01)
    splits = Splits(reference=_frames(2, 1, seed=2), target=target, clean=_set_of(9, 1, seed=3))
    with pytest.raises(ValueError, match="5 images.*single scene"):
        splits.with_folds()


def test_folds_of_other_images_are_refused(splits):
    folded = splits.with_folds()
    with pytest.raises(ValueError, match="20 numbers of folds for 10 target images"):
        replace(folded, target=splits.target.subset(range(10)))
    with pytest.raises(ValueError, match="10 numbers of folds for 0 retain images"):
        replace(folded, folds={"retain": folded.folds["clean"]})


# --- the sets of a repair ---

CLASSES = ("red", "green", "blue")
RED, GREEN, BLUE = range(3)


@pytest.fixture
def colors():
    """A classifier that predicts the brightest channel."""
    return Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), CLASSES, (0, 0, 0), (1, 1, 1), size=16)


def _of_color(color, count, seed):
    images = 0.5 * torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    images[:, color] += 0.4
    return images


def _turned(original, changed, seed=9):
    """Make an exemplar whose x is predicted as one color, and whose x' is predicted as another."""
    mask = torch.ones(16, 16)
    return Exemplar(_of_color(original, 1, seed)[0], _of_color(changed, 1, seed + 50)[0], mask)


def _concept():
    """Images that are predicted as blue, of the classes red, green and blue in turn."""
    return LabelledImages(_of_color(BLUE, 60, 1), torch.arange(60) % 3, CLASSES)


def test_splits_of_a_repair_keep_every_image_once(colors):
    concept = _concept()
    clean = LabelledImages(_of_color(GREEN, 80, 2), torch.full((80,), GREEN), CLASSES)
    one = LabelledImages(_of_color(RED, 20, 3), torch.full((20,), RED), CLASSES)
    splits = Splits.of(colors, [_turned(RED, BLUE)], concept, clean, {"one": one, "two": _of_color(RED, 10, 4)})
    assert set(splits.labeled) == set(splits.folds) == {"target", "own_class", "clean", "retain"}
    assert torch.equal(splits.own_class.images, concept.images[2::3]) and (splits.own_class.labels == BLUE).all()
    assert torch.equal(splits.target.images, concept.images[concept.labels != BLUE])
    assert torch.equal(splits.target.labels, concept.labels[concept.labels != BLUE])
    assert len(splits.reference) == 20 and len(splits.clean) == 60
    assert torch.equal(splits.retain.images, torch.cat([one.images, _of_color(RED, 10, 4)]))
    assert (splits.retain.labels == RED).all()  # those of the second set are predictions
    assert torch.equal(splits.retain_sets["one"], torch.arange(30) < 20)
    assert torch.equal(splits.retain_sets["two"], torch.arange(30) >= 20)
    assert splits.source == "sample"
    for name, folds in splits.folds.items():
        assert len(folds) == len(splits.labeled[name]) and folds.unique().tolist() == [*range(6)]


def test_splits_of_a_repair_with_an_empty_retained_set(colors):
    retain = {"none": _of_color(RED, 0, 3), "some": _of_color(RED, 4, 3)}
    with pytest.warns(UserWarning, match=r"retain\['none'\] has no images"):
        splits = Splits.of(colors, [_turned(RED, BLUE)], _concept(), _of_color(GREEN, 9, 2), retain)
    assert splits.retain_sets["none"].tolist() == [False] * 4 and splits.retain_sets["some"].tolist() == [True] * 4
    with pytest.warns(UserWarning, match="retain has no images"):
        splits = Splits.of(colors, [_turned(RED, BLUE)], _concept(), _of_color(GREEN, 9, 2), _of_color(RED, 0, 3))
    assert splits.retain is None and [len(members) for members in splits.retain_sets.values()] == [0]


@pytest.mark.parametrize(
    ("exemplars", "own"),
    [
        ([(RED, BLUE)], [BLUE]),
        ([(RED, GREEN)], [GREEN]),
        ([(RED, BLUE), (RED, GREEN)], [GREEN, BLUE]),
        ([(RED, BLUE), (GREEN, GREEN)], [BLUE]),  # the second one does not show a mistake
        ([(RED, RED)], []),
    ],
)
def test_own_class_is_what_x_prime_is_predicted_as_and_x_is_not(colors, exemplars, own):
    exemplars = [_turned(*pair, seed=10 + number) for number, pair in enumerate(exemplars)]
    splits = Splits.of(colors, exemplars, _concept(), _of_color(GREEN, 9, 2))
    assert (splits.own_class.labels.unique().tolist() if splits.own_class else []) == own
    assert splits.target.labels.unique().tolist() == [label for label in range(3) if label not in own]


def test_concept_images_of_the_own_class_alone_are_refused(colors):
    concept = _concept().subset(range(2, 60, 3))
    with pytest.raises(ValueError, match="0 of 20 .*'blue'"):
        Splits.of(colors, [_turned(RED, BLUE)], concept, _of_color(GREEN, 9, 2))


def test_unknown_source_is_refused(colors):
    with pytest.raises(ValueError, match="'failing'.*sample.*failures"):
        Splits.of(colors, [_turned(RED, BLUE)], _concept(), _of_color(GREEN, 9, 2), source="failing")


@pytest.mark.parametrize("shared", ["concept", "clean"])
def test_retained_images_in_another_set_are_refused(colors, shared):
    sets = {"concept": _concept(), "clean": _of_color(GREEN, 9, 2)}
    images = sets["concept"].images if shared == "concept" else sets["clean"]
    retain = {"one": torch.cat([_of_color(RED, 4, 3), images[2:4]])}
    with pytest.raises(ValueError, match=r"retain\['one'\].*share 2 images") as caught:
        Splits.of(colors, [_turned(RED, BLUE)], **sets, retain=retain)
    assert repr(shared) in str(caught.value)


def _with_noise(images, seed=7):
    """Make other frames of the same scenes."""
    return images + 0.05 * (torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)) - 0.5)


@pytest.mark.parametrize("pair", [("concept", "clean"), ("clean", "retain"), ("concept", "retain")])
def test_sets_that_show_the_same_scenes_are_warned_about(colors, pair):
    sets = {"concept": _concept().images, "clean": _of_color(GREEN, 12, 2), "retain": _of_color(RED, 5, 3)}
    one, other = pair
    sets[other] = torch.cat([sets[other], _with_noise(sets[one][2:5]).clamp(0, 1)])
    concept = LabelledImages(sets["concept"], torch.arange(len(sets["concept"])) % 3, CLASSES)
    with pytest.warns(UserWarning, match=f"3 images of '{one}' show the same scene as images of '{other}'") as caught:
        Splits.of(colors, [_turned(RED, BLUE)], concept, sets["clean"], sets["retain"])
    assert len(caught) == 1


def test_sets_of_other_scenes_are_not_warned_about(colors, recwarn):
    Splits.of(colors, [_turned(RED, BLUE)], _concept(), _of_color(GREEN, 12, 2), _of_color(RED, 5, 3))
    assert not recwarn
