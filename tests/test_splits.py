"""Splits: named image sets that share no image; how the sets of a repair are labeled, checked and divided."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from edittools.exemplars import Exemplar
from edittools.images import LabelledImages
from edittools.metrics import predict
from edittools.selection import Search, Splits, check_disjoint, label_by_prediction, split_clean, stratified_folds
from edittools.selection.splits import thumbnails


@pytest.fixture
def splits(tiny, photos32):
    labeled = label_by_prediction(photos32, tiny)
    return Splits(
        reference=1 - photos32,
        target=labeled.subset(range(20)),
        clean=labeled.subset(range(20, 30)),
        target_test=labeled.subset(range(30, 40)),
    )


def _disjoint(count=13):
    """Splits of two images each, and exemplars; each image is of another brightness."""
    pairs = iter(torch.linspace(0, 1, 2 * count)[:, None, None, None].expand(-1, 3, 8, 8).split(2))

    def labeled():
        return LabelledImages(next(pairs), torch.zeros(2).long(), ["a", "b"])

    names = ("target", "clean", "retain", "target_test", "clean_test", "retain_test", "same_class_test")
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
SELECTING = ("target", "clean", "retain")
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
@pytest.mark.parametrize("test_share", [0, 0.25])
def test_split_clean_gives_a_quarter_to_the_reference_and_no_image_twice(count, test_share):
    images = torch.linspace(0, 1, count)[:, None, None, None].expand(-1, 3, 4, 4)
    for labels in (torch.arange(count) % 4, torch.zeros(count).long()):
        parts = split_clean(LabelledImages(images, labels, list("abcd")), test_share)
        sizes = [len(part) for part in parts]
        assert sum(sizes) == count and sizes[0] >= 1
        shares = (0.25, 0.75 - test_share, test_share)
        assert count < 3 or all(abs(size - share * count) <= 1 for size, share in zip(sizes, shares, strict=True))
        values = torch.cat([part.images[:, 0, 0, 0] for part in parts])
        assert torch.equal(values.sort().values, images[:, 0, 0, 0])


def test_stratified_folds_are_of_equal_size_and_hold_every_class():
    labels = torch.tensor([0] * 12 + [1] * 5 + [2] * 3)[torch.randperm(20, generator=torch.Generator().manual_seed(4))]
    folds = stratified_folds(labels)
    assert folds.bincount().tolist() == [4] * 5
    assert torch.equal(folds, stratified_folds(labels))
    for label, most in ((0, 3), (1, 2), (2, 1)):
        assert folds[labels == label].bincount().max() <= most
    assert sorted(stratified_folds(labels[:2]).tolist()) == [0, 1]
