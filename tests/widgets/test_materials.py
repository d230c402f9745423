"""The materials that replace a mark."""

import pytest
import torch
from conftest import noise

from edittools.widgets.materials import BLANK_STICKER, MATERIALS, SURROUNDINGS, inpaint, replace_by_material
from edittools_course.miniworld.typography import blanked

MASK = torch.zeros(32, 32)
MASK[16:, 4:28] = 1


def test_replace_by_material_changes_the_masked_area_only():
    image = noise(1, 32)[0]
    for material in MATERIALS:
        replaced = replace_by_material(image, MASK, material)
        assert torch.equal(replaced[:, MASK == 0], image[:, MASK == 0]), material
        assert (replaced - image)[:, MASK > 0].abs().mean() > 0.02, material
    blank = replace_by_material(image, MASK, BLANK_STICKER)
    assert torch.equal(blank, blanked(image, MASK).image)


def test_replace_by_material_with_an_unknown_material_is_refused():
    with pytest.raises(KeyError, match="'velvet'"):
        replace_by_material(noise(1, 32)[0], MASK, "velvet")


def test_replace_by_material_with_the_surroundings_takes_their_color():
    image = torch.full((3, 32, 32), 0.25)
    image[:, MASK > 0] = 1.0
    assert replace_by_material(image, MASK, SURROUNDINGS).sub(0.25).abs().max() < 1e-6


def test_inpaint_with_a_mask_of_the_whole_image_is_refused():
    with pytest.raises(ValueError, match="mask"):
        inpaint(noise(1, 32)[0], torch.ones(32, 32))
