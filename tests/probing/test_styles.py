"""Textures and the restyling of concepts."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edittools._image_checks import check_image
from edittools.exemplars import paste_texture, shading
from edittools.probing.textures import STYLES, VARIANTS, restyle, texture
from edittools_course.miniworld.scenes import scene


@pytest.mark.parametrize("style", STYLES)
def test_texture_variants_are_reproducible_and_differ(style):
    variants = [texture(style, variant, 64) for variant in range(VARIANTS)]
    assert all(check_image(variant).shape == (3, 64, 64) for variant in variants)
    assert torch.equal(variants[2], texture(style, 2, 64))
    for first, second in itertools.combinations(variants, 2):
        assert (first - second).abs().mean() > 0.01


@pytest.mark.parametrize("style", STYLES)
def test_texture_looks_alike_at_every_size(style):
    small = texture(style, 1, 64)
    reduced = torch.nn.functional.avg_pool2d(texture(style, 1, 256), 4)
    assert (small.mean((1, 2)) - reduced.mean((1, 2))).abs().max() < 0.06
    blurred = torch.nn.functional.avg_pool2d(torch.stack([small, reduced]), 8).flatten(1)
    assert (blurred[0] - blurred[1]).abs().mean() < 0.08


def test_texture_colors_fit_the_style():
    assert texture("black and white", 3, 64).std(0).max() == 0
    assert texture("snow", 0, 64).mean() > 0.8


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), style=st.sampled_from(STYLES), variant=st.integers(0, VARIANTS - 1))
def test_restyle_changes_the_mask_only(seed, style, variant):
    rendered = scene(seed)
    ground = rendered.masks[rendered.layout.ground]
    changed = restyle(rendered.image, ground, style, variant)
    check_image(changed)
    assert torch.equal(changed[:, ground == 0], rendered.image[:, ground == 0])
    assert (changed - rendered.image)[:, ground > 0].abs().mean() > 0.01


def test_paste_texture_keep_shading_retains_shadows():
    image = torch.full((3, 64, 64), 0.6)
    image[:, :, 32:] = 0.3
    mask = torch.ones(64, 64)
    gray = torch.full((3, 64, 64), 0.5)
    shaded = paste_texture(image, mask, gray, keep_shading=1.0)
    inside = slice(8, 56)
    assert shaded[0, inside, 8:20].mean() / shaded[0, inside, 44:56].mean() == pytest.approx(2, rel=0.05)
    flat = paste_texture(image, mask, gray, keep_shading=0.0)
    assert torch.allclose(flat[:, 8:56, 8:56], torch.tensor(0.5))


def test_shading_is_relative_to_the_mask():
    image = torch.full((3, 64, 64), 0.4)
    mask = torch.zeros(64, 64)
    mask[32:] = 1
    image[:, :32] = 1.0
    assert torch.allclose(shading(image, mask), torch.ones(64, 64), atol=1e-5)


def test_paste_texture_edge_is_soft_inside_the_mask():
    mask = torch.zeros(512, 512)
    mask[10:40, 10:40] = 1
    soft = paste_texture(torch.zeros(3, 512, 512), mask, torch.ones(3, 9, 9), keep_shading=0)[0]
    assert not soft[mask == 0].any() and soft[25, 25] == 1
    assert 0 < soft[25, 10] < soft[25, 12] < 1
