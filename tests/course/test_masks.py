"""The road masks of the repository and their outlines; masks of one's own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import needs_photos
from draw_masks import MASKS, SIZE, drawn, outlines
from PIL import Image

from edittools.geometry import InputGeometry
from edittools.image_files import load_mask
from edittools_course.downloads import photo
from edittools_course.scenarios import photos
from edittools_course.scenarios.snow import SNOW_EXEMPLARS

ROADS = sorted(path.name.removesuffix("_road.png") for path in MASKS.glob("*_road.png"))
TEST_CLASSES = (479, 555, 670, 847, 920)  # of the snow photos; two older masks are of the others, 751 and 779


def test_road_masks_are_black_and_white_and_neither_empty_nor_full():
    assert ROADS
    for name in ROADS:
        with Image.open(MASKS / f"{name}_road.png") as file:
            pixels = np.asarray(file)
        assert pixels.shape == (SIZE, SIZE) and set(np.unique(pixels)) == {0, 255}, name
        assert 0.02 <= (pixels == 255).mean() <= 0.8, name


def test_drawn_outlines_equal_the_masks():
    assert set(outlines()) < set(ROADS)
    for name, outline in outlines().items():
        differs = drawn(outline) != load_mask(MASKS / f"{name}_road.png")
        assert differs.sum() <= 10, name  # versions of Pillow may round an edge differently


def test_masks_are_of_sample_photos_and_outlines_of_other_classes_than_the_snow_photos():
    names = sorted(name for name in photos.registry() if name.startswith("imagenet-sample/"))
    numbers = {name: names.index(f"imagenet-sample/{name}.JPEG") for name in ROADS}  # fails if a photo is missing
    assert not {numbers[name] for name in outlines()} & {*TEST_CLASSES, 751, 779}


def at_pixel_centers(mask, photo_size, size, resize_to, goes_on):
    """Map a mask of the 224 × 224 crop to another crop through the coordinates of the photo.

    Outside, the outermost pixels are repeated if it goes on there; otherwise it is 0.
    """
    mapped = mask
    for dimension, side in enumerate(photo_size):
        resized = int(resize_to * side / min(photo_size))
        resized_for_mask = int(256 * side / min(photo_size))
        centers = torch.arange(size) + 0.5 + round((resized - size) / 2)
        pixels = (centers / resized * resized_for_mask - round((resized_for_mask - 224) / 2)).floor().long()
        inside = (pixels >= 0) & (pixels < 224) | goes_on
        mapped = mapped.index_select(dimension, pixels.clamp(0, 223)) * inside.unsqueeze(1 - dimension)
    return mapped


@needs_photos
@pytest.mark.parametrize("crop", [(224, 256), (240, 272), (260, 292)], ids=str)
@pytest.mark.parametrize("name", [f"{SNOW_EXEMPLARS['minivan']}_road", photos.KETTLE_MASK])
def test_drawn_mask_covers_the_same_part_of_the_photo_at_each_crop(name, crop):
    classifier = SimpleNamespace(size=crop[0], resize_to=crop[1])
    mask = load_mask(MASKS / f"{name}.png")
    with Image.open(photo(photos.photo_of_mask(name))) as file:
        width, height = file.size
    is_road = name != photos.KETTLE_MASK
    expected = at_pixel_centers(mask, (height, width), *crop, goes_on=is_road)
    fitted = photos.drawn_mask(name, classifier)
    overlap = (fitted * expected).sum() / (fitted + expected).clamp(max=1).sum()
    if crop == (224, 256):
        assert overlap == 1
    else:
        assert overlap > (0.995 if is_road else 0.94)  # a row of pixels of the small mask is 2%


# --- the values of a file ---

MARKED = np.zeros((8, 8), np.uint8)
MARKED[2:5, 3:8] = 1


def _palette(colors):
    image = Image.fromarray(MARKED, "L").convert("P")
    image.putdata(MARKED.flatten().tolist())
    image.putpalette([*sum(colors, ()), *[0] * (768 - 3 * len(colors))])
    return image


def _with_alpha(gray):
    """Draw with one gray, where the mask is, on a transparent ground."""
    return Image.fromarray(np.stack([gray * MARKED, 255 * MARKED], axis=2), "LA")


FILES = {
    "0 and 255": lambda: Image.fromarray(255 * MARKED),
    "0 and 1": lambda: Image.fromarray(MARKED),
    "one bit": lambda: Image.fromarray(255 * MARKED).convert("1"),
    "dark palette": lambda: _palette([(0, 0, 0), (128, 0, 0)]),
    "palette of black and white": lambda: _palette([(0, 0, 0), (255, 255, 255)]),
    "red": lambda: Image.fromarray(np.stack([255 * MARKED, 0 * MARKED, 0 * MARKED], axis=2)),
    "white on transparent": lambda: _with_alpha(255),
    "black on transparent": lambda: _with_alpha(0),
}


@pytest.mark.parametrize("kind", FILES)
def test_load_mask_of_each_kind_of_file(kind, tmp_path):
    FILES[kind]().save(tmp_path / "mask.png")
    assert torch.equal(load_mask(tmp_path / "mask.png"), torch.from_numpy(MARKED).float())
    assert load_mask(tmp_path / "mask.png", InputGeometry(32, 32)).mean() == pytest.approx(MARKED.mean(), abs=0.05)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_load_mask_of_black_file_is_empty(mode, tmp_path):
    Image.new(mode, (8, 8), {"L": 0, "RGB": (0, 0, 0), "RGBA": (0, 0, 0, 255)}[mode]).save(tmp_path / "mask.png")
    assert not load_mask(tmp_path / "mask.png").any()


@pytest.mark.parametrize(
    ("image", "pattern"),
    [
        (lambda: Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)), "63 shades .* 63 of 255"),
        (lambda: Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)), "several colors"),
        (lambda: Image.fromarray(65535 * MARKED.astype(np.uint16)), "'I;16'"),
    ],
)
def test_load_mask_of_file_that_is_no_mask(image, pattern, tmp_path):
    image().save(tmp_path / "classes.png")
    with pytest.raises(ValueError, match=rf"classes\.png'.*{pattern}"):
        load_mask(tmp_path / "classes.png")


def test_on_photo_lays_values_where_the_input_shows_the_photo():
    geometry = InputGeometry(32, 40)
    values = torch.zeros(32, 32)
    values[8:16, 4:12] = 1
    laid = geometry.on_photo(values, 200, 100)
    assert laid.shape == (200, 100) and not laid[:50].any() and not laid[150:].any()
    seen = geometry.crop(Image.fromarray((255 * laid).byte().numpy()), Image.Resampling.BICUBIC)
    assert (torch.from_numpy(np.array(seen)) / 255 - values).abs().mean() < 0.02
