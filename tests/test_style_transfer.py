"""Style transfer: what is optimised, and that only the concept changes."""

import pytest
import torch
import torch.nn.functional as F
from conftest import needs_photos

from edittools.world import style_transfer
from edittools.world.style_transfer import gram, style_images, transfer
from edittools.world.textures import texture
from edittools.zoo.imagenet import squeezenet_features

FILTERS = [torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(side)) / side for side in (3, 7)]


def few(images):
    """The rectified answers of a few random filters at two scales."""
    return [F.relu(F.conv2d(images - 0.5, one, padding=one.shape[-1] // 2)) for one in FILTERS]


@pytest.fixture
def picture():
    image = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.4
    mask = torch.zeros(2, 48, 48)
    mask[:, 20:] = 1
    return image, mask


def _distance(images, masks, style):
    return sum(
        style_transfer._distance(gram(found, masks), gram(wanted)).mean().item()
        for found, wanted in zip(few(images), few(style[None]), strict=True)
    )


def test_the_gram_matrix_is_the_mean_of_outer_products_at_the_mask():
    maps = torch.rand(1, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 6, 6)
    mask[0, 2, 3] = mask[0, 5, 5] = 1
    columns = [maps[0, :, 2, 3], maps[0, :, 5, 5]]
    torch.testing.assert_close(gram(maps, mask)[0], sum(torch.outer(c, c) for c in columns) / 2)


def test_the_concept_comes_near_the_style_and_everything_else_stays(picture):
    images, masks = picture
    style = texture("graffiti", 0, 48)
    found = transfer(images, masks, style, few, steps=8)
    assert torch.equal(found[:, :, :20], images[:, :, :20])
    assert found.min() >= 0 and found.max() <= 1 and found.shape == images.shape
    assert _distance(found, masks, style) < 0.5 * _distance(images, masks, style)


def test_light_and_shadow_stay_as_far_as_they_weigh(picture, monkeypatch):
    images, masks = picture
    images[:, :, :, :24] *= 0.4
    light = style_transfer._light(images, masks)

    def moved(weight):
        monkeypatch.setattr(style_transfer, "CONTENT", weight)
        found = transfer(images, masks, texture("snow", 0, 48), few, steps=40)
        return (style_transfer._light(found, masks) - light).square().mean().item()

    loose, kept = moved(0), moved(5)
    assert kept < 0.7 * loose


def test_masks_and_styles_that_do_not_fit_are_refused(picture):
    images, masks = picture
    with pytest.raises(ValueError, match=r"masks \(2, 28, 48\): expected \(N, 3, H, W\), \(N, H, W\)"):
        transfer(images, masks[:, 20:], texture("snow"), few)
    with pytest.raises(ValueError, match="3 style pictures for 2 images: expected one, or one each"):
        transfer(images, masks, torch.rand(3, 3, 48, 48), few)


def test_style_pictures_are_read_from_the_papers_sets(tmp_path):
    pictures = torch.rand(3, 3, 20, 20)
    torch.save({"imgs": pictures}, tmp_path / "set.pt")
    torch.testing.assert_close(style_images(tmp_path / "set.pt", 20), pictures)
    torch.save(pictures[0], tmp_path / "one.pt")
    with pytest.raises(ValueError, match=r"holds no tensor \(N, 3, H, W\)"):
        style_images(tmp_path / "one.pt")


def test_a_set_that_would_run_code_is_refused(tmp_path):
    torch.save({"imgs": print}, tmp_path / "bad.pt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        style_images(tmp_path / "bad.pt")


@needs_photos
def test_squeezenet_carries_a_style_to_the_mask(picture):
    images, masks = picture
    style, features = texture("graffiti", 0, 48), squeezenet_features()

    def far(one):
        inside = [F.adaptive_avg_pool2d(masks[:, None], maps.shape[2:])[:, 0] for maps in features(one)]
        pairs = zip(features(one), inside, features(style[None]), strict=True)
        return sum(float(style_transfer._distance(gram(a, m), gram(b)).mean()) for a, m, b in pairs)

    found = transfer(images, masks, style, features, steps=8)
    assert torch.equal(found[:, :, :18], images[:, :, :18])
    assert far(found) < 0.5 * far(images)
