"""Splits: image sets that share no image; how those of a repair are labeled, checked, and divided by scene."""

from itertools import combinations

import pytest
import torch
from colors import BLUE, CLASSES, GREEN, RED, color_network, frames_of, marked_exemplar, of_colors, ordinary, with_mark
from conftest import save_image, shared_images

from edittools.exemplars import Exemplar
from edittools.geometry import InputGeometry
from edittools.images import LabeledImages, LazyImages, resized
from edittools.metrics import predict
from edittools.scenes import thumbnails
from edittools.selection import Splits, check_disjoint, label_by_prediction
from edittools.selection.splits import split_ordinary


def test_check_disjoint_of_sets_compares_all_pairs(photos32):
    sets = {"a": photos32[:3], "b": photos32[3:6], "c": photos32[5:8]}
    with pytest.raises(ValueError, match="'b' and 'c' share 1 images"):
        check_disjoint(sets)
    check_disjoint(sets, [("a", "b"), ("a", "c")])


def test_check_disjoint_names_at_most_three_shared_images(photos32):
    names = tuple(f"photo {number}.jpg" for number in range(10))
    named = LabeledImages(photos32[:10], torch.zeros(10).long(), ["a"], names)
    with pytest.raises(ValueError, match=r"share 2 images \('photo 3.jpg', 'photo 4.jpg'\)"):
        check_disjoint({"one": named, "other": photos32[[3, 20, 4]]})
    with pytest.raises(ValueError, match=r"share 10 images \('photo 0.jpg', 'photo 1.jpg', 'photo 2.jpg', …\)"):
        check_disjoint({"one": photos32, "other": named})


def _files(images, folder):
    for number, image in enumerate(images):
        save_image(folder / f"{number}.png", image)
    return LazyImages([folder / f"{number}.png" for number in range(len(images))], InputGeometry(16, 16))


def test_same_images_are_found_in_any_file_precision_and_size(tmp_path):
    images = ordinary(5, 1).images
    files, renamed = (_files(images, tmp_path / name) for name in ("one", "other"))
    smooth = resized(torch.rand(5, 3, 7, 7, generator=torch.Generator().manual_seed(0)), 224)
    for one, other in ((files, files[:]), (files[:].double(), files), (files, renamed), (smooth, resized(smooth, 160))):
        with pytest.raises(ValueError, match="'one' and 'other' .* 5 "):
            check_disjoint({"one": one, "other": other})
        check_disjoint({"one": one[:2], "other": other[2:]})


def test_thumbnails_of_a_tensor_are_made_again_only_if_it_has_changed(photos32):
    images = photos32.clone()
    labeled = LabeledImages(images, torch.zeros(40).long(), ["a"])
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
    labeled = LabeledImages(photos32, torch.zeros(40).long(), ["other"], names)
    again = label_by_prediction(labeled, tiny)
    assert torch.equal(again.labels, expected)
    assert again.names == names and again.classes == tiny.classes


# --- the sets of a repair ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier():
    return color_network()


def sets_of(**changes):
    """The sets of a repair: ordinary images, and marked, clean, and retained ones with labels."""
    sets = {
        "images": ordinary(60, 1).images,
        "concept": with_mark(of_colors([RED, GREEN, BLUE] * 10, 2), 3),
        "clean": ordinary(40, 4),
        "retain": of_colors([RED] * 8, 5).images,
    }
    return sets | changes


def split(classifier, exemplars=None, **changes):
    return Splits.of(classifier, exemplars or [marked_exemplar()], **sets_of(**changes))


def test_splits_keep_every_image_once(classifier):
    sets = sets_of()
    retain = {"one": of_colors([RED] * 8, 5), 2: of_colors([GREEN] * 6, 6).images}
    splits = split(classifier, retain=retain)
    assert set(splits.labeled) == set(splits.scenes) == {"concept", "own_class", "clean", "one", "2"}
    is_own = sets["concept"].labels == BLUE
    assert torch.equal(splits.concept.images, sets["concept"].images[~is_own])
    assert torch.equal(splits.own_class.images, sets["concept"].images[is_own])
    assert torch.equal(splits.images, sets["images"]) and torch.equal(splits.clean.images, sets["clean"].images)
    assert (splits.retain["2"].labels == GREEN).all()  # predictions serve as labels
    assert splits.own_classes == (BLUE,)


def test_labels_are_mapped_by_name(classifier):
    named = of_colors([RED, BLUE, GREEN] * 6, 8)
    turned = LabeledImages(named.images, 2 - named.labels, CLASSES[::-1])
    splits = split(classifier, retain=turned)
    [retained] = splits.retain.values()
    assert torch.equal(retained.labels, named.labels) and retained.classes == CLASSES
    unknown = LabeledImages(named.images, named.labels, ("red", "green", "violet"))
    with pytest.raises(ValueError, match="'violet'"):
        split(classifier, retain=unknown)


def test_without_ordinary_images_half_of_the_clean_scenes_select(classifier):
    clean = frames_of(ordinary(120, 4), 2)
    splits = split(classifier, images=None, clean=clean)
    assert len(splits.images) == len(splits.clean) == 120
    assert not shared_images(splits.images, splits.clean)
    assert splits.scenes["clean"].bincount().tolist() == [2] * 60
    with pytest.raises(ValueError, match="60 clean images"):
        split(classifier, images=None, clean=ordinary(60, 4))
    with pytest.raises(ValueError, match="images="):
        split(classifier, images=None, clean=None)


def test_ordinary_part_of_clean_images_has_all_classes_and_at_most_300_scenes():
    selecting, measuring = split_ordinary(ordinary(1000, 4))
    assert len(selecting) == 300 and len(measuring) == 700
    shares = [data.labels.bincount() / len(data) for data in (selecting, measuring)]
    torch.testing.assert_close(*shares, atol=0.01, rtol=0)


def test_scenes_of_frames_share_a_number_whatever_their_classes(classifier):
    """Three classes in which each image is another frame, and two images of other scenes."""
    frames = frames_of(ordinary(1, 4), 6)
    other = of_colors([RED, GREEN], 9)
    labels = torch.tensor([*range(3), *range(3), RED, GREEN])
    clean = LabeledImages(torch.cat([frames.images, other.images]), labels, CLASSES)
    assert split(classifier, clean=clean).scenes["clean"].tolist() == [0] * 6 + [1, 2]


@pytest.mark.parametrize("name", ["concept", "clean", "retain"])
def test_empty_set_is_not_measured_and_warned_about(classifier, name):
    data = sets_of()[name]
    empty = data.subset([]) if isinstance(data, LabeledImages) else data[:0]
    with pytest.warns(UserWarning, match=f"{name} has no images"):
        splits = split(classifier, **{name: empty})
    assert not {"concept": {"concept", "own_class"}, "retain": {"retained images"}}.get(name, {name}) & set(
        splits.labeled
    )
    assert set(splits.labeled) == set(splits.scenes)
    assert name != "clean" or splits.clean is None


def test_repeated_images_are_used_once(classifier):
    concept = sets_of()["concept"]
    with pytest.warns(UserWarning, match="'concept' holds 30 images"):
        splits = split(classifier, concept=concept.subset([*range(30)] * 2))
    assert len(splits.concept) + len(splits.own_class) == 30


@pytest.mark.parametrize(("one", "other"), combinations(["images", "concept", "clean", "retain"], 2))
def test_sets_that_share_images_are_refused(classifier, one, other):
    sets = sets_of()
    first, second = (getattr(sets[name], "images", sets[name]) for name in (one, other))
    joined = torch.cat([second, first[2:4]])
    data = sets[other]
    if isinstance(data, LabeledImages):
        joined = LabeledImages(joined, torch.cat([data.labels, data.labels[:2]]), CLASSES)
    with pytest.raises(ValueError, match="share 2 images") as caught:
        split(classifier, **{other: joined})
    assert repr(one) in str(caught.value) and repr(other) in str(caught.value)


@pytest.mark.parametrize("name", ["concept", "clean", "retain"])
@pytest.mark.parametrize("shown", ["image", "changed"])
def test_images_of_an_exemplar_are_in_no_labeled_set_but_x_among_those_with_the_concept(classifier, name, shown):
    exemplar = marked_exemplar()
    data = label_by_prediction(sets_of()[name], classifier)
    images = torch.cat([data.images, getattr(exemplar, shown)[None]])
    joined = LabeledImages(images, torch.cat([data.labels, torch.tensor([GREEN])]), CLASSES)
    if (name, shown) == ("concept", "image"):
        splits = split(classifier, concept=joined)
        assert len(splits.concept) + len(splits.own_class) == 31
        return
    with pytest.raises(ValueError, match="exemplars.* share 1 images"):
        split(classifier, **{name: joined})


@pytest.mark.parametrize("pair", combinations(["concept", "clean", "retain"], 2))
def test_sets_that_show_the_same_scenes_are_warned_about(classifier, pair):
    sets = {name: label_by_prediction(sets_of()[name], classifier) for name in ("concept", "clean", "retain")}
    one, other = pair
    frames = frames_of(sets[one].subset([2, 3, 4]), 1)
    images = torch.cat([sets[other].images, frames.images])
    sets[other] = LabeledImages(images, torch.cat([sets[other].labels, frames.labels]), CLASSES)
    with pytest.warns(UserWarning, match=f"3 images of '{one}' show the same scene as images of '{other}'") as caught:
        split(classifier, **sets)
    assert len(caught) == 1


def test_sets_of_other_scenes_are_not_warned_about(classifier, recwarn):
    split(classifier)
    assert not recwarn


@pytest.mark.parametrize(
    ("exemplars", "own"),
    [([(RED, True)], [BLUE]), ([(RED, True), (GREEN, False)], [GREEN, BLUE]), ([(RED, False)], [RED])],
)
def test_own_classes_are_what_x_changed_is_predicted_as(classifier, exemplars, own):
    made = [marked_exemplar(label, 70 + label) for label, _ in exemplars]
    shown = []
    for one, (_, has_mark) in zip(made, exemplars, strict=True):
        shown.append(one if has_mark else Exemplar(one.image, one.image, one.mask))
    splits = split(classifier, shown)
    assert list(splits.own_classes) == own
    assert splits.own_class.labels.unique().tolist() == own


def test_images_of_the_own_class_alone_do_not_show_whether_the_edit_helps(classifier):
    splits = split(classifier, concept=with_mark(of_colors([BLUE] * 9, 2), 3))
    assert splits.concept is None and len(splits.own_class) == 9


def test_digest_depends_on_the_images_and_their_labels(classifier):
    clean = ordinary(40, 4)
    relabeled = LabeledImages(clean.images, clean.labels.roll(1), CLASSES)
    digests = [split(classifier, clean=data).digests["clean"] for data in (clean, clean, relabeled, ordinary(40, 7))]
    assert digests[0] == digests[1] and len(set(digests)) == 3
