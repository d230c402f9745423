"""What a desk keeps: after a restart, marks, choices, and the last edit are there, for its folder and model only."""

import re
from operator import attrgetter

import pytest
import torch
from conftest import TinyNet, noise, randomise_norms, save_image

from edittools import widgets
from edittools.classifiers import Classifier
from edittools.metrics import predict
from edittools.widgets.desk import RESUMED
from edittools.widgets.desk_panel import HELD_OUT
from edittools.widgets.result import BEFORE_CHANGE

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


def test_marks_of_two_desks_on_one_folder_are_all_kept_and_the_edit_that_was_made_last(tiny, folders):
    one = kept_desk(tiny, folders)
    other = kept_desk(tiny, folders)
    for desk, number, mask in ((one, 2, MASK), (other, 4, MASK.flip(0))):
        desk.choose(desk.order[number])
        desk.editor.mask = mask
        desk.rewrite()
        desk.wait(60)
    assert one.edit.digest != other.edit.digest
    labeled = one.session.name(one.order[5])
    another = next(name for name in tiny.classes if name != one.session.class_name(one.order[5]))
    one.choose(one.order[5])
    one.controls.class_name.value = another
    one.wait(60)
    last = kept_desk(tiny, folders)
    assert last.edit.digest == other.edit.digest
    masks = {last.session.name(index): last.session._marks[index] for index in last.session.marked}
    assert len(masks) == 2 and torch.equal(masks[other.session.name(other.index)], MASK.flip(0))
    assert last.session.class_name(last.session.images.names.index(labeled)) == another
    other.editor.mask = None  # a mark is removed by the desk that drew it
    other.wait(60)
    assert len(kept_desk(tiny, folders).session.marked) == 1


@pytest.fixture
def selected(tiny, folders):
    """A desk with a selected edit."""
    for number, image in enumerate(noise(120, seed=3)):
        save_image(folders[1] / f"{number}.png", image)
    desk = kept_desk(tiny, folders)
    desk.session.candidate_layers = ("conv1",)
    most_frequent = int(desk.session.clean.labels.mode().values)
    for index in desk.order:  # ordinary images of other classes than the mark's are needed
        desk.choose(index)
        desk.editor.mask = MASK
        if desk.session.own_class(desk.exemplar) != most_frequent:
            break
    desk.find_best()
    desk.wait(300)
    return desk


def test_verdict_and_report_of_a_selected_edit_are_there_after_a_restart(selected, tiny, folders, tmp_path):
    again = kept_desk(tiny, folders)
    for name in ("title_text", "verdict.word", "verdict.text", "verdict.details", "report.disabled"):
        read = attrgetter(name)
        assert read(again.controls) == read(selected.controls), name
    assert again.controls.title_text == HELD_OUT and again.result.clean is not None
    assert again.controls.compare.disabled
    with pytest.raises(ValueError, match="search"):
        again.compare_finetuning()
    again.save_report(tmp_path / "again" / "report.html")
    again.wait(60)
    selected.save_report(tmp_path / "selected" / "report.html")
    selected.wait(60)
    for name in ("report.html", "report.json"):
        texts = [(tmp_path / folder / name).read_text() for folder in ("again", "selected")]
        without_time = [re.sub(r"\d{4}-\d\d-\d\dT[\d:+]*", "", text) for text in texts]
        assert without_time[0] == without_time[1]
    again.undo()
    assert again.controls.report.disabled


def test_verdict_after_a_restart_with_other_images_is_marked(selected, tiny, folders, tmp_path):
    assert BEFORE_CHANGE not in selected.result.reason
    next(folders[1].glob("1*.png")).unlink()
    again = kept_desk(tiny, folders)
    assert again.result.word == selected.result.word and again.result.reason.count(BEFORE_CHANGE) == 1
    assert kept_desk(tiny, folders).result.reason.count(BEFORE_CHANGE) == 1
    index = again.order[-1]
    again.session.relabel(index, next(name for name in tiny.classes if name != again.session.class_name(index)))
    assert again.session.update().reason.count(BEFORE_CHANGE) == 1 and again.result.repair is not None


def test_damaged_verdict_is_left_out(selected, tiny, folders, tmp_path):
    [path] = (tmp_path / "cache" / "desk").glob("*-verdict-*")
    path.write_text("{}")
    again = kept_desk(tiny, folders)
    assert again.edit.digest == selected.edit.digest and again.result.repair is None


def test_desk_without_keep_writes_nothing(tiny, folders, tmp_path):
    desk = widgets.Desk(tiny, folders[0])
    desk.editor.mask = MASK
    desk.wait(60)
    assert not (tmp_path / "cache" / "desk").exists()


def test_keep_without_a_folder_is_refused(tiny):
    with pytest.raises(ValueError, match="Tensor"):
        widgets.Desk(tiny, noise(4), keep=True)
