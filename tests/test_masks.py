"""The road masks of the repository and their outlines."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import needs_photos
from draw_masks import MASKS, SIZE, drawn, outlines
from PIL import Image

from edittools.images import load_mask
from edittools.models.downloads import photo
from edittools.scenarios import photos
from edittools.scenarios.snow import SNOW_EXEMPLARS

ROADS = sorted(path.name.removesuffix("_road.png") for path in MASKS.glob("*_road.png"))
TEST_CLASSES = (479, 555, 670, 847, 920)  # of the snow photos; two older masks are of the others, 751 and 779


def test_outlines_exist_for_most_of_the_masks():
    assert len(ROADS) == 40 and len(outlines()) == 28 and set(outlines()) < set(ROADS)


@pytest.mark.parametrize("name", ROADS)
def test_road_mask_is_black_and_white_and_neither_empty_nor_full(name):
    with Image.open(MASKS / f"{name}_road.png") as file:
        pixels = np.asarray(file)
    assert pixels.shape == (SIZE, SIZE) and pixels.dtype == np.uint8 and set(np.unique(pixels)) == {0, 255}
    assert 0.02 <= (pixels == 255).mean() <= 0.8


@pytest.mark.parametrize("name", outlines())
def test_drawn_outline_equals_the_mask(name):
    differs = drawn(outlines()[name]) != load_mask(MASKS / f"{name}_road.png")
    assert differs.sum() <= 10  # versions of Pillow may round an edge differently


def test_drawn_rectangle_with_a_hole_is_exact():
    def box(x0, y0, x1, y1):
        return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]

    expected = torch.zeros(SIZE, SIZE)
    expected[20:60, 10:100] = 1
    expected[30:40, 50:70] = 0
    mask = drawn([{"add": box(10, 20, 100, 60)}, {"remove": box(50, 30, 70, 40)}])
    assert torch.equal(mask, expected)
    assert torch.equal(drawn([{"add": box(10, 20, 100.2, 60.4)}, {"remove": box(50.2, 30, 69.8, 40)}]), expected)


def test_drawn_polygon_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'subtract'"):
        drawn([{"subtract": [[0, 0], [9, 0], [9, 9]]}])


def test_masks_are_of_sample_photos_and_outlines_of_other_classes_than_the_snow_photos():
    names = sorted(name for name in photos.registry() if name.startswith("imagenet-sample/"))
    numbers = {name: names.index(f"imagenet-sample/{name}.JPEG") for name in ROADS}  # fails if a photo is missing
    assert not {numbers[name] for name in outlines()} & {*TEST_CLASSES, 751, 779}


def at_pixel_centers(mask, photo_size, size, resize_to):
    """Map a mask of the 224 × 224 crop to another crop through the coordinates of the photo; outside it is 0."""
    mapped = mask
    for dimension, side in enumerate(photo_size):
        resized = int(resize_to * side / min(photo_size))
        resized_for_mask = int(256 * side / min(photo_size))
        centers = torch.arange(size) + 0.5 + round((resized - size) / 2)
        pixels = (centers / resized * resized_for_mask - round((resized_for_mask - 224) / 2)).floor().long()
        inside = (pixels >= 0) & (pixels < 224)
        mapped = mapped.index_select(dimension, pixels.clamp(0, 223)) * inside.unsqueeze(1 - dimension)
    return mapped


@needs_photos
@pytest.mark.parametrize("crop", [(224, 256), (240, 272), (260, 292)], ids=str)
@pytest.mark.parametrize("name", [*(f"{stem}_road" for stem in SNOW_EXEMPLARS.values()), photos.KETTLE_MASK])
def test_drawn_mask_covers_the_same_part_of_the_photo_at_each_crop(name, crop):
    classifier = SimpleNamespace(size=crop[0], resize_to=crop[1])
    mask = load_mask(MASKS / f"{name}.png")
    with Image.open(photo(photos.photo_of_mask(name))) as file:
        width, height = file.size
    expected = at_pixel_centers(mask, (height, width), *crop)
    fitted = photos.drawn_mask(name, classifier)
    overlap = (fitted * expected).sum() / (fitted + expected).clamp(max=1).sum()
    if crop == (224, 256):
        assert overlap == 1
    else:
        assert overlap > (0.94 if name == photos.KETTLE_MASK else 0.995)  # a row of pixels of the small mask is 2%
