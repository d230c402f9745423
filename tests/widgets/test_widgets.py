"""The mask editor's mask and files, the views, and the static figure that a saved notebook keeps of each widget."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from edittools import widgets
from edittools.image_files import load_mask
from edittools.widgets.editor import MaskEditor, heat_pixels, pack_mask, unpack_mask

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


def test_mask_returns_what_was_set(editor):
    editor.mask = corner()
    assert torch.equal(editor.mask, corner())
    assert repr(editor) == "MaskEditor(32 × 24 pixels, 45 in the mask)"
    editor.mask = None
    assert not editor.mask.any()


def test_image_may_be_a_pil_image_or_an_array(editor):
    pixels = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    for image in (Image.fromarray(pixels), pixels, pixels / 255):
        assert torch.allclose(MaskEditor(image, corner()).shown_image, expected)


def test_shows_is_true_of_the_same_image_only():
    image = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    editor = MaskEditor(image, corner())
    assert editor.shows(image) and editor.shows(image.clone().double())
    assert editor.shows((image.permute(1, 2, 0) * 255).round().byte().numpy())
    changed = image.clone()
    changed[0, -1, -1] = 1 - changed[0, -1, -1].round()  # a single pixel
    for other in (changed, image.flip(2), image[:, 1:], image[:1].expand(3, -1, -1)):
        assert not editor.shows(other)
    with pytest.raises(ValueError, match="None"):
        editor.shows(None)


def test_mask_of_a_single_pixel():
    editor = MaskEditor(torch.rand(3, 1, 1), torch.ones(1, 1))
    assert editor.mask.tolist() == [[1]]


# --- smart select ---


def test_segments_of_smart_select_join_superpixels_of_similar_color():
    image = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0)) * 0.04 + 0.3
    image[:, 20:60, 30:80] += 0.4  # a sign of one color
    superpixels = MaskEditor(image)._segments
    labels = np.repeat(*np.array(superpixels["runs"].split(), int).reshape(-1, 2).T).reshape(96, 96)
    sizes = []
    for segments in superpixels["segments"]:
        marked = np.array(segments)[labels] == segments[labels[40, 55]]
        sizes.append(int(marked.sum()))
    assert sizes == sorted(sizes) and sizes[0] < 0.1 * 40 * 50
    assert any(abs(size - 40 * 50) < 0.1 * 40 * 50 for size in sizes)


# --- the heat map ---


def test_heat_pixels_are_orange_where_the_map_is_largest_and_dark_where_it_is_not_positive():
    heat = torch.tensor([[-3.0, 0.0], [2.0, 2.0]])
    pixels = heat_pixels(heat).astype(float)
    assert (pixels[0, :, :3] == 0).all() and (pixels[0, :, 3] == 128).all()
    assert (pixels[1] == [255, 140, 0, 153]).all()
    assert (heat_pixels(torch.zeros(2, 2))[:, :, :3] == 0).all()


def test_show_heat_lays_the_map_over_the_image_in_the_figure(editor):
    before = editor.shown_image
    editor.show_heat(corner())
    assert (editor.shown_image - before)[:, :5, :9].abs().mean() > 0.1
    assert editor.heat.sum() == 45 and editor._heat_png
    editor.show_heat(None)
    assert torch.equal(editor.shown_image, before) and not editor._heat_png


@pytest.mark.parametrize("heat", [torch.zeros(3, 3), torch.full(SHAPE, float("nan"))])
def test_show_heat_refuses_what_does_not_fit(editor, heat):
    with pytest.raises(ValueError, match=re.escape(str(tuple(heat.shape)))):
        editor.show_heat(heat)


@given(any_mask)
def test_unpack_mask_inverts_pack_mask(mask):
    assert (unpack_mask(pack_mask(mask), mask.shape) == mask).all()


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda e: MaskEditor(torch.rand(5, 6)), r"\(5, 6\)"),
        (lambda e: MaskEditor(torch.rand(3, 5, 6), torch.zeros(6, 5)), r"\(6, 5\).*\(3, 5, 6\)"),
        (lambda e: MaskEditor(torch.rand(3, 5, 6), torch.full((5, 6), 0.5)), r"0\.5"),
        (lambda e: MaskEditor(torch.zeros(1, 1, 1).expand(3, 8000, 9001)), r"\(8000, 9001\)"),
        (lambda e: MaskEditor(np.zeros((3, 4, 4))), "ndarray"),
        (lambda e: setattr(e, "mask", [[0]]), "list"),
        (lambda e: setattr(e, "_mask", bytes(9)), "9.*96.*768"),
    ],
)
def test_mask_editor_refuses_what_is_not_an_image_or_mask(editor, call, value):
    with pytest.raises(ValueError, match=value):
        call(editor)
    assert editor.mask.sum() == 0


# --- files ---


def test_load_mask_of_a_saved_mask(editor, tmp_path):
    editor.mask = corner()
    editor.save(tmp_path / "road.png")
    assert torch.equal(load_mask(tmp_path / "road.png"), corner())


# --- views ---


def test_repr_mimebundle_contains_the_figure(editor):
    data, metadata = editor._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == repr(editor)
    assert "application/vnd.jupyter.widget-view+json" in data
    figure = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert len(figure.convert("RGB").getcolors(1_000_000)) > 20


def test_javascript_sets_no_html_and_contains_no_address():
    for path in (Path(widgets.__file__).parent).rglob("*.js"):
        source = path.read_text(encoding="utf-8")
        assert "innerHTML" not in source
        assert set(re.findall(r"https?://[\w./]+", source)) <= {"http://www.w3.org/2000/svg"}
