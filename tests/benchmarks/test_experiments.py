"""What the experiments add to their results, on small exact cases."""

import ast
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import calibration
import contact_sheets
import numpy as np
import probing
import pytest
import tables
import torch
from _lib import cases_of_repair, nulls, shortcuts
from _lib.faults import NOTHING, REFUSED
from _lib.results import Results
from _lib.striped import plain_network, squares

from edittools.auditing.sheet import ContactSheet, Window, WindowGroup
from edittools.classifiers import Classifier
from edittools.images import LabeledImages
from edittools.locate import Box
from edittools.metrics import Comparison, misclassified, predict
from edittools.scenes import scenes_of


def compared(before, after):
    return Comparison(*(torch.tensor([character == "x" for character in text]) for text in (before, after)))


def values(results):
    table = results.frame()
    return table.set_index(["split", "metric"]).value


def test_precision_and_recall_of_rules():
    reported = {("car", "road"), ("cow", "grass"), ("cow", "sky")}
    planted = {("car", "road"), ("cow", "grass"), ("ship", "water"), ("camel", "sand")}
    assert probing.precision_and_recall(reported, planted) == (2 / 3, 0.5)
    assert np.isnan(probing.precision_and_recall(set(), planted)[0])


def test_noise_exemplar_changes_the_prediction_inside_its_mask_only():
    classifier = plain_network(steps=30)
    exemplar = cases_of_repair.noise_exemplar(classifier, seed=100)
    original, changed = predict(classifier, torch.stack([exemplar.image, exemplar.changed])).argmax(1).tolist()
    assert original == exemplar.label != changed
    is_changed = (exemplar.image != exemplar.changed).any(dim=0)
    assert is_changed.any() and not (is_changed & (exemplar.mask == 0)).any()


@pytest.mark.parametrize(
    ("net", "accuracy", "broken", "quality"),
    [
        (0.5, -0.2, 2.0, "good"),
        (0.5, -0.5, 2.0, "between"),
        (0.2, 0.0, 0.0, "between"),
        (0.5, 0.0, 4.0, "between"),
        (0.5, 0.0, 7.0, "bad"),
        (0.5, -1.5, 0.0, "bad"),
        (0.0, 0.0, 0.0, "bad"),
    ],
)
def test_quality_of_an_edit(net, accuracy, broken, quality):
    figures = {"errors corrected": net, "accuracy change": accuracy, "retained, broken (%)": broken}
    assert cases_of_repair.quality_of({**figures, "own class, lost": -5.0}) == quality
    if quality == "good":
        assert cases_of_repair.quality_of({**figures, "own class, lost": 4.0}) == "between"
        assert cases_of_repair.quality_of({**figures, "own class, lost": 7.0}) == "bad"


def test_calibration_counts_words_by_what_the_edit_does_to_new_images():
    """An edit that changed no labeled image is judged by what it does to new ones, as any other."""
    results = Results("calibration", "squares")
    sample, failures = "sample of 60, right exemplar", "failing images only, right exemplar"
    cases = {
        (sample, "1"): (0.5, 4, "use"),
        (failures, "2"): (0.5, 0, "do not use"),
        (failures, "3"): (-0.1, 1, "unclear"),
        (failures, "4"): (0.0, 0, "do not use"),
    }
    for (kind, seed), (net, changed, word) in cases.items():
        where = {"condition": kind, "split": seed}
        results.add("errors corrected", net, **where)
        results.add("accuracy change", 0, **where)
        results.add("retained, broken (%)", 0, **where)
        results.add("changed held-out predictions", changed, **where)
        results.add(word, 1, method="verdict", **where)
    of_qualities, of_kinds = tables.calibration_verdicts(results.frame()).split("\n\n")
    assert cells_of(of_qualities) == [
        ["good", "2", "1", "0", "1"],
        ["between", "0", "0", "0", "0"],
        ["bad", "2", "0", "1", "1"],
    ]
    assert cells_of(of_kinds) == [
        [failures, "0 of 1", "0 of 0", "0 of 2"],
        [sample, "1 of 1", "0 of 0", "0 of 0"],
    ]


def cells_of(table):
    """Return the cells of a Markdown table without its header."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_frames_of_a_burst_are_those_of_scenes_that_are_right_and_wrong():
    classifier = plain_network(steps=30)
    frames = cases_of_repair.burst(classifier, 0)
    is_wrong = misclassified(predict(classifier, frames), frames.labels).view(4, 9)
    assert is_wrong[:2].float().mean() > 0.5 > is_wrong[2:].float().mean()
    distances = torch.cdist(frames.images.flatten(1), frames.images.flatten(1)).view(4, 9, 4, 9)
    assert distances[0, :, 0].max() < distances[0, :, 1].min()


# --- _lib ---


def darkened(images, seed):
    """Make the upper half of images black: a shortcut without random numbers."""
    masks = torch.zeros(len(images), *images.shape[2:])
    masks[:, :16] = 1
    return images * (1 - masks[:, None]), masks


def test_first_misled_photo_is_the_exemplar():
    """The shortcut hides all of an image, so every photo is predicted as its class."""
    classifier = plain_network(steps=30)
    images = squares(30, 0).images
    labels = predict(classifier, images).argmax(1)
    goal = int(labels[0])
    others = labels != goal
    labels[others.nonzero()[0]] = goal  # misclassified without the shortcut
    changed = images[:1].expand(int(others.sum()), -1, -1, -1)
    shortcut = SimpleNamespace(draw=lambda photos, seed: (changed, torch.ones(len(changed), 32, 32)))
    pool = LabeledImages(images[others], labels[others], classifier.classes)
    exemplar = shortcuts.first_misled(classifier, pool, shortcut, goal, 0)
    assert torch.equal(exemplar.image, pool.images[1]) and torch.equal(exemplar.changed, changed[1])
    assert exemplar.label == int(pool.labels[1])
    with pytest.raises(ValueError, match="none of 1 photos"):
        shortcuts.first_misled(classifier, pool.subset([0]), shortcut, goal, 0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read where Linux has it")
def test_measured_memory_is_that_of_the_call():
    """In a new process, since memory that was given back before may be used again."""
    script = "import torch; from _lib import memory; print(memory.measured(lambda: len(torch.ones(2**26))))"
    folder = Path(calibration.__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    told = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    count, cost = ast.literal_eval(told.stdout)
    assert count == 2**26 and cost["seconds"] >= 0
    assert 200 < cost["memory"] < 400  # 2**26 numbers of four bytes


# --- learned_shortcut ---


def test_draws_share_no_photo(photos32):
    labels = torch.arange(3000) % 5
    left = LabeledImages(photos32[:1].expand(3000, -1, -1, -1), labels, tuple("abcde"))
    others = [shortcuts.others_of_draw(left, "c", draw) for draw in (1, 3, 4)]
    ordinary = [shortcuts.ordinary_of_draw(left, draw) for draw in (1, 3, 4)]
    for parts in (others, ordinary):
        assert len(torch.cat(parts).unique()) == len(torch.cat(parts))
    assert not (labels[torch.cat(others)] == 2).any()
    assert all(labels[part].bincount().tolist() == [shortcuts.ORDINARY] * 5 for part in ordinary)
    assert torch.equal(shortcuts.ordinary_of_draw(left, 2), ordinary[0])


# --- contact_sheets ---


@pytest.fixture
def left(tiny, photos32, monkeypatch):
    """Photos of five classes on which nothing was trained; the first three classes have the three shortcuts."""
    photos = LabeledImages(photos32, torch.arange(40) % 5, tiny.classes)
    names = dict(zip(tiny.classes, contact_sheets.NAMES.values(), strict=False))
    shortcuts = dict(zip(names, contact_sheets.SHORTCUTS.values(), strict=True))
    monkeypatch.setattr(contact_sheets, "training_roles", lambda size: {"left": photos})
    monkeypatch.setattr(contact_sheets, "load_classifier", lambda name: tiny)
    monkeypatch.setattr(contact_sheets, "SHORTCUTS", shortcuts)
    monkeypatch.setattr(contact_sheets, "NAMES", names)
    monkeypatch.setattr(contact_sheets, "MARKS", {"tag": tiny.classes[0], "text": tiny.classes[1]})
    return photos


def test_draw_marks_a_share_of_the_photos_of_a_class(tiny, left):
    data = contact_sheets.photos_of_each_class(tiny, 8, seed=0)
    clean = data.images.clone()
    masks = torch.zeros(len(data), 32, 32)
    contact_sheets.draw(data, masks, tiny.classes[1], "text", 0.5, seed=0)
    is_marked = masks.flatten(1).any(dim=1)
    assert data.labels.bincount().tolist() == [8] * 5
    assert (data.labels[is_marked] == 1).all() and int(is_marked.sum()) == 4
    is_changed = (data.images != clean).any(dim=1)
    assert is_changed.any() and not (is_changed & (masks == 0)).any()
    window = contact_sheets.middle_of_mark(masks[is_marked][0], 3)
    middle = (window.box.top + window.side // 2, window.box.left + window.side // 2)
    assert window.photo == 3 and masks[is_marked][0][middle]


def test_describe_mark_is_the_first_window_that_the_mark_covers_by_half(tiny, left):
    data = contact_sheets.photos_of_each_class(tiny, 8, seed=0)
    masks = torch.zeros(len(data), 32, 32)
    masks[0, 4:10, 4:10] = 1
    elsewhere = WindowGroup(0, [Window(0, Box.square(20, 20, 6))], 0.9, 0.0, 0.0, 10)
    on_it = WindowGroup(0, [Window(0, Box.square(4, 5, 6))], 0.4, 0.0, 0.0, 10)
    sheet = ContactSheet(data, predict(tiny, data), [elsewhere, on_it], {0: 8}, 0)
    row = contact_sheets.describe_mark(tiny, sheet, masks, tiny.classes[0])
    assert (row["place"], row["share"], row["confirmed"]) == (2, 0.4, False)
    assert row["largest coverage"] == pytest.approx(5 / 6)
    without = replace(sheet, groups=[elsewhere])
    assert contact_sheets.describe_mark(tiny, without, masks, tiny.classes[0])["place"] == 0


def test_contact_sheets_are_kept_and_counted(tiny, left, tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheets, "PHOTOS_OF_NULL", 8)
    options = {"quick": False, "networks": ["shortcuts_lite0"], "shares": [0.5], "photos_of_class": 8, "nulls": 1}
    options = SimpleNamespace(**options, store=tmp_path, pictures=None)
    results = contact_sheets.experiment(options)
    table = results.frame()
    nulls = table[table.split == "null"]
    assert set(nulls.network) == {"shortcuts_lite0", "efficientnet_lite0"}
    assert (nulls.n == 5).all() and (nulls.value <= 5).all()
    learned = table[(table.split == "on 50%") & (table.metric == "first window that names it")]
    assert list(learned.condition) == ["tag", "text", "border"]
    page = tables.contact_sheets(table.assign(run="contact_sheets_lite0", part="lite0"))
    assert "on 50%" in page and "efficientnet" not in page.splitlines()[0]
    monkeypatch.setattr(contact_sheets, "load_classifier", None)  # a second run computes nothing
    assert contact_sheets.experiment(options).rows == results.rows


def test_filled_is_the_rectangle_around_a_mask():
    masks = torch.zeros(2, 6, 8)
    masks[0, 2, 1] = masks[0, 4, 5] = 1
    filled = contact_sheets.filled(masks)
    assert filled[0, 2:5, 1:6].all() and filled.sum() == 15


# --- calibration ---


def test_probability_accepted_is_that_of_drawn_images():
    generator = np.random.default_rng(0)
    counts = generator.multinomial(400, (0.006, 0.004, 0.99), size=200_000)
    drawn = float((counts[:, 0] - counts[:, 1] <= 1).mean())  # of 400 images, one may be lost
    assert calibration.probability_accepted(400, 0.004, 0.006) == pytest.approx(drawn, abs=0.005)
    assert calibration.probability_accepted(400, 0.0, 0.002) == pytest.approx(0.998**400 + 400 * 0.002 * 0.998**399)


@pytest.mark.parametrize(
    ("folder", "scenes"), [("unchanged", 48), ("copies", 24), ("frames", 6), ("black images", None), ("borders", 48)]
)
def test_folders_of_nulls_have_copies_frames_and_black_images(folder, scenes):
    data = squares(48, 9300)
    changed = nulls.AUDITED_FOLDERS[folder](data, torch.Generator().manual_seed(0))
    assert len(changed) == 48 and changed.images.shape == data.images.shape
    black = int((changed.images == 0).all(dim=(1, 2, 3)).sum())
    assert (black > 0) == (folder == "black images")
    assert len(scenes_of(changed.images).unique()) == (48 - black + 1 if scenes is None else scenes)


def test_gain_on_new_images_tells_a_mark_from_its_colors(monkeypatch):
    """A network that counts bright pixels is turned by shuffled blocks as well; one that looks for a row is not."""
    images = torch.zeros(20, 3, 32, 32)
    images[:, :, :8:2, :8] = 1.0  # every second row of the window is bright
    data = LabeledImages(images, torch.zeros(20, dtype=torch.long), ("a", "b"))
    new = LabeledImages(torch.zeros(40, 3, 32, 32), torch.ones(40, dtype=torch.long), ("a", "b"))
    monkeypatch.setattr(nulls, "_new_squares", lambda: new)
    group = WindowGroup(0, [Window(0, Box.square(0, 0, 8))], 1.0, 0.0, 0.0, 40)
    sheet = SimpleNamespace(data=data)

    class Counts(torch.nn.Module):
        def __init__(self, by_row):
            super().__init__()
            self.by_row = by_row
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            bright = (x[:, 0] > 0).float()
            if self.by_row:
                found = (bright.sum(dim=2) >= 8).any(dim=1).float()
            else:
                found = (bright.sum(dim=(1, 2)) >= 20).float()
            return torch.stack([self.weight * found - 0.5, torch.zeros_like(found)], dim=1)

    def gain(by_row):
        classifier = Classifier(Counts(by_row), ("a", "b"), size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
        return nulls.gain_on_new_images(classifier, sheet, group, 0)

    assert gain(by_row=False) == 0
    assert gain(by_row=True) > 0.9


def test_warnings_are_counted_by_fault():
    results = Results("calibration", "photos")
    for fault, said in {
        "none": [NOTHING, NOTHING],
        "x and x' are swapped": ["few predictions change", REFUSED],
        "half of them": ["many are of one class", NOTHING],
    }.items():
        for number, metric in enumerate(said):
            results.add(metric, 1, condition=fault, split=str(number))
    lines = tables.calibration_warnings(results.frame()).splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert header == [
        *("what is wrong", "pairs", "with a warning"),
        *("few predictions change", "many are of one class", "refused"),
    ]
    by_fault = {fault: cells for fault, *cells in rows}
    assert by_fault["none"] == ["2", "0", "0", "0", "0"]
    assert by_fault["x and x' are swapped"] == ["2", "2", "1", "0", "1"]
    assert by_fault["half of them"] == ["2", "1", "0", "1", "0"]
