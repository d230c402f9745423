"""Style transfer: what is optimised, that only the concept changes, and that a set is made once."""

import pytest
import torch
import torch.nn.functional as F
from conftest import needs_photos
from PIL import Image
from torch import nn

from edittools.images import LabelledImages
from edittools.world import style_transfer
from edittools.world.network_features import NetworkFeatures
from edittools.world.style_transfer import RandomFilters, VGG19Features, gram, style_images, stylised, transfer
from edittools.world.textures import texture
from edittools.zoo.style_features import squeezenet_features

FEW = RandomFilters(filters=8, scales=(3, 7))


@pytest.fixture
def picture():
    image = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.4
    mask = torch.zeros(2, 48, 48)
    mask[:, 20:] = 1
    return image, mask


def _distance(images, masks, style):
    return sum(
        style_transfer._distance(gram(found, masks), gram(wanted)).mean().item()
        for found, wanted in zip(FEW(images), FEW(style[None]), strict=True)
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
    found = transfer(images, masks, style, FEW, steps=8)
    assert torch.equal(found[:, :, :20], images[:, :, :20])
    assert found.min() >= 0 and found.max() <= 1 and found.shape == images.shape
    assert _distance(found, masks, style) < 0.5 * _distance(images, masks, style)


def test_light_and_shadow_stay_as_far_as_they_weigh(picture):
    images, masks = picture
    images[:, :, :, :24] *= 0.4
    light = style_transfer._light(images, masks)
    found = [transfer(images, masks, texture("snow", 0, 48), FEW, steps=40, content=weight) for weight in (0, 5)]
    loose, kept = ((style_transfer._light(x, masks) - light).square().mean().item() for x in found)
    assert kept < 0.7 * loose


def test_vgg_features_are_five_maps_of_falling_size():
    sizes = [tuple(maps.shape[1:]) for maps in VGG19Features(weights=False)(torch.rand(1, 3, 32, 32))]
    assert sizes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]


def test_without_weights_on_this_machine_the_filters_are_random(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert isinstance(style_transfer.default_features(), RandomFilters)


def test_a_set_is_made_once(picture, tmp_path, monkeypatch):
    images, masks = picture
    data = LabelledImages(images, torch.tensor([0, 1]), ("a", "b"))
    made, real = [], style_transfer.transfer
    monkeypatch.setattr(style_transfer, "transfer", lambda *a, **k: made.append(1) or real(*a, **k))
    settings = {"features": FEW, "steps": 2, "cache": tmp_path}
    first = stylised(data, masks, texture("snow", 0, 48), **settings)
    again = stylised(data, masks, texture("snow", 0, 48), **settings)
    assert torch.equal(first.images, again.images) and made == [1]
    stylised(data, masks, texture("snow", 1, 48), **settings)
    assert made == [1, 1]


def test_features_of_other_layers_make_a_set_of_their_own_and_plain_functions_none(picture, tiny, tmp_path):
    images, masks = picture
    data = LabelledImages(images, torch.tensor([0, 1]), ("a", "b"))
    settings = {"steps": 2, "cache": tmp_path}

    def made(features):
        return stylised(data, masks, texture("snow", 0, 48), features, **settings).images

    early, late = (made(NetworkFeatures(tiny, [layer])) for layer in ("stem", "conv2"))
    assert not torch.equal(early, late)
    stored = len(list(tmp_path.rglob("*.safetensors")))
    assert stored == 2 and not torch.equal(made(lambda x: [x]), made(lambda x: [x**2]))
    assert len(list(tmp_path.rglob("*.safetensors"))) == stored


def test_masks_and_styles_that_do_not_fit_are_refused(picture):
    images, masks = picture
    with pytest.raises(ValueError, match=r"masks \(2, 28, 48\): expected \(N, 3, H, W\), \(N, H, W\)"):
        transfer(images, masks[:, 20:], texture("snow"), FEW)
    with pytest.raises(ValueError, match="3 style pictures for 2 images: expected one, or one each"):
        transfer(images, masks, torch.rand(3, 3, 48, 48), FEW)


def test_style_pictures_come_from_files_folders_and_the_papers_sets(tmp_path):
    pictures = torch.rand(3, 3, 20, 20)
    torch.save({"imgs": pictures}, tmp_path / "set.pt")
    torch.testing.assert_close(style_images(tmp_path / "set.pt", 20), pictures)
    torch.save(pictures[0], tmp_path / "one.pt")
    with pytest.raises(ValueError, match=r"holds no tensor \(N, 3, H, W\)"):
        style_images(tmp_path / "one.pt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="no pictures in .*folder"):
        style_images(tmp_path / "folder")
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / "folder" / name)
    assert style_images(tmp_path / "folder", 16).shape == (2, 3, 16, 16)
    assert style_images(tmp_path / "folder" / "a.png", 16).shape == (1, 3, 16, 16)


def test_a_set_that_would_run_code_is_refused(tmp_path):
    torch.save({"imgs": print}, tmp_path / "bad.pt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        style_images(tmp_path / "bad.pt")


def test_the_features_of_a_network_are_the_outputs_of_its_layers(tiny):
    found = {}
    layers = [name for name, module in tiny.model.named_modules() if isinstance(module, nn.Conv2d)][:2]
    hooks = [
        tiny.model.get_submodule(name).register_forward_hook(
            lambda m, i, o, name=name: found.update({name: o.detach().clone()})
        )
        for name in layers
    ]
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    tiny(images)
    for hook in hooks:
        hook.remove()
    maps = NetworkFeatures(tiny, layers)(images)
    assert len(maps) == 2
    for one, name in zip(maps, layers, strict=True):
        torch.testing.assert_close(one, found[name])
    maps[0].sum().backward()
    assert images.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="features.99"):
        NetworkFeatures(tiny, ["features.99"])


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
