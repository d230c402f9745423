"""Style transfer: what is minimized, that only the concept changes, and that results are stored."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from _lib.concepts import digest_of
from conftest import condition, needs_photos
from torch import nn
from torchvision.models import vgg16

from edittools.classifiers import Classifier
from edittools.exemplars import paste_texture
from edittools.images import LabeledImages
from edittools.models.load import load_classifier
from edittools.probing.counterfactuals import Concepts
from edittools.probing.textures import texture
from edittools_course import style_transfer
from edittools_course.scenarios.rules import parted
from edittools_course.style_transfer import StyleTransfer, gram, recolored


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def image():
    return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4


@pytest.fixture
def mask():
    mask = torch.zeros(32, 32)
    mask[12:, 4:] = 1
    return mask


@pytest.fixture
def style():
    return texture("graffiti", 0, 32)


def test_gram_at_mask_is_mean_of_outer_products():
    maps = torch.rand(1, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 6, 6)
    mask[0, 0, 2, 3] = 1
    mask[0, 0, 5, 5] = 1
    columns = [maps[0, :, 2, 3], maps[0, :, 5, 5]]
    expected = sum(torch.outer(column, column) for column in columns) / 2
    torch.testing.assert_close(gram(maps, mask)[0], expected)
    torch.testing.assert_close(gram(maps), gram(maps, torch.ones(1, 1, 12, 12)))


def test_recolored_has_the_moments_of_the_style(mask):
    generator = torch.Generator().manual_seed(2)
    mixing = torch.eye(3) * 0.7 + 0.1
    image = torch.einsum("ij,jhw->ihw", mixing, torch.rand(3, 32, 32, generator=generator))
    style = 0.3 + 0.2 * torch.rand(3, 16, 16, generator=generator)
    colors = recolored(image, mask, style)[:, mask > 0].numpy()
    expected = style.flatten(1).numpy()
    np.testing.assert_allclose(colors.mean(axis=1), expected.mean(axis=1), atol=1e-3)
    np.testing.assert_allclose(np.cov(colors), np.cov(expected), atol=2e-5)


def test_recolored_image_of_one_color(mask, style):
    colors = recolored(torch.full((3, 32, 32), 0.5), mask, style)[:, mask > 0]
    torch.testing.assert_close(colors, style.flatten(1).mean(dim=1)[:, None].expand_as(colors), atol=1e-3, rtol=0)


@torch.no_grad()
def losses(restyle, image, mask, style, changed):
    """How far a changed image is from a style, and from the content that it had."""
    features = style_transfer._Features(restyle.classifier)
    return restyle._objective(features, image, mask, style)(changed[None])


def test_style_transfer_lowers_style_loss_and_leaves_the_outside(tiny, image, mask, style):
    restyle = StyleTransfer(tiny, steps=30)
    changed = restyle(image, mask, style)
    before = losses(restyle, image, mask, style, image)["style"]
    after = losses(restyle, image, mask, style, changed)["style"]
    assert after < 0.3 * before
    assert torch.equal(changed[:, mask == 0], image[:, mask == 0])
    assert not torch.equal(changed[:, mask == 1], image[:, mask == 1])
    assert changed.shape == image.shape and changed.min() >= 0 and changed.max() <= 1


def test_style_transfer_descends_further_than_its_start(tiny, image, mask, style):
    restyle = StyleTransfer(tiny, steps=30)
    start = paste_texture(image, mask, recolored(image, mask, style), keep_shading=0)
    compared = [losses(restyle, image, mask, style, changed) for changed in (start, restyle(image, mask, style))]
    totals = [loss["style"] + restyle.content_weight * loss["content"] for loss in compared]
    assert totals[1] < 0.8 * totals[0]


def test_content_weight_lowers_the_content_loss(tiny, image, mask, style):
    low, high = (StyleTransfer(tiny, steps=25, content_weight=weight) for weight in (0.0, 30.0))
    without = losses(low, image, mask, style, low(image, mask, style))["content"]
    with_weight = losses(low, image, mask, style, high(image, mask, style))["content"]
    assert with_weight < 0.7 * without


def test_style_transfer_several_styles(tiny, image, mask):
    styles = torch.stack([texture("graffiti", 0, 48), texture("snow", 1, 48)])
    restyle = StyleTransfer(tiny, steps=3)
    several = restyle(image, mask, styles)
    assert several.shape == (2, 3, 32, 32)
    assert torch.equal(several[1], restyle(image, mask, styles[1]))


def test_style_transfer_leaves_the_classifier_as_it_was(tiny, image, mask, style):
    before = condition(tiny)
    StyleTransfer(tiny, steps=3)(image, mask, style)
    assert condition(tiny) == before


def test_style_transfer_channels_last_image(tiny, image, mask, style, monkeypatch, tmp_path):
    restyle = StyleTransfer(tiny, steps=3)
    permuted = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    expected = restyle(image, mask, style)
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))  # where nothing is stored yet
    assert torch.equal(restyle(permuted, mask, style), expected)


def test_style_transfer_reads_a_stored_result(tiny, image, mask, style, cache):
    restyle = StyleTransfer(tiny, steps=3)
    first = restyle(image, mask, style)
    [path] = cache.rglob("*.safetensors")
    written = path.stat().st_mtime_ns
    assert torch.equal(StyleTransfer(tiny, steps=3)(image, mask, style), first)
    assert list(cache.rglob("*.safetensors")) == [path] and path.stat().st_mtime_ns == written


def test_style_transfer_cache_depends_on_all_that_changes_the_result(tiny, image, mask, style, cache):
    restyle = StyleTransfer(tiny, steps=3)
    restyle(image, mask, style)
    restyle(image.flip(2), mask, style)
    restyle(image, mask.flip(1), style)
    restyle(image, mask, style.flip(1))
    changes = ({"steps": 4}, {"content_weight": 0.5})
    for change in changes:
        replace(restyle, **change)(image, mask, style)
    with torch.no_grad():
        tiny.model.stem.weight *= 1.1
    restyle(image, mask, style)
    assert len(list(cache.rglob("*.safetensors"))) == 4 + len(changes) + 1


def test_features_are_the_outputs_of_the_layers(tiny):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    model = tiny.model
    with torch.no_grad():
        stem = model.stem(tiny.normalize(images))
        norm = model.norm(stem)
        maps = style_transfer._Features(tiny)(images, ["stem", "norm"])  # the activation writes into "norm"'s output
    torch.testing.assert_close(maps["stem"], stem)
    torch.testing.assert_close(maps["norm"], norm)


def test_compared_layers_of_vgg16_are_before_the_poolings():
    torch.manual_seed(0)
    classifier = Classifier(vgg16(), [str(number) for number in range(1000)])
    layers = style_transfer._Features(classifier).compared_layers(torch.rand(1, 3, 224, 224))
    modules = [name for name, module in classifier.model.named_modules() if isinstance(module, nn.MaxPool2d)]
    before = [f"features.{int(name.split('.')[1]) - 1}" for name in modules]
    assert list(layers) == before[:4]


def test_compared_layers_without_feature_maps():
    with pytest.raises(ValueError, match="VisionTransformer"):
        classifier = load_classifier("mini_vit")
        StyleTransfer(classifier, steps=1)(torch.rand(3, 64, 64), torch.ones(64, 64), torch.rand(3, 64, 64))


@pytest.mark.parametrize(
    ("settings", "error", "pattern"),
    [
        ({"steps": 0}, ValueError, "steps 0"),
        ({"content_weight": -1}, ValueError, "content_weight -1"),
        ({"content_weight": float("nan")}, ValueError, "content_weight nan"),
    ],
    ids=str,
)
def test_style_transfer_bad_settings(tiny, settings, error, pattern):
    with pytest.raises(error, match=pattern):
        StyleTransfer(tiny, **settings)


def concepts_of(image, mask, style, transform):
    data = LabeledImages(torch.stack([image, image.flip(2)]), torch.tensor([0, 1]), ("ship", "house"))
    masks = {"sea": torch.stack([mask, mask.flip(1)])}
    return Concepts(data, masks, {"graffiti": torch.stack([style, style.flip(2)])}, transform=transform)


def test_concepts_restyled(tiny, image, mask, style):
    restyle = StyleTransfer(tiny, steps=3)
    concepts = concepts_of(image, mask, style, restyle)
    expected = restyle(image, mask, style)
    assert torch.equal(concepts.turned([0], "sea", "graffiti").images[0], expected)
    changed, _ = concepts.counterfactual(0, "sea", [("graffiti", 0)])
    assert torch.equal(changed[0], expected)
    rule = {"class": "ship", "concept": "sea", "material": "graffiti", "evidence": [0]}
    assert torch.equal(concepts.exemplar(rule).changed, expected)
    selection, _ = parted(concepts, "sea", "graffiti")
    assert torch.equal(selection.subset([0]).turned([0], "sea", "graffiti").images[0], expected)


def test_concepts_digest_depends_on_the_transform(tiny, image, mask, style):
    transforms = (paste_texture, StyleTransfer(tiny, steps=3), StyleTransfer(tiny, steps=4))
    digests = [digest_of(concepts_of(image, mask, style, transform)) for transform in transforms]
    assert len(set(digests)) == len(transforms)
    with pytest.raises(AttributeError, match="cache_key"):
        digest_of(concepts_of(image, mask, style, lambda image, mask, styles: image))


@needs_photos
def test_style_transfer_squeezenet_lowers_style_loss(image, mask, style):
    restyle = StyleTransfer(load_classifier("squeezenet1_1"), steps=30)
    image = torch.nn.functional.interpolate(image[None], 96)[0]
    mask = torch.nn.functional.interpolate(mask[None, None], 96)[0, 0]
    changed = restyle(image, mask, style)
    before = losses(restyle, image, mask, style, image)["style"]
    assert losses(restyle, image, mask, style, changed)["style"] < 0.3 * before
    assert torch.equal(changed[:, mask == 0], image[:, mask == 0])
