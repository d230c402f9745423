"""The desk without a browser: its sets, what an edit does to them, and that hand and Python take the same path."""

import copy
import subprocess
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import torch
from conftest import TinyNet, make_exemplar, save_image

import edittools as et
from edittools import widgets
from edittools.classifiers import Classifier, fingerprint
from edittools.images import LabelledImages, LazyImages
from edittools.metrics import Comparison, misclassified, predict
from edittools.miniworld.typography import blanked
from edittools.widgets import desk_sets
from edittools.widgets.desk_sets import DeskSets
from edittools.widgets.materials import AROUND, BLANK, MATERIALS, painted_out, turned

MASK = torch.zeros(32, 32)
MASK[16:, 4:28] = 1


def noise(count, size=32, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def image_sets(classifier):
    """A dozen images of which the first half is misread, everyday images as they are read, images to keep."""
    pixels, clean = noise(12), noise(40, seed=3)
    read = predict(classifier, pixels).argmax(1)
    images = LabelledImages(pixels, torch.where(torch.arange(12) < 6, (read + 1) % 5, read), classifier.classes)
    clean = LabelledImages(clean, predict(classifier, clean).argmax(1), classifier.classes)
    return images, clean, noise(10, seed=4)


@pytest.fixture
def given(tiny):
    return image_sets(tiny)


@pytest.fixture
def sets(tiny, given):
    return DeskSets(tiny, *given)


@pytest.fixture
def desk(tiny, given):
    desk = widgets.Desk(tiny, *given)
    desk.controls.layer.value = "conv1"
    desk.editor.mask = MASK
    desk.wait(60)
    return desk


@pytest.fixture
def varied_desk(tiny):
    """A desk whose classifier tells noise apart, with an edit that changes the predictions of some images."""
    classifier = copy.deepcopy(tiny)
    with torch.no_grad():
        classifier.model.head.bias -= predict(classifier, noise(100, seed=5)).mean(0)
    desk = widgets.Desk(classifier, *image_sets(classifier))
    desk.controls.layer.value = "head"
    desk.controls.strength.value = 2
    desk.editor.mask = MASK
    rewritten(desk)
    assert (desk.result.after.argmax(1) != desk.sets.before.argmax(1)).any()
    return desk


def uploaded(path):
    """A file as the page hands it over."""
    content = path.read_bytes()
    return {
        "name": path.name,
        "content": content,
        "type": "",
        "size": len(content),
        "last_modified": datetime.now(tz=UTC),
    }


def rewritten(desk):
    desk.rewrite()
    desk.wait(60)
    return desk.result


# --- materials ---


def test_each_material_changes_what_is_inside_the_mask_and_nothing_else():
    picture, own = noise(1, 32)[0], {"mine": noise(1, 48, seed=9)[0]}
    for material in (*MATERIALS, *own):
        made = turned(picture, MASK, material, own)
        assert torch.equal(made[:, MASK == 0], picture[:, MASK == 0]), material
        assert (made - picture)[:, MASK > 0].abs().mean() > 0.02, material
    assert torch.equal(turned(picture, MASK, BLANK, own), blanked(picture, MASK).image)
    with pytest.raises(KeyError, match="style 'velvet'"):
        turned(picture, MASK, "velvet", own)


def test_what_is_around_fills_with_the_colour_from_around():
    picture = torch.full((3, 32, 32), 0.25)
    picture[:, MASK > 0] = 1.0
    assert turned(picture, MASK, AROUND, {}).sub(0.25).abs().max() < 1e-6
    with pytest.raises(ValueError, match="covers all of the picture"):
        painted_out(picture, torch.ones(32, 32))


# --- sets ---


def test_the_most_wrong_images_come_first(sets, tiny):
    logits = predict(tiny, sets.images)
    behind = [
        float(row[label] - row[torch.arange(5) != label].max())
        for row, label in zip(logits, sets.images.labels, strict=True)
    ]
    assert sets.order == sorted(range(12), key=behind.__getitem__)
    assert [sets.is_misclassified(i) for i in range(12)] == [True] * 6 + [False] * 6


def test_no_image_has_two_duties(tiny, given, sets):
    spared = {one.numpy().tobytes() for one in sets.reference}
    assert len(spared) == 10 and len(sets.clean) == 30
    assert not spared & {one.numpy().tobytes() for one in sets.clean.images}
    images, clean, retain = given
    for bad, names in (
        ((images, clean, clean.images[:3]), "3 images are both in clean and in retain"),
        ((images, torch.cat([clean.images, images.images[:1]])), "1 images are both in images and in clean"),
    ):
        with pytest.raises(ValueError, match=names):
            DeskSets(tiny, *bad)
    twice = DeskSets(tiny, images.subset([0, 1, 1, 2]), clean, retain)
    assert len(twice.images) == 3 and any("1 images images are there before" in note for note in twice.notes)


def test_an_edit_is_that_of_rewrite_and_counts_are_those_of_the_edited_classifier(sets, tiny):
    before, made = fingerprint(tiny), make_exemplar()
    edit = sets.rewrite(made, "conv1", 0.5)
    whole = et.rewrite(tiny, "conv1", made, sets.reference, objective="least_squares", reference_weight=30.0)
    torch.testing.assert_close(edit.changes["conv1.weight"].delta(), (0.5 * whole).changes["conv1.weight"].delta())
    found = sets.result(edit, drawn_on=[0])
    with edit.applied(tiny):
        after = predict(tiny, sets.images)
        wrong = {
            name: misclassified(predict(tiny, data), data.labels) for name, data in vars(sets).items() if name in KEPT
        }
    assert fingerprint(tiny) == before
    torch.testing.assert_close(found.after, after)
    assert found.images.after.tolist() == misclassified(after, sets.images.labels)[1:].tolist()
    assert found.retain.after.tolist() == wrong["retain"].tolist()
    assert found.clean.after.tolist() == wrong["clean"].tolist()


KEPT = ("retain", "clean")


def test_large_sets_other_sizes_and_sets_without_labels_are_read_and_it_is_said(tiny, monkeypatch):
    monkeypatch.setattr(desk_sets, "PIXELS", 20 * 32 * 32)
    sets = DeskSets(tiny, noise(50, size=48))
    assert sets.images.images.shape == (17, 3, 32, 32) and not any(map(sets.is_misclassified, range(17)))
    assert "images: one picture in 3 is used." in sets.notes
    assert "images have no labels: they are held to what is read now." in sets.notes


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (noise(4)[:, :1], ValueError, r"\(4, 1, 32, 32\)"),
        (3, TypeError, "images are a int"),
        ("no/such/folder", FileNotFoundError, "no folder 'no/such/folder'"),
    ],
)
def test_what_are_no_pictures_is_refused(tiny, given, error, said):
    with pytest.raises(error, match=said):
        widgets.Desk(tiny, given)


def test_a_model_in_half_precision_with_many_classes_is_edited():
    model = TinyNet()
    model.head = torch.nn.Linear(8, 2000)
    classifier = Classifier(model.to(torch.bfloat16), [f"class {i}" for i in range(2000)], size=32)
    desk = widgets.Desk(classifier, noise(6), clean=noise(8, seed=1))
    desk.controls.layer.value = "conv1"
    desk.editor.mask = MASK
    assert rewritten(desk).edit.layers == ("conv1",)


# --- folders ---


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    for name, picture in zip(("Bee/a.png", "bee/b.jpg", "3/c.png", "fox/d.png"), noise(4, 40), strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(root / name, picture)
    (root / "bee" / "broken.jpg").write_bytes(b"no picture")
    return root


def test_a_folder_is_read_by_class_and_what_cannot_be_is_named(folder, tiny):
    data, left_out = widgets.read_folder(folder, tiny)
    assert data.names == ("3/c.png", "Bee/a.png", "bee/b.jpg") and data.labels.tolist() == [3, 1, 1]
    assert left_out[0].startswith("bee/broken.jpg: ") and left_out[1] == "fox/d.png: no class 'fox' among 5"
    desk = widgets.Desk(tiny, folder)
    assert "images: 2 files left out (bee/broken.jpg" in desk.children[0].value


def test_links_to_folders_are_followed_once_and_hidden_files_are_not_read(folder, tiny, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    save_image(tmp_path / "elsewhere" / "e.png", noise(1, seed=5)[0])
    (folder / "cat").symlink_to(tmp_path / "elsewhere")
    (folder / "bee" / "round").symlink_to(folder)
    save_image(folder / "bee" / ".hidden.png", noise(1, seed=6)[0])
    (folder / ".trash").mkdir()
    save_image(folder / ".trash" / "f.png", noise(1, seed=7)[0])
    data, _ = widgets.read_folder(folder, tiny)
    assert data.names == ("3/c.png", "Bee/a.png", "bee/b.jpg", "cat/e.png")


def test_pictures_in_the_folder_itself_are_held_to_what_is_read_now(tmp_path, tiny):
    save_image(tmp_path / "a.png", noise(1)[0])
    data, left_out = widgets.read_folder(str(tmp_path), tiny)
    assert not left_out and data.labels.tolist() == predict(tiny, data).argmax(1).tolist()
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds 1 pictures, none of which can be used \(a.png: "):
        widgets.Desk(tiny, tmp_path)


def test_pictures_on_disk_are_read(folder, tiny):
    paths = [folder / "Bee" / "a.png", folder / "bee" / "b.jpg"]
    assert len(DeskSets(tiny, LazyImages(paths, 32)).images) == 2


# --- the desk ---


def test_the_story_by_python(desk, tiny, tmp_path):
    assert desk.index == desk.order[0] and torch.equal(desk.exemplar.changed, desk.sets.images.images[desk.index])
    result = rewritten(desk)
    assert result.edit is desk.edit and len(result.images.before) == 11 and not result.held_out
    assert desk.controls.title.value == "<h4>Result, on the pictures that chose</h4>"
    assert desk.controls.verdict.text == result.verdict and desk.controls.said.text == "Rewritten: conv1, strength 1."
    now = [tiny.classes[int(i)] for i in result.after[desk.order].argmax(1)]
    assert [card["reads"].split(" → ")[-1] for card in desk.pictures.cards] == now
    desk.controls.path.value = str(tmp_path / "edit.safetensors")
    desk.controls.save.click()
    loaded = et.Edit.load(tmp_path / "edit.safetensors", tiny)
    with loaded.applied(tiny):
        torch.testing.assert_close(predict(tiny, desk.sets.images), result.after)


def test_a_picture_that_is_read_rightly_is_x(desk):
    desk.choose(desk.order[-1])
    with pytest.raises(ValueError, match="nothing is marked"):
        _ = desk.exemplar
    desk.editor.mask = MASK
    assert torch.equal(desk.exemplar.image, desk.sets.images.images[desk.index])
    desk.choose(desk.order[0])
    assert torch.equal(desk.editor.mask, MASK)  # what was drawn on it before


def found_by(tiny, done=lambda told: None):
    """A `repair` that finds something at once."""
    edit = et.rewrite(tiny, "conv2", make_exemplar(), noise(8))

    def repair(classifier, exemplar, failing, clean, retain, *, progress, **search):
        done(progress)
        assert len(failing) == 11 and len(clean) == 40 and len(retain) == 10
        return SimpleNamespace(edit=edit, methods={"edit": SimpleNamespace(found=True)}, verdict="Held out: found.")

    return repair


def test_one_undo_after_a_search_goes_back_to_what_was_before(desk, tiny, monkeypatch):
    first = rewritten(desk)
    monkeypatch.setattr(desk_sets, "repair", found_by(tiny))
    desk.find_best()
    desk.wait(60)
    assert desk.result.held_out and desk.controls.verdict.text == "Held out: found."
    assert desk.controls.title.value == "<h4>Result, held out</h4>" and desk.edit.layers == ("conv2",)
    desk.controls.undo.click()
    assert desk.result is first and desk.controls.verdict.text == first.verdict
    desk.undo()
    assert desk.result is None and desk.edit is None and desk.controls.undo.disabled
    desk.undo()


def test_a_search_is_repair_and_shows_its_verdict(tiny, given):
    desk = widgets.Desk(tiny, *given)
    desk.editor.mask = MASK
    failing = desk.sets.images.subset([i for i in range(12) if i != desk.index])
    fix = et.repair(tiny, desk.exemplar, failing, *given[1:], baselines=False, progress=False)
    desk.find_best()
    desk.wait(300)
    if fix.methods["edit"].found:
        assert desk.result.verdict == fix.verdict
    else:
        assert desk.result is None and desk.controls.said.text == fix.verdict
    assert desk.controls.stop.disabled and not desk.controls.search.disabled


def test_a_search_can_be_stopped(desk, tiny, monkeypatch):
    def done(told):
        told("edit", 1, 4)
        assert desk.controls.progress.value == 0.25 and desk.controls.rewrite.disabled
        desk.controls.stop.click()
        told("edit", 2, 4)

    monkeypatch.setattr(desk_sets, "repair", found_by(tiny, done))
    desk.find_best()
    desk.wait(60)
    assert desk.result is None and "ended before anything was tried" in desk.controls.said.text
    assert not desk.controls.rewrite.disabled


def test_without_everyday_images_nothing_is_searched_and_the_costs_are_not_known(tiny, given):
    desk = widgets.Desk(tiny, given[0])
    assert desk.controls.search.disabled and desk.sets.reference is desk.sets.images.images
    desk.editor.mask = MASK
    assert "What it costs elsewhere is not known: give clean and retain pictures." in rewritten(desk).verdict
    desk.find_best()
    with pytest.raises(ValueError, match="no everyday images"):
        desk.wait(60)


def compared(before, after):
    return Comparison(*(torch.tensor([c == "x" for c in text]) for text in (before, after)))


def test_the_verdict_says_what_is_gained_and_lost_and_what_to_try_next():
    def verdict(images, retain=None, clean=None):
        return desk_sets.verdict(desk_sets.Result(None, torch.zeros(0), images, retain, clean))

    said = verdict(compared("xxx..", "..x.x"), compared("." * 100, "x" + "." * 99), compared("." * 400, "." * 400))
    assert said.startswith("2 of 3 misread pictures are corrected, 1 of the others broke.\n+0.00 points")
    assert "on 400 everyday pictures (0.25 may be lost)" in said and "1 of 100 pictures to keep broke" in said
    assert "That is too much: lower the strength. “Find the best” tries other layers" in said
    assert "That is no gain. “Find the best” tries" in verdict(compared("xx.", "xx."))


def test_what_goes_wrong_is_said_below_the_buttons_and_the_desk_goes_on(desk, tmp_path):
    said = desk.controls.said
    desk.controls.save.click()
    assert said.alarm and said.text.startswith("there is no edit yet")
    desk.editor.mask = None
    desk.controls.rewrite.click()
    assert said.alarm and said.text.startswith("nothing is marked")
    desk.editor.mask = torch.ones(32, 32)
    desk.controls.material.value = AROUND
    assert said.alarm and said.text.startswith("the mask covers all")
    desk.controls.material.value = "gravel"
    other = Classifier(TinyNet(), ("ant", "bee", "cat", "dog", "elk"), size=32)
    et.rewrite(other, "conv1", make_exemplar(), noise(8)).save(tmp_path / "other.safetensors")
    desk.controls.upload.value = (uploaded(tmp_path / "other.safetensors"),)
    assert said.alarm and "made for a model with fingerprint" in said.text
    assert rewritten(desk) and not said.alarm


def test_pictures_and_edits_are_uploaded(desk, tmp_path):
    rewritten(desk)
    desk.save(tmp_path / "edit.safetensors")
    save_image(tmp_path / "new.png", noise(1, 40, seed=8)[0])
    files = [uploaded(tmp_path / name) for name in ("new.png", "edit.safetensors")]
    desk.controls.upload.value = tuple(files)
    desk.wait(60)
    assert len(desk.sets.images) == len(desk.pictures.cards) == 13 and desk.index == desk.order[0] == 12
    assert not desk.sets.is_misclassified(12) and len(desk.result.after) == 13
    desk.controls.shows.value = next(name for name in desk.sets.classifier.classes if name != desk.sets.shows(12))
    desk.wait(60)
    assert desk.sets.is_misclassified(12) and desk.pictures.cards[0]["caption"] == desk.controls.shows.value
    desk.controls.shows.value = "fox"
    with pytest.raises(KeyError, match="no class 'fox'"):
        desk.wait(60)
    desk.controls.upload.value = tuple(files[:1])
    with pytest.raises(ValueError, match="1 images are both in images and in picture"):
        desk.wait(60)


def assert_shows_what_the_edit_does(desk):
    """The result, the verdict and the cards are those of the edited classifier and of the labels as they are now."""
    [drawn_on] = [index for index, editor in desk._editors.items() if editor.mask.any()]
    fresh = desk.sets.result(desk.edit, [drawn_on])
    with desk.edit.applied(desk.sets.classifier):
        after = predict(desk.sets.classifier, desk.sets.images).argmax(1)
    classes = desk.sets.classifier.classes
    assert desk.result.after.argmax(1).tolist() == after.tolist()
    assert desk.result.verdict == desk.controls.verdict.text == fresh.verdict
    assert desk.result.images.before.tolist() == fresh.images.before.tolist()
    assert desk.result.images.after.tolist() == fresh.images.after.tolist()
    for index, card in zip(desk.order, desk.pictures.cards, strict=True):
        is_right = after[index] == desk.sets.images.labels[index]
        assert card["reads"].split(" → ")[-1] == classes[after[index]]
        assert card["state"] in (("right", "corrected") if is_right else ("wrong", "broken"))


def test_relabel_after_a_result_computes_it_again(varied_desk):
    desk = varied_desk
    verdict = desk.result.verdict
    after = desk.result.after.argmax(1)
    right = [i for i in desk.order if after[i] == desk.sets.images.labels[i] and i != desk.index]
    desk.choose(right[0])
    desk.controls.shows.value = next(name for name in desk.sets.classifier.classes if name != desk.sets.shows(right[0]))
    desk.wait(60)
    assert desk.result.verdict != verdict
    assert_shows_what_the_edit_does(desk)


def test_add_files_after_a_result_computes_it_again(varied_desk, tmp_path):
    desk = varied_desk
    classifier = desk.sets.classifier
    candidates = noise(60, seed=8)
    before = predict(classifier, candidates).argmax(1)
    with desk.edit.applied(classifier):
        changed = before != predict(classifier, candidates).argmax(1)
    save_image(tmp_path / "new.png", candidates[changed][0])
    desk.controls.upload.value = (uploaded(tmp_path / "new.png"),)
    desk.wait(60)
    desk.wait(60)  # for what the first request asked for
    assert len(desk.result.after) == 13 and desk.order[0] == 12
    assert "→" in desk.pictures.cards[0]["reads"]
    assert_shows_what_the_edit_does(desk)


def test_undo_to_a_result_of_other_labels_computes_it_again(varied_desk):
    desk = varied_desk
    first = desk.edit
    desk.controls.layer.value = "conv1"
    second = rewritten(desk)
    index = desk.order[-1]
    desk.choose(index)
    desk.controls.shows.value = next(name for name in desk.sets.classifier.classes if name != desk.sets.shows(index))
    desk.wait(60)
    assert desk.edit is second.edit
    desk.undo()
    desk.wait(60)
    assert desk.edit is first
    assert_shows_what_the_edit_does(desk)


def test_a_verdict_of_other_weights_is_no_longer_shown(desk, tiny, tmp_path):
    rewritten(desk)
    with torch.no_grad():
        tiny.model.conv1.weight.mul_(1.5)
    assert desk.result is None
    desk.rewrite()
    with pytest.raises(ValueError, match="TinyNet"):
        desk.wait(60)
    assert not desk.controls.verdict.text and not desk.controls.title.value
    assert {card["state"] for card in desk.pictures.cards} == {"right", "wrong"}
    desk.save(tmp_path / "edit.safetensors")  # the edit of the old weights is not lost
    assert (tmp_path / "edit.safetensors").exists()


def test_weights_that_were_changed_meanwhile_are_said(desk, tiny):
    rewritten(desk)
    with torch.no_grad():
        tiny.model.conv1.weight.mul_(1.5)
    desk.rewrite()
    with pytest.raises(ValueError, match="of the TinyNet were changed"):
        desk.wait(60)
    assert desk.controls.said.alarm and "were changed" in desk.controls.said.text


SCRIPT = """
import torch
from edittools import widgets
from edittools.classifiers import Classifier
from conftest import TinyNet
classifier = Classifier(TinyNet(), ("a", "b", "c", "d", "e"), size=32)
desk = widgets.Desk(classifier, torch.rand(12, 3, 32, 32), torch.rand(40, 3, 32, 32))
desk.editor.mask = torch.ones(32, 32)
for _ in range(5):
    desk.rewrite()
"""


def test_a_script_may_end_while_the_desk_works():
    ended = subprocess.run([sys.executable, "-c", SCRIPT], cwd="tests", capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
