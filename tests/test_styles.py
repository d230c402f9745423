import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edittools.exemplars import paste_texture, shading
from edittools.images import check_image
from edittools.miniworld.scenes import scene
from edittools.miniworld.textures import STYLES, VARIANTS, restyle, texture


@pytest.mark.parametrize("style", STYLES)
def test_variants_are_images_that_repeat_and_differ_from_each_other(style):
    made = [texture(style, variant, 64) for variant in range(VARIANTS)]
    assert all(check_image(one).shape == (3, 64, 64) for one in made)
    assert torch.equal(made[2], texture(style, 2, 64))
    for one, other in itertools.combinations(made, 2):
        assert (one - other).abs().mean() > 0.01


@pytest.mark.parametrize("style", STYLES)
def test_a_texture_looks_alike_at_every_size(style):
    small, large = texture(style, 1, 64), texture(style, 1, 256)
    reduced = torch.nn.functional.avg_pool2d(large, 4)
    assert (small.mean((1, 2)) - reduced.mean((1, 2))).abs().max() < 0.06
    blurred = torch.nn.functional.avg_pool2d(torch.stack([small, reduced]), 8).flatten(1)
    assert (blurred[0] - blurred[1]).abs().mean() < 0.08


def test_black_and_white_has_no_colour_and_snow_is_bright():
    assert texture("black and white", 3, 64).std(0).max() == 0
    assert texture("snow", 0, 64).mean() > 0.8


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), style=st.sampled_from(STYLES), variant=st.integers(0, VARIANTS - 1))
def test_restyling_changes_the_mask_and_nothing_else(seed, style, variant):
    made = scene(seed)
    ground = made.masks[made.layout.ground]
    changed = restyle(made.image, ground, style, variant)
    check_image(changed)
    assert torch.equal(changed[:, ground == 0], made.image[:, ground == 0])
    assert (changed - made.image)[:, ground > 0].abs().mean() > 0.01


def test_shadows_of_the_covered_concept_stay():
    image = torch.full((3, 64, 64), 0.6)
    image[:, :, 32:] = 0.3
    mask, grey = torch.ones(64, 64), torch.full((3, 64, 64), 0.5)
    kept = paste_texture(image, mask, grey, keep_shading=1.0)
    inside = slice(8, 56)
    assert kept[0, inside, 8:20].mean() / kept[0, inside, 44:56].mean() == pytest.approx(2, rel=0.05)
    bare = paste_texture(image, mask, grey, keep_shading=0.0)
    assert torch.allclose(bare[:, 8:56, 8:56], torch.tensor(0.5))


def test_shading_is_relative_and_ignores_what_lies_outside_the_mask():
    image = torch.full((3, 64, 64), 0.4)
    mask = torch.zeros(64, 64)
    mask[32:] = 1
    image[:, :32] = 1.0
    assert torch.allclose(shading(image, mask), torch.ones(64, 64), atol=1e-5)


def test_the_edge_of_a_mask_is_soft_inside_and_zero_outside():
    mask = torch.zeros(512, 512)
    mask[10:40, 10:40] = 1
    soft = paste_texture(torch.zeros(3, 512, 512), mask, torch.ones(3, 9, 9), keep_shading=0)[0]
    assert not soft[mask == 0].any() and soft[25, 25] == 1
    assert 0 < soft[25, 10] < soft[25, 12] < 1


def test_unknown_styles_variants_and_ill_fitting_masks_are_refused():
    image = torch.rand(3, 20, 20)
    with pytest.raises(KeyError, match="style 'lava'.* snow"):
        texture("lava")
    with pytest.raises(ValueError, match="'snow' has no variant 9"):
        texture("snow", 9)
    with pytest.raises(ValueError, match="does not fit"):
        restyle(image, torch.ones(10, 12), "snow")
    with pytest.raises(ValueError, match="pixels from"):
        restyle(image * 255, torch.ones(20, 20), "snow")
