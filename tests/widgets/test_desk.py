"""The desk without a browser: presses, marks that are files at once, what runs in the background, and what is said."""

import base64
import io
import threading
import time
from functools import partial
from pathlib import Path

import ipywidgets
import pytest
import torch
from conftest import noise
from desk_photos import MASK, small_model, write_photos
from PIL import Image
from tqdm import tqdm

import edittools as et
from edittools.auditing.from_files import load_exemplar
from edittools.widgets.desk.desk import Desk
from edittools.widgets.desk.engine import Engine
from edittools.widgets.desk.files import CHECKED
from edittools.widgets.desk.parts import SMALL, Gallery, card
from edittools.widgets.desk.state import MarkedArea, draw, look_elsewhere, replace_by, select, show_heat, stop
from edittools.widgets.desk.worker import Worker, bars
from edittools.widgets.editor import strongest_heat
from edittools.widgets.materials import BLANK_STICKER


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    write_photos(folder)
    return folder


@pytest.fixture
def opened(photos, tmp_path):
    """A function that opens a desk on the photos, with the marks of earlier ones."""

    def open_desk():
        desk = Desk(small_model(), photos / "photos", photos / "clean", marks=tmp_path / "work" / "marks")
        desk.wait(120)
        assert not desk.view.message.alarm, desk.view.message.text
        return desk

    return open_desk


@pytest.fixture
def desk(opened):
    return opened()


def mark(desk, mask=MASK):
    """Draw on the image in the editor, as the browser does."""
    [editor] = desk.view.editor_box.children
    editor.mask = mask
    desk.wait(120)


def press(button):
    assert not button.disabled and button.layout.display != "none", button.description
    button.click()


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_mistakes_are_shown_with_what_they_are_and_what_is_predicted(desk):
    view = desk.view
    engine = desk.engine
    assert len(view.mistakes.cards) == len(engine.mistakes) and view.mistakes.selected == 0
    assert desk.state.selected == engine.mistakes.names[0]
    first = view.mistakes.cards[0]
    predicted = engine.classifier.classes[int(engine.probabilities(desk.state.selected).argmax())]
    assert first["lines"][0][0] == engine.classifier.classes[int(engine.mistakes.labels[0])]
    assert predicted in first["lines"][1][0] and first["state"] == "misclassified"
    assert view.find.disabled and view.save.disabled and view.stop.layout.display == "none"


def test_mark_is_a_file_at_once_and_is_there_when_the_desk_is_opened_again(desk, opened, tmp_path):
    mark(desk)
    name = desk.state.selected
    path = tmp_path / "work" / "marks" / Path(name).parent.name / Path(name).name
    assert torch.equal(et.load_mask(path), MASK)
    again = opened()
    assert again.state.marks == {name: MarkedArea.of(MASK)} and again.state.selected == name
    assert torch.equal(again.view.editor_box.children[0].mask, MASK)
    assert again.view.rewrite.button_style == "primary"
    mark(again, torch.zeros(32, 32))
    assert not path.exists()


def test_rewrite_asks_for_the_mark_first_and_then_for_the_rest_of_it(desk):
    press(desk.view.rewrite)
    assert desk.view.message.alarm and desk.view.message.text and desk.state.edit is None
    small = torch.zeros(32, 32)
    small[:2, :2] = 1
    mark(desk, small)
    assert not desk.view.message.text and desk.view.pair_message.alarm
    press(desk.view.rewrite)
    assert desk.view.message.alarm and "rest" in desk.view.message.text and desk.state.edit is None
    assert desk.view.find.disabled
    mark(desk)
    assert not desk.view.message.text and not desk.view.pair_message.alarm
    press(desk.view.rewrite)
    assert desk.state.edit is not None
    desk.act(stop)
    desk.wait(120)


def test_journey_from_a_mark_to_saved_files(desk, opened, tmp_path):
    view = desk.view
    mark(desk)
    press(view.rewrite)
    wait_for(lambda: view.outcome.text)
    assert view.outcome.word == "First edit" and view.save.disabled
    desk.wait(300)
    assert view.outcome.word == "Selected edit" and view.find.button_style == "primary"
    assert view.stop.layout.display == "none" and view.rewrite.disabled
    press(view.find)
    desk.wait(120)
    assert view.shelf.layout.display == "" and view.pick.layout.display == "none"
    press(view.check_all)
    count = len(view.found.cards)
    assert len(view.found.checked) == len(desk.state.checked) == count and str(count) in view.count.text
    view.found.checked = list(range(40))
    assert len(desk.state.checked) == 40 and view.rewrite.button_style == "primary"
    press(view.rewrite)
    assert view.shelf.layout.display == "none"
    desk.wait(300)
    fix = desk.engine.known(next(q for q in desk.engine._answers if q.kind.name == "VERDICT")).fix
    assert view.outcome.word == fix.verdict.word
    assert view.outcome.text == "\n".join(fix.words("desk").sentences)
    assert view.find.button_style == "" and not view.find.disabled  # what it finds was looked at
    press(view.save)
    desk.wait(120)
    saved = tmp_path / "work" / "edit"
    assert str(saved) in view.message.text and (saved / "report.html").is_file() and (saved / "report.json").is_file()
    edit = et.Edit.load(saved / "edit.safetensors", desk.engine.classifier)
    assert edit.digest == fix.edit.digest and edit.verdict == fix.edit.verdict
    files = [saved / name for name in ("x.png", "x_marked.png", "mask.png")]
    assert torch.equal(load_exemplar(*files, desk.engine.classifier).mask, MASK)
    assert len((tmp_path / "work" / "marks" / CHECKED).read_text().splitlines()) == 40
    again = opened()
    assert again.state.checked == desk.state.checked
    press(view.undo)
    assert view.outcome.word == "Selected edit"
    assert view.save.disabled


def test_stop_keeps_the_first_edit(desk):
    mark(desk)
    press(desk.view.rewrite)
    wait_for(lambda: desk.view.outcome.text)
    first = desk.view.outcome.text
    press(desk.view.stop)
    desk.wait(120)
    assert desk.view.outcome.word == "First edit" and desk.view.stop.layout.display == "none"
    assert desk.view.outcome.text.split("\n")[0] == first.split("\n")[0] and not desk.view.rewrite.disabled


def test_material_is_replaced_otherwise(desk):
    mark(desk)
    assert desk.view.material.layout.display == "none"
    desk.view.other_material.value = True
    assert desk.view.material.layout.display == ""
    before = list(desk.view.pair._images)
    desk.view.material.value = BLANK_STICKER
    desk.wait(120)
    assert desk.state.marked.material == BLANK_STICKER
    assert desk.view.pair._images[0] != before[0] and desk.view.pair._images[1] == before[1]


def test_heat_map_has_a_legend_and_goes_away(desk):
    desk.view.heat.value = True
    desk.wait(120)
    [editor] = desk.view.editor_box.children
    assert f"{strongest_heat(editor.heat):.2g}" in desk.view.heat_bar.value
    desk.view.heat.value = False
    assert editor.heat is None and not desk.view.heat_bar.value


def test_selecting_another_image_shows_its_own_mark(desk):
    mark(desk)
    desk.view.mistakes.selected = 1
    desk.wait(120)
    assert desk.state.selected == desk.engine.mistakes.names[1] and desk.state.marked is None
    assert not desk.view.editor_box.children[0].mask.any() and not desk.view.pair.cards
    assert [shown["marked"] for shown in desk.view.mistakes.cards[:2]] == [True, False]


def test_mark_that_the_network_does_not_see_says_so_until_it_is_changed(desk):
    dot = torch.zeros(32, 32)
    desk.act(partial(draw, name=desk.state.selected, mark=MarkedArea.of(dot + torch.eye(32))))
    desk.wait(120)
    desk.engine.forget_all_but(())
    desk._failures.clear()
    desk.engine.mask_of = lambda mark: torch.zeros(32, 32)
    desk.act(partial(replace_by, material=BLANK_STICKER))
    desk.wait(120)
    assert desk.view.message.alarm and "not see" in desk.view.message.text and desk.view.rewrite.disabled


def test_desk_that_cannot_start_says_why(photos, tmp_path):
    desk = Desk(small_model(), photos / "nowhere", photos / "clean", marks=tmp_path / "marks")
    desk.wait(60)
    assert desk.view.message.alarm and "nowhere" in desk.view.message.text
    desk = Desk(small_model(), photos / "photos", photos / "photos", marks=tmp_path / "marks")
    desk.wait(60)
    assert desk.view.message.alarm and desk.view.rewrite.disabled


def test_mark_that_cannot_be_saved_is_an_alarm_and_stays_on_the_desk(desk, tmp_path):
    (tmp_path / "work").mkdir(exist_ok=True)
    (tmp_path / "work" / "marks").write_text("a file")
    mark(desk)
    assert desk.view.message.alarm and "marks" in desk.view.message.text and desk.state.marked is not None


def test_pair_does_not_wait_for_the_clean_images(photos, tmp_path, monkeypatch):
    may_go_on = threading.Event()
    complete = Engine.complete

    def wait_and_complete(*arguments):
        assert may_go_on.wait(60)
        complete(*arguments)

    monkeypatch.setattr(Engine, "complete", wait_and_complete)
    desk = Desk(small_model(), photos / "photos", photos / "clean", marks=tmp_path / "marks")
    try:
        wait_for(lambda: desk.view.editor_box.children)
        desk.view.editor_box.children[0].mask = MASK
        wait_for(lambda: desk.view.pair.cards)
        assert desk.view.rewrite.disabled
    finally:
        may_go_on.set()
    desk.wait(60)
    assert not desk.view.rewrite.disabled


def test_what_is_no_longer_asked_for_ends(desk, monkeypatch):
    """The selection for an edit that was undone, which would take minutes."""
    ended = threading.Event()

    def select_for_ever(self, marked, progress):
        with progress(total=10_000) as bar:
            try:
                while True:
                    time.sleep(0.01)
                    bar.update()
            except KeyboardInterrupt:
                ended.set()
                raise

    monkeypatch.setattr(Engine, "_selected", select_for_ever)
    mark(desk)
    press(desk.view.rewrite)
    wait_for(lambda: desk.view.progress.layout.display == "" and desk.view.outcome.text)
    desk.act(look_elsewhere)
    wait_for(lambda: desk.view.found.cards)  # is not behind the selection
    desk.act(partial(show_heat, is_shown=True))
    assert not ended.is_set()
    press(desk.view.stop)
    assert ended.wait(60)
    desk.wait(60)
    assert desk.view.progress.layout.display == "none"


def test_failure_in_the_background_is_shown_and_not_tried_again(desk, monkeypatch):
    tries = []

    def fail(self, marked, progress):
        tries.append(marked)
        raise RuntimeError("no memory is left")

    monkeypatch.setattr(Engine, "_selected", fail)
    mark(desk)
    press(desk.view.rewrite)
    desk.wait(120)
    assert desk.view.message.alarm and desk.view.message.text == "no memory is left"
    desk.act(partial(select, name=desk.engine.mistakes.names[1]))
    desk.wait(120)
    assert len(tries) == 1 and desk.view.outcome.word == "First edit"


def test_page_that_is_opened_is_sent_what_has_changed_while_it_was_loading(desk, monkeypatch):
    sent = []
    monkeypatch.setattr(ipywidgets.Widget, "send_state", lambda widget, key=None: sent.append(widget))
    desk.view.children[-1]._handle_custom_msg({"shown": True}, [])
    view = desk.view
    [editor] = view.editor_box.children
    for part in (editor, view.box, view.mistakes, view.message, editor.layout):
        assert part in sent
    assert sent.index(editor.layout) < sent.index(editor) < sent.index(view.box) < sent.index(view)


# --- parts ---


def test_gallery_sends_small_images_and_the_enlarged_one_in_full():
    def side(image):
        return Image.open(io.BytesIO(base64.b64decode(image))).width

    gallery = Gallery()
    images = noise(3, size=400)
    gallery.show("a", images, [{}] * 3)
    assert {side(image) for image in gallery._images} == {2 * SMALL}
    gallery.enlarged = 2
    assert side(gallery._large_png) == 400
    gallery.show("b", images, [{}] * 3)
    assert gallery.enlarged == -1 and not gallery._large_png


def test_card_says_what_it_is_and_what_is_predicted_before_and_with_an_edit():
    before = torch.tensor([0.034, 0.9, 0.066])
    after = torch.tensor([0.81, 0.1, 0.09])
    classes = ("tape player", "garbage truck", "beacon")
    changed = card(classes, 0, before, after, name="a.png", is_marked=True)
    assert [line[1:] for line in changed["lines"]] == [["", None], ["90%", False], ["81%", True]]
    assert "before" in changed["lines"][1][0] and "now" in changed["lines"][2][0]
    assert changed["state"] == "corrected"
    for part in ("a.png", "tape player", "garbage truck 90%", "marked"):
        assert part in changed["description"]
    same = card(classes, 1, before, before, caption="x")
    assert same["lines"][0][0] == "x" and len(same["lines"]) == 2 and "still" in same["lines"][1][0]
    assert card(classes, 2, before)["state"] == "misclassified"


# --- the worker ---


def test_worker_runs_an_urgent_job_next_to_a_long_one():
    worker = Worker()
    is_done = threading.Event()
    worker.submit(lambda: is_done.wait(60))
    worker.submit(is_done.set, is_urgent=True)
    worker.wait(30)
    assert is_done.is_set()


def test_worker_lets_what_takes_long_wait_for_what_is_urgent():
    worker = Worker()
    worker.wait_for_urgent()
    may_go_on = threading.Event()
    is_done = threading.Event()
    seen = []
    worker.submit(lambda: (may_go_on.wait(60), is_done.set()), is_urgent=True)
    worker.submit(lambda: (worker.wait_for_urgent(), seen.append(is_done.is_set())))
    time.sleep(0.1)
    may_go_on.set()
    worker.wait(30)
    assert seen == [True]


def test_worker_waits_for_jobs_of_jobs_and_raises_their_errors():
    worker = Worker()
    done = []
    worker.submit(lambda: worker.submit(lambda: done.append(1)))
    worker.wait(30)
    assert done == [1]
    worker.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.wait(30)
    worker.submit(partial(time.sleep, 1))
    with pytest.raises(TimeoutError):
        worker.wait(0.01)
    worker.wait(30)


def test_bars_are_shown_print_nothing_and_end_what_is_no_longer_wanted(capfd):
    shown = []
    is_wanted = [True]
    make_bar = bars(lambda *what: shown.append(what), lambda: is_wanted[0])
    assert issubclass(make_bar, tqdm)
    with make_bar(total=4, desc="looking") as bar:
        bar.update(2)
        bar.refresh()
        assert shown[-1][:3] == ("looking", 2, 4)
        is_wanted[0] = False
        with pytest.raises(KeyboardInterrupt):
            bar.update()
    with pytest.raises(KeyboardInterrupt):
        list(make_bar(range(3)))
    assert capfd.readouterr().out == ""


def test_desk_on_a_folder_without_mistakes_says_so(photos, tmp_path):
    classifier = small_model()
    clean = Engine(classifier, photos / "clean").images
    for name, predicted in zip(clean.names, et.predict(classifier, clean).argmax(dim=1), strict=True):
        target = tmp_path / "correct" / clean.classes[int(predicted)] / Path(name).name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(name).read_bytes())
    desk = Desk(classifier, tmp_path / "correct", photos / "photos", marks=tmp_path / "marks")
    wait_for(lambda: desk.engine is not None and desk.view.mistakes.placeholder)
    assert len(desk.engine.mistakes) == 0 and "misclassified" in desk.view.mistakes.placeholder
    desk.wait(120)
