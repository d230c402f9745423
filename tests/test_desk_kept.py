"""What a desk keeps: after a restart, marks, choices, and the last edit are there, for its folder and model only."""

import pytest
import torch
from conftest import TinyNet, noise, randomise_norms, save_image

from edittools import widgets
from edittools.classifiers import Classifier
from edittools.metrics import predict
from edittools.widgets.desk import RESUMED

MASK = torch.zeros(32, 32)
MASK[4:12, 4:12] = 1


@pytest.fixture
def folders(tiny, tmp_path, monkeypatch):
    """Folders of images, half of them misclassified, and of clean images without labels; the cache is empty."""
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path / "cache"))
    with torch.no_grad():
        tiny.model.head.bias -= predict(tiny, noise(100, seed=5)).mean(0)  # otherwise it predicts one class only
    pixels = noise(12)
    predicted = predict(tiny, pixels).argmax(1).tolist()
    for number, image in enumerate(pixels):
        label = (predicted[number] + number % 2) % 5
        save_image(tmp_path / "photos" / tiny.classes[label] / f"{number}.png", image)
    for number, image in enumerate(noise(40, seed=3)):
        save_image(tmp_path / "clean" / f"{number}.png", image)
    return tmp_path / "photos", tmp_path / "clean"


def kept_desk(classifier, folders):
    desk = widgets.Desk(classifier, folders[0], folders[1], keep=True)
    desk.wait(60)
    return desk


def test_marks_choices_and_edit_are_there_after_a_restart(tiny, folders):
    desk = kept_desk(tiny, folders)
    assert not desk.session.marked and desk.edit is None
    first, second = desk.order[2], desk.order[4]
    other = next(name for name in tiny.classes if name != desk.session.class_name(desk.order[5]))
    desk.choose(desk.order[5])
    desk.controls.class_name.value = other
    relabeled = desk.session.name(desk.index)
    desk.choose(first)
    desk.editor.mask = MASK
    desk.choose(second)
    desk.editor.mask = MASK.flip(0)
    desk.controls.layer.value = "conv1"
    desk.controls.strength.value = 0.5
    desk.controls.failures.value = True
    desk.controls.material.value = "snow"
    desk.rewrite()
    desk.wait(60)
    names = [desk.session.name(index) for index in (first, second)]

    again = kept_desk(tiny, folders)
    assert again.session.name(again.index) == names[1] and torch.equal(again.editor.mask, MASK.flip(0))
    assert sorted(map(again.session.name, again.session.marked)) == sorted(names)
    controls = again.controls
    assert (controls.layer.value, controls.strength.value, controls.material.value) == ("conv1", 0.5, "snow")
    assert controls.failures.value and controls.message.text == RESUMED
    assert again.edit.digest == desk.edit.digest
    assert again.result.images.after.tolist() == desk.result.images.after.tolist()  # the marked image does not count
    by_name = {again.session.name(index): again.session.class_name(index) for index in range(12)}
    assert by_name[relabeled] == other

    again.undo()
    again.editor.mask = None
    again.wait(60)
    last = kept_desk(tiny, folders)
    assert last.edit is None and len(last.session.marked) == 1


def test_concept_images_are_there_after_a_restart_also_those_that_were_clean(tiny, folders):
    desk = kept_desk(tiny, folders)
    desk.editor.mask = MASK
    desk.find_elsewhere()
    desk.wait(60)
    kinds = [sighting.is_clean for sighting in desk._sightings]
    desk.elsewhere.gallery.check([kinds.index(True), kinds.index(False)])
    desk.use_checked()
    desk.wait(60)
    again = kept_desk(tiny, folders)
    concept = [set(map(each.session.name, each.session.groups()["concept images"])) for each in (desk, again)]
    assert concept[0] == concept[1] and len(concept[0]) == 2
    assert len(again.session.images) == 13
    assert len(again.session.clean) + len(again.session.reference) == 39


def test_work_of_another_model_or_folder_or_a_damaged_file_is_not_taken(tiny, folders, tmp_path):
    desk = kept_desk(tiny, folders)
    desk.editor.mask = MASK
    desk.rewrite()
    desk.wait(60)
    torch.manual_seed(1)
    other = Classifier(randomise_norms(TinyNet()), tiny.classes, size=32)
    assert not kept_desk(other, folders).session.marked
    assert not kept_desk(tiny, (folders[1], folders[0])).session.marked
    files = list((tmp_path / "cache" / "desk").glob("*"))
    [edit_file] = [path for path in files if "-edit" in path.name]
    edit_file.write_bytes(b"damaged")
    again = kept_desk(tiny, folders)
    assert again.session.marked and again.edit is None
    for path in files:
        path.write_bytes(b"damaged")
    assert not kept_desk(tiny, folders).session.marked


def test_edit_of_the_last_desk_that_writes_is_kept_when_two_have_one_folder(tiny, folders):
    one = kept_desk(tiny, folders)
    other = kept_desk(tiny, folders)
    for desk, mask in ((one, MASK), (other, MASK.flip(0))):
        desk.editor.mask = mask
        desk.rewrite()
        desk.wait(60)
    assert one.edit.digest != other.edit.digest
    one.choose(1)
    one.editor.mask = MASK
    one._keep()
    assert kept_desk(tiny, folders).edit.digest == one.edit.digest


def test_desk_without_keep_writes_nothing(tiny, folders, tmp_path):
    desk = widgets.Desk(tiny, folders[0])
    desk.editor.mask = MASK
    desk.wait(60)
    assert not (tmp_path / "cache" / "desk").exists()


def test_keep_without_a_folder_is_refused(tiny):
    with pytest.raises(ValueError, match="Tensor"):
        widgets.Desk(tiny, noise(4), keep=True)
