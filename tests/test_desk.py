"""The desk without a browser: its image sets, the effect of edits on them, its controls and its methods."""

import base64
import copy
import io
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import ipywidgets
import pytest
import torch
from conftest import TinyNet, make_exemplar, noise, save_image
from PIL import Image

import edittools as et
from edittools import widgets
from edittools.classifiers import Classifier
from edittools.cut import Cut
from edittools.edits import Change
from edittools.images import LabelledImages, LazyImages
from edittools.metrics import Comparison, label_margins, predict
from edittools.reports.words import verdict_words
from edittools.selection.checks import cost_checks, gain_check, help_checks, retained_check
from edittools.selection.effects import Effect
from edittools.selection.splits import Splits
from edittools.verdict import Check, Kind
from edittools.widgets import session as session_module
from edittools.widgets.desk import (
    MARK_MESSAGE,
    PAIR_MESSAGES,
    SELECTED,
    STOPPED_SELECTION,
    WAITING,
)
from edittools.widgets.desk_panel import (
    SMALL,
    STOPPING,
    UNMARKED,
    Controls,
    card,
)
from edittools.widgets.editor import strongest_heat
from edittools.widgets.image_sets import MOST_BYTES, read_set
from edittools.widgets.materials import BLANK_STICKER, MATERIALS, SURROUNDINGS, inpaint, replace_by_material
from edittools.widgets.result import (
    BETTER,
    FIND,
    MEASURING,
    NO_BETTER,
    SELECT,
    TOO_COSTLY,
    Result,
    described,
    with_verdict,
)
from edittools.widgets.session import NO_LABEL, EditSession
from edittools_course.miniworld.typography import blanked

MASK = torch.zeros(32, 32)
MASK[16:, 4:28] = 1


def image_sets(classifier):
    """A dozen images, the first half of them misclassified; clean images with predicted labels; retained images."""
    pixels = noise(12)
    predicted = predict(classifier, pixels).argmax(1)
    labels = torch.where(torch.arange(12) < 6, (predicted + 1) % 5, predicted)
    images = LabelledImages(pixels, labels, classifier.classes)
    clean_pixels = noise(40, seed=3)
    clean = LabelledImages(clean_pixels, predict(classifier, clean_pixels).argmax(1), classifier.classes)
    return images, clean, noise(10, seed=4)


@pytest.fixture
def sources(tiny):
    """Images, clean images and retained images."""
    return image_sets(tiny)


@pytest.fixture
def sets(tiny, sources):
    return EditSession(tiny, *sources)


@pytest.fixture
def desk(tiny, sources):
    desk = widgets.Desk(tiny, *sources)
    desk.session.default_layer = "conv1"
    desk.editor.mask = MASK
    desk.wait(60)
    return desk


def test_desk_starts_if_its_thread_runs_before_the_constructor_is_done(tiny, sources, monkeypatch):
    submit = ThreadPoolExecutor.submit

    def submit_and_run(*arguments):
        monkeypatch.undo()  # only the first request
        future = submit(*arguments)
        wait([future], timeout=1)
        return future

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit_and_run)
    desk = widgets.Desk(tiny, *sources)
    desk.wait(60)
    assert desk.is_started and desk.gallery.cards


@pytest.fixture
def varied_desk(tiny):
    """A desk whose classifier predicts several classes of noise, with an edit that changes predictions."""
    classifier = copy.deepcopy(tiny)
    with torch.no_grad():
        classifier.model.head.bias -= predict(classifier, noise(100, seed=5)).mean(0)
    desk = widgets.Desk(classifier, *image_sets(classifier))
    desk.session.default_layer = "head"
    desk.editor.mask = MASK
    desk.session.rewrite("head", 2)
    desk._show()
    assert (desk.result.after.argmax(1) != desk.session.before.argmax(1)).any()
    return desk


def drawn_from(index):
    """An exemplar that was made from an image."""
    return replace(make_exemplar(), sources=(f"image {index}",))


def card_of(desk, index):
    """The texts below an image in the gallery."""
    return desk.gallery.cards[dict(zip(desk.shown, desk.gallery.order, strict=True))[index]]


def prediction_on(card):
    """The class on a card that is predicted with the edit; an image whose prediction changes has a line more."""
    return card["lines"][-1][0].partition(" ")[2]


def rewritten(desk):
    desk.rewrite()
    desk.wait(60)
    return desk.result


# --- materials ---


def test_replace_by_material_changes_the_masked_area_only():
    image = noise(1, 32)[0]
    textures = {"mine": noise(1, 48, seed=9)[0]}
    for material in (*MATERIALS, *textures):
        replaced = replace_by_material(image, MASK, material, textures)
        assert torch.equal(replaced[:, MASK == 0], image[:, MASK == 0]), material
        assert (replaced - image)[:, MASK > 0].abs().mean() > 0.02, material
    blank = replace_by_material(image, MASK, BLANK_STICKER, textures)
    assert torch.equal(blank, blanked(image, MASK).image)


def test_replace_by_material_with_an_unknown_material_is_refused():
    with pytest.raises(KeyError, match="'velvet'"):
        replace_by_material(noise(1, 32)[0], MASK, "velvet", {})


def test_replace_by_material_with_the_surroundings_takes_their_color():
    image = torch.full((3, 32, 32), 0.25)
    image[:, MASK > 0] = 1.0
    assert replace_by_material(image, MASK, SURROUNDINGS, {}).sub(0.25).abs().max() < 1e-6


def test_inpaint_with_a_mask_of_the_whole_image_is_refused():
    with pytest.raises(ValueError, match="mask"):
        inpaint(noise(1, 32)[0], torch.ones(32, 32))


# --- sets ---


def test_order_begins_with_the_worst_predictions(sets, tiny):
    logits = predict(tiny, sets.images)
    margins = []
    for row, label in zip(logits, sets.images.labels, strict=True):
        margins.append(float(row[label] - row[torch.arange(5) != label].max()))
    assert sets.order == sorted(range(12), key=margins.__getitem__)
    assert [sets.is_misclassified(i) for i in range(12)] == [True] * 6 + [False] * 6


def test_reference_images_are_not_among_the_clean_images(sets):
    reference = {image.numpy().tobytes() for image in sets.reference}
    clean = {image.numpy().tobytes() for image in sets.clean.images}
    assert len(reference) == len(sets.clean) == 20
    assert not reference & clean


def test_session_refuses_sets_that_share_images(tiny, sources):
    images, clean, _ = sources
    with pytest.raises(ValueError, match="3") as error:
        EditSession(tiny, images, clean, clean.images[:3])
    assert "clean" in str(error.value) and "retain" in str(error.value)
    with pytest.raises(ValueError, match="1") as error:
        EditSession(tiny, images, torch.cat([clean.images, images.images[:1]]))
    assert "images" in str(error.value) and "clean" in str(error.value)


def test_session_uses_an_image_that_is_in_a_set_twice_once(tiny, sources):
    images, clean, retain = sources
    sets = EditSession(tiny, images.subset([0, 1, 1, 2]), clean, retain)
    assert len(sets.images) == 3 and any("1" in note and "images" in note for note in sets.notes)


def test_read_set_resizes_and_thins_a_large_set_and_predicts_its_labels(tiny):
    notes = []
    large = Classifier(tiny.model, tiny.classes, size=1000)
    count = MOST_BYTES // (12 * 1000**2) + 1
    read = read_set("images", noise(count, 8), large, notes)
    assert read.data.images.shape == (-(-count // 2), 3, 1000, 1000) and not read.is_labeled.any()
    logits = predict(large, read.data)
    assert read.labeled(logits).labels.tolist() == logits.argmax(1).tolist()
    assert len(notes) == 2 and "in 2" in notes[0] and "labels" in notes[1]


@pytest.mark.parametrize(
    ("source", "error", "value"),
    [
        (noise(4)[:, :1], ValueError, r"\(4, 1, 32, 32\)"),
        (3, TypeError, "int"),
        ("no/such/folder", FileNotFoundError, "no/such/folder"),
    ],
)
def test_desk_refuses_what_are_not_images(tiny, source, error, value):
    with pytest.raises(error, match=value):
        widgets.Desk(tiny, source)


def test_desk_refuses_labels_of_other_classes_at_once(tiny):
    with pytest.raises(ValueError, match="retain.*'tractor'"):
        widgets.Desk(tiny, noise(4), retain=LabelledImages(noise(2, seed=1), torch.tensor([0, 0]), ["tractor"]))


def test_desk_shows_what_is_found_in_the_background_and_raises_it(tiny, sources):
    images, clean, _ = sources
    desk = widgets.Desk(tiny, images, clean, clean.images[:3])
    for use in (desk.wait, desk.rewrite, lambda: desk.session, lambda: desk.controls):
        with pytest.raises(ValueError, match="'clean' and 'retain' share 3"):
            use()
    busy = desk.children[1]
    assert not busy.layout.display and busy.progress.layout.display == "none"
    assert busy.message.alarm and "share 3" in busy.message.text
    assert desk._controls.rewrite.disabled and desk._controls.material.disabled
    assert repr(desk) and desk._repr_mimebundle_()  # it can be displayed


def wait_until(condition):
    """Wait until a condition holds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_page_that_is_opened_is_sent_what_has_changed_while_it_was_loading(desk, monkeypatch):
    sent = []
    desk.choose(1)
    monkeypatch.setattr(ipywidgets.Widget, "send_state", lambda widget, key=None: sent.append(widget))
    desk.children[-1]._handle_custom_msg({"shown": True}, [])
    for part in (desk.editor, desk.box, desk.gallery, desk.controls.message, desk.editor.layout):
        assert part in sent
    assert sent.index(desk.editor.layout) < sent.index(desk.editor) < sent.index(desk.box) < sent.index(desk)


@pytest.fixture
def busy_desk(tiny, sources, monkeypatch):
    """A desk whose images are classified, and the event that it waits for before it reads the clean images."""
    may_go_on = threading.Event()

    def read(name, *arguments):
        assert name != "clean" or may_go_on.wait(60)
        return read_set(name, *arguments)

    monkeypatch.setattr(session_module, "read_set", read)
    desk = widgets.Desk(tiny, *sources)
    wait_until(lambda: desk._controls.pair.placeholder == UNMARKED)
    yield desk, may_go_on
    may_go_on.set()
    desk.wait(60)


def test_pair_and_heat_map_do_not_wait_for_the_clean_images(busy_desk):
    desk, may_go_on = busy_desk
    controls = desk._controls
    assert not controls.pair.has_images
    desk._editor.mask = MASK
    controls.heat.value = True
    wait_until(lambda: controls.pair.has_images and desk._editor.heat is not None)
    assert not desk.is_started and controls.find.disabled
    controls.rewrite.click()
    assert controls.message.text == WAITING and desk._session.edit is None
    may_go_on.set()
    desk.wait(60)
    assert desk.result.clean is not None and not controls.find.disabled


def test_buttons_are_enabled_when_the_first_image_can_be_marked(tiny, sources, monkeypatch):
    messages = []
    monkeypatch.setattr(Controls, "enable", lambda controls: messages.append(controls.pair_message.text))
    widgets.Desk(tiny, *sources).wait(60)
    assert messages == [MARK_MESSAGE]


def test_pair_does_not_wait_for_a_search(desk, tiny, monkeypatch):
    def report(bar):
        desk.editor.mask = MASK.flip(0)
        wait_until(lambda: desk.pair is not None)

    monkeypatch.setattr(session_module, "repair", instant_repair(tiny, report))
    desk.find_best()
    desk.wait(60)
    assert torch.equal(desk.pair.mask, MASK.flip(0)) and desk.result.repair is not None


def test_rewrite_of_a_model_in_half_precision_with_many_classes():
    model = TinyNet()
    model.head = torch.nn.Linear(8, 2000)
    classifier = Classifier(model.to(torch.bfloat16), [f"class {i}" for i in range(2000)], size=32)
    desk = widgets.Desk(classifier, noise(6), clean=noise(8, seed=1))
    desk.session.default_layer = "conv1"
    desk.editor.mask = MASK
    assert rewritten(desk).edit.layers == ("conv1",)


# --- folders ---


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for name, image in zip(("Bee/a.png", "bee/b.jpg", "3/c.png", "fox/d.png"), noise(4, 40), strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(root / name, image)
    (root / "bee" / "broken.jpg").write_bytes(b"not an image")
    return root


def test_read_folder_labels_by_subfolder_and_names_files_that_are_left_out(folder, tiny):
    data, left_out = et.read_folder(folder, tiny)
    assert data.names == ("3/c.png", "Bee/a.png", "bee/b.jpg") and data.labels.tolist() == [3, 1, 1]
    assert left_out[0].startswith("bee/broken.jpg: ") and left_out[1].startswith("fox/d.png: ") and "5" in left_out[1]
    desk = widgets.Desk(tiny, folder)
    desk.wait(60)
    notes = desk.children[0].value
    assert "2 files" in notes and "bee/broken.jpg" in notes


def test_read_folder_follows_links_once_and_skips_hidden_files(folder, tiny, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    save_image(tmp_path / "elsewhere" / "e.png", noise(1, seed=5)[0])
    (folder / "cat").symlink_to(tmp_path / "elsewhere")
    (folder / "bee" / "round").symlink_to(folder)
    save_image(folder / "bee" / ".hidden.png", noise(1, seed=6)[0])
    (folder / ".trash").mkdir()
    save_image(folder / ".trash" / "f.png", noise(1, seed=7)[0])
    data, _ = et.read_folder(folder, tiny)
    assert data.names == ("3/c.png", "Bee/a.png", "bee/b.jpg", "cat/e.png")


def test_read_folder_predicts_labels_of_images_in_the_folder_itself(tmp_path, tiny):
    save_image(tmp_path / "a.png", noise(1)[0])
    data, left_out = et.read_folder(str(tmp_path), tiny)
    assert not left_out and data.labels.tolist() == predict(tiny, data).argmax(1).tolist()


def test_read_folder_without_a_readable_image_is_refused(tmp_path, tiny):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="a.png"):
        et.read_folder(tmp_path, tiny)


def test_session_loads_lazy_images(folder, tiny):
    paths = [folder / "Bee" / "a.png", folder / "bee" / "b.jpg"]
    assert len(EditSession(tiny, LazyImages(paths, 32)).images) == 2


# --- the order of the gallery, and where to mark ---


def test_by_change_puts_changed_predictions_first(varied_desk):
    sets, result = varied_desk.session, varied_desk.result
    order = sets.by_change(result)
    changed = (result.after.argmax(1) != sets.before.argmax(1))[order].tolist()
    assert changed == sorted(changed, reverse=True) and any(changed) and not all(changed)
    labels = sets.images.labels
    move = (label_margins(result.after, labels) - label_margins(sets.before, labels)).abs()[order]
    assert (move[: sum(changed)].diff() <= 0).all() and (move[sum(changed) :].diff() <= 0).all()


def test_gallery_sends_small_images_and_the_enlarged_one_in_full(tiny):
    def side(png):
        return Image.open(io.BytesIO(base64.b64decode(png))).width

    large = Classifier(TinyNet(), tiny.classes, size=400)
    desk = widgets.Desk(large, noise(4, size=400))
    desk.wait(60)
    assert {side(png) for png in desk.gallery._images} == {2 * SMALL}
    desk.gallery.enlarged = 2
    assert side(desk.gallery._large_png) == 400
    desk.gallery.enlarged = -1
    assert not desk.gallery._large_png


def test_marked_images_are_listed_with_their_masks(desk):
    first, second = desk.order[0], desk.order[1]
    assert card_of(desk, first)["marked"] and not card_of(desk, second)["marked"]
    desk.choose(second)
    desk.editor.mask = MASK.flip(0)
    assert sorted([first, second]) == sorted(desk.session.marked)
    desk.choose(first)
    assert torch.equal(desk.editor.mask, MASK)
    desk.choose(second)
    assert torch.equal(desk.editor.mask, MASK.flip(0)) and torch.equal(desk.session.mask, MASK.flip(0))
    desk.editor.mask = None
    assert desk.session.marked == [first]


def test_mask_that_was_marked_in_the_session_is_in_the_editor(desk):
    index = desk.order[-1]
    desk.session.select(index)
    desk.session.mark(MASK.flip(1))
    desk.choose(index)
    assert torch.equal(desk.editor.mask, MASK.flip(1))


def test_evidence_of_an_image_is_for_its_prediction_against_its_label(sets, tiny):
    wrong = sets.order[0]
    label = int(sets.images.labels[wrong])
    predicted = int(sets.before[wrong].argmax())
    heat, favored, against = sets.evidence("conv1", wrong)
    expected = et.probing.evidence_map(Cut(tiny, "conv1"), sets.images.images[wrong], predicted, label)
    torch.testing.assert_close(heat, expected)
    assert [favored, against] == [tiny.classes[predicted], tiny.classes[label]]
    correct = sets.order[-1]
    _, favored, against = sets.evidence("conv1", correct)
    assert [favored, against] == [tiny.classes[i] for i in sets.before[correct].topk(2).indices]


def test_heat_map_has_a_color_bar(desk):
    controls = desk.controls
    assert not controls.heat_bar.value
    controls.heat.value = True
    desk.wait(60)
    assert f"{strongest_heat(desk.editor.heat):.2g}" in controls.heat_bar.value
    assert all(name in controls.heat_bar.value for name in desk.session.evidence("conv1")[1:])
    controls.heat.value = False
    assert not controls.heat_bar.value


def test_rewrite_shows_the_images_before_the_costs(desk, monkeypatch):
    verdicts = []
    desk.controls.verdict.observe(lambda change: verdicts.append(change["new"]), "text")
    result = rewritten(desk)
    assert len(verdicts) == 2 and verdicts[0].split("\n")[1] == MEASURING
    assert f"{result.word}: {verdicts[1]}" == result.verdict


# --- the desk ---


def test_rewrite_on_the_desk_shows_and_saves_the_edit(desk, tiny, tmp_path):
    assert desk.index == desk.order[0] and torch.equal(desk.exemplar.changed, desk.session.images.images[desk.index])
    result = rewritten(desk)
    assert result.edit is desk.edit and len(result.images.before) == 11 and result.repair is None
    assert f"{desk.controls.verdict.word}: {desk.controls.verdict.text}" == result.verdict
    assert "conv1" in desk.controls.message.text
    predicted = [tiny.classes[int(i)] for i in result.after[desk.shown].argmax(1)]
    assert [prediction_on(card_of(desk, index)) for index in desk.shown] == predicted
    desk.controls.path.value = str(tmp_path / "edit.safetensors")
    desk.controls.save.click()
    loaded = et.Edit.load(tmp_path / "edit.safetensors", tiny)
    with loaded.applied(tiny):
        torch.testing.assert_close(predict(tiny, desk.session.images), result.after)


def test_card_shows_probabilities_of_the_label_and_of_both_predictions():
    before = torch.tensor([0.034, 0.9, 0.066])
    after = torch.tensor([0.81, 0.1, 0.09])
    classes = ("tape player", "garbage truck", "beacon")
    changed = card(classes, 0, before, after, name="a.png")
    assert changed["lines"] == [["tape player", "3→81%"], ["+ garbage truck", "90%"], ["→ tape player", "81%"]]
    for part in ("a.png", "tape player 3→81%", "+ garbage truck 90%, → tape player 81%", "corrected"):
        assert part in changed["description"]
    same = card(classes, 2, before, torch.tensor([0.1, 0.8, 0.1]), caption="x")
    unlabeled = card(classes, None, before, after, name="a.png")
    assert unlabeled["lines"] == [[NO_LABEL, ""], ["garbage truck", "90%"], ["→ tape player", "81%"]]
    assert not unlabeled["state"]
    assert same["lines"] == [["x", ""], ["beacon", "7→10%"], ["✗ garbage truck", "90→80%"]]
    assert card(classes, 1, before, before)["lines"] == [["garbage truck", "90%"], ["✓ garbage truck", ""]]


def test_cards_and_the_pair_show_the_probabilities_of_the_classifier(varied_desk):
    desk = varied_desk
    sets = desk.session
    index = desk.shown[0]
    label = int(sets.images.labels[index])
    before = 100 * float(sets.before.softmax(1)[index, label])
    after = 100 * float(desk.result.after.softmax(1)[index, label])
    lines = card_of(desk, index)["lines"]
    assert [round(before), round(after)] == [
        int(lines[0][1].split("→")[0].strip("%")),
        int(lines[0][1].split("→")[-1][:-1]),
    ]
    pair = predict(sets.classifier, torch.stack([desk.pair.image, desk.pair.changed])).softmax(1)
    for shown, row in zip(desk.controls.pair.cards, pair, strict=True):
        assert shown["lines"][1] == [
            sets.classifier.classes[desk.pair.label],
            f"{100 * float(row[desk.pair.label]):.0f}%",
        ]


def comparison(before, after):
    """A comparison of images of which those marked by an x are misclassified."""
    return Comparison(*(torch.tensor([c == "x" for c in text]) for text in (before, after)))


def effect(before, after):
    """What an edit does to images, each a scene of its own, of which those marked by an x are misclassified."""
    labels = torch.zeros(len(before), dtype=torch.long)
    predicted = [torch.tensor([int(mark == "x") for mark in text]) for text in (before, after)]
    return Effect(labels, *predicted, torch.arange(len(before)))


HELPS = gain_check(effect("x" * 8, "." * 8))
"""The check of an edit that corrects 8 of 8 images."""


@dataclass(frozen=True)
class Found:
    """What `repair` returns: an edit, and the checks of its verdict."""

    edit: object
    given: tuple
    effects: dict = field(default_factory=dict)

    @property
    def selection(self):
        return SimpleNamespace(candidate=SimpleNamespace(strength=0.5))

    @property
    def verdict(self):
        return self.words()

    def words(self, audience="python"):
        return verdict_words(self.given, audience)

    def summary(self, audience="python"):
        return "\n".join([str(self.words(audience)), "Selected: layer conv2, p 0.03."])


def found(edit, checks=None):
    """What `repair` returns for an edit that corrects 4 of 6 images; 15 of 25 retained images are broken."""
    if checks is None:
        checks = [
            gain_check(effect("xxxxxx", "....xx")),
            retained_check("retained images", effect("." * 25, "xxx" * 5 + "." * 10)),
        ]
    return Found(edit, tuple(checks))


def instant_repair(tiny, report=lambda bar: None, checks=None):
    """A `repair` that selects an edit at once; `report` is called with its bar, of 100 steps."""
    edit = et.rewrite(tiny, "conv2", make_exemplar(), noise(8))

    def repair(classifier, exemplar, images, *, concept, clean, retain, progress, **options):
        with progress(total=100, unit="step", leave=False) as bar:
            report(bar)
        assert len(concept) == 11 and len(images) == len(clean) == 20 and len(retain) == 10
        return found(edit, checks)

    return repair


def test_use_on_the_desk_names_each_cost_that_was_not_measured(desk, tiny, monkeypatch):
    unknown = [Check(Kind.RETAINED, None), Check(Kind.OWN_CLASS, None, numbers={"classes": ["red"]})]
    monkeypatch.setattr(session_module, "repair", instant_repair(tiny, checks=[HELPS, *unknown]))
    desk.find_best()
    desk.wait(60)
    verdict = desk.controls.verdict
    assert verdict.word == "use" and "red" in verdict.text and "retained" in verdict.text


def test_undo_after_a_search_goes_back_to_the_previous_edit(desk, tiny, monkeypatch):
    first = rewritten(desk)
    monkeypatch.setattr(session_module, "repair", instant_repair(tiny))
    desk.find_best()
    desk.wait(60)
    verdict = desk.controls.verdict
    assert desk.result.repair.edit is desk.edit and desk.edit.layers == ("conv2",)
    assert (verdict.word, verdict.tone) == ("do not use", "bad") and "10 of 25" in verdict.text
    assert "conv2" not in verdict.text and "conv2" in verdict.details
    assert desk.controls.message.text == SELECTED
    desk.controls.undo.click()
    assert desk.result is first and f"{verdict.word}: {verdict.text}" == first.verdict
    undone = desk.controls.message.text
    assert undone != SELECTED
    desk.undo()
    assert desk.controls.message.text not in (SELECTED, undone)
    assert desk.result is None and desk.edit is None and desk.controls.undo.disabled
    desk.undo()


def test_rewrite_selects_an_edit_afterwards(desk, monkeypatch):
    searched = []
    monkeypatch.setattr(desk.session, "search", lambda exemplar, progress: searched.append(exemplar))
    monkeypatch.setattr(EditSession, "can_search", True)
    rewritten(desk)
    assert len(searched) == 1 and searched[0].sources == (desk.session.name(desk.index),)
    monkeypatch.setattr(EditSession, "can_search", False)
    rewritten(desk)
    assert len(searched) == 1


def test_stop_keeps_the_first_edit_and_says_at_once_that_it_stops(desk, tiny, monkeypatch):
    first = rewritten(desk)

    def report(bar):
        bar.update(25)
        bar.refresh()
        assert 0 < desk.controls.progress.value < 1 and desk.controls.rewrite.disabled
        assert not desk.controls.stop.disabled and desk.controls.status.value != STOPPING
        desk.controls.stop.click()
        assert desk.controls.stop.disabled and desk.controls.status.value == STOPPING
        bar.refresh()
        assert desk.controls.stop.disabled and desk.controls.status.value == STOPPING
        bar.update()

    monkeypatch.setattr(session_module, "repair", instant_repair(tiny, report))
    desk.find_best()
    desk.wait(60)
    assert desk.result is first and desk.controls.message.text == STOPPED_SELECTION and not desk.controls.message.alarm
    assert not desk.controls.rewrite.disabled and not desk.controls.status.value
    desk.controls.show_search(0.1, "another search")
    assert desk.controls.status.value == "another search" and not desk.controls.stop.disabled


@pytest.mark.parametrize(
    ("checks", "action"),
    [
        ([gain_check(effect("xxx", "..x"))], FIND),  # it may be chance
        (help_checks(None, [], "sample"), FIND),
        ([HELPS, *cost_checks(Splits(torch.zeros(0)), {}, "abc")], ""),
    ],
)
def test_next_step_is_in_words_of_the_desk(checks, action):
    result = Result(None, torch.zeros(0), comparison("xx.", "x.."), None, None)
    result = with_verdict(result, found(None, checks))
    assert result.action == action and result.step
    assert not re.search(r"\w=", result.verdict + result.details)


def test_find_best_without_clean_images_is_refused(tiny, sources):
    desk = widgets.Desk(tiny, sources[0])
    assert not desk.session.can_search and desk.session.reference is desk.session.images.images
    desk.editor.mask = MASK
    desk.find_best()
    with pytest.raises(ValueError, match="clean"):
        desk.wait(60)


def test_rewrite_without_clean_images_names_the_unknown_costs(tiny, sources):
    desk = widgets.Desk(tiny, sources[0])
    desk.editor.mask = MASK
    result = rewritten(desk)
    assert "clean" in result.details and "retained" in result.details and "unknown" in result.details
    assert not result.action


def test_first_result_holds_what_is_corrected_and_broken_and_each_cost_once():
    images = comparison("xxx..", "..x.x")
    retain = effect("." * 90, "x" * 2 + "." * 88)
    clean = effect("." * 400, "." * 400)
    result = described(Result(make_edit(), torch.zeros(0), images, retain, clean), can_select=True)
    assert "2 of 3" in result.reason and "1 of 2" in result.reason
    first, second, *_ = result.details.split("\n")
    assert "400 → 400" in first
    assert "90 → 88" in second and "limit: 2" in second
    assert "90 → 88" not in result.verdict and result.word == BETTER and result.action == SELECT


def make_edit():
    return et.Edit({"conv.weight": Change(torch.ones(1, 1, 1, 1))}, "fingerprint")


@pytest.mark.parametrize(
    ("retain", "clean", "is_too_high"),
    [
        ("." * 10, "." * 40, False),  # so few images cannot show what it costs, but nothing is lost
        ("x" + "." * 33, "x" + "." * 39, False),  # one of 34 may break, and one clean image may be lost
        ("x" + "." * 32, "." * 40, True),
        ("." * 10, "xx" + "." * 38, True),
    ],
)
def test_first_result_is_too_costly_where_a_cost_exceeds_its_limit(retain, clean, is_too_high):
    images = comparison("xxx..", ".....")
    costs = [effect("." * len(after), after) for after in (retain, clean)]
    result = described(Result(make_edit(), torch.zeros(0), images, *costs), can_select=True)
    assert result.word == (TOO_COSTLY if is_too_high else BETTER)


@pytest.mark.parametrize("can_select", [True, False])
def test_first_result_that_corrects_nothing_is_no_improvement(can_select):
    result = described(Result(make_edit(), torch.zeros(0), comparison("xx.", "xx."), None, None), can_select)
    assert result.word == NO_BETTER and "0 of 2" in result.reason
    assert result.step and (result.action == SELECT) == can_select


def test_message_about_the_pair_stays_after_a_rewrite(desk):
    said = desk.controls.pair_message.text
    assert said in PAIR_MESSAGES.values()
    rewritten(desk)
    assert desk.controls.pair_message.text == said
    desk.choose(desk.order[1])
    assert desk.controls.pair_message.text == MARK_MESSAGE and not desk.controls.message.text


def test_single_image_is_counted_in_the_singular(tiny):
    desk = widgets.Desk(tiny, noise(1))
    desk.wait(60)
    assert "1 image," in desk.children[0].value


def test_mask_of_most_of_the_image_is_warned_of_whatever_is_predicted(desk):
    warned = []
    for rows in (16, 17):
        mask = torch.zeros(32, 32)
        mask[:rows] = 1
        desk.editor.mask = mask
        desk.wait(60)
        warned.append(desk.controls.pair_message.alarm)
    assert warned == [False, True] and "53%" in desk.controls.pair_message.text


def test_controls_show_errors_below_the_buttons(desk):
    message = desk.controls.message
    desk.controls.save.click()
    assert message.alarm and "no edit" in message.text
    desk.editor.mask = None
    desk.controls.rewrite.click()
    assert message.alarm and "marked" in message.text
    desk.editor.mask = torch.ones(32, 32)
    desk.controls.material.value = SURROUNDINGS
    assert message.alarm and "mask" in message.text
    desk.controls.material.value = "gravel"
    assert rewritten(desk) and not message.alarm


def test_verdict_is_cleared_after_weights_changed(desk, tiny, tmp_path):
    rewritten(desk)
    with torch.no_grad():
        tiny.model.conv1.weight.mul_(1.5)
    assert desk.result is None
    desk.rewrite()
    with pytest.raises(ValueError, match="TinyNet"):
        desk.wait(60)
    assert desk.controls.message.alarm and "TinyNet" in desk.controls.message.text
    assert not desk.controls.verdict.text and not desk.controls.title.value
    assert {card["state"] for card in desk.gallery.cards} == {"correct", "misclassified"}
    desk.save(tmp_path / "edit.safetensors")  # the edit of the old weights is not lost
    assert (tmp_path / "edit.safetensors").exists()


def test_bars_of_the_desk_print_nothing(desk, tiny, monkeypatch, capfd):
    monkeypatch.setattr(session_module, "repair", instant_repair(tiny, lambda bar: bar.update(100)))
    desk.session.default_layer = "conv2"
    desk.find_best()
    desk.wait(60)
    assert capfd.readouterr() == ("", "")


SCRIPT = """
import torch
from edittools import widgets
from edittools.widgets import desk_panel as panel
from edittools.classifiers import Classifier
from conftest import TinyNet
classifier = Classifier(TinyNet(), ("a", "b", "c", "d", "e"), size=32)
desk = widgets.Desk(classifier, torch.rand(12, 3, 32, 32), torch.rand(40, 3, 32, 32))
desk.editor.mask = torch.ones(32, 32)
for _ in range(5):
    desk.rewrite()
"""


def test_script_may_end_while_the_desk_works():
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]  # on a busy machine an export may warn that it is slow
    ended = subprocess.run(command, cwd="tests", capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
