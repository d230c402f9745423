import copy
import importlib.resources
import re

import numpy as np
import pytest
import torch
from conftest import needs_photos
from torch import nn

from edittools.classifiers import Classifier, fingerprint
from edittools.metrics import misclassified, predict
from edittools.models import data as models
from edittools.models.load import current_device, load_classifier
from edittools.scenarios import photos


def test_classifier_normalizes_images(tiny, photos32):
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        assert torch.allclose(tiny(photos32), tiny.model((photos32 - mean) / std), atol=1e-6)


def settings_of(classifier):
    mean_and_std = classifier.mean.flatten().tolist(), classifier.std.flatten().tolist()
    return classifier.classes, *mean_and_std, classifier.size, classifier.resize_to


@pytest.mark.parametrize("wrap", [lambda classifier: classifier, nn.DataParallel, torch.compile])
def test_classifier_of_classifier_keeps_settings(wrap):
    model = nn.Identity()
    inner = Classifier(model, ("ant", "bee"), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), 240, 272)
    outer = Classifier(wrap(inner), ("Ameise", "Biene"))
    assert outer.model is model
    assert settings_of(outer) == (("Ameise", "Biene"), *settings_of(inner)[1:])
    assert settings_of(Classifier(wrap(inner))) == settings_of(inner)


def test_classifier_of_classifier_with_settings():
    inner = Classifier(nn.Identity(), ("ant", "bee"), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), 240, 272)
    outer = Classifier(inner, mean=(0, 0, 0), size=120)
    assert outer.mean.flatten().tolist() == [0, 0, 0]
    assert torch.equal(outer.std, inner.std)
    assert (outer.size, outer.resize_to) == (120, 136)
    assert Classifier(inner, resize_to=300).resize_to == 300
    assert Classifier(inner, resize_to=300).size == 240


def test_classifier_of_classifier_logits(tiny, photos32):
    inner = Classifier(tiny.model, tiny.classes, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 32)
    assert torch.equal(Classifier(inner, tiny.classes)(photos32), inner(photos32))


def test_classifier_of_classifier_with_wrong_names():
    inner = Classifier(nn.Identity(), ("ant", "bee"))
    with pytest.raises(ValueError, match="3 .* 2 "):
        Classifier(inner, ("ant", "bee", "cat"))
    with pytest.raises(ValueError, match="class names"):
        Classifier(nn.Identity())


@pytest.mark.parametrize(
    ("images", "pattern"),
    [
        (torch.zeros(3, 8, 8), r"\(3, 8, 8\).*image\[None\]"),
        (torch.zeros(2, 1, 8, 8), r"\(2, 1, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "torch.uint8"),
    ],
)
def test_classifier_call_with_bad_images(tiny, images, pattern):
    with pytest.raises(ValueError, match=pattern):
        tiny(images)


def test_index_of_unknown_class():
    with pytest.raises(KeyError, match=r"'snow'.* 2.*'snowplow'"):
        Classifier(nn.Identity(), ["snowplow", "ski"]).index("snow")


def test_load_classifier_on_device(monkeypatch):
    assert load_classifier("mini_vgg").device.type == "cpu"
    monkeypatch.setenv("EDITTOOLS_DEVICE", "meta")
    assert load_classifier("mini_vgg").device.type == "meta"
    assert load_classifier("mini_vgg", "cpu").device.type == "cpu"
    monkeypatch.setenv("EDITTOOLS_DEVICE", "")
    assert current_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu cpu"])
def test_load_classifier_on_unknown_device(name, monkeypatch):
    monkeypatch.setenv("EDITTOOLS_DEVICE", name)
    with pytest.raises(ValueError, match=f"EDITTOOLS_DEVICE='{name}'"):
        load_classifier("mini_vgg")


@pytest.mark.parametrize(
    ("name", "size"), [("efficientnet_lite0", 224), ("efficientnet_lite1", 240), ("efficientnet_lite2", 260)]
)
def test_load_classifier_of_efficientnets(name, size):
    classifier = load_classifier(name)
    assert classifier.size == size and len(classifier.classes) == 1000
    assert classifier.classes[803] == "snowplow" and not classifier.training
    with torch.no_grad():
        assert classifier(torch.full((1, 3, size, size), 0.5)).isfinite().all()


@needs_photos
@pytest.mark.parametrize(("name", "lowest_accuracy"), [("efficientnet_lite0", 0.75), ("squeezenet1_1", 0.6)])
def test_accuracy_on_sample_photos(name, lowest_accuracy):
    """Photos, class order, normalization and weights fit: 88.9% and 63.8% on 567 photos; chance is 0.1%."""
    classifier = load_classifier(name)
    names = photos.available("imagenet-sample/")[::8]
    order = sorted(name for name in photos.registry() if name.startswith("imagenet-sample/"))
    images = torch.stack([photos.load_image(photos.photo(name), 224, 256) for name in names])
    wrong = misclassified(predict(classifier, images), torch.tensor([order.index(name) for name in names]))
    assert 1 - wrong.float().mean() >= lowest_accuracy


@needs_photos
def test_squeezenet_weights():
    convolutions = [m for m in load_classifier("squeezenet1_1").model.modules() if isinstance(m, nn.Conv2d)]
    for i, convolution in enumerate(convolutions):
        for kind in ("weight", "bias"):
            values = np.load(photos.photo(f"weights/squeezenet1_1/conv{i:02}_{kind}.npy"))
            assert np.array_equal(getattr(convolution, kind).detach(), values)
    assert len(convolutions) == 26 and not [n for n in photos.available("weights/squeezenet1_1/") if "conv26" in n]


def _no_network(*args, **kwargs):
    raise OSError("no network")


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "resnet18", "resnet50"])
def test_load_classifier_without_network(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", _no_network)
    with pytest.raises(FileNotFoundError, match=rf"'{name}' .*https://.*/{name}-"):
        load_classifier(name)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_load_classifier_of_places365(tmp_path, monkeypatch):
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"places2.csail.mit.edu.*weights="):
        load_classifier("resnet18_places365")
    from torchvision.models import resnet18

    state = {f"module.{key}": value for key, value in resnet18(num_classes=365).state_dict().items()}
    torch.save({"state_dict": state, "arch": "resnet18"}, tmp_path / "places.pth.tar")
    classifier = load_classifier("resnet18_places365", weights=tmp_path / "places.pth.tar")
    assert len(classifier.classes) == 365
    assert torch.equal(classifier.model.fc.bias, state["module.fc.bias"])
    torch.save({"weights": state}, tmp_path / "places.pth.tar")
    with pytest.raises(ValueError, match=r"places.pth.tar'.*'resnet18_places365'"):
        load_classifier("resnet18_places365", weights=tmp_path / "places.pth.tar")


def test_data_folder_in_checkout_and_when_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.resources, "files", lambda name: tmp_path / name)
    assert models._data_folder() == tmp_path / "data"
    (tmp_path / "edittools" / "data").mkdir(parents=True)
    assert models._data_folder() == tmp_path / "edittools" / "data"


@pytest.mark.parametrize(
    "load", [lambda: load_classifier("mini_vgg"), lambda: load_classifier("mini_clip"), photos.registry.__wrapped__]
)
def test_missing_data_file(load, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "DATA", tmp_path / "data")
    with pytest.raises(FileNotFoundError, match=re.escape(f"'{tmp_path}/data/")):
        load()


def test_load_classifier_memory_format():
    model = load_classifier("mini_vgg", "cpu").model
    weight = model.features[3].weight
    contiguous = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert fingerprint(model) == fingerprint(contiguous)
