"""The session of edits behind the desk: no widgets, and no result of earlier images, labels or weights."""

import json
import re

import pytest
import torch
from conftest import bars_that_call, noise, save_image
from tqdm import tqdm

import edittools as et
from edittools.images import LabelledImages
from edittools.metrics import misclassified, predict
from edittools.rewriting import REFERENCE_WEIGHT
from edittools.selection.checks import accuracy_check
from edittools.selection.effects import Effect
from edittools.selection.select import EXEMPLAR, select
from edittools.widgets.image_sets import MOST_BYTES, MOST_DETAIL
from edittools.widgets.materials import MATERIAL_OF_LARGE_MARKS, SURROUNDINGS, replace_by_material
from edittools.widgets.result import SELECT
from edittools.widgets.session import EditSession
from edittools_course.miniworld import scenes

MASK = torch.zeros(32, 32)
MASK[16:, 4:28] = 1


@pytest.fixture
def session(tiny):
    """A session on a dozen images, the first half of which is misclassified; the worst one is marked."""
    with torch.no_grad():
        tiny.model.head.bias -= predict(tiny, noise(100, seed=5)).mean(0)  # otherwise it predicts one class only
    pixels = noise(12)
    predicted = predict(tiny, pixels).argmax(1)
    labels = torch.where(torch.arange(12) < 6, (predicted + 1) % 5, predicted)
    session = EditSession(tiny, LabelledImages(pixels, labels, tiny.classes), noise(40, seed=3), noise(10, seed=4))
    session.mark(MASK)
    return session


def assert_is_current(session, result):
    """A result holds the predictions of the edited classifier, compared with the current labels."""
    images = session.images
    classifier = session.classifier
    with result.edit.applied(classifier):
        after = predict(classifier, images)
        for data, effect in ((session.clean, result.clean), (session.retain, result.retain)):
            is_wrong = misclassified(predict(classifier, data), data.labels)
            assert torch.equal(effect.comparison.after, is_wrong)
    torch.testing.assert_close(result.after, after)
    counted = [index for index in range(len(images)) if index != session.index]
    assert result.images.before.tolist() == misclassified(predict(classifier, images), images.labels)[counted].tolist()
    assert result.images.after.tolist() == misclassified(after, images.labels)[counted].tolist()


def test_exemplar_of_a_misclassified_image_has_it_as_changed(session):
    exemplar = session.exemplar
    assert session.is_misclassified(session.index)
    assert torch.equal(exemplar.changed, session.image)
    assert torch.equal(exemplar.image, replace_by_material(session.image, MASK, session.material, {}))
    assert exemplar.label == session.images.labels[session.index]


def test_verdict_says_which_images_it_counts(session):
    assert "images besides the pair" in session.rewrite("head").verdict
    found = session.find_elsewhere()
    session.use_as_concept([sighting for sighting in found if not sighting.is_clean][:6])
    assert "concept images" in session.rewrite("head").verdict


def test_material_is_what_is_around_a_small_mark_until_one_is_selected(session):
    small = torch.zeros(32, 32)
    small[4:12, 4:12] = 1
    session.mark(small)
    assert session.material == SURROUNDINGS
    session.mark(MASK)
    assert session.material == MATERIAL_OF_LARGE_MARKS
    session.material = "snow"
    session.mark(small)
    assert session.material == "snow"


def test_material_of_a_session_with_materials_is_the_first_of_them(tiny):
    session = EditSession(tiny, noise(4), materials={"mine": noise(1)[0]})
    assert session.material == session.material_names[0] == "mine"


def test_exemplar_of_a_correct_image_has_it_as_original(session):
    session.select(session.order[-1])
    with pytest.raises(ValueError, match="marked"):
        _ = session.exemplar
    session.mark(MASK)
    session.material = "snow"
    assert torch.equal(session.exemplar.image, session.image)
    assert torch.equal(session.exemplar.changed, replace_by_material(session.image, MASK, "snow", {}))


def test_select_and_mark_with_values_that_do_not_fit_are_refused(session):
    with pytest.raises(IndexError, match="12"):
        session.select(12)
    with pytest.raises(ValueError, match=r"\(16, 16\)"):
        session.mark(torch.ones(16, 16))
    assert torch.equal(session.mask, MASK)


def test_rewrite_in_a_session_equals_that_of_the_library(session, tiny):
    assert session.result is None and session.edit is None
    result = session.rewrite("conv1", 0.5)
    full = et.rewrite(
        tiny,
        "conv1",
        session.exemplar,
        session.reference,
        objective="least_squares",
        reference_weight=REFERENCE_WEIGHT,
    )
    delta = session.edit.changes["conv1.weight"].delta()
    torch.testing.assert_close(delta, (0.5 * full).changes["conv1.weight"].delta())
    assert session.result is result and result.edit is session.edit
    assert_is_current(session, result)


def test_notes_say_how_the_images_were_divided(session, tiny):
    assert re.findall(r"\d+", session.notes[0]) == ["40", str(len(session.reference)), str(len(session.clean))]
    assert len(session.reference) + len(session.clean) == 40
    assert not any("clean" in note for note in EditSession(tiny, session.images).notes)


def test_result_is_none_after_weights_changed_and_the_edit_can_still_be_saved(session, tiny, tmp_path):
    session.rewrite("conv1")
    with torch.no_grad():
        tiny.model.conv2.weight.mul_(1.5)
    assert session.result is None
    calls = (
        session.update,
        lambda: session.rewrite("head"),
        lambda: session.search(),
        lambda: session.probabilities_of(session.exemplar),
    )
    for call in calls:
        with pytest.raises(ValueError, match="TinyNet"):
            call()
    assert session.save(tmp_path / "edit.safetensors").exists()
    with torch.no_grad():
        tiny.model.conv2.weight.div_(1.5)


@pytest.mark.parametrize("name", ["norm.running_mean", "norm2.running_var"])
def test_result_is_none_after_a_buffer_changed(session, tiny, name):
    session.rewrite("conv1")
    tiny.model.get_buffer(name).add_(0.5)
    assert session.result is None
    tiny.model.get_buffer(name).sub_(0.5)


def test_result_is_kept_while_its_own_edit_is_applied_only(session, tiny):
    other = session.rewrite("conv2").edit
    result = session.rewrite("conv1")
    with result.edit.applied(tiny):
        assert session.result is result
    with other.applied(tiny):
        assert session.result is None
        with pytest.raises(ValueError, match="TinyNet"):
            session.rewrite("conv1")
    assert session.result is result


@pytest.fixture(scope="module")
def vans():
    """A session on vans on snow, one of which is marked; and clean images."""
    classifier = et.load_classifier("mini_vgg")
    images = scenes(24, 5, "van", ground="snow")
    session = EditSession(classifier, images, scenes(160, "validation"), scenes(12, 6, "sled"))
    session.candidate_layers = session.candidate_layers[-2:]
    session.select(session.order[0])
    session.mark(images.mask("snow")[session.index])
    session.material = "gravel"
    return session


def test_rewrite_without_a_layer_selects_the_one_that_the_exemplar_selects(vans):
    result = vans.rewrite()
    expected = select(vans.classifier, vans.exemplar, vans.reference, layers=vans.candidate_layers, select_by=EXEMPLAR)
    assert result.edit.layers == expected.edit.layers
    assert result.action == SELECT  # there are enough clean images


def test_select_layer_with_few_images_is_the_default_one(session):
    assert session.select_layer() == session.default_layer
    session.rewrite()
    assert session.edit.layers == (session.default_layer,)


def test_search_that_is_ended_while_the_edit_is_measured_changes_nothing(vans):
    before = vans.rewrite(vans.candidate_layers[0])

    def end(bar):
        if bar.desc == "measuring the edit":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vans.search(progress=bars_that_call(end))
    assert vans.result is before


def test_desk_at_224_pixels_accepts_as_many_clean_images_as_its_verdict_needs():
    """An edit that changes nothing passes the check of accuracy, with images that a session takes."""
    layers = torch.nn.Conv2d(3, 4, 8, stride=8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    classifier = et.Classifier(torch.nn.Sequential(*layers, torch.nn.Linear(4, 3)), ["ant", "bee", "cat"], size=224)
    small = noise(800, 8)
    pixels = torch.nn.functional.interpolate(small, size=224, mode="nearest")
    clean = LabelledImages(pixels, torch.arange(800) % 3, classifier.classes)
    session = EditSession(classifier, noise(2, 224, seed=9), clean)
    assert len(session.reference) + len(session.clean) == 800 <= MOST_BYTES // (12 * 224**2)
    labels = session.clean.labels
    predicted = predict(classifier, session.clean).argmax(dim=1)
    check = accuracy_check(Effect(labels, predicted, predicted, torch.arange(len(labels))))
    assert check.allows == "use"


def write_folder(folder, data):
    """Write images as files, in one subfolder per class; return their paths below the folder."""
    paths = []
    for number, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
        path = folder / data.classes[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(path, image)
        paths.append(f"{data.classes[label]}/{path.name}")
    return paths


def test_script_from_a_folder_to_a_saved_report(tmp_path):
    vans = scenes(16, 5, "van", ground="snow")
    names = write_folder(tmp_path / "vans", vans)
    write_folder(tmp_path / "clean", scenes(140, "validation"))
    classifier = et.load_classifier("mini_vgg")
    before = et.fingerprint(classifier)

    session = et.widgets.EditSession(classifier, str(tmp_path / "vans"), clean=str(tmp_path / "clean"))
    session.select(session.order[0])
    assert session.name(session.index) in names and session.is_misclassified(session.index)
    session.mark(vans.mask("snow")[names.index(session.name(session.index))])
    session.material = "gravel"
    assert "misclassified" in session.rewrite("features.10").verdict

    def end(bar):
        if bar.desc == "selecting an edit" and bar.n >= 3:
            raise InterruptedError

    session.candidate_layers = ("features.10",)
    first = session.edit
    with pytest.raises(InterruptedError):
        session.search(progress=bars_that_call(end))
    assert session.edit is first
    fix = session.search(progress=None)
    assert session.edit is fix.edit and session.result.repair is fix
    assert not re.search(r"\w=|fix\.", session.result.verdict + session.result.details)
    session.save(tmp_path / "edit.safetensors")
    page = session.save_report(tmp_path / "report.html")
    assert session.save_report(tmp_path / "edit.html").stem == "edit"

    assert page.read_text().count(str(fix.edit.digest))
    data = json.loads(page.with_suffix(".json").read_text())
    assert data["verdict"]["word"] == fix.verdict.word and data["fingerprints"]["edit"] == fix.edit.digest
    with et.Edit.load(tmp_path / "edit.safetensors", classifier).applied(classifier):
        torch.testing.assert_close(predict(classifier, session.images), session.result.after)
    assert et.fingerprint(classifier) == before


def test_images_can_be_marked_before_the_other_sets_are_read(tiny):
    seen = []

    def mark(session):
        session.mark(MASK)
        pair = session.probabilities_of(session.exemplar)
        heat, _, _ = session.evidence("conv1")
        assert not session.has_clean and session.layers and session.order
        seen.append((session, pair, heat))

    session = EditSession(tiny, noise(12), noise(40, seed=3), noise(10, seed=4), on_classified=mark)
    [(marked, pair, heat)] = seen
    assert marked is session and session.has_clean and torch.equal(session.mask, MASK)
    assert torch.equal(pair, session.probabilities_of(session.exemplar))
    assert torch.equal(heat, session.evidence("conv1")[0])


def bars_that_note(drawn):
    """Make a class of bars that print nothing, but note their name, what is done, and the total instead."""

    class Bar(tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options, mininterval=0)

        def display(self, *arguments, **options):
            drawn.append((self.desc.removesuffix(": "), self.n, self.total))

    return Bar


def test_bars_of_a_session_count_what_is_read_and_classified(tiny):
    drawn = []
    bars = bars_that_note(drawn)
    session = EditSession(tiny, noise(12), noise(40, seed=3), progress=bars)
    names = list(dict.fromkeys(name for name, _, _ in drawn))
    assert names == ["reading images", "classifying images", "reading the model", "reading clean", "classifying clean"]
    totals = {"reading images": 12, "reading clean": 40, "classifying images": 12, "classifying clean": 40}
    totals["reading the model"] = 1
    for name, expected in totals.items():
        done = [count for what, count, _ in drawn if what == name]
        [total] = {total for what, _, total in drawn if what == name}
        assert done == sorted(done) and done[0] == 0 and done[-1] == total == expected
    drawn.clear()
    session.prepare("conv1", bars)
    assert {name for name, _, _ in drawn} == {"caching images", "caching clean"}
    drawn.clear()
    session.prepare("conv1", bars)
    assert not drawn  # the states are kept


def test_save_names_the_file_after_model_class_and_layer(session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session.rewrite("conv1")
    path = session.save()
    assert path == tmp_path / f"TinyNet-{session.class_name(session.index)}-conv1.safetensors"
    assert session.save() == path  # it is the same edit


def test_save_without_an_edit_is_refused(session, tmp_path):
    with pytest.raises(ValueError, match="edit"):
        session.save(tmp_path / "edit.safetensors")


def test_photo_has_the_detail_of_its_file_and_is_marked_at_its_size(tiny, tmp_path):
    folder = tmp_path / "photos"
    save_image(folder / "large.png", noise(1, 150)[0])
    save_image(folder / "small.png", noise(1, 32)[0])
    session = EditSession(tiny, folder)
    session.select(session.images.names.index("large.png"))
    side = session.photo.shape[1]
    assert side == MOST_DETAIL * 32
    reduced = torch.nn.functional.interpolate(session.photo[None], 32, mode="area")[0]
    assert float((reduced - session.image).abs().mean()) < 0.1  # the same part of the photo
    mask = torch.zeros(side, side)
    mask[2:50, 1:30] = 1
    session.mark(mask)
    assert torch.equal(session.mask.nonzero().amax(dim=0), torch.tensor([16, 9]))
    thin = torch.zeros(side, side)
    thin[:, 40] = 1
    session.mark(thin)
    assert 0 < session.mask.sum() <= 32
    session.select(session.images.names.index("small.png"))
    assert torch.equal(session.photo, session.image)
    (folder / "large.png").unlink()
    session.select(session.images.names.index("large.png"))
    assert torch.equal(session.photo, session.image) and session.mask.any()
