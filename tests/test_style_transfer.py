"""Style transfer: what is optimised, and that only the concept changes."""

import pytest
import torch
import torch.nn.functional as F
from conftest import needs_photos

from edittools.world import style_transfer
from edittools.world.style_transfer import gram, transfer
from edittools.world.textures import texture
from edittools.zoo.imagenet import squeezenet_features

FILTERS = [torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(side)) / side for side in (3, 7)]


def few(images):
    """The rectified answers of a few random filters at two scales."""
    return [F.relu(F.conv2d(images - 0.5, one, padding=one.shape[-1] // 2)) for one in FILTERS]


@pytest.fixture
def picture():
    image = torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.4
    mask = torch.zeros(48, 48)
    mask[20:] = 1
    return image, mask


def far(features, image, mask, style):
    """How far the Gram matrices at the mask are from those of the style, relative to these."""
    total = 0.0
    for maps, goal in zip(features(image[None]), features(style[None]), strict=True):
        inside = F.adaptive_avg_pool2d(mask[None, None], maps.shape[2:])[:, 0]
        wanted = gram(goal, torch.ones_like(goal[:, 0]))
        total += float((gram(maps, inside) - wanted).square().sum() / wanted.square().sum())
    return total


def test_the_gram_matrix_is_the_mean_of_outer_products_at_the_mask():
    maps = torch.rand(1, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 6, 6)
    mask[0, 2, 3] = mask[0, 5, 5] = 1
    columns = [maps[0, :, 2, 3], maps[0, :, 5, 5]]
    torch.testing.assert_close(gram(maps, mask)[0], sum(torch.outer(c, c) for c in columns) / 2)


@needs_photos
def test_squeezenets_features_are_the_outputs_of_four_of_its_layers():
    found = squeezenet_features()(torch.rand(1, 3, 64, 64))
    assert [tuple(maps.shape[1:]) for maps in found] == [(64, 31, 31), (128, 15, 15), (256, 7, 7), (256, 7, 7)]


@pytest.mark.parametrize("features", ["random", pytest.param("squeezenet", marks=needs_photos)])
def test_the_concept_comes_near_the_style_and_everything_else_stays(picture, features):
    (image, mask), style = picture, texture("graffiti", 0, 48)
    features = few if features == "random" else squeezenet_features()
    found = transfer(image, mask, style, features, steps=8)
    assert torch.equal(found[:, :18], image[:, :18])
    assert found.min() >= 0 and found.max() <= 1 and found.shape == image.shape
    assert far(features, found, mask, style) < 0.5 * far(features, image, mask, style)


def test_light_and_shadow_stay_as_far_as_they_weigh(picture, monkeypatch):
    image, mask = picture
    image[:, :, :24] *= 0.4
    light = style_transfer._light(image[None], mask[None])

    def moved(weight):
        monkeypatch.setattr(style_transfer, "CONTENT", weight)
        found = transfer(image, mask, texture("snow", 0, 48), few, steps=40)
        return (style_transfer._light(found[None], mask[None]) - light).square().mean().item()

    loose, kept = moved(0), moved(5)
    assert kept < 0.7 * loose


def test_a_mask_that_does_not_fit_is_refused(picture):
    image, mask = picture
    with pytest.raises(ValueError, match=r"mask of shape \(28, 48\) does not fit"):
        transfer(image, mask[20:], texture("snow"), few)
