"""The mask editor's tools and formats in Python, and the views; `test_browser.py` compares the browser with these."""

import json
from collections import deque
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from skimage.draw import polygon2mask
from torch import nn

from edittools.classifiers import Classifier, fingerprint
from edittools.edits import Change, Edit
from edittools.lab import masks
from edittools.lab.editor import MaskEditor
from edittools.lab.views import PredictionView, alpha_slider

SHAPE = (24, 32)
PACKAGE = Path(masks.__file__).parent
# by pycocotools 2.0.11
RING = "T8;k04M2M4M2OD@0?MI050M02O00O030LO60J060J060J060JO80H160J060J060J060J140M01001N030K073A0`0<1N3L3N3LVb0"
any_mask = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=14))
pixel = st.tuples(st.integers(-9, 40), st.integers(-9, 40))


def inside(points, shape=SHAPE):
    """The points that lie in the image, as a mask."""
    mask = np.zeros(shape, bool)
    for x, y in points:
        if 0 <= x < shape[1] and 0 <= y < shape[0]:
            mask[y, x] = True
    return mask


def disc(radius):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * (radius + 1)


@pytest.fixture
def editor():
    return MaskEditor(torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)), segments=20)


# --- tools ---


@given(pixel, pixel)
def test_a_line_steps_along_its_longer_side_and_rounds_the_other(start, end):
    steps = max(abs(start[0] - end[0]), abs(start[1] - end[1]))
    wanted = [
        [floor(a + Fraction(i * (b - a), max(steps, 1)) + Fraction(1, 2)) for a, b in zip(start, end, strict=True)]
        for i in range(steps + 1)
    ]
    assert masks.line_pixels(start, end).tolist() == wanted


@given(st.lists(pixel, min_size=1, max_size=4), st.integers(0, 5))
def test_a_stroke_is_every_pixel_within_a_disc_of_its_lines(points, radius):
    centres = [p for a, b in zip([points[0], *points], points, strict=False) for p in masks.line_pixels(a, b)]
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    wanted = np.zeros(SHAPE, bool)
    for cx, cy in centres:
        wanted |= (x - cx) ** 2 + (y - cy) ** 2 <= radius * (radius + 1)
    assert (masks.stroke(SHAPE, points, radius) == wanted).all()


@given(st.lists(pixel, min_size=3, max_size=7))
def test_a_polygon_is_scikit_images_polygon_and_its_edges(points):
    shifted = np.array(points)[:, ::-1] + 10
    body = polygon2mask((60, 60), shifted)[10 : 10 + SHAPE[0], 10 : 10 + SHAPE[1]]
    edges = inside(p for a, b in zip(points, [*points[1:], points[0]], strict=True) for p in masks.line_pixels(a, b))
    assert (masks.polygon(SHAPE, points) == body | edges).all()


@given(any_mask, st.integers(0, 4))
def test_grow_is_dilation_by_a_disc_and_shrink_grows_the_rest(mask, radius):
    assert (masks.grow(mask, radius) == ndimage.binary_dilation(mask, disc(radius))).all()
    assert (masks.shrink(mask, radius) == ~ndimage.binary_dilation(~mask, disc(radius))).all()


@given(arrays(np.uint8, (7, 9, 3), elements=st.integers(0, 6)), st.integers(0, 8), st.integers(0, 6), st.integers(0, 6))
def test_flood_reaches_exactly_what_a_walk_over_like_colours_reaches(pixels, x, y, tolerance):
    reached, todo = {(x, y)}, deque([(x, y)])
    while todo:
        i, j = todo.popleft()
        for neighbour in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            a, b = neighbour
            if neighbour in reached or not (0 <= a < 9 and 0 <= b < 7):
                continue
            if max(abs(int(p) - int(q)) for p, q in zip(pixels[b, a], pixels[y, x], strict=True)) <= tolerance:
                reached.add(neighbour)
                todo.append(neighbour)
    assert (masks.flood(pixels, x, y, tolerance) == inside(reached, (7, 9))).all()


def test_each_method_of_the_editor_does_what_its_name_says(editor):
    editor.rectangle((3, 2), (12, 9))
    assert editor.mask.sum() == 10 * 8
    assert editor.mask[2:10, 3:13].all()
    editor.rectangle((9, 7), (5, 5), add=False)
    assert editor.mask.sum() == 80 - 5 * 3
    editor.fill_holes()
    assert editor.mask.sum() == 80
    editor.eraser([(3, 2), (3, 9)])
    assert editor.mask.sum() == 72
    editor.shrink()
    assert editor.mask.sum() == 7 * 6
    editor.grow()
    assert editor.mask.sum() == 72
    editor.invert()
    assert editor.mask.sum() == SHAPE[0] * SHAPE[1] - 72
    editor.clear()
    assert editor.mask.sum() == 0
    editor.line((0, 0), (31, 0), radius=1)
    assert editor.mask.sum() == 32 * 2
    editor.clear()
    editor.lasso([(5, 5), (15, 5), (15, 15), (5, 15)])
    assert editor.mask.sum() == 121
    assert editor.mask.shape == SHAPE
    assert editor.mask.dtype == torch.float32


def test_fill_takes_the_patch_of_one_colour():
    image = torch.zeros(3, *SHAPE)
    image[:, 4:10, 6:20] = 0.5
    image[:, 4:10, 20:22] = 0.5 + 20 / 255
    editor = MaskEditor(image)
    editor.fill(7, 5, tolerance=19)
    assert editor.mask.sum() == 6 * 14
    editor.fill(7, 5, tolerance=21)
    assert editor.mask.sum() == 6 * 16


def test_superpixels_part_the_image_and_can_be_added_and_taken_away():
    editor = MaskEditor(torch.linspace(0, 1, 32).expand(3, *SHAPE), segments=20)
    numbers = {editor.superpixel_at(x, y) for x in range(32) for y in range(24)}
    assert 5 < len(numbers) < 60
    editor.superpixels(sorted(numbers))
    assert editor.mask.all()
    one = editor.superpixel_at(10, 10)
    editor.superpixels([one], add=False)
    assert editor.mask[10, 10] == 0
    assert {editor.superpixel_at(int(x), int(y)) for y, x in (editor.mask == 0).nonzero()} == {one}


def test_a_large_image_is_shown_reduced_and_masked_at_full_size():
    editor = MaskEditor(torch.zeros(3, 1800, 2400))
    assert editor._pixels.shape[0] * editor._pixels.shape[1] <= 3_000_000
    editor.fill(2399, 1799, tolerance=0)
    assert editor.mask.shape == (1800, 2400)
    assert editor.mask.all()


def test_an_image_of_one_pixel_can_be_edited():
    editor = MaskEditor(torch.zeros(3, 1, 1))
    editor.superpixels([editor.superpixel_at(0, 0)])
    assert editor.mask.tolist() == [[1]]


# --- masks, history ---


def test_the_mask_given_is_the_one_that_comes_back():
    mask = (torch.rand(SHAPE) > 0.5).float()
    editor = MaskEditor(torch.rand(3, *SHAPE), {"road": mask, "label": None})
    assert torch.equal(editor.mask, mask)
    assert list(editor.masks) == ["road", "label"]
    editor.active = "label"
    assert editor.mask.sum() == 0
    editor.mask = mask.bool()
    assert torch.equal(editor.masks["label"], mask)


def test_masks_can_be_added_and_removed_by_name(editor):
    editor.add_mask("sky", torch.ones(SHAPE))
    assert editor.active == "sky"
    assert editor.mask.all()
    editor.remove_mask("sky")
    assert editor.active == "mask"
    assert list(editor.masks) == ["mask"]


def test_a_change_that_leads_back_is_a_change_and_can_be_taken_back(editor):
    editor.rectangle((1, 1), (4, 4))
    editor.clear()
    assert editor.mask.sum() == 0
    editor.undo()
    assert editor.mask.sum() == 16
    editor.invert()
    editor.invert()
    editor.rectangle((10, 10), (10, 10))
    for _ in range(3):
        editor.undo()
    assert editor.mask.sum() == 16
    editor.redo()
    editor.undo()
    editor.undo()
    assert editor.mask.sum() == 0


def test_undo_and_redo_walk_through_every_change(editor):
    editor.brush([(5, 5)], radius=2)
    first = editor.mask
    editor.add_mask("sky")
    editor.invert()
    editor.undo()
    assert editor.mask.sum() == 0
    editor.undo()
    assert list(editor.masks) == ["mask"]
    assert torch.equal(editor.mask, first)
    editor.undo()
    editor.undo()
    assert editor.mask.sum() == 0
    for _ in range(5):
        editor.redo()
    assert editor.masks["sky"].all()
    editor.undo()
    editor.clear()
    editor.rectangle((0, 0), (1, 1))
    editor.redo()
    assert editor.mask.sum() == 4


def test_its_text_is_the_same_in_every_run_and_names_no_address(editor):
    assert repr(editor) == "MaskEditor(32 × 24 pixels, masks: 'mask')"


def test_the_colour_chosen_is_far_from_the_image_and_one_given_is_kept():
    def distance(colour, image):
        return np.linalg.norm(np.array(list(bytes.fromhex(colour[1:]))) / 255 - image[:, 0, 0].numpy())

    for colour in ([1.0, 0.2, 0.6], [0.0, 0.9, 1.0], [0.2, 1.0, 0.1], [1.0, 0.7, 0.0], [0.0] * 3, [1.0] * 3):
        image = torch.tensor(colour)[:, None, None].expand(3, 8, 8)
        assert distance(MaskEditor(image).colour, image) > 0.7
    assert MaskEditor(image, colour="#123456").colour == "#123456"


# --- formats ---


@given(any_mask)
def test_run_lengths_give_the_mask_back(mask):
    assert (masks.decode_runs(masks.encode_runs(mask), mask.shape) == mask).all()


@given(any_mask)
@settings(deadline=None)
def test_every_coco_format_gives_the_mask_back_through_json(mask):
    for segmentation in (masks.encode_rle(mask), masks.encode_rle(mask, compressed=False), masks.encode_polygons(mask)):
        read = json.loads(json.dumps({"segmentation": segmentation}))
        assert (masks.decode_segmentation(read, mask.shape) == mask).all()


def test_coco_run_lengths_are_the_text_that_pycocotools_writes():
    y, x = np.mgrid[:40, :50]
    ring = abs(np.hypot(x - 20, y - 25) - 12) < 3
    assert masks.encode_rle(ring) == {"size": [40, 50], "counts": RING}
    assert masks.encode_rle(np.ones((2, 3), bool), compressed=False) == {"size": [2, 3], "counts": [0, 6]}


@given(any_mask)
@settings(deadline=None)
def test_pycocotools_reads_and_writes_the_same(mask):
    coco = pytest.importorskip("pycocotools.mask", reason="compares with pycocotools where it is installed")
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert masks.encode_rle(mask)["counts"] == theirs["counts"].decode()
    assert (masks.decode_segmentation(theirs, mask.shape) == mask).all()


def test_a_coco_box_covers_its_pixels_and_polygons_of_one_mask_are_united():
    box = [2, 3, 6, 3, 6, 8, 2, 8]
    mask = masks.decode_segmentation([box, [4, 3, 9, 3, 9, 8, 4, 8]], (10, 12))
    assert mask.sum() == 7 * 5
    assert mask[3:8, 2:9].all()


@pytest.mark.parametrize("name", ["road.png", "road.json"])
@pytest.mark.parametrize("kind", ["rle", "counts", "polygons"])
def test_a_saved_mask_loads_again(editor, tmp_path, name, kind):
    editor.polygon([(2, 3), (25, 6), (14, 20)])
    saved = editor.mask
    editor.save(tmp_path / name, kind=kind)
    editor.clear()
    editor.load(tmp_path / name)
    assert torch.equal(editor.mask, saved)
    editor.undo()
    assert editor.mask.sum() == 0


# --- bad input ---


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda e: MaskEditor(torch.rand(5, 6)), r"shape \(5, 6\): expected \(3, H, W\)"),
        (lambda e: MaskEditor(torch.rand(3, 5, 6) * 255), "expected \\[0, 1\\]"),
        (lambda e: MaskEditor(torch.rand(3, 5, 6), torch.zeros(6, 5)), r"\(6, 5\) does not fit.*\(5, 6\)"),
        (lambda e: MaskEditor(torch.rand(3, 5, 6), torch.full((5, 6), 0.5)), "0 and 1"),
        (lambda e: MaskEditor(torch.rand(3, 5, 6), {}), "at least one name"),
        (lambda e: MaskEditor(torch.rand(3, 5, 6), {" ": None}), "mask name ' '"),
        (lambda e: MaskEditor(torch.rand(3, 5, 6), colour="red"), "colour 'red'"),
        (lambda e: MaskEditor(torch.rand(3, 5, 6), segments=0), "segments 0"),
        (lambda e: e.brush([1, 2]), r"shape \(2,\)"),
        (lambda e: e.brush([(1.5, 2)]), "whole numbers"),
        (lambda e: e.brush([(1, float("nan"))]), "whole numbers"),
        (lambda e: e.brush([(1, 10**9)]), "100000"),
        (lambda e: e.brush([(1, 1)], radius=-1), "radius -1"),
        (lambda e: e.polygon([(1, 1), (2, 2)]), "at least 3"),
        (lambda e: e.fill(32, 0), "x 32.*0 to 31"),
        (lambda e: e.fill(0, 0, tolerance=256), "tolerance 256"),
        (lambda e: e.superpixels([10**6]), "superpixel 1000000"),
        (lambda e: e.grow(0), "grow 0"),
        (lambda e: e.save("road.gif"), "'road.gif'.*png or .json"),
        (lambda e: e.to_coco("xml"), "'xml'"),
        (lambda e: e.from_coco({"size": [3, 3], "counts": [9]}), r"size \[3, 3\] does not fit"),
        (lambda e: e.from_coco({"size": [24, 32], "counts": [9]}), "sum 9: expected 768"),
        (lambda e: e.from_coco({"size": [24, 32], "counts": "~"}), "character '~'"),
        (lambda e: e.from_coco({"size": [24, 32], "counts": "o"}), "break off"),
        (lambda e: e.from_coco([[1, 2, 3, 4]]), "4 numbers"),
        (lambda e: e.from_coco("road"), "'road'"),
        (lambda e: e.add_mask("mask"), "'mask' already"),
        (lambda e: e.remove_mask("sea"), "no mask 'sea'"),
        (lambda e: e.remove_mask("mask"), "only mask"),
        (lambda e: setattr(e, "active", "sea"), "no mask 'sea'"),
        (lambda e: setattr(e, "_masks", [["mask", "9"]]), "sum 9: expected 768"),
        (lambda e: setattr(e, "_masks", [["mask", "-2 770"]]), "run lengths"),
    ],
)
def test_bad_input_is_refused_with_a_message_that_quotes_it(editor, call, says):
    with pytest.raises(ValueError, match=says):
        call(editor)
    assert editor.mask.sum() == 0


def test_things_of_another_type_are_refused(editor, tmp_path):
    with pytest.raises(TypeError, match="ndarray: expected a torch tensor"):
        MaskEditor(np.zeros((3, 4, 4)))
    with pytest.raises(TypeError, match="list: expected a torch tensor"):
        editor.mask = [[0]]
    with pytest.raises(FileNotFoundError):
        editor.load(tmp_path / "none.json")


def test_the_browsers_half_sets_no_html_and_names_no_address():
    for name in ("mask_editor.js", "mask_editor.css"):
        text = (PACKAGE / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "http:", "https:", "@import", "url(", "eval("):
            assert word not in text


# --- views ---


@pytest.fixture
def edit(tiny):
    weight = tiny.model.head.weight
    change = Change(2 * torch.ones(len(weight), 1), torch.eye(1, weight.shape[1]))
    change.left[1:] = 0
    return Edit({"head.weight": change}, fingerprint(tiny.model))


def test_prediction_view_shows_the_most_likely_classes_before_and_after(tiny, edit, photos32):
    view = PredictionView(tiny, photos32[0], edit, top=3)
    before = tiny(photos32[:1]).softmax(1)[0].detach()
    with edit.applied(tiny):
        after = tiny(photos32[:1]).softmax(1)[0].detach()
    assert torch.allclose(view.probabilities, torch.stack([before, after]))
    best = [tiny.classes[int(p.argmax())] for p in (before, after)]
    assert repr(view) == f"PredictionView({best[0]!r}, {best[1]!r})"
    bar, name = view._bars[0][0]
    assert bar.value == pytest.approx(float(before.max()))
    assert name.value == f"{best[0]} · {100 * float(before.max()):.0f} %"
    assert len(view._bars[1]) == 3


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
    edit = Edit({"2.weight": Change(torch.ones(2, 1), torch.ones(1, 3))}, fingerprint(two.model))
    slider, view = alpha_slider(two, edit, photos32[:2]).children
    for shown in (view, PredictionView(two, photos32[0]), PredictionView(two, photos32[0], edit, top=9)):
        assert {len(bars) for bars in shown._bars} == {2}
    slider.value = 0.5
    with (0.5 * edit).applied(two):
        assert torch.allclose(view.probabilities, two(photos32[:2]).softmax(1), atol=1e-6)


def test_views_refuse_what_they_cannot_show(tiny, edit, photos32):
    with pytest.raises(ValueError, match="1 titles for 2 columns"):
        PredictionView(tiny, photos32[:2], titles=["x"])
    with pytest.raises(ValueError, match="no image"):
        PredictionView(tiny, [])
    with pytest.raises(ValueError, match="number of bars 0: expected a whole number from 1 up"):
        PredictionView(tiny, photos32[0], top=0)
    with pytest.raises(ValueError, match="strengths"):
        alpha_slider(tiny, edit, photos32[0], [])
