"""The mask editor's masks and files, the views, and the picture that a saved notebook keeps of each widget."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_exemplar
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torch import nn

from edittools import widgets
from edittools.classifiers import Classifier, fingerprint
from edittools.edits import Change, Edit
from edittools.widgets.editor import MaskEditor, decode_runs, encode_runs
from edittools.widgets.views import PredictionView, alpha_slider

SHAPE = (24, 32)
any_mask = arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@pytest.fixture
def editor():
    return MaskEditor(torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)))


def corner(rows=5, columns=9):
    mask = torch.zeros(SHAPE)
    mask[:rows, :columns] = 1
    return mask


# --- masks ---


def test_the_mask_given_is_the_one_that_comes_back(editor):
    editor.mask = corner()
    assert torch.equal(editor.mask, corner()) and editor.masks.keys() == {"mask"}
    editor.mask = None
    assert not editor.mask.any()
    one = MaskEditor(torch.rand(3, 1, 1), torch.ones(1, 1))
    assert one.mask.tolist() == [[1]]


def test_masks_go_by_name(editor):
    editor.add("sky", corner())
    assert editor.active == "sky" and torch.equal(editor.mask, corner()) and not editor.masks["mask"].any()
    assert repr(editor) == "MaskEditor(32 × 24 pixels, masks: 'mask', 'sky')"
    for name in ("sky", " "):
        with pytest.raises(ValueError, match=r"mask names \['mask', 'sky', .*\]: expected texts that are not empty"):
            editor.add(name)


def test_what_a_finder_sees_is_suggested_the_largest_first_and_why_it_fails_is_said():
    seen = {"speck": corner(1, 1)[None], "road": corner()[None]}
    editor = MaskEditor(torch.rand(3, *SHAPE), finder=lambda images: seen)
    assert list(editor.suggest()) == ["road", "speck"] and torch.equal(editor.suggest()["road"], corner())
    failing, unfit = (
        MaskEditor(torch.rand(3, *SHAPE), finder=find)
        for find in (lambda images: 1 / 0, lambda images: {"road": torch.ones(1, 5, 5)})
    )
    said = {editor: "", failing: "ZeroDivisionError: division by zero"}
    for asked, text in (said | {unfit: "ValueError: mask of shape (5, 5) does not fit"}).items():
        asked._asked = True
        assert asked._said.startswith(text) and len(asked._suggested) == 2 * (asked is editor)


@given(any_mask)
def test_run_lengths_give_the_mask_back(mask):
    assert (decode_runs(encode_runs(mask), mask.shape) == mask).all()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda e: MaskEditor(torch.rand(5, 6)), ValueError, r"shape \(5, 6\)"),
        (lambda e: MaskEditor(torch.rand(3, 5, 6), torch.zeros(6, 5)), ValueError, r"\(6, 5\) does not fit.*\(5, 6\)"),
        (lambda e: MaskEditor(torch.rand(3, 5, 6), torch.full((5, 6), 0.5)), ValueError, r"values \[0.5"),
        (lambda e: MaskEditor(torch.rand(3, 5, 6), {}), ValueError, "at least one name"),
        (lambda e: MaskEditor(np.zeros((3, 4, 4))), ValueError, "is a ndarray"),
        (lambda e: setattr(e, "mask", [[0]]), TypeError, "list: expected a torch tensor"),
        (lambda e: setattr(e, "_masks", [["mask", "9"]]), ValueError, "sum 9: expected 768"),
        (lambda e: setattr(e, "_masks", [["mask", "-2 770"]]), ValueError, "run lengths"),
    ],
)
def test_what_is_no_image_or_mask_is_refused(editor, call, error, says):
    with pytest.raises(error, match=says):
        call(editor)
    assert editor.mask.sum() == 0


# --- files ---


@pytest.mark.parametrize("name", ["road.png", "road.json"])
def test_a_saved_mask_loads_again(editor, tmp_path, name):
    editor.mask = corner()
    editor.save(tmp_path / name)
    editor.mask = None
    editor.load(tmp_path / name)
    assert torch.equal(editor.mask, corner())


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [24, 32], "counts": [0, 5, *[19, 5] * 8, 19 + 23 * 24]},
        [[0, 0, 9, 0, 9, 5, 0, 5]],
        [[0, 0, 5, 0, 5, 5, 0, 5], [4, 0, 9, 0, 9, 5, 4, 5]],
    ],
)
def test_every_coco_segmentation_is_read(editor, tmp_path, segmentation):
    for found in (segmentation, {"segmentation": segmentation}):
        (tmp_path / "road.json").write_text(json.dumps(found))
        editor.load(tmp_path / "road.json")
        assert torch.equal(editor.mask, corner())


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("m.gif", "", "'m.gif': expected a name that ends in .png or .json"),
        ("m.json", "{", "no JSON file of a COCO mask"),
        ("m.json", '"road"', "segmentation 'road'…: expected COCO run lengths"),
        ("m.json", "[[1, 2]]", "expected COCO run lengths"),
        ("m.json", '{"size": [3, 3], "counts": [9]}', r"segmentation of size .* does not fit: expected \[24, 32\]"),
    ],
)
def test_a_file_that_holds_no_mask_is_refused(editor, tmp_path, monkeypatch, name, text, says):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    with pytest.raises(ValueError, match=says):
        editor.load(name)


def test_without_pycocotools_it_is_said_how_to_install_it(editor, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocotools", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'edittools\[coco\]'"):
        editor.save(tmp_path / "road.json")


# --- views ---


@pytest.fixture
def edit(tiny):
    weight = tiny.model.head.weight
    change = Change(2 * torch.ones(len(weight), 1), torch.eye(1, weight.shape[1]))
    change.left[1:] = 0
    return Edit({"head.weight": change}, fingerprint(tiny.model))


def test_prediction_view_shows_the_most_likely_classes(tiny, photos32):
    view, found = PredictionView(tiny, photos32[0]), tiny(photos32[:1]).softmax(1).detach()
    assert torch.allclose(view.probabilities, found)
    best = tiny.classes[int(found.argmax())]
    assert repr(view) == f"PredictionView({best!r})"
    bar, name = view._bars[0][0]
    assert bar.value == pytest.approx(float(found.max())) and len(view._bars[0]) == 5
    assert name.value == f"{best} · {100 * float(found.max()):.0f} %"


def test_alpha_slider_follows_the_strength_and_leaves_the_classifier_alone(tiny, edit, photos32):
    weight = tiny.model.head.weight.clone()
    slider, view = alpha_slider(tiny, edit, photos32[:2], (0, 0.5, 1)).children
    for strength in (0, 0.5):
        slider.value = strength
        with (strength * edit).applied(tiny):
            assert torch.allclose(view.probabilities, tiny(photos32[:2]).softmax(1), atol=1e-6)
    assert torch.equal(tiny.model.head.weight, weight)


def test_of_few_classes_all_have_bars(photos32):
    two = Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), ("car", "sled"), size=32)
    assert {len(bars) for bars in PredictionView(two, photos32[0])._bars} == {2}


def test_views_refuse_what_they_cannot_show(tiny, edit, photos32):
    with pytest.raises(ValueError, match="no image: expected at least one"):
        PredictionView(tiny, [])
    with pytest.raises(ValueError, match="strengths"):
        alpha_slider(tiny, edit, photos32[0], [])


def test_a_saved_notebook_keeps_a_picture_of_each_widget(tiny, edit, photos32):
    desk = widgets.Desk(tiny, photos32[:8])
    desk.editor.mask = make_exemplar().mask
    for widget in (desk, desk.editor, PredictionView(tiny, photos32[:2]), alpha_slider(tiny, edit, photos32[:2])):
        data, _ = widget._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in data, widget
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
        assert len(picture.convert("RGB").getcolors(1_000_000)) > 20, widget


def test_the_browsers_half_sets_no_html_and_names_no_address():
    for path in (Path(widgets.__file__).parent).glob("*.js"):
        source = path.read_text(encoding="utf-8")
        assert "innerHTML" not in source
        assert set(re.findall(r"https?://[\w./]+", source)) <= {"http://www.w3.org/2000/svg"}
