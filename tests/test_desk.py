"""The desk without a browser: what it computes, what it says, and that Python and hand take the same path."""

import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TinyNet, make_exemplar, randomise_norms

import edittools as et
from edittools import lab
from edittools.choosing.choice import most_broken
from edittools.classifiers import Classifier, fingerprint
from edittools.cut import Cut
from edittools.edits import Edit
from edittools.images import LabelledImages, LazyImages, save_image
from edittools.keys import LayerKeys
from edittools.lab import bench as bench_module
from edittools.lab import cards, folders, palette, steps, words
from edittools.lab.bench import Bench, Counts, Settings, margins
from edittools.lab.desk_work import Drawing, Request, Told, Work
from edittools.lab.worker import Worker
from edittools.metrics import Comparison, errors, predict
from edittools.world.typography import blanked


def noise(count, size=32, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def wrong_in(classifier, pixels, share=0.5):
    """Labelled images, of which about this share is misread."""
    read = predict(classifier, pixels).argmax(1)
    labels = torch.where(torch.arange(len(pixels)) < share * len(pixels), (read + 1) % len(classifier.classes), read)
    return LabelledImages(pixels, labels, classifier.classes)


MASK = torch.zeros(32, 32)
MASK[16:, 4:28] = 1


@pytest.fixture
def sets(tiny):
    everyday = LabelledImages(noise(40, seed=3), predict(tiny, noise(40, seed=3)).argmax(1), tiny.classes)
    return wrong_in(tiny, noise(12)), everyday, noise(10, seed=4)


@pytest.fixture
def bench(tiny, sets):
    return Bench(tiny, *sets, shown=8)


@pytest.fixture
def desk(tiny, sets):
    desk = lab.Desk(tiny, *sets, shown=8)
    desk.controls.layer.value = "conv1"
    assert desk.wait(60)
    return desk


def widgets(one):
    """A widget, and all that are in it."""
    yield one
    for child in getattr(one, "children", ()):
        yield from widgets(child)


# --- changes ---


def test_each_change_keeps_what_is_outside_of_the_mask_and_changes_what_is_inside():
    picture, source = noise(1, 32)[0], noise(1, 48, seed=9)[0]
    inside = MASK > 0
    recipes = [palette.Recipe("texture"), palette.Recipe("paint out")]
    recipes += [palette.Recipe("patch", source=source, part=part) for part in palette.PARTS]
    for recipe in recipes:
        made = recipe.exemplar(picture, MASK, 3)
        assert torch.equal(made.image, picture) and torch.equal(made.mask, MASK) and made.label == 3, recipe
        assert torch.equal(made.changed[:, ~inside], picture[:, ~inside]), recipe
        assert (made.changed - picture)[:, inside].abs().mean() > 0.02, recipe
        turned = replace(recipe, misread=True).exemplar(picture, MASK)
        assert torch.equal(turned.changed, picture) and torch.equal(turned.image, made.changed)


def test_painting_out_takes_the_colour_from_around():
    picture = torch.full((3, 32, 32), 0.25)
    picture[:, MASK > 0] = 1.0
    assert palette.painted_out(picture, MASK).sub(0.25).abs().max() < 1e-6
    with pytest.raises(ValueError, match="covers all of the picture"):
        palette.painted_out(picture, torch.ones(32, 32))


def test_a_word_is_on_the_changed_picture_only_and_covered_words_are_those_of_the_picture():
    picture = noise(1, 64)[0]
    mask = torch.zeros(64, 64)
    mask[30:50, 10:54] = 1
    word = palette.Recipe("word", text="iPod").exemplar(picture, mask)
    ink = (word.image != word.changed).any(0)
    assert ink.any() and bool((word.mask[ink] > 0).all())
    blank = palette.Recipe("blank").exemplar(picture, mask, 2)
    assert torch.equal(blank.changed, picture) and torch.equal(blank.image, blanked(picture, mask).image)
    with pytest.raises(ValueError, match="word ' ': expected one with a letter"):
        palette.Recipe("word", text=" ").exemplar(picture, mask)


def test_a_change_that_there_is_not_is_named():
    with pytest.raises(ValueError, match="kind of change 'snow': expected one of texture, patch"):
        palette.Recipe("snow")
    with pytest.raises(ValueError, match="part of change 'corner': expected one of same place"):
        palette.Recipe("patch", part="corner")
    with pytest.raises(ValueError, match="shading 2: expected a number from 0 to 1"):
        palette.Recipe(shading=2)
    with pytest.raises(ValueError, match="nothing to paste"):
        palette.Recipe("patch").exemplar(noise(1)[0], MASK)
    with pytest.raises(ValueError, match="the mask is empty"):
        palette.Recipe().exemplar(noise(1)[0], 0 * MASK)


# --- the bench ---


def test_pictures_come_by_how_far_the_right_class_lies_behind(bench, tiny):
    logits = predict(tiny, bench.images)
    behind = [
        float(row[label] - row[torch.arange(5) != label].max())
        for row, label in zip(logits, bench.images.labels, strict=True)
    ]
    assert bench.order == sorted(range(12), key=behind.__getitem__)
    assert bench.order[0] in range(6) and bench.wrong.tolist() == [True] * 6 + [False] * 6
    assert margins(torch.tensor([[3.0]]), torch.tensor([0])).tolist() == [0]


def test_no_image_has_two_duties(bench, sets):
    reference = {one.numpy().tobytes() for one in bench.reference}
    assert len(reference) == 10 and len(bench.everyday) == 30
    assert not reference & {one.numpy().tobytes() for one in bench.everyday.images}
    assert len(bench.keep) == 10


def test_an_edit_is_that_of_rewrite_and_counts_are_those_of_the_edited_classifier(bench, tiny):
    made = palette.Recipe("texture", misread=True).exemplar(bench.images.images[0], MASK, 1)
    edit = bench.rewrite(made, Settings("conv1", rank=2))
    cut = Cut(tiny, "conv1")
    expected = et.rewrite(
        tiny,
        cut,
        made,
        LayerKeys(cut, bench.reference),
        rank=2,
        objective="least_squares",
        reference_weight=30.0,
    )
    torch.testing.assert_close(edit.changes["conv1.weight"].delta(), expected.changes["conv1.weight"].delta())
    counts = bench.counts(edit, drawn_on=[0])
    before = fingerprint(tiny)
    with edit.applied(tiny):
        after = {
            name: errors(predict(tiny, data), data.labels)
            for name, data in {"images": bench.images, "keep": bench.keep, "everyday": bench.everyday}.items()
        }
        shown = predict(tiny, bench.some).softmax(1)
    assert fingerprint(tiny) == before
    assert counts.images.after.tolist() == after["images"][1:].tolist()
    assert counts.keep.after.tolist() == after["keep"].tolist()
    assert counts.everyday.after.tolist() == after["everyday"].tolist()
    torch.testing.assert_close(bench.readings(edit), shown)
    assert bench.counts(edit, unwanted=lambda: True) is None


def test_edits_of_several_layers_are_added_up_and_read_from_the_first(bench, tiny):
    made = make_exemplar()
    both = bench.rewrite(made, Settings("conv2")) + 0.5 * bench.rewrite(made, Settings("stem"))
    with both.applied(tiny):
        shown = predict(tiny, bench.some).softmax(1)
    torch.testing.assert_close(bench.readings(both), shown, rtol=1e-4, atol=1e-5)


def test_the_states_of_a_few_layers_stay_in_memory(bench):
    made = make_exemplar()
    for layer in ("stem", "conv1", "conv2", "head"):
        bench.readings(bench.rewrite(made, Settings(layer)))
    assert {layer for _, layer in bench._remembered} == {"conv1", "conv2", "head"}


def test_what_is_shown_comes_from_all_sets_and_stays_with_its_labels(bench):
    assert [name for name, _ in bench.shown] == ["images"] * 4 + ["keep"] * 2 + ["everyday"] * 2
    assert [i for _, i in bench.shown[:4]] == bench.order[:4]
    sets = {"images": bench.images, "keep": bench.keep, "everyday": bench.everyday}
    for (name, i), picture, label in zip(bench.shown, bench.some, bench.labels, strict=True):
        assert torch.equal(sets[name].images[i], picture) and sets[name].labels[i] == label


def test_saying_what_a_picture_shows_makes_it_misread(bench, tiny):
    index = bench.order[-1]
    assert not bench.wrong[index]
    shown = int(bench.images.labels[index])
    bench.relabel(index, tiny.classes[(shown + 1) % 5])
    assert bench.wrong[index] and bench.order.index(index) < 8
    with pytest.raises(KeyError, match="no class 'fox' among 5"):
        bench.relabel(index, "fox")


def test_a_set_is_not_changed_by_relabelling_and_as_many_pictures_are_shown(tiny, sets):
    bench = Bench(tiny, sets[0].subset(range(3)), everyday=sets[1], shown=12)
    assert len(bench.shown) == 6
    before, index = bench.images, bench.order[-1]
    for name in tiny.classes:
        bench.relabel(index, name)
        assert len(bench.shown) == 6 and int(bench.images.labels[index]) == tiny.classes.index(name)
    assert before.labels.tolist() == bench.first_labels.tolist() == sets[0].labels[:3].tolist()


@pytest.mark.parametrize("kind", ["readings", "counts"])
def test_what_is_computed_while_a_picture_is_relabelled_is_not_taken_for_what_it_is_now(kind, bench, tiny, monkeypatch):
    edit = bench.rewrite(make_exemplar(), Settings("conv1"))
    index = bench.order[-1]
    name = tiny.classes[(int(bench.images.labels[index]) + 1) % 5]
    real = bench_module.CachedStates

    def relabelled_meanwhile(*given):
        made = real(*given)
        if tiny.classes[int(bench.images.labels[index])] != name:
            bench.relabel(index, name)
        return made

    monkeypatch.setattr(bench_module, "CachedStates", relabelled_meanwhile)
    getattr(bench, kind)(edit)
    monkeypatch.setattr(bench_module, "CachedStates", real)
    found = getattr(bench, kind)(edit)
    with edit.applied(tiny):
        if kind == "readings":
            torch.testing.assert_close(found, predict(tiny, bench.some).softmax(1))
        else:
            assert found.images.before.tolist() == bench.wrong.tolist()
            assert found.images.after.tolist() == errors(predict(tiny, bench.images), bench.images.labels).tolist()


def test_pictures_are_not_relabelled_while_they_are_shown(bench, tiny):
    relabelling = threading.Thread(target=bench.relabel, args=(0, tiny.classes[int(bench.images.labels[0])]))
    same = []

    class Shows(Told):
        def readings(self, now, before):
            looked = bench.looked_at
            relabelling.start()
            relabelling.join(0.2)
            same.append(bench.looked_at is looked)

    looked = bench.looked_at
    work = Work(bench, steps.Steps(), Shows(), pytest.fail)
    work.do(Request(Drawing(0, MASK, palette.Recipe()), Settings("conv1")), lambda: False)
    relabelling.join(10)
    assert same == [True] and bench.looked_at is not looked


def test_labels_into_other_classes_are_taken_by_name(tiny, sets):
    images, everyday, _ = sets
    other = ("yak", *reversed(tiny.classes))
    turned = [LabelledImages(one.images, 5 - one.labels, other) for one in (images, everyday)]
    bench = Bench(tiny, *turned, keep=LabelledImages(everyday.images.flip(3), 5 - everyday.labels, list(other)))
    assert bench.images.labels.tolist() == images.labels.tolist() and bench.images.classes == tiny.classes
    assert bench.all_everyday.labels.tolist() == bench.keep.labels.tolist() == everyday.labels.tolist()
    for labels in (torch.zeros(12, dtype=torch.long), torch.zeros(12, dtype=torch.uint8)):
        unknown = LabelledImages(images.images, labels, other)
        with pytest.raises(ValueError, match="images: no class 'yak' among 5; expected names of the classifier's"):
            Bench(tiny, unknown)
    assert lab.Desk(tiny, unknown).trouble.startswith("images: no class 'yak'")


def test_large_sets_and_other_sizes_are_reduced_and_it_is_said(tiny, monkeypatch):
    monkeypatch.setattr("edittools.lab.bench.PIXELS", 20 * 32 * 32)
    bench = Bench(tiny, noise(50, size=48))
    assert len(bench.images) == 17 and bench.images.images.shape[2:] == (32, 32)
    said = " ".join(bench.notes)
    assert "images of 48 × 48 pixels are read at 32 × 32" in said and "17 of 50 are used, one in 3" in said
    assert "images have no labels: they are held to what is read now" in said and not bench.wrong.any()


@pytest.mark.parametrize("period", [3, 4])
def test_sets_with_classes_in_turn_are_parted_class_by_class(tiny, sets, period):
    """Of every class some images are counted, however they are ordered."""
    labels = torch.arange(240) % period
    data = LabelledImages(noise(240, size=8), labels, tiny.classes)
    bench = Bench(tiny, sets[0], everyday=data, keep=LabelledImages(1 - data.images, labels, tiny.classes))
    for counted, total in ((bench.everyday, 180), (bench.keep, 240)):
        of_class = counted.labels.bincount()
        assert of_class.sum() == total and of_class.max() - of_class.min() <= 1
    assert len(bench.reference) == 60


def test_one_everyday_image_is_a_reference_and_not_counted(tiny, sets):
    bench = Bench(tiny, sets[0], everyday=sets[1].subset([0]))
    assert len(bench.reference) == 1 and bench.everyday is None


def test_without_everyday_images_the_direction_spares_the_pictures_themselves(tiny, sets):
    bench = Bench(tiny, sets[0])
    assert bench.reference is bench.images.images and bench.everyday is bench.keep is None
    edit = bench.rewrite(make_exemplar(), Settings("conv1"))
    counts = bench.counts(edit)
    assert counts.everyday is None and counts.keep is None and words.within(counts) is None
    assert "Not told: what it costs elsewhere and what it does to images" in words.verdict(counts, edit)
    assert sum("No " in one for one in words.notes(bench)) == 2
    with pytest.raises(ValueError, match="no everyday images"):
        bench.repair(make_exemplar())


@pytest.mark.parametrize("classes", [1, 2, 20_000])
def test_any_number_of_classes_will_do(classes):
    torch.manual_seed(0)
    model = randomise_norms(TinyNet())
    model.head = torch.nn.Linear(8, classes)
    classifier = Classifier(model, [f"class {i}" for i in range(classes)], size=32)
    desk = lab.Desk(classifier, noise(6), everyday=noise(8, seed=1), shown=4)
    desk.controls.layer.value = "conv1"
    desk.editor.mask = MASK
    desk.rewrite()
    assert desk.wait(60) and not desk.trouble and desk.edit is not None
    assert {len(one["rows"]) for one in desk.results.pictures.cards} == {min(3, classes)}


@pytest.mark.parametrize("classes", [2, 20_000])
def test_a_class_is_said_by_its_name_however_many_there_are(classes):
    """Classes are typed and not chosen from a list, and a picture's bars are three, so 20,000 are no more than 2."""
    model = TinyNet()
    model.head = torch.nn.Linear(8, classes)
    desk = lab.Desk(Classifier(model, [f"class {i}" for i in range(classes)], size=32), noise(6), shown=4)
    desk.shows.value = "fox"
    assert f"no class 'fox' among {classes}" in desk.trouble
    desk.shows.value = f"class {classes - 1}"
    assert desk.wait(60) and not desk.trouble and int(desk.bench.images.labels[desk._index]) == classes - 1
    assert max(len(one.options) for one in widgets(desk) if hasattr(one, "options")) < 50


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_in_any_precision_is_edited(tiny, sets, dtype):
    desk = lab.Desk(Classifier(tiny.model.to(dtype), tiny.classes, size=32), sets[0], sets[1], shown=4)
    desk.controls.layer.value = "conv1"
    desk.editor.mask = MASK
    desk.rewrite()
    assert desk.wait(60) and not desk.trouble and desk.edit.layers == ("conv1",)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (32, 32), (33, 47), (3000, 4000)])
def test_pictures_of_any_size_are_read_at_the_classifiers(tiny, tmp_path, height, width):
    picture = torch.linspace(0, 1, 3)[:, None, None].expand(3, height, width)
    save_image(tmp_path / "a.png", picture)
    for given in (picture[None], tmp_path):
        desk = lab.Desk(tiny, given)
        assert desk.wait(60) and not desk.trouble
        assert desk.bench.images.images.shape == (1, 3, 32, 32)
        torch.testing.assert_close(desk.bench.images.images[0], picture[:, :1, :1].expand(3, 32, 32), atol=0.01, rtol=0)
        assert (f"of {width} × {height} pixels" in desk.children[0].value) == (given is not tmp_path and height != 32)
        draw_and_rewrite(desk)


def test_what_are_no_pictures_is_said(tiny):
    for given, said in (
        (noise(4)[:, :1], "images of shape (4, 1, 32, 32): expected (N, 3, H, W)"),
        (noise(4)[0], "images of shape (3, 32, 32): expected (N, 3, H, W)"),
        ((noise(4) * 255).byte(), "images hold torch.uint8: expected float in [0, 1]"),
        (noise(4) * 255, "expected [0, 1], before any normalisation"),
        (noise(4) * float("nan"), "pixels from nan to nan"),
    ):
        assert said in lab.Desk(tiny, given).trouble


def test_without_everyday_images_the_panel_says_so_and_does_not_search(tiny, sets):
    desk = lab.Desk(tiny, sets[0], shown=4)
    assert "No everyday images: " in desk.children[0].value and desk.controls.search.disabled
    draw_and_rewrite(desk)
    assert "give everyday and keep images" in desk.results.verdict.text
    desk.find_best()
    assert desk.wait(60) and desk.trouble == "no everyday images: expected some, which say what an edit may cost"


# --- folders ---


@pytest.fixture
def folder(tmp_path):
    for name, picture in zip(("Bee/a.png", "bee/b.jpg", "3/c.png", "fox/d.png"), noise(4, 40), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_image(tmp_path / name, picture)
    (tmp_path / "bee" / "broken.jpg").write_bytes(b"no picture")
    return tmp_path


def test_a_folder_is_read_by_class_and_what_cannot_be_is_named(folder, tiny):
    data, left_out = lab.read_folder(folder, tiny)
    assert data.names == ("3/c.png", "Bee/a.png", "bee/b.jpg") and data.labels.tolist() == [3, 1, 1]
    assert data.images.shape == (3, 3, 32, 32)
    assert left_out[0].startswith("bee/broken.jpg: ") and left_out[1] == "fox/d.png: no class 'fox' among 5"
    desk = lab.Desk(tiny, folder)
    assert not desk.trouble and "images: 2 of 5 files left out (bee/broken.jpg" in desk.children[0].value


def test_of_a_large_folder_as_many_pictures_are_read_as_are_used(folder, tiny, monkeypatch):
    monkeypatch.setattr("edittools.lab.bench.PIXELS", 3 * 32 * 32)
    read, load = [], folders.load_image
    monkeypatch.setattr(folders, "load_image", lambda path, *more: read.append(path.name) or load(path, *more))
    bench = Bench(tiny, folder)
    assert read == ["c.png", "b.jpg"] and bench.images.names == ("3/c.png", "bee/b.jpg")
    assert "images: one picture in 2 of the folder is used." in bench.notes


def test_pictures_in_the_folder_itself_are_held_to_what_is_read_now(tmp_path, tiny):
    save_image(tmp_path / "a.png", noise(1)[0])
    data, left_out = lab.read_folder(str(tmp_path), tiny)
    assert not left_out and data.labels.tolist() == predict(tiny, data).argmax(1).tolist()


def test_a_folder_with_nothing_readable_is_said_in_the_panel_and_can_be_tried_again(tmp_path, tiny):
    (tmp_path / "a.png").write_bytes(b"")
    desk = lab.Desk(tiny, tmp_path)
    assert "holds 1 pictures, none of which can be used (a.png: " in desk.trouble
    assert desk.trouble in repr(desk) and desk.children[0].text == desk.trouble
    save_image(tmp_path / "a.png", noise(1)[0])
    desk._again.click()
    assert not desk.trouble and desk.wait(60) and len(desk.bench.images) == 1
    assert "no folder" in lab.Desk(tiny, tmp_path / "away").trouble
    (tmp_path / "empty").mkdir()
    assert "holds no picture" in lab.Desk(tiny, tmp_path / "empty").trouble


def test_files_that_cannot_be_read_are_left_out_of_lazy_images(folder, tiny):
    paths = [folder / "Bee" / "a.png", folder / "bee" / "broken.jpg", folder / "bee" / "b.jpg"]
    data = LabelledImages(LazyImages(paths, 32), torch.tensor([1, 2, 3]), tiny.classes)
    bench = Bench(tiny, data)
    assert bench.images.labels.tolist() == [1, 3] and "1 files left out" in " ".join(bench.notes)


# --- the worker ---


def test_only_the_newest_request_is_done_and_a_stale_one_knows_it():
    begun, go_on, done, asked = threading.Event(), threading.Event(), [], []

    def do(request, stale):
        begun.set()
        go_on.wait(10)
        asked.append((request, stale()))
        done.append(request)

    worker = Worker(do, lambda error: None)
    worker.ask(1)
    assert begun.wait(10)
    for request in (2, 3, 4):
        worker.ask(request)
    assert worker.busy and not worker.wait(0.01)
    go_on.set()
    assert worker.wait(10) and done == [1, 4] and asked == [(1, True), (4, False)] and not worker.busy


def test_what_fails_is_told_and_the_worker_goes_on():
    told, done = [], []
    worker = Worker(lambda request, stale: done.append(1 / request), told.append)
    worker.ask(0)
    worker.wait(10)
    worker.ask(1)
    worker.wait(10)
    assert done == [1] and [type(error) for error in told] == [ZeroDivisionError]


# --- edits made ---


def step(name, edit, **more):
    return steps.Step(name, edit, **more)


def test_steps_are_added_up_taken_back_and_moved(tiny):
    one, two = (et.rewrite(tiny, layer, make_exemplar(), noise(8)) for layer in ("conv1", "conv2"))
    made = steps.Steps()
    assert steps.total(made.now) is None and not made.can_undo
    made.put(step("a", one))
    assert steps.total(made.now) is one
    made.put(step("b", two, strength=0.5))
    assert set(steps.total(made.now).layers) == {"conv1", "conv2"}
    made.move("b", -1)
    assert [s.name for s in made.now] == ["b", "a"]
    for strength in (0.1, 0.2, 0.3):
        made.change("b", strength=strength)
    made.undo()
    assert made.named("b").strength == 0.5
    made.change("a", on=False)
    assert steps.total(made.now).layers == ("conv2",) and steps.drawn_on(made.now) == set()
    made.put(step("a", two))
    assert not made.named("a").on and made.named("a").edit is two
    made.alone("b")
    assert [s.on for s in made.now] == [True, False]
    made.undo()
    made.remove("b")
    assert [s.name for s in made.now] == ["a"] and made.named("b") is None
    for _ in range(9):
        made.undo()
    assert made.now == ()


# --- words and bars ---


def compared(before, after):
    return Comparison(*(torch.tensor([c == "x" for c in text]) for text in (before, after)))


def test_the_verdict_says_what_is_gained_lost_and_not_known(tiny):
    counts = Counts(
        compared("xxxxxxxx..", ".......x.x"), compared("." * 100, "x" + "." * 99), compared("." * 200, "." * 200)
    )
    said = words.verdict(counts, None, 0.8, 0.25)
    assert "Of 8 misread images 7 are corrected, 1 of the others broke." in said
    assert "+0.00 points on 200 everyday images (0.5 may be lost)" in said
    assert f"1 of 100 kept images broke ({most_broken(100) or 'none'} may)" in said and "That is too much." in said
    assert "80% of its firing in x' is inside the mask, which covers 25% of the picture." in said
    assert "So few cannot tell more" in words.verdict(Counts(compared("x.", "..")), None)
    none = words.verdict(Counts(compared("..", ".x")), None)
    assert none.startswith("Of 2 images none is misread without it; 1 broke.")


def test_a_pair_says_whether_it_shows_a_rule():
    right, wrong = [0.9, 0.1], [0.2, 0.8]
    said = [
        words.pair_words(torch.tensor(pair), ("car", "sled"), 0)
        for pair in ([right, wrong], [right, right], [wrong, right], [wrong, wrong])
    ]
    starts = [
        "x is read rightly and x' is not",
        "Both are read rightly",
        "x is misread and x' is not",
        "Both are misread",
    ]
    assert [one.startswith(start) for one, start in zip(said, starts, strict=True)] == [True] * 4


def test_a_card_says_what_became_of_a_picture():
    classes, car, sled = ("<car>", "sled", "van"), torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.8, 0.1])
    found = {
        (a, b): cards.card(now, was, classes, 0)["state"]
        for a, now in (("car", car), ("sled", sled))
        for b, was in (("car", car), ("sled", sled))
    }
    assert found == {
        ("car", "car"): "right",
        ("car", "sled"): "corrected",
        ("sled", "car"): "broken",
        ("sled", "sled"): "wrong",
    }
    one = cards.card(car, sled, classes, 0)
    assert one["said"] == "<car>: read as <car>, 70 %; before as sled, 80 %; corrected"
    assert one["rows"][0] == ["<car>", pytest.approx(0.7), pytest.approx(0.1)]
    assert cards.card(sled, None, classes, 0)["state"] == "wrong"


def test_the_bars_of_the_counts_have_a_line_at_the_bound():
    html = cards.counts_html(
        Counts(compared("xx", ".x"), compared("." * 100, "xx" + "." * 98), compared("." * 100, "xx" + "." * 98))
    )
    assert "1 of 2 corrected, 0 broken" in html and html.count("et-over") == 2 and html.count("<b style") == 2
    within = cards.counts_html(Counts(compared("xx", ".x"), None, compared("." * 100, "." * 100)))
    assert "et-over" not in within and within.count("<b style") == 1


# --- the desk ---


def draw_and_rewrite(desk, mask=MASK):
    desk.editor.mask = mask
    desk.rewrite()
    assert desk.wait(60) and not desk.trouble, desk.trouble


def test_the_story_by_python(desk, tiny, tmp_path):
    before = fingerprint(tiny)
    desk.choose(desk.bench.order[0])
    desk.palette.kind.value = "paint out"
    draw_and_rewrite(desk)
    counts = desk.counts
    assert counts.images.after.shape == (11,) and desk.verdict.startswith("It took")
    assert len(desk.results.pictures.cards) == len(desk.results.pictures._overlays) == 8
    assert [one["caption"] for one in desk.pair.cards] == ["x, the aim", "x', the mistake"]
    path = tmp_path / "edit.safetensors"
    desk.shelf.path.value = str(path)
    desk.shelf.save.click()
    loaded = Edit.load(path, tiny)
    assert torch.equal(loaded.changes["conv1.weight"].delta(), desk.edit.changes["conv1.weight"].delta())
    shown = desk.bench.readings(desk.edit)
    with loaded.applied(tiny):
        torch.testing.assert_close(predict(tiny, desk.bench.some).softmax(1), shown)
    assert fingerprint(tiny) == before


def test_by_hand_and_by_python_is_the_same(tiny, sets):
    """By hand: what the page sets are the synced traits."""
    by_python, by_hand = (lab.Desk(tiny, *sets, shown=8) for _ in range(2))
    by_python.controls.layer.value = "conv2"
    by_python.choose(by_python.bench.order[2])
    draw_and_rewrite(by_python)
    by_hand.strip.selected = 2
    by_hand.controls.layer.value = "conv2"
    by_hand.editor._masks = by_python.editor._masks
    by_hand.controls.rewrite.click()
    assert by_hand.wait(60)
    assert by_hand.code == by_python.code and by_hand.verdict == by_python.verdict
    assert by_hand.results.pictures.cards == by_python.results.pictures.cards


def test_a_stroke_solves_again_in_place_and_a_new_edit_is_added(desk):
    draw_and_rewrite(desk)
    first = desk.edit
    desk.editor.rectangle((0, 0), (9, 9))
    assert desk.wait(60) and len(desk.steps.now) == 1 and desk.edit is not first
    desk.controls.live.value = False
    second = desk.edit
    desk.editor.rectangle((0, 0), (12, 12))
    assert desk.wait(60) and desk.edit is second
    desk.new_edit()
    desk.controls.layer.value = "conv2"
    desk.rewrite()
    assert desk.wait(60) and [s.name for s in desk.steps.now] == ["edit_1", "edit_2"]
    assert set(desk.edit.layers) == {"conv1", "conv2"}
    assert [chip.name for chip in desk.shelf.chips.children] == ["edit_1", "edit_2"]


def test_all_masks_of_a_picture_are_there_when_it_is_chosen_again(desk):
    desk.editor.mask = MASK
    desk.editor.add_mask("sky", MASK.flip(0))
    desk.editor.add_mask("road")
    desk.editor.active = "sky"
    desk.choose(3)
    assert list(desk.editor.masks) == ["mask"] and not desk.editor.mask.any()
    desk.choose(desk._order[0])
    assert list(desk.editor.masks) == ["mask", "sky", "road"] and desk.editor.active == "sky"
    assert torch.equal(desk.editor.mask, MASK.flip(0)) and torch.equal(desk.editor.masks["mask"], MASK)


def test_alpha_is_live_and_the_chip_has_it_as_well(desk):
    draw_and_rewrite(desk)
    whole = desk.bench.readings(desk.edit)
    desk.controls.strength.value = 0.5
    assert desk.wait(60)
    [chip] = desk.shelf.chips.children
    assert chip.strength.value == 0.5 == desk.steps.now[0].strength
    assert not torch.equal(desk.bench.readings(desk.edit), whole)
    chip.strength.value = 1.5
    assert desk.wait(60) and desk.controls.strength.value == 1.5
    chip.on.value = False
    assert desk.wait(60) and desk.edit is None and desk.counts is None
    desk.undo()
    assert desk.wait(60) and desk.steps.now[0].on and chip.on.value
    chip.remove.click()
    assert desk.wait(60) and not desk.shelf.chips.children
    desk.shelf.undo.click()
    assert desk.wait(60) and desk.steps.now[0].strength == 1.5


@pytest.mark.parametrize("kind", palette.KINDS)
def test_the_code_makes_the_same_edit(kind, tiny, sets, tmp_path):
    images, everyday, keep = sets
    desk = lab.Desk(tiny, images, everyday, keep, shown=8)
    desk.controls.layer.value, desk.palette.kind.value = "conv1", kind
    if kind == "patch":
        desk.palette.part.value, desk.palette.source.value = "bottom", ("everyday", 5)
    draw_and_rewrite(desk)
    desk.controls.strength.value = 0.75
    desk.new_edit()
    desk.controls.spare.value = False
    desk.rewrite()
    assert desk.wait(60) and not desk.trouble
    given = {"classifier": tiny, "images": images, "everyday": everyday, "keep": keep}
    exec(desk.code, given)
    for name, change in desk.edit.changes.items():
        assert torch.equal(given["edit"].changes[name].delta(), change.delta())


def test_the_code_of_a_pasted_file_a_loaded_edit_and_folders_runs(tiny, sets, tmp_path):
    for i, picture in enumerate(sets[0].images):
        (tmp_path / "in" / "bee").mkdir(parents=True, exist_ok=True)
        save_image(tmp_path / "in" / "bee" / f"{i}.png", picture)
    save_image(tmp_path / "snow.png", noise(1, 50, seed=7)[0])
    desk = lab.Desk(tiny, str(tmp_path / "in"), shown=4)
    desk.palette.kind.value, desk.palette.file.value = "patch", str(tmp_path / "snow.png")
    draw_and_rewrite(desk)
    desk.save(tmp_path / "one.safetensors")
    desk.load(tmp_path / "one.safetensors")
    assert desk.wait(60) and len(desk.steps.now) == 2
    given = {"classifier": tiny, "images": str(tmp_path / "in")}
    exec(desk.code, given)
    for name, change in desk.edit.changes.items():
        assert torch.equal(given["edit"].changes[name].delta(), change.delta())
    desk.palette.file.value = str(tmp_path / "away.png")
    assert desk.wait(60) and "away.png" in desk.trouble


def test_the_best_is_found_and_its_code_finds_it_again(tiny, sets):
    images, everyday, keep = sets
    desk = lab.Desk(tiny, images, everyday, keep, shown=4)
    desk.palette.kind.value = "paint out"
    desk.editor.mask = MASK
    desk.find_best()
    assert desk.wait(300) and not desk.trouble
    assert desk.verdict.startswith("Searched: ") and desk.controls.stop.disabled and not desk.controls.search.disabled
    if desk.steps.now:
        given = {"classifier": tiny, "images": images, "everyday": everyday, "keep": keep}
        exec(desk.code, given)
        for name, change in desk.edit.changes.items():
            assert torch.equal(given["edit"].changes[name].delta(), change.delta())


def labels_edit(classifier, exemplar, failing, *others, **search):
    """A search that finds something at once, by the labels."""
    edit = et.rewrite(classifier, "conv1", exemplar, noise(8))
    found = SimpleNamespace(found=True, settings={"layer": "conv1"})
    by_labels = float((failing.labels * torch.arange(1, 1 + len(failing))).sum()) * edit
    return SimpleNamespace(edit=by_labels, methods={"edit": found}, verdict="found.")


def test_what_was_said_of_pictures_before_a_search_and_after_it_is_in_the_code(tiny, sets, monkeypatch):
    monkeypatch.setattr(bench_module, "repair", labels_edit)
    images, everyday, keep = sets
    desk = lab.Desk(tiny, images, everyday, keep, shown=4)
    first, second, third = desk.bench.order[-3:]

    def say(index, by):
        desk.choose(index)
        desk.shows.value = tiny.classes[(int(images.labels[index]) + by) % 5]

    say(first, 1)
    desk.choose(third)
    desk.editor.mask = MASK
    desk.find_best()
    assert desk.wait(60) and not desk.trouble and desk.edit is not None
    say(first, 2)
    say(second, 1)
    assert desk.wait(60) and f"bench.relabel({second}, {desk.shows.value!r})" in desk.shelf.code.text
    given = {"classifier": tiny, "images": images, "everyday": everyday, "keep": keep}
    exec(desk.code, given)
    for name, change in desk.edit.changes.items():
        assert torch.equal(given["edit"].changes[name].delta(), change.delta())
    desk.steps.change("edit_1", on=False)
    exec(desk.code, given)
    assert given["bench"].images.labels.tolist() == desk.bench.images.labels.tolist() != images.labels.tolist()


def test_the_words_about_x_follow_what_is_said_of_the_picture(desk):
    desk.editor.mask = MASK
    others = [name for name in desk.bench.classifier.classes if name != desk.shows.value]
    said = set()
    for name in others:
        desk.shows.value = name
        assert desk.wait(60)
        said.add(desk.pair.cards[0]["said"].partition(":")[0])
    assert said == set(others)


def test_a_file_that_was_uploaded_goes_by_its_own_name_in_the_code(desk, tmp_path, monkeypatch):
    draw_and_rewrite(desk)
    desk.save(tmp_path / "mine.safetensors")
    content = (tmp_path / "mine.safetensors").read_bytes()
    desk._load_upload(({"name": "mine.safetensors", "content": memoryview(content)},))
    assert desk.wait(60) and not desk.trouble and len(desk.steps.now) == 2
    lines = ["# this file must lie beside the notebook", "edit_2 = et.Edit.load('mine.safetensors', classifier)"]
    assert desk.steps.now[1].code.splitlines() == lines
    monkeypatch.chdir(tmp_path)
    given = {"classifier": desk.bench.classifier}
    exec("import edittools as et\n" + desk.steps.now[1].code, given)
    assert given["edit_2"].layers == ("conv1",)


def test_a_path_may_begin_at_home(desk, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    draw_and_rewrite(desk)
    desk.save("~/edit.safetensors")
    desk.load("~/edit.safetensors")
    assert desk.wait(60) and not desk.trouble and len(desk.steps.now) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    given = {"classifier": desk.bench.classifier}
    exec("import edittools as et\n" + desk.steps.now[1].code, given)
    save_image(tmp_path / "home" / "snow.png", noise(1)[0])
    desk.palette.kind.value, desk.palette.file.value = "patch", "~/snow.png"
    assert desk.wait(60) and not desk.trouble and desk._drawing().recipe.source is not None


def test_a_search_tells_how_far_it_is_and_ends_when_it_is_told_to(bench):
    shares = []

    class Ends(Told):
        def search(self, share):
            shares.append(share)
            if share:
                work.ended.set()

    failures = []
    work = Work(bench, steps.Steps(), Ends(), failures.append)
    request = Request(Drawing(0, MASK, palette.Recipe("paint out")), Settings("conv1"), 1.0, "edit_1", True)
    work.want(request)
    work.do(request, lambda: False)
    assert not failures
    assert shares[0] == 0 and shares[-1] is None and len(shares) < 8
    assert shares[1:-1] == sorted(shares[1:-1])


# --- what goes on while the worker works ---


@contextmanager
def working(desk, at):
    """A desk whose worker is in the midst of `at`, a method of its bench, until the block ends."""
    begun, go_on, real = threading.Event(), threading.Event(), getattr(desk.bench, at)

    def slow(*given, **named):
        begun.set()
        go_on.wait(30)
        return real(*given, **named)

    setattr(desk.bench, at, slow)
    {"readings": desk._follow, "rewrite": desk.rewrite, "repair": desk.find_best}[at]()
    assert begun.wait(30)
    try:
        yield
    finally:
        setattr(desk.bench, at, real)
        go_on.set()
    assert desk.wait(120)


@pytest.mark.parametrize("at", ["readings", "rewrite"])
def test_a_rewrite_is_done_though_another_picture_is_looked_at_meanwhile(desk, at):
    desk.editor.mask = MASK
    desk.controls.strength.value = 0.5
    with working(desk, at):
        desk.rewrite()
        desk.choose(3)
        desk.controls.layer.value = "conv2"
    [made] = desk.steps.now
    assert desk.edit.layers == ("conv1",) and made.drawn_on == (desk._order[0],) and made.strength == 0.5
    assert not desk.trouble and desk.counts is not None and len(desk.shelf.chips.children) == 1
    assert not desk.pair.cards  # nothing is drawn on the picture in view


@pytest.mark.parametrize("at", ["readings", "rewrite"])
def test_a_rewrite_is_done_though_a_new_edit_is_begun_and_rewritten_meanwhile(desk, sets, at):
    desk.editor.mask = MASK
    with working(desk, at):
        desk.rewrite()
        desk.new_edit()
        desk.editor.rectangle((0, 0), (9, 9))
        desk.controls.layer.value = "conv2"
        desk.rewrite()
    assert [one.name for one in desk.steps.now] == ["edit_1", "edit_2"]
    assert [one.edit.layers for one in desk.steps.now] == [("conv1",), ("conv2",)]
    given = {"classifier": desk.bench.classifier, **dict(zip(("images", "everyday", "keep"), sets, strict=True))}
    exec(desk.code, given)
    for name, change in desk.edit.changes.items():
        assert torch.equal(given["edit"].changes[name].delta(), change.delta())


def test_of_strokes_made_meanwhile_the_last_one_is_rewritten(desk):
    desk.editor.mask = MASK
    with working(desk, "rewrite"):
        for side in (5, 9, 30):
            desk.editor.rectangle((0, 0), (side, side))
    [made] = desk.steps.now
    assert len(desk.steps._past) == 1
    expected = desk.bench.rewrite(desk.exemplar, Settings("conv1"))
    assert torch.equal(made.edit.changes["conv1.weight"].delta(), expected.changes["conv1.weight"].delta())


def test_an_edit_that_is_removed_while_it_is_solved_anew_does_not_come_back(desk):
    draw_and_rewrite(desk)
    with working(desk, "rewrite"):
        desk.editor.rectangle((0, 0), (9, 9))
        desk.shelf.chips.children[0].remove.click()
    assert not desk.steps.now and not desk.shelf.chips.children and desk.edit is None


def test_a_rewrite_that_fails_is_said_though_another_picture_is_looked_at_meanwhile(desk):
    desk.controls.rank.value, desk.editor.mask = 64, MASK
    with working(desk, "readings"):
        desk.rewrite()
        desk.choose(3)
    assert "rank 64" in desk.trouble and desk.edit is None
    desk.controls.rank.value = 1
    draw_and_rewrite(desk)
    with working(desk, "readings"):
        desk.rewrite()
        desk.palette.kind.value, desk.palette.word.value = "word", " "
        desk.choose(2)
    assert len(desk.steps.now) == 1  # a drawing that cannot be made does not keep others from being rewritten


@pytest.mark.parametrize("at", ["readings", "repair"])
def test_what_a_search_found_is_said_though_another_picture_is_looked_at_meanwhile(desk, at):
    desk.palette.kind.value, desk.editor.mask = "paint out", MASK
    with working(desk, at):
        if at == "readings":
            desk.find_best()
        desk.choose(3)
        assert desk.results.status.text == "searching …"
    assert not desk.trouble and desk.verdict.startswith("Searched: ") and desk.results.status.text != "searching …"
    assert all(made.drawn_on == (desk._order[0],) for made in desk.steps.now)
    desk.choose(1)
    assert desk.wait(60) and not desk.verdict.startswith("Searched: ")


def test_a_rewrite_after_a_search_is_done_and_both_are_said(desk):
    desk.palette.kind.value, desk.editor.mask = "paint out", MASK
    with working(desk, "repair"):
        desk.rewrite()
    assert desk.steps.now[-1].about == "paint out → conv1, rank 1"
    assert desk.verdict.startswith("Searched: ") and desk.verdict.endswith("of the picture.")


def test_a_search_is_ended_before_it_has_begun(desk):
    desk.editor.mask = MASK
    with working(desk, "readings"):
        desk.find_best()
        desk.stop()
    assert desk.verdict == "The search was ended before anything was tried." and not desk.steps.now


def test_begun_anew_nothing_is_wanted_any_more(desk):
    desk.editor.mask = MASK
    with working(desk, "rewrite"):
        desk._begin()
    assert not desk.trouble and desk.edit is None and not desk.shelf.chips.children


# --- what goes wrong ---


def test_an_edit_of_another_model_is_said_and_the_desk_goes_on(desk, tmp_path):
    torch.manual_seed(5)
    other = Classifier(randomise_norms(TinyNet(), 5), desk.bench.classifier.classes, size=32)
    et.rewrite(other, "conv1", make_exemplar(), noise(8)).save(tmp_path / "other.safetensors")
    desk.load(tmp_path / "other.safetensors")
    assert desk.trouble.startswith("not loaded: the edit was made for a model with fingerprint") and not desk.steps.now
    (tmp_path / "no.safetensors").write_text("no")
    desk.shelf.upload.value = (
        {
            "name": "no.safetensors",
            "type": "",
            "size": 2,
            "content": memoryview(b"no"),
            "last_modified": datetime(2026, 1, 1, tzinfo=UTC),
        },
    )
    assert "is no edit saved by edittools" in desk.trouble
    desk.load(tmp_path / "away.safetensors")
    assert desk.trouble.startswith("not loaded")
    draw_and_rewrite(desk)
    assert desk.edit is not None


def test_saving_nothing_and_rewriting_nothing_are_said(desk, tmp_path):
    desk.save(tmp_path / "edit.safetensors")
    assert desk.trouble == "not saved: no edit is on: expected at least one" and not list(tmp_path.iterdir())
    desk.rewrite()
    assert desk.wait(60) and desk.trouble.startswith("nothing is drawn")
    desk.controls.rank.value = 64
    desk.editor.mask = MASK
    assert desk.wait(60)
    desk.rewrite()
    assert desk.wait(60) and "rank 64" in desk.trouble
    desk.controls.rank.value = 1
    draw_and_rewrite(desk)


class FailsWhenTold(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.fails = model, True

    def forward(self, images):
        if self.fails:
            raise RuntimeError("out of luck")
        return self.model(images)


def test_a_model_that_fails_says_so_and_can_be_tried_again(tiny):
    model = FailsWhenTold(tiny.model)
    desk = lab.Desk(Classifier(model, tiny.classes, size=32), noise(4))
    assert desk.trouble == "RuntimeError: out of luck" and desk.bench is None
    model.fails = False
    desk._again.click()
    assert not desk.trouble and desk.wait(60)


def test_weights_changed_meanwhile_are_said(desk, tiny):
    draw_and_rewrite(desk)
    with torch.no_grad():
        tiny.model.conv1.weight.mul_(1.1)
    desk.controls.strength.value = 0.4
    assert desk.wait(60) and "were changed" in desk.trouble


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_classifier_that_is_moved_while_the_desk_is_open_is_said_and_the_desk_begins_anew(desk, tiny, dtype):
    """Where there is no second device a cast does what a move does: kept pictures and weights no longer meet."""
    draw_and_rewrite(desk)
    assert desk._again.layout.display == "none"
    tiny.model.to(dtype)
    for act in (desk.rewrite, lambda: desk.choose(1), lambda: setattr(desk.controls.layer, "value", "conv2")):
        act()
        desk.editor.mask = MASK
        assert desk.wait(60) and desk.trouble == words.MOVED and desk._again.layout.display == ""
    desk._again.click()
    assert desk.wait(60) and not desk.trouble and not desk.steps.now and desk._again.layout.display == "none"
    draw_and_rewrite(desk)
    assert len(desk.shelf.chips.children) == 1 and desk.edit is not None


def test_a_word_that_is_no_class_is_said(desk):
    desk.shows.value = "fox"
    assert "no class 'fox'" in desk.trouble
    desk.shows.value = "bee"
    assert desk.wait(60) and not desk.trouble


def test_what_is_no_set_is_said_and_what_is_no_classifier_raises(tiny):
    assert "images are a list: expected LabelledImages" in lab.Desk(tiny, [1]).trouble
    assert "no images: expected at least one" in lab.Desk(tiny, noise(0)).trouble
    with pytest.raises(TypeError, match="classifier is a TinyNet"):
        lab.Desk(tiny.model, noise(2))


def test_every_control_has_its_words(desk):
    draw_and_rewrite(desk)
    described = [
        one
        for one in widgets(desk)
        if hasattr(one, "description") and not hasattr(one, "bar_style") and type(one).__name__ not in ("HTML",)
    ]
    assert len(described) > 20 and all(one.description for one in described)
    names = [one.label for one in widgets(desk) if isinstance(one, cards.Slider | cards.Pictures)]
    assert len(names) == 5 and all(names) and len(set(names)) == 5


def test_a_desk_shares_the_weights_and_no_module_with_the_classifier(desk, tiny):
    ours, theirs = (list(one.parameters()) + list(one.buffers()) for one in (desk.bench.classifier, tiny))
    assert all(one is other for one, other in zip(ours, theirs, strict=True))
    assert not set(map(id, desk.bench.classifier.modules())) & set(map(id, tiny.modules()))
    draw_and_rewrite(desk)
    with desk.edit.applied(tiny):
        desk.controls.strength.value = 0.5
        assert desk.wait(60) and "were changed" in desk.trouble
    desk.controls.strength.value = 0.6
    assert desk.wait(60) and not desk.trouble


def test_two_desks_know_nothing_of_each_other(tiny, sets):
    one, two = (lab.Desk(tiny, *sets, shown=4) for _ in range(2))
    one.editor.mask = two.editor.mask = MASK
    two.controls.layer.value = "conv2"
    one.controls.layer.value = "conv1"
    one.rewrite()
    two.rewrite()
    assert one.wait(60) and two.wait(60)
    assert (one.trouble, two.trouble) == ("", "")
    assert one.edit.layers == ("conv1",) and two.edit.layers == ("conv2",)
    assert np.isfinite(one.bench.readings(one.edit).numpy()).all()
